// SPDX-License-Identifier: MIT
#include "convert/recipe.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "qwen3_mlx/error.h"
#include "qwen3_mlx/quantization.h"

namespace qwen3_mlx {
namespace {

/// Of "model.layers.<idx>...", else 0, as mlx-lm's recipes have it.
int layer_idx(std::string_view module) {
  constexpr std::string_view prefix = "model.layers.";
  int idx = 0;
  if (module.starts_with(prefix)) {
    const auto digits = module.substr(prefix.size());
    std::from_chars(digits.data(), digits.data() + digits.size(), idx);
  }
  return idx;
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// The modules with "*" for a layer's or an expert's number, each once.
std::set<std::string> patterns_of(const std::vector<std::string>& modules) {
  std::set<std::string> patterns;
  for (const auto& module : modules) {
    std::string pattern;
    for (const char letter : module) {
      const bool is_digit = letter >= '0' && letter <= '9';
      const bool begins = pattern.empty() || pattern.back() == '.';
      const bool goes_on = pattern.ends_with(".*");
      if (is_digit && (begins || goes_on)) {
        pattern += goes_on ? "" : "*";
      } else {
        pattern += letter;
      }
    }
    patterns.insert(std::move(pattern));
  }
  return patterns;
}

void check_format(const QuantFormat& format) {
  if (!is_supported(format)) {
    throw InvalidArgument(
        "MLX has no format of " + describe(format) +
        "; use affine with 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, "
        "mxfp4 (4 bits, groups of 32), mxfp8 (8, 32) or nvfp4 (4, 16)");
  }
}

} // namespace

bool matches_pattern(std::string_view pattern, std::string_view name) {
  // A later "*" may always take over from an earlier one, so that it is enough
  // to go back to the last.
  std::size_t at = 0;
  std::size_t in_pattern = 0;
  auto star = std::string_view::npos;
  std::size_t star_at = 0;
  while (at < name.size()) {
    if (in_pattern < pattern.size() && pattern[in_pattern] == '*') {
      star = in_pattern++;
      star_at = at;
    } else if (in_pattern < pattern.size() && pattern[in_pattern] == name[at]) {
      ++in_pattern;
      ++at;
    } else if (star != std::string_view::npos) {
      in_pattern = star + 1;
      at = ++star_at;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', in_pattern) == std::string_view::npos;
}

void check_rules(
    const std::vector<ModuleRule>& rules,
    const std::vector<std::string>& modules,
    bool is_head_tied) {
  for (const auto& rule : rules) {
    const bool matches =
        std::any_of(modules.begin(), modules.end(), [&](const auto& module) {
          return matches_pattern(rule.pattern, module);
        });
    if (matches) {
      continue;
    }
    if (is_head_tied && matches_pattern(rule.pattern, "lm_head")) {
      throw InvalidArgument(
          "the pattern \"" + rule.pattern +
          "\" matches lm_head alone, which in this model is tied to "
          "model.embed_tokens and no matrix of its own; name "
          "model.embed_tokens, which sets both");
    }
    std::string names;
    for (const auto& pattern : patterns_of(modules)) {
      names += (names.empty() ? "" : ", ") + pattern;
    }
    throw InvalidArgument(
        "no matrix of the model matches the pattern \"" + rule.pattern +
        "\"; those there are, * standing for any characters: " + names);
  }
}

Recipe::Recipe(const ConvertOptions& options, const ModelArgs& args)
    : options_(options), has_router_(args.model_type == "qwen3_moe"),
      n_layers_(args.num_hidden_layers) {
  const auto& quantize = options.quantize;
  if (quantize && options.dequantize) {
    throw InvalidArgument("a checkpoint is quantized or dequantized, not both");
  }
  if (quantize && !quantize->is_quantized()) {
    throw InvalidArgument("to quantize needs a format");
  }
  if (!quantize && !options.rules.empty()) {
    throw InvalidArgument("rules for modules need a format for the others");
  }
  if (options.recipe != MixedRecipe::none &&
      (!quantize || quantize->mode != QuantMode::affine)) {
    throw InvalidArgument("mixed recipes need affine quantization");
  }
  if (quantize) {
    check_format(*quantize);
  }
  for (const auto& rule : options.rules) {
    check_format(rule.format);
  }
}

QuantFormat
Recipe::format(std::string_view module, std::int64_t n_columns) const {
  if (!options_.quantize) {
    return {};
  }
  QuantFormat format = *options_.quantize;
  // mlx-lm asks this before a module's own format.
  if (n_columns % format.group_size != 0) {
    format = {};
  } else if (options_.recipe != MixedRecipe::none) {
    format = mixed_format(module);
  } else if (has_router_ && module.ends_with("mlp.gate")) {
    format = {QuantMode::affine, 8, 64};
  }
  for (const auto& rule : options_.rules) {
    if (matches_pattern(rule.pattern, module)) {
      format = rule.format;
    }
  }
  const bool fits = format.is_quantized() && n_columns % format.group_size == 0;
  return fits ? format : QuantFormat{};
}

QuantFormat Recipe::mixed_format(std::string_view module) const {
  QuantFormat low = *options_.quantize;
  QuantFormat high = low;
  const auto recipe = options_.recipe;
  low.bits = recipe == MixedRecipe::mixed_2_6 ? 2
      : recipe == MixedRecipe::mixed_4_6      ? 4
                                              : 3;
  high.bits = recipe == MixedRecipe::mixed_3_4 ? 4 : 6;
  const int idx = layer_idx(module);
  const int eighth = n_layers_ / 8;
  // Every third layer between; a remainder of 2 as Python has it, where the
  // layers before the first eighth do not come here.
  const bool more =
      idx < eighth || idx >= 7 * n_layers_ / 8 || (idx - eighth) % 3 == 2;
  const bool matters =
      contains(module, "v_proj") || contains(module, "down_proj");
  return (more && matters) || contains(module, "lm_head") ? high : low;
}

} // namespace qwen3_mlx
