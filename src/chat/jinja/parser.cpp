// SPDX-License-Identifier: MIT
#include "chat/jinja/parser.h"

#include <algorithm>

#include "chat/jinja/ast_walk.h"
#include "chat/jinja/expression_parser.h"
#include "chat/jinja/scope.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

/// Tells the slices of what is printed and constant; see GetItem.
void mark_constant(Expr& printed) {
  bool is_constant = true;
  walk(printed, [&](Expr& expr) {
    is_constant = is_constant && expr.as<Name>() == nullptr &&
        expr.as<CallExpr>() == nullptr && expr.as<NamespaceRef>() == nullptr;
  });
  if (!is_constant) {
    return;
  }
  walk(printed, [](Expr& expr) {
    if (GetItem* item = expr.as<GetItem>()) {
      item->is_constant = true;
    }
  });
}

using Words = std::vector<std::string_view>;

// Tags inside tags: evaluating them recurses.
constexpr std::size_t max_open_tags = 60;

class Parser {
 public:
  explicit Parser(std::string_view source)
      : stream_(tokenize(source)), expressions_(stream_) {}

  Body parse() {
    return body({});
  }

 private:
  // Statements up to a tag named by one of `end_words`, whose name is then
  // the current token. Without end words: up to the end of the template.
  Body body(const Words& end_words) {
    Body out;
    Output texts;
    std::uint32_t texts_pos = 0;
    auto flush = [&] {
      if (!texts.parts.empty()) {
        out.push_back({texts_pos, std::move(texts)});
        texts = {};
      }
    };
    auto add = [&](Expr part) {
      if (texts.parts.empty()) {
        texts_pos = part.pos;
      }
      texts.parts.push_back(std::move(part));
    };
    while (!stream_.is(TokenType::eof)) {
      const Token& token = stream_.next();
      if (token.type == TokenType::data) {
        Expr text;
        text.pos = token.pos;
        text.node = TemplateText{Value(token.text)};
        add(std::move(text));
      } else if (token.type == TokenType::variable_begin) {
        Expr printed = expressions_.tuple();
        mark_constant(printed);
        add(std::move(printed));
        stream_.expect(TokenType::variable_end);
      } else {
        flush();
        if (!end_words.empty() && stream_.is_name(end_words)) {
          return out;
        }
        statement(out);
        stream_.expect(TokenType::block_end);
      }
    }
    flush();
    if (!end_words.empty()) {
      std::string expected;
      for (std::string_view word : end_words) {
        expected +=
            (expected.empty() ? "'" : " or '") + std::string(word) + "'";
      }
      stream_.fail(
          "Unexpected end of template. Jinja was looking for the following "
          "tags: " +
          expected + ". The innermost block that needs to be closed is '" +
          open_tags_.back() + "'.");
    }
    return out;
  }

  // The rest of a tag, then its body.
  Body block_body(const Words& end_words, bool drop_needle) {
    stream_.skip_if(TokenType::colon);
    stream_.expect(TokenType::block_end);
    Body out = body(end_words);
    if (drop_needle) {
      stream_.next();
    }
    return out;
  }

  void statement(Body& out) {
    const Token& tag = stream_.current();
    if (tag.type != TokenType::name) {
      stream_.fail("tag name expected");
    }
    if (open_tags_.size() >= max_open_tags) {
      stream_.fail("the template nests too deeply");
    }
    open_tags_.push_back(tag.text);
    Stmt stmt;
    stmt.pos = tag.pos;
    stmt.node = statement_node(tag);
    out.push_back(std::move(stmt));
    open_tags_.pop_back();
  }

  decltype(Stmt::node) statement_node(const Token& tag) {
    stream_.next();
    const std::string& word = tag.text;
    if (word == "for") {
      return for_stmt();
    }
    if (word == "if") {
      return if_stmt();
    }
    if (word == "set") {
      return set_stmt();
    }
    if (word == "macro") {
      MacroStmt node;
      node.name = expressions_.target_name();
      signature(node.macro);
      node.macro.body = block_body({"endmacro"}, true);
      return node;
    }
    if (word == "call") {
      return call_stmt(tag.pos);
    }
    if (word == "generation") {
      Generation node;
      node.macro.body = block_body({"endgeneration"}, true);
      return node;
    }
    if (word == "filter") {
      FilterBlock node;
      node.filter = std::move(*expressions_.filter(nullptr, true));
      node.body = block_body({"endfilter"}, true);
      return node;
    }
    if (word == "with") {
      return with_stmt();
    }
    if (word == "autoescape") {
      Scope node;
      node.option = expressions_.expression();
      node.body = block_body({"endautoescape"}, true);
      return node;
    }
    if (word == "print") {
      Output node;
      while (!stream_.is(TokenType::block_end)) {
        if (!node.parts.empty()) {
          stream_.expect(TokenType::comma);
        }
        node.parts.push_back(expressions_.expression());
        mark_constant(node.parts.back());
      }
      return node;
    }
    if (word == "block") {
      return block_stmt();
    }
    if (word == "break") {
      return Break{};
    }
    if (word == "continue") {
      return Continue{};
    }
    if (word == "include" || word == "import" || word == "from" ||
        word == "extends") {
      return loader_stmt(word);
    }
    stream_.fail("Encountered unknown tag '" + word + "'.", tag.pos);
  }

