// SPDX-License-Identifier: MIT
#include "qwen3_mlx/quantization.h"

#include <algorithm>
#include <array>

#include "weights/foreign_quantization.h"

namespace qwen3_mlx {
namespace {

struct ModeRow {
  std::string_view name;
  QuantFormat defaults; ///< As mlx-lm fills what is not given.
};

constexpr std::array mode_rows = std::to_array<ModeRow>({
    {"affine", {QuantMode::affine, 4, 64}},
    {"mxfp4", {QuantMode::mxfp4, 4, 32}},
    {"mxfp8", {QuantMode::mxfp8, 8, 32}},
    {"nvfp4", {QuantMode::nvfp4, 4, 16}},
});

QuantFormat parse_format(const Config& config) {
  // An entry without "mode" is affine whatever the model's own mode is.
  const auto mode = config.get_string_or("mode", "affine");
  const auto* row = std::find_if(
      mode_rows.begin(), mode_rows.end(), [&](const ModeRow& each) {
        return each.name == mode;
      });
  if (row == mode_rows.end()) {
    config.fail(
        "mode",
        "expected affine, mxfp4, mxfp8 or nvfp4, found \"" + mode + "\"");
  }
  QuantFormat format = row->defaults;
  format.bits = static_cast<int>(config.get_int_or("bits", format.bits, 1, 64));
  format.group_size = static_cast<int>(
      config.get_int_or("group_size", format.group_size, 1, 1 << 20));
  if (!is_supported(format)) {
    config.fail(
        "bits",
        "expected a format that MLX has (affine: 2, 3, 4, 5, 6 or 8 bits in "
        "groups of 32, 64 or 128; mxfp4: 4, 32; mxfp8: 8, 32; nvfp4: 4, 16), "
        "found " +
            describe(format));
  }
  return format;
}

bool is_format_key(std::string_view key) {
  constexpr std::array<std::string_view, 6> keys = {
      "group_size",
      "bits",
      "mode",
      "quant_method",
      "linear_class",
      "quantization_mode"};
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

} // namespace

bool is_supported(const QuantFormat& format) {
  const auto one_of = [](int value, std::initializer_list<int> values) {
    return std::find(values.begin(), values.end(), value) != values.end();
  };
  switch (format.mode) {
  case QuantMode::none:
    return true;
  case QuantMode::affine:
    return one_of(format.bits, {2, 3, 4, 5, 6, 8}) &&
        one_of(format.group_size, {32, 64, 128});
  case QuantMode::mxfp4:
    return format.bits == 4 && format.group_size == 32;
  case QuantMode::mxfp8:
    return format.bits == 8 && format.group_size == 32;
  case QuantMode::nvfp4:
    return format.bits == 4 && format.group_size == 16;
  }
  return false;
}

std::string describe(const QuantFormat& format) {
  if (!format.is_quantized()) {
    return "not quantized";
  }
  return std::string(to_string(format.mode)) + ", " +
      std::to_string(format.bits) + " bits, groups of " +
      std::to_string(format.group_size);
}

QuantFormat QuantizationConfig::format_of(
    std::string_view module,
    std::string_view source_module) const {
  auto entry = modules.find(module);
  if (entry == modules.end()) {
    entry = modules.find(source_module);
  }
  return entry == modules.end() ? format
                                : entry->second.value_or(QuantFormat{});
}

std::optional<QuantizationConfig> parse_quantization(const Config& config) {
  const bool own = config.has("quantization");
  const std::string_view key = own ? "quantization" : "quantization_config";
  if (!config.has(key)) {
    return std::nullopt;
  }
  const auto section = config.sub(key);
  const auto method = section.get_string_or("quant_method", "");
  if (!own && !method.empty() && method != "mlx") {
    // Of another program: refused, or its matrices come as plain ones, or they
    // are as MLX packs them.
    const auto foreign = parse_foreign_quantization(config);
    const auto format = foreign ? mlx_format(*foreign) : std::nullopt;
    return format ? std::optional(QuantizationConfig{*format, {}})
                  : std::nullopt;
  }
  QuantizationConfig out;
  out.format = parse_format(section);
  for (const auto& module : section.keys()) {
    if (section.is_object(module)) {
      out.modules[module] = parse_format(section.sub(module));
    } else if (section.is_bool(module)) {
      out.modules[module] =
          section.get_bool(module) ? std::optional(out.format) : std::nullopt;
    } else if (!is_format_key(module) && section.has(module)) {
      section.fail(module, "expected an object, true or false");
    }
  }
  return out;
}

} // namespace qwen3_mlx
