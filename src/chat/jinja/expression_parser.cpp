// SPDX-License-Identifier: MIT
#include "chat/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>

#include "chat/jinja/string_literal.h"

namespace qwen3_mlx::jinja {

namespace {

// Both the tree's height and the parser's own recursion are bounded, since
// evaluating a tree recurses as well.
constexpr int max_height = 120;
constexpr int max_recursion = 60;

class Recursion {
 public:
  Recursion(int& depth, const TokenStream& stream) : depth_(depth) {
    if (depth_ >= max_recursion) {
      stream.fail("the expression nests too deeply");
    }
    ++depth_;
  }
  ~Recursion() {
    --depth_;
  }
  Recursion(const Recursion&) = delete;
  Recursion& operator=(const Recursion&) = delete;

 private:
  int& depth_;
};

ExprPtr box(Expr expr) {
  return std::make_unique<Expr>(std::move(expr));
}

int height_of(const std::vector<Expr>& items) {
  int height = 0;
  for (const Expr& item : items) {
    height = std::max(height, item.height);
  }
  return height;
}

int height_of(const CallArgs& args) {
  int height = height_of(args.args);
  for (const auto& [name, value] : args.kwargs) {
    height = std::max(height, value.height);
  }
  for (const ExprPtr* dyn : {&args.dyn_args, &args.dyn_kwargs}) {
    height = std::max(height, *dyn ? (*dyn)->height : 0);
  }
  return height;
}

bool is_constant_name(std::string_view name) {
  return name == "true" || name == "false" || name == "True" ||
      name == "False" || name == "none" || name == "None";
}

std::string kind_name(const Expr& expr) {
  return expr.as<Literal>()  ? "const"
      : expr.as<Name>()      ? "name"
      : expr.as<TupleExpr>() ? "tuple"
      : expr.as<ListExpr>()  ? "list"
      : expr.as<DictExpr>()  ? "dict"
                             : "expression";
}

// Marks every name in a target as stored; false when it cannot be assigned.
bool make_target(Expr& expr) {
  if (Name* name = expr.as<Name>()) {
    name->use = Name::Use::store;
    return !is_constant_name(name->name);
  }
  if (TupleExpr* tuple = expr.as<TupleExpr>()) {
    return std::all_of(tuple->items.begin(), tuple->items.end(), make_target);
  }
  return expr.as<NamespaceRef>() != nullptr;
}

Value integer_value(const Token& token, const TokenStream& stream) {
  std::string_view digits = token.text;
  int base = 10;
  if (digits.size() > 2 && digits[0] == '0') {
    char b = static_cast<char>(digits[1] | 0x20);
    base = b == 'x' ? 16 : b == 'o' ? 8 : b == 'b' ? 2 : 10;
    if (base != 10) {
      digits.remove_prefix(2);
    }
  }
  std::int64_t value = 0;
  auto [end, error] = std::from_chars(
      digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    stream.fail("the integer does not fit in 64 bits", token.pos);
  }
  return value;
}

} // namespace

Expr ExpressionParser::make(
    std::uint32_t pos,
    decltype(Expr::node) node,
    int height) {
  if (height >= max_height) {
    stream_.fail("the expression nests too deeply", pos);
  }
  Expr expr;
  expr.pos = pos;
  expr.height = height + 1;
  expr.node = std::move(node);
  return expr;
}

Expr ExpressionParser::expression(bool with_conditional) {
  Recursion guard(depth_, stream_);
  return with_conditional ? conditional() : logical_or();
}

Expr ExpressionParser::conditional() {
  std::uint32_t pos = stream_.pos();
  Expr then = logical_or();
  while (stream_.skip_if_name("if")) {
    Conditional node;
    node.test = box(logical_or());
    int height = std::max(then.height, node.test->height);
    if (stream_.skip_if_name("else")) {
      Recursion guard(depth_, stream_);
      node.otherwise = box(conditional());
      height = std::max(height, node.otherwise->height);
    }
    node.then = box(std::move(then));
    then = make(pos, std::move(node), height);
    pos = stream_.pos();
  }
  return then;
}

Expr ExpressionParser::logical_or() {
  std::uint32_t pos = stream_.pos();
  Expr left = logical_and();
  while (stream_.skip_if_name("or")) {
    Expr right = logical_and();
    int height = std::max(left.height, right.height);
    left = make(
        pos,
        Logical{false, box(std::move(left)), box(std::move(right))},
        height);
  }
  return left;
}

Expr ExpressionParser::logical_and() {
  std::uint32_t pos = stream_.pos();
  Expr left = logical_not();
  while (stream_.skip_if_name("and")) {
    Expr right = logical_not();
    int height = std::max(left.height, right.height);
    left = make(
        pos,
        Logical{true, box(std::move(left)), box(std::move(right))},
        height);
  }
  return left;
}

Expr ExpressionParser::logical_not() {
  if (!stream_.is_name("not")) {
    return compare();
  }
  Recursion guard(depth_, stream_);
  std::uint32_t pos = stream_.next().pos;
  Expr operand = logical_not();
  int height = operand.height;
  return make(
      pos, Unary{UnaryOp::logical_not, box(std::move(operand))}, height);
}

Expr ExpressionParser::compare() {
  std::uint32_t pos = stream_.pos();
  Expr first = sum();
  std::vector<ComparePart> rest;
  int height = first.height;
  while (true) {
    std::optional<CompareOp> op;
    switch (stream_.current().type) {
    case TokenType::eq:
      op = CompareOp::eq;
      break;
    case TokenType::ne:
      op = CompareOp::ne;
      break;
    case TokenType::lt:
      op = CompareOp::lt;
      break;
    case TokenType::lteq:
      op = CompareOp::lteq;
      break;
    case TokenType::gt:
      op = CompareOp::gt;
      break;
    case TokenType::gteq:
      op = CompareOp::gteq;
      break;
    default:
      if (stream_.is_name("in")) {
        op = CompareOp::in;
      } else if (
          stream_.is_name("not") && stream_.look().type == TokenType::name &&
          stream_.look().text == "in") {
        stream_.next();
        op = CompareOp::not_in;
      }
    }
    if (!op) {
      break;
    }
    stream_.next();
    rest.push_back({*op, sum()});
    height = std::max(height, rest.back().operand.height);
  }
  if (rest.empty()) {
    return first;
  }
  return make(pos, Compare{box(std::move(first)), std::move(rest)}, height);
}

Expr ExpressionParser::binary(
    Expr left,
    std::uint32_t pos,
    BinaryOp op,
    Expr right) {
  int height = std::max(left.height, right.height);
  return make(
      pos, Binary{op, box(std::move(left)), box(std::move(right))}, height);
}

Expr ExpressionParser::sum() {
  Expr left = concat();
  while (stream_.is(TokenType::add) || stream_.is(TokenType::sub)) {
    const Token& op = stream_.next();
    Expr right = concat();
    left = binary(
        std::move(left),
        op.pos,
        op.type == TokenType::add ? BinaryOp::add : BinaryOp::sub,
        std::move(right));
  }
  return left;
}

Expr ExpressionParser::concat() {
  std::uint32_t pos = stream_.pos();
  std::vector<Expr> parts;
  parts.push_back(product());
  while (stream_.skip_if(TokenType::tilde)) {
    parts.push_back(product());
  }
  if (parts.size() == 1) {
    return std::move(parts[0]);
  }
  int height = height_of(parts);
  return make(pos, Concat{std::move(parts)}, height);
}

Expr ExpressionParser::product() {
  Expr left = power();
  while (true) {
    BinaryOp op;
    switch (stream_.current().type) {
    case TokenType::mul:
      op = BinaryOp::mul;
      break;
    case TokenType::div:
      op = BinaryOp::div;
      break;
    case TokenType::floordiv:
      op = BinaryOp::floordiv;
      break;
    case TokenType::mod:
      op = BinaryOp::mod;
      break;
    default:
      return left;
    }
    std::uint32_t pos = stream_.next().pos;
    Expr right = power();
    left = binary(std::move(left), pos, op, std::move(right));
  }
}

Expr ExpressionParser::power() {
  Expr left = unary();
  while (stream_.is(TokenType::pow)) {
    std::uint32_t pos = stream_.next().pos;
    Expr right = unary();
    left = binary(std::move(left), pos, BinaryOp::pow, std::move(right));
  }
  return left;
}

Expr ExpressionParser::unary(bool with_filter) {
  Expr expr;
  if (stream_.is(TokenType::sub) || stream_.is(TokenType::add)) {
    Recursion guard(depth_, stream_);
    const Token& op = stream_.next();
    Expr operand = unary(false);
    int height = operand.height;
    expr = make(
        op.pos,
        Unary{
            op.type == TokenType::sub ? UnaryOp::neg : UnaryOp::pos,
            box(std::move(operand))},
        height);
  } else {
    expr = primary();
  }
  expr = postfix(std::move(expr));
  return with_filter ? filters_and_tests(std::move(expr)) : std::move(expr);
}

Expr ExpressionParser::primary(bool with_namespace) {
  const Token& token = stream_.current();
  std::uint32_t pos = token.pos;
  switch (token.type) {
  case TokenType::name: {
    stream_.next();
    const std::string& word = token.text;
    if (word == "true" || word == "True") {
      return make(pos, Literal{Value(true)}, 0);
    }
    if (word == "false" || word == "False") {
      return make(pos, Literal{Value(false)}, 0);
    }
    if (word == "none" || word == "None") {
      return make(pos, Literal{Value()}, 0);
    }
    if (with_namespace && stream_.skip_if(TokenType::dot)) {
      std::string attribute = stream_.expect(TokenType::name).text;
      return make(pos, NamespaceRef{word, std::move(attribute), {}}, 0);
    }
    return make(pos, Name{word, Name::Use::load, {}}, 0);
  }
  case TokenType::string: {
    std::string text;
    while (stream_.is(TokenType::string)) {
      text += stream_.next().text;
    }
    return make(pos, Literal{Value(std::move(text))}, 0);
  }
  case TokenType::integer:
    stream_.next();
    return make(pos, Literal{integer_value(token, stream_)}, 0);
  case TokenType::real:
    stream_.next();
    return make(pos, Literal{Value(parse_double(token.text).value_or(0))}, 0);
  case TokenType::lparen: {
    Recursion guard(depth_, stream_);
    stream_.next();
    TupleOptions options;
    options.in_parentheses = true;
    Expr inner = tuple(options);
    stream_.expect(TokenType::rparen);
    return inner;
  }
  case TokenType::lbracket:
    return list();
  case TokenType::lbrace:
    return dict();
  default:
    stream_.fail("unexpected '" + describe(token) + "'");
  }
}

Expr ExpressionParser::tuple(const TupleOptions& options) {
  std::uint32_t pos = stream_.pos();
  std::vector<Expr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) {
      stream_.expect(TokenType::comma);
    }
    bool ends = stream_.is(TokenType::variable_end) ||
        stream_.is(TokenType::block_end) || stream_.is(TokenType::rparen) ||
        (!options.end_word.empty() && stream_.is_name(options.end_word));
    if (ends) {
      break;
    }
    items.push_back(
        options.names_only ? primary(options.with_namespace)
                           : expression(options.with_conditional));
    if (!stream_.is(TokenType::comma)) {
      break;
    }
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) {
      return std::move(items[0]);
    }
    if (!options.in_parentheses) {
      stream_.fail(
          "Expected an expression, got '" + describe(stream_.current()) + "'");
    }
  }
  int height = height_of(items);
  return make(pos, TupleExpr{std::move(items)}, height);
}

