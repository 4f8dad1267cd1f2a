# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# The stages of scripts/test: what each runs, in what order, how the results
# are counted. A stage is a function stage_NAME, "-" in its name as "_"; it may
# call skip. The first line of stage_NAME's help is in list_stages.

# shellcheck source=scripts/lib/checks.sh
. "$root/scripts/lib/checks.sh"
# shellcheck source=scripts/lib/cross.sh
. "$root/scripts/lib/cross.sh"

# shellcheck disable=SC2034  # read by scripts/test
ci_stages=(format shell fast install server parsers-asan tidy parity)
rotating_stages=(macos-cross aarch64-cross asan fuzz cuda tsan)
# shellcheck disable=SC2034  # read by scripts/test
all_stages=(
  format shell fast install server parsers-asan tidy-all parity long asan tsan fuzz
  macos-cross aarch64-cross cuda
)

list_stages() {
  cat <<'TEXT'
fast           build/release, warnings as errors in CI; tests that are not long
install        the packed tree runs elsewhere; a project that uses the package
server         HTTP from outside: hostile clients, policies, openai, schemathesis, solo equality, the page
long           tests with the label long
format         clang-format
shell          shellcheck
tidy           clang-tidy on files changed since the main branch
tidy-all       clang-tidy on every file
parsers-asan   checkpoints, configs, tokenizers, templates under ASan and UBSan
asan           the whole suite under ASan and UBSan
tsan           the whole suite under ThreadSanitizer
fuzz           each libFuzzer target for a while, from its seeds
parity         against tokenizers, jinja2 and mlx-lm, in an own environment
macos-cross    the program linked for macOS arm64
aarch64-cross  unit tests as Linux arm64 under qemu
cuda           the program linked for NVIDIA GPUs
TEXT
}

is_rotating() { [[ " ${rotating_stages[*]} " == *" $1 "* ]]; }
is_stage() { declare -F "stage_${1//-/_}" >/dev/null; }

# What does not run on every push takes its turn.
stage_of_the_day() {
  local day
  day="$((10#$(date -u +%j)))"
  echo "${rotating_stages[day % ${#rotating_stages[@]}]}"
}

passed=0
failed=0
skipped=0
summary=()

# CI is to end within half an hour: what takes its turn gets what is left of
# ci_seconds, which leaves some for the machine's moods.
ci_seconds=1620
push_seconds=2400

# The most seconds of a stage in CI, where what is not on every push gets less.
# At a terminal nothing is capped unless asked for.
seconds_of() {
  if [ -n "${QWEN3_MLX_STAGE_SECONDS:-}" ]; then
    echo "$QWEN3_MLX_STAGE_SECONDS"
  elif [ "${CI:-}" != true ]; then
    echo 0
  elif [ "$1" = tidy ]; then
    echo 240
  elif is_rotating "$1"; then
    local left=$((ci_seconds - SECONDS))
    [ "$left" -le 300 ] || left=300
    [ "$left" -ge 60 ] || left=60
    echo "$left"
  else
    echo "$push_seconds"
  fi
}

# A stage that cannot run here says why and is counted as skipped.
skip() {
  note "skipped: $*"
  return 77
}

run_stage() {
  local name="$1" log result=passed status=0 begun=$SECONDS counted failures
  log="$logs/stage-$name.log"
  mkdir -p "$logs"
  printf '\n'
  say "Stage $name"
  # The stage runs in a shell of its own, with a limit on its time. (macOS has
  # no timeout, and there nothing is capped.)
  local limit=() seconds
  seconds="$(seconds_of "$name")"
  [ "$seconds" -gt 0 ] && have timeout && limit=(timeout --kill-after=10 "$seconds")
  # shellcheck disable=SC2016  # expanded by that shell
  ${limit[@]+"${limit[@]}"} "$BASH" -c '
    set -euo pipefail
    . "$1/scripts/lib/setup.sh"
    . "$1/scripts/lib/stages.sh"
    "stage_${2//-/_}"
  ' stage "$root" "$name" 2>&1 | tee "$log" || status=${PIPESTATUS[0]}
  # ctest says "98% tests passed, 2 tests failed out of 100".
  counted="$(sed -n 's/.* tests failed out of \([0-9]*\).*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')"
  failures="$(sed -n 's/.*passed, \([0-9]*\) tests failed out of.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')"
  case $status in
    0) ;;
    77) result=skipped ;;
    124)
      # Of what takes its turn, part is better than nothing.
      result=FAILED
      [ "$seconds" -lt "$push_seconds" ] && result="capped at $seconds s"
      note "stopped after $seconds s"
      ;;
    *) result=FAILED ;;
  esac
  if [ "$result" = FAILED ] && [ "${CI:-}" = true ] && is_rotating "$name"; then
    # What takes its turn may meet what an earlier push did: it is reported, and
    # does not stop this one.
    note "FAILED; reported, and does not stop the push"
    result="FAILED, reported"
    passed=$((passed + counted - failures))
    skipped=$((skipped + 1))
  elif [ "$counted" -gt 0 ]; then
    passed=$((passed + counted - failures))
    failed=$((failed + failures))
    [ "$result" = FAILED ] && [ "$failures" = 0 ] && failed=$((failed + 1))
  elif [ "$result" = passed ]; then
    passed=$((passed + 1))
  elif [ "$result" = FAILED ]; then
    failed=$((failed + 1))
  else
    skipped=$((skipped + 1))
  fi
  summary+=("$(printf '%-14s %-16s %4d s' "$name" "$result" "$((SECONDS - begun))")")
}

