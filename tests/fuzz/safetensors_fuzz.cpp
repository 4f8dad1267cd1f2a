// SPDX-License-Identifier: MIT
// Any bytes as a safetensors file: refused by an Error, or the tensors tile it.
#include <cstdlib>

#include "formats/safetensors.h"
#include "fuzz/fuzz_file.h"
#include "qwen3_mlx/error.h"

namespace {

void check(const qwen3_mlx::SafetensorsFile& file, std::size_t size) {
  std::uint64_t sum = 0;
  for (const auto& tensor : file.tensors()) {
    sum += tensor.n_bytes;
    if (tensor.offset > size || tensor.n_bytes > size - tensor.offset ||
        file.find(tensor.name) == nullptr) {
      std::abort();
    }
  }
  if (sum > size) {
    std::abort();
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  static qwen3_mlx::testing::FuzzFile file("model.safetensors");
  try {
    check(qwen3_mlx::SafetensorsFile(file.write(data, n)), n);
  } catch (const qwen3_mlx::Error&) {
  }
  return 0;
}
