# Warnings, sanitizers and ccache for every target of this project.

add_library(qwen3_mlx_options INTERFACE)
target_compile_features(qwen3_mlx_options INTERFACE cxx_std_20)
target_compile_options(
  qwen3_mlx_options INTERFACE -Wall -Wextra -Wconversion -Wshadow
                              -Wno-sign-conversion -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION
                                        VERSION_LESS 13)
  # GCC 12 at -O3 takes "literal" + std::string for an overlapping copy
  # (GCC bug 105651), and a vector load behind a length check for one past a
  # short literal.
  target_compile_options(
    qwen3_mlx_options INTERFACE -Wno-restrict -Wno-array-bounds
                                -Wno-stringop-overflow)
endif()
if(QWEN3_MLX_WERROR)
  target_compile_options(qwen3_mlx_options INTERFACE -Werror)
endif()
if(QWEN3_MLX_SANITIZE)
  target_compile_options(
    qwen3_mlx_options
    INTERFACE -fsanitize=${QWEN3_MLX_SANITIZE} -fno-omit-frame-pointer
              -fno-sanitize-recover=all)
  target_link_options(qwen3_mlx_options INTERFACE
                      -fsanitize=${QWEN3_MLX_SANITIZE})
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without the sloppiness nothing that uses a precompiled header is cached.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND}
      -E
      env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
      CCACHE_NOHASHDIR=1
      ${CCACHE_PROGRAM})
endif()
