// SPDX-License-Identifier: MIT
#include "engine/runner.h"

#include <algorithm>
#include <unordered_set>

#include <mlx/mlx.h>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

// MLX keeps freed buffers for reuse; steps of many sizes would pile them up.
constexpr int steps_between_clearings = 256;

std::span<const std::uint32_t> tokens_of(const Chunk& chunk) {
  return std::span(chunk.sequence->tokens)
      .subspan(
          static_cast<std::size_t>(chunk.begin),
          static_cast<std::size_t>(chunk.length));
}

// Whether the chunk is the last token of a sequence that goes on.
bool is_decoding(const Chunk& chunk) {
  return chunk.length == 1 && chunk.begin > 0 && chunk.wants_token();
}

} // namespace

/// What goes through the model in one go.
struct Runner::Pass {
  std::optional<mx::array> newest; // tokens on the device, before the others
  std::vector<std::uint32_t> tokens;
  std::vector<Segment> segments;
  std::vector<int> logits_rows;
};

/// The step that is collected next.
struct Runner::Launched {
  struct Wanted {
    SequenceId id;
    bool was_ahead; // its row is one of `earlier`, else of `own`
    std::size_t row;
  };
  std::vector<Wanted> wanted; // in the order of the chunks
  std::optional<TokenBatch> earlier;
  std::optional<TokenBatch> own;
  std::vector<mx::array> arrays; // that have been sent off for `own`
};

/// The step behind it, as far as it is launched.
struct Runner::Ahead {
  struct Row {
    std::size_t row;
    int position; // of the token that went in...
    std::optional<std::uint32_t> token = std::nullopt; // ...once it is known
  };
  TokenBatch batch;
  std::unordered_map<SequenceId, Row> rows; // of sequences that still count

  std::optional<std::size_t> answer(const Chunk& chunk) const {
    const auto found = rows.find(chunk.sequence->id);
    if (found == rows.end() || !is_decoding(chunk)) {
      return std::nullopt;
    }
    const auto& row = found->second;
    const bool is_same = row.position == chunk.begin &&
        row.token == chunk.sequence->tokens.back();
    return is_same ? std::optional(row.row) : std::nullopt;
  }
};

Runner::Runner(
    Model model,
    std::unique_ptr<KvStorage> storage,
    bool decodes_apart)
    : model_(std::move(model)), storage_(std::move(storage)),
      decodes_apart_(decodes_apart), fillers_(model_) {}

Runner::~Runner() {
  abandon();
}

void Runner::open(SequenceId id, const SequenceSampling& sampling) {
  TokenChoice choice;
  choice.seed = sampling.params.seed.value_or(0);
  choice.logprobs = sampling.logprobs || sampling.top_logprobs > 0;
  choice.top_logprobs = sampling.top_logprobs;
  auto params = sampling.params;
  params.seed.reset(); // the seed is the row's, the rest may be shared
  const auto same =
      std::find_if(choices_.begin(), choices_.end(), [&](auto& other) {
        return other.second.sampler->params() == params;
      });
  choice.sampler = same != choices_.end()
      ? same->second.sampler
      : std::make_shared<const Sampler>(params, model_.args().vocab_size);
  choices_.insert_or_assign(id, std::move(choice));
}

void Runner::close(SequenceId id) {
  choices_.erase(id);
  drop({&id, 1});
}

// Whatever still writes to the caches keeps their arrays.
void Runner::drop(std::span<const SequenceId> ids) {
  for (const auto id : ids) {
    storage_->drop(id);
    if (ahead_) {
      ahead_->rows.erase(id);
    }
  }
}

void Runner::copy(std::span<const BlockCopy> copies) {
  storage_->copy(copies);
}

bool Runner::can_resume(const Chunk& chunk) const {
  return storage_->can_resume(chunk);
}

Runner::Pass Runner::prepare(std::span<const Chunk> chunks) {
  Pass pass;
  for (const auto& chunk : chunks) {
    const auto piece = tokens_of(chunk);
    pass.tokens.insert(pass.tokens.end(), piece.begin(), piece.end());
    pass.segments.push_back(
        {.cache = storage_->caches_for(chunk),
         .length = chunk.length,
         .prompt_length = chunk.sequence->size()});
    if (chunk.wants_token()) {
      pass.logits_rows.push_back(static_cast<int>(pass.tokens.size()) - 1);
    }
  }
  return pass;
}

