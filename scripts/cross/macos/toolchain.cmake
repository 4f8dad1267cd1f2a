# macOS arm64 from Linux, with zig as the compiler. scripts/lib/cross.sh puts
# wrappers, MLX's Metal wheel and library sources into .cache/cross/macos.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_SYSTEM_VERSION 23.0)
set(CMAKE_OSX_DEPLOYMENT_TARGET
    14.0
    CACHE STRING "")
# zig knows target and headers itself.
set(CMAKE_OSX_ARCHITECTURES
    ""
    CACHE STRING "")
set(CMAKE_OSX_SYSROOT
    ""
    CACHE STRING "")

set(cross ${CMAKE_CURRENT_LIST_DIR}/../../../.cache/cross/macos)
get_filename_component(cross ${cross} ABSOLUTE)
set(QWEN3_MLX_CROSS_DIR
    ${cross}
    CACHE PATH "")
set(CMAKE_C_COMPILER ${cross}/bin/cc)
set(CMAKE_CXX_COMPILER ${cross}/bin/c++)
set(CMAKE_AR
    ${cross}/bin/ar
    CACHE FILEPATH "")
set(CMAKE_RANLIB
    ${cross}/bin/ranlib
    CACHE FILEPATH "")
set(CMAKE_INSTALL_NAME_TOOL
    /bin/true
    CACHE FILEPATH "")

set(CMAKE_FIND_ROOT_PATH ${cross}/sysroot)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(MLX_DIR
    ${cross}/python/mlx/share/cmake/MLX
    CACHE PATH "")
set(MLX_LIBRARY
    ${cross}/python/mlx/lib/libmlx.dylib
    CACHE FILEPATH "")

# The linker is satisfied with the names of Apple's frameworks.
set(CMAKE_EXE_LINKER_FLAGS_INIT "-F${CMAKE_CURRENT_LIST_DIR}/stubs")
