// SPDX-License-Identifier: MIT
#include "qwen3_mlx/tokenizer.h"

#include <gmock/gmock.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/utf8.h"
#include "qwen3_mlx/error.h"
#include "tokenizer/tiny_tokenizer.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Optional;
using Ids = std::vector<std::uint32_t>;

constexpr std::uint32_t hello = 259;
constexpr std::uint32_t space_hello = 260;
constexpr std::uint32_t end_token = 261;
constexpr std::uint32_t think = 262;

TEST(Tokenizer, AppliesMergesByRank) {
  const auto tokenizer = load(tiny_tokenizer_json());
  EXPECT_THAT(tokenizer.encode("hello hello"), ElementsAre(hello, space_hello));
  EXPECT_THAT(tokenizer.encode("hellhe"), ElementsAre(258, 256));
  EXPECT_THAT(tokenizer.encode(""), IsEmpty());
}

TEST(Tokenizer, FindsAddedTokensBeforeAllElse) {
  const auto tokenizer = load(tiny_tokenizer_json());
  EXPECT_THAT(
      tokenizer.encode("hello<|end|>hello<think>"),
      ElementsAre(hello, end_token, hello, think));
  EXPECT_THAT(tokenizer.encode("<|end|"), ::testing::SizeIs(6));
}

TEST(Tokenizer, TakesSpecialTokensAsTextOnRequest) {
  const auto tokenizer = load(tiny_tokenizer_json());
  const EncodeOptions plain{.parse_special = false};
  EXPECT_THAT(tokenizer.encode("<|end|>", plain), ::testing::SizeIs(7));
  EXPECT_THAT(tokenizer.encode("<think>", plain), ElementsAre(think));
}

TEST(Tokenizer, NormalizesToNfc) {
  const auto tokenizer = load(tiny_tokenizer_json());
  EXPECT_EQ(tokenizer.encode("e\u0301"), tokenizer.encode("\u00E9"));
  // Not across an added token.
  EXPECT_THAT(
      tokenizer.encode("e<think>\u0301"), ElementsAre('e', think, 0xCC, 0x81));
}

TEST(Tokenizer, ReplacesInvalidUtf8) {
  const auto tokenizer = load(tiny_tokenizer_json());
  EXPECT_EQ(tokenizer.encode("a\xF0\x9F!"), tokenizer.encode("a\uFFFD!"));
  EXPECT_EQ(
      tokenizer.encode("\xFF\xFE<think>"),
      tokenizer.encode("\uFFFD\uFFFD<think>"));
}

TEST(Tokenizer, DecodesWithAndWithoutSpecialTokens) {
  const auto tokenizer = load(tiny_tokenizer_json());
  const Ids ids{hello, end_token, think, space_hello};
  EXPECT_EQ(tokenizer.decode(ids), "hello<|end|><think> hello");
  EXPECT_EQ(
      tokenizer.decode(ids, /* skip_special_tokens */ true),
      "hello<think> hello");
  EXPECT_EQ(tokenizer.decode(Ids{'a', 0xE4, 0xBD, 'b'}), "a\uFFFDb");
}

TEST(Tokenizer, RefusesIdsOutOfRange) {
  const auto tokenizer = load(tiny_tokenizer_json());
  EXPECT_EQ(tokenizer.id_limit(), 263u);
  EXPECT_THROW(tokenizer.decode(Ids{263}), InvalidArgument);
  EXPECT_EQ(tokenizer.id_to_token(263), std::nullopt);
  EXPECT_FALSE(tokenizer.is_special(263));
}

TEST(Tokenizer, NamesItsTokens) {
  const auto tokenizer = load(tiny_tokenizer_json());
  EXPECT_EQ(tokenizer.vocab_size(), 263u);
  EXPECT_THAT(
      tokenizer.id_to_token(space_hello), Optional(std::string("\u0120hello")));
  EXPECT_THAT(tokenizer.id_to_token(think), Optional(std::string("<think>")));
  EXPECT_THAT(tokenizer.token_to_id("\u0120hello"), Optional(space_hello));
  EXPECT_THAT(tokenizer.token_to_id("<|end|>"), Optional(end_token));
  EXPECT_EQ(tokenizer.token_to_id(" hello"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(end_token));
  EXPECT_FALSE(tokenizer.is_special(think));
  ASSERT_EQ(tokenizer.added_tokens().size(), 2u);
  EXPECT_EQ(tokenizer.added_tokens()[1].content, "<think>");
}

TEST(Tokenizer, PrefersWholeTokensWithIgnoreMerges) {
  auto json = tiny_tokenizer_json();
  json["model"]["merges"] = Json::array({"h e"});
  EXPECT_THAT(load(json).encode("hello"), ElementsAre(256, 'l', 'l', 'o'));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(load(json).encode("hello"), ElementsAre(hello));
}

TEST(Tokenizer, ReadsMergesAsPairs) {
  auto json = tiny_tokenizer_json();
  json["model"]["merges"] =
      Json::parse(R"([["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]])");
  EXPECT_THAT(load(json).encode("hello"), ElementsAre(hello));
}

