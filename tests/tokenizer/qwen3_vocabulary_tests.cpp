// SPDX-License-Identifier: MIT
// Known ids of the real Qwen3 vocabulary, where scripts/make_qwen_tokenizers.py
// has rebuilt it. The comparison with Python is scripts/parity_tokenizer.py.
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx {
namespace {

using ::testing::ElementsAre;

std::filesystem::path folder() {
  const char* cache = std::getenv("QWEN3_MLX_CACHE");
  const std::filesystem::path root =
      cache != nullptr ? cache : QWEN3_MLX_DEFAULT_CACHE;
  return root / "tokenizers" / "qwen3";
}

class Qwen3Vocabulary : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(folder() / "tokenizer.json")) {
      GTEST_SKIP() << "run scripts/make_qwen_tokenizers.py";
    }
    tokenizer_ = load_tokenizer(folder());
  }
  std::vector<std::uint32_t> encode(std::string_view text) const {
    return tokenizer_->encode(text);
  }
  std::optional<Tokenizer> tokenizer_;
};

TEST_F(Qwen3Vocabulary, HasItsTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 151669u);
  EXPECT_EQ(tokenizer_->token_to_id("<|im_end|>"), 151645u);
  EXPECT_EQ(tokenizer_->eos_id(), 151645u);
  EXPECT_EQ(tokenizer_->pad_id(), 151643u);
  EXPECT_EQ(tokenizer_->bos_id(), std::nullopt);
  EXPECT_FALSE(tokenizer_->is_special(151667));
}

TEST_F(Qwen3Vocabulary, EncodesKnownCases) {
  EXPECT_THAT(encode("Hello"), ElementsAre(9707));
  EXPECT_THAT(encode("  a"), ElementsAre(220, 264));
  EXPECT_THAT(encode(" \n a"), ElementsAre(715, 264));
  EXPECT_THAT(encode("e\u0301"), ElementsAre(963));
  EXPECT_THAT(encode("\u1112\u1161\u11AB"), ElementsAre(23573));
  EXPECT_THAT(encode("'\u017Fx"), ElementsAre(6, 144815, 87));
  EXPECT_THAT(
      encode("<think>\n\n</think>\n\n"), ElementsAre(151667, 271, 151668, 271));
}

TEST_F(Qwen3Vocabulary, DecodesWhatItEncodes) {
  for (const std::string text :
       {"def f(x):\n\treturn x  # \u4F60\u597D \U0001F468\u200D\U0001F469",
        "\u0928\u092E\u0938\u094D\u0924\u0947, "
        "\u0645\u0631\u062D\u0628\u0627"}) {
    EXPECT_EQ(tokenizer_->decode(encode(text)), text);
  }
}

} // namespace
} // namespace qwen3_mlx
