#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The three tests of the install tree.
#
#     install_test.sh tarball|find_package|add_subdirectory SOURCE BUILD
set -euo pipefail

test="$1"
source="$2"
build="$3"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# Installed at one place and moved to another: nothing may remember the first.
install_moved() {
  cmake --install "$build" --prefix "$work/first" >"$work/install.log"
  mv "$work/first" "$work/moved tree"
}

# Runs a command that cannot see the project's environment or build folder.
# Where no mount namespace is allowed, it just runs it.
without_checkout() {
  local hidden="$source/.venv"
  if [ -d "$hidden" ] && unshare --mount --map-root-user true 2>/dev/null; then
    # shellcheck disable=SC2016  # expanded by the inner shell
    unshare --mount --map-root-user sh -c '
      mount -t tmpfs none "$1" && mount -t tmpfs none "$2" && shift 2 && exec "$@"
    ' sh "$hidden" "$build" "$@"
  else
    "$@"
  fi
}

test_tarball() {
  cmake -E chdir "$build" cpack -G TGZ -B "$work/packages" >"$work/cpack.log" ||
    { tail -n 20 "$work/cpack.log"; fail "cpack"; }
  local tarball program
  tarball="$(echo "$work"/packages/*.tar.gz)"
  ls -l "$tarball"
  mkdir "$work/unpacked here"
  tar -xzf "$tarball" -C "$work/unpacked here" --strip-components 1
  program="$work/unpacked here/bin/qwen3-mlx"
  if [ "$(uname -s)" = Linux ]; then
    # Every library comes from the tree or from the system's own folders. (Not
    # by a pipe: grep -q ends at the first match, and ldd would break.)
    local libraries
    libraries="$(ldd "$program")"
    echo "$libraries"
    [[ "$libraries" != *"not found"* ]] || fail "a library is missing"
    [[ "$libraries" != *"$source/"* ]] || fail "a library of the checkout"
    [[ "$libraries" == *"unpacked here/"*libmlx* ]] || fail "another libmlx"
  fi
  without_checkout env -i PATH=/usr/bin:/bin "$program" --version
  local model="$source/models/SmolLM2-135M-Instruct.Q4_1.gguf"
  if [ -f "$model" ]; then
    local answer
    answer="$(without_checkout env -i PATH=/usr/bin:/bin "$program" generate \
      --model "$model" --prompt 'What is the capital of France?' --max-tokens 8)"
    echo "$answer"
    [[ "$answer" == *Paris* ]] || fail "no Paris in the answer"
  fi
}

build_consumer() {
  cmake -S "$source/tests/install/consumer" -B "$work/consumer" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release "$@"
  cmake --build "$work/consumer"
  "$work/consumer/consumer"
}

test_find_package() {
  install_moved
  build_consumer "-DCMAKE_PREFIX_PATH=$work/moved tree"
  # The package brings its own MLX where it was built with a wheel's.
  if [ -d "$work/moved tree/lib/qwen3_mlx/mlx" ]; then
    grep '^MLX_DIR:PATH=.*moved tree' "$work/consumer/CMakeCache.txt" ||
      fail "not the MLX of the install tree"
  fi
}

test_add_subdirectory() {
  build_consumer "-DQWEN3_MLX_SOURCE_DIR=$source"
}

"test_$test"
