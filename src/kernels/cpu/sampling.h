// SPDX-License-Identifier: MIT
// One row of logits to one token. sampling/sampler.cpp has the definition, as
// MLX operations; here only as many values are sorted as matter.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace qwen3_mlx::cpu {

/// How a token is chosen; each field as SamplingParams has it.
struct SamplingForm {
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  int min_tokens_to_keep = 1;
  int top_k = 0;
  float xtc_probability = 0;
  float xtc_threshold = 0;
  std::vector<std::uint32_t> xtc_special_tokens;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<std::uint32_t, float>> logit_bias;

  bool is_greedy() const {
    return temperature == 0;
  }
  bool has_top_p() const {
    return top_p > 0 && top_p < 1;
  }
};

/// What a row of logits is chosen by beside itself.
struct SamplingInputs {
  std::span<const std::int32_t> window; ///< Of the penalties; -1: no token.
  float draw = 0;                       ///< In [0, 1).
  float xtc_draw = 0;
};

/// A token of `vocab_size`, which is positive. Logits that are no numbers are
/// never preferred.
std::uint32_t sample_row(
    const KernelTable& kernels,
    const SamplingForm& form,
    const void* logits,
    Float type,
    int vocab_size,
    const SamplingInputs& inputs);

} // namespace qwen3_mlx::cpu
