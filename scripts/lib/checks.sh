# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# Checks that need no test program: formatting, shellcheck, clang-tidy, the
# fuzzers, and the scripts that compare with reference implementations.

# ensure_tool NAME: installs the package of the same name where apt can.
ensure_tool() {
  if ! have "$1" && have apt-get; then
    ensure_apt "$1"
  fi
  have "$1" || skip "no $1"
}

cpp_files() {
  git -C "$root" ls-files '*.h' '*.cpp' '*.cu' '*.cuh'
}

check_format() {
  ensure_tool clang-format
  clang-format --version
  (cd "$root" && cpp_files | xargs clang-format --dry-run --Werror)
}

check_shell() {
  ensure_tool shellcheck
  local file files=(.ci/run)
  while read -r file; do
    if [[ "$file" == *.sh ]] || head -n 1 "$root/$file" | grep -aqE '^#!.*\b(ba)?sh$'; then
      files+=("$file")
    fi
  done < <(git -C "$root" ls-files scripts tests)
  note "${#files[@]} files"
  (cd "$root" && shellcheck -x "${files[@]}")
}

# Files that differ from where the branch left main; on main itself, those of
# the last commits. A shallow clone may have neither: then all that it shows.
changed_files() {
  local base="" count
  if git -C "$root" rev-parse -q --verify origin/main >/dev/null &&
    [ "$(git -C "$root" rev-parse origin/main)" != "$(git -C "$root" rev-parse HEAD)" ]; then
    base="$(git -C "$root" merge-base origin/main HEAD 2>/dev/null || true)"
  fi
  if [ -z "$base" ]; then
    count="$(git -C "$root" rev-list --count --first-parent HEAD)"
    base="HEAD~$((count > 10 ? 10 : count - 1))"
  fi
  git -C "$root" diff --name-only --diff-filter=d "$base" HEAD -- '*.cpp'
}

# check_tidy changed|all. The compile commands are those of build/release. In
# CI the number of files is bounded, since a file that includes MLX takes 10 s.
check_tidy() {
  ensure_tool clang-tidy
  local file files limit="${QWEN3_MLX_TIDY_FILES:-12}"
  build_preset release --target help >/dev/null
  if [ "$1" = all ]; then
    files="$(git -C "$root" ls-files 'src/*.cpp' 'examples/*.cpp' 'tests/*.cpp')"
    limit=100000
  else
    files="$(changed_files | grep -E '^(src|examples)/' || true)"
  fi
  # Only what this machine compiles is in the compile commands.
  files="$(for file in $files; do
    if grep -qF "\"$root/$file\"" "$root/build/release/compile_commands.json"; then
      echo "$file"
    fi
  done | shuf -n "$limit")"
  [ -n "$files" ] || skip "no changed files"
  note "$(echo "$files" | wc -l) files"
  # GCC's precompiled header is none for clang, nor are all of its warnings and
  # optimizations.
  python3 - "$root/build/release/compile_commands.json" "$root/build/tidy" <<'PYTHON'
import json, pathlib, re, sys
commands = json.loads(pathlib.Path(sys.argv[1]).read_text())
for entry in commands:
    command = re.sub(r" -Winvalid-pch -include \S+| -Werror\b| -fno-tree-\S+", "", entry["command"])
    entry["command"] = command + " -Wno-unknown-warning-option"
folder = pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
(folder / "compile_commands.json").write_text(json.dumps(commands))
PYTHON
  (cd "$root" && echo "$files" |
    xargs -P "$(num_jobs)" -n 1 clang-tidy -p build/tidy --quiet 2>"$logs/tidy.log")
}

# Each fuzzer starts from its seeds; what it finds stays in .cache/fuzz.
run_fuzzers() {
  have clang++ || { have apt-get && ensure_apt clang; } || skip "no clang"
  build_preset fuzz
  local program name work made seconds="${QWEN3_MLX_FUZZ_SECONDS:-60}"
  local found=0
  python3 "$root/scripts/make_fuzz_seeds.py" "$root/.cache/fuzz/seeds"
  for program in "$root"/build/fuzz/tests/fuzz/*_fuzz; do
    [ -x "$program" ] || continue
    found=1
    name="$(basename "$program" _fuzz)"
    work="$root/.cache/fuzz/$name"
    mkdir -p "$work/corpus"
    note "$name for $seconds s"
    seeds=("$work/corpus")
    for made in "$root/tests/fuzz/seeds/$name" "$root/.cache/fuzz/seeds/$name"; do
      [ -d "$made" ] && seeds+=("$made")
    done
    if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
      -print_final_stats=1 -artifact_prefix="$work/" "${seeds[@]}" \
      >"$logs/fuzz-$name.log" 2>&1; then
      tail -n 40 "$logs/fuzz-$name.log"
      die "$name: a finding, its input is in $work"
    fi
    grep -E 'number_of_executed_units|new_units_added' "$logs/fuzz-$name.log" | sed 's/^/    /'
  done
  [ "$found" = 1 ] || skip "no fuzzers"
}

# The comparisons with other implementations, each a script and its options.
# With a list instead of a pattern, a script that is lost is noticed.
parity_scripts=(
  "make_qwen_tokenizers.py"
  "parity_tokenizer.py --program build/release/tests/tokenizer/tokenizer_pipe"
  "parity_templates.py --program build/release/tests/chat/template_batch"
  "fuzz_templates.py --program build/release/tests/chat/template_batch --count 3000"
  "parity_mlx_lm.py"
  "parity_gguf.py"
  "parity_convert.py"
  "parity_import.py"
  "parity_to_gguf.py"
  "hub/test_pull.py --program build/release/src/cli/qwen3-mlx"
)

run_parity() {
  make_venv .venv-oracle "$root/scripts/requirements-oracle.txt"
  ensure_default_model
  build_preset release
  local line failures=0
  for line in "${parity_scripts[@]}"; do
    say "$line"
    # shellcheck disable=SC2086  # the options are words
    if ! (cd "$root" && nice .venv-oracle/bin/python scripts/$line); then
      failures=$((failures + 1))
      printf 'FAILED: %s\n' "$line"
    fi
  done
  printf '%d of %d scripts passed\n' \
    "$((${#parity_scripts[@]} - failures))" "${#parity_scripts[@]}"
  [ "$failures" = 0 ]
}
