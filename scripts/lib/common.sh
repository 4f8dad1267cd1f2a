# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# What every script shares: where things lie, short lines of progress, and a
# way to die that says why. Source it; it runs nothing.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cache="${QWEN3_MLX_CACHE:-$root/.cache}"
logs="$root/.cache/logs"
export QWEN3_MLX_CACHE="$cache"

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

is_macos() { [ "$(uname -s)" = Darwin ]; }

# Parallel jobs: a unit that includes MLX takes about 1 GB of compiler memory.
num_jobs() {
  local cores memory_gb
  if is_macos; then
    cores="$(sysctl -n hw.ncpu)"
    memory_gb="$(($(sysctl -n hw.memsize) >> 30))"
  else
    cores="$(nproc)"
    memory_gb="$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)"
  fi
  [ "$memory_gb" -ge 1 ] || memory_gb=1
  echo "$((cores < memory_gb ? cores : memory_gb))"
}

sha256_of() {
  if have sha256sum; then
    sha256sum "$1" | cut -d ' ' -f 1
  else
    shasum -a 256 "$1" | cut -d ' ' -f 1
  fi
}

# run_logged NAME COMMAND...: quiet when it works, the end of its log when not.
run_logged() {
  local log="$logs/$1.log"
  shift
  mkdir -p "$logs"
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    printf 'error: %s failed; all of its output is in %s\n' "$1" "$log" >&2
    return 1
  fi
}

# version_at_least FOUND WANTED, both of dotted numbers.
version_at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -t . -k 1,1n -k 2,2n -k 3,3n | head -n 1)" = "$2" ]
}
