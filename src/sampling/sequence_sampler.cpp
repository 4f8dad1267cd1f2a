// SPDX-License-Identifier: MIT
// One sequence's sampling state.
#include "qwen3_mlx/sampling.h"

#include <algorithm>

namespace qwen3_mlx {
namespace {

// [1, W] int32: the last tokens of the prompt, -1 before its start. The shape
// is full from the first step, so that every step has the same graph.
mx::array first_window(
    const SamplingParams& params,
    std::span<const std::uint32_t> prompt) {
  const int width = params.has_penalties() ? params.penalty_window : 0;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(width), -1);
  const auto num_seen = std::min(ids.size(), prompt.size());
  std::copy(
      prompt.end() - static_cast<std::ptrdiff_t>(num_seen),
      prompt.end(),
      ids.end() - static_cast<std::ptrdiff_t>(num_seen));
  return mx::array(ids.data(), mx::Shape{1, width}, mx::int32);
}

} // namespace

SequenceSampler::SequenceSampler(
    SamplingParams params,
    int vocab_size,
    std::span<const std::uint32_t> prompt)
    : sampler_(std::move(params), vocab_size),
      seed_(sampler_.params().seed.value_or(0)),
      window_(first_window(sampler_.params(), prompt)) {
  if (!sampler_.params().seed) {
    seed_ = random_seed();
  }
}

mx::array
SequenceSampler::operator()(const mx::array& logits, mx::StreamOrDevice s) {
  const auto [token_draw, xtc_draw] = draw(seed_, token_index_);
  ++token_index_;
  auto ids =
      sampler_(logits, mx::array({token_draw, xtc_draw}, {1, 2}), window_, s);
  if (const int width = window_.shape(1); width > 0) {
    const auto newest =
        mx::reshape(mx::astype(ids, mx::int32, s), mx::Shape{1, 1}, s);
    window_ = mx::concatenate(
        {mx::slice(window_, {0, 1}, {1, width}, s), newest}, 1, s);
  }
  return ids;
}

} // namespace qwen3_mlx
