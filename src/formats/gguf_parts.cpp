// SPDX-License-Identifier: MIT
#include "formats/gguf_parts.h"

#include <string>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

// The names have five digits.
constexpr std::uint64_t max_parts = 99'999;

std::string five_digits(std::uint64_t number) {
  const auto digits = std::to_string(number);
  return std::string(5 - digits.size(), '0') + digits;
}

/// "-00002-of-00003.gguf"
std::string ending(std::uint64_t number, std::uint64_t count) {
  return "-" + five_digits(number) + "-of-" + five_digits(count) + ".gguf";
}

} // namespace

GgufParts::GgufParts(const std::filesystem::path& path) {
  files_.push_back(std::make_shared<const GgufFile>(path));
  const auto count = first().get_uint("split.count").value_or(1);
  if (count > 1) {
    open_others(path, count);
  }
}

void GgufParts::open_others(
    const std::filesystem::path& path,
    std::uint64_t count) {
  if (count > max_parts) {
    throw FieldError(
        path,
        "split.count",
        "expected at most " + std::to_string(max_parts) + ", found " +
            std::to_string(count));
  }
  const auto number = first().get_uint("split.no").value_or(0);
  const auto name = path.filename().string();
  if (number != 0) {
    throw FieldError(
        path,
        "split.no",
        "this is part " + std::to_string(number + 1) + " of " +
            std::to_string(count) + "; name the first, which ends in " +
            ending(1, count));
  }
  if (!name.ends_with(ending(1, count))) {
    throw FieldError(
        path,
        "split.count",
        "of " + std::to_string(count) +
            " parts the first must have a name that ends in " +
            ending(1, count));
  }
  const auto stem = name.substr(0, name.size() - ending(1, count).size());
  auto n_tensors = first().tensors().size();
  for (std::uint64_t part = 2; part <= count; ++part) {
    const auto other = path.parent_path() / (stem + ending(part, count));
    auto file = std::make_shared<const GgufFile>(other);
    const auto found = file->get_uint("split.no");
    if (found != part - 1 || file->get_uint("split.count") != count) {
      throw FieldError(
          other,
          "split.no",
          "expected " + std::to_string(part - 1) + " of " +
              std::to_string(count) + "; this file is part of something else");
    }
    n_tensors += file->tensors().size();
    files_.push_back(file);
  }
  const auto expected = first().get_uint("split.tensors.count");
  if (expected && *expected != n_tensors) {
    throw FieldError(
        path,
        "split.tensors.count",
        "expected " + std::to_string(*expected) + " tensors in all parts, " +
            "found " + std::to_string(n_tensors));
  }
}

GgufParts::Found GgufParts::find(std::string_view name) const {
  for (const auto& file : files_) {
    if (const auto* tensor = file->find(name)) {
      return {file.get(), tensor};
    }
  }
  return {};
}

} // namespace qwen3_mlx
