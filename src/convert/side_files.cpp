// SPDX-License-Identifier: MIT
#include "convert/side_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/file.h"
#include "qwen3_mlx/error.h"
#include "weights/checkpoint.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// A tokenizer.json may have tens of MB; nothing that is carried over has more.
constexpr std::uint64_t max_side_bytes = std::uint64_t{1} << 28;

Json to_json(const QuantFormat& format) {
  if (!format.is_quantized()) {
    return false;
  }
  return {
      {"group_size", format.group_size},
      {"bits", format.bits},
      {"mode", to_string(format.mode)}};
}

bool is_carried_over(const std::string& name) {
  constexpr std::array<std::string_view, 2> rewritten = {
      "config.json", "model.safetensors.index.json"};
  if (std::find(rewritten.begin(), rewritten.end(), name) != rewritten.end()) {
    return false;
  }
  for (const std::string_view end : {".json", ".jinja", ".txt", ".model"}) {
    if (name.ends_with(end) && !name.ends_with(".index.json")) {
      return true;
    }
  }
  return name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

} // namespace

std::string
changed_config(const ModelArgs& args, const ConfigChanges& changes) {
  auto json = Json::parse(args.config.dump());
  for (const auto* key : {"quantization", "quantization_config"}) {
    json.erase(key);
  }
  if (changes.format) {
    auto quantization = to_json(*changes.format);
    for (const auto& [module, format] : changes.modules) {
      quantization[module] = to_json(format);
    }
    // mlx-lm writes it twice: other programs read the second.
    json["quantization"] = quantization;
    json["quantization_config"] = quantization;
  }
  if (!changes.dtype.empty()) {
    const bool has_new_name = json.contains("dtype");
    json[has_new_name ? "dtype" : "torch_dtype"] = changes.dtype;
    if (has_new_name && json.contains("torch_dtype")) {
      json["torch_dtype"] = changes.dtype;
    }
  }
  return json.dump(4) + "\n";
}

void copy_side_files(const fs::path& from, StagedDirectory& to) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(from, error)) {
    const auto name = entry.path().filename().string();
    if (is_carried_over(name) && fs::is_regular_file(entry.path(), error)) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  for (const auto& name : names) {
    to.write_file(name, read_file(checkpoint_file(from, name), max_side_bytes));
  }
}

} // namespace qwen3_mlx
