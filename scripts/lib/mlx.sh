# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# MLX: an installed one is used, else its wheel goes into .venv of the checkout.

# wheel_cmake_dir PYTHON: the CMake package inside the wheel that this Python has,
# or nothing.
wheel_cmake_dir() {
  "$1" "$root/cmake/find_mlx_wheel.py" 2>/dev/null || true
}

# Where an MLX that the user has already can be found, or nothing. It must hold
# the library itself: on Linux the wheel "mlx" alone has none.
installed_mlx() {
  local folder prefix
  for folder in "${MLX_DIR:-}" "${MLX_ROOT:-}"; do
    [ -n "$folder" ] && echo "$folder" && return
  done
  folder="$(wheel_cmake_dir python3)"
  if [ -n "$folder" ] && compgen -G "$folder/../../../lib/libmlx.*" >/dev/null; then
    echo "$folder"
    return
  fi
  for prefix in /opt/homebrew /usr/local /usr; do
    for folder in "$prefix/share/cmake/MLX" "$prefix/lib/cmake/MLX"; do
      if [ -f "$folder/MLXConfig.cmake" ]; then
        echo "$folder"
        return
      fi
    done
  done
}

# The wheel for this machine: metal, cuda or cpu. A GPU without the CUDA
# toolkit gets the CPU wheel, because MLX's CMake package asks for the toolkit.
mlx_flavour() {
  if is_macos; then
    echo metal
  elif have nvidia-smi && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    if have nvcc; then
      echo cuda
    else
      note "an NVIDIA GPU, but no CUDA toolkit (nvcc): the CPU build is made" >&2
      echo cpu
    fi
  else
    echo cpu
  fi
}

ensure_mlx() {
  local found=""
  [ -x "$root/.venv/bin/python" ] || found="$(installed_mlx)"
  if [ -n "$found" ]; then
    say "MLX: the installed one, $found"
    return
  fi
  make_venv .venv "$root/scripts/requirements-mlx-$(mlx_flavour).txt"
}
