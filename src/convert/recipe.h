// SPDX-License-Identifier: MIT
// Which format each module of a model gets.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "qwen3_mlx/convert.h"
#include "qwen3_mlx/model_args.h"

namespace qwen3_mlx {

/// Decides as mlx-lm does, and then by the options' rules.
class Recipe {
 public:
  /// Throws InvalidArgument for options that exclude each other or formats
  /// that MLX does not have.
  Recipe(const ConvertOptions& options, const ModelArgs& args);

  /// Of a module whose rows have `n_columns` numbers; plain where its rows are
  /// not whole groups.
  QuantFormat format(std::string_view module, std::int64_t n_columns) const;

 private:
  QuantFormat mixed_format(std::string_view module) const;

  const ConvertOptions& options_;
  bool has_router_ = false; ///< Whose "mlp.gate" gets 8 bits.
  int n_layers_ = 0;
};

/// Throws InvalidArgument for a rule that none of the modules matches: it would
/// do nothing, and is a slip of the pen. `is_head_tied`: the model has no
/// lm_head, as model.embed_tokens serves.
void check_rules(
    const std::vector<ModuleRule>& rules,
    const std::vector<std::string>& modules,
    bool is_head_tied = false);

/// Whether `name` is matched by `pattern`, in which "*" stands for any
/// characters, also none.
bool matches_pattern(std::string_view pattern, std::string_view name);

} // namespace qwen3_mlx
