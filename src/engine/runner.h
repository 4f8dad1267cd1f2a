// SPDX-License-Identifier: MIT
// Computes what the scheduler planned: a forward pass over the chunks of many
// sequences, and the next token of each that wants one. It holds no queues and
// takes no decisions.
//
// A step is launched, then collected. In between the step behind it may be
// launched ahead, for sequences that are to go on: from the tokens as they lie
// on the device, before anybody knows them. What the next step then asks for in
// just that way is answered from there; the rest of it is launched as always,
// and what was computed for nothing is dropped. So the device has work while
// the host looks at tokens and plans.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/filler_rows.h"
#include "engine/kv_storage.h"
#include "engine/scheduler.h"
#include "engine/token_batch.h"

namespace qwen3_mlx::engine {

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
  /// Sequences that gave their blocks back.
  void drop(std::span<const SequenceId> ids);
  /// Copies blocks. Before launch(); done once where a step is tried again.
  void copy(std::span<const BlockCopy> copies);

  /// Begins to compute chunks. Throws what the model throws; see abandon().
  void launch(std::span<const Chunk> chunks);
  /// Begins the step behind the launched one with these sequences, which all
  /// get a token in that and have room for it. Only where the storage can step
  /// back. What it throws does no harm to the launched step.
  void launch_ahead(std::span<const Sequence* const> sequences);
  /// Waits for the launched step; a token for each chunk that wants one, in
  /// their order. A token depends on its sequence alone: its tokens so far,
  /// parameters and seed. Throws what the model throws; see abandon().
  std::vector<TokenResult> collect();
  /// launch() and collect().
  std::vector<TokenResult> run(std::span<const Chunk> chunks);
  /// After a failure: waits for all that is launched and forgets it. The chunks
  /// may be run again, where can_resume() says so.
  void abandon() noexcept;
  /// Whether the sequence's caches are at chunk.begin, or can go back to it.
  bool can_resume(const Chunk& chunk) const;

  /// Tokens so far that were computed ahead.
  std::uint64_t num_tokens_ahead() const {
    return num_tokens_ahead_;
  }

  KvStorage& storage() {
    return *storage_;
  }

 private:
  struct Pass;
  struct Launched;
  struct Ahead;
  Pass prepare(std::span<const Chunk> chunks);
  Pass prepare_ahead(
      std::span<const Sequence* const> sequences,
      const mx::array& newest);
  mx::array newest_tokens(std::span<const Sequence* const> sequences) const;
  mx::array forward(const Pass& pass) const;
  mx::array decode(Pass& pass);
  void note_writes(const Pass& pass, std::vector<mx::array>& arrays) const;
  void launch_rest(std::span<const Chunk> chunks);

  Model model_;
  std::unique_ptr<KvStorage> storage_;
  bool decodes_apart_;
  FillerRows fillers_;
  std::unordered_map<SequenceId, TokenChoice> choices_;
  std::unique_ptr<Launched> launched_;
  std::unique_ptr<Ahead> ahead_;
  std::uint64_t num_tokens_ahead_ = 0;
  int steps_since_clearing_ = 0;
};

} // namespace qwen3_mlx::engine
