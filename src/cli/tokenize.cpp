// SPDX-License-Identifier: MIT
// qwen3-mlx tokenize: text to token ids and back.

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/find_model.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx::cli {
namespace {

using Ids = std::vector<std::uint32_t>;
using Json = nlohmann::ordered_json;

struct TokenizeArgs {
  std::filesystem::path model;
  std::string input;
  bool json = false;
  bool no_special = false;
  bool decode = false;
  bool skip_special = false;
};

std::string read_input(const std::string& input) {
  if (input != "-") {
    return input;
  }
  std::string text{
      std::istreambuf_iterator<char>(std::cin),
      std::istreambuf_iterator<char>()};
  if (std::cin.bad()) {
    throw Error("cannot read standard input");
  }
  return text;
}

/// Ids between commas and white space.
Ids parse_ids(std::string_view text) {
  constexpr std::string_view separators = ", \t\r\n\v\f";
  Ids ids;
  while (true) {
    text.remove_prefix(
        std::min(text.find_first_not_of(separators), text.size()));
    if (text.empty()) {
      return ids;
    }
    const auto word = text.substr(0, text.find_first_of(separators));
    std::uint32_t id = 0;
    const char* end = word.data() + word.size();
    const auto result = std::from_chars(word.data(), end, id);
    if (result.ec != std::errc{} || result.ptr != end) {
      throw CLI::ValidationError(
          "IDS",
          "expected token ids between commas or white space, found \"" +
              std::string(word) + "\"");
    }
    ids.push_back(id);
    text.remove_prefix(word.size());
  }
}

void print(const Json& json) {
  // A GGUF file may hold tokens that are not UTF-8; JSON may not.
  std::cout << json.dump(
                   /* indent */ -1,
                   /* indent_char */ ' ',
                   /* ensure_ascii */ false,
                   Json::error_handler_t::replace)
            << '\n';
}

void encode(const Tokenizer& tokenizer, const TokenizeArgs& args) {
  const Ids ids = tokenizer.encode(
      read_input(args.input), EncodeOptions{.parse_special = !args.no_special});
  if (!args.json) {
    for (std::size_t idx = 0; idx < ids.size(); ++idx) {
      std::cout << (idx == 0 ? "" : " ") << ids[idx];
    }
    std::cout << '\n';
    return;
  }
  Json tokens = Json::array();
  for (const auto id : ids) {
    tokens.push_back(tokenizer.id_to_token(id).value_or(""));
  }
  print({{"ids", ids}, {"tokens", std::move(tokens)}});
}

void decode(const Tokenizer& tokenizer, const TokenizeArgs& args) {
  const Ids ids = parse_ids(read_input(args.input));
  const std::string text = tokenizer.decode(ids, args.skip_special);
  if (args.json) {
    print({{"text", text}});
  } else {
    std::cout << text; // To the byte: no line end of ours.
  }
}

} // namespace

void add_tokenize(CLI::App& app, Exit&) {
  auto* command = app.add_subcommand(
      "tokenize", "Turn text into token ids, or ids into text");
  const auto args = std::make_shared<TokenizeArgs>();
  command
      ->add_option(
          "-m,--model",
          args->model,
          "Model directory, tokenizer.json or .gguf file")
      ->required()
      ->type_name("DIR|FILE");
  command
      ->add_option(
          "text",
          args->input,
          "The text, or with --decode the ids; - reads standard input")
      ->required()
      ->type_name("TEXT|-");
  command->add_flag(
      "--json", args->json, "Print {\"ids\":[...],\"tokens\":[...]}");
  auto* no_special = command->add_flag(
      "--no-special",
      args->no_special,
      "Treat the text of special tokens as plain text");
  auto* decode_flag = command->add_flag(
      "--decode",
      args->decode,
      "Turn ids, between commas or white space, into text");
  command
      ->add_flag(
          "--skip-special", args->skip_special, "Leave special tokens out")
      ->needs(decode_flag);
  decode_flag->excludes(no_special);
  command->callback([args] {
    const Tokenizer tokenizer = load_tokenizer(find_model(args->model));
    if (args->decode) {
      decode(tokenizer, *args);
    } else {
      encode(tokenizer, *args);
    }
  });
}

} // namespace qwen3_mlx::cli
