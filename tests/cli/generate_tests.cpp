// SPDX-License-Identifier: MIT
// generate and cache-prompt on a tiny checkpoint.

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "testing/temp_dir.h"
#include "testing/tiny_checkpoint.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Json = nlohmann::json;

std::string comma_separated(const std::vector<std::uint32_t>& ids) {
  std::string text;
  for (const auto id : ids) {
    text += (text.empty() ? "" : ",") + std::to_string(id);
  }
  return text;
}

class Generate : public ::testing::Test {
 protected:
  /// generate on the tiny chat model.
  ProgramResult
  generate(std::vector<std::string> arguments, const std::string& input = {}) {
    if (!std::filesystem::exists(model() / "config.json")) {
      write_tiny_chat_model(model());
    }
    std::vector<std::string> all{"generate", "--model", model().string()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return run_cli(all, input);
  }

  Json generate_json(std::vector<std::string> arguments) {
    arguments.emplace_back("--json");
    const auto result = generate(std::move(arguments));
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.err, IsEmpty());
    return Json::parse(result.out);
  }

  std::filesystem::path model() const {
    return folder_.path() / "model";
  }

  TempDir folder_;
};

TEST_F(Generate, PromptIdsNeedNoTokenizerAndGiveTheGoldenTokens) {
  const auto golden = load_tiny_case(
      std::filesystem::path(QWEN3_MLX_TEST_DATA) / "parity", "qwen3-default");
  write_tiny_checkpoint(golden, folder_.path());
  const auto result = run_cli(
      {"generate",
       "--model",
       folder_.path().string(),
       "--prompt-ids",
       comma_separated(golden.prompt_ids),
       "-m",
       "16",
       "--temp",
       "0",
       "--kernels",
       "stock",
       "--dtype",
       "float32",
       "--top-logprobs",
       "3",
       "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = Json::parse(result.out);
  EXPECT_EQ(json.at("prompt_ids"), golden.prompt_ids);
  const std::vector<std::uint32_t> expected(
      golden.greedy_ids.begin(), golden.greedy_ids.begin() + 16);
  EXPECT_EQ(json.at("ids"), expected);
  EXPECT_EQ(json.at("finish_reason"), "length");
  EXPECT_TRUE(json.at("text").is_null());
  EXPECT_EQ(json.at("timings").at("prompt_tokens"), golden.prompt_ids.size());

  ASSERT_THAT(json.at("logprobs"), SizeIs(16));
  for (std::size_t index = 0; index < 16; ++index) {
    const auto& place = json.at("logprobs").at(index);
    EXPECT_EQ(place.at("id"), expected[index]);
    ASSERT_THAT(place.at("top"), SizeIs(3));
    // Greedy: the chosen token is the best one.
    EXPECT_EQ(place.at("top").at(0).at("id"), expected[index]);
    EXPECT_EQ(place.at("top").at(0).at("logprob"), place.at("logprob"));
  }
  // The first distribution is the softmax of the golden's last row.
  const auto vocab_size = golden.logits.size() / golden.prompt_ids.size();
  const auto* row = golden.logits.data() + golden.logits.size() - vocab_size;
  double sum = 0;
  for (std::size_t id = 0; id < vocab_size; ++id) {
    sum += std::exp(static_cast<double>(row[id]));
  }
  EXPECT_NEAR(
      json.at("logprobs").at(0).at("logprob").get<double>(),
      row[expected[0]] - std::log(sum),
      1e-4);
}

TEST_F(Generate, PipedOutputIsTheTextAlone) {
  const auto json = generate_json({"hello", "-m", "8", "--temp", "0"});
  const auto result = generate({"hello", "-m", "8", "--temp", "0"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, json.at("text").get<std::string>() + "\n");
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(Generate, ReadsThePromptFromAnywhere) {
  const auto ids = generate_json({"-p", "hello", "-m", "2"}).at("prompt_ids");
  const auto file = folder_.write("prompt", "hello\n");
  EXPECT_EQ(
      generate_json({"-f", file.string(), "-m", "2"}).at("prompt_ids"), ids);
  for (const auto& from_stdin : std::vector<std::vector<std::string>>{
           {"-m", "2", "--json"},
           {"-", "-m", "2", "--json"},
           {"-f", "-", "-m", "2", "--json"},
           {"-f", "/dev/stdin", "-m", "2", "--json"}}) {
    const auto result = generate(from_stdin, "hello\n");
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(Json::parse(result.out).at("prompt_ids"), ids);
  }
}

TEST_F(Generate, ReadsThePromptFromAPipe) {
  const auto ids = generate_json({"-p", "hello", "-m", "2"}).at("prompt_ids");
  const auto piped = run_program(
      "/bin/sh",
      {"-c",
       "echo hello | \"$0\" generate --model \"$1\" -f /dev/stdin -m 2 --json",
       QWEN3_MLX_PROGRAM,
       model().string()});
  ASSERT_EQ(piped.code, 0) << piped.err;
  EXPECT_EQ(Json::parse(piped.out).at("prompt_ids"), ids);
  EXPECT_EQ(generate({"-f", "/dev/null", "-m", "1"}).code, 0);
  const auto folder = generate({"-f", folder_.path().string(), "-m", "1"});
  EXPECT_EQ(folder.code, 1);
  EXPECT_THAT(folder.err, HasSubstr("not a regular file"));
}

TEST_F(Generate, PromptIsRenderedUnlessToldNotTo) {
  // 259 is "hello", 263 <|im_start|>, 264 <|im_end|>.
  EXPECT_EQ(
      generate_json({"hello", "-m", "1", "--ignore-chat-template"})
          .at("prompt_ids"),
      Json::array({259}));
  const auto ids = generate_json({"hello", "-m", "1", "--sys", "s"})
                       .at("prompt_ids")
                       .get<std::vector<int>>();
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 263), 3);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 264), 2);
}

