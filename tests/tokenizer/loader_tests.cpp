// SPDX-License-Identifier: MIT
// Files that are wrong, hostile, or beside tokenizer.json.
#include <gmock/gmock.h>

#include <functional>
#include <string>
#include <vector>

#include "qwen3_mlx/error.h"
#include "testing/file_builders.h"
#include "tokenizer/tiny_tokenizer.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

struct BadFile {
  std::string field; // Where the error must point.
  std::function<void(Json&)> change;
};

void PrintTo(const BadFile& bad, std::ostream* out) {
  *out << bad.field;
}

class BadTokenizerJson : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadTokenizerJson, IsAFieldErrorWithItsPath) {
  auto json = tiny_tokenizer_json();
  GetParam().change(json);
  try {
    load(json);
    FAIL() << "no error";
  } catch (const FieldError& error) {
    EXPECT_EQ(error.field(), GetParam().field) << error.what();
  }
}

Json nested(int depth) {
  Json json = {{"type", "NFC"}};
  for (int level = 0; level < depth; ++level) {
    json = {{"type", "Sequence"}, {"normalizers", Json::array({json})}};
  }
  return json;
}

Json nested_lists(int depth) {
  Json json = 1;
  for (int level = 0; level < depth; ++level) {
    json = Json::array({json});
  }
  return json;
}

