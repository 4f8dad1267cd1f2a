// SPDX-License-Identifier: MIT
// A template: parsed once, rendered many times.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "chat/jinja/ast.h"
#include "chat/jinja/budget.h"

namespace qwen3_mlx::jinja {

class Template {
 public:
  /// Throws TemplateError. `name` stands before the line in errors.
  Template(std::string_view source, std::string_view name);

  /// Throws TemplateError.
  std::string
  render(Dict context, const TemplateLimits& limits, const std::tm& now) const;

  const std::string& source() const {
    return source_;
  }

 private:
  [[noreturn]] void fail(std::uint32_t pos, const std::string& reason) const;

  std::string name_;
  std::string source_; ///< Normalized: what positions refer to.
  Ast ast_;
};

} // namespace qwen3_mlx::jinja