TEST_F(Generate, ABrokenTemplateIsToldWithLineAndColumn) {
  const auto file = folder_.write("broken.jinja", "ok\n{% if %}").string();
  const auto result = generate({"hello", "--chat-template-file", file});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr(":2:"));
}

TEST_F(Generate, TheSameSeedGivesTheSameTokens) {
  const std::vector<std::string> options{
      "hello", "-m", "12", "--temp", "2", "--top-k", "50", "--seed"};
  const auto with_seed = [&](const std::string& seed) {
    auto all = options;
    all.push_back(seed);
    return generate_json(all).at("ids");
  };
  EXPECT_EQ(with_seed("7"), with_seed("7"));
  EXPECT_NE(with_seed("7"), with_seed("8"));
}

TEST_F(Generate, ExtraStopTokensEndTheTextAndAreNotShown) {
  const auto json = generate_json({"hello", "-m", "8", "--temp", "0"});
  const auto third = json.at("ids").at(2).get<int>();
  const auto stopped = generate_json(
      {"hello",
       "-m",
       "8",
       "--temp",
       "0",
       "--extra-eos-token",
       std::to_string(third)});
  EXPECT_EQ(stopped.at("finish_reason"), "stop");
  EXPECT_EQ(stopped.at("ids").back(), third);
  EXPECT_LE(stopped.at("ids").size(), 3U);
  const auto ignored = generate_json(
      {"hello",
       "-m",
       "8",
       "--temp",
       "0",
       "--ignore-eos",
       "--extra-eos-token",
       std::to_string(third)});
  EXPECT_EQ(ignored.at("ids"), stopped.at("ids"));
}

TEST_F(Generate, GenerationConfigGivesDefaultsThatOptionsOverride) {
  const auto greedy = generate_json({"hello", "-m", "12"}).at("ids");
  folder_.write(
      "model/generation_config.json",
      R"({"do_sample": true, "temperature": 3.0, "top_k": 0})");
  EXPECT_NE(generate_json({"hello", "-m", "12"}).at("ids"), greedy);
  EXPECT_EQ(
      generate_json({"hello", "-m", "12", "--temp", "0"}).at("ids"), greedy);
}

TEST_F(Generate, LogitBiasForcesAToken) {
  const auto ids =
      generate_json(
          {"hello", "-m", "3", "--temp", "0", "--logit-bias", "65=1000"})
          .at("ids");
  EXPECT_EQ(ids, Json::array({65, 65, 65}));
}

TEST_F(Generate, NumbersAreDecimal) {
  const auto json = generate_json({"hello", "-m", "010", "--seed", "010"});
  EXPECT_THAT(json.at("ids"), SizeIs(10));
  EXPECT_EQ(json.at("seed"), 10);
}