INSTANTIATE_TEST_SUITE_P(
    Fields,
    BadTokenizerJson,
    ::testing::Values(
        BadFile{"model", [](Json& j) { j.erase("model"); }},
        BadFile{"model", [](Json& j) { j["model"] = 3; }},
        BadFile{"model.vocab", [](Json& j) { j["model"]["vocab"] = nullptr; }},
        BadFile{"model.vocab", [](Json& j) { j["model"].erase("vocab"); }},
        BadFile{
            "model.vocab[\"he\"]",
            [](Json& j) { j["model"]["vocab"]["he"] = "x"; }},
        BadFile{
            "model.vocab[\"he\"]",
            [](Json& j) { j["model"]["vocab"]["he"] = -1; }},
        BadFile{
            "model.vocab[\"he\"]",
            [](Json& j) { j["model"]["vocab"]["he"] = 1.5; }},
        BadFile{
            "model.vocab[\"he\"]",
            [](Json& j) { j["model"]["vocab"]["he"] = 4294967295u; }},
        BadFile{
            "model.vocab[\"ll\"]",
            [](Json& j) { j["model"]["vocab"]["ll"] = 256; }},
        BadFile{
            "model.merges[1]",
            [](Json& j) { j["model"]["merges"][1] = "no token"; }},
        BadFile{
            "model.merges[1]",
            [](Json& j) { j["model"]["merges"][1] = "ll"; }},
        BadFile{
            "model.merges[1]",
            [](Json& j) { j["model"]["merges"][1] = "h e l"; }},
        BadFile{
            "model.merges[0]",
            [](Json& j) {
              j["model"]["merges"][0] = {"h", "e", "l"};
            }},
        BadFile{
            "model.merges[0]",
            [](Json& j) { j["model"]["merges"][0] = 7; }},
        BadFile{
            "model.merges[5]",
            [](Json& j) { j["model"]["merges"].push_back("o h"); }},
        BadFile{"model.merges", [](Json& j) { j["model"]["merges"] = "x"; }},
        BadFile{"model.type", [](Json& j) { j["model"]["type"] = "Unigram"; }},
        BadFile{
            "model.unk_token",
            [](Json& j) { j["model"]["unk_token"] = "??"; }},
        BadFile{"model.dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }},
        BadFile{
            "model.byte_fallback",
            [](Json& j) { j["model"]["byte_fallback"] = true; }},
        BadFile{
            "model.continuing_subword_prefix",
            [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }},
        BadFile{"added_tokens", [](Json& j) { j["added_tokens"] = "x"; }},
        BadFile{
            "added_tokens[0].id",
            [](Json& j) { j["added_tokens"][0].erase("id"); }},
        BadFile{
            "added_tokens[0].id",
            [](Json& j) { j["added_tokens"][0]["id"] = 5; }},
        BadFile{
            "added_tokens[1].special",
            [](Json& j) { j["added_tokens"][1]["special"] = 1; }},
        BadFile{
            "added_tokens[1].content",
            [](Json& j) { j["added_tokens"][1]["content"] = ""; }},
        BadFile{
            "added_tokens[1].content",
            [](Json& j) { j["added_tokens"][1]["content"] = "hello"; }},
        BadFile{
            "added_tokens[2]",
            [](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }},
        BadFile{
            "normalizer.type",
            [](Json& j) {
              j["normalizer"] = {{"type", "NFKC"}};
            }},
        BadFile{"pre_tokenizer", [](Json& j) { j["pre_tokenizer"] = nullptr; }},
        BadFile{
            "pre_tokenizer",
            [](Json& j) { j["pre_tokenizer"] = split_json(qwen2_split); }},
        BadFile{
            "pre_tokenizer.type",
            [](Json& j) {
              j["pre_tokenizer"] = {{"type", "Metaspace"}};
            }},
        BadFile{
            "pre_tokenizer.pretokenizers[0].pattern.Regex",
            [](Json& j) {
              j["pre_tokenizer"]["pretokenizers"][0] = split_json("[a-z]+");
            }},
        BadFile{
            "pre_tokenizer.pretokenizers[0].behavior",
            [](Json& j) {
              j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
            }},
        BadFile{
            "post_processor.type",
            [](Json& j) {
              j["post_processor"] = {{"type", "BertProcessing"}};
            }},
        BadFile{
            "decoder.type",
            [](Json& j) {
              j["decoder"] = {{"type", "WordPiece"}};
            }},
        BadFile{"model.merges", [](Json& j) { j["model"].erase("merges"); }},
        BadFile{"decoder", [](Json& j) { j.erase("decoder"); }}));

TEST(TokenizerJson, SaysWhatItFound) {
  for (const auto& [id, found] :
       {std::pair<Json, std::string>{1.5, "found the number 1.5"},
        std::pair<Json, std::string>{-1, "found the number -1"},
        std::pair<Json, std::string>{"1", "found a string"},
        std::pair<Json, std::string>{nullptr, "found null"}}) {
    auto json = tiny_tokenizer_json();
    json["model"]["vocab"]["new"] = id;
    try {
      load(json);
      FAIL() << "no error";
    } catch (const FieldError& error) {
      EXPECT_TRUE(std::string(error.what()).ends_with(found)) << error.what();
    }
  }
}

TEST(TokenizerJson, BoundsNesting) {
  for (const auto& [key, value] :
       {std::pair<std::string, Json>{"normalizer", nested(1000)},
        std::pair<std::string, Json>{"version", nested_lists(1000)}}) {
    auto json = tiny_tokenizer_json();
    json[key] = value;
    EXPECT_THROW(load(json), FieldError) << key;
  }
}

TEST(TokenizerJson, ReadsAMillionAddedTokens) {
  auto json = tiny_tokenizer_json();
  std::string list;
  for (int idx = 0; idx < 1'000'000; ++idx) {
    list += (idx == 0 ? "" : ",") + std::string("{\"id\":") +
        std::to_string(1000 + idx) + ",\"content\":\"<" + std::to_string(idx) +
        ">\",\"normalized\":false}";
  }
  json["added_tokens"] = "@";
  auto text = json.dump();
  text.replace(text.find("\"@\""), 3, "[" + list + "]");
  const TempDir dir;
  const auto tokenizer = load_tokenizer(dir.write("tokenizer.json", text));
  EXPECT_EQ(
      tokenizer.encode("<999999>h<12>"),
      (std::vector<std::uint32_t>{1'000'999, 'h', 1012}));
}

TEST(TokenizerJson, RefusesWhatIsNotJson) {
  const auto whole = tiny_tokenizer_json().dump();
  const TempDir dir;
  for (const auto& text :
       {std::string(),
        std::string("[]"),
        std::string("{"),
        std::string("\xFF\xFE"),
        whole + "x",
        whole.substr(0, whole.size() / 2),
        whole.substr(0, whole.size() - 1)}) {
    EXPECT_THROW(load_tokenizer(dir.write("tokenizer.json", text)), FileError)
        << text.substr(0, 20);
  }
}

TEST(TokenizerJson, TakesFieldsInAnyOrder) {
  // nlohmann sorts keys: here the model comes before its vocabulary's users;
  // ordered by hand, merges come before the vocabulary.
  const auto json = tiny_tokenizer_json();
  std::string text =
      "{\"model\":{\"merges\":" + json["model"]["merges"].dump() +
      ",\"vocab\":" + json["model"]["vocab"].dump() + "}";
  for (const char* key :
       {"post_processor", "decoder", "added_tokens", "pre_tokenizer"}) {
    text += ",\"" + std::string(key) + "\":" + json[key].dump();
  }
  const TempDir dir;
  const auto tokenizer =
      load_tokenizer(dir.write("tokenizer.json", text + "}"));
  EXPECT_EQ(
      tokenizer.encode("hello<think>"), (std::vector<std::uint32_t>{259, 262}));
}

TEST(LoadTokenizer, NamesWhatIsMissing) {
  const TempDir dir;
  EXPECT_THAT(
      [&] { load_tokenizer(dir.path()); },
      ::testing::ThrowsMessage<FileError>(HasSubstr("no tokenizer.json")));
  EXPECT_THROW(load_tokenizer(dir.path() / "none.json"), FileError);
}

class ConfigFiles : public ::testing::Test {
 protected:
  ConfigFiles() {
    dir_.write("tokenizer.json", tiny_tokenizer_json().dump());
  }
  const TempDir dir_;
};

TEST_F(ConfigFiles, NameSpecialTokens) {
  dir_.write(
      "tokenizer_config.json",
      R"({"bos_token": null, "eos_token": {"content": "<|end|>"}})");
  dir_.write(
      "special_tokens_map.json",
      R"({"eos_token": "<think>", "pad_token": "<think>"})");
  const auto tokenizer = load_tokenizer(dir_.path());
  EXPECT_EQ(tokenizer.bos_id(), std::nullopt);
  EXPECT_THAT(tokenizer.eos_id(), Optional(261));
  EXPECT_THAT(tokenizer.eos_token(), Optional(std::string("<|end|>")));
  EXPECT_THAT(tokenizer.pad_id(), Optional(262));
}

TEST_F(ConfigFiles, AddTokensThatAreMissing) {
  dir_.write(
      "tokenizer_config.json",
      R"({"added_tokens_decoder": {
            "261": {"content": "<|end|>", "special": true},
            "263": {"content": "<new>", "special": true}}})");
  dir_.write("added_tokens.json", R"({"<think>": 262, "<more>": 264})");
  const auto tokenizer = load_tokenizer(dir_.path());
  EXPECT_EQ(
      tokenizer.encode("<new><more>"), (std::vector<std::uint32_t>{263, 264}));
  EXPECT_TRUE(tokenizer.is_special(263));
}

