// SPDX-License-Identifier: MIT
#include "formats/gguf_tensors.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

struct TypeRow {
  GgmlType type;
  GgmlBlock block;
};

constexpr std::array type_rows = std::to_array<TypeRow>({
    {GgmlType::f32, {"F32", 1, 4}},
    {GgmlType::f16, {"F16", 1, 2}},
    {GgmlType::q4_0, {"Q4_0", 32, 18}},
    {GgmlType::q4_1, {"Q4_1", 32, 20}},
    {GgmlType::q5_0, {"Q5_0", 32, 22}},
    {GgmlType::q5_1, {"Q5_1", 32, 24}},
    {GgmlType::q8_0, {"Q8_0", 32, 34}},
    {GgmlType::q8_1, {"Q8_1", 32, 40}},
    {GgmlType::q2_k, {"Q2_K", 256, 84}},
    {GgmlType::q3_k, {"Q3_K", 256, 110}},
    {GgmlType::q4_k, {"Q4_K", 256, 144}},
    {GgmlType::q5_k, {"Q5_K", 256, 176}},
    {GgmlType::q6_k, {"Q6_K", 256, 210}},
    {GgmlType::q8_k, {"Q8_K", 256, 292}},
    {GgmlType::iq2_xxs, {"IQ2_XXS", 256, 66}},
    {GgmlType::iq2_xs, {"IQ2_XS", 256, 74}},
    {GgmlType::iq3_xxs, {"IQ3_XXS", 256, 98}},
    {GgmlType::iq1_s, {"IQ1_S", 256, 50}},
    {GgmlType::iq4_nl, {"IQ4_NL", 32, 18}},
    {GgmlType::iq3_s, {"IQ3_S", 256, 110}},
    {GgmlType::iq2_s, {"IQ2_S", 256, 82}},
    {GgmlType::iq4_xs, {"IQ4_XS", 256, 136}},
    {GgmlType::i8, {"I8", 1, 1}},
    {GgmlType::i16, {"I16", 1, 2}},
    {GgmlType::i32, {"I32", 1, 4}},
    {GgmlType::i64, {"I64", 1, 8}},
    {GgmlType::f64, {"F64", 1, 8}},
    {GgmlType::iq1_m, {"IQ1_M", 256, 56}},
    {GgmlType::bf16, {"BF16", 1, 2}},
    {GgmlType::tq1_0, {"TQ1_0", 256, 54}},
    {GgmlType::tq2_0, {"TQ2_0", 256, 66}},
    {GgmlType::mxfp4, {"MXFP4", 32, 17}},
    {GgmlType::nvfp4, {"NVFP4", 64, 36}},
    {GgmlType::q1_0, {"Q1_0", 128, 18}},
});

const GgmlBlock* find_block(GgmlType type) {
  for (const auto& row : type_rows) {
    if (row.type == type) {
      return &row.block;
    }
  }
  return nullptr;
}

void check_name(const std::filesystem::path& path, const std::string& name) {
  if (name.empty() || !is_valid_utf8(name)) {
    throw TensorError(
        path, printable(name), "the name is empty or not valid UTF-8");
  }
}

} // namespace

GgmlBlock ggml_block(GgmlType type) {
  const auto* block = find_block(type);
  return block != nullptr ? *block : GgmlBlock{"unknown", 1, 1};
}

namespace gguf {

GgufTensor read_tensor(Cursor& in, const std::filesystem::path& path) {
  GgufTensor tensor;
  tensor.name = in.string("a tensor's name", max_tensor_name_bytes);
  check_name(path, tensor.name);
  const auto fail = [&](const std::string& reason) {
    throw TensorError(path, printable(tensor.name), reason);
  };
  const auto what = "tensor " + printable(tensor.name);
  const auto rank = in.read<std::uint32_t>(what);
  if (rank < 1 || rank > max_tensor_rank) {
    fail(
        "has " + std::to_string(rank) + " dimensions, expected 1 to " +
        std::to_string(max_tensor_rank));
  }
  std::uint64_t n_elements = 1;
  for (std::uint32_t idx = 0; idx < rank; ++idx) {
    const auto dim = in.read<std::uint64_t>(what);
    const auto product = checked_mul(n_elements, dim);
    if (dim < 1 || dim > static_cast<std::uint64_t>(max_tensor_dim) ||
        !product) {
      fail(
          "dimension " + std::to_string(idx) + " is " + std::to_string(dim) +
          ", expected 1 to " + std::to_string(max_tensor_dim) +
          " and fewer than 2^64 elements in all");
    }
    n_elements = *product;
    tensor.shape.push_back(static_cast<std::int64_t>(dim));
  }
  tensor.type = in.read<GgmlType>(what);
  const auto* block = find_block(tensor.type);
  if (block == nullptr) {
    fail(
        "type " + std::to_string(static_cast<std::uint32_t>(tensor.type)) +
        " is not one that ggml has; the file is damaged or newer than this "
        "reader");
    return tensor; // not reached: fail() throws
  }
  // shape is still innermost first here: blocks never span rows.
  if (tensor.shape.front() % block->n_elements != 0) {
    fail(
        "has rows of " + std::to_string(tensor.shape.front()) +
        " elements, expected a multiple of " +
        std::to_string(block->n_elements) + " for type " +
        std::string(block->name));
  }
  const auto n_bytes =
      checked_mul(n_elements / block->n_elements, block->n_bytes);
  if (!n_bytes) {
    fail("shape " + to_string(tensor.shape) + " overflows 64 bits of bytes");
  }
  tensor.n_bytes = *n_bytes;
  tensor.offset = in.read<std::uint64_t>(what);
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  return tensor;
}

void place_tensors(
    std::vector<GgufTensor>& tensors,
    std::uint64_t data_start,
    std::uint64_t alignment,
    const File& file) {
  std::vector<const GgufTensor*> by_offset;
  for (auto& tensor : tensors) {
    if (tensor.offset % alignment != 0) {
      throw TensorError(
          file.path(),
          printable(tensor.name),
          "offset " + std::to_string(tensor.offset) +
              " is not a multiple of general.alignment " +
              std::to_string(alignment));
    }
    const auto start = checked_add(data_start, tensor.offset);
    const auto end = start ? checked_add(*start, tensor.n_bytes) : std::nullopt;
    if (!end || *end > file.size()) {
      throw TensorError(
          file.path(),
          printable(tensor.name),
          std::to_string(tensor.n_bytes) + " bytes at data offset " +
              std::to_string(tensor.offset) + " end past the file's " +
              std::to_string(file.size()) +
              " bytes; it is truncated or damaged, fetch it again");
    }
    tensor.offset = *start;
    by_offset.push_back(&tensor);
  }
  std::sort(
      by_offset.begin(),
      by_offset.end(),
      [](const GgufTensor* a, const GgufTensor* b) {
        return a->offset < b->offset;
      });
  for (std::size_t idx = 1; idx < by_offset.size(); ++idx) {
    const auto& before = *by_offset[idx - 1];
    const auto& tensor = *by_offset[idx];
    if (before.offset + before.n_bytes > tensor.offset) {
      throw TensorError(
          file.path(),
          printable(tensor.name),
          "starts at byte " + std::to_string(tensor.offset) +
              ", inside tensor " + printable(before.name));
    }
  }
}

} // namespace gguf
} // namespace qwen3_mlx
