// SPDX-License-Identifier: MIT
// Finds added tokens in text: leftmost, then longest, as Python `tokenizers`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx {

class AddedTokenMatcher {
 public:
  struct Pattern {
    std::string content; ///< What is searched for; not empty.
    AddedToken token;
  };
  struct Match {
    std::size_t start;
    std::size_t end;
    std::uint32_t id;
  };

  AddedTokenMatcher() = default;
  /// Of patterns with the same content the first counts.
  explicit AddedTokenMatcher(std::vector<Pattern> patterns);

  bool empty() const {
    return patterns_.empty();
  }

  /// Calls `on_text(stretch)` and `on_token(id)` in the order of the text,
  /// which must be valid UTF-8. Empty stretches are left out.
  template <typename OnText, typename OnToken>
  void split(
      std::string_view text,
      bool parse_special,
      OnText on_text,
      OnToken on_token) const {
    std::size_t done = 0;
    std::size_t pos = 0;
    while (!patterns_.empty()) {
      const Found found = find(text, pos);
      if (found.pattern == none) {
        break;
      }
      pos = found.start + patterns_[found.pattern].content.size();
      const Match match = widen(text, found, done, parse_special);
      if (match.end == 0) {
        continue; // Its flags forbid it here; its text is consumed all the
                  // same.
      }
      if (done < match.start) {
        on_text(text.substr(done, match.start - done));
      }
      if (match.start < match.end) {
        on_token(match.id);
      }
      done = match.end;
    }
    if (done < text.size()) {
      on_text(text.substr(done));
    }
  }

 private:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  struct Found {
    std::size_t start;
    std::size_t pattern; // none: nothing more.
  };
  // The trie's nodes; children are sorted edges in one array.
  struct Node {
    std::uint32_t first_edge = 0;
    std::uint32_t num_edges = 0;
    std::size_t pattern = none;
  };
  struct Edge {
    std::uint8_t byte;
    std::uint32_t node;
  };

  Found find(std::string_view text, std::size_t pos) const;
  /// Applies the token's flags; end 0 when they forbid the match.
  Match widen(
      std::string_view text,
      const Found& found,
      std::size_t done,
      bool parse_special) const;
  std::size_t next_candidate(std::string_view text, std::size_t pos) const;

  std::vector<Pattern> patterns_;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::array<bool, 256> is_first_byte_{};
  int only_first_byte_ = -1; // Set when all patterns begin alike.
};

} // namespace qwen3_mlx
