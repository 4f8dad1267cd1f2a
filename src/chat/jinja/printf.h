// SPDX-License-Identifier: MIT
// Python's two ways to format: "%d" % x and "{:d}".format(x).
#pragma once

#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

/// format % values
Value printf_format(Runtime& rt, const Value& format, const Value& values);

/// format.format(*args, **kwargs), with attribute access through the sandbox.
Value brace_format(Runtime& rt, std::string_view format, const Args& args);

/// format(v, spec), as in f"{v:spec}".
std::string format_value(Runtime& rt, const Value& v, std::string_view text);

/// ascii(v)
std::string ascii_repr(Runtime& rt, const Value& v);

} // namespace qwen3_mlx::jinja