Runner::Pass Runner::prepare_ahead(
    std::span<const Sequence* const> sequences,
    const mx::array& newest) {
  Pass pass;
  pass.newest = newest;
  for (const auto* sequence : sequences) {
    pass.logits_rows.push_back(static_cast<int>(pass.segments.size()));
    pass.segments.push_back(
        {.cache = storage_->caches_for({sequence, sequence->size(), 1}),
         .length = 1,
         .prompt_length = sequence->size() + 1});
  }
  return pass;
}

mx::array Runner::forward(const Pass& pass) const {
  std::vector<mx::array> tokens;
  if (pass.newest) {
    tokens.push_back(*pass.newest);
  }
  if (!pass.tokens.empty()) {
    const auto length = static_cast<int>(pass.tokens.size());
    tokens.emplace_back(pass.tokens.begin(), mx::Shape{length}, mx::uint32);
  }
  return model_.forward(
      {tokens.size() == 1 ? tokens.front() : mx::concatenate(tokens, 0),
       pass.segments,
       pass.logits_rows});
}

// A pass of one token a sequence. Behind the logits of those there may be
// others'.
mx::array Runner::decode(Pass& pass) {
  const auto num_wanted = static_cast<int>(pass.segments.size());
  const int num_rows = decodes_apart_ ? filled_batch(num_wanted) : num_wanted;
  for (auto& segment : fillers_.segments(num_rows - num_wanted)) {
    pass.logits_rows.push_back(static_cast<int>(pass.segments.size()));
    pass.tokens.push_back(0);
    pass.segments.push_back(std::move(segment));
  }
  return forward(pass);
}

// What of the caches is to be computed and may not be part of the logits.
void Runner::note_writes(const Pass& pass, std::vector<mx::array>& arrays)
    const {
  std::unordered_set<std::uintptr_t> seen;
  for (const auto& segment : pass.segments) {
    for (const auto& cache : segment.cache) {
      for (auto& array : cache.store().pending()) {
        if (array.status() == mx::array::Status::unscheduled &&
            seen.insert(array.id()).second) {
          arrays.push_back(std::move(array));
        }
      }
    }
  }
}

void Runner::launch(std::span<const Chunk> chunks) {
  launched_ = std::make_unique<Launched>();
  const auto ahead = std::exchange(ahead_, nullptr);
  std::vector<Chunk> rest;
  std::size_t num_own = 0;
  for (const auto& chunk : chunks) {
    const auto answer = ahead ? ahead->answer(chunk) : std::nullopt;
    if (!answer) {
      rest.push_back(chunk);
    }
    if (chunk.wants_token()) {
      launched_->wanted.push_back(
          {chunk.sequence->id,
           answer.has_value(),
           answer ? *answer : num_own++});
    }
  }
  if (rest.size() < chunks.size()) {
    launched_->earlier = std::move(ahead->batch);
  }
  if (!rest.empty()) {
    launch_rest(rest);
  }
}

void Runner::launch_rest(std::span<const Chunk> chunks) {
  // A plan begins with the sequences that decode.
  const auto first_prompt = decodes_apart_
      ? std::find_if_not(chunks.begin(), chunks.end(), is_decoding)
      : chunks.begin();
  const auto num_decoding =
      static_cast<std::size_t>(first_prompt - chunks.begin());
  std::vector<mx::array> passes;
  std::vector<mx::array> arrays;
  if (num_decoding > 0) {
    auto pass = prepare(chunks.first(num_decoding));
    passes.push_back(decode(pass));
    if (!storage_->logits_cover_writes()) {
      note_writes(pass, arrays);
    }
  }
  if (num_decoding < chunks.size()) {
    if (num_decoding > 0) {
      passes[0] = first_rows(passes[0], static_cast<int>(num_decoding));
    }
    const auto pass = prepare(chunks.subspan(num_decoding));
    passes.push_back(forward(pass));
    note_writes(pass, arrays);
  }
  const auto logits =
      passes.size() == 1 ? passes.front() : mx::concatenate(passes, 0);

  std::vector<TokenBatch::Row> rows;
  for (const auto& chunk : chunks) {
    if (chunk.wants_token()) {
      rows.push_back({chunk.sequence, choices_.at(chunk.sequence->id)});
    }
  }
  std::optional<TokenBatch> batch;
  if (!rows.empty()) {
    batch.emplace(model_, logits, rows);
    const auto of_batch = batch->arrays();
    arrays.insert(arrays.end(), of_batch.begin(), of_batch.end());
  }
  mx::async_eval(arrays);
  launched_->own = std::move(batch);
  launched_->arrays = std::move(arrays);
}