TEST_F(Generate, CachesOfEveryKindAnswer) {
  for (const auto& options : std::vector<std::vector<std::string>>{
           {"--max-kv-size", "16"},
           {"--kv-bits", "8", "--kv-group-size", "32"},
           {"--prefill-step-size", "3"}}) {
    SCOPED_TRACE(options.front());
    std::vector<std::string> all{"hello", "-m", "8", "--temp", "0"};
    all.insert(all.end(), options.begin(), options.end());
    EXPECT_THAT(generate_json(all).at("ids"), SizeIs(8));
  }
}

TEST_F(Generate, BadInputIsToldAndFails) {
  const auto garbage = generate({"--prompt-ids", "1,two", "--json"});
  EXPECT_EQ(garbage.code, 2);
  EXPECT_THAT(garbage.err, HasSubstr("two"));
  EXPECT_NE(generate({"--prompt-ids", "272", "-m", "1"}).code, 0);
  EXPECT_NE(generate({"--prompt-ids", "", "-m", "1"}).code, 0);
  EXPECT_NE(generate({"hello", "--temp", "-1"}).code, 0);
  EXPECT_EQ(generate({"hello", "--logit-bias", "x"}).code, 2);
  const auto bias = generate({"hello", "--logit-bias", "272=1"});
  EXPECT_EQ(bias.code, 2);
  EXPECT_THAT(bias.err, HasSubstr("--logit-bias: expected a token id below"));
  const auto many = generate({"hello", "--json", "--top-logprobs", "273"});
  EXPECT_EQ(many.code, 2);
  EXPECT_THAT(many.err, HasSubstr("--top-logprobs: the model's vocabulary"));
  EXPECT_EQ(generate({"hello", "--extra-eos-token", "nope"}).code, 2);
  const auto outside = generate({"hello", "--extra-eos-token", "272"});
  EXPECT_EQ(outside.code, 2);
  EXPECT_THAT(outside.err, HasSubstr("vocabulary of 272"));
  EXPECT_EQ(generate({"hello", "--chat-template-config", "[]"}).code, 2);
}

TEST_F(Generate, VerboseTellsSpeedAndMemoryOnStandardError) {
  const auto result = generate({"hello", "-m", "2", "--verbose"});
  EXPECT_THAT(result.err, HasSubstr("Prompt: "));
  EXPECT_THAT(result.err, HasSubstr("Generation: 2 tokens"));
  EXPECT_THAT(result.err, HasSubstr("Peak memory: "));
}

// The cut is where the tokenizer cuts too.
TEST_F(Generate, ASavedPromptGivesTheSameAnswerAsTheWholeOne) {
  for (const std::string option : {"--ignore-chat-template", "--verbose"}) {
    SCOPED_TRACE(option);
    const bool plain = option == "--ignore-chat-template";
    const auto whole = plain
        ? generate_json({"a long text, hello", "-m", "8", option})
        : generate_json({"a long text, hello", "-m", "8"});
    const auto file = (folder_.path() / "saved.safetensors").string();
    std::vector<std::string> save{
        "cache-prompt",
        "--model",
        model().string(),
        "--prompt-cache-file",
        file,
        "a long text,"};
    if (plain) {
      save.push_back(option);
    }
    const auto saved = run_cli(save);
    ASSERT_EQ(saved.code, 0) << saved.err;
    std::vector<std::string> rest{
        " hello", "-m", "8", "--prompt-cache-file", file};
    if (plain) {
      rest.push_back(option);
    }
    const auto json = generate_json(rest);
    EXPECT_EQ(json.at("ids"), whole.at("ids"));
    EXPECT_GT(json.at("timings").at("cached_tokens"), 5);
  }
}

TEST_F(Generate, ASavedPromptHasTheCacheItWasSavedFrom) {
  const auto result =
      generate({"hello", "--prompt-cache-file", "saved", "--kv-bits", "8"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("--prompt-cache-file"));
  EXPECT_THAT(result.err, HasSubstr("--kv-bits"));
}

TEST_F(Generate, ADamagedPromptCacheIsRefused) {
  const auto file = folder_.write("saved", "not a cache");
  const auto result = generate({"hello", "--prompt-cache-file", file.string()});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr(file.string()));
}

} // namespace
} // namespace qwen3_mlx::testing