report() {
  printf '\n'
  say "What ran, in $1 s:"
  printf '    %s\n' "${summary[@]}"
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [ "$failed" = 0 ]
}

# Output of failing tests only, and ctest's closing lines.
run_ctest() {
  local preset="$1"
  shift
  # grep fails where no line is left.
  ctest --test-dir "$root/build/$preset" -j "$(num_jobs)" --output-on-failure "$@" |
    { grep -vE '^ *Start +[0-9]+:|^ *[0-9]+/[0-9]+ Test .* Passed |^Test project|^Internal ctest|^$' || true; }
}

stage_fast() {
  ensure_default_model
  build_preset release
  run_ctest release -LE 'long|install' --timeout 300
}

stage_install() {
  ensure_default_model
  build_preset release
  run_ctest release -L install -LE long --timeout 600
}

# From the program that the stage fast has built.
stage_server() {
  ensure_default_model
  build_preset release
  grep -qs QWEN3_MLX_MARKDOWN_IT "$root/build/release/CMakeCache.txt" ||
    skip "built without Boost"
  "$(find_python)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    skip "schemathesis needs Python 3.11"
  make_venv .venv-server "$root/scripts/requirements-server.txt"
  local python="$root/.venv-server/bin/python" tiny="$root/build/release/tiny-chat"
  "$root/build/release/tests/testing/write_tiny_chat_model" "$tiny"
  "$python" "$root/scripts/server/hostile.py" --model "$tiny"
  "$python" "$root/scripts/server/policies.py" --model "$tiny"
  "$python" "$root/scripts/server/openai_client.py"
  "$python" "$root/scripts/server/concurrency.py" --requests 64 --longest 200
  "$python" "$root/scripts/server/concurrency.py" --requests 16 --longest 200 --kv-bits 8
  "$python" "$root/scripts/server/schema.py" --model "$tiny" --examples 100
  if ensure_browser; then
    "$python" "$root/scripts/server/page.py"
  else
    note "no chromium with its driver: the chat page was not tried"
  fi
}

stage_long() {
  ensure_default_model
  build_preset release
  run_ctest release -L long
}

stage_parsers_asan() {
  build_preset parsers-asan
  run_ctest parsers-asan -LE long
  # The count of malformed checkpoints is part of what is shown.
  local malformed
  malformed="$(ctest --test-dir "$root/build/parsers-asan" -N -R 'Malformed' |
    sed -n 's/^Total Tests: //p')"
  note "$malformed malformed checkpoints, each refused with a typed error"
  [ "$malformed" -ge 60 ] || die "fewer than 60 malformed checkpoints"
}

# test_components PRESET: builds and runs one test program after the other, so
# that a limit on time leaves what ran until then. Those that parse outside
# bytes come first. (tests/cli starts the program, which qemu would not run.)
test_components() {
  local preset="$1" component status=0
  build_preset "$preset" --target help >/dev/null
  for component in formats weights kernels base tokenizer chat sampling nn \
    generate models engine convert server api; do
    [ -d "$root/build/$preset/tests/$component" ] || continue
    grep -q qwen3_mlx_add_tests "$root/tests/$component/CMakeLists.txt" || continue
    cmake --build "$root/build/$preset" -j "$(num_jobs)" \
      --target "tests/$component/all" | ninja_progress
    note "$component"
    run_ctest "$preset/tests/$component" -LE 'long|install|process' \
      --timeout 600 --no-tests=ignore || status=1
  done
  return "$status"
}

stage_asan() {
  ensure_default_model
  test_components asan
}

stage_tsan() {
  ensure_default_model
  export TSAN_OPTIONS="suppressions=$root/tests/tsan_suppressions.txt"
  test_components tsan
}

stage_fuzz() { run_fuzzers; }
stage_format() { check_format; }
stage_shell() { check_shell; }
stage_tidy() { check_tidy changed; }
stage_tidy_all() { check_tidy all; }
stage_parity() { run_parity; }
stage_macos_cross() { build_macos; }
stage_aarch64_cross() { test_aarch64; }

# Compiled and linked against the CUDA wheel; running it takes a GPU.
stage_cuda() {
  [ ! -x /usr/local/cuda/bin/nvcc ] || export PATH="/usr/local/cuda/bin:$PATH"
  have nvcc || skip "no nvcc"
  make_venv .venv-cuda "$root/scripts/requirements-mlx-cuda.txt"
  # One generation of GPUs at a time, by rotation: all three take long.
  local architectures=(80 90a 120) day
  day="$((10#$(date -u +%j)))"
  build_preset cuda --target qwen3-mlx -- \
    "-DQWEN3_MLX_CUDA_ARCHITECTURES=${architectures[day / ${#rotating_stages[@]} % 3]}" \
    "-DMLX_DIR=$(wheel_cmake_dir "$root/.venv-cuda/bin/python")"
  note "linked, not run: $(du -k "$root/build/cuda/src/cli/qwen3-mlx" | cut -f 1) kB"
}