Expr ExpressionParser::list() {
  Recursion guard(depth_, stream_);
  std::uint32_t pos = stream_.expect(TokenType::lbracket).pos;
  std::vector<Expr> items;
  while (!stream_.is(TokenType::rbracket)) {
    if (!items.empty()) {
      stream_.expect(TokenType::comma);
    }
    if (stream_.is(TokenType::rbracket)) {
      break;
    }
    items.push_back(expression());
  }
  stream_.expect(TokenType::rbracket);
  int height = height_of(items);
  return make(pos, ListExpr{std::move(items)}, height);
}

Expr ExpressionParser::dict() {
  Recursion guard(depth_, stream_);
  std::uint32_t pos = stream_.expect(TokenType::lbrace).pos;
  std::vector<DictItem> items;
  int height = 0;
  while (!stream_.is(TokenType::rbrace)) {
    if (!items.empty()) {
      stream_.expect(TokenType::comma);
    }
    if (stream_.is(TokenType::rbrace)) {
      break;
    }
    Expr key = expression();
    stream_.expect(TokenType::colon);
    Expr value = expression();
    height = std::max({height, key.height, value.height});
    items.push_back({std::move(key), std::move(value)});
  }
  stream_.expect(TokenType::rbrace);
  return make(pos, DictExpr{std::move(items)}, height);
}

