// SPDX-License-Identifier: MIT
// A GGUF file as a checkpoint, in one or two parts: the first four bytes are
// the length of the first part, the rest is both. Refused by an Error, or every
// row of every tensor can be read as numbers.
#include <algorithm>
#include <cstring>
#include <vector>

#include "fuzz/fuzz_file.h"
#include "qwen3_mlx/error.h"
#include "weights/checkpoint.h"
#include "weights/stored_rows.h"

namespace {

// What a fuzzer can claim without holding it is not worth its time.
constexpr std::uint64_t max_elements = 1 << 16;

void read(const qwen3_mlx::StoredTensor& tensor) {
  std::uint64_t n_elements = 1;
  for (const auto dim : tensor.shape) {
    n_elements *= static_cast<std::uint64_t>(dim);
  }
  if (!is_readable(tensor) || n_elements == 0 || n_elements > max_elements) {
    return;
  }
  const auto n_rows = n_elements /
      static_cast<std::uint64_t>(
                          tensor.shape.empty() ? 1 : tensor.shape.back());
  std::vector<std::byte> bytes(tensor.n_bytes());
  read_stored_rows(tensor, n_rows, 0, n_rows, bytes.data());
  std::vector<float> values(n_elements);
  widen(tensor, bytes.data(), values.size(), values.data());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  using qwen3_mlx::testing::FuzzFile;
  static FuzzFile first("model-00001-of-00002.gguf");
  std::uint32_t n_first = 0;
  if (n < sizeof(n_first)) {
    return 0;
  }
  std::memcpy(&n_first, data, sizeof(n_first));
  data += sizeof(n_first);
  n -= sizeof(n_first);
  n_first = std::min(n_first, static_cast<std::uint32_t>(n));
  first.directory().write(
      "model-00002-of-00002.gguf",
      std::string(reinterpret_cast<const char*>(data) + n_first, n - n_first));
  const auto path = first.write(data, n_first);
  try {
    const auto checkpoint = qwen3_mlx::Checkpoint::open(path);
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      read(tensor);
    }
  } catch (const qwen3_mlx::Error&) {
  }
  return 0;
}
