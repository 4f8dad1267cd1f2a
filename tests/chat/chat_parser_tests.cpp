// SPDX-License-Identifier: MIT
#include "qwen3_mlx/chat_parser.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qwen3_mlx {
namespace {

using Kind = ChatEvent::Kind;
using ::testing::HasSubstr;

// Joins neighbouring texts, so that cuts do not show.
void append(std::vector<ChatEvent>& events, std::vector<ChatEvent> more) {
  for (ChatEvent& event : more) {
    bool joins = !events.empty() && events.back().kind == event.kind &&
        events.back().index == event.index &&
        (event.kind == Kind::content || event.kind == Kind::reasoning ||
         event.kind == Kind::tool_call_arguments);
    if (joins) {
      events.back().text += event.text;
    } else {
      events.push_back(std::move(event));
    }
  }
}

std::vector<ChatEvent> parse_pieces(
    const std::vector<std::string>& pieces,
    const ChatParserOptions& options) {
  ChatParser parser(options);
  std::vector<ChatEvent> events;
  for (const std::string& piece : pieces) {
    append(events, parser.add(piece));
  }
  append(events, parser.finish());
  return events;
}

std::vector<ChatEvent> parse(
    const std::string& text,
    ToolCallFormat format = ToolCallFormat::hermes_json,
    bool in_reasoning = false) {
  ChatParserOptions options;
  options.tool_calls = format;
  options.starts_in_reasoning = in_reasoning;
  options.tools = {
      {R"({"type":"function","function":{"name":"f","parameters":{"type":
       "object","properties":{"city":{"type":"string"},"n":{"type":"integer"},
       "on":{"type":"boolean"},"o":{"type":"object"}}}}})"}};
  return parse_pieces({text}, options);
}

ChatEvent content(std::string text) {
  return {Kind::content, std::move(text)};
}
ChatEvent reasoning(std::string text) {
  return {Kind::reasoning, std::move(text)};
}
ChatEvent begin(std::string name, int index = 0) {
  return {Kind::tool_call_begin, std::move(name), index};
}
ChatEvent arguments(std::string json, int index = 0) {
  return {Kind::tool_call_arguments, std::move(json), index};
}
ChatEvent end(int index = 0) {
  return {Kind::tool_call_end, {}, index};
}

using Events = std::vector<ChatEvent>;

TEST(ChatParser, PassesPlainTextOn) {
  EXPECT_EQ(parse("Hi <b> x\n\n"), Events{content("Hi <b> x\n\n")});
  EXPECT_EQ(parse(""), Events{});
}

TEST(ChatParser, SplitsReasoningFromTheAnswer) {
  Events expected = {reasoning("hm\n\nso"), content("Four.")};
  EXPECT_EQ(parse("<think>\nhm\n\nso\n</think>\n\nFour."), expected);
  // Opened by the template, so that the model only closes it.
  EXPECT_EQ(
      parse("hm\n\nso\n</think>\n\nFour.", ToolCallFormat::none, true),
      expected);
  EXPECT_EQ(parse("<think>\n\n</think>\n\nFour."), Events{content("Four.")});
  EXPECT_EQ(parse("<think>cut </thi"), Events{reasoning("cut </thi")});
}

TEST(ChatParser, ReadsHermesCalls) {
  EXPECT_EQ(
      parse("Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": "
            "{\"city\": \"Zürich </tool_call>\"}}\n</tool_call>\n<tool_call>\n"
            "{\"arguments\": {}, \"name\": \"g\"}</tool_call>"),
      (Events{
          content("Let me see."),
          begin("f"),
          arguments("{\"city\": \"Zürich </tool_call>\"}"),
          end(),
          begin("g", 1),
          arguments("{}", 1),
          end(1)}));
  // Arguments as a string of JSON, and none at all.
  EXPECT_EQ(
      parse("<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"n\\\": 1}\"}"
            "</tool_call><tool_call>{\"name\":\"f\"}"),
      (Events{
          begin("f"),
          arguments("{\"n\": 1}"),
          end(),
          begin("f", 1),
          arguments("{}", 1),
          end(1)}));
}

TEST(ChatParser, ReadsXmlCallsByTheToolsTypes) {
  EXPECT_EQ(
      parse(
          "<think>\nx\n</think>\n\n<tool_call>\n<function=f>\n"
          "<parameter=city>\nA \"b\"\nc\n</parameter>\n"
          "<parameter=n>\n3\n</parameter>\n<parameter=on>\nTrue\n"
          "</parameter>\n<parameter=o>\n{\"a\": [1]}\n</parameter>\n"
          "<parameter=other>\nplain\n</parameter>\n"
          "</function>\n</tool_call>",
          ToolCallFormat::qwen3_coder_xml),
      (Events{
          reasoning("x"),
          begin("f"),
          arguments("{\"city\": \"A \\\"b\\\"\\nc\", \"n\": 3, \"on\": true, "
                    "\"o\": {\"a\": [1]}, \"other\": \"plain\"}"),
          end()}));
  EXPECT_EQ(
      parse(
          "<tool_call><function=now></function></tool_call>",
          ToolCallFormat::qwen3_coder_xml),
      (Events{begin("now"), arguments("{}"), end()}));
}

