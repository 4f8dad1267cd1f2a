// SPDX-License-Identifier: MIT
// Ranges of the sampling parameters.
#include "qwen3_mlx/sampling.h"

#include <cmath>
#include <string>
#include <string_view>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

// Penalties compare every pair of the window.
constexpr int max_penalty_window = 4096;

std::string text(float value) {
  std::string digits = std::to_string(value);
  digits.erase(digits.find_last_not_of('0') + 1);
  if (digits.back() == '.') {
    digits.pop_back();
  }
  return digits;
}

[[noreturn]] void
fail(std::string_view name, std::string_view range, std::string_view found) {
  throw InvalidArgument(
      std::string(name) + ": expected " + std::string(range) + ", found " +
      std::string(found));
}

void check_range(std::string_view name, float value, float low, float high) {
  // The negated form is false for NaN as well.
  if (!(value >= low && value <= high)) {
    fail(name, "a number from " + text(low) + " to " + text(high), text(value));
  }
}

void check_finite(std::string_view name, float value) {
  if (!std::isfinite(value)) {
    fail(name, "a finite number", text(value));
  }
}

void check_not_negative(std::string_view name, float value) {
  if (!std::isfinite(value) || value < 0) {
    fail(name, "a finite number of at least 0", text(value));
  }
}

void check_at_least(std::string_view name, int value, int low) {
  if (value < low) {
    fail(
        name,
        "an integer of at least " + std::to_string(low),
        std::to_string(value));
  }
}

void check_id(std::string_view name, std::uint32_t id, int vocab_size) {
  if (id >= static_cast<std::uint32_t>(vocab_size)) {
    fail(
        name,
        "token ids below " + std::to_string(vocab_size),
        std::to_string(id));
  }
}

} // namespace

bool SamplingParams::has_penalties() const noexcept {
  const bool repetition = repetition_penalty != 0 && repetition_penalty != 1;
  return penalty_window > 0 &&
      (repetition || presence_penalty != 0 || frequency_penalty != 0);
}

void validate(const SamplingParams& params, int vocab_size) {
  check_not_negative("temperature", params.temperature);
  check_range("top_p", params.top_p, 0, 1);
  check_range("min_p", params.min_p, 0, 1);
  check_at_least("min_tokens_to_keep", params.min_tokens_to_keep, 1);
  check_at_least("top_k", params.top_k, 0);
  check_range("xtc_probability", params.xtc_probability, 0, 1);
  check_range("xtc_threshold", params.xtc_threshold, 0, 0.5F);
  check_not_negative("repetition_penalty", params.repetition_penalty);
  check_finite("presence_penalty", params.presence_penalty);
  check_finite("frequency_penalty", params.frequency_penalty);
  check_at_least("penalty_window", params.penalty_window, 0);
  if (params.penalty_window > max_penalty_window) {
    fail(
        "penalty_window",
        "at most " + std::to_string(max_penalty_window) + " tokens",
        std::to_string(params.penalty_window));
  }
  for (const auto id : params.xtc_special_tokens) {
    check_id("xtc_special_tokens", id, vocab_size);
  }
  for (const auto& [id, value] : params.logit_bias) {
    check_id("logit_bias", id, vocab_size);
    check_finite("logit_bias", value);
  }
}

} // namespace qwen3_mlx
