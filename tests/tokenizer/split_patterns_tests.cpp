// SPDX-License-Identifier: MIT
// The pieces below are what the regexes give in Python `tokenizers`.
#include "tokenizer/split_patterns.h"

#include <gmock/gmock.h>

#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx::split {
namespace {

using ::testing::ElementsAre;

template <typename Pattern>
std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> result;
  for (std::size_t pos = 0; pos < text.size();) {
    const auto stop = Pattern::piece_end(text.data(), pos, text.size());
    EXPECT_GT(stop, pos);
    EXPECT_LE(stop, text.size());
    result.emplace_back(text.substr(pos, stop - pos));
    pos = stop;
  }
  return result;
}

TEST(Qwen2Split, KeepsWordsWithTheCharacterBefore) {
  EXPECT_THAT(
      pieces<Qwen2>("Hello world,x (y\tz"),
      ElementsAre("Hello", " world", ",x", " (", "y", "\tz"));
  EXPECT_THAT(
      pieces<Qwen2>("\u00A0x\u00E9\u4F60"), ElementsAre("\u00A0x\u00E9\u4F60"));
}

TEST(Qwen2Split, CutsContractionsInAnyCase) {
  EXPECT_THAT(
      pieces<Qwen2>("I'm he'S we'LL'x"),
      ElementsAre("I", "'m", " he", "'S", " we", "'LL", "'x"));
  // The space takes the quote first; the long s is an s.
  EXPECT_THAT(pieces<Qwen2>(" 'Ll"), ElementsAre(" '", "Ll"));
  EXPECT_THAT(pieces<Qwen2>("'\u017Fx"), ElementsAre("'\u017F", "x"));
  EXPECT_THAT(pieces<Qwen2>("don\u2019t"), ElementsAre("don", "\u2019t"));
  EXPECT_THAT(pieces<Qwen2>("'r"), ElementsAre("'r"));
  EXPECT_THAT(pieces<Qwen2>("'"), ElementsAre("'"));
}

TEST(Qwen2Split, CutsDigitsOneByOne) {
  EXPECT_THAT(
      pieces<Qwen2>("12 3\u00BD\uFF11"),
      ElementsAre("1", "2", " ", "3", "\u00BD", "\uFF11"));
}

TEST(Qwen2Split, GivesBackOneSpaceAndKeepsNewlinesTogether) {
  EXPECT_THAT(pieces<Qwen2>("  a"), ElementsAre(" ", " a"));
  EXPECT_THAT(pieces<Qwen2>(" \n a"), ElementsAre(" \n", " a"));
  EXPECT_THAT(
      pieces<Qwen2>("a  \n\n  b"), ElementsAre("a", "  \n\n", " ", " b"));
  EXPECT_THAT(pieces<Qwen2>("!!\n\n\nx"), ElementsAre("!!\n\n\n", "x"));
  EXPECT_THAT(pieces<Qwen2>("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(pieces<Qwen2>("   1"), ElementsAre("  ", " ", "1"));
  EXPECT_THAT(pieces<Qwen2>("\r\n\t!"), ElementsAre("\r\n", "\t", "!"));
}

TEST(Qwen2Split, SplitsAtMarksAndQwen35DoesNot) {
  const std::string hindi = "\u0928\u093F\u0928";
  EXPECT_THAT(pieces<Qwen2>(hindi), ElementsAre("\u0928", "\u093F\u0928"));
  EXPECT_THAT(pieces<Qwen35>(hindi), ElementsAre(hindi));
  EXPECT_THAT(pieces<Qwen35>("!\u0301a"), ElementsAre("!\u0301a"));
}

TEST(Llama3Split, CutsDigitsInThrees) {
  EXPECT_THAT(
      pieces<Llama3>("1234567 89"), ElementsAre("123", "456", "7", " ", "89"));
}

TEST(Gpt2Split, IsCaseSensitiveAndKeepsSpacesWithNumbers) {
  EXPECT_THAT(
      pieces<Gpt2>("it's IT'S 12 !?\n\nx"),
      ElementsAre("it", "'s", " IT", "'", "S", " 12", " !?", "\n", "\n", "x"));
  EXPECT_THAT(pieces<Gpt2>("a \t"), ElementsAre("a", " \t"));
}

TEST(DigitsSplit, SeparatesNumbersFromTheRest) {
  EXPECT_THAT(
      pieces<Digits<true>>("ab12 c"), ElementsAre("ab", "1", "2", " c"));
  EXPECT_THAT(pieces<Digits<false>>("ab12 c"), ElementsAre("ab", "12", " c"));
}

TEST(DigitsSplit, KnowsTheNumbersOfUnicode17) {
  EXPECT_THAT(
      pieces<Digits<true>>("\n \U00011DE1"), ElementsAre("\n ", "\U00011DE1"));
}

TEST(SkipAsciiLetters, StopsRightAtEverySizeAndOffset) {
  for (std::size_t letters = 0; letters < 50; ++letters) {
    for (const char stop : {' ', '@', '[', '`', '{', '\xC3', '\0'}) {
      const std::string text =
          std::string(letters, 'z') + stop + std::string(20, 'A');
      for (std::size_t pos = 0; pos <= letters; ++pos) {
        EXPECT_EQ(skip_ascii_letters(text.data(), pos, text.size()), letters);
        EXPECT_EQ(skip_ascii_letters(text.data(), pos, letters), letters);
      }
    }
  }
}

} // namespace
} // namespace qwen3_mlx::split
