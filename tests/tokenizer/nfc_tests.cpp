// SPDX-License-Identifier: MIT
#include "tokenizer/nfc.h"

#include <gtest/gtest.h>

#include <string>

namespace qwen3_mlx {
namespace {

std::string nfc(std::string_view text) {
  return to_nfc(text).value_or(std::string(text));
}

TEST(Nfc, LeavesComposedTextAlone) {
  for (const char* text :
       {"", "plain", "\u00E9\u00FC", "\u4F60\u597D", "\uD55C", "\U0001F600"}) {
    EXPECT_EQ(to_nfc(text), std::nullopt) << text;
  }
}

TEST(Nfc, Composes) {
  EXPECT_EQ(nfc("xe\u0301y"), "x\u00E9y");
  EXPECT_EQ(nfc("\u212B\u2126"), "\u00C5\u03A9");
  EXPECT_EQ(nfc("a\u0323\u0302"), "\u1EAD");
  EXPECT_EQ(nfc("\uFB01"), "\uFB01"); // Compatibility forms stay.
}

TEST(Nfc, ComposesHangul) {
  EXPECT_EQ(nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(nfc("\uD558\u11AB"), "\uD55C");
  EXPECT_EQ(nfc("\uD55C\u11AB"), "\uD55C\u11AB"); // Has its tail already.
}

TEST(Nfc, OrdersMarksByClass) {
  EXPECT_EQ(nfc("q\u0307\u0323"), "q\u0323\u0307");
  // A mark of the same class between blocks composition.
  EXPECT_EQ(nfc("a\u0300\u0301"), "\u00E0\u0301");
  EXPECT_EQ(nfc("\u0301\u0301"), "\u0301\u0301");
}

TEST(Nfc, TreatsNewMarksAsPythonTokenizersDoes) {
  // U+0898 has class 230 since Unicode 14 and none in tokenizers' tables.
  EXPECT_EQ(nfc("q\u0898\u0323"), "q\u0898\u0323");
}

TEST(Nfc, HandlesEveryPositionInLongText) {
  for (std::size_t before = 0; before < 20; ++before) {
    const std::string head(before, 'x');
    EXPECT_EQ(nfc(head + "e\u0301 tail"), head + "\u00E9 tail");
    EXPECT_EQ(nfc(head + "\u4F60e\u0301"), head + "\u4F60\u00E9");
  }
}

} // namespace
} // namespace qwen3_mlx
