// SPDX-License-Identifier: MIT
#include "chat/jinja/template.h"

#include <algorithm>

#include "chat/jinja/interpreter.h"
#include "chat/jinja/lexer.h"
#include "chat/jinja/parser.h"
#include "chat/jinja/text.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::jinja {

Template::Template(std::string_view source, std::string_view name)
    : name_(name), source_(normalize_source(source)) {
  try {
    ast_ = parse(source_);
  } catch (const SyntaxFault& fault) {
    fail(fault.pos, fault.reason);
  }
}

std::string Template::render(
    Dict context,
    const TemplateLimits& limits,
    const std::tm& now) const {
  Budget budget(limits);
  try {
    return Interpreter(ast_, budget, std::move(context), now).run();
  } catch (const RuntimeFault& fault) {
    fail(fault.pos, fault.reason);
  }
}

void Template::fail(std::uint32_t pos, const std::string& reason) const {
  std::string_view before = std::string_view(source_).substr(
      0, std::min<std::size_t>(pos, source_.size()));
  auto line =
      static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n'));
  std::size_t start = before.rfind('\n');
  std::string_view in_line =
      start == before.npos ? before : before.substr(start + 1);
  throw TemplateError(name_, line + 1, length(in_line) + 1, reason);
}

} // namespace qwen3_mlx::jinja
