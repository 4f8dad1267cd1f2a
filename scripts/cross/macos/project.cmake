# Included right after project(): what a toolchain file cannot set, and the
# libraries that Homebrew would have on a Mac.

# Without Apple's sw_vers CMake thinks that this macOS is too old for @rpath.
set(CMAKE_SHARED_LIBRARY_RUNTIME_C_FLAG "-Wl,-rpath,")
set(CMAKE_SHARED_LIBRARY_RUNTIME_CXX_FLAG "-Wl,-rpath,")

enable_language(C)
set(source ${QWEN3_MLX_CROSS_DIR}/source)

add_library(simdjson STATIC ${source}/simdjson/singleheader/simdjson.cpp)
target_include_directories(simdjson SYSTEM
                           PUBLIC ${source}/simdjson/singleheader)
target_compile_features(simdjson PUBLIC cxx_std_17)
add_library(simdjson::simdjson ALIAS simdjson)

add_library(qwen3_mlx_utf8proc STATIC ${source}/utf8proc/utf8proc.c)
target_include_directories(qwen3_mlx_utf8proc SYSTEM
                           PUBLIC ${source}/utf8proc)
target_compile_definitions(qwen3_mlx_utf8proc PUBLIC UTF8PROC_STATIC)

# Header-only ones are the host's: links to their folders, since the whole of
# /usr/include would be Linux's.
foreach(name nlohmann_json CLI11)
  add_library(${name} INTERFACE)
  target_include_directories(${name} SYSTEM
                             INTERFACE ${QWEN3_MLX_CROSS_DIR}/sysroot/usr/include)
  add_library(${name}::${name} ALIAS ${name})
endforeach()
