// SPDX-License-Identifier: MIT
// What the program makes of its command line: exit codes, messages, help,
// completion.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

struct WrongUsage {
  std::vector<std::string> arguments;
  std::string message;
};

TEST(Arguments, WrongUsageIsStatus2WithTheReasonAndWhereHelpIs) {
  const std::vector<WrongUsage> cases{
      {{}, "A command is required"},
      {{"fly"}, "fly"},
      {{"generate"}, "--model is required"},
      {{"generate", "--model", "x", "--bogus"}, "--bogus"},
      {{"generate", "--model", "x", "--temp"}, "--temp"},
      {{"generate", "--model", "x", "--temp", "hot"}, "hot"},
      {{"generate", "--model", "x", "--device", "tpu"}, "{cpu,gpu}"},
      {{"generate", "--model", "x", "--kernels", "fast"}, "{native,stock}"},
      {{"generate", "--model", "x", "--kv-bits", "7"}, "7"},
      {{"generate", "--model", "x", "-m", "0", "hi"}, "--max-tokens"},
      {{"generate", "--model", "x", "-p", "a", "--prompt-ids", "1"},
       "excludes"},
      {{"generate", "--model", "x", "hi", "--top-logprobs", "2"}, "--json"},
      {{"bench", "--model", "x", "-n", "0"}, "--num-trials"},
      {{"convert", "--model", "x", "--gguf-type", "q8_0"}, "--to gguf"},
      {{"convert", "--model", "x", "--to", "gguf", "--dtype", "float32"},
       "--gguf-type"},
      {{"convert", "--model", "x", "--to", "gguf", "-d"}, "--gguf-type"},
      {{"convert", "--model", "x", "--to", "gguf", "-q"}, "--gguf-type"},
      {{"convert", "--model", "x", "-q", "--calibrate-tokens", "64"},
       "--calibrate"},
      {{"perplexity", "--model", "x"}, "file is required"},
      {{"info"}, "--model or --system"},
      {{"completion", "ksh"}, "{bash,zsh,fish}"}};
  for (const auto& wrong : cases) {
    SCOPED_TRACE(::testing::PrintToString(wrong.arguments));
    const auto result = run_cli(wrong.arguments);
    EXPECT_EQ(result.code, 2);
    EXPECT_THAT(result.err, StartsWith("qwen3-mlx"));
    EXPECT_THAT(result.err, HasSubstr(wrong.message));
    EXPECT_THAT(result.err, HasSubstr("--help"));
    EXPECT_THAT(result.out, IsEmpty());
  }
}

/// Checks that `command` refuses `options` with `message`.
void expect_refused(
    const std::string& command,
    const std::vector<std::string>& options,
    const std::string& message) {
  std::vector<std::string> arguments{command, "--model", "/nowhere"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  SCOPED_TRACE(::testing::PrintToString(arguments));
  const auto result = run_cli(arguments);
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr(message));
}

TEST(Arguments, NumbersOutOfRangeAreToldInTheSameWords) {
  const std::string least_1 = "expected a whole number of at least 1, found ";
  expect_refused("generate", {"-m", "0"}, "--max-tokens: " + least_1 + "'0'");
  expect_refused("generate", {"-m", "abc"}, least_1 + "'abc'");
  expect_refused("generate", {"-m", "0x10"}, least_1 + "'0x10'");
  expect_refused("generate", {"-m", "1.5"}, least_1 + "'1.5'");
  expect_refused("generate", {"-m", "-"}, least_1 + "'-'");
  expect_refused("generate", {"-m", ""}, "found ''");
  expect_refused(
      "generate",
      {"-m", "2147483648"},
      "expected a whole number from 1 to 2147483647, found '2147483648'");
  expect_refused("bench", {"-p", "0"}, "--prompt-tokens: " + least_1 + "'0'");
  const std::string least_0 = "expected a whole number of at least 0, found ";
  expect_refused("generate", {"--top-logprobs", "-1"}, least_0 + "'-1'");
  expect_refused("generate", {"--seed", "-1"}, least_0 + "'-1'");
  expect_refused(
      "generate",
      {"--seed", "18446744073709551616"},
      "expected a whole number from 0 to 18446744073709551615");
  expect_refused("perplexity", {"x", "--seed", "-1"}, least_0 + "'-1'");
  expect_refused("perplexity", {"x", "--num-samples", "0"}, "-1 for all");
  expect_refused("perplexity", {"x", "--num-samples", "-2"}, "at least -1");
  expect_refused(
      "generate",
      {"--repetition-context-size", "2147483647"},
      "--repetition-context-size: expected a whole number from 0 to 4096");
  expect_refused(
      "chat", {"--top-p", "7"}, "--top-p: expected a number from 0 to 1");
  expect_refused("chat", {"--temp", "nan"}, "of at least 0, found 'nan'");
  expect_refused("chat", {"--presence-penalty", "inf"}, "a finite number");
}

