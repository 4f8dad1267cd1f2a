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

bool are_finite(std::span<const float> values) {
  // Only infinities and NaN have all bits of the exponent. A maximum of
  // integers: a sum of floats would be one chain of additions.
  std::int32_t largest = 0;
  for (const float value : values) {
    largest =
        std::max(largest, std::bit_cast<std::int32_t>(value) & 0x7FFFFFFF);
  }
  return largest < 0x7F800000;
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
  auto shape = source_.shape();
  if (shape.size() > 1) {
    shape.back() = n_columns;
  }
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
  TensorJob job{SourceRows(tensor)};
  job.dtype_ = dtype;
  job.add_output(
      name, dtype, static_cast<std::int64_t>(job.source_.n_columns()));
  return job;
}

TensorJob TensorJob::dequantize(
    const std::string& module,
    StoredMatrix matrix,
    DType dtype) {
  TensorJob job{SourceRows(std::move(matrix))};
  job.dtype_ = dtype;
  job.add_output(module + ".weight", dtype, job.source_.shape().back());
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
  job.is_of_dtype_ = safetensors_dtype(job.source_.tensor().type) == dtype;
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
  if (feedback->size() != source_.n_columns()) {
    const auto& weight = source_.tensor();
    throw TensorError(
        weight.path(),
        printable(weight.source_name),
        "has " + std::to_string(source_.n_columns()) +
            " columns, its inputs have " + std::to_string(feedback->size()) +
            " numbers");
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
  const auto columns = source_.shape().back();
  const auto groups = columns / format.group_size;
  const bool affine = format.mode == QuantMode::affine;
  add_output(module + ".weight", DType::u32, columns * format.bits / 32);
  add_output(module + ".scales", affine ? dtype : DType::u8, groups);
  if (affine) {
    add_output(module + ".biases", dtype, groups);
  }
}

void TensorJob::quantize_rows(
    std::uint64_t first,
    std::uint64_t count,
    Scratch& scratch) const {
  source_.read(first, count, scratch.source);
  const auto columns = static_cast<std::size_t>(source_.n_columns());
  for (std::size_t row = 0; row < count; ++row) {
    const auto numbers =
        std::span(scratch.source.values).subspan(row * columns, columns);
    if (!is_of_dtype_) {
      round_to(*dtype_, numbers);
    }
    if (!are_finite(numbers)) {
      const auto& weight = source_.tensor();
      throw TensorError(
          weight.path(),
          printable(weight.source_name),
          "holds NaN, infinity or what its float type cannot hold in row " +
              std::to_string(first + row) + "; that cannot be quantized");
    }
    const auto at = [&](std::size_t idx) {
      return idx < outputs_.size()
          ? scratch.out[idx].data() + row * outputs_[idx].row_bytes
          : nullptr;
    };
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
  const auto& weight = source_.tensor();
  const auto block = ggml_block(*weight.ggml_type);
  const auto n_blocks = count * source_.n_columns() / block.n_elements;
  auto& bytes = scratch.source.source;
  bytes.resize(static_cast<std::size_t>(n_blocks * block.n_bytes));
  read_stored_rows(weight, source_.n_rows(), first, count, bytes.data());
  const auto* from = bytes.data();
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
    read_stored_rows(
        source_.tensor(),
        source_.n_rows(),
        first,
        count,
        scratch.out[0].data());
  } else if (repacks_) {
    repack_rows(first, count, scratch);
  } else if (quantizer_) {
    quantize_rows(first, count, scratch);
  } else {
    source_.read(first, count, scratch.source);
    narrow(*dtype_, scratch.source.values, scratch.out[0].data());
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
