// SPDX-License-Identifier: MIT
// Naming a model: "org/name", "org/name@revision", a file within, or a short
// name such as "qwen3:4b".
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace qwen3_mlx::hub {

/// A repository, a revision of it and, where one is meant, a file.
struct Reference {
  std::string repo;              ///< "org/name"
  std::string revision = "main"; ///< A branch, a tag or a commit.
  std::string file;              ///< Relative; empty: the whole checkpoint.
};

/// Reads "[hf://]org/name[@revision][/file]" or a short name. A "/" in a
/// revision is written "%2F", but for "refs/pr/N" and "refs/convert/X". Nothing
/// when `text` has another form, as paths do. Whether a local file of this name
/// exists is the caller's to look at first.
std::optional<Reference> parse_reference(std::string_view text);

/// The way back: "org/name@revision/file".
std::string to_string(const Reference& reference);

/// Whether `path` stays inside the directory it is joined to: relative, of
/// plain segments, none of them "." or "..", no backslash and no control
/// characters.
bool is_safe_path(std::string_view path);

/// 40 hexadecimal digits in lower case.
bool is_commit(std::string_view text);

struct ShortName {
  std::string_view name; ///< "qwen3:4b"
  std::string_view repo; ///< "mlx-community/Qwen3-4B-4bit"
};

/// The well-known sizes, in 4 bits.
std::span<const ShortName> short_names();

} // namespace qwen3_mlx::hub
