// SPDX-License-Identifier: MIT
// info, bench and perplexity on a tiny checkpoint.

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Json = nlohmann::json;

class Measure : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tiny_chat_model(folder_.path());
  }

  ProgramResult
  run(const std::string& command,
      std::vector<std::string> options,
      const std::string& input = {}) {
    options.insert(
        options.begin(), {command, "--model", folder_.path().string()});
    return run_cli(options, input);
  }

  Json run_json(
      const std::string& command,
      std::vector<std::string> options,
      const std::string& input = {}) {
    options.emplace_back("--json");
    const auto result = run(command, std::move(options), input);
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(result.out);
  }

  TempDir folder_;
};

TEST_F(Measure, InfoCountsTensorsParametersAndBytes) {
  const auto info = run_json("info", {"--tensors"});
  EXPECT_EQ(info.at("config").at("model_type"), "qwen3");
  EXPECT_EQ(info.at("config").at("vocab_size"), 272);
  std::uint64_t n_bytes = 0;
  for (const auto& tensor : info.at("tensors")) {
    n_bytes += tensor.at("bytes").get<std::uint64_t>();
  }
  const auto& f32 = info.at("formats").at("F32");
  EXPECT_EQ(f32.at("bytes"), n_bytes);
  EXPECT_EQ(f32.at("parameters"), n_bytes / 4);
  EXPECT_EQ(f32.at("tensors"), info.at("tensors").size());
  // 2 layers, keys and values, 2 heads of 32 in 2 bytes.
  EXPECT_EQ(info.at("kv_bytes_per_token"), 2 * 2 * 2 * 32 * 2);

  const auto table = run("info", {}).out;
  EXPECT_THAT(table, HasSubstr("hidden_size"));
  EXPECT_THAT(table, HasSubstr("total"));
}

TEST_F(Measure, InfoTellsAboutTheSystem) {
  const auto result = run_cli({"info", "--system", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(Json::parse(result.out).at("system").contains("mlx"));
}

TEST_F(Measure, BenchPrintsEveryTrialAndTheirAverage) {
  const auto bench = run_json("bench", {"-p", "12", "-g", "6", "-n", "2"});
  EXPECT_THAT(bench.at("trials"), SizeIs(2));
  for (const std::string figure :
       {"prompt_tps",
        "generation_tps",
        "time_to_first_token_seconds",
        "peak_memory_bytes"}) {
    EXPECT_GT(bench.at("average").at(figure).get<double>(), 0) << figure;
  }
  // The process holds the program besides what MLX counts.
  EXPECT_GT(bench.at("max_resident_bytes").get<double>(), 1e6);
  const auto table = run("bench", {"-p", "4", "-g", "2", "-n", "1"}).out;
  EXPECT_THAT(table, HasSubstr("first token ms"));
  EXPECT_THAT(table, HasSubstr("average"));
  EXPECT_THAT(table, HasSubstr("Most memory of the process"));
}

TEST_F(Measure, BenchStepsABatchAndChunksItsPrompt) {
  const auto bench = run_json(
      "bench",
      {"-p",
       "12",
       "-g",
       "4",
       "-n",
       "1",
       "-b",
       "3",
       "--prefill-step-size",
       "5"});
  EXPECT_EQ(bench.at("batch_size"), 3);
  EXPECT_GT(bench.at("average").at("generation_tps").get<double>(), 0);
}

TEST_F(Measure, BenchOfRandomWeightsNeedsOnlyAConfig) {
  std::filesystem::remove(folder_.path() / "model.safetensors");
  // Own kernels take their memory in pieces far larger than this model.
  const auto weigh = [&](std::vector<std::string> options) {
    for (const auto* word :
         {"--random", "--kernels", "stock", "-p", "4", "-g", "2", "-n", "1"}) {
      options.emplace_back(word);
    }
    return run_json("bench", options).at("weight_bytes").get<double>();
  };
  const auto plain = weigh({});
  const auto packed = weigh({"--q-bits", "4", "--q-group-size", "32"});
  EXPECT_LT(packed, 0.4 * plain);
  // What is not said is as usual for the mode.
  EXPECT_LT(weigh({"--q-mode", "nvfp4", "--q-bits", "4"}), 0.4 * plain);
  EXPECT_LT(weigh({"--q-mode", "mxfp8"}), 0.6 * plain);
  EXPECT_EQ(run("bench", {"--random", "--q-bits", "9", "-n", "1"}).code, 2);
}

TEST_F(Measure, PerplexityDoesNotDependOnTheBatch) {
  std::string text;
  for (int line = 0; line < 20; ++line) {
    text += "hello hello, line " + std::to_string(line) + "\n";
  }
  const auto file = folder_.write("text", text).string();
  const auto one =
      run_json("perplexity", {file, "--sequence-length", "32", "-b", "1"});
  const auto many =
      run_json("perplexity", {"-", "--sequence-length", "32", "-b", "5"}, text);
  EXPECT_GT(one.at("perplexity").get<double>(), 1.0);
  EXPECT_EQ(one.at("tokens"), many.at("tokens"));
  EXPECT_NEAR(
      one.at("perplexity").get<double>() / many.at("perplexity").get<double>(),
      1.0,
      1e-4);
  const auto sample = run_json(
      "perplexity", {file, "--sequence-length", "32", "--num-samples", "2"});
  EXPECT_EQ(sample.at("tokens"), 2 * 31);
  EXPECT_NE(run("perplexity", {file, "--sequence-length", "4000"}).code, 0);
}

TEST_F(Measure, ATokenizerLargerThanTheModelIsRefused) {
  const auto path = folder_.path() / "tokenizer.json";
  auto tokenizer = Json::parse(std::ifstream(path));
  auto token = tokenizer.at("added_tokens").back();
  token["id"] = 300;
  token["content"] = "<|new|>";
  tokenizer["added_tokens"].push_back(token);
  std::ofstream(path) << tokenizer;
  const auto saved = (folder_.path() / "saved.safetensors").string();
  for (const auto& result :
       {run("perplexity", {"-", "-c", "2"}, "hello<|new|>hello"),
        run("cache-prompt", {"a<|new|>", "--prompt-cache-file", saved})}) {
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, HasSubstr("tokenizer gives the token id 300"));
    EXPECT_THAT(result.err, HasSubstr("has 272 tokens"));
  }
}

} // namespace
} // namespace qwen3_mlx::testing