  For for_stmt() {
    For node;
    node.target = expressions_.assign_target("in");
    stream_.expect_name("in");
    ExpressionParser::TupleOptions options;
    options.with_conditional = false;
    options.end_word = "recursive";
    node.iter = expressions_.tuple(options);
    if (stream_.skip_if_name("if")) {
      node.test = std::make_unique<Expr>(expressions_.expression());
    }
    node.recursive = stream_.skip_if_name("recursive");
    node.body = block_body({"endfor", "else"}, false);
    if (stream_.next().text != "endfor") {
      node.otherwise = block_body({"endfor"}, true);
    }
    return node;
  }

  If if_stmt() {
    If node;
    ExpressionParser::TupleOptions options;
    options.with_conditional = false;
    while (true) {
      If::Branch branch;
      branch.test = expressions_.tuple(options);
      branch.body = block_body({"elif", "else", "endif"}, false);
      node.branches.push_back(std::move(branch));
      const Token& word = stream_.next();
      if (word.text == "elif") {
        continue;
      }
      if (word.text == "else") {
        node.otherwise = block_body({"endif"}, true);
      }
      return node;
    }
  }

  decltype(Stmt::node) set_stmt() {
    Expr target = expressions_.assign_target({}, true);
    if (stream_.skip_if(TokenType::assign)) {
      Expr value = expressions_.tuple();
      return Set{std::move(target), std::move(value), {}};
    }
    SetBlock node;
    node.target = std::move(target);
    node.filter = expressions_.filter(nullptr, false);
    node.body = block_body({"endset"}, true);
    return node;
  }

  With with_stmt() {
    With node;
    while (!stream_.is(TokenType::block_end)) {
      if (!node.targets.empty()) {
        stream_.expect(TokenType::comma);
      }
      Expr target = expressions_.assign_target();
      make_params(target);
      node.targets.push_back(std::move(target));
      stream_.expect(TokenType::assign);
      node.values.push_back(expressions_.expression());
    }
    node.body = block_body({"endwith"}, true);
    return node;
  }

  static void make_params(Expr& target) {
    if (Name* name = target.as<Name>()) {
      name->use = Name::Use::param;
    } else if (TupleExpr* tuple = target.as<TupleExpr>()) {
      std::for_each(tuple->items.begin(), tuple->items.end(), make_params);
    }
  }

  void signature(MacroBody& macro) {
    stream_.expect(TokenType::lparen);
    while (!stream_.is(TokenType::rparen)) {
      if (!macro.params.empty()) {
        stream_.expect(TokenType::comma);
      }
      Expr param;
      param.pos = stream_.pos();
      param.node = Name{expressions_.target_name(), Name::Use::param, {}};
      if (stream_.skip_if(TokenType::assign)) {
        macro.defaults.push_back(expressions_.expression());
      } else if (!macro.defaults.empty()) {
        stream_.fail("non-default argument follows default argument");
      }
      macro.params.push_back(std::move(param));
    }
    stream_.expect(TokenType::rparen);
  }

  CallBlock call_stmt(std::uint32_t pos) {
    CallBlock node;
    if (stream_.is(TokenType::lparen)) {
      signature(node.macro);
    }
    node.call = expressions_.expression();
    if (node.call.as<CallExpr>() == nullptr) {
      stream_.fail("expected call", pos);
    }
    node.macro.body = block_body({"endcall"}, true);
    return node;
  }

  Block block_stmt() {
    Block node;
    node.name = stream_.expect(TokenType::name).text;
    node.scoped = stream_.skip_if_name("scoped");
    node.required = stream_.skip_if_name("required");
    if (stream_.is(TokenType::sub)) {
      stream_.fail("block names may not contain hyphens");
    }
    node.body = block_body({"endblock"}, true);
    if (node.required) {
      for (const Stmt& stmt : node.body) {
        const Output* output = std::get_if<Output>(&stmt.node);
        if (output == nullptr ||
            !std::all_of(
                output->parts.begin(), output->parts.end(), is_blank_text)) {
          stream_.fail(
              "Required blocks can only contain comments or whitespace");
        }
      }
    }
    stream_.skip_if_name(node.name);
    return node;
  }

  static bool is_blank_text(const Expr& expr) {
    const TemplateText* text = expr.as<TemplateText>();
    return text != nullptr && rstrip_space(text->text.as_string()).empty();
  }

  NoLoader loader_stmt(const std::string& tag) {
    NoLoader node;
    node.tag = tag;
    node.source = expressions_.expression();
    auto context_words = [&] {
      if (stream_.is_name(Words{"with", "without"}) &&
          stream_.look().type == TokenType::name &&
          stream_.look().text == "context") {
        stream_.next();
        stream_.next();
        return true;
      }
      return false;
    };
    if (tag == "include") {
      if (stream_.is_name("ignore") && stream_.look().text == "missing") {
        stream_.next();
        stream_.next();
      }
      context_words();
    } else if (tag == "import") {
      stream_.expect_name("as");
      node.targets.push_back(expressions_.target_name());
      context_words();
    } else if (tag == "from") {
      stream_.expect_name("import");
      while (!context_words()) {
        std::string name = expressions_.target_name();
        if (name.starts_with('_')) {
          stream_.fail("names starting with an underline can not be imported");
        }
        if (stream_.skip_if_name("as")) {
          name = expressions_.target_name();
        }
        node.targets.push_back(std::move(name));
        if (context_words() || !stream_.skip_if(TokenType::comma)) {
          break;
        }
      }
    }
    return node;
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  std::vector<std::string> open_tags_;
};

} // namespace

Ast parse(std::string_view source) {
  if (source.size() > std::size_t{4} << 20) {
    throw SyntaxFault{0, "the template is longer than 4 MiB"};
  }
  Ast ast;
  ast.body = Parser(source).parse();
  resolve_names(ast);
  return ast;
}

} // namespace qwen3_mlx::jinja
