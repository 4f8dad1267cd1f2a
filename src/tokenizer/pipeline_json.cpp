// SPDX-License-Identifier: MIT
#include "tokenizer/pipeline_json.h"

#include <nlohmann/json.hpp>

#include <array>
#include <utility>

#include "qwen3_mlx/error.h"
#include "tokenizer/json_access.h"
#include "tokenizer/split_regexes.h"

namespace qwen3_mlx {
namespace {

using Json = nlohmann::json;

constexpr std::size_t max_nesting = 8;

/// Reads one JSON object whose path is known.
class Part {
 public:
  Part(
      const std::filesystem::path& file,
      std::string field,
      const Json& json,
      std::size_t depth = 0)
      : file_(file), field_(std::move(field)), json_(json), depth_(depth) {
    if (depth_ > max_nesting) {
      fail("", "nested too deeply");
    }
    if (!json_.is_object()) {
      fail("", std::string("expected an object, found ") + json_.type_name());
    }
  }

  [[noreturn]] void fail(const std::string& key, const std::string& why) const {
    throw FieldError(file_, key.empty() ? field_ : field_ + "." + key, why);
  }

  std::string string(const std::string& key) const {
    return get<Json::value_t::string, std::string>(key, "a string");
  }
  bool boolean(const std::string& key, bool missing) const {
    return json_.contains(key)
        ? get<Json::value_t::boolean, bool>(key, "true or false")
        : missing;
  }
  /// The objects of a list.
  std::vector<Part> parts(const std::string& key) const {
    std::vector<Part> result;
    const Json& list = at(key);
    if (!list.is_array()) {
      fail(key, std::string("expected a list, found ") + list.type_name());
    }
    for (std::size_t idx = 0; idx < list.size(); ++idx) {
      result.emplace_back(
          file_,
          field_ + "." + key + "[" + std::to_string(idx) + "]",
          list[idx],
          depth_ + 1);
    }
    return result;
  }
  Part part(const std::string& key) const {
    return {file_, field_ + "." + key, at(key), depth_ + 1};
  }
  const Json& at(const std::string& key) const {
    if (!json_.contains(key)) {
      fail(key, "missing");
    }
    return json_[key];
  }
  bool has(const std::string& key) const {
    return json_.contains(key);
  }
  [[noreturn]] void unknown_type(std::string_view known) const {
    fail(
        "type",
        json::quote(string("type")) + " is not supported, expected " +
            std::string(known));
  }

 private:
  template <Json::value_t type, typename Value>
  Value get(const std::string& key, const std::string& expected) const {
    const Json& value = at(key);
    if (value.type() != type) {
      fail(key, "expected " + expected + ", found " + value.type_name());
    }
    return value.get<Value>();
  }

  const std::filesystem::path& file_;
  std::string field_;
  const Json& json_;
  std::size_t depth_;
};

bool read_normalizer(const Part& part) {
  const auto type = part.string("type");
  if (type == "NFC") {
    return true;
  }
  if (type != "Sequence") {
    part.unknown_type("NFC or a Sequence of it");
  }
  bool nfc = false;
  for (const Part& inner : part.parts("normalizers")) {
    nfc = read_normalizer(inner) || nfc;
  }
  return nfc;
}

void read_split(const Part& part, std::vector<SplitStep>& steps) {
  const Part pattern = part.part("pattern");
  if (!pattern.has("Regex")) {
    pattern.fail("Regex", "missing: only regex patterns are supported");
  }
  const auto regex = pattern.string("Regex");
  const auto step = known_split(regex);
  if (!step) {
    pattern.fail(
        "Regex",
        json::quote(regex) +
            " is not supported, expected the split of Qwen2, Qwen3.5, "
            "Llama-3 or GPT-2");
  }
  // These regexes match all text, so keeping matches apart and removing what
  // is between them are the same.
  const auto behavior = part.string("behavior");
  const bool invert = part.boolean("invert", false);
  if (behavior != "Isolated" && !(behavior == "Removed" && invert)) {
    part.fail(
        "behavior",
        json::quote(behavior) + " is not supported, expected \"Isolated\"");
  }
  steps.push_back(*step);
}

/// True when the part ends in ByteLevel, behind which nothing may come.
bool read_pre_tokenizer(const Part& part, std::vector<SplitStep>& steps) {
  const auto type = part.string("type");
  if (type == "Split") {
    read_split(part, steps);
    return false;
  }
  if (type == "Digits") {
    steps.push_back(
        part.boolean("individual_digits", false) ? SplitStep::Digits
                                                 : SplitStep::DigitRuns);
    return false;
  }
  if (type == "ByteLevel") {
    if (part.boolean("add_prefix_space", true)) {
      steps.push_back(SplitStep::PrefixSpace);
    }
    if (part.boolean("use_regex", true)) {
      steps.push_back(SplitStep::Gpt2);
    }
    return true;
  }
  if (type != "Sequence") {
    part.unknown_type("Sequence, Split, Digits or ByteLevel");
  }
  bool byte_level = false;
  for (const Part& inner : part.parts("pretokenizers")) {
    if (byte_level) {
      inner.fail("type", "nothing is supported behind ByteLevel");
    }
    byte_level = read_pre_tokenizer(inner, steps);
  }
  return byte_level;
}

std::vector<TokenId> template_ids(
    const Part& part,
    const std::string& name,
    const Vocabulary& vocabulary) {
  const Part special = part.part("special_tokens");
  const Part token = special.part(name);
  const Json& ids = token.at("ids");
  if (!ids.is_array()) {
    token.fail("ids", "expected a list of token ids");
  }
  std::vector<TokenId> result;
  for (const Json& id : ids) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > max_token_id ||
        !vocabulary.has(id.get<TokenId>())) {
      token.fail("ids", "expected ids of tokens, found " + id.dump());
    }
    result.push_back(id.get<TokenId>());
  }
  return result;
}

