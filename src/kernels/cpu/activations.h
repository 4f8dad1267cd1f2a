// SPDX-License-Identifier: MIT
// Rows of activations in the form in which they meet weights.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/context.h"

namespace qwen3_mlx::cpu {

/// Activations made ready for matrices of one format: normalized if asked, then
/// blocks of rows in the form in which they meet such weights.
class Activations {
 public:
  enum class Use {
    together, ///< All rows meet the same weights: bind().
    apart,    ///< Any rows meet any weights: gather().
  };

  /// x: num_rows rows of w.cols elements, for weights `w`.
  Activations(
      const Context& context,
      const Rows& x,
      int num_rows,
      const PackedLayout& w,
      Use use,
      const std::optional<RmsNorm>& norm = {});

  /// Gives all rows to `job`.
  void bind(MatmulJob& job) const;

  /// Rows that were gathered for a job, and what they are kept in.
  class Gathered {
   public:
    void bind(MatmulJob& job) const;

   private:
    friend class Activations;
    std::unique_ptr<std::byte[]> data_;
    std::vector<const std::byte*> blocks_;
    RowForm form_ = RowForm::int8;
    int block_rows_ = 0;
  };
  /// The rows of these indices, in this order.
  Gathered gather(const std::vector<int>& rows) const;

 private:
  RowForm form_;
  int cols_;
  int group_;
  int max_block_rows_;
  int block_rows_ = 1;
  std::unique_ptr<std::byte[]> data_;
  std::vector<const std::byte*> blocks_;
};

} // namespace qwen3_mlx::cpu
