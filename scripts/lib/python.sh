# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# Python is needed to install MLX's wheel and to fetch files by package name;
# the built program needs none. Nothing is ever installed outside the checkout.

# The first Python that MLX has wheels for and that can make environments.
find_python() {
  local candidate
  for candidate in ${QWEN3_MLX_PYTHON:+"$QWEN3_MLX_PYTHON"} python3 \
    /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
    have "$candidate" || continue
    if "$candidate" -c 'import ensurepip, sys, venv
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python from 3.10 to 3.14 with the venv module; on Debian run: sudo apt-get install -y python3-venv"
}

# In a subshell, since find_python ends the shell where there is none.
has_python() {
  (find_python) >/dev/null 2>&1
}

# make_venv FOLDER REQUIREMENTS...: an environment with exactly these files'
# packages. A stamp of their content makes the second call do nothing.
make_venv() {
  local folder="$root/$1" file arguments=() stamp
  shift
  for file in "$@"; do arguments+=(-r "$file"); done
  stamp="$(cat "$@" | if have sha256sum; then sha256sum; else shasum -a 256; fi)"
  if [ -x "$folder/bin/python" ] &&
    "$folder/bin/python" -c '' 2>/dev/null &&
    [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  local python
  python="$(find_python)"
  say "Python packages into ${folder#"$root"/}: ${*##*/}"
  rm -rf "$folder"
  run_logged venv "$python" -m venv "$folder"
  run_logged "pip-${folder##*/}" "$folder/bin/python" -m pip install \
    --disable-pip-version-check --only-binary :all: "${arguments[@]}"
  printf '%s\n' "$stamp" >"$folder/.stamp"
}

# A Python whose pip can download; the project's own where there is one.
python_with_pip() {
  local candidate
  for candidate in "$root/.venv/bin/python" python3; do
    if "$candidate" -m pip --version >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  local python
  python="$(find_python)"
  "$python" -m venv "$cache/pip-venv" >&2
  echo "$cache/pip-venv/bin/python"
}
