// SPDX-License-Identifier: MIT
// From logits to tokens: which filters run, over the whole vocabulary or over
// the top k only, and the draw.
#include "qwen3_mlx/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/cpu/sampling_op.h"
#include "kernels/ops.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

void check_rows(const mx::array& logits, int vocab_size) {
  if (logits.ndim() != 2 || logits.shape(1) != vocab_size) {
    std::string found;
    for (const auto length : logits.shape()) {
      found += (found.empty() ? "" : ", ") + std::to_string(length);
    }
    throw InvalidArgument(
        "logits: expected the shape [R, " + std::to_string(vocab_size) +
        "], found [" + found + "]");
  }
}

// Below 1e-6 a temperature is as good as that, and its inverse stays finite.
mx::array inverse(float temperature) {
  return mx::array(1.0F / std::max(temperature, 1e-6F));
}

mx::array to_float32(const mx::array& x, mx::StreamOrDevice s) {
  return x.dtype() == mx::float32 ? x : mx::astype(x, mx::float32, s);
}

// Column `idx` of [R, 2].
mx::array column(const mx::array& x, int idx, mx::StreamOrDevice s) {
  return mx::squeeze(mx::slice(x, {0, idx}, {x.shape(0), idx + 1}, s), 1, s);
}

// The k most likely tokens in rising order of their ids, as a draw over the
// whole row would pass them: ids and log-probabilities [R, k], -infinity where
// top-p or min-p drops one. Only k values are sorted.
struct Candidates {
  mx::array ids;
  mx::array log_probs;
};

Candidates top_candidates(
    const mx::array& logits,
    const SamplingParams& params,
    mx::StreamOrDevice s) {
  const int k = params.top_k;
  const int num_rows = logits.shape(0);
  const auto partition =
      mx::argpartition(mx::negative(logits, s), k - 1, -1, s);
  auto ids = mx::sort(mx::slice(partition, {0, 0}, {num_rows, k}, s), -1, s);
  auto values = mx::take_along_axis(logits, ids, -1, s);

  const bool has_top_p = params.top_p > 0 && params.top_p < 1;
  const bool has_min_p = params.min_p > 0;
  if (!has_top_p && !has_min_p) {
    return {ids, values};
  }
  const auto order = mx::argsort(mx::negative(values, s), -1, s);
  const auto best_first = mx::take_along_axis(values, order, -1, s);
  auto kept = mx::array(true);
  if (has_top_p) {
    // Mass is measured against the whole row, not against the candidates.
    const auto log_total = mx::logsumexp(logits, -1, /* keepdims */ true, s);
    const auto probs = mx::exp(mx::subtract(best_first, log_total, s), s);
    const auto mass_above =
        mx::cumsum(probs, -1, /* reverse */ false, /* inclusive */ false, s);
    kept = mx::less(mass_above, mx::array(params.top_p), s);
  }
  if (has_min_p) {
    const auto best = mx::slice(best_first, {0, 0}, {num_rows, 1}, s);
    auto likely = mx::greater_equal(
        best_first, mx::add(best, mx::array(std::log(params.min_p)), s), s);
    if (params.min_tokens_to_keep > 1) {
      const auto rank = mx::arange(k, mx::int32, s);
      likely = mx::logical_or(
          likely, mx::less(rank, mx::array(params.min_tokens_to_keep), s), s);
    }
    kept = has_top_p ? mx::logical_and(kept, likely, s) : likely;
  }
  const auto filtered = mx::where(
      kept, best_first, mx::array(-std::numeric_limits<float>::infinity()), s);
  // `order` says where each came from: put it back.
  return {ids, mx::put_along_axis(values, order, filtered, -1, s)};
}

mx::array filter(
    const mx::array& logits,
    const mx::array& draws,
    const SamplingParams& params,
    mx::StreamOrDevice s) {
  const bool has_top_p = params.top_p > 0 && params.top_p < 1;
  const bool has_min_p = params.min_p > 0;
  const bool has_xtc = params.xtc_probability > 0;
  // Only differences of log-probabilities matter from here on, but top-p asks
  // for their mass.
  auto log_probs = has_top_p ? log_softmax(logits, s) : logits;
  if (has_top_p) {
    log_probs = apply_top_p(log_probs, params.top_p, s);
  }
  if (has_min_p) {
    log_probs =
        apply_min_p(log_probs, params.min_p, params.min_tokens_to_keep, s);
  }
  if (has_xtc) {
    log_probs = apply_xtc(
        log_probs,
        column(draws, 1, s),
        params.xtc_probability,
        params.xtc_threshold,
        params.xtc_special_tokens,
        s);
  }
  if (params.top_k > 0 && params.top_k < logits.shape(1)) {
    log_probs = apply_top_k(log_probs, params.top_k, s);
  }
  return log_probs;
}

bool has_kernel(const mx::array& logits) {
  const auto type = logits.dtype();
  return logits.size() > 0 &&
      (type == mx::float32 || type == mx::float16 || type == mx::bfloat16);
}

