// SPDX-License-Identifier: MIT
// The next tokens of many sequences, sampled on the device from the logits of
// one step, each as its own sequence's parameters say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <mlx/mlx.h>

#include "engine/sequence.h"
#include "qwen3_mlx/generate.h"
#include "qwen3_mlx/sampling.h"

namespace qwen3_mlx::engine {

/// How a sequence's tokens are chosen.
struct SequenceSampling {
  SamplingParams params; ///< With a seed.
  bool logprobs = false;
  int top_logprobs = 0;
};

struct TokenResult {
  SequenceId id = 0;
  std::uint32_t token = 0;
  bool is_finite = true; ///< Else the logits were no numbers.
  std::optional<TokenLogprobs> logprobs = std::nullopt;
};

/// One sequence's sampling made ready; sequences share samplers.
struct TokenChoice {
  std::shared_ptr<const Sampler> sampler; ///< Without a seed.
  std::uint64_t seed = 0;
  bool logprobs = false;
  int top_logprobs = 0;
};

class TokenBatch {
 public:
  struct Row {
    const Sequence* sequence; ///< Looked at by the constructor only.
    TokenChoice choice;
  };

  /// Builds the operations that choose a token for each row of the model's
  /// `logits` [>= R, V], where what is behind the first R is nobody's; nothing
  /// runs yet. `newest` [R] uint32 are tokens that the sequences have got
  /// before these and that the host does not know yet, when there are such.
  TokenBatch(
      const Model& model,
      const mx::array& logits,
      const std::vector<Row>& rows,
      const std::optional<mx::array>& newest = std::nullopt);

  std::size_t size() const {
    return results_.size();
  }
  /// The tokens, [R] uint32, in the order of the rows.
  const mx::array& ids() const {
    return ids_;
  }
  /// All that read() needs.
  std::vector<mx::array> arrays() const;
  /// Waits for the tokens. Throws what computing them threw.
  std::vector<TokenResult> read() const;

 private:
  struct Logprobs {
    std::vector<std::size_t> rows;
    std::vector<int> num_top;
    LogProbs arrays;
  };

  TokenBatch(
      const mx::array& logits,
      const std::vector<Row>& rows,
      MostLikely chosen);

  std::vector<TokenResult> results_; // with ids only
  // What the host reads is an array of its own: MLX moves such arrays to memory
  // that both see and frees the old place, where the step that was begun ahead
  // may still read the ids.
  mx::array ids_;
  mx::array told_; // [2, >= R] uint32, as MostLikely has it
  std::optional<Logprobs> logprobs_;
};

/// The first rows of `x`.
mx::array first_rows(const mx::array& x, int count);

/// Rows of `x`, which are given in any order.
mx::array take_rows(const mx::array& x, const std::vector<int>& rows);

} // namespace qwen3_mlx::engine