TEST(Tokenizer, DropsOrMarksBytesThatAreNoToken) {
  auto json = tiny_tokenizer_json();
  json["model"]["vocab"].erase("z");
  // What is dropped separates nothing.
  EXPECT_THAT(load(json).encode("hezllzz"), ElementsAre(258));
  json["model"]["unk_token"] = "!";
  EXPECT_THAT(load(json).encode("azzb"), ElementsAre('a', '!', '!', 'b'));
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(load(json).encode("azzb"), ElementsAre('a', '!', 'b'));
}

TEST(Tokenizer, AddsWhatTheTemplateSays) {
  auto json = tiny_tokenizer_json();
  const Json special = {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {special, text}},
      {"special_tokens", {{"<|end|>", {{"ids", {end_token}}}}}}};
  const auto tokenizer = load(json);
  EXPECT_THAT(tokenizer.encode("a"), ElementsAre('a'));
  EXPECT_THAT(
      tokenizer.encode("a", /* add_special_tokens */ true),
      ElementsAre(end_token, 'a'));
}

TEST(Tokenizer, ObeysFlagsOfAddedTokens) {
  auto json = tiny_tokenizer_json();
  auto& token = json["added_tokens"][1];
  token["lstrip"] = true;
  token["rstrip"] = true;
  EXPECT_THAT(
      load(json).encode("a \n<think>\t b"), ElementsAre('a', think, 'b'));
  token["lstrip"] = token["rstrip"] = false;
  token["single_word"] = true;
  const auto whole_words = load(json);
  EXPECT_THAT(whole_words.encode("<think>"), ElementsAre(think));
  EXPECT_THAT(whole_words.encode("_<think>"), ::testing::SizeIs(8));
  EXPECT_THAT(whole_words.encode("<think>\u00E9"), ::testing::SizeIs(9));
}

TEST(Tokenizer, PrefersTheLongestAddedToken) {
  auto json = tiny_tokenizer_json();
  json["added_tokens"].push_back(added_token_json(263, "<think>!"));
  json["added_tokens"].push_back(added_token_json(264, "<th"));
  EXPECT_THAT(
      load(json).encode("<think>!<think><thi"),
      ElementsAre(263, think, 264, 'i'));
}

TEST(Tokenizer, EncodesOnManyThreadsAsOnOne) {
  const auto tokenizer = load(tiny_tokenizer_json());
  std::mt19937 random(7);
  std::vector<std::string> texts(500);
  for (auto& text : texts) {
    for (auto count = random() % 400; count > 0; --count) {
      text += " hello!\n\xC3\xA9"[random() % 10];
    }
  }
  const auto expected = tokenizer.encode_batch(texts, {}, /* num_threads */ 1);
  EXPECT_EQ(tokenizer.encode_batch(texts, {}, /* num_threads */ 4), expected);
  // And through one handle from threads of the caller's.
  std::vector<std::thread> threads;
  std::vector<std::vector<Ids>> results(4);
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (const auto& text : texts) {
        result.push_back(tokenizer.encode(text));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  for (const auto& result : results) {
    EXPECT_EQ(result, expected);
  }
}

TEST(Tokenizer, IsFastOnHostileText) {
  const auto tokenizer = load(tiny_tokenizer_json());
  // Quadratic time would take minutes.
  for (const char* unit : {"h", " ", "he", "l", "\n", "\u0301", "<", "'"}) {
    std::string text;
    while (text.size() < 1'000'000) {
      text += unit;
    }
    EXPECT_FALSE(tokenizer.encode(text).empty());
  }
}

TEST(StreamingDetokenizer, HoldsIncompleteCharactersBack) {
  StreamingDetokenizer stream(load(tiny_tokenizer_json()));
  EXPECT_EQ(stream.add('a'), "a");
  EXPECT_EQ(stream.add(0xE4), "");
  EXPECT_EQ(stream.add(0xBD), "");
  EXPECT_EQ(stream.add(0xA0), "\u4F60");
  EXPECT_EQ(stream.add(end_token), "");
  EXPECT_EQ(stream.add(0xF0), "");
  EXPECT_EQ(stream.add('b'), "\uFFFDb");
  EXPECT_EQ(stream.add(0xC3), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_THROW(stream.add(1 << 20), InvalidArgument);
}

TEST(StreamingDetokenizer, GivesWhatDecodeGives) {
  const auto tokenizer = load(tiny_tokenizer_json());
  std::mt19937 random(11);
  const std::string bytes = "a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80\xED\xFF\x80";
  for (int round = 0; round < 2000; ++round) {
    Ids ids(random() % 12);
    for (auto& id : ids) {
      id = random() % 8 == 0
          ? end_token
          : static_cast<std::uint8_t>(bytes[random() % bytes.size()]);
    }
    for (const bool skip : {false, true}) {
      StreamingDetokenizer stream(tokenizer, skip);
      std::string text;
      for (const auto id : ids) {
        const auto piece = stream.add(id);
        EXPECT_EQ(complete_utf8_prefix(piece), piece.size());
        text += piece;
      }
      EXPECT_EQ(text + stream.finish(), tokenizer.decode(ids, skip));
    }
  }
}

} // namespace
} // namespace qwen3_mlx::testing
