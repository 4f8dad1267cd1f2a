// SPDX-License-Identifier: MIT
#include "base/utf8.h"

#include <gtest/gtest.h>

namespace qwen3_mlx {
namespace {

TEST(Utf8, EveryScalarValueRoundTrips) {
  for (char32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point == 0xD800) {
      code_point = 0xE000; // surrogates are not scalar values
    }
    std::string bytes;
    append_utf8(bytes, code_point);
    const auto step = decode_utf8(bytes);
    ASSERT_TRUE(step.valid) << std::uint32_t{code_point};
    ASSERT_EQ(step.code_point, code_point);
    ASSERT_EQ(step.n_bytes, bytes.size());
  }
}

TEST(Utf8, ReplacesMaximalSubpartsAsPythonDoes) {
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(replace_invalid_utf8("\xFFz"), mark + "z");
  EXPECT_EQ(replace_invalid_utf8("\xE2\x82z"), mark + "z");
  EXPECT_EQ(replace_invalid_utf8("\xC0\xAF"), mark + mark); // overlong
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), mark + mark + mark);
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x98"), mark);
  EXPECT_EQ(
      replace_invalid_utf8("\xF4\x90\x80\x80"), mark + mark + mark + mark);
  EXPECT_EQ(replace_invalid_utf8("gr\xC3\xBC\xC3\x9F"), "gr\xC3\xBC\xC3\x9F");
}

TEST(Utf8, HoldsBackOnlyWhatCanStillComplete) {
  EXPECT_EQ(complete_utf8_prefix(""), 0u);
  EXPECT_EQ(complete_utf8_prefix("ab"), 2u);
  EXPECT_EQ(complete_utf8_prefix("ab\xC3"), 2u);
  EXPECT_EQ(complete_utf8_prefix("ab\xF0\x9F\x98"), 2u);
  EXPECT_EQ(complete_utf8_prefix("ab\xF0\x9F\x98\x80"), 6u);
  EXPECT_EQ(complete_utf8_prefix("ab\xFF"), 3u);
  EXPECT_EQ(complete_utf8_prefix("a\xE0\x80"), 3u); // can never complete
}

} // namespace
} // namespace qwen3_mlx