void read_template(const Part& part, TokenizerDefinition& definition) {
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
  bool after_text = false;
  for (const Part& item : part.parts("single")) {
    if (item.has("SpecialToken")) {
      const auto ids = template_ids(
          part, item.part("SpecialToken").string("id"), definition.vocabulary);
      auto& to = after_text ? suffix : prefix;
      to.insert(to.end(), ids.begin(), ids.end());
    } else if (
        item.has("Sequence") && item.part("Sequence").string("id") == "A" &&
        !after_text) {
      after_text = true;
    } else {
      item.fail("", "expected a SpecialToken, or the Sequence \"A\" once");
    }
  }
  if (!after_text) {
    part.fail("single", "expected the Sequence \"A\" in it");
  }
  definition.prefix = std::move(prefix);
  definition.suffix = std::move(suffix);
}

/// True when the part holds a template.
bool read_post_processor(const Part& part, TokenizerDefinition& definition) {
  const auto type = part.string("type");
  if (type == "ByteLevel") {
    return false; // Changes offsets, not ids.
  }
  if (type == "TemplateProcessing") {
    read_template(part, definition);
    return true;
  }
  if (type != "Sequence") {
    part.unknown_type("ByteLevel, TemplateProcessing or a Sequence of them");
  }
  bool has_template = false;
  for (const Part& inner : part.parts("processors")) {
    const bool is_template = read_post_processor(inner, definition);
    if (is_template && has_template) {
      inner.fail("type", "a second template is not supported");
    }
    has_template = has_template || is_template;
  }
  return has_template;
}

void read_decoder(const Part& part) {
  const auto type = part.string("type");
  if (type == "ByteLevel") {
    return;
  }
  if (type != "Sequence") {
    part.unknown_type("ByteLevel");
  }
  const auto decoders = part.parts("decoders");
  if (decoders.size() != 1) {
    part.fail("decoders", "expected ByteLevel alone");
  }
  read_decoder(decoders[0]);
}

Json parse(
    const std::filesystem::path& file,
    const std::string& field,
    std::string_view text) {
  if (text.empty()) {
    return nullptr;
  }
  Json json = Json::parse(text, nullptr, /* allow_exceptions */ false);
  if (json.is_discarded()) {
    throw FieldError(file, field, "malformed JSON");
  }
  return json;
}

} // namespace

std::optional<SplitStep> known_split(std::string_view regex) {
  static constexpr std::array<std::pair<std::string_view, SplitStep>, 4> known{
      {{split_regex::qwen2, SplitStep::Qwen2},
       {split_regex::qwen35, SplitStep::Qwen35},
       {split_regex::llama3, SplitStep::Llama3},
       {split_regex::gpt2, SplitStep::Gpt2}}};
  for (const auto& [text, step] : known) {
    if (text == regex) {
      return step;
    }
  }
  return std::nullopt;
}

void read_pipeline(
    const std::filesystem::path& file,
    const PipelineTexts& texts,
    TokenizerDefinition& definition) {
  const Json normalizer = parse(file, "normalizer", texts.normalizer);
  if (!normalizer.is_null()) {
    definition.nfc = read_normalizer({file, "normalizer", normalizer});
  }
  const Json pre_tokenizer = parse(file, "pre_tokenizer", texts.pre_tokenizer);
  const Json decoder = parse(file, "decoder", texts.decoder);
  if (pre_tokenizer.is_null() || decoder.is_null()) {
    throw FieldError(
        file,
        pre_tokenizer.is_null() ? "pre_tokenizer" : "decoder",
        "missing: only byte-level BPE tokenizers are supported");
  }
  const Part pre_tokenizer_part(file, "pre_tokenizer", pre_tokenizer);
  if (!read_pre_tokenizer(pre_tokenizer_part, definition.steps)) {
    pre_tokenizer_part.fail(
        "", "expected ByteLevel last: only byte-level BPE is supported");
  }
  read_decoder({file, "decoder", decoder});
  const Json post = parse(file, "post_processor", texts.post_processor);
  if (!post.is_null()) {
    read_post_processor({file, "post_processor", post}, definition);
  }
}

} // namespace qwen3_mlx