TEST(Arguments, LimitsOfTheServerAreNumbers) {
  if (run_cli({"--help"}).out.find("\n  serve ") == std::string::npos) {
    GTEST_SKIP() << "a build without the server";
  }
  expect_refused("serve", {"--max-body", "-1"}, "--max-body: expected");
  expect_refused("serve", {"--timeout", "nan"}, "--timeout: expected");
  expect_refused("serve", {"--port", "65536"}, "from 0 to 65535");
  expect_refused("serve", {"--kv-group-size", "32"}, "requires --kv-bits");
}

TEST(Arguments, AGpuThatIsNotThereIsTold) {
  const auto wanted =
      run_cli({"generate", "--model", "/nowhere", "--device", "gpu", "hi"});
  if (wanted.code == 1) {
    GTEST_SKIP() << "a GPU is here";
  }
  EXPECT_EQ(wanted.code, 2);
  EXPECT_THAT(wanted.err, HasSubstr("--device: this machine has no GPU"));
  EXPECT_THAT(wanted.err, HasSubstr("--device cpu"));
}

TEST(Arguments, AFolderOfGgufSaysToNameTheFile) {
  const TempDir folder;
  folder.write("b.gguf", "GGUF");
  const auto file = folder.write("a.gguf", "GGUF");
  const auto result =
      run_cli({"generate", "--model", folder.path().string(), "hi"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("--model " + file.string()));
}

TEST(Arguments, OptionsWithoutEffectAreRefused) {
  for (const std::string option : {"--sys", "--prefill-response"}) {
    expect_refused("generate", {"--prompt-ids", "1", option, "x"}, "excludes");
  }
  expect_refused(
      "generate", {"hi", "--ignore-chat-template", "--sys", "x"}, "excludes");
  expect_refused(
      "generate", {"hi", "--prompt-cache-file", "f", "--sys", "x"}, "excludes");
  expect_refused(
      "cache-prompt",
      {"hi",
       "--prompt-cache-file",
       "f",
       "--ignore-chat-template",
       "--sys",
       "x"},
      "excludes");
  for (const std::string command : {"generate", "chat"}) {
    expect_refused(command, {"--kv-group-size", "32"}, "requires --kv-bits");
    expect_refused(command, {"--quantized-kv-start", "8"}, "--kv-bits");
    expect_refused(
        command,
        {"--chat-template-file", "f", "--use-default-chat-template"},
        "excludes");
  }
}

TEST(Arguments, FailuresAreStatus1AndNameTheFile) {
  for (const std::string command : {"generate", "chat", "info", "bench"}) {
    SCOPED_TRACE(command);
    const auto result = run_cli({command, "--model", "/nowhere/model"});
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.err, HasSubstr("/nowhere/model"));
    EXPECT_THAT(result.out, IsEmpty());
  }
}

