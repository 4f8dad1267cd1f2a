// SPDX-License-Identifier: MIT
// An error of a template before its place is known. The evaluator adds the
// place and throws TemplateError.
#pragma once

#include <stdexcept>

namespace qwen3_mlx::jinja {

class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

} // namespace qwen3_mlx::jinja
