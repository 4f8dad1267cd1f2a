// SPDX-License-Identifier: MIT
#include "qwen3_mlx/generation_config.h"

#include <limits>

#include "qwen3_mlx/config.h"
#include "qwen3_mlx/model_args.h"

namespace qwen3_mlx {
namespace {

std::optional<float>
get_in_range(const Config& config, std::string_view key, float min, float max) {
  if (!config.has(key)) {
    return std::nullopt;
  }
  const double value = config.get_float(key);
  if (!(value >= min && value <= max)) {
    config.fail(
        key,
        "expected a number from " + std::to_string(min) + " to " +
            std::to_string(max) + ", found " + std::to_string(value));
  }
  return static_cast<float>(value);
}

} // namespace

GenerationConfig load_generation_config(
    const std::filesystem::path& path,
    const ModelArgs& args) {
  GenerationConfig out;
  out.eos_token_ids = args.eos_token_ids;
  const auto file = path / "generation_config.json";
  if (!std::filesystem::is_directory(path) || !std::filesystem::exists(file)) {
    return out;
  }
  const auto config = Config::load(file);
  const auto ids =
      config.get_ints("eos_token_id", 0, std::numeric_limits<int>::max());
  if (!ids.empty()) {
    out.eos_token_ids.assign(ids.begin(), ids.end());
  }
  out.temperature = get_in_range(config, "temperature", 0.0f, 100.0f);
  out.top_p = get_in_range(config, "top_p", 0.0f, 1.0f);
  out.min_p = get_in_range(config, "min_p", 0.0f, 1.0f);
  if (config.has("top_k")) {
    out.top_k = static_cast<int>(
        config.get_int("top_k", 0, std::numeric_limits<int>::max()));
  }
  out.repetition_penalty =
      get_in_range(config, "repetition_penalty", 0.0f, 100.0f);
  out.do_sample = config.get_bool_or("do_sample", false);
  return out;
}

} // namespace qwen3_mlx
