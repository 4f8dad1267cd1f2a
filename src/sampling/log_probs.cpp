// SPDX-License-Identifier: MIT
// Log-probabilities of chosen and of the most likely tokens.
#include "qwen3_mlx/sampling.h"

#include <string>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

LogProbs log_probs_of(
    const mx::array& logits,
    const mx::array& ids,
    int num_top,
    mx::StreamOrDevice s) {
  const int num_rows = logits.shape(0);
  const int vocab_size = logits.shape(1);
  if (num_top < 0 || num_top > vocab_size) {
    throw InvalidArgument(
        "top_logprobs: expected 0 to " + std::to_string(vocab_size) +
        ", found " + std::to_string(num_top));
  }
  const auto wide = mx::astype(logits, mx::float32, s);
  const auto log_total = mx::logsumexp(wide, -1, /* keepdims */ true, s);
  const auto log_probs_at = [&](const mx::array& places) {
    return mx::subtract(mx::take_along_axis(wide, places, -1, s), log_total, s);
  };
  auto chosen = mx::squeeze(log_probs_at(mx::expand_dims(ids, -1, s)), -1, s);
  if (num_top == 0) {
    const mx::Shape none{num_rows, 0};
    return {chosen, mx::zeros(none, mx::uint32), mx::zeros(none, mx::float32)};
  }
  const auto negative = mx::negative(wide, s);
  const auto partition = num_top == vocab_size
      ? mx::argsort(negative, -1, s)
      : mx::argpartition(negative, num_top - 1, -1, s);
  // Ties rank by id: the ids are sorted before the stable sort by value.
  const auto some =
      mx::sort(mx::slice(partition, {0, 0}, {num_rows, num_top}, s), -1, s);
  const auto order =
      mx::argsort(mx::take_along_axis(negative, some, -1, s), -1, s);
  auto top_ids = mx::take_along_axis(some, order, -1, s);
  return {chosen, top_ids, log_probs_at(top_ids)};
}

} // namespace qwen3_mlx
