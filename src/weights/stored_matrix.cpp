// SPDX-License-Identifier: MIT
#include "weights/stored_matrix.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

bool is_float(StoredType type) {
  return type == StoredType::f32 || type == StoredType::f16 ||
      type == StoredType::bf16;
}

std::uint64_t rows_of(const std::vector<std::int64_t>& shape) {
  std::uint64_t count = 1;
  for (std::size_t idx = 0; idx + 1 < shape.size(); ++idx) {
    count *= static_cast<std::uint64_t>(shape[idx]);
  }
  return count;
}

std::string without_weight(const std::string& name) {
  constexpr std::string_view leaf = ".weight";
  return name.ends_with(leaf) ? name.substr(0, name.size() - leaf.size())
                              : name;
}

/// Number `idx` of a row that MLX packed with `bits` each: little-endian bits
/// without gaps, since its odd widths pack whole bytes.
std::uint32_t
packed_number(const std::byte* row, std::size_t idx, std::size_t bits) {
  const auto first_bit = idx * bits;
  const auto* from = row + first_bit / 8;
  const auto shift = first_bit % 8;
  std::uint32_t value = static_cast<std::uint32_t>(from[0]) >> shift;
  if (shift + bits > 8) {
    value |= static_cast<std::uint32_t>(from[1]) << (8 - shift);
  }
  return value & ((1u << bits) - 1u);
}

/// One row of a packed matrix.
void unpack_row(
    const QuantFormat& format,
    const std::byte* packed,
    const float* scales,
    const float* biases,
    std::size_t n_columns,
    float* out) {
  const auto bits = static_cast<std::size_t>(format.bits);
  const auto group_size = static_cast<std::size_t>(format.group_size);
  for (std::size_t idx = 0; idx < n_columns; ++idx) {
    const auto group = idx / group_size;
    const auto q = packed_number(packed, idx, bits);
    if (format.mode == QuantMode::affine) {
      out[idx] = scales[group] * static_cast<float>(q) + biases[group];
    } else if (bits == 4) {
      out[idx] = scales[group] * fp4_values[q];
    } else {
      out[idx] = scales[group] * f8_e4m3_to_float(static_cast<std::uint8_t>(q));
    }
  }
}

} // namespace

StoredMatrix::StoredMatrix(
    const Checkpoint& checkpoint,
    const std::optional<QuantizationConfig>& quantization,
    const std::string& module) {
  weight_ = checkpoint.find(module + ".weight");
  if (weight_ == nullptr) {
    throw TensorError(checkpoint.path(), module + ".weight", "is missing");
  }
  shape_ = weight_->shape;
  if (shape_.size() < 2) {
    throw TensorError(
        weight_->path(),
        printable(weight_->source_name),
        "has shape " + to_string(shape_) + ", expected a matrix");
  }
  n_rows_ = rows_of(shape_);
  if (n_rows_ == 0 || shape_.back() == 0) {
    throw TensorError(
        weight_->path(),
        printable(weight_->source_name),
        "has shape " + to_string(shape_) + ", which holds nothing");
  }
  if (quantization && !weight_->ggml_type) {
    const auto& modules = quantization->modules;
    auto found = modules.find(module);
    if (found == modules.end()) {
      found = modules.find(without_weight(weight_->source_name));
    }
    if (found != modules.end()) {
      format_ = found->second.value_or(QuantFormat{});
    } else if (checkpoint.find(module + ".scales") != nullptr) {
      format_ = quantization->format;
    }
  }
  if (format_.is_quantized()) {
    check_parts(checkpoint, module);
  } else if (!is_readable(*weight_)) {
    throw TensorError(
        weight_->path(),
        printable(weight_->source_name),
        "is stored as " + weight_->type_name +
            (checkpoint.is_gguf()
                 ? ", which cannot be read; use a GGUF file of F32, F16, BF16, "
                   "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS "
                   "or MXFP4 tensors"
                 : ", expected F32, F16 or BF16"));
  }
}

