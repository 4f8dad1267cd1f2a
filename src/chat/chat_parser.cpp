// SPDX-License-Identifier: MIT
#include "qwen3_mlx/chat_parser.h"

#include <algorithm>
#include <array>

#include "chat/json_value.h"
#include "chat/tool_call_parser.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

using Kind = ChatEvent::Kind;

constexpr std::string_view think_open = "<think>";
constexpr std::string_view think_close = "</think>";

// "type" of a JSON schema: a string or a list of them.
std::vector<std::string> types_of(const jinja::Value& schema) {
  std::vector<std::string> out;
  const jinja::Value* type =
      schema.is_dict() ? schema.as_dict().find("type") : nullptr;
  if (type != nullptr && type->is_string()) {
    out.push_back(type->as_string());
  } else if (type != nullptr && type->is_list()) {
    for (const jinja::Value& one : type->items()) {
      if (one.is_string()) {
        out.push_back(one.as_string());
      }
    }
  }
  return out;
}

ParameterTypes parameter_types(const std::vector<Tool>& tools) {
  ParameterTypes out;
  for (const Tool& tool : tools) {
    jinja::Value v = parse_json(tool.json, "tool");
    if (!v.is_dict()) {
      throw InvalidArgument("tool: expected an object, found " + v.type_name());
    }
    // A function's description, or {"type": "function", "function": it}.
    const jinja::Value* function = v.as_dict().find("function");
    auto field = [](const jinja::Value* from, std::string_view name) {
      return from != nullptr && from->is_dict() ? from->as_dict().find(name)
                                                : nullptr;
    };
    function = function != nullptr ? function : &v;
    const jinja::Value* name = field(function, "name");
    const jinja::Value* properties =
        field(field(function, "parameters"), "properties");
    if (name == nullptr || !name->is_string() || properties == nullptr ||
        !properties->is_dict()) {
      continue;
    }
    for (const auto& [key, schema] : properties->as_dict().items()) {
      out[name->as_string()][key.as_string()] = types_of(schema);
    }
  }
  return out;
}

} // namespace

class ChatParser::Impl {
 public:
  explicit Impl(const ChatParserOptions& options)
      : format_(options.tool_calls), types_(parameter_types(options.tools)) {
    if (options.reasoning) {
      content_tags_ = {think_open, think_close};
    }
    if (format_ != ToolCallFormat::none) {
      content_tags_.insert(content_tags_.end(), {call_open, call_close});
    }
    if (options.reasoning && options.starts_in_reasoning) {
      open_section(Kind::reasoning);
    }
  }

  std::vector<ChatEvent> add(std::string_view text) {
    out_.clear();
    for (char c : text) {
      put(c);
    }
    return merged();
  }

  std::vector<ChatEvent> finish() {
    out_.clear();
    if (malformed_) {
      report_malformed();
    } else if (call_) {
      if (call_->complete()) {
        call_->end(out_);
        ++n_calls_;
      } else {
        reason_ = "the call is cut off";
        report_malformed();
      }
      call_.reset();
    } else {
      for (char c : std::string(std::move(held_))) {
        emit(c);
      }
      held_.clear();
      emit_newlines();
    }
    return merged();
  }

 private:
  void put(char c) {
    if (malformed_) {
      raw_ += c;
      if (raw_.ends_with(call_close)) {
        report_malformed();
        open_section(Kind::content);
      }
      return;
    }
    if (call_) {
      put_in_call(c);
      return;
    }
    held_ += c;
    while (!held_.empty()) {
      Match match = match_tag();
      if (match == Match::partial) {
        return;
      }
      if (match == Match::whole) {
        std::string tag = std::move(held_);
        held_.clear();
        take_tag(tag);
        return;
      }
      emit(held_[0]);
      held_.erase(0, 1);
    }
  }

  enum class Match { none, partial, whole };

  Match match_tag() const {
    static const std::vector<std::string_view> reasoning_tags = {think_close};
    for (std::string_view tag :
         section_ == Kind::reasoning ? reasoning_tags : content_tags_) {
      if (tag == held_) {
        return Match::whole;
      }
      if (tag.starts_with(held_)) {
        return Match::partial;
      }
    }
    return Match::none;
  }

