# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# System packages: finds out what is missing and installs only that, or prints
# the line that would.

# tool:package pairs; a tool that is on the PATH from elsewhere is used.
apt_build_tools=(
  g++:g++ cmake:cmake ninja:ninja-build pkg-config:pkg-config ccache:ccache
  python3:python3 git:git
)
apt_libraries=(
  ca-certificates libsimdjson-dev nlohmann-json3-dev libutf8proc-dev
  libcli11-dev libedit-dev libcurl4-openssl-dev
)
# The chat page is plainer without these. Debian 13 has no libjs-markdown-it.
apt_optional_libraries=(libjs-markdown-it libjs-highlight.js)
apt_test_libraries=(libgtest-dev libgmock-dev)
brew_packages=(
  cmake ninja pkgconf ccache simdjson nlohmann-json utf8proc cli11 boost googletest
)

# Whether a package of this name can be installed. (A name that others only
# provide has no candidate.)
apt_knows() {
  apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [^(]' >/dev/null
}

# Debian 12's libboost-dev is older than the server needs; Debian 13 and Ubuntu
# 24.04 have 1.83.
boost_package() {
  if apt_knows libboost1.81-dev; then
    echo libboost1.81-dev
  else
    echo libboost-dev
  fi
}

optional_packages() {
  local package
  for package in "${apt_optional_libraries[@]}"; do
    if apt_knows "$package"; then echo "$package"; fi
  done
}

apt_has() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Root already, or sudo that needs no password, or one who can type it.
can_be_root() {
  [ "$(id -u)" = 0 ] && return
  have sudo || return 1
  sudo -n true 2>/dev/null || [ -t 0 ]
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "$@"
}

# The package lists of a fresh system are empty, old ones name files that are
# gone: both are cured by an update, which is skipped where it is not needed.
apt_install_with_update() {
  apt_install "$@" && return
  as_root apt-get update -q && apt_install "$@"
}

# In a fresh container apt knows no package at all.
ensure_apt_lists() {
  compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null && return
  can_be_root || return 0
  say "Reading the lists of packages"
  run_logged apt-update as_root apt-get update -q
}

install_apt() {
  [ $# -gt 0 ] || return 0
  local command="apt-get install -y --no-install-recommends $*"
  if ! can_be_root; then
    printf 'These packages are missing and there is no right to install them. Run\n\n' >&2
    printf '    sudo apt-get update && sudo %s\n\n' "$command" >&2
    die "packages are missing"
  fi
  say "Installing packages: $*"
  run_logged apt apt_install_with_update "$@"
}

# ensure_apt PACKAGE...: installs those that are missing.
ensure_apt() {
  local package missing=()
  for package in "$@"; do
    apt_has "$package" || missing+=("$package")
  done
  install_apt "${missing[@]}"
}

# Chromium with its driver, to try the chat page. Elsewhere than on Debian it is
# used when it is there (Ubuntu's package is only a pointer to a snap).
ensure_browser() {
  if grep -qs '^ID=debian' /etc/os-release && can_be_root; then
    ensure_apt chromium chromium-driver
  fi
  have chromium && have chromedriver
}

ensure_apt_build_packages() {
  local pair missing=()
  for pair in "${apt_build_tools[@]}"; do
    have "${pair%%:*}" || missing+=("${pair#*:}")
  done
  # Debian splits the venv module off its own Python.
  if ! has_python; then
    apt_has python3-venv || missing+=(python3 python3-venv)
  fi
  for pair in "$@"; do
    apt_has "$pair" || missing+=("$pair")
  done
  install_apt "${missing[@]}"
}

ensure_brew_packages() {
  xcode-select -p >/dev/null 2>&1 ||
    die "no compiler; run: xcode-select --install"
  local package missing=()
  if ! have brew; then
    have cmake && have ninja && return
    die "Homebrew is missing; install it (https://brew.sh), then run: brew install ${brew_packages[*]}"
  fi
  local installed
  installed=" $(brew list --formula -1 | tr '\n' ' ') "
  for package in "${brew_packages[@]}"; do
    [[ "$installed" == *" $package "* ]] || missing+=("$package")
  done
  has_python || missing+=(python@3.13)
  [ ${#missing[@]} -gt 0 ] || return 0
  say "Installing packages: ${missing[*]}"
  run_logged brew brew install "${missing[@]}"
}

# ensure_packages --program | --with-tests: all that the build needs.
ensure_packages() {
  if is_macos; then
    ensure_brew_packages
  elif have apt-get; then
    ensure_apt_lists
    local packages=()
    mapfile -t packages < <(boost_package && optional_packages)
    [ "$1" != --with-tests ] || packages+=("${apt_test_libraries[@]}")
    ensure_apt_build_packages "${apt_libraries[@]}" "${packages[@]}"
  else
    local tool
    for tool in c++ cmake ninja pkg-config python3; do
      have "$tool" || die "$tool is missing; install it with this system's package manager"
    done
    note "no apt and no Homebrew: missing libraries are built from pinned sources"
  fi
  local found
  found="$(cmake --version | awk 'NR == 1 {print $3}')"
  version_at_least "$found" 3.25 ||
    die "cmake is $found, 3.25 or later is needed; run: python3 -m pip install --user 'cmake>=3.25'"
}
