# Third-party libraries: an installed one first, else a pinned download.
# Every version of the project is named here and nowhere else.

include(FetchContent)
set(QWEN3_MLX_MLX_VERSION 0.32.4)

find_package(Threads REQUIRED)

find_package(simdjson CONFIG QUIET)
if(NOT simdjson_FOUND)
  FetchContent_Declare(
    simdjson
    URL https://github.com/simdjson/simdjson/archive/refs/tags/v3.0.1.tar.gz
        SYSTEM)
  FetchContent_MakeAvailable(simdjson)
endif()

find_package(nlohmann_json 3.9 CONFIG QUIET)
if(NOT nlohmann_json_FOUND)
  FetchContent_Declare(
    nlohmann_json
    URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
        SYSTEM)
  FetchContent_MakeAvailable(nlohmann_json)
endif()

# utf8proc has no CMake package in the distributions; pkg-config knows it.
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(libutf8proc QUIET IMPORTED_TARGET libutf8proc)
endif()
if(libutf8proc_FOUND)
  add_library(qwen3_mlx_utf8proc INTERFACE)
  target_link_libraries(qwen3_mlx_utf8proc INTERFACE PkgConfig::libutf8proc)
else()
  FetchContent_Declare(
    utf8proc
    URL https://github.com/JuliaStrings/utf8proc/archive/refs/tags/v2.8.0.tar.gz
        SYSTEM)
  FetchContent_MakeAvailable(utf8proc)
  add_library(qwen3_mlx_utf8proc INTERFACE)
  target_link_libraries(qwen3_mlx_utf8proc INTERFACE utf8proc)
endif()

if(NOT QWEN3_MLX_TEXT_ONLY)
  # MLX inside a Python wheel: ask the project's own environment, then the
  # user's, where its CMake package lies.
  if(NOT MLX_DIR AND NOT MLX_ROOT)
    find_program(
      QWEN3_MLX_PYTHON
      NAMES python3
      HINTS ${PROJECT_SOURCE_DIR}/.venv/bin)
    if(QWEN3_MLX_PYTHON)
      execute_process(
        COMMAND ${QWEN3_MLX_PYTHON} -m mlx --cmake-dir
        OUTPUT_VARIABLE mlx_wheel_dir
        OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
        RESULT_VARIABLE mlx_wheel_result)
      if(mlx_wheel_result EQUAL 0)
        list(APPEND CMAKE_PREFIX_PATH ${mlx_wheel_dir})
      endif()
    endif()
  endif()
  find_package(MLX 0.32 CONFIG QUIET)
  if(NOT MLX_FOUND)
    FetchContent_Declare(
      MLX
      GIT_REPOSITORY https://github.com/ml-explore/mlx.git
      GIT_TAG v${QWEN3_MLX_MLX_VERSION}
      SYSTEM)
    set(MLX_BUILD_TESTS OFF)
    set(MLX_BUILD_EXAMPLES OFF)
    set(MLX_BUILD_PYTHON_BINDINGS OFF)
    FetchContent_MakeAvailable(MLX)
  endif()
endif()

if(QWEN3_MLX_BUILD_TESTS)
  find_package(GTest QUIET)
  if(NOT GTest_FOUND)
    FetchContent_Declare(
      googletest
      URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
          SYSTEM)
    FetchContent_MakeAvailable(googletest)
  endif()
endif()

if(QWEN3_MLX_BUILD_PROGRAM)
  find_package(CLI11 CONFIG QUIET)
  if(NOT CLI11_FOUND)
    FetchContent_Declare(
      CLI11
      URL https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz
          SYSTEM)
    FetchContent_MakeAvailable(CLI11)
  endif()
endif()
