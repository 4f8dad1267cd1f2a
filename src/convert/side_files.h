// SPDX-License-Identifier: MIT
// What a checkpoint holds besides tensors: its config and the files that are
// carried over as they are.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "convert/staged_directory.h"
#include "qwen3_mlx/matrix.h"
#include "qwen3_mlx/model_args.h"

namespace qwen3_mlx {

/// What config.json says of the tensors.
struct ConfigChanges {
  /// Of modules that `modules` does not list; nothing: none is packed.
  std::optional<QuantFormat> format;
  /// Plain: not quantized.
  std::map<std::string, QuantFormat> modules;
  std::string dtype; ///< "bfloat16"; empty: as it was.
};

/// The config with those changes, under the names that mlx-lm reads.
std::string changed_config(const ModelArgs& args, const ConfigChanges& changes);

/// Copies tokenizer, chat template, generation config and license files from
/// the directory `from`.
void copy_side_files(const std::filesystem::path& from, StagedDirectory& to);

} // namespace qwen3_mlx