TEST_F(ConfigFiles, RaiseTheIdLimitToTheModelsRows) {
  dir_.write("config.json", R"({"vocab_size": 300})");
  const auto tokenizer = load_tokenizer(dir_.path());
  EXPECT_EQ(tokenizer.id_limit(), 300u);
  EXPECT_EQ(tokenizer.decode(std::vector<std::uint32_t>{'a', 299}), "a");
  EXPECT_THROW(
      tokenizer.decode(std::vector<std::uint32_t>{300}), InvalidArgument);
}

TEST_F(ConfigFiles, ContradictionsAreErrors) {
  for (const char* text :
       {R"({"added_tokens_decoder": {"261": {"content": "<other>"}}})",
        R"({"added_tokens_decoder": {"300": {"content": "<think>"}}})",
        R"({"added_tokens_decoder": {"x": {"content": "<new>"}}})",
        R"({"added_tokens_decoder": {"-1": {"content": "<new>"}}})",
        R"({"added_tokens_decoder": {"300": {"content": 5}}})",
        R"({"added_tokens_decoder": {"300": 5}})",
        R"({"added_tokens_decoder": []})",
        R"({"eos_token": 5})"}) {
    dir_.write("tokenizer_config.json", text);
    EXPECT_THROW(load_tokenizer(dir_.path()), FieldError) << text;
  }
  dir_.write("tokenizer_config.json", "[1]");
  EXPECT_THROW(load_tokenizer(dir_.path()), FileError);
}

