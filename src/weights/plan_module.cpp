// SPDX-License-Identifier: MIT
// Which format a module has, and what is wrong with its tensors.
#include <utility>

#include "weights/plan_module.h"

namespace qwen3_mlx {
namespace {

std::string without_weight(const std::string& name) {
  constexpr std::string_view leaf = ".weight";
  return name.ends_with(leaf) ? name.substr(0, name.size() - leaf.size())
                              : name;
}

} // namespace

std::optional<QuantFormat> PlanState::configured_format(
    const std::string& module,
    const StoredTensor* weight) const {
  const auto plain = QuantFormat{};
  if (!quantization_) {
    return std::nullopt;
  }
  // Overrides use our names, or those of the file (some exporters').
  const auto& modules = quantization_->modules;
  auto found = modules.find(module);
  if (found == modules.end() && weight != nullptr) {
    found = modules.find(without_weight(weight->source_name));
  }
  if (found != modules.end()) {
    return found->second.value_or(plain);
  }
  const bool has_scales = !checkpoint_ || has(module + ".scales");
  return has_scales ? quantization_->format : plain;
}

PlanState::Module
PlanState::random_module(const std::string& module, int in) const {
  Module out;
  out.format = configured_format(module, nullptr).value_or(QuantFormat{});
  if (out.format.is_quantized() && in % out.format.group_size != 0) {
    out.format = {}; // as converters leave such matrices
  }
  out.scale_dtype =
      out.format.mode == QuantMode::affine ? dtype_ : mx::Dtype(mx::uint8);
  out.usable = true;
  return out;
}

PlanState::Module PlanState::resolve(const std::string& module, int in) {
  if (!checkpoint_) {
    return random_module(module, in);
  }
  Module out;
  out.weight = checkpoint_->find(module + ".weight");
  if (out.weight == nullptr) {
    return out;
  }
  if (const auto format = block_format(out.weight->type)) {
    out.format = *format;
    out.scale_dtype = format->mode == QuantMode::affine
        ? scale_dtype(StoredType::f16)
        : mx::Dtype(mx::uint8);
    out.usable = true;
    return out;
  }
  out.format = configured_format(module, out.weight).value_or(QuantFormat{});
  if (!out.format.is_quantized()) {
    out.usable = is_plain(out.weight->type);
    return out;
  }
  out.scales = checkpoint_->find(module + ".scales");
  const bool affine = out.format.mode == QuantMode::affine;
  if (affine) {
    out.biases = checkpoint_->find(module + ".biases");
  }
  out.usable = out.weight->type == StoredType::u32 && out.scales != nullptr &&
      in % out.format.group_size == 0 &&
      (affine ? is_float(out.scales->type) && out.biases != nullptr &&
               out.biases->type == out.scales->type
              : out.scales->type == StoredType::u8);
  if (out.scales != nullptr) {
    out.scale_dtype = scale_dtype(out.scales->type);
  }
  return out;
}

// Marks what the part consists of as taken and notes all that is wrong with it.
bool PlanState::check_module(
    const ModulePart& part,
    const Module& module,
    int in,
    int n_experts) {
  const auto with_rows = [&](std::int64_t last) {
    return n_experts > 0 ? std::vector<std::int64_t>{n_experts, part.out, last}
                         : std::vector<std::int64_t>{part.out, last};
  };
  if (module.weight == nullptr) {
    missing(part.module + ".weight");
    return false;
  }
  const auto& weight = *module.weight;
  const auto& format = module.format;
  taken_.insert(part.module + ".weight");
  if (block_format(weight.type)) {
    return check_shape(weight, with_rows(in));
  }
  if (!format.is_quantized()) {
    if (is_plain(weight.type)) {
      return check_shape(weight, with_rows(in));
    }
    problem(weight, "is stored as " + weight.type_name + ", " + cure(weight));
    return false;
  }
  bool valid = true;
  if (weight.type != StoredType::u32) {
    problem(
        weight,
        "is stored as " + weight.type_name +
            ", expected U32 for the configured quantization (" +
            describe(format) + ")");
    valid = false;
  }
  if (in % format.group_size != 0) {
    problem(
        weight,
        "has an input of " + std::to_string(in) +
            ", expected a multiple of the group size " +
            std::to_string(format.group_size));
    valid = false;
  }
  valid = valid &&
      check_shape(weight, with_rows(std::int64_t{in} * format.bits / 32));
  const auto check_part = [&](const StoredTensor* tensor,
                              const std::string& name) {
    if (tensor == nullptr) {
      missing(name);
      return false;
    }
    taken_.insert(name);
    const bool affine = format.mode == QuantMode::affine;
    const bool typed = affine ? is_float(tensor->type) &&
            (module.scales == nullptr || tensor->type == module.scales->type)
                              : tensor->type == StoredType::u8;
    if (!typed) {
      problem(
          *tensor,
          "is stored as " + tensor->type_name + ", expected " +
              (affine ? "one float type for scales and biases" : "U8") + " (" +
              describe(format) + ")");
    }
    return typed && check_shape(*tensor, with_rows(in / format.group_size));
  };
  valid = check_part(module.scales, part.module + ".scales") && valid;
  if (format.mode == QuantMode::affine) {
    valid = check_part(module.biases, part.module + ".biases") && valid;
  }
  return valid;
}

std::string PlanState::cure(const StoredTensor& weight) const {
  if (checkpoint_->is_gguf()) {
    return "which cannot be read; use a GGUF file of F32, F16, BF16, Q4_0, "
           "Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS or MXFP4 "
           "tensors";
  }
  if (weight.type == StoredType::u32 && !quantization_) {
    return "expected F32, F16 or BF16; config.json lacks \"quantization\"";
  }
  return "expected F32, F16 or BF16";
}

} // namespace qwen3_mlx
