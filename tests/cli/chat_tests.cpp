// SPDX-License-Identifier: MIT
// chat, piped and on a terminal, on a tiny checkpoint.

#include <chrono>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using Json = nlohmann::json;

class Chat : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tiny_chat_model(model());
  }

  ProgramResult
  chat(const std::string& input, std::vector<std::string> options = {}) {
    return run_cli(arguments(std::move(options)), input);
  }

  std::vector<std::string> arguments(std::vector<std::string> options) const {
    std::vector<std::string> all{
        "chat", "--model", model().string(), "--temp", "0"};
    all.insert(all.end(), options.begin(), options.end());
    return all;
  }

  std::filesystem::path model() const {
    return folder_.path() / "model";
  }
  Json saved() const {
    return Json::parse(std::ifstream(folder_.path() / "saved.json"));
  }

  TempDir folder_;
};

TEST_F(Chat, ReadsOnlyTheNewTurnAndKeepsTheConversation) {
  const auto file = (folder_.path() / "saved.json").string();
  const auto result = chat(
      "hello\nhello hello\n/save " + file + "\n/quit\nnever said\n",
      {"-m", "6", "--verbose", "--sys", "be kind"});
  ASSERT_EQ(result.code, 0) << result.err;
  // The second prompt is system, two turns and an answer; what is read of it
  // is little more than the new turn.
  EXPECT_THAT(result.err, HasSubstr("more were in the cache)"));
  const auto messages = saved().at("messages");
  ASSERT_THAT(messages, SizeIs(5));
  EXPECT_EQ(messages.at(0).at("content"), "be kind");
  EXPECT_EQ(messages.at(1).at("role"), "user");
  EXPECT_EQ(messages.at(2).at("role"), "assistant");
  EXPECT_EQ(messages.at(3).at("content"), "hello hello");
  EXPECT_EQ(
      result.out,
      messages.at(2).at("content").get<std::string>() + "\n" +
          messages.at(4).at("content").get<std::string>() + "\n");
}

TEST_F(Chat, ACachedConversationAnswersAsAFreshOneDoes) {
  const auto file = (folder_.path() / "saved.json").string();
  const auto first =
      chat("hello\n/save " + file + "\nhello again\n", {"-m", "6"});
  const auto second = chat("/load " + file + "\nhello again\n", {"-m", "6"});
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_THAT(first.out, ::testing::EndsWith("\n" + second.out));
}

TEST_F(Chat, ClearForgetsAndSystemIsSet) {
  const auto file = (folder_.path() / "saved.json").string();
  const auto result = chat(
      "hello\n/clear\n/system in short\nhi\\\nthere\n/save " + file + "\n",
      {"-m", "2"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto messages = saved().at("messages");
  ASSERT_THAT(messages, SizeIs(3));
  EXPECT_EQ(messages.at(0).at("content"), "in short");
  EXPECT_EQ(messages.at(1).at("content"), "hi\nthere");
}

TEST_F(Chat, MistakesAreToldAndTheConversationGoesOn) {
  const auto bad = folder_.write("bad.json", "[1]");
  const auto result = chat(
      "/bogus\n/load /nowhere\n/load " + bad.string() +
          "\n/save\n/help\nhello\n",
      {"-m", "2"});
  EXPECT_EQ(result.code, 1); // a script has no other sign
  EXPECT_THAT(result.err, HasSubstr("unknown command /bogus"));
  EXPECT_THAT(result.err, HasSubstr("/nowhere"));
  EXPECT_THAT(result.err, HasSubstr("bad.json"));
  EXPECT_THAT(result.err, HasSubstr("/save needs"));
  EXPECT_THAT(result.out, HasSubstr("/clear"));
}

TEST_F(Chat, WrongSamplingIsToldBeforeTheFirstQuestion) {
  for (const auto& wrong : std::vector<std::vector<std::string>>{
           {"--top-p", "7"}, {"--logit-bias", "272=1"}}) {
    const auto result = chat("", wrong);
    EXPECT_EQ(result.code, 2);
    EXPECT_THAT(result.err, HasSubstr("expected"));
  }
}

TEST_F(Chat, CtrlCStopsTheAnswerAndNotTheProgram) {
  // Longer than anyone waits for: only Ctrl-C ends the answer.
  TerminalSession terminal(
      arguments({"-m", "100000", "--max-kv-size", "64"}), folder_.path());
  ASSERT_TRUE(terminal.wait_for(">>> ")) << terminal.shown();
  terminal.type("hello\n");
  // The echo of the line, then the line end before the answer.
  ASSERT_TRUE(terminal.wait_for("hello\r\n")) << terminal.shown();
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  terminal.type("\x03");
  EXPECT_TRUE(terminal.wait_for("(stopped)")) << terminal.shown();
  ASSERT_TRUE(terminal.wait_for(">>> ")) << terminal.shown();
  // While a line is typed, Ctrl-C empties it.
  terminal.type("nonsense\x03/stats\n");
  ASSERT_TRUE(terminal.wait_for(">>> ")) << terminal.shown();
  EXPECT_THAT(terminal.shown(), Not(HasSubstr("nonsense/stats\r\n(")));
  terminal.type("/quit\n");
  EXPECT_EQ(terminal.wait(), 0) << terminal.shown();
}

TEST_F(Chat, ThinkingIsKeptApartAndCanBeHidden) {
  const auto file = (folder_.path() / "saved.json").string();
  const std::vector<std::string> options{
      "-m", "4", "--chat-template-kwargs", R"({"enable_thinking": true})"};
  // The prompt opens <think> and four tokens never close it.
  const auto shown = chat("hello\n/save " + file + "\n", options);
  ASSERT_EQ(shown.code, 0) << shown.err;
  const auto answer = saved().at("messages").at(1);
  EXPECT_EQ(answer.at("content"), "");
  const auto thinking = answer.at("reasoning_content").get<std::string>();
  EXPECT_THAT(shown.out, HasSubstr(thinking));
  auto hidden = options;
  hidden.emplace_back("--hide-thinking");
  EXPECT_EQ(chat("hello\n", hidden).out, "\n");
}

TEST_F(Chat, AModelWithoutTemplateGetsChatMlAndAWarning) {
  std::filesystem::remove(model() / "chat_template.jinja");
  const auto result = chat("hello\n", {"-m", "1"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("no chat template"));
}

TEST_F(Chat, LinesAreRememberedAcrossSessions) {
  {
    TerminalSession terminal(arguments({"-m", "1"}), folder_.path());
    ASSERT_TRUE(terminal.wait_for(">>> "));
    terminal.type("/system remembered\n");
    ASSERT_TRUE(terminal.wait_for(">>> "));
    terminal.type("\x04"); // Ctrl-D
    EXPECT_EQ(terminal.wait(), 0);
  }
  TerminalSession terminal(arguments({"-m", "1"}), folder_.path());
  ASSERT_TRUE(terminal.wait_for(">>> "));
  terminal.type("\x10"); // Ctrl-P: the line before
  EXPECT_TRUE(terminal.wait_for("/system remembered")) << terminal.shown();
}

} // namespace
} // namespace qwen3_mlx::testing
