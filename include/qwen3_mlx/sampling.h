// SPDX-License-Identifier: MIT
// Choosing the next token: functions from logits [R, V] to arrays, one row a
// sequence. They run on the stream they are given, else on the thread's
// default one, and read nothing back to the host.
//
// Order, as in mlx-lm: logit bias and penalties, then on the log-probabilities
// of the result top-p, min-p, XTC and top-k, then temperature and one draw.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <mlx/mlx.h>

#include "qwen3_mlx/most_likely.h"

namespace qwen3_mlx {

namespace mx = mlx::core;

/// How a sequence's tokens are chosen. Each default switches its part off.
struct SamplingParams {
  /// 0 takes the most likely token and ignores every filter.
  float temperature = 0;
  /// Keeps the fewest most likely tokens whose mass reaches this; 0 or 1: off.
  float top_p = 1;
  /// Drops tokens less likely than this times the most likely one.
  float min_p = 0;
  /// That many tokens survive min_p in any case.
  int min_tokens_to_keep = 1;
  /// Keeps the k most likely tokens; 0: off.
  int top_k = 0;
  /// How often XTC drops, of the tokens above xtc_threshold, all but the least
  /// likely one; in [0, 1].
  float xtc_probability = 0;
  /// In [0, 0.5].
  float xtc_threshold = 0.1F;
  /// Ids that XTC never drops (mlx-lm: the end of the text and the newline).
  std::vector<std::uint32_t> xtc_special_tokens = {};
  /// Divides positive and multiplies negative logits of tokens seen in the
  /// penalty window; 0 or 1: off.
  float repetition_penalty = 1;
  /// Subtracted from the logits of tokens seen in the window.
  float presence_penalty = 0;
  /// The same, once for each time a token was seen.
  float frequency_penalty = 0;
  /// How many of the last tokens, prompt included, the penalties look at.
  int penalty_window = 20;
  /// (id, value) pairs added to the logits.
  std::vector<std::pair<std::uint32_t, float>> logit_bias = {};
  /// Same seed, same text. Without one, each sequence gets its own.
  std::optional<std::uint64_t> seed = {};

  bool has_penalties() const noexcept;
  friend bool
  operator==(const SamplingParams&, const SamplingParams&) = default;
};

/// Throws InvalidArgument naming the field, its range and its value.
void validate(const SamplingParams& params, int vocab_size);

// -- Randomness --------------------------------------------------------------

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1,
/// 2, 3"): four random words from a counter and a key, without any state.
std::array<std::uint32_t, 4> philox4x32(
    std::array<std::uint32_t, 4> counter,
    std::array<std::uint32_t, 2> key) noexcept;

/// The random numbers of one token, both in [0, 1), multiples of 2^-23.
struct Draw {
  float token;
  float xtc;
};

/// Of the token_index-th token that a sequence with this seed generates: they
/// depend on nothing else, so neither does the text.
Draw draw(std::uint64_t seed, std::uint64_t token_index) noexcept;

/// A seed from the system's entropy.
std::uint64_t random_seed();

// -- Steps, each usable alone ------------------------------------------------

/// Log-probabilities: logits [R, V] -> [R, V] float32.
mx::array log_softmax(const mx::array& logits, mx::StreamOrDevice s = {});

// The filters take log-probabilities [R, V] float32 and set those of dropped
// tokens to -infinity.

/// Keeps the fewest most likely tokens whose mass reaches top_p of the whole,
/// and those as likely as the last of them. 0 < top_p < 1. Sorts the row.
mx::array
apply_top_p(const mx::array& log_probs, float top_p, mx::StreamOrDevice s = {});

/// Keeps tokens with at least min_p of the most likely one's probability, and
/// min_tokens_to_keep tokens in any case. 0 < min_p <= 1.
mx::array apply_min_p(
    const mx::array& log_probs,
    float min_p,
    int min_tokens_to_keep = 1,
    mx::StreamOrDevice s = {});

/// "Exclude top choices": in rows whose number in `draws` [R] is at most
/// `probability`, drops every token above `threshold` but the least likely of
/// them. `special_tokens` are never dropped.
mx::array apply_xtc(
    const mx::array& log_probs,
    const mx::array& draws,
    float probability,
    float threshold,
    std::span<const std::uint32_t> special_tokens = {},
    mx::StreamOrDevice s = {});

/// Keeps k tokens, the most likely ones. 0 < k < V.
mx::array
apply_top_k(const mx::array& log_probs, int k, mx::StreamOrDevice s = {});

/// Penalizes tokens of the window. logits [R, V] float32; window [R, W] int32,
/// the last tokens of each sequence in any order, -1 where there are fewer.
mx::array apply_penalties(
    const mx::array& logits,
    const mx::array& window,
    float repetition_penalty,
    float presence_penalty,
    float frequency_penalty,
    mx::StreamOrDevice s = {});

/// Draws by the inverse of the distribution function, over the ids in rising
/// order: log_probs [R, V] float32, need not be normalized; draws [R] float32
/// in [0, 1) -> ids [R] uint32. A token at -infinity is never drawn.
mx::array sample_inverse_cdf(
    const mx::array& log_probs,
    const mx::array& draws,
    float temperature,
    mx::StreamOrDevice s = {});

/// logits [..., V] -> ids [...] uint32: the most likely token at temperature
/// 0, else a draw from softmax(logits / temperature) with `key`, by default
/// the next one of MLX's own generator.
mx::array sample(
    const mx::array& logits,
    float temperature,
    const std::optional<mx::array>& key = std::nullopt,
    mx::StreamOrDevice s = {});

// -- The whole ---------------------------------------------------------------

/// Parameters made ready for use, shared by rows that have the same ones.
class Sampler {
 public:
  /// Throws InvalidArgument as validate() does.
  Sampler(SamplingParams params, int vocab_size);