Expr ExpressionParser::postfix(Expr expr) {
  while (true) {
    if (stream_.is(TokenType::dot) || stream_.is(TokenType::lbracket)) {
      expr = subscript(std::move(expr));
    } else if (stream_.is(TokenType::lparen)) {
      expr = call(std::move(expr));
    } else {
      return expr;
    }
  }
}

Expr ExpressionParser::filters_and_tests(Expr expr) {
  while (true) {
    if (stream_.is(TokenType::pipe)) {
      expr = std::move(*filter(box(std::move(expr)), false));
    } else if (stream_.is_name("is")) {
      expr = test(std::move(expr));
    } else if (stream_.is(TokenType::lparen)) {
      expr = call(std::move(expr));
    } else {
      return expr;
    }
  }
}

Expr ExpressionParser::subscript(Expr object) {
  const Token& token = stream_.next();
  int height = object.height;
  if (token.type == TokenType::dot) {
    const Token& attribute = stream_.next();
    if (attribute.type == TokenType::name) {
      return make(
          attribute.pos,
          GetAttr{box(std::move(object)), attribute.text},
          height);
    }
    if (attribute.type != TokenType::integer) {
      stream_.fail("expected name or number", attribute.pos);
    }
    Expr key =
        make(attribute.pos, Literal{integer_value(attribute, stream_)}, 0);
    return make(
        token.pos,
        GetItem{box(std::move(object)), box(std::move(key))},
        height);
  }
  Recursion guard(depth_, stream_);
  std::vector<Expr> keys;
  while (!stream_.is(TokenType::rbracket)) {
    if (!keys.empty()) {
      stream_.expect(TokenType::comma);
    }
    keys.push_back(subscript_key());
  }
  stream_.expect(TokenType::rbracket);
  height = std::max(height, height_of(keys) + 1);
  Expr key;
  if (keys.size() == 1) {
    key = std::move(keys[0]);
  } else {
    int inner = height_of(keys);
    key = make(token.pos, TupleExpr{std::move(keys)}, inner);
  }
  return make(
      token.pos, GetItem{box(std::move(object)), box(std::move(key))}, height);
}

