# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# Builds for machines that this is not, from a Debian machine: macOS arm64 is
# compiled and linked, Linux arm64 also runs its tests.

cross="$root/.cache/cross"

# private_apt FOLDER TYPES COMMAND...: apt-get with a state of its own, so that
# foreign architectures and source packages leave the system's as it is.
private_apt() {
  local folder="$1" types="$2" file
  shift 2
  mkdir -p "$folder"/{lists/partial,cache/archives/partial,sources,dpkg}
  touch "$folder/dpkg/status"
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] && sed "s/^Types:.*/Types: $types/" "$file" >"$folder/sources/${file##*/}"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$file" ] && sed -n "s/^deb /$types /p" "$file" >"$folder/sources/${file##*/}.list"
  done
  cat >"$folder/apt.conf" <<CONF
APT::Architectures { "$(dpkg --print-architecture)"; "arm64"; };
APT::Sandbox::User "$(id -un)";
Dir::State "$folder";
Dir::State::lists "$folder/lists";
Dir::State::status "$folder/dpkg/status";
Dir::Cache "$folder/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$folder/sources";
CONF
  APT_CONFIG="$folder/apt.conf" apt-get -q "$@"
}

# wheel_for PLATFORM REQUIREMENTS FOLDER: another machine's wheels, unpacked.
wheel_for() {
  [ -f "$3/.done" ] && return
  rm -rf "$3"
  run_logged "pip-${3//\//-}" "$(python_with_pip)" -m pip install \
    --disable-pip-version-check --target "$3" --platform "$1" \
    --python-version 3.11 --implementation cp --only-binary :all: --no-deps \
    --require-hashes -r "$root/scripts/$2"
  touch "$3/.done"
}

aarch64_packages=(
  libsimdjson-dev:arm64 libutf8proc-dev:arm64 libgtest-dev:arm64
  libgmock-dev:arm64 libedit-dev:arm64 nlohmann-json3-dev libcli11-dev
)

make_aarch64_sysroot() {
  local folder="$cross/aarch64" package
  [ -f "$folder/sysroot/.done" ] && return
  say "Fetching arm64 packages"
  rm -rf "$folder/sysroot"
  mkdir -p "$folder/sysroot"
  run_logged apt-arm64-update private_apt "$folder/apt" deb update
  run_logged apt-arm64 private_apt "$folder/apt" deb install -y \
    --download-only --no-install-recommends "${aarch64_packages[@]}"
  for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg -x "$package" "$folder/sysroot"
  done
  rm -rf "$folder/apt"
  touch "$folder/sysroot/.done"
}

test_aarch64() {
  have apt-get || skip "no apt"
  if [ "$(uname -m)" = aarch64 ]; then skip "this is arm64"; fi
  ensure_apt g++-aarch64-linux-gnu qemu-user-static
  make_aarch64_sysroot
  wheel_for manylinux_2_35_aarch64 requirements-mlx-cpu.txt "$cross/aarch64/python"
  ensure_default_model
  test_components aarch64-cross
}

# macos_source NAME VERSION SHA256: the distribution's unpacked source.
macos_source() {
  local name="$1" version="$2" sha256="$3" folder="$cross/macos/source"
  local file="$cache/downloads/${name}_$version.orig.tar.gz"
  [ -d "$folder/$name" ] && return
  mkdir -p "$folder" "$cache/downloads"
  if [ ! -f "$file" ]; then
    [ -d "$cross/macos/apt/lists/auxfiles" ] ||
      run_logged apt-source-update private_apt "$cross/macos/apt" deb-src update
    (cd "$cache/downloads" && run_logged "apt-source-$name" \
      private_apt "$cross/macos/apt" deb-src source --download-only --tar-only "$name") ||
      skip "this distribution has no source package $name"
  fi
  [ -f "$file" ] || skip "this distribution has no $name $version"
  [ "$(sha256_of "$file")" = "$sha256" ] || die "$file: wrong sha256; remove it"
  mkdir "$folder/$name.part"
  tar -xzf "$file" -C "$folder/$name.part" --strip-components 1
  mv "$folder/$name.part" "$folder/$name"
}

make_macos_sysroot() {
  local folder="$cross/macos" tool
  make_venv .venv-zig "$root/scripts/requirements-zig.txt"
  wheel_for macosx_14_0_arm64 requirements-mlx-metal.txt "$folder/python"
  # The frameworks' paths are those of the machine that built the wheel.
  sed -i.orig "s#/Applications/[^;\"]*/Frameworks/#$root/scripts/cross/macos/stubs/#g" \
    "$folder/python/mlx/share/cmake/MLX/MLXTargets.cmake"
  macos_source simdjson 3.0.1 \
    156b1bc5eb0561b2bd166b46d191fd3d95a3e709cc63761477d3b7aec2b6e9ed
  macos_source utf8proc 2.8.0 \
    a0a60a79fe6f6d54e7d411facbfcc867a6e198608f2cd992490e46f04b1bcecc
  local usr="$folder/sysroot/usr"
  mkdir -p "$folder/bin" "$usr/include" "$usr/lib"
  for tool in nlohmann CLI histedit.h; do
    ln -sfn "/usr/include/$tool" "$usr/include/$tool"
  done
  ln -sf "$root"/scripts/cross/macos/stubs/*.tbd "$usr/lib"
  for tool in ar ranlib; do
    write_tool "$folder/bin/$tool" "exec \"$root/.venv-zig/bin/python\" -m ziglang $tool \"\$@\""
  done
  # zig spells instruction sets its own way, and its macOS is an M1 at least,
  # which has all that is asked for but i8mm.
  for tool in cc c++; do
    write_tool "$folder/bin/$tool" "for flag; do
  shift
  case \"\$flag\" in
    -march=armv8*i8mm*) set -- \"\$@\" -mcpu=apple_m1+i8mm ;;
    -march=armv8*) ;;
    *) set -- \"\$@\" \"\$flag\" ;;
  esac
done
exec \"$root/.venv-zig/bin/python\" -m ziglang $tool -target aarch64-macos.14.0 \"\$@\""
  done
}

# Left alone when it is the same: ccache and CMake look at its date.
write_tool() {
  local text="#!/bin/sh
$2"
  [ "$(cat "$1" 2>/dev/null)" = "$text" ] && return
  printf '%s\n' "$text" >"$1"
  chmod +x "$1"
}

build_macos() {
  have apt-get || skip "no apt"
  ensure_apt nlohmann-json3-dev libcli11-dev libedit-dev
  make_macos_sysroot
  build_preset macos-cross --target qwen3-mlx
  local program="$root/build/macos-cross/src/cli/qwen3-mlx"
  file "$program" 2>/dev/null || true
  # Mach-O, 64 bits, little endian.
  [ "$(head -c 4 "$program" | od -An -tx1 | tr -d ' \n')" = cffaedfe ] ||
    die "$program is no Mach-O program"
  note "linked, not run: $(du -k "$program" | cut -f 1) kB"
}
