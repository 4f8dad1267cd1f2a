# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# Builds for machines that this is not.

build_macos() { skip "not there yet"; }
test_aarch64() { skip "not there yet"; }
