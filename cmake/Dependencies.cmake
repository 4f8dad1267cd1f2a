# Third-party libraries: an installed one first, else a pinned download.
# Every version and hash of the project is named here and nowhere else. Targets
# that a surrounding project has defined already are taken as they are.

include(FetchContent)

# Own kernels include MLX's non-public headers, which change without notice:
# they are built against exactly this version. Another one of the same series
# gets stock operations only.
set(QWEN3_MLX_MLX_VERSION 0.32.4)

# qwen3_mlx_download(<name> <url> <sha256>): the library from its source, its
# own tests, examples and install rules left out.
macro(qwen3_mlx_download name url sha256)
  message(STATUS "${name}: not installed, building ${url}")
  FetchContent_Declare(
    ${name}
    URL ${url}
    URL_HASH SHA256=${sha256}
    SYSTEM)
  FetchContent_MakeAvailable(${name})
endmacro()

find_package(Threads REQUIRED)

if(NOT TARGET simdjson::simdjson)
  find_package(simdjson CONFIG QUIET)
endif()
if(NOT TARGET simdjson::simdjson)
  qwen3_mlx_download(
    simdjson https://github.com/simdjson/simdjson/archive/v3.0.1.tar.gz
    156b1bc5eb0561b2bd166b46d191fd3d95a3e709cc63761477d3b7aec2b6e9ed)
endif()

if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3.9 CONFIG QUIET)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  qwen3_mlx_download(
    nlohmann_json
    https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
    d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
endif()

# The distributions' utf8proc has no CMake package; pkg-config knows it, under
# a version that is not the library's.
include(Utf8proc)
if(NOT TARGET qwen3_mlx_utf8proc)
  set(UTF8PROC_INSTALL ON)
  qwen3_mlx_download(
    utf8proc https://github.com/JuliaStrings/utf8proc/archive/v2.8.0.tar.gz
    a0a60a79fe6f6d54e7d411facbfcc867a6e198608f2cd992490e46f04b1bcecc)
  set_target_properties(utf8proc PROPERTIES POSITION_INDEPENDENT_CODE ON)
  add_library(qwen3_mlx_utf8proc INTERFACE IMPORTED GLOBAL)
  target_link_libraries(qwen3_mlx_utf8proc INTERFACE utf8proc)
endif()

if(NOT QWEN3_MLX_TEXT_ONLY AND NOT TARGET mlx)
  # MLX inside a Python wheel, which holds the CMake package. The project's own
  # environment is asked first, then the user's.
  if(NOT MLX_DIR AND NOT MLX_ROOT AND NOT CMAKE_CROSSCOMPILING)
    foreach(python ${PROJECT_SOURCE_DIR}/.venv/bin/python3 python3)
      execute_process(
        COMMAND ${python} ${CMAKE_CURRENT_LIST_DIR}/find_mlx_wheel.py
        OUTPUT_VARIABLE mlx_wheel_dir
        OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
        RESULT_VARIABLE mlx_wheel_result)
      if(mlx_wheel_result EQUAL 0)
        list(APPEND CMAKE_PREFIX_PATH ${mlx_wheel_dir})
      endif()
    endforeach()
  endif()
  find_package(MLX 0.32 CONFIG QUIET)
  if(MLX_FOUND)
    message(STATUS "MLX ${MLX_VERSION}: ${MLX_DIR}")
    if(NOT MLX_VERSION VERSION_EQUAL QWEN3_MLX_MLX_VERSION)
      message(WARNING "MLX is ${MLX_VERSION}; own kernels need "
                      "${QWEN3_MLX_MLX_VERSION}")
    endif()
  else()
    # Built from source this takes long; a wheel is better: scripts/demo.
    message(STATUS "MLX: not installed, building v${QWEN3_MLX_MLX_VERSION}")
    FetchContent_Declare(
      MLX
      GIT_REPOSITORY https://github.com/ml-explore/mlx.git
      GIT_TAG v${QWEN3_MLX_MLX_VERSION}
      GIT_SHALLOW ON
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
    set(INSTALL_GTEST OFF)
    qwen3_mlx_download(
      googletest https://github.com/google/googletest/archive/v1.14.0.tar.gz
      8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7)
  endif()
endif()

if(QWEN3_MLX_BUILD_PROGRAM)
  if(NOT TARGET CLI11::CLI11)
    find_package(CLI11 CONFIG QUIET)
  endif()
  if(NOT TARGET CLI11::CLI11)
    set(CLI11_INSTALL OFF)
    qwen3_mlx_download(
      CLI11 https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz
      f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
  endif()

  # Line editing of `qwen3-mlx chat`: part of macOS, a package elsewhere.
  if(NOT QWEN3_MLX_TEXT_ONLY AND NOT TARGET qwen3_mlx_libedit)
    find_path(QWEN3_MLX_LIBEDIT_INCLUDE histedit.h REQUIRED)
    find_library(QWEN3_MLX_LIBEDIT_LIBRARY edit REQUIRED)
    add_library(qwen3_mlx_libedit INTERFACE)
    target_include_directories(qwen3_mlx_libedit SYSTEM
                               INTERFACE ${QWEN3_MLX_LIBEDIT_INCLUDE})
    target_link_libraries(qwen3_mlx_libedit
                          INTERFACE ${QWEN3_MLX_LIBEDIT_LIBRARY})
  endif()

  # `qwen3-mlx pull`: without libcurl models are not downloaded. Part of macOS.
  # (A cross build would find this machine's.)
  if(NOT TARGET CURL::libcurl AND NOT CMAKE_CROSSCOMPILING)
    find_package(CURL 7.85 QUIET)
  endif()
  if(TARGET CURL::libcurl)
    set(QWEN3_MLX_CURL ON)
  else()
    set(QWEN3_MLX_CURL OFF)
    message(STATUS "libcurl 7.85: not installed, building without downloads")
  endif()

  # `qwen3-mlx serve`: headers of Asio and Beast. Boost is too large to be
  # downloaded on the way; without it there is no server. (A cross build would
  # find this machine's.)
  if(NOT QWEN3_MLX_TEXT_ONLY AND NOT TARGET Boost::headers
     AND NOT CMAKE_CROSSCOMPILING)
    find_package(Boost 1.81 QUIET)
  endif()
  if(TARGET Boost::headers AND NOT QWEN3_MLX_TEXT_ONLY)
    set(QWEN3_MLX_SERVER ON)
  else()
    set(QWEN3_MLX_SERVER OFF)
    message(STATUS "Boost 1.81: not installed, building without the server")
  endif()
endif()
