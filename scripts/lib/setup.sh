# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Everything that the demo and the tests need before they can start.

setup_folder="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/lib/common.sh
. "$setup_folder/common.sh"
# shellcheck source=scripts/lib/packages.sh
. "$setup_folder/packages.sh"
# shellcheck source=scripts/lib/python.sh
. "$setup_folder/python.sh"
# shellcheck source=scripts/lib/mlx.sh
. "$setup_folder/mlx.sh"
# shellcheck source=scripts/lib/model.sh
. "$setup_folder/model.sh"
# shellcheck source=scripts/lib/build.sh
. "$setup_folder/build.sh"
