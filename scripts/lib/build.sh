# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# Configuring and building a preset with short progress.

# Ninja draws one moving line on a terminal. In a log, one step in twenty is
# shown, and all that compilers have to say.
ninja_progress() {
  awk '/^\[[0-9]+\/[0-9]+\]/ { if (++steps % 20 == 0) print "    " $1; fflush(); next }
       { print; fflush() }'
}

# build_preset PRESET [--target NAME] [-- cmake option...]
build_preset() {
  local preset="$1" target=() options=()
  shift
  if [ "${1:-}" = --target ]; then
    target=(--target "$2")
    shift 2
  fi
  if [ "${1:-}" = -- ]; then
    shift
    options=("$@")
  fi
  # The demo may have been here before, which does without.
  [ "$preset" != release ] || options=(-DQWEN3_MLX_BUILD_TESTS=ON ${options[@]+"${options[@]}"})
  # For users, and with compilers that are newer each year, warnings stay so.
  if [ "${CI:-}" = true ] && [[ "$preset" != macos-cross && "$preset" != fuzz ]]; then
    options+=(-DQWEN3_MLX_WERROR=ON)
  fi
  say "Configuring build/$preset"
  (cd "$root" && run_logged "configure-$preset" cmake --preset "$preset" \
    ${options[@]+"${options[@]}"}) || return
  say "Building build/$preset${target[1]:+ (${target[1]})}"
  if [ -t 1 ]; then
    cmake --build "$root/build/$preset" -j "$(num_jobs)" ${target[@]+"${target[@]}"}
  else
    cmake --build "$root/build/$preset" -j "$(num_jobs)" ${target[@]+"${target[@]}"} |
      ninja_progress
  fi
}
