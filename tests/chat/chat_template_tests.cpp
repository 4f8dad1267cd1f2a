// SPDX-License-Identifier: MIT
#include "qwen3_mlx/chat_template.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qwen3_mlx/error.h"
#include "testing/file_builders.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

void write(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

TEST(Messages, ReadsOpenAisFormat) {
  std::vector<Message> messages = parse_messages(R"([
    {"role":"system","content":"s"},
    {"role":"user","content":[{"type":"text","text":"a"},
                              {"type":"image_url","image_url":{"url":"x"}}]},
    {"role":"assistant","content":null,"reasoning":"r","tool_calls":[
      {"id":"1","type":"function","function":{"name":"f","arguments":"{}"}},
      {"function":{"name":"g","arguments":{"a":[1.0]}}}]},
    {"role":"tool","tool_call_id":"1","name":"f","content":"ok"}])");
  ASSERT_EQ(messages.size(), 4u);
  EXPECT_EQ(messages[1].parts[0].text, "a");
  EXPECT_EQ(messages[1].parts[1].type, "image_url");
  EXPECT_FALSE(messages[2].content);
  EXPECT_EQ(messages[2].reasoning_content, "r");
  EXPECT_EQ(messages[2].tool_calls[1].arguments, "{\"a\": [1.0]}");
  EXPECT_EQ(messages[3].tool_call_id, "1");
}

TEST(Messages, NamesThePlaceOfAFault) {
  struct Case {
    const char* json;
    const char* place;
  };
  for (const Case& c :
       {Case{"{}", "messages: expected an array, found an object"},
        Case{"[1]", "messages[0]: expected an object, found a number"},
        Case{"[{}]", "messages[0].role: expected a string, found nothing"},
        Case{R"([{"role":"x"}])", "messages[0].role: expected system"},
        Case{R"([{"role":"user","content":5}])", "messages[0].content"},
        Case{
            R"([{"role":"user","content":[{"type":"text"}]}])",
            "messages[0].content[0].text"},
        Case{
            R"([{"role":"assistant","tool_calls":[{}]}])",
            "messages[0].tool_calls[0].function"},
        Case{"[", "messages: no valid JSON at byte"}}) {
    try {
      parse_messages(c.json);
      ADD_FAILURE() << c.json;
    } catch (const InvalidArgument& e) {
      EXPECT_THAT(e.what(), HasSubstr(c.place));
    }
  }
}

TEST(Messages, ReplacesWhatIsNoText) {
  auto messages = parse_messages(
      "[{\"role\":\"user\",\"content\":\"a\xff\\ud800b\\ud83d\\ude00\"}]");
  EXPECT_EQ(messages[0].content, "a\uFFFD\uFFFDb\U0001F600");
}

TEST(Messages, BoundsNesting) {
  EXPECT_THROW(parse_messages(std::string(100000, '[')), InvalidArgument);
}

TEST(ChatTemplate, RendersTheChatmlDefault) {
  ChatTemplate chatml = ChatTemplate::chatml();
  EXPECT_TRUE(chatml.is_default());
  RenderOptions options;
  options.add_generation_prompt = true;
  std::vector<Message> messages = {{"system", "S"}, {"user", "U"}};
  EXPECT_EQ(
      chatml.render(messages, {}, options),
      "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
      "<|im_start|>assistant\n");
}

TEST(ChatTemplate, ConvertsMessagesAsMlxLmDoes) {
  ChatTemplate t(
      "{% for m in messages %}{{ m.role }}:{{ m.content | tojson }}"
      "{% for c in m.tool_calls %}{{ c.function.arguments.a }}{% endfor %};"
      "{% endfor %}{{ tools is none }}{{ enable_thinking }}{{ x }}");
  Message parts{"user"};
  parts.parts = {{"text", "a"}, {"text", "b"}};
  Message call{"assistant"};
  call.tool_calls = {{"1", "f", "{\"a\": 5}"}};
  RenderOptions options;
  options.enable_thinking = false;
  options.chat_template_kwargs = R"({"x": [1]})";
  std::vector<Message> messages = {parts, call};
  EXPECT_EQ(
      t.render(messages, {}, options),
      "user:\"ab\";assistant:\"\"5;TrueFalse[1]");
  messages[0].parts[0].type = "image_url";
  EXPECT_THROW(t.render(messages, {}, options), InvalidArgument);
  messages.erase(messages.begin());
  messages[0].tool_calls[0].arguments = "{";
  EXPECT_THROW(t.render(messages, {}, options), InvalidArgument);
}

TEST(ChatTemplate, FillsReasoningAsTransformersDoes) {
  ChatTemplate t("{{ messages[0] }}");
  EXPECT_EQ(
      t.render_json(R"({"messages":[{"role":"a","reasoning":"r"}]})"),
      "{'thinking': 'r', 'role': 'a', 'reasoning': 'r', "
      "'reasoning_content': 'r'}");
}

