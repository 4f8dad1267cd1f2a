// SPDX-License-Identifier: MIT
// One tensor of the source and what becomes of it, row by row.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/calibrated_quantizer.h"
#include "convert/quantizer.h"
#include "convert/source_rows.h"
#include "convert/staged_directory.h"
#include "formats/safetensors_layout.h"

namespace qwen3_mlx {

/// A tensor of the output: its place in a file is known before it is written.
struct OutputTensor {
  TensorSpec spec;
  std::uint64_t row_bytes = 0;
  StagedFile* file = nullptr;
  std::uint64_t offset = 0;
};

/// Work on one tensor, or on the parts of one packed matrix.
class TensorJob {
 public:
  /// Bytes as they are (of rows that are put in order).
  static TensorJob copy(const std::string& name, const StoredTensor& tensor);
  /// Numbers in another float type.
  static TensorJob
  cast(const std::string& name, const StoredTensor& tensor, DType dtype);
  /// A matrix of any kind as floats, under "<module>.weight".
  static TensorJob
  dequantize(const std::string& module, StoredMatrix matrix, DType dtype);
  /// A matrix of any kind packed, as "<module>.weight", ".scales" and, in mode
  /// affine, ".biases" of `dtype`.
  static TensorJob quantize(
      const std::string& module,
      StoredMatrix matrix,
      DType dtype,
      std::shared_ptr<const Quantizer> quantizer,
      const QuantFormat& format);

  /// ggml's blocks as MLX packs them, exactly; see block_format(). Scales and
  /// biases of affine groups become `dtype`.
  static TensorJob
  repack(const std::string& module, StoredMatrix matrix, DType dtype);

  /// Of quantize() in mode affine: rounds as that feedback has it. Null: frees
  /// it.
  void calibrate(std::shared_ptr<const ErrorFeedback> feedback);
  /// Of quantize(): the module; else empty.
  const std::string& quantized_module() const {
    return quantized_module_;
  }

  std::vector<OutputTensor>& outputs() {
    return outputs_;
  }
  const SourceRows& source() const {
    return source_;
  }
  /// Numbers of the model: those of the source, unless count_parameters() has
  /// said that its elements are words of packed ones, or their scales.
  std::uint64_t n_parameters() const {
    return n_parameters_.value_or(source_.n_elements());
  }
  void count_parameters(std::uint64_t n_parameters) {
    n_parameters_ = n_parameters;
  }
  std::uint64_t rows_per_chunk() const {
    return source_.rows_per_chunk();
  }

  struct Scratch {
    SourceRows::Scratch source;
    std::array<std::vector<std::byte>, 3> out;
  };
  /// Reads rows [first, first + count), and writes what they become.
  void run(std::uint64_t first, std::uint64_t count, Scratch& scratch) const;

 private:
  explicit TensorJob(SourceRows source) : source_(std::move(source)) {}
  void add_output(std::string name, DType dtype, std::int64_t n_columns);
  void add_packed_outputs(
      const std::string& module,
      const QuantFormat& format,
      DType dtype);
  void quantize_rows(std::uint64_t first, std::uint64_t count, Scratch& scratch)
      const;
  void
  repack_rows(std::uint64_t first, std::uint64_t count, Scratch& scratch) const;

  SourceRows source_;
  std::shared_ptr<const Quantizer> quantizer_;
  std::optional<CalibratedQuantizer> calibrated_; ///< Instead of quantizer_.
  QuantFormat format_;
  std::string quantized_module_;
  std::optional<DType> dtype_; ///< Nothing: bytes are copied.
  bool is_of_dtype_ = false;   ///< The source holds numbers of dtype_.
  bool repacks_ = false;
  std::optional<std::uint64_t> n_parameters_;
  std::vector<OutputTensor> outputs_;
};

/// How MLX can pack such blocks of a GGUF file exactly; plain: it cannot.
QuantFormat exact_format(const StoredTensor& tensor);

/// The container's type of numbers stored as `type`; nothing for ggml's blocks.
std::optional<DType> safetensors_dtype(StoredType type);

} // namespace qwen3_mlx
