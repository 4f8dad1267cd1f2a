// SPDX-License-Identifier: MIT
#include "tokenizer/added_token_matcher.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "tokenizer/text_cursor.h"

namespace qwen3_mlx {
namespace {

bool is_word(char32_t code_point) {
  return (unicode::properties(code_point) & unicode::word_bit) != 0;
}

bool is_white_space(char32_t code_point) {
  const auto kind = unicode::char_class(code_point);
  return kind == unicode::CharClass::Space ||
      kind == unicode::CharClass::Newline;
}

} // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<Pattern> patterns)
    : patterns_(std::move(patterns)) {
  std::vector<std::size_t> order(patterns_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto left, auto right) {
    return patterns_[left].content < patterns_[right].content;
  });
  // Breadth first over ranges of the sorted contents that share a prefix: the
  // edges of a node end up beside each other.
  struct Range {
    std::size_t first;
    std::size_t last;
    std::size_t depth;
  };
  std::vector<Range> ranges{{0, order.size(), 0}};
  nodes_.emplace_back();
  for (std::size_t node = 0; node < ranges.size(); ++node) {
    auto [first, last, depth] = ranges[node];
    const auto content = [&](std::size_t idx) -> const std::string& {
      return patterns_[order[idx]].content;
    };
    while (first < last && content(first).size() == depth) {
      if (nodes_[node].pattern == none) {
        nodes_[node].pattern = order[first];
      }
      ++first;
    }
    nodes_[node].first_edge = static_cast<std::uint32_t>(edges_.size());
    while (first < last) {
      const char byte = content(first)[depth];
      std::size_t stop = first;
      while (stop < last && content(stop)[depth] == byte) {
        ++stop;
      }
      edges_.push_back(
          {static_cast<std::uint8_t>(byte),
           static_cast<std::uint32_t>(nodes_.size())});
      nodes_.emplace_back();
      ranges.push_back({first, stop, depth + 1});
      first = stop;
    }
    nodes_[node].num_edges =
        static_cast<std::uint32_t>(edges_.size()) - nodes_[node].first_edge;
  }
  for (std::uint32_t idx = 0; idx < nodes_[0].num_edges; ++idx) {
    is_first_byte_[edges_[idx].byte] = true;
    only_first_byte_ = nodes_[0].num_edges == 1 ? edges_[idx].byte : -1;
  }
}

std::size_t AddedTokenMatcher::next_candidate(
    std::string_view text,
    std::size_t pos) const {
  if (only_first_byte_ >= 0) {
    const void* found =
        std::memchr(text.data() + pos, only_first_byte_, text.size() - pos);
    return found == nullptr
        ? text.size()
        : static_cast<std::size_t>(
              static_cast<const char*>(found) - text.data());
  }
  while (pos < text.size() &&
         !is_first_byte_[static_cast<std::uint8_t>(text[pos])]) {
    ++pos;
  }
  return pos;
}

AddedTokenMatcher::Found
AddedTokenMatcher::find(std::string_view text, std::size_t pos) const {
  while (pos < text.size()) {
    pos = next_candidate(text, pos);
    std::size_t best = none;
    std::size_t node = 0;
    for (std::size_t at = pos; at < text.size(); ++at) {
      const auto first = edges_.begin() + nodes_[node].first_edge;
      const auto last = first + nodes_[node].num_edges;
      const auto byte = static_cast<std::uint8_t>(text[at]);
      const auto edge = std::lower_bound(
          first, last, byte, [](const Edge& candidate, std::uint8_t value) {
            return candidate.byte < value;
          });
      if (edge == last || edge->byte != byte) {
        break;
      }
      node = edge->node;
      best = nodes_[node].pattern != none ? nodes_[node].pattern : best;
    }
    if (best != none) {
      return {pos, best};
    }
    ++pos;
  }
  return {text.size(), none};
}

AddedTokenMatcher::Match AddedTokenMatcher::widen(
    std::string_view text,
    const Found& found,
    std::size_t done,
    bool parse_special) const {
  const auto& [content, token] = patterns_[found.pattern];
  std::size_t start = found.start;
  std::size_t end = start + content.size();
  if (token.special && !parse_special) {
    return {};
  }
  const char* data = text.data();
  const auto char_before = [&](std::size_t pos) {
    return char_at(data, char_start_before(data, pos)).code_point;
  };
  if (token.single_word) {
    if ((start > 0 && is_word(char_before(start))) ||
        (end < text.size() && is_word(char_at(data, end).code_point))) {
      return {};
    }
  }
  if (token.lstrip) {
    while (start > done && is_white_space(char_before(start))) {
      start = char_start_before(data, start);
    }
    // What the token before has swallowed is not this one's; that may be all.
    start = std::max(start, done);
  }
  if (token.rstrip) {
    while (end < text.size()) {
      const Char next = char_at(data, end);
      if (!is_white_space(next.code_point)) {
        break;
      }
      end += next.n_bytes;
    }
  }
  return {start, end, token.id};
}

} // namespace qwen3_mlx