std::string gguf_strings(const std::vector<std::string>& values) {
  std::string bytes =
      bytes_of(std::uint32_t{8}) + bytes_of(std::uint64_t{values.size()});
  for (const auto& value : values) {
    bytes += GgufBuilder::string(value);
  }
  return bytes;
}

std::string gguf_tokenizer(const std::string& pre, const std::string& merge) {
  constexpr std::uint32_t array = 9;
  std::vector<std::string> tokens;
  std::string types = bytes_of(std::uint32_t{5}) + bytes_of(std::uint64_t{260});
  for (int byte = 0; byte < 256; ++byte) {
    const char value = static_cast<char>(byte);
    tokens.push_back(spell_bytes({&value, 1}));
    types += bytes_of(std::int32_t{1});
  }
  for (const auto& [token, type] :
       {std::pair<const char*, std::int32_t>{"he", 1},
        {"<|end|>", 3},
        {"<think>", 4},
        {"[PAD]", 5}}) {
    tokens.emplace_back(token);
    types += bytes_of(type);
  }
  return GgufBuilder()
      .entry("general.architecture", "qwen3")
      .entry("tokenizer.ggml.model", "gpt2")
      .entry("tokenizer.ggml.pre", pre)
      .entry("tokenizer.ggml.tokens", array, gguf_strings(tokens))
      .entry("tokenizer.ggml.token_type", array, types)
      .entry("tokenizer.ggml.merges", array, gguf_strings({merge}))
      .entry("tokenizer.ggml.eos_token_id", std::uint32_t{257})
      .build();
}

TEST(TokenizerGguf, ReadsTokensMergesAndTypes) {
  const TempDir dir;
  const auto tokenizer =
      load_tokenizer(dir.write("model.gguf", gguf_tokenizer("qwen2", "h e")));
  EXPECT_EQ(tokenizer.encode("he<|end|><think>[PAD]").size(), 3u + 5u);
  EXPECT_TRUE(tokenizer.is_special(257));
  EXPECT_FALSE(tokenizer.is_special(258));
  EXPECT_EQ(tokenizer.id_to_token(259), std::nullopt);
  EXPECT_EQ(tokenizer.id_limit(), 260u);
  EXPECT_THAT(tokenizer.eos_id(), Optional(257));
  EXPECT_EQ(load_tokenizer(dir.path()).encode("he"), tokenizer.encode("he"));
}

TEST(TokenizerGguf, NamesWhatItDoesNotKnow) {
  const TempDir dir;
  try {
    load_tokenizer(dir.write("a.gguf", gguf_tokenizer("viking", "h e")));
    FAIL();
  } catch (const FieldError& error) {
    EXPECT_EQ(error.field(), "tokenizer.ggml.pre");
    EXPECT_THAT(error.what(), HasSubstr("viking"));
  }
  try {
    load_tokenizer(dir.write("b.gguf", gguf_tokenizer("qwen2", "h x")));
    FAIL();
  } catch (const FieldError& error) {
    EXPECT_EQ(error.field(), "tokenizer.ggml.merges[0]");
  }
}

} // namespace
} // namespace qwen3_mlx::testing