TEST(ChatParser, ReturnsMalformedCallsAsTextWithAReason) {
  struct Case {
    const char* text;
    const char* reason;
  };
  for (const Case& c :
       {Case{"<tool_call>hello</tool_call>", "expected a JSON object"},
        Case{"<tool_call>{\"name\": 1}</tool_call>", "\"name\""},
        Case{"<tool_call>{\"arguments\": {}}</tool_call>", "no \"name\""},
        Case{
            "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\" 1}}</tool_call>",
            "not valid"},
        Case{
            "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>",
            "object"},
        Case{"<tool_call>{\"name\":\"f\"} x</tool_call>", "</tool_call>"},
        Case{"<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":", "cut off"}}) {
    Events events = parse(c.text);
    ASSERT_FALSE(events.empty());
    EXPECT_EQ(events.back().kind, Kind::malformed_tool_call) << c.text;
    EXPECT_EQ(events.back().text, c.text);
    EXPECT_THAT(events.back().reason, HasSubstr(c.reason));
  }
  Events events = parse("<tool_call>oops</tool_call>\nGo on.");
  EXPECT_EQ(events.back(), content("Go on."));
}

TEST(ChatParser, NeverLeaksStrayMarkup) {
  EXPECT_EQ(parse("a</think>\nb</tool_call>c").size(), 1u);
  EXPECT_EQ(parse("a</think>\nb</tool_call>c")[0].text, "abc");
}

TEST(ChatParser, AnySplitGivesTheSameEvents) {
  std::mt19937 rng(7);
  const std::vector<std::string> pieces = {
      "<think>",
      "</think>",
      "<tool_call>",
      "</tool_call>",
      "\n",
      "\n\n",
      "text ",
      "é☁",
      "<",
      "</",
      "{",
      "}",
      "\"",
      "{\"name\": \"f\"",
      ", \"arguments\": {\"city\": \"Zü\\n\\u00e9\", \"n\": [1.5e3, null]}}",
      "<function=f>",
      "<parameter=city>",
      "\nvalue\n",
      "</parameter>",
      "<parameter=n>3</parameter>",
      "</function>",
      "<tool",
      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 1}}\n</tool_call>",
      "<tool_call>\n<function=f>\n<parameter=o>\n{}\n</parameter>\n"
      "</function>\n</tool_call>"};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    std::size_t n = rng() % 8 + 1;
    for (std::size_t k = 0; k < n; ++k) {
      text += pieces[rng() % pieces.size()];
    }
    ChatParserOptions options;
    options.tool_calls = rng() % 2 == 0 ? ToolCallFormat::hermes_json
                                        : ToolCallFormat::qwen3_coder_xml;
    options.starts_in_reasoning = rng() % 4 == 0;
    Events whole = parse_pieces({text}, options);
    for (int cut = 0; cut < 4; ++cut) {
      std::vector<std::string> parts;
      for (std::size_t at = 0; at < text.size();) {
        std::size_t size = cut == 0 ? 1 : rng() % 9 + 1;
        parts.push_back(text.substr(at, size));
        at += size;
      }
      ASSERT_EQ(parse_pieces(parts, options), whole) << text;
    }
  }
}

TEST(ChatParser, StreamsArgumentsBeforeTheCallEnds) {
  ChatParserOptions options;
  options.tool_calls = ToolCallFormat::hermes_json;
  ChatParser parser(options);
  Events events =
      parser.add("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b");
  EXPECT_EQ(events, (Events{begin("f"), arguments("{\"a\": \"b")}));
  EXPECT_EQ(parser.add("c\"}"), Events{arguments("c\"}")});
  EXPECT_EQ(parser.add("}</tool_call"), Events{});
  EXPECT_EQ(parser.add(">"), Events{end()});
}

TEST(ChatParser, FindsWhatATemplateAsksFor) {
  EXPECT_EQ(
      find_tool_call_format("...<tool_call>\\n<function=example>"),
      ToolCallFormat::qwen3_coder_xml);
  EXPECT_EQ(
      find_tool_call_format("<tool_call>\\n{\"name\": ... tool_call.name"),
      ToolCallFormat::hermes_json);
  EXPECT_EQ(find_tool_call_format("plain"), ToolCallFormat::none);
  EXPECT_TRUE(opens_reasoning("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(opens_reasoning("<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_reasoning("plain"));
}

} // namespace
} // namespace qwen3_mlx
