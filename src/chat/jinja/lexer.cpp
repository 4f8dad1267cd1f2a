// SPDX-License-Identifier: MIT
#include "chat/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "base/utf8.h"
#include "chat/jinja/string_literal.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

constexpr std::array<std::pair<std::string_view, TokenType>, 26> operators = {{
    // Longer ones first: the first that fits is taken.
    {"//", TokenType::floordiv}, {"**", TokenType::pow},
    {"==", TokenType::eq},       {"!=", TokenType::ne},
    {">=", TokenType::gteq},     {"<=", TokenType::lteq},
    {"+", TokenType::add},       {"-", TokenType::sub},
    {"/", TokenType::div},       {"*", TokenType::mul},
    {"%", TokenType::mod},       {"~", TokenType::tilde},
    {"[", TokenType::lbracket},  {"]", TokenType::rbracket},
    {"(", TokenType::lparen},    {")", TokenType::rparen},
    {"{", TokenType::lbrace},    {"}", TokenType::rbrace},
    {">", TokenType::gt},        {"<", TokenType::lt},
    {"=", TokenType::assign},    {".", TokenType::dot},
    {":", TokenType::colon},     {"|", TokenType::pipe},
    {",", TokenType::comma},     {";", TokenType::semicolon},
}};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      root();
    }
    emit(TokenType::eof, source_.size());
    return std::move(tokens_);
  }

 private:
  enum class Tag { none, raw, variable, block, comment };

  [[noreturn]] void fail(std::size_t pos, std::string reason) const {
    throw SyntaxFault{static_cast<std::uint32_t>(pos), std::move(reason)};
  }
  bool starts(std::size_t pos, std::string_view text) const {
    return source_.substr(std::min(pos, source_.size())).starts_with(text);
  }
  void emit(TokenType type, std::size_t pos, std::string text = {}) {
    tokens_.push_back({type, static_cast<std::uint32_t>(pos), std::move(text)});
  }
  std::size_t skip_space(std::size_t pos) const {
    while (pos < source_.size()) {
      Utf8Step step = decode_utf8(source_.substr(pos));
      if (!is_space(step.code_point)) {
        break;
      }
      pos += step.n_bytes;
    }
    return pos;
  }
  // Where a "-%}" or "%}" (then one newline) ends, 0 when there is none here.
  std::size_t
  end_of_tag(std::size_t pos, std::string_view close, bool trim) const {
    if (starts(pos, "-") && starts(pos + 1, close)) {
      return skip_space(pos + 1 + close.size());
    }
    if (trim && starts(pos, "+") && starts(pos + 1, close)) {
      return pos + 1 + close.size();
    }
    if (starts(pos, close)) {
      pos += close.size();
      return trim && starts(pos, "\n") ? pos + 1 : pos;
    }
    return 0;
  }
  // The end of a "{% raw %}" that starts at `pos`, 0 when there is none.
  std::size_t end_of_raw_begin(std::size_t pos) const {
    pos += 2;
    if (starts(pos, "-") || starts(pos, "+")) {
      ++pos;
    }
    pos = skip_space(pos);
    return starts(pos, "raw") ? end_of_tag(skip_space(pos + 3), "%}", false)
                              : 0;
  }

  // Text up to the next tag, and the tag's beginning.
  void root() {
    std::size_t pos = at_;
    Tag tag = Tag::none;
    std::size_t raw_end = 0;
    for (; pos + 1 < source_.size(); ++pos) {
      if (source_[pos] != '{') {
        continue;
      }
      char c = source_[pos + 1];
      if (c == '%') {
        raw_end = end_of_raw_begin(pos);
        tag = raw_end != 0 ? Tag::raw : Tag::block;
      } else if (c == '{') {
        tag = Tag::variable;
      } else if (c == '#') {
        tag = Tag::comment;
      }
      if (tag != Tag::none) {
        break;
      }
    }
    if (tag == Tag::none) {
      emit(TokenType::data, at_, std::string(source_.substr(at_)));
      at_ = source_.size();
      return;
    }
    char sign = sign_at(pos + 2);
    data(at_, pos, sign, tag != Tag::variable);
    std::size_t inside = pos + 2 + (sign != 0 ? 1 : 0);
    starts_line_ = false;
    switch (tag) {
    case Tag::raw:
      at_ = raw_end;
      starts_line_ = source_[at_ - 1] == '\n';
      raw();
      break;
    case Tag::comment:
      at_ = inside;
      comment(pos);
      break;
    case Tag::block:
      emit(TokenType::block_begin, pos);
      at_ = inside;
      code("%}", TokenType::block_end, true);
      break;
    default:
      emit(TokenType::variable_begin, pos);
      at_ = inside;
      code("}}", TokenType::variable_end, false);
      break;
    }
  }

  char sign_at(std::size_t pos) const {
    return pos < source_.size() && (source_[pos] == '-' || source_[pos] == '+')
        ? source_[pos]
        : '\0';
  }

  // Emits the text [from, to) before a tag with this whitespace sign.
  void data(std::size_t from, std::size_t to, char sign, bool lstrip) {
    std::string_view text = source_.substr(from, to - from);
    if (sign == '-') {
      text = rstrip_space(text);
    } else if (sign != '+' && lstrip) {
      std::size_t newline = text.rfind('\n');
      std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line > 0 || starts_line_) && line < text.size() &&
          rstrip_space(text.substr(line)).empty()) {
        text = text.substr(0, line);
      }
    }
    if (!text.empty()) {
      emit(TokenType::data, from, std::string(text));
    }
  }

  void comment(std::size_t start) {
    for (std::size_t pos = at_; pos < source_.size(); ++pos) {
      if (std::size_t end = end_of_tag(pos, "#}", true)) {
        at_ = end;
        starts_line_ = source_[at_ - 1] == '\n';
        return;
      }
    }
    // Jinja lets nothing at all stand for the rest.
    if (at_ < source_.size()) {
      fail(start, "Missing end of comment tag");
    }
  }

  void raw() {
    for (std::size_t pos = at_; pos < source_.size(); ++pos) {
      if (!starts(pos, "{%")) {
        continue;
      }
      char sign = sign_at(pos + 2);
      std::size_t word = skip_space(pos + 2 + (sign != 0 ? 1 : 0));
      if (!starts(word, "endraw")) {
        continue;
      }
      std::size_t end = end_of_tag(skip_space(word + 6), "%}", true);
      if (end != 0) {
        data(at_, pos, sign, true);
        at_ = end;
        starts_line_ = source_[at_ - 1] == '\n';
        return;
      }
    }
    if (at_ < source_.size()) {
      fail(at_, "Missing end of raw directive");
    }
  }

  // The tokens of an expression or statement up to `close`.
  void code(std::string_view close, TokenType close_type, bool trim) {
    std::string open_brackets;
    while (at_ < source_.size()) {
      if (open_brackets.empty()) {
        if (std::size_t end = end_of_tag(at_, close, trim)) {
          emit(close_type, at_);
          at_ = end;
          starts_line_ = source_[at_ - 1] == '\n';
          return;
        }
      }
      std::size_t after_space = skip_space(at_);
      if (after_space != at_) {
        at_ = after_space;
      } else if (!number() && !name() && !string_token()) {
        operator_token(open_brackets);
      }
    }
  }

  // digits, with single underscores between them
  std::size_t digits(std::size_t pos) const {
    if (pos >= source_.size() || !is_digit(source_[pos])) {
      return pos;
    }
    while (pos < source_.size() &&
           (is_digit(source_[pos]) ||
            (source_[pos] == '_' && pos + 1 < source_.size() &&
             is_digit(source_[pos + 1])))) {
      ++pos;
    }
    return pos;
  }

  std::size_t end_of_float() const {
    if (at_ > 0 && source_[at_ - 1] == '.') {
      return 0;
    }
    std::size_t whole = digits(at_);
    std::size_t end = 0;
    std::size_t fraction = whole;
    if (starts(whole, ".") && digits(whole + 1) != whole + 1) {
      fraction = digits(whole + 1);
      end = fraction;
    }
    if (starts(fraction, "e") || starts(fraction, "E")) {
      std::size_t sign = fraction + 1;
      if (starts(sign, "+") || starts(sign, "-")) {
        ++sign;
      }
      if (digits(sign) != sign) {
        end = digits(sign);
      }
    }
    return end;
  }

  std::size_t end_of_based_integer() const {
    if (source_[at_] != '0' || at_ + 1 >= source_.size()) {
      return 0;
    }
    char base = static_cast<char>(source_[at_ + 1] | 0x20);
    auto fits = [base](char c) {
      if (base == 'b') {
        return c == '0' || c == '1';
      }
      if (base == 'o') {
        return c >= '0' && c <= '7';
      }
      char lower = static_cast<char>(c | 0x20);
      return is_digit(c) || (lower >= 'a' && lower <= 'f');
    };
    if (base != 'b' && base != 'o' && base != 'x') {
      return 0;
    }
    std::size_t pos = at_ + 2;
    std::size_t end = 0;
    while (true) {
      std::size_t digit = starts(pos, "_") ? pos + 1 : pos;
      if (digit >= source_.size() || !fits(source_[digit])) {
        return end;
      }
      end = pos = digit + 1;
    }
  }

  bool number() {
    if (!is_digit(source_[at_])) {
      return false;
    }
    TokenType type = TokenType::real;
    std::size_t end = end_of_float();
    if (end == 0) {
      type = TokenType::integer;
      end = end_of_based_integer();
    }
    if (end == 0 && source_[at_] == '0') {
      // A decimal number does not start with 0, other than zero itself.
      end = at_ + 1;
      while (starts(end, "0") || starts(end, "_0")) {
        ++end;
      }
    }
    if (end == 0) {
      end = digits(at_);
    }
    std::string text;
    for (char c : source_.substr(at_, end - at_)) {
      if (c != '_') {
        text += c;
      }
    }
    emit(type, at_, std::move(text));
    at_ = end;
    return true;
  }

  bool name() {
    std::size_t pos = at_;
    while (pos < source_.size()) {
      Utf8Step step = decode_utf8(source_.substr(pos));
      if (!is_identifier_part(step.code_point)) {
        break;
      }
      pos += step.n_bytes;
    }
    if (pos == at_) {
      return false;
    }
    emit(TokenType::name, at_, std::string(source_.substr(at_, pos - at_)));
    at_ = pos;
    return true;
  }

  bool string_token() {
    char quote = source_[at_];
    if (quote != '\'' && quote != '"') {
      return false;
    }
    for (std::size_t pos = at_ + 1; pos < source_.size(); ++pos) {
      if (source_[pos] == '\\') {
        ++pos;
      } else if (source_[pos] == quote) {
        std::string_view inside = source_.substr(at_ + 1, pos - at_ - 1);
        try {
          emit(TokenType::string, at_, unescape(inside));
        } catch (const std::invalid_argument& e) {
          fail(at_, e.what());
        }
        at_ = pos + 1;
        return true;
      }
    }
    fail(at_, "unterminated string");
  }

  void operator_token(std::string& open_brackets) {
    for (const auto& [text, type] : operators) {
      if (!starts(at_, text)) {
        continue;
      }
      char c = text[0];
      if (c == '(' || c == '[' || c == '{') {
        open_brackets += c == '(' ? ')' : static_cast<char>(c + 2);
      } else if (c == ')' || c == ']' || c == '}') {
        if (open_brackets.empty()) {
          fail(at_, std::string("unexpected '") + c + "'");
        }
        if (open_brackets.back() != c) {
          fail(
              at_,
              std::string("unexpected '") + c + "', expected '" +
                  open_brackets.back() + "'");
        }
        open_brackets.pop_back();
      }
      emit(type, at_);
      at_ += text.size();
      return;
    }
    Utf8Step step = decode_utf8(source_.substr(at_));
    fail(
        at_,
        "unexpected char '" + std::string(source_.substr(at_, step.n_bytes)) +
            "'");
  }

  std::string_view source_;
  std::size_t at_ = 0;
  // Whether what was read last ended a line, as the start of a text does.
  bool starts_line_ = true;
  std::vector<Token> tokens_;
};

} // namespace