void StoredMatrix::check_parts(
    const Checkpoint& checkpoint,
    const std::string& module) {
  const auto fail = [&](const StoredTensor& tensor, const std::string& reason) {
    throw TensorError(
        tensor.path(),
        printable(tensor.source_name),
        reason + " (" + describe(format_) + ")");
  };
  const auto part = [&](const char* leaf) {
    const auto* tensor = checkpoint.find(module + leaf);
    if (tensor == nullptr) {
      throw TensorError(checkpoint.path(), module + leaf, "is missing");
    }
    return tensor;
  };
  const bool affine = format_.mode == QuantMode::affine;
  scales_ = part(".scales");
  biases_ = affine ? part(".biases") : nullptr;
  if (weight_->type != StoredType::u32) {
    fail(*weight_, "is stored as " + weight_->type_name + ", expected U32");
  }
  const auto packed_bits = weight_->shape.back() * 32;
  shape_.back() = packed_bits / format_.bits;
  if (packed_bits % format_.bits != 0 ||
      shape_.back() % format_.group_size != 0) {
    fail(
        *weight_,
        "has rows of " + std::to_string(weight_->shape.back()) +
            " words, expected whole groups");
  }
  auto expected = shape_;
  expected.back() /= format_.group_size;
  for (const auto* tensor : {scales_, biases_}) {
    if (tensor == nullptr) {
      continue;
    }
    const bool typed =
        affine ? is_float(tensor->type) : tensor->type == StoredType::u8;
    if (!typed) {
      fail(
          *tensor,
          "is stored as " + tensor->type_name + ", expected " +
              (affine ? "F32, F16 or BF16" : "U8"));
    }
    if (tensor->shape != expected) {
      fail(
          *tensor,
          "has shape " + to_string(tensor->shape) + ", expected " +
              to_string(expected));
    }
  }
}

std::uint64_t StoredMatrix::n_bytes() const {
  std::uint64_t sum = weight_->n_bytes();
  for (const auto* tensor : {scales_, biases_}) {
    sum += tensor == nullptr ? 0 : tensor->n_bytes();
  }
  return sum;
}

void StoredMatrix::read_rows(
    std::uint64_t first,
    std::uint64_t count,
    float* out,
    std::vector<std::byte>& scratch) const {
  if (format_.is_quantized()) {
    unpack_rows(first, count, out, scratch);
    return;
  }
  if (weight_->rows != nullptr) {
    weight_->rows->read_rows(first, count, out);
    return;
  }
  scratch.resize(
      static_cast<std::size_t>(weight_->n_bytes() / n_rows_ * count));
  read_stored_rows(*weight_, n_rows_, first, count, scratch.data());
  widen(
      *weight_,
      scratch.data(),
      static_cast<std::size_t>(count * n_columns()),
      out);
}

void StoredMatrix::unpack_rows(
    std::uint64_t first,
    std::uint64_t count,
    float* out,
    std::vector<std::byte>& scratch) const {
  const auto columns = static_cast<std::size_t>(n_columns());
  const auto n_groups = columns / static_cast<std::size_t>(format_.group_size);
  const auto read = [&](const StoredTensor& tensor) {
    scratch.resize(
        static_cast<std::size_t>(tensor.n_bytes() / n_rows_ * count));
    read_stored_rows(tensor, n_rows_, first, count, scratch.data());
  };
  const auto n_scales = n_groups * static_cast<std::size_t>(count);
  std::vector<float> scales(n_scales);
  std::vector<float> biases;
  read(*scales_);
  for (std::size_t idx = 0; biases_ == nullptr && idx < n_scales; ++idx) {
    const auto byte = static_cast<std::uint8_t>(scratch[idx]);
    scales[idx] = format_.mode == QuantMode::nvfp4 ? f8_e4m3_to_float(byte)
                                                   : f8_e8m0_to_float(byte);
  }
  if (biases_ != nullptr) {
    widen(*scales_, scratch.data(), n_scales, scales.data());
    biases.resize(n_scales);
    read(*biases_);
    widen(*biases_, scratch.data(), n_scales, biases.data());
  }
  read(*weight_);
  const auto row_bytes = static_cast<std::size_t>(weight_->n_bytes() / n_rows_);
  for (std::size_t row = 0; row < count; ++row) {
    unpack_row(
        format_,
        scratch.data() + row * row_bytes,
        scales.data() + row * n_groups,
        biases.empty() ? nullptr : biases.data() + row * n_groups,
        columns,
        out + row * columns);
  }
}

} // namespace qwen3_mlx
