// SPDX-License-Identifier: MIT
// Computes what the scheduler planned: a forward pass over the chunks of many
// sequences, and the next token of each that wants one. It holds no queues and
// takes no decisions.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/filler_rows.h"
#include "engine/kv_storage.h"
#include "engine/scheduler.h"
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

/// Belongs to the engine's thread.
class Runner {
 public:
  /// With `decodes_apart`, sequences that get their next token pass through the
  /// model apart from prompts, in numbers that filled_batch() allows: for a
  /// model that records such steps.
  Runner(Model model, std::unique_ptr<KvStorage> storage, bool decodes_apart);
  ~Runner();

  /// Throws InvalidArgument naming the parameter that is out of range.
  void open(SequenceId id, const SequenceSampling& sampling);
  void close(SequenceId id);
  /// Copies blocks. Before run(); done once where a step is tried again.
  void copy(std::span<const BlockCopy> copies);
  /// Computes chunks; returns a token for each that wants one, in their order.
  /// A token depends on its sequence alone: its tokens so far, parameters and
  /// seed. Throws what the model throws; the chunks may be run again.
  std::vector<TokenResult> run(std::span<const Chunk> chunks);
  /// Sequences that gave their blocks back.
  void drop(std::span<const SequenceId> ids);
  KvStorage& storage() {
    return *storage_;
  }

 private:
  struct Row;
  struct Group;
  struct Pass;
  Pass prepare(std::span<const Chunk> chunks);
  mx::array forward(Pass pass) const;
  mx::array decode(Pass pass);
  std::vector<Group> groups_of(std::span<const Chunk* const> rows) const;
  void add_logprobs(const mx::array& logits, std::vector<TokenResult>& results)
      const;

  Model model_;
  std::unique_ptr<KvStorage> storage_;
  bool decodes_apart_;
  FillerRows fillers_;
  std::unordered_map<SequenceId, Row> rows_;
  int steps_since_clearing_ = 0;
};

} // namespace qwen3_mlx::engine
