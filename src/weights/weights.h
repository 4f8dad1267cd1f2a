// SPDX-License-Identifier: MIT
// The view of a checkpoint from which layers are built: names under a prefix.
// Taking a tensor registers it in the load plan and returns an array whose
// memory is there but not yet filled; LoadPlan::read fills it.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "mlx/array.h"
#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

class PlanState;

/// Names of the tensors below a prefix; copies are cheap and share the plan.
/// Nothing here throws for a tensor that is missing or of another shape: the
/// plan notes it, hands out an array that is never read, and reports all such
/// tensors at once in LoadPlan::read.
class Weights {
 public:
  Weights(std::shared_ptr<PlanState> plan, std::string prefix);

  /// "<prefix>.<child>"
  Weights sub(std::string_view child) const;
  /// "<prefix>.<child>.<index>"
  Weights sub(std::string_view child, int index) const;
  const std::string& prefix() const {
    return prefix_;
  }

  /// Whether the checkpoint holds "<prefix>.<leaf>".
  bool has(std::string_view leaf) const;

  /// "<prefix>.<leaf>", a float tensor [size], in the compute dtype.
  mx::array vector(std::string_view leaf, int size) const;
  /// The tensors "<prefix>.<names[i]>.<leaf>" [sizes[i]] after each other.
  mx::array merged_vector(
      std::span<const std::string_view> names,
      std::string_view leaf,
      std::span<const int> sizes) const;

  /// "<prefix>.weight" [out, in]: plain in the compute dtype, or packed with
  /// ".scales" and ".biases".
  Matrix matrix(int out, int in) const;
  /// Rows of the children `names` after each other, [sum of outs, in]; nothing
  /// where their formats differ, and then none is taken.
  std::optional<Matrix> merged(
      std::span<const std::string_view> names,
      std::span<const int> outs,
      int in) const;

  /// "<prefix>.weight" [n_experts, out, in], plain or packed.
  Matrix experts(int n_experts, int out, int in) const;
  /// Of each expert, rows of the children `names` after each other:
  /// [n_experts, names.size() * out_each, in]; nothing where formats differ.
  std::optional<Matrix> merged_experts(
      std::span<const std::string_view> names,
      int n_experts,
      int out_each,
      int in) const;

  /// Of activations and of plain weights.
  mx::Dtype dtype() const;

 private:
  std::string name(std::string_view leaf) const;

  std::shared_ptr<PlanState> plan_;
  std::string prefix_;
};

} // namespace qwen3_mlx