TEST(ChatTemplate, KwargsCannotReplaceTheRequest) {
  ChatTemplate t("{{ messages }}");
  EXPECT_THROW(
      t.render_json(
          R"({"messages":[],"chat_template_kwargs":{"messages":[1]}})"),
      InvalidArgument);
}

TEST(LoadChatTemplate, FindsTheTemplateOfAModel) {
  TempDir dir;
  EXPECT_TRUE(load_chat_template(dir.path()).is_default());
  write(
      dir.path() / "tokenizer_config.json",
      R"({"chat_template":"config {{ bos_token }}{{ eos_token }}",
          "bos_token":{"content":"<s>"},"eos_token":"</s>"})");
  std::string request = R"({"messages":[]})";
  EXPECT_EQ(
      load_chat_template(dir.path()).render_json(request), "config <s></s>");
  EXPECT_EQ(
      load_chat_template(dir.path() / "tokenizer_config.json")
          .render_json(request),
      "config <s></s>");
  write(dir.path() / "chat_template.jinja", "file {{ bos_token }}");
  EXPECT_EQ(load_chat_template(dir.path()).render_json(request), "file <s>");
  write(dir.path() / "additional_chat_templates" / "tool_use.jinja", "tools");
  EXPECT_EQ(load_chat_template(dir.path()).render_json(request), "file <s>");
  EXPECT_EQ(
      load_chat_template(dir.path())
          .render_json(R"({"messages":[],"tools":[{}]})"),
      "tools");
}

TEST(LoadChatTemplate, ReadsAGgufFile) {
  const auto strings = [](std::initializer_list<std::string> texts) {
    auto out = testing::bytes_of(std::uint32_t{8}) +
        testing::bytes_of(std::uint64_t{texts.size()});
    for (const auto& text : texts) {
      out += testing::GgufBuilder::string(text);
    }
    return out;
  };
  const auto with = [&](std::uint32_t eos) {
    return testing::GgufBuilder()
        .entry(
            "tokenizer.chat_template", "{{ messages[0].content ~ eos_token }}")
        .entry("tokenizer.chat_templates", 9, strings({"tool_use"}))
        .entry("tokenizer.chat_template.tool_use", "tools {{ eos_token }}")
        .entry("tokenizer.ggml.tokens", 9, strings({"a", "</s>"}))
        .entry("tokenizer.ggml.eos_token_id", eos)
        .build();
  };
  TempDir dir;
  const auto path = dir.write("model.gguf", with(1));
  const std::string message = R"("messages":[{"role":"user","content":"Hi"}])";
  EXPECT_EQ(
      load_chat_template(path).render_json("{" + message + "}"), "Hi</s>");
  EXPECT_EQ(
      load_chat_template(path).render_json("{" + message + R"(,"tools":[{}]})"),
      "tools </s>");
  dir.write("model.gguf", with(7));
  EXPECT_THROW(load_chat_template(path), FieldError);
  dir.write("model.gguf", testing::GgufBuilder().build());
  EXPECT_TRUE(load_chat_template(path).is_default());
}

TEST(ChatTemplate, NumbersBeyond64BitsAreErrorsWithAPlace) {
  const ChatTemplate chat_template("{{ n }}");
  const auto render = [&](const std::string& number) {
    return chat_template.render_json(
        R"({"messages":[],"chat_template_kwargs":{"n":)" + number + "}}");
  };
  EXPECT_EQ(render("9223372036854775807"), "9223372036854775807");
  EXPECT_EQ(render("-9223372036854775808"), "-9223372036854775808");
  EXPECT_THROW(render("9223372036854775808"), Error);
  EXPECT_THROW(render("123456789012345678901234567890"), Error);
  EXPECT_THROW(
      ChatTemplate("{{ 9223372036854775807 + 1 }}")
          .render_json(R"({"messages":[]})"),
      TemplateError);
  EXPECT_THROW(ChatTemplate("{{ 99999999999999999999 }}"), TemplateError);
}

TEST(LoadChatTemplate, ReadsNamedTemplates) {
  TempDir dir;
  auto path = dir.path() / "tokenizer_config.json";
  write(
      path,
      R"({"chat_template":[{"name":"default","template":"d"},
                           {"name":"tool_use","template":"t"}]})");
  EXPECT_EQ(
      load_chat_template(dir.path()).render_json(R"({"messages":[]})"), "d");
  write(path, R"({"chat_template":[{"name":"rag","template":"d"}]})");
  EXPECT_THROW(load_chat_template(dir.path()), FieldError);
  write(path, R"({"chat_template":[{"name":"default"}]})");
  EXPECT_THROW(load_chat_template(dir.path()), FieldError);
  write(path, R"({"chat_template":5})");
  EXPECT_THROW(load_chat_template(dir.path()), FieldError);
  write(path, R"({"eos_token":5})");
  EXPECT_THROW(load_chat_template(dir.path()), FieldError);
  write(path, "{");
  EXPECT_THROW(load_chat_template(dir.path()), FileError);
  EXPECT_THROW(load_chat_template(dir.path() / "none.jinja"), FileError);
}

} // namespace
} // namespace qwen3_mlx