TEST(Arguments, HelpOfEveryCommandHasOptionsAndAnExample) {
  const auto whole = run_cli({"--help"});
  EXPECT_EQ(whole.code, 0);
  EXPECT_THAT(whole.out, HasSubstr("Exit status"));
  for (const std::string command :
       {"generate",
        "chat",
        "info",
        "bench",
        "perplexity",
        "cache-prompt",
        "completion"}) {
    SCOPED_TRACE(command);
    EXPECT_THAT(whole.out, HasSubstr("\n  " + command));
    const auto help = run_cli({command, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr("xample"));
    EXPECT_THAT(help.err, IsEmpty());
  }
}

TEST(Arguments, OptionsHaveTheNamesOfMlxLmAndLlamaCpp) {
  const auto help = run_cli({"generate", "--help"}).out;
  for (const std::string name :
       {"--max-tokens",
        "--n-predict",
        "--temp",
        "--temperature",
        "--top-p",
        "--top-k",
        "--min-p",
        "--xtc-probability",
        "--xtc-threshold",
        "--min-tokens-to-keep",
        "--seed",
        "--system-prompt",
        "--prefill-response",
        "--ignore-chat-template",
        "--extra-eos-token",
        "--chat-template-config",
        "--chat-template-kwargs",
        "--max-kv-size",
        "--ctx-size",
        "--kv-bits",
        "--kv-group-size",
        "--quantized-kv-start",
        "--prompt-cache-file",
        "--repeat-penalty",
        "--repeat-last-n",
        "--logit-bias",
        "--verbose",
        "--json"}) {
    EXPECT_THAT(help, HasSubstr(name));
  }
}

TEST(Arguments, VersionNamesMlx) {
  const auto result = run_cli({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, StartsWith("qwen3-mlx "));
  EXPECT_THAT(result.out, HasSubstr("MLX 0."));
}

TEST(Arguments, AFullDiskIsAFailure) {
  if (!std::filesystem::exists("/dev/full")) {
    GTEST_SKIP() << "no /dev/full here";
  }
  const auto result = run_program(
      "/bin/sh",
      {"-c", "\"$0\" completion bash > /dev/full", QWEN3_MLX_PROGRAM});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("standard output"));
}

/// What bash offers for the words of `line`, the last one being typed.
std::string complete_in_bash(const std::string& line) {
  const TempDir folder;
  const auto script =
      folder.write("script", run_cli({"completion", "bash"}).out);
  const auto result = run_program(
      "/bin/bash",
      {"-c",
       "source " + script.string() + "; COMP_WORDS=(" + line +
           "); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); "
           "_qwen3_mlx; echo \"${COMPREPLY[@]}\""});
  EXPECT_EQ(result.code, 0) << result.err;
  return result.out;
}

TEST(Completion, BashOffersCommandsOptionsAndValues) {
  if (!std::filesystem::exists("/bin/bash")) {
    GTEST_SKIP() << "no bash here";
  }
  EXPECT_EQ(complete_in_bash("qwen3-mlx gen"), "generate\n");
  EXPECT_EQ(
      complete_in_bash("qwen3-mlx generate --temp"), "--temp --temperature\n");
  EXPECT_EQ(complete_in_bash("qwen3-mlx chat --device ''"), "cpu gpu\n");
  EXPECT_EQ(complete_in_bash("qwen3-mlx completion z"), "zsh\n");
  EXPECT_EQ(complete_in_bash("qwen3-mlx chat --seed ''"), "\n");
}

TEST(Completion, ZshAndFishScriptsNameCommandsAndOptions) {
  const auto zsh = run_cli({"completion", "zsh"}).out;
  EXPECT_THAT(zsh, StartsWith("#compdef qwen3-mlx"));
  EXPECT_THAT(zsh, HasSubstr("*--max-tokens["));
  const auto fish = run_cli({"completion", "fish"}).out;
  EXPECT_THAT(fish, HasSubstr("-n __fish_use_subcommand -a generate"));
  EXPECT_THAT(fish, HasSubstr("-l device -x -a 'cpu gpu'"));
  for (const std::string shell : {"zsh", "fish"}) {
    const std::filesystem::path program = "/usr/bin/" + shell;
    if (std::filesystem::exists(program)) {
      const TempDir folder;
      const auto script =
          folder.write("script", run_cli({"completion", shell}).out);
      EXPECT_EQ(run_program(program, {"-n", script.string()}).code, 0);
    }
  }
}

TEST(Arguments, ShellsReadTheCompletionTheyAreGiven) {
  int n_shells = 0;
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const auto script = run_cli({"completion", shell});
    ASSERT_EQ(script.code, 0) << shell;
    EXPECT_THAT(script.out, HasSubstr("max-tokens")) << shell;
    const auto has_shell =
        run_program("/bin/sh", {"-c", "command -v " + shell}).code == 0;
    if (has_shell) {
      const auto check =
          run_program("/bin/sh", {"-c", shell + " -n /dev/stdin"}, script.out);
      EXPECT_EQ(check.code, 0) << shell << ": " << check.err;
      ++n_shells;
    }
  }
  EXPECT_GE(n_shells, 1); // the scripts of this project are bash's
}

} // namespace
} // namespace qwen3_mlx::testing
