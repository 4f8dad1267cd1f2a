// SPDX-License-Identifier: MIT
// What a load plan knows: which tensors were taken, into what memory they go,
// and what is wrong with them. Shared by LoadPlan and its Weights views.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/matrix.h"
#include "qwen3_mlx/model_args.h"
#include "weights/checkpoint.h"
#include "weights/load_plan.h"
#include "weights/row_copy.h"

namespace qwen3_mlx {

/// Rows of one module as part of a merged matrix.
struct ModulePart {
  std::string module; ///< "model.layers.0.self_attn.q_proj"
  int out;
};

class PlanState {
 public:
  PlanState(Checkpoint checkpoint, const ModelArgs& args, PlanOptions options);
  /// Of random contents.
  PlanState(std::uint64_t seed, const ModelArgs& args, PlanOptions options);

  bool has(std::string_view name) const;
  mx::Dtype dtype() const {
    return dtype_;
  }

  /// Float tensors `names` of `sizes` after each other.
  mx::array
  take_vector(std::span<const std::string> names, std::span<const int> sizes);

  /// Modules after each other: [sum of outs, in], or, with n_experts above 0,
  /// [n_experts, sum of outs, in] with each expert's rows together. Nothing
  /// where the parts differ in format or one is missing, unless there is only
  /// one part.
  std::optional<Matrix>
  take_matrix(std::span<const ModulePart> parts, int in, int n_experts);

  /// See LoadPlan::read.
  void read(int n_threads, const LoadProgress& progress);
  std::uint64_t n_bytes() const;

 private:
  struct Module;
  struct Problem {
    std::filesystem::path path;
    std::string tensor;
    std::string reason;
  };

  mx::Dtype default_dtype(const ModelArgs& args) const;
  /// Of quantization scales and biases that are stored as `type`.
  mx::Dtype scale_dtype(StoredType type) const;
  Module resolve(const std::string& module, int in);
  Module random_module(const std::string& module, int in) const;
  std::optional<QuantFormat> configured_format(
      const std::string& module,
      const StoredTensor* weight) const;
  bool check_shape(
      const StoredTensor& tensor,
      const std::vector<std::int64_t>& expected);
  /// A float vector that is as expected; else nullptr, and what is wrong is
  /// noted.
  const StoredTensor* check_vector(const std::string& name, int size);
  void missing(const std::string& name);
  void problem(const StoredTensor& tensor, const std::string& reason);

  /// Memory of that shape, kept until it is filled; `reserved`: addresses alone
  /// (cuda::reserved_array()).
  mx::array allocate(mx::Shape shape, mx::Dtype dtype, bool reserved = false);
  /// A matrix of that form, not filled.
  Matrix allocate_matrix(
      const std::function<mx::Shape(int)>& shape,
      const QuantFormat& format,
      mx::Dtype scale_dtype,
      int in,
      bool reserved);
  /// Rows [first, first + n) of `tensor` to rows of `target`.
  struct RowRange {
    std::uint64_t first;
    std::uint64_t count;
    std::uint64_t target_row;
  };
  void copy_rows(
      const StoredTensor& tensor,
      const RowRange& range,
      RowCodec codec,
      std::array<RowTarget, 3> targets);
  void fill_random(const mx::array& array, float scale, float center);
  void fill_random_matrix(const Matrix& matrix, int in);
  /// `matrix`, which its last copies fill, in tiles where they are asked for.
  Matrix tiled(Matrix matrix, std::size_t first_array);
  bool check_module(
      const ModulePart& part,
      const Module& module,
      int in,
      int n_experts);
  std::string cure(const StoredTensor& weight) const;
  void copy_module(
      const Module& module,
      const Matrix& matrix,
      std::span<const RowRange> ranges);
  void note_left_over();
  void report() const;
  /// Reads all matrices that go into tiles, one after another.
  void read_tiled(int n_threads, const LoadProgress& progress);
  /// Reads all that is planned; matrices in blocks go through uploads.
  void read_uploaded(int n_threads, const LoadProgress& progress);

  std::optional<Checkpoint> checkpoint_; ///< Nothing: random.
  std::optional<QuantizationConfig> quantization_;
  PlanOptions options_;
  bool tied_;
  mx::Dtype dtype_ = mx::float32;
  std::uint64_t seed_ = 0;
  std::set<std::string, std::less<>> taken_;
  std::vector<Problem> problems_;
  std::vector<RowCopy> copies_;
  /// A matrix to be put into tiles when copies_[0, end_copy) are done.
  struct Tiling {
    Matrix source;
    Matrix tiled;
    std::size_t end_copy;
  };
  std::vector<Tiling> tilings_;
  /// Keeps the memory alive until read() has filled it.
  std::vector<mx::array> arrays_;
};

} // namespace qwen3_mlx
