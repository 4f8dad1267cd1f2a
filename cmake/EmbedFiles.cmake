# Puts files into the program. Run as a script:
#   cmake -DOUT=assets.cpp "-DFILES=/path=type=file|..." -P EmbedFiles.cmake

set(delimiter "qwen3_mlx_file")
set(text "// Made by cmake/EmbedFiles.cmake.
#include \"server/assets.h\"

#include <array>

namespace qwen3_mlx::server {
namespace {

const std::array files = {
")
string(REPLACE "|" ";" entries "${FILES}")
foreach(entry IN LISTS entries)
  string(REPLACE "=" ";" parts "${entry}")
  list(GET parts 0 path)
  list(GET parts 1 type)
  list(GET parts 2 file)
  file(READ "${file}" content)
  string(FIND "${content}" ")${delimiter}\"" clash)
  if(NOT clash EQUAL -1)
    message(FATAL_ERROR "${file} holds the delimiter")
  endif()
  string(APPEND text "    Asset{\"${path}\", \"${type}\", R\"${delimiter}(")
  string(APPEND text "${content}")
  string(APPEND text ")${delimiter}\"},\n")
endforeach()
string(APPEND text "};

} // namespace

std::span<const Asset> assets() {
  return files;
}

} // namespace qwen3_mlx::server
")
file(WRITE "${OUT}" "${text}")
