// SPDX-License-Identifier: MIT
// One measured run: a prompt of random ids, then greedy tokens.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "qwen3_mlx/model.h"

namespace qwen3_mlx::cli {

struct BenchShape {
  int prompt_tokens = 512;
  int generation_tokens = 1024;
  int batch_size = 1;
  int prefill_step_size = 2048;
  CacheOptions cache;
};

/// Tokens per second count all sequences of the batch.
struct BenchTrial {
  double prompt_tps = 0;
  double generation_tps = 0;
  double time_to_first_token = 0; // seconds
  std::size_t peak_memory_bytes = 0;
};

/// Runs once; `cancelled` is asked between tokens. One sequence goes the way of
/// `generate`; several are stepped together.
BenchTrial run_trial(
    const Model& model,
    const BenchShape& shape,
    const std::function<bool()>& cancelled);

/// The mean of each figure; the highest peak. `trials` must not be empty.
BenchTrial average(const std::vector<BenchTrial>& trials);

} // namespace qwen3_mlx::cli
