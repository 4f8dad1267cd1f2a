// SPDX-License-Identifier: MIT
// Any bytes as a GGUF file: refused by an Error, or every tensor lies inside.
#include <cstdlib>

#include "formats/gguf.h"
#include "fuzz/fuzz_file.h"
#include "qwen3_mlx/error.h"

namespace {

void check(const qwen3_mlx::GgufFile& file, std::size_t size) {
  for (const auto& tensor : file.tensors()) {
    if (tensor.offset > size || tensor.n_bytes > size - tensor.offset ||
        file.find(tensor.name) == nullptr) {
      std::abort();
    }
  }
  for (const auto& key : file.keys()) {
    try {
      file.get_strings(key);
      file.get_ints(key);
    } catch (const qwen3_mlx::FieldError&) {
    }
    try {
      file.get_float(key);
      file.get_uint(key);
      file.get_int(key);
    } catch (const qwen3_mlx::FieldError&) {
    }
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  static qwen3_mlx::testing::FuzzFile file("model.gguf");
  try {
    check(qwen3_mlx::GgufFile(file.write(data, n)), n);
  } catch (const qwen3_mlx::Error&) {
  }
  return 0;
}
