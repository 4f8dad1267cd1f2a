# Linux arm64 on another Linux. scripts/lib/cross.sh fills the sysroot with
# the distribution's arm64 packages and MLX's arm64 wheel; tests run by qemu.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(cross ${CMAKE_CURRENT_LIST_DIR}/../../../.cache/cross/aarch64)
get_filename_component(cross ${cross} ABSOLUTE)
set(CMAKE_FIND_ROOT_PATH ${cross}/sysroot)
list(APPEND CMAKE_PREFIX_PATH /usr)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
# MLX's wheel lies outside the sysroot.
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(MLX_DIR
    ${cross}/python/mlx/share/cmake/MLX
    CACHE PATH "")

# libmlx's own needs are met when it runs.
set(CMAKE_EXE_LINKER_FLAGS_INIT -Wl,--allow-shlib-undefined)
set(CMAKE_CROSSCOMPILING_EMULATOR
    "qemu-aarch64-static;-L;/usr/aarch64-linux-gnu")