Expr ExpressionParser::subscript_key() {
  std::uint32_t pos = stream_.pos();
  SliceExpr slice;
  int height = 0;
  auto part = [&](ExprPtr& place) {
    if (!stream_.is(TokenType::rbracket) && !stream_.is(TokenType::comma)) {
      place = box(expression());
      height = std::max(height, place->height);
    }
  };
  if (!stream_.is(TokenType::colon)) {
    Expr first = expression();
    if (!stream_.is(TokenType::colon)) {
      return first;
    }
    height = first.height;
    slice.start = box(std::move(first));
  }
  stream_.expect(TokenType::colon);
  if (!stream_.is(TokenType::colon)) {
    part(slice.stop);
  }
  if (stream_.skip_if(TokenType::colon)) {
    part(slice.step);
  }
  return make(pos, std::move(slice), height);
}

CallArgs ExpressionParser::call_args() {
  Recursion guard(depth_, stream_);
  std::uint32_t pos = stream_.expect(TokenType::lparen).pos;
  CallArgs out;
  auto ensure = [&](bool fits) {
    if (!fits) {
      stream_.fail("invalid syntax for function call expression", pos);
    }
  };
  bool need_comma = false;
  while (!stream_.is(TokenType::rparen)) {
    if (need_comma) {
      stream_.expect(TokenType::comma);
      if (stream_.is(TokenType::rparen)) {
        break;
      }
    }
    if (stream_.is(TokenType::mul)) {
      ensure(!out.dyn_args && !out.dyn_kwargs);
      stream_.next();
      out.dyn_args = box(expression());
    } else if (stream_.is(TokenType::pow)) {
      ensure(!out.dyn_kwargs);
      stream_.next();
      out.dyn_kwargs = box(expression());
    } else if (
        stream_.is(TokenType::name) &&
        stream_.look().type == TokenType::assign) {
      ensure(!out.dyn_kwargs);
      const Token& key = stream_.next();
      stream_.next();
      for (const auto& [name, value] : out.kwargs) {
        if (name == key.text) {
          stream_.fail("keyword argument repeated: " + name, key.pos);
        }
      }
      Expr value = expression();
      out.kwargs.push_back({key.text, std::move(value)});
    } else {
      ensure(!out.dyn_args && !out.dyn_kwargs && out.kwargs.empty());
      out.args.push_back(expression());
    }
    need_comma = true;
  }
  stream_.expect(TokenType::rparen);
  return out;
}

