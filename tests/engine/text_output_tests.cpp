// SPDX-License-Identifier: MIT
#include "engine/text_output.h"

#include <gtest/gtest.h>

namespace qwen3_mlx::engine {
namespace {

// The text that is shown when it comes in pieces of `size` bytes.
std::string shown(
    const std::vector<std::string>& stops,
    std::string_view text,
    std::size_t size,
    bool& matched) {
  StopMatcher matcher(stops);
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += size) {
    out += matcher.add(text.substr(at, size));
  }
  out += matcher.finish();
  matched = matcher.matched();
  return out;
}

struct StopCase {
  std::vector<std::string> stops;
  std::string text;
  std::string shown;
  bool matched;
};

TEST(StopMatcher, FindsStopsHoweverTheTextIsCut) {
  const std::vector<StopCase> cases = {
      {{}, "hello", "hello", false},
      {{""}, "hello", "hello", false},
      {{"lo"}, "hello", "hel", true},
      {{"END"}, "the ENEND of it", "the EN", true},
      {{"aab"}, "aaab", "a", true},
      {{"abc", "bd"}, "xabd", "xa", true},
      {{"later", "late"}, "too later", "too ", true},
      {{"xyz"}, "ends with xy", "ends with xy", false},
      {{"\n\n"}, "a\nb\n\nc", "a\nb", true},
      {{"a"}, "a", "", true},
  };
  for (const auto& [stops, text, expected, expected_match] : cases) {
    for (std::size_t size = 1; size <= text.size(); ++size) {
      bool matched = false;
      EXPECT_EQ(shown(stops, text, size, matched), expected)
          << text << " in pieces of " << size;
      EXPECT_EQ(matched, expected_match);
    }
  }
}

TEST(StopMatcher, HoldsBackNoMoreThanItMust) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.add("a st"), "a ");
  EXPECT_EQ(matcher.add("ar"), "star");
  EXPECT_EQ(matcher.add("stop it"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.add("more"), "");
}

} // namespace
} // namespace qwen3_mlx::engine
