// SPDX-License-Identifier: MIT
// Decides what the next step computes: which sequences, which of their tokens,
// into which blocks. No arrays, no threads, no clock of its own.
//
// Policy. Every running text that decodes gets its next token in every step.
// What is left of the step's tokens reads prompts, so a long prompt delays the
// others by one chunk at most; where nobody decodes, more is read at once. The
// prompt that was let in first gets at least
// half of that; the rest goes to urgent ones first, then to the user with the
// least service so far, then to the shortest. A sequence is let in when its
// whole prompt and a reserve for the running ones fit into the pool, in the
// order of priority (which rises with waiting), service and arrival, and nobody
// overtakes the first in line. When the pool runs dry, the last in that order
// gives its blocks back and is computed again later.
#pragma once

#include <chrono>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "engine/fair_share.h"
#include "engine/sequence.h"

namespace qwen3_mlx::engine {

struct SchedulerOptions {
  BlockOptions blocks;
  int max_running = 0;     ///< Most sequences in one step.
  int max_step_tokens = 0; ///< Prompt tokens of one step, decoding ones apart.
  int max_idle_step_tokens = 0; ///< The same where nobody decodes.
  int max_context = 0;          ///< Most tokens of a sequence.
  /// A waiting sequence becomes one priority more urgent for each of these.
  std::chrono::milliseconds aging{10'000};
};

/// Tokens [begin, begin + length) of a sequence, which is the scheduler's.
struct Chunk {
  const Sequence* sequence;
  int begin;
  int length;
  /// Its logits are wanted: they choose the sequence's next token.
  bool wants_token() const {
    return begin + length == sequence->size();
  }
};

struct StepPlan {
  std::vector<BlockCopy> copies; ///< Before anything else, in this order.
  std::vector<Chunk> chunks;     ///< Decoding ones first.
  std::vector<SequenceId> preempted;
  int num_prompt_tokens = 0;

  bool empty() const {
    return chunks.empty();
  }
};

class Scheduler {
 public:
  /// Throws InvalidArgument for options that are not positive.
  explicit Scheduler(const SchedulerOptions& options);

  /// Throws InvalidArgument for an empty prompt, for max_tokens below 1, and
  /// with the numbers for what can never fit.
  void check_fits(std::int64_t num_prompt, std::int64_t max_tokens) const;
  /// Puts a sequence in line. Throws as check_fits does, and for an id that is
  /// in use.
  void add(NewSequence added);
  /// What the next step is to do. Views in the plan hold until the next call
  /// of anything that changes the scheduler, commit() apart.
  StepPlan plan(TimePoint now);
  /// Sequences that `plan` gives a token and that go on with it unless it ends
  /// their text, each with room for it: what can be computed of the step behind
  /// `plan` before its tokens are known. Takes blocks that nobody holds, never
  /// another's; nothing when one of them would need more. Where blocks are
  /// shared it is of no use.
  std::vector<const Sequence*> plan_ahead(const StepPlan& plan);
  /// The step was computed.
  void commit(const StepPlan& plan);
  /// A sequence whose logits were computed goes on with `token`.
  void append(SequenceId id, std::uint32_t token);
  /// A sequence has ended, for whatever reason; its blocks are free at once.
  void remove(SequenceId id);
  /// The step failed, copies included: all that took part give their blocks
  /// back and are computed again from their tokens.
  void abandon(const StepPlan& plan);

  const Sequence* find(SequenceId id) const;
  int num_running() const {
    return static_cast<int>(running_.size());
  }
  int num_waiting() const {
    return static_cast<int>(waiting_.size());
  }
  bool idle() const {
    return running_.empty() && waiting_.empty();
  }
  std::uint64_t num_preemptions() const {
    return num_preemptions_;
  }
  const BlockManager& blocks() const {
    return blocks_;
  }
  /// To take in blocks from elsewhere, before the first sequence.
  BlockManager& blocks() {
    return blocks_;
  }

 private:
  struct Rank;
  Rank rank(const Sequence& sequence, TimePoint now) const;
  void plan_decode(StepPlan& plan, TimePoint now);
  void admit(StepPlan& plan, TimePoint now);
  bool try_admit(Sequence& sequence, StepPlan& plan);
  void plan_prefill(StepPlan& plan, std::size_t num_old, TimePoint now);
  bool make_room(Sequence& sequence, StepPlan& plan, TimePoint now);
  Sequence* last_in_order(TimePoint now) const;
  void give_up_blocks(Sequence& sequence);

  SchedulerOptions options_;
  BlockManager blocks_;
  FairShare fair_share_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_; // in the order in which they were let in
  std::vector<Sequence*> waiting_;
  std::uint64_t num_preemptions_ = 0;
};

} // namespace qwen3_mlx::engine