Expr ExpressionParser::call(Expr callee) {
  std::uint32_t pos = stream_.pos();
  CallArgs args = call_args();
  int height = std::max(callee.height, height_of(args));
  return make(pos, CallExpr{box(std::move(callee)), std::move(args)}, height);
}

std::string ExpressionParser::dotted_name() {
  std::string name = stream_.expect(TokenType::name).text;
  while (stream_.skip_if(TokenType::dot)) {
    name += "." + stream_.expect(TokenType::name).text;
  }
  return name;
}

ExprPtr ExpressionParser::filter(ExprPtr input, bool start_inline) {
  while (stream_.is(TokenType::pipe) || start_inline) {
    if (!start_inline) {
      stream_.next();
    }
    start_inline = false;
    std::uint32_t pos = stream_.pos();
    std::string name = dotted_name();
    CallArgs args;
    if (stream_.is(TokenType::lparen)) {
      args = call_args();
    }
    int height = std::max(input ? input->height : 0, height_of(args));
    input = box(make(
        pos,
        FilterExpr{std::move(input), std::move(name), std::move(args)},
        height));
  }
  return input;
}

Expr ExpressionParser::test(Expr input) {
  std::uint32_t pos = stream_.next().pos;
  bool negated = stream_.skip_if_name("not");
  std::string name = dotted_name();
  CallArgs args;
  bool has_argument = false;
  switch (stream_.current().type) {
  case TokenType::lparen:
    args = call_args();
    break;
  case TokenType::name:
    has_argument =
        !(stream_.is_name("else") || stream_.is_name("or") ||
          stream_.is_name("and"));
    break;
  case TokenType::string:
  case TokenType::integer:
  case TokenType::real:
  case TokenType::lbracket:
  case TokenType::lbrace:
    has_argument = true;
    break;
  default:
    break;
  }
  if (has_argument) {
    if (stream_.is_name("is")) {
      stream_.fail("You cannot chain multiple tests with is");
    }
    args.args.push_back(postfix(primary()));
  }
  int height = std::max(input.height, height_of(args));
  Expr out = make(
      pos,
      TestExpr{box(std::move(input)), std::move(name), std::move(args)},
      height);
  if (negated) {
    height = out.height;
    out = make(pos, Unary{UnaryOp::logical_not, box(std::move(out))}, height);
  }
  return out;
}

Expr ExpressionParser::assign_target(
    std::string_view end_word,
    bool with_namespace) {
  TupleOptions options;
  options.names_only = true;
  options.end_word = end_word;
  options.with_namespace = with_namespace;
  Expr target = tuple(options);
  if (!make_target(target)) {
    stream_.fail("can't assign to '" + kind_name(target) + "'", target.pos);
  }
  return target;
}

std::string ExpressionParser::target_name() {
  const Token& token = stream_.expect(TokenType::name);
  if (is_constant_name(token.text)) {
    stream_.fail("can't assign to 'name'", token.pos);
  }
  return token.text;
}

} // namespace qwen3_mlx::jinja
