// SPDX-License-Identifier: MIT
// Filters on log-probabilities, and the penalties on logits.
#include "qwen3_mlx/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qwen3_mlx {
namespace {

mx::array minus_infinity() {
  return mx::array(-std::numeric_limits<float>::infinity());
}

} // namespace

mx::array
apply_top_p(const mx::array& log_probs, float top_p, mx::StreamOrDevice s) {
  // A token stays while the mass of those more likely is short of top_p. In
  // rising order these are the last ones; the first of them is the threshold.
  const auto sorted = mx::sort(log_probs, -1, s);
  const auto probs = mx::exp(sorted, s);
  const auto mass_above =
      mx::cumsum(probs, -1, /* reverse */ true, /* inclusive */ false, s);
  const auto total = mx::sum(probs, -1, /* keepdims */ true, s);
  const auto dropped = mx::greater_equal(
      mass_above, mx::multiply(mx::array(top_p), total, s), s);
  const auto num_dropped =
      mx::sum(mx::astype(dropped, mx::int32, s), -1, /* keepdims */ true, s);
  const auto threshold = mx::take_along_axis(sorted, num_dropped, -1, s);
  return mx::where(
      mx::less(log_probs, threshold, s), minus_infinity(), log_probs, s);
}

mx::array apply_min_p(
    const mx::array& log_probs,
    float min_p,
    int min_tokens_to_keep,
    mx::StreamOrDevice s) {
  const auto best = mx::max(log_probs, -1, /* keepdims */ true, s);
  auto dropped =
      mx::less(log_probs, mx::add(best, mx::array(std::log(min_p)), s), s);
  const int vocab_size = log_probs.shape(-1);
  const int num_kept = std::min(min_tokens_to_keep, vocab_size);
  if (num_kept > 1) {
    const auto order =
        mx::argpartition(mx::negative(log_probs, s), num_kept - 1, -1, s);
    const auto kept = mx::slice(order, {0, 0}, {order.shape(0), num_kept}, s);
    dropped = mx::put_along_axis(
        dropped, kept, mx::zeros(kept.shape(), mx::bool_, s), -1, s);
  }
  return mx::where(dropped, minus_infinity(), log_probs, s);
}

mx::array apply_xtc(
    const mx::array& log_probs,
    const mx::array& draws,
    float probability,
    float threshold,
    std::span<const std::uint32_t> special_tokens,
    mx::StreamOrDevice s) {
  const auto probs = mx::softmax(log_probs, -1, /* precise */ true, s);
  const auto infinity = mx::array(std::numeric_limits<float>::infinity());
  // With no token above the threshold the least is infinite: none is dropped.
  const auto least = mx::min(
      mx::where(
          mx::greater(probs, mx::array(threshold), s), probs, infinity, s),
      -1,
      /* keepdims */ true,
      s);
  auto dropped = mx::greater(probs, least, s);
  if (!special_tokens.empty()) {
    const int num_special = static_cast<int>(special_tokens.size());
    const mx::array ids(
        special_tokens.data(), mx::Shape{1, num_special}, mx::uint32);
    const mx::Shape shape{log_probs.shape(0), num_special};
    dropped = mx::put_along_axis(
        dropped,
        mx::broadcast_to(ids, shape, s),
        mx::zeros(shape, mx::bool_, s),
        -1,
        s);
  }
  const auto applies =
      mx::expand_dims(mx::less_equal(draws, mx::array(probability), s), -1, s);
  return mx::where(
      mx::logical_and(dropped, applies, s), minus_infinity(), log_probs, s);
}

mx::array apply_top_k(const mx::array& log_probs, int k, mx::StreamOrDevice s) {
  const auto order = mx::argpartition(mx::negative(log_probs, s), k - 1, -1, s);
  const auto dropped =
      mx::slice(order, {0, k}, {order.shape(0), order.shape(1)}, s);
  return mx::put_along_axis(log_probs, dropped, minus_infinity(), -1, s);
}

mx::array apply_penalties(
    const mx::array& logits,
    const mx::array& window,
    float repetition_penalty,
    float presence_penalty,
    float frequency_penalty,
    mx::StreamOrDevice s) {
  // An empty place (-1) becomes a copy of the row's largest id, or of id 0 in
  // a row without tokens: copies of an id write the same value, and an id that
  // nobody saw keeps its logit.
  const auto largest = mx::max(window, -1, /* keepdims */ true, s);
  const auto ids = mx::maximum(
      mx::where(mx::less(window, mx::array(0), s), largest, window, s),
      mx::array(0),
      s);
  const auto same =
      mx::equal(mx::expand_dims(ids, 2, s), mx::expand_dims(window, 1, s), s);
  const auto counts =
      mx::sum(mx::astype(same, mx::float32, s), -1, /* keepdims */ false, s);
  const auto seen = mx::take_along_axis(logits, ids, -1, s);

  auto penalized = seen;
  if (repetition_penalty != 0 && repetition_penalty != 1) {
    const auto penalty = mx::array(repetition_penalty);
    penalized = mx::where(
        mx::less(seen, mx::array(0.0F), s),
        mx::multiply(seen, penalty, s),
        mx::divide(seen, penalty, s),
        s);
  }
  if (presence_penalty != 0) {
    penalized = mx::subtract(penalized, mx::array(presence_penalty), s);
  }
  if (frequency_penalty != 0) {
    penalized = mx::subtract(
        penalized, mx::multiply(counts, mx::array(frequency_penalty), s), s);
  }
  penalized =
      mx::where(mx::greater(counts, mx::array(0.0F), s), penalized, seen, s);
  return mx::put_along_axis(logits, ids, penalized, -1, s);
}

} // namespace qwen3_mlx