cpu::SamplingForm form_of(const SamplingParams& params) {
  return {
      .temperature = params.temperature,
      .top_p = params.top_p,
      .min_p = params.min_p,
      .min_tokens_to_keep = params.min_tokens_to_keep,
      .top_k = params.top_k,
      .xtc_probability = params.xtc_probability,
      .xtc_threshold = params.xtc_threshold,
      .xtc_special_tokens = params.xtc_special_tokens,
      .repetition_penalty = params.repetition_penalty,
      .presence_penalty = params.presence_penalty,
      .frequency_penalty = params.frequency_penalty,
      .logit_bias = params.logit_bias};
}

} // namespace

mx::array log_softmax(const mx::array& logits, mx::StreamOrDevice s) {
  const auto wide = to_float32(logits, s);
  return mx::subtract(wide, mx::logsumexp(wide, -1, /* keepdims */ true, s), s);
}

mx::array sample_inverse_cdf(
    const mx::array& log_probs,
    const mx::array& draws,
    float temperature,
    mx::StreamOrDevice s) {
  const auto scaled = temperature == 1
      ? log_probs
      : mx::multiply(log_probs, inverse(temperature), s);
  const auto probs = mx::softmax(scaled, -1, /* precise */ true, s);
  const auto mass =
      mx::cumsum(probs, -1, /* reverse */ false, /* inclusive */ true, s);
  // A parallel scan need not rise by exactly 0 over a dropped token, so those
  // are taken out, and the largest sum left is the end of the interval: draws
  // stay below it, so one token always passes.
  const auto reachable = mx::where(
      mx::greater(probs, mx::array(0.0F), s), mass, mx::array(-1.0F), s);
  const auto total = mx::max(reachable, -1, /* keepdims */ true, s);
  const auto target = mx::multiply(mx::expand_dims(draws, -1, s), total, s);
  return mx::argmax(
      mx::greater(reachable, target, s), -1, /* keepdims */ false, s);
}

mx::array sample(
    const mx::array& logits,
    float temperature,
    const std::optional<mx::array>& key,
    mx::StreamOrDevice s) {
  if (temperature == 0) {
    return ops::arg_max(logits, s);
  }
  return mx::random::categorical(
      mx::multiply(to_float32(logits, s), inverse(temperature), s), -1, key, s);
}

Sampler::Sampler(SamplingParams params, int vocab_size)
    : params_(std::move(params)), vocab_size_(vocab_size) {
  validate(params_, vocab_size);
  if (!params_.logit_bias.empty()) {
    std::vector<float> bias(static_cast<std::size_t>(vocab_size));
    for (const auto& [id, value] : params_.logit_bias) {
      bias[id] += value;
    }
    bias_ = mx::array(bias.data(), mx::Shape{vocab_size}, mx::float32);
  }
}

mx::array Sampler::operator()(
    const mx::array& logits,
    const mx::array& draws,
    const mx::array& window,
    mx::StreamOrDevice s) const {
  check_rows(logits, vocab_size_);
  const mx::Stream stream = mx::to_stream(s);
  if (stream.device != mx::Device::cpu || !has_kernel(logits)) {
    return composed(logits, draws, window, s);
  }
  const bool penalized = params_.has_penalties() && window.size() > 0;
  if (is_greedy() && !bias_ && !penalized) {
    return ops::arg_max(logits, s);
  }
  return cpu::sampling_op(
      logits, draws, window, form_of(params_), penalized, stream);
}

mx::array Sampler::composed(
    const mx::array& logits,
    const mx::array& draws,
    const mx::array& window,
    mx::StreamOrDevice s) const {
  check_rows(logits, vocab_size_);
  const bool penalized = params_.has_penalties() && window.size() > 0;
  if (is_greedy() && !bias_ && !penalized) {
    return ops::arg_max(logits, s);
  }
  auto adjusted = to_float32(logits, s);
  if (bias_) {
    adjusted = mx::add(adjusted, *bias_, s);
  }
  if (penalized) {
    adjusted = apply_penalties(
        adjusted,
        window,
        params_.repetition_penalty,
        params_.presence_penalty,
        params_.frequency_penalty,
        s);
  }
  if (is_greedy()) {
    return ops::arg_max(adjusted, s);
  }
  // XTC stands between top-p and top-k and weighs tokens beyond the k.
  const bool few = params_.top_k > 0 && params_.top_k < vocab_size_ &&
      params_.xtc_probability == 0;
  if (!few) {
    return sample_inverse_cdf(
        filter(adjusted, draws, params_, s),
        column(draws, 0, s),
        params_.temperature,
        s);
  }
  const auto candidates = top_candidates(adjusted, params_, s);
  const auto place = sample_inverse_cdf(
      candidates.log_probs, column(draws, 0, s), params_.temperature, s);
  return mx::squeeze(
      mx::take_along_axis(candidates.ids, mx::expand_dims(place, -1, s), -1, s),
      -1,
      s);
}

} // namespace qwen3_mlx
