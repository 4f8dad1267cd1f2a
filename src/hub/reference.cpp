// SPDX-License-Identifier: MIT
#include "hub/reference.h"

#include <algorithm>

namespace qwen3_mlx::hub {
namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
      (c >= '0' && c <= '9') || c == '_';
}

/// One half of "org/name": letters, digits, "_", "-" and "."; "-" and "." not
/// at its ends, "--" and ".." nowhere.
bool is_repo_part(std::string_view part) {
  return !part.empty() && part.size() <= 96 && is_word(part.front()) &&
      is_word(part.back()) &&
      std::all_of(
          part.begin(),
          part.end(),
          [](char c) { return is_word(c) || c == '-' || c == '.'; }) &&
      part.find("--") == std::string_view::npos &&
      part.find("..") == std::string_view::npos;
}

/// Cuts what comes before the next "/", and the "/", off `text`.
std::string_view take_segment(std::string_view& text) {
  const auto slash = text.find('/');
  const auto segment = text.substr(0, slash);
  text.remove_prefix(slash == std::string_view::npos ? text.size() : slash + 1);
  return segment;
}

std::string unescape_slashes(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    if (text.starts_with("%2F") || text.starts_with("%2f")) {
      result += '/';
      text.remove_prefix(3);
    } else {
      result += text.front();
      text.remove_prefix(1);
    }
  }
  return result;
}

/// Cuts a revision off the front of "revision[/file]".
std::string take_revision(std::string_view& text) {
  for (const std::string_view prefix : {"refs/pr/", "refs/convert/"}) {
    if (text.starts_with(prefix)) {
      text.remove_prefix(prefix.size());
      return std::string(prefix) + std::string(take_segment(text));
    }
  }
  return unescape_slashes(take_segment(text));
}

} // namespace

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > 1024 || path.back() == '/') {
    return false;
  }
  for (const char c : path) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\') {
      return false;
    }
  }
  while (!path.empty()) {
    const auto segment = take_segment(path);
    if (segment.empty() || segment == "." || segment == ".." ||
        segment.size() > 255) {
      return false;
    }
  }
  return true;
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::optional<Reference> parse_reference(std::string_view text) {
  for (const auto& entry : short_names()) {
    if (text == entry.name) {
      return Reference{.repo = std::string(entry.repo)};
    }
  }
  constexpr std::string_view scheme = "hf://";
  if (text.starts_with(scheme)) {
    text.remove_prefix(scheme.size());
  }
  const auto organization = take_segment(text);
  // The name ends at "@" or "/".
  const auto end = text.find_first_of("@/");
  const auto name = text.substr(0, end);
  if (!is_repo_part(organization) || !is_repo_part(name) ||
      organization.size() + 1 + name.size() > 96 || name.ends_with(".gguf") ||
      name.ends_with(".git") || text.ends_with('/')) {
    return std::nullopt;
  }
  Reference reference{
      .repo = std::string(organization) + "/" + std::string(name)};
  if (end == std::string_view::npos) {
    return reference;
  }
  const bool has_revision = text[end] == '@';
  text.remove_prefix(end + 1);
  if (has_revision) {
    reference.revision = take_revision(text);
    if (!is_safe_path(reference.revision)) {
      return std::nullopt;
    }
    if (text.empty()) {
      return reference;
    }
  }
  if (!is_safe_path(text)) {
    return std::nullopt;
  }
  reference.file = text;
  return reference;
}

std::string to_string(const Reference& reference) {
  std::string text = reference.repo;
  if (reference.revision != "main") {
    text += "@" + reference.revision;
  }
  if (!reference.file.empty()) {
    text += "/" + reference.file;
  }
  return text;
}

} // namespace qwen3_mlx::hub
