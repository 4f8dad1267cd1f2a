// SPDX-License-Identifier: MIT
// The ids of a merge, which files give as two strings.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/byte_level.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

class MergeResolver {
 public:
  enum class Missing { nothing, left, right, merged };
  struct Result {
    TokenId left = 0;
    TokenId right = 0;
    TokenId merged = 0;
    Missing missing = Missing::nothing;
  };

  /// `vocabulary` must outlive this.
  explicit MergeResolver(const Vocabulary& vocabulary)
      : vocabulary_(vocabulary) {}

  Result resolve(std::string_view left, std::string_view right) {
    bytes_.clear();
    const bool left_spelled = append_spelled_bytes(left, bytes_);
    const std::size_t split = bytes_.size();
    if (!left_spelled || !append_spelled_bytes(right, bytes_)) {
      return resolve_strings(left, right);
    }
    const std::string_view bytes = bytes_;
    const auto left_id = vocabulary_.find_bytes(bytes.substr(0, split));
    const auto right_id = vocabulary_.find_bytes(bytes.substr(split));
    // Merges mostly are in the order of the ids they make.
    if (!vocabulary_.spells(expected_, bytes)) {
      const auto merged = vocabulary_.find_bytes(bytes);
      if (!merged) {
        return result(left_id, right_id, merged);
      }
      expected_ = *merged;
    }
    return result(left_id, right_id, expected_++);
  }

 private:
  static Result result(
      std::optional<TokenId> left,
      std::optional<TokenId> right,
      std::optional<TokenId> merged) {
    return {
        left.value_or(0),
        right.value_or(0),
        merged.value_or(0),
        !left         ? Missing::left
            : !right  ? Missing::right
            : !merged ? Missing::merged
                      : Missing::nothing};
  }

  Result resolve_strings(std::string_view left, std::string_view right) const {
    return result(
        vocabulary_.find_model_token(left),
        vocabulary_.find_model_token(right),
        vocabulary_.find_model_token(std::string(left) + std::string(right)));
  }

  const Vocabulary& vocabulary_;
  std::string bytes_;
  TokenId expected_ = 0;
};

} // namespace qwen3_mlx