std::string normalize_source(std::string_view source) {
  std::string valid = replace_invalid_utf8(source);
  std::string out;
  out.reserve(valid.size());
  for (std::size_t n = 0; n < valid.size(); ++n) {
    if (valid[n] == '\r') {
      if (n + 1 < valid.size() && valid[n + 1] == '\n') {
        ++n;
      }
      out += '\n';
    } else {
      out += valid[n];
    }
  }
  if (!out.empty() && out.back() == '\n') {
    out.pop_back();
  }
  return out;
}

std::vector<Token> tokenize(std::string_view normalized_source) {
  return Lexer(normalized_source).run();
}

std::string describe(TokenType type) {
  for (const auto& [text, op] : operators) {
    if (op == type) {
      return std::string(text);
    }
  }
  switch (type) {
  case TokenType::data:
    return "template data / text";
  case TokenType::variable_begin:
    return "begin of print statement";
  case TokenType::variable_end:
    return "end of print statement";
  case TokenType::block_begin:
    return "begin of statement block";
  case TokenType::block_end:
    return "end of statement block";
  case TokenType::name:
    return "name";
  case TokenType::string:
    return "string";
  case TokenType::integer:
    return "integer";
  case TokenType::real:
    return "float";
  default:
    return "end of template";
  }
}

std::string describe(const Token& token) {
  return token.type == TokenType::name ? token.text : describe(token.type);
}

} // namespace qwen3_mlx::jinja
