// SPDX-License-Identifier: MIT
// The fast reader of vocabulary and merges: it agrees with the plain one, and
// leaves to it what it does not know.
#include "tokenizer/model_lists.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "qwen3_mlx/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tiny_tokenizer.h"

namespace qwen3_mlx {
namespace {

using Json = nlohmann::ordered_json;

/// With the vocabulary before the merges, as in real files.
Json tiny_json() {
  Json json = testing::tiny_tokenizer_json();
  const Json merges = json["model"]["merges"];
  json["model"].erase("merges");
  json["model"]["merges"] = merges;
  return json;
}

std::optional<ModelLists> read_lists(std::string_view text) {
  return read_model_lists(
      {text.size(), [&](std::uint64_t offset, std::size_t n_bytes, char* out) {
         text.copy(out, n_bytes, static_cast<std::size_t>(offset));
       }});
}

/// A file of more than the reader's buffer, with strings of all lengths,
/// escapes, and characters of one to two bytes.
Json large_json() {
  Json json = tiny_json();
  Json& vocab = json["model"]["vocab"];
  Json& merges = json["model"]["merges"];
  std::string token = spell_bytes(" ");
  auto id = static_cast<std::uint32_t>(vocab.size());
  for (auto& added : json["added_tokens"]) {
    added["id"] = added["id"].get<std::uint32_t>() + 100'000;
  }
  for (int idx = 0; idx < 30'000; ++idx) {
    const char byte = static_cast<char>(idx * 7 + idx / 256);
    const auto right = spell_bytes({&byte, 1});
    if (vocab.contains(token + right)) {
      token = spell_bytes({&byte, 1});
      continue;
    }
    merges.push_back(
        idx % 2 == 0 ? Json(token + ' ' + right) : Json{token, right});
    token += right;
    vocab[token] = id++;
    if (token.size() > 40) {
      token = right;
    }
  }
  return json;
}

void expect_same(const std::string& text) {
  const auto fast = make_tokenizer(parse_tokenizer_json("f", text));
  const auto plain = make_tokenizer(parse_tokenizer_json_plainly("f", text));
  ASSERT_EQ(fast.vocab_size(), plain.vocab_size());
  for (std::uint32_t id = 0; id < plain.vocab_size(); ++id) {
    ASSERT_EQ(fast.id_to_token(id), plain.id_to_token(id)) << id;
  }
  // Its own text has all tokens of the file in it.
  EXPECT_EQ(fast.encode(text), plain.encode(text));
}

TEST(ModelLists, AreThoseOfThePlainReader) {
  for (const int indent : {-1, 0, 2, 9}) {
    for (const bool ascii : {false, true}) {
      const auto text = large_json().dump(indent, ' ', ascii);
      SCOPED_TRACE(std::to_string(indent) + (ascii ? " ascii" : ""));
      ASSERT_GT(text.size(), std::size_t{1} << 18);
      // Only \u escapes are left to the plain reader.
      EXPECT_EQ(read_lists(text).has_value(), !ascii);
      expect_same(text);
    }
  }
}

TEST(ModelLists, LeaveTheRestAsItIs) {
  const auto json = large_json();
  const auto lists = read_lists(json.dump(1));
  ASSERT_TRUE(lists);
  Json rest = json;
  rest["model"]["vocab"] = Json::object();
  rest["model"]["merges"] = Json::array();
  EXPECT_EQ(lists->rest, rest.dump(1));
}

TEST(ModelLists, ReadPastLargeValuesOfOtherFields) {
  Json json = tiny_json();
  json["a"] = Json::array();
  for (int idx = 0; idx < 100'000; ++idx) {
    json["a"].push_back({{"x", "]}\\\""}, {"y", {1.5, nullptr, true}}});
  }
  const auto text = json.dump();
  EXPECT_TRUE(read_lists(text));
  expect_same(text);
}

class UnknownForm : public ::testing::TestWithParam<std::string> {};

TEST_P(UnknownForm, IsLeftToThePlainReader) {
  const auto& text = GetParam();
  EXPECT_FALSE(read_lists(text));
  const auto message = [&](auto parse) {
    try {
      parse("f", text);
      return std::string("reads it");
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(
      message(parse_tokenizer_json), message(parse_tokenizer_json_plainly));
}

std::string model(std::string_view fields) {
  return "{\"model\":{\"type\":\"BPE\"," + std::string(fields) + "}}";
}

INSTANTIATE_TEST_SUITE_P(
    Texts,
    UnknownForm,
    ::testing::Values(
        "",
        "{",
        "[]",
        "{\"model\":",
        std::string("{\"model\"\0:{}}", 13),
        model(R"("vocab":{},"merges":[])"),
        model(R"("merges":[],"vocab":{"a":0})"),
        model(R"("vocab":{"a":0})"),
        model(R"("vocab":{"a":0},"vocab":{"b":1},"merges":[])"),
        model(R"("vocab":{"a":0},"merges":[],"merges":[])"),
        model(R"("vocab":{"a":0,"a":1},"merges":[])"),
        model(R"("vocab":{"a":0,"b":0},"merges":[])"),
        model(R"("vocab":{"a":00},"merges":[])"),
        model(R"("vocab":{"a":-1},"merges":[])"),
        model(R"("vocab":{"a":1.0},"merges":[])"),
        model(R"("vocab":{"a":4294967296},"merges":[])"),
        model(R"("vocab":{"a":99999999999999999999},"merges":[])"),
        model(R"("vocab":{"a":"0"},"merges":[])"),
        model(R"("vocab":{"a":0,},"merges":[])"),
        model(R"("vocab":{"\u0061":0},"merges":[])"),
        model(R"("voc\u0061b":{"a":0},"merges":[])"),
        model(R"("vocab":{"\x":0},"merges":[])"),
        model("\"vocab\":{\"\n\":0},\"merges\":[]"),
        model("\"vocab\":{\"\xFF\":0},\"merges\":[]"),
        model(R"("vocab":{"a":0,"b":1},"merges":["a"])"),
        model(R"("vocab":{"a":0,"b":1},"merges":["a b"])"),
        model(R"("vocab":{"a":0,"b":1},"merges":["a b c"])"),
        model(R"("vocab":{"a":0,"aa":1},"merges":[["a"]])"),
        model(R"("vocab":{"a":0,"aa":1},"merges":[["a","a","a"]])"),
        model(R"("vocab":{"a":0,"aa":1},"merges":[["a","a"],])"),
        model(R"("vocab":{"a":0,"aa":1},"merges":[["a","a"]], 1)"),
        model(R"("vocab":{"a":0,"aa":1},"merges":["a a","a a","a a"])"),
        model(R"("vocab":{"a":0,"aa":1},"merges":{})"),
        model(
            "\"vocab\":{\"a\":0,\"" + std::string(1 << 19, 'x') +
            "\":1},\"merges\":[]")));

TEST(ModelLists, RestIsChecked) {
  const std::string good = model(R"("vocab":{"a":0},"merges":[],"x":[1])");
  EXPECT_TRUE(read_lists(good));
  for (const std::string bad : {"[1}", "[01]", "[\"\xFF\"]", "tru", "1 2"}) {
    std::string text = good;
    text.replace(text.find("[1]"), 3, bad);
    EXPECT_THROW(parse_tokenizer_json("f", text), FileError) << bad;
  }
  EXPECT_THROW(parse_tokenizer_json("f", good + "}"), FileError);
}

} // namespace
} // namespace qwen3_mlx