// The tokens that the launched step will have chosen for them.
mx::array
Runner::newest_tokens(std::span<const Sequence* const> sequences) const {
  std::vector<mx::array> ids;
  for (const auto* batch : {&launched_->earlier, &launched_->own}) {
    if (batch->has_value()) {
      ids.push_back((*batch)->ids());
    }
  }
  const auto own_begins =
      launched_->earlier ? launched_->earlier->size() : std::size_t{0};
  std::unordered_map<SequenceId, std::size_t> places;
  for (const auto& [id, was_ahead, row] : launched_->wanted) {
    places.emplace(id, was_ahead ? row : own_begins + row);
  }
  std::vector<int> rows;
  for (const auto* sequence : sequences) {
    rows.push_back(static_cast<int>(places.at(sequence->id)));
  }
  return take_rows(
      ids.size() == 1 ? ids.front() : mx::concatenate(ids, 0), rows);
}

void Runner::launch_ahead(std::span<const Sequence* const> sequences) {
  if (sequences.empty()) {
    return;
  }
  const auto newest = newest_tokens(sequences);
  auto pass = prepare_ahead(sequences, newest);
  const auto logits = decode(pass);
  std::vector<TokenBatch::Row> rows;
  std::unordered_map<SequenceId, Ahead::Row> places;
  for (const auto* sequence : sequences) {
    places.emplace(sequence->id, Ahead::Row{rows.size(), sequence->size()});
    rows.push_back({sequence, choices_.at(sequence->id)});
  }
  TokenBatch batch(model_, logits, rows, newest);
  auto arrays = batch.arrays();
  if (!storage_->logits_cover_writes()) {
    note_writes(pass, arrays);
  }
  mx::async_eval(arrays);
  ahead_ = std::make_unique<Ahead>(Ahead{std::move(batch), std::move(places)});
}

std::vector<TokenResult> Runner::collect() {
  mx::eval(launched_->arrays);
  std::vector<TokenResult> earlier;
  std::vector<TokenResult> own;
  if (launched_->earlier) {
    earlier = launched_->earlier->read();
  }
  if (launched_->own) {
    own = launched_->own->read();
  }
  std::vector<TokenResult> results;
  for (const auto& [id, was_ahead, row] : launched_->wanted) {
    results.push_back(std::move(was_ahead ? earlier[row] : own[row]));
    num_tokens_ahead_ += was_ahead ? 1 : 0;
    if (ahead_) {
      if (const auto next = ahead_->rows.find(id); next != ahead_->rows.end()) {
        next->second.token = results.back().token;
      }
    }
  }
  launched_.reset();
  if (++steps_since_clearing_ == steps_between_clearings) {
    steps_since_clearing_ = 0;
    mx::clear_cache();
  }
  return results;
}

std::vector<TokenResult> Runner::run(std::span<const Chunk> chunks) {
  launch(chunks);
  return collect();
}

void Runner::abandon() noexcept {
  const auto wait_for = [](const auto& arrays) {
    try {
      mx::eval(arrays());
    } catch (...) {
      // Nobody wants to know any more.
    }
  };
  if (launched_) {
    wait_for([&] { return launched_->arrays; });
    if (launched_->earlier) {
      wait_for([&] { return launched_->earlier->arrays(); });
    }
  }
  if (ahead_) {
    wait_for([&] { return ahead_->batch.arrays(); });
  }
  launched_.reset();
  ahead_.reset();
}

} // namespace qwen3_mlx::engine
