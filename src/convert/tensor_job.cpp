// SPDX-License-Identifier: MIT
#include "convert/tensor_job.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "formats/checked.h"
#include "qwen3_mlx/error.h"
#include "weights/ggml_blocks.h"
#include "weights/stored_format.h"

namespace qwen3_mlx {
namespace {

// Elements of a piece of work: 4 MiB as float32, so that reads and writes are
// large and the memory of a thread is small.
constexpr std::uint64_t chunk_elements = std::uint64_t{1} << 20;

/// A vector's elements are rows of one.
std::vector<std::int64_t> row_shape(const StoredTensor& tensor) {
  auto shape = tensor.shape;
  if (shape.size() < 2) {
    shape.push_back(1);
  }
  return shape;
}

std::uint64_t
product(const std::vector<std::int64_t>& dims, std::size_t count) {
  std::uint64_t result = 1;
  for (std::size_t idx = 0; idx < count; ++idx) {
    result *= static_cast<std::uint64_t>(dims[idx]);
  }
  return result;
}

} // namespace

QuantFormat exact_format(const StoredTensor& tensor) {
  return block_format(tensor.type).value_or(QuantFormat{});
}

std::optional<DType> safetensors_dtype(StoredType type) {
  switch (type) {
  case StoredType::f32:
    return DType::f32;
  case StoredType::f16:
    return DType::f16;
  case StoredType::bf16:
    return DType::bf16;
  case StoredType::u32:
    return DType::u32;
  case StoredType::u8:
    return DType::u8;
  default:
    return std::nullopt;
  }
}

void TensorJob::add_output(
    std::string name,
    DType dtype,
    std::int64_t n_columns) {
  auto shape = shape_;
  shape.back() = n_columns;
  OutputTensor output;
  output.row_bytes =
      static_cast<std::uint64_t>(n_columns) * dtype_bits(dtype) / 8;
  output.spec = {std::move(name), dtype, std::move(shape)};
  outputs_.push_back(std::move(output));
}

TensorJob TensorJob::copy(const std::string& name, const StoredTensor& tensor) {
  const auto dtype = safetensors_dtype(tensor.type);
  if (!dtype) {
    throw TensorError(
        tensor.path(),
        printable(tensor.source_name),
        "is stored as " + tensor.type_name + ", which cannot be converted");
  }
  auto job = cast(name, tensor, *dtype);
  job.dtype_ = std::nullopt;
  return job;
}

TensorJob TensorJob::cast(
    const std::string& name,
    const StoredTensor& tensor,
    DType dtype) {
  TensorJob job;
  job.tensor_ = &tensor;
  job.dtype_ = dtype;
  job.shape_ = row_shape(tensor);
  job.n_rows_ = product(job.shape_, job.shape_.size() - 1);
  job.n_columns_ = static_cast<std::uint64_t>(job.shape_.back());
  job.n_bytes_ = tensor.n_bytes();
  job.add_output(name, dtype, job.shape_.back());
  job.outputs_.back().spec.shape = tensor.shape;
  return job;
}

TensorJob TensorJob::dequantize(
    const std::string& module,
    StoredMatrix matrix,
    DType dtype) {
  TensorJob job;
  job.dtype_ = dtype;
  job.shape_ = matrix.shape();
  job.n_rows_ = matrix.n_rows();
  job.n_columns_ = matrix.n_columns();
  job.n_bytes_ = matrix.n_bytes();
  job.matrix_ = std::move(matrix);
  job.add_output(module + ".weight", dtype, job.shape_.back());
  return job;
}

TensorJob TensorJob::quantize(
    const std::string& module,
    StoredMatrix matrix,
    DType dtype,
    std::shared_ptr<const Quantizer> quantizer,
    const QuantFormat& format) {
  auto job = dequantize(module, std::move(matrix), dtype);
  job.quantizer_ = std::move(quantizer);
  job.format_ = format;
  job.quantized_module_ = module;
  job.outputs_.clear();
  job.add_packed_outputs(module, format, dtype);
  return job;
}

void TensorJob::calibrate(std::shared_ptr<const ErrorFeedback> feedback) {
  calibrated_.reset();
  if (feedback == nullptr || format_.mode != QuantMode::affine) {
    return;
  }
  if (feedback->size() != n_columns_) {
    const auto& weight = matrix_->weight();
    throw TensorError(
        weight.path(),
        printable(weight.source_name),
        "has " + std::to_string(n_columns_) + " columns, its inputs have " +
            std::to_string(feedback->size()) + " numbers");
  }
  calibrated_.emplace(format_, *dtype_, std::move(feedback));
}

TensorJob
TensorJob::repack(const std::string& module, StoredMatrix matrix, DType dtype) {
  const auto format = exact_format(matrix.weight());
  auto job = dequantize(module, std::move(matrix), dtype);
  job.repacks_ = true;
  job.outputs_.clear();
  job.add_packed_outputs(module, format, dtype);
  return job;
}

void TensorJob::add_packed_outputs(
    const std::string& module,
    const QuantFormat& format,
    DType dtype) {
  const auto columns = shape_.back();
  const auto groups = columns / format.group_size;
  const bool affine = format.mode == QuantMode::affine;
  add_output(module + ".weight", DType::u32, columns * format.bits / 32);
  add_output(module + ".scales", affine ? dtype : DType::u8, groups);
  if (affine) {
    add_output(module + ".biases", dtype, groups);
  }
}

std::uint64_t TensorJob::rows_per_chunk() const {
  return std::max<std::uint64_t>(
      1, chunk_elements / std::max<std::uint64_t>(1, n_columns_));
}

void TensorJob::read_values(
    std::uint64_t first,
    std::uint64_t count,
    Scratch& scratch) const {
  scratch.values.resize(static_cast<std::size_t>(count * n_columns_));
  if (matrix_) {
    matrix_->read_rows(first, count, scratch.values.data(), scratch.source);
  } else {
    scratch.source.resize(
        static_cast<std::size_t>(tensor_->n_bytes() / n_rows_ * count));
    read_stored_rows(*tensor_, n_rows_, first, count, scratch.source.data());
    widen(
        *tensor_,
        scratch.source.data(),
        scratch.values.size(),
        scratch.values.data());
  }
}

void TensorJob::quantize_rows(
    std::uint64_t first,
    std::uint64_t count,
    Scratch& scratch) const {
  read_values(first, count, scratch);
  const std::span<float> values(scratch.values);
  round_to(*dtype_, values);
  // Only infinities and NaN have all bits of the exponent. Integers: a sum of
  // floats would be one chain of additions.
  constexpr std::uint32_t exponent = 0x7F800000u;
  bool is_finite = true;
  for (const float value : values) {
    is_finite &= (std::bit_cast<std::uint32_t>(value) & exponent) != exponent;
  }
  if (!is_finite) {
    const auto& weight = matrix_->weight();
    throw TensorError(
        weight.path(),
        printable(weight.source_name),
        "holds NaN, infinity or what its float type cannot hold in rows " +
            std::to_string(first) + " to " + std::to_string(first + count - 1) +
            "; that cannot be quantized");
  }
  const auto columns = static_cast<std::size_t>(n_columns_);
  for (std::size_t row = 0; row < count; ++row) {
    const auto at = [&](std::size_t idx) {
      return idx < outputs_.size()
          ? scratch.out[idx].data() + row * outputs_[idx].row_bytes
          : nullptr;
    };
    const auto numbers = values.subspan(row * columns, columns);
    const PackedRow out{at(0), at(1), at(2)};
    if (calibrated_) {
      calibrated_->quantize_row(numbers, out);
    } else {
      quantizer_->quantize_row(numbers, out);
    }
  }
}

void TensorJob::repack_rows(
    std::uint64_t first,
    std::uint64_t count,
    Scratch& scratch) const {
  const auto& weight = matrix_->weight();
  const auto block = ggml_block(*weight.ggml_type);
  const auto n_blocks = count * n_columns_ / block.n_elements;
  scratch.source.resize(static_cast<std::size_t>(n_blocks * block.n_bytes));
  read_stored_rows(weight, n_rows_, first, count, scratch.source.data());
  const auto* from = scratch.source.data();
  auto* packed = scratch.out[0].data();
  const auto packed_bytes = scratch.out[0].size() / n_blocks;
  if (weight.type == StoredType::mxfp4) {
    for (std::uint64_t idx = 0; idx < n_blocks; ++idx) {
      scratch.out[1][idx] = from[0];
      repack_ggml_nibbles(from + 1, packed);
      from += block.n_bytes;
      packed += packed_bytes;
    }
    return;
  }
  const auto codec = weight.type == StoredType::q4_0 ? RowCodec::q4_0
      : weight.type == StoredType::q4_1              ? RowCodec::q4_1
                                                     : RowCodec::q8_0;
  const auto float_bytes = static_cast<std::size_t>(dtype_bits(*dtype_) / 8);
  for (std::uint64_t idx = 0; idx < n_blocks; ++idx) {
    const auto group = unpack_ggml_block(codec, from, packed);
    const std::array<float, 2> pair = {
        static_cast<float>(group.scale), static_cast<float>(group.bias)};
    for (std::size_t which = 0; which < pair.size(); ++which) {
      if (!std::isfinite(pair[which])) {
        throw TensorError(
            weight.path(),
            printable(weight.source_name),
            "has a block with a scale of " + std::to_string(pair[0]) +
                ", too large for float16 weights or not a number");
      }
      narrow(
          *dtype_,
          {&pair[which], 1},
          scratch.out[1 + which].data() + idx * float_bytes);
    }
    from += block.n_bytes;
    packed += packed_bytes;
  }
}

void TensorJob::run(std::uint64_t first, std::uint64_t count, Scratch& scratch)
    const {
  const auto n_rows = static_cast<std::size_t>(count);
  for (std::size_t idx = 0; idx < outputs_.size(); ++idx) {
    scratch.out[idx].resize(
        static_cast<std::size_t>(outputs_[idx].row_bytes) * n_rows);
  }
  if (!dtype_) {
    read_stored_rows(*tensor_, n_rows_, first, count, scratch.out[0].data());
  } else if (repacks_) {
    repack_rows(first, count, scratch);
  } else if (quantizer_) {
    quantize_rows(first, count, scratch);
  } else {
    read_values(first, count, scratch);
    narrow(*dtype_, scratch.values, scratch.out[0].data());
  }
  for (std::size_t idx = 0; idx < outputs_.size(); ++idx) {
    const auto& output = outputs_[idx];
    output.file->write(
        output.offset + first * output.row_bytes,
        scratch.out[idx].data(),
        scratch.out[idx].size());
  }
}

} // namespace qwen3_mlx