  void take_tag(std::string_view tag) {
    if (tag == think_open) {
      open_section(Kind::reasoning);
    } else if (tag == call_open) {
      newlines_ = 0;
      raw_ = call_open;
      call_ = format_ == ToolCallFormat::hermes_json
          ? make_hermes_parser(n_calls_)
          : make_xml_parser(n_calls_, types_);
    } else {
      // A closing tag, whether or not anything was open: it is never shown.
      open_section(Kind::content);
    }
  }

  void open_section(Kind section) {
    section_ = section;
    newlines_ = 0;
    strip_newlines_ = true;
  }

  void put_in_call(char c) {
    raw_ += c;
    switch (call_->put(c, out_)) {
    case ToolCallParser::Status::open:
      return;
    case ToolCallParser::Status::closed:
      ++n_calls_;
      call_.reset();
      open_section(Kind::content);
      return;
    case ToolCallParser::Status::malformed:
      reason_ = call_->reason();
      call_.reset();
      malformed_ = true;
      // The last character may have ended the closing tag.
      if (raw_.ends_with(call_close)) {
        report_malformed();
        open_section(Kind::content);
      }
      return;
    }
  }

  void report_malformed() {
    out_.push_back(
        {Kind::malformed_tool_call, std::move(raw_), n_calls_, reason_});
    raw_.clear();
    malformed_ = false;
    ++n_calls_;
  }

  // Newlines wait until it is known that text follows them.
  void emit(char c) {
    if (c == '\n') {
      newlines_ += strip_newlines_ ? 0 : 1;
      return;
    }
    strip_newlines_ = false;
    emit_newlines();
    append(std::string(1, c));
  }

  void emit_newlines() {
    if (newlines_ > 0) {
      append(std::string(newlines_, '\n'));
      newlines_ = 0;
    }
  }

  void append(std::string text) {
    out_.push_back({section_, std::move(text), 0, {}});
  }

  std::vector<ChatEvent> merged() {
    std::vector<ChatEvent> events;
    for (ChatEvent& event : out_) {
      bool joins = event.kind == Kind::content ||
          event.kind == Kind::reasoning ||
          event.kind == Kind::tool_call_arguments;
      if (joins && !events.empty() && events.back().kind == event.kind &&
          events.back().index == event.index) {
        events.back().text += event.text;
      } else {
        events.push_back(std::move(event));
      }
    }
    out_.clear();
    return events;
  }

  ToolCallFormat format_;
  ParameterTypes types_;
  std::vector<std::string_view> content_tags_;
  Kind section_ = Kind::content;
  std::string held_; // The beginning of a tag, or so it seems.
  std::size_t newlines_ = 0;
  bool strip_newlines_ = false;
  std::unique_ptr<ToolCallParser> call_;
  std::string raw_; // All of the current call.
  bool malformed_ = false;
  std::string reason_;
  int n_calls_ = 0;
  std::vector<ChatEvent> out_;
};

ChatParser::ChatParser(const ChatParserOptions& options)
    : impl_(std::make_unique<Impl>(options)) {}
ChatParser::~ChatParser() = default;
ChatParser::ChatParser(ChatParser&&) noexcept = default;
ChatParser& ChatParser::operator=(ChatParser&&) noexcept = default;

std::vector<ChatEvent> ChatParser::add(std::string_view text) {
  return impl_->add(text);
}

std::vector<ChatEvent> ChatParser::finish() {
  return impl_->finish();
}

ToolCallFormat find_tool_call_format(std::string_view source) {
  auto has = [&](std::string_view text) {
    return source.find(text) != source.npos;
  };
  if (!has(call_open)) {
    return ToolCallFormat::none;
  }
  // Templates write the newline as it is or as an escape in a string.
  if (has("<tool_call>\n<function=") || has("<tool_call>\\n<function=")) {
    return ToolCallFormat::qwen3_coder_xml;
  }
  return has("tool_call.name") || has("\"name\"") ? ToolCallFormat::hermes_json
                                                  : ToolCallFormat::none;
}

bool opens_reasoning(std::string_view prompt) {
  std::size_t open = prompt.rfind(think_open);
  if (open == prompt.npos) {
    return false;
  }
  std::string_view rest = prompt.substr(open + think_open.size());
  return std::all_of(
      rest.begin(), rest.end(), [](char c) { return c == '\n' || c == ' '; });
}

} // namespace qwen3_mlx