  const SamplingParams& params() const noexcept {
    return params_;
  }
  bool is_greedy() const noexcept {
    return params_.temperature == 0;
  }
  /// Whether the model's most likely token is chosen, come what may.
  bool is_most_likely() const noexcept {
    return is_greedy() && !bias_ && !params_.has_penalties();
  }

  /// logits [R, V] of any float type -> ids [R] uint32.
  /// `draws` [R, 2] float32 (Draw::token, Draw::xtc) is not read when greedy;
  /// `window` [R, W] int32 as apply_penalties() has it, only read with
  /// penalties.
  mx::array operator()(
      const mx::array& logits,
      const mx::array& draws,
      const mx::array& window,
      mx::StreamOrDevice s = {}) const;

  /// The same composed of MLX operations: what operator() does where there is
  /// no kernel, and what the kernel is tested against. The sums of
  /// probabilities differ in rounding.
  mx::array composed(
      const mx::array& logits,
      const mx::array& draws,
      const mx::array& window,
      mx::StreamOrDevice s = {}) const;

 private:
  SamplingParams params_;
  int vocab_size_;
  std::optional<mx::array> bias_; // [V] float32
};

/// The sampling of one sequence: its seed, how far it is, and the last tokens
/// for the penalties. Belongs to one thread.
class SequenceSampler {
 public:
  /// `prompt`: its end is the first penalty window.
  SequenceSampler(
      SamplingParams params,
      int vocab_size,
      std::span<const std::uint32_t> prompt);

  /// The next token, lazily: logits [1, V] -> [1] uint32.
  mx::array operator()(const mx::array& logits, mx::StreamOrDevice s = {});

  std::uint64_t seed() const noexcept {
    return seed_;
  }
  bool is_most_likely() const noexcept {
    return sampler_.is_most_likely();
  }

 private:
  Sampler sampler_;
  std::uint64_t seed_;
  std::uint64_t token_index_ = 0;
  mx::array window_; // [1, W] int32
};

// -- Log-probabilities to report ---------------------------------------------

/// The model's own log-probabilities, before bias, penalties and filters.
struct LogProbs {
  /// Of the chosen tokens, [R] float32.
  mx::array chosen;
  /// The most likely tokens, best first, [R, n] uint32; and theirs, float32.
  mx::array top_ids;
  mx::array top;
};

/// logits [R, V], ids [R]; 0 <= num_top <= V.
LogProbs log_probs_of(
    const mx::array& logits,
    const mx::array& ids,
    int num_top,
    mx::StreamOrDevice s = {});

} // namespace qwen3_mlx
