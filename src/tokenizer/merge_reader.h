// SPDX-License-Identifier: MIT
// Files give a merge as two strings; this finds the three ids of each.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

using MergeStrings = std::pair<std::string_view, std::string_view>;

/// A merge whose left or right side, or whose result, is no token.
struct MergeFault {
  std::size_t idx;
  std::string token;
};

/// The table of `merges`, ranked in their order, or the first fault.
struct MergeResult {
  MergeTable table;
  std::optional<MergeFault> fault;
};

MergeResult
read_merges(const Vocabulary& vocabulary, std::span<const MergeStrings> merges);

} // namespace qwen3_mlx
