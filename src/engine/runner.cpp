// SPDX-License-Identifier: MIT
#include "engine/runner.h"

#include <algorithm>

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

mx::array take_rows(const mx::array& x, const std::vector<int>& rows) {
  if (static_cast<int>(rows.size()) == x.shape(0)) {
    return x; // rows are ascending: these are all
  }
  return mx::take(
      x,
      mx::array(rows.begin(), {static_cast<int>(rows.size())}, mx::int32),
      0);
}

} // namespace

struct Runner::Row {
  std::shared_ptr<const Sampler> sampler;
  std::uint64_t seed = 0;
  bool logprobs = false;
  int top_logprobs = 0;
};

/// Rows of a step's logits that are sampled in one go.
struct Runner::Group {
  const Sampler* sampler;
  std::vector<int> rows;
};

/// What goes through the model in one go.
struct Runner::Pass {
  std::vector<std::uint32_t> tokens;
  std::vector<Segment> segments;
  std::vector<int> logits_rows;
};

Runner::Runner(
    Model model,
    std::unique_ptr<KvStorage> storage,
    bool decodes_apart)
    : model_(std::move(model)), storage_(std::move(storage)),
      decodes_apart_(decodes_apart), fillers_(model_) {}

Runner::~Runner() = default;

void Runner::open(SequenceId id, const SequenceSampling& sampling) {
  Row row;
  row.seed = sampling.params.seed.value_or(0);
  row.logprobs = sampling.logprobs || sampling.top_logprobs > 0;
  row.top_logprobs = sampling.top_logprobs;
  auto params = sampling.params;
  params.seed.reset(); // the seed is the row's, the rest may be shared
  const auto same = std::find_if(rows_.begin(), rows_.end(), [&](auto& other) {
    return other.second.sampler->params() == params;
  });
  row.sampler = same != rows_.end()
      ? same->second.sampler
      : std::make_shared<const Sampler>(params, model_.args().vocab_size);
  rows_.insert_or_assign(id, std::move(row));
}

void Runner::close(SequenceId id) {
  rows_.erase(id);
  storage_->drop(id);
}

void Runner::drop(std::span<const SequenceId> ids) {
  for (const auto id : ids) {
    storage_->drop(id);
  }
}

void Runner::copy(std::span<const BlockCopy> copies) {
  storage_->copy(copies);
}

std::vector<Runner::Group>
Runner::groups_of(std::span<const Chunk* const> rows) const {
  std::vector<Group> groups;
  for (std::size_t idx = 0; idx < rows.size(); ++idx) {
    const auto* sampler = rows_.at(rows[idx]->sequence->id).sampler.get();
    auto group = std::find_if(groups.begin(), groups.end(), [&](auto& known) {
      return known.sampler == sampler;
    });
    if (group == groups.end()) {
      group = groups.insert(groups.end(), {sampler, {}});
    }
    group->rows.push_back(static_cast<int>(idx));
  }
  return groups;
}

namespace {

// [R, 2]: the random numbers of each row's next token.
mx::array
draws_of(std::span<const std::pair<std::uint64_t, const Sequence*>> rows) {
  std::vector<float> draws;
  for (const auto& [seed, sequence] : rows) {
    const auto drawn =
        draw(seed, static_cast<std::uint64_t>(sequence->num_generated()));
    draws.insert(draws.end(), {drawn.token, drawn.xtc});
  }
  return mx::array(
      draws.begin(), {static_cast<int>(rows.size()), 2}, mx::float32);
}

// [R, W]: the last tokens of each row, -1 before its start.
mx::array windows_of(
    std::span<const std::pair<std::uint64_t, const Sequence*>> rows,
    const SamplingParams& params) {
  const int width = params.has_penalties() ? params.penalty_window : 0;
  std::vector<std::int32_t> ids;
  for (const auto& [seed, sequence] : rows) {
    const auto seen = std::min(width, sequence->size());
    ids.insert(ids.end(), static_cast<std::size_t>(width - seen), -1);
    ids.insert(
        ids.end(), sequence->tokens.end() - seen, sequence->tokens.end());
  }
  return mx::array(
      ids.data(), mx::Shape{static_cast<int>(rows.size()), width}, mx::int32);
}

TokenLogprobs
read_logprobs(const LogProbs& from, int row, std::uint32_t id, int num_top) {
  const int width = from.top.shape(1);
  TokenLogprobs out;
  out.id = id;
  out.logprob = from.chosen.data<float>()[row];
  for (int rank = 0; rank < num_top; ++rank) {
    const int at = row * width + rank;
    out.top.emplace_back(
        from.top_ids.data<std::uint32_t>()[at], from.top.data<float>()[at]);
  }
  return out;
}

} // namespace

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

mx::array Runner::forward(Pass pass) const {
  const auto length = static_cast<int>(pass.tokens.size());
  return model_.forward(
      {mx::array(pass.tokens.begin(), {length}, mx::uint32),
       std::move(pass.segments),
       std::move(pass.logits_rows)});
}

mx::array Runner::decode(Pass pass) {
  const auto num_wanted = static_cast<int>(pass.tokens.size());
  const int num_rows = filled_batch(num_wanted);
  for (auto& segment : fillers_.segments(num_rows - num_wanted)) {
    pass.logits_rows.push_back(static_cast<int>(pass.tokens.size()));
    pass.tokens.push_back(0);
    pass.segments.push_back(std::move(segment));
  }
  const auto logits = forward(std::move(pass));
  return num_rows == num_wanted
      ? logits
      : mx::slice(logits, {0, 0}, {num_wanted, logits.shape(1)});
}

std::vector<TokenResult> Runner::run(std::span<const Chunk> chunks) {
  // A plan begins with the sequences that decode.
  const auto first_prompt = decodes_apart_
      ? std::find_if_not(chunks.begin(), chunks.end(), is_decoding)
      : chunks.begin();
  const auto num_decoding =
      static_cast<std::size_t>(first_prompt - chunks.begin());
  std::vector<mx::array> passes;
  std::vector<mx::array> wanted;
  const auto note_writes = [&](const Pass& pass) {
    for (const auto& segment : pass.segments) {
      for (const auto& cache : segment.cache) {
        const auto pending = cache.store().pending();
        wanted.insert(wanted.end(), pending.begin(), pending.end());
      }
    }
  };
  if (num_decoding > 0) {
    const auto pass = prepare(chunks.first(num_decoding));
    passes.push_back(decode(pass));
    note_writes(pass);
  }
  if (num_decoding < chunks.size()) {
    const auto pass = prepare(chunks.subspan(num_decoding));
    passes.push_back(forward(pass));
    note_writes(pass);
  }
  const auto logits =
      passes.size() == 1 ? passes.front() : mx::concatenate(passes, 0);

  std::vector<const Chunk*> rows;
  for (const auto& chunk : chunks) {
    if (chunk.wants_token()) {
      rows.push_back(&chunk);
    }
  }
  if (rows.empty()) {
    mx::eval(wanted);
    return {};
  }

  const auto groups = groups_of(rows);
  std::vector<mx::array> group_ids;
  for (const auto& group : groups) {
    std::vector<std::pair<std::uint64_t, const Sequence*>> of_group;
    for (const int row : group.rows) {
      const auto* sequence = rows[static_cast<std::size_t>(row)]->sequence;
      of_group.emplace_back(rows_.at(sequence->id).seed, sequence);
    }
    group_ids.push_back((*group.sampler)(
        take_rows(logits, group.rows),
        draws_of(of_group),
        windows_of(of_group, group.sampler->params())));
  }
  const auto finite = finite_rows(logits);
  wanted.push_back(finite);
  wanted.insert(wanted.end(), group_ids.begin(), group_ids.end());
  mx::eval(wanted);

  std::vector<TokenResult> results(rows.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto* ids = group_ids[g].data<std::uint32_t>();
    for (const int row : groups[g].rows) {
      const auto idx = static_cast<std::size_t>(row);
      results[idx].id = rows[idx]->sequence->id;
      results[idx].token = *ids++;
      results[idx].is_finite = finite.data<bool>()[row];
    }
  }
  add_logprobs(logits, results);
  if (++steps_since_clearing_ == steps_between_clearings) {
    steps_since_clearing_ = 0;
    mx::clear_cache();
  }
  return results;
}

void Runner::add_logprobs(
    const mx::array& logits,
    std::vector<TokenResult>& results) const {
  std::vector<int> rows;
  std::vector<std::uint32_t> chosen;
  int num_top = 0;
  for (std::size_t idx = 0; idx < results.size(); ++idx) {
    const auto& row = rows_.at(results[idx].id);
    if (row.logprobs) {
      rows.push_back(static_cast<int>(idx));
      chosen.push_back(results[idx].token);
      num_top = std::max(num_top, row.top_logprobs);
    }
  }
  if (rows.empty()) {
    return;
  }
  auto found = log_probs_of(
      take_rows(logits, rows),
      mx::array(chosen.begin(), {static_cast<int>(chosen.size())}, mx::uint32),
      num_top);
  found.top_ids = mx::contiguous(found.top_ids);
  found.top = mx::contiguous(found.top);
  mx::eval(found.chosen, found.top_ids, found.top);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    auto& result = results[static_cast<std::size_t>(rows[i])];
    result.logprobs = read_logprobs(
        found,
        static_cast<int>(i),
        result.token,
        rows_.at(result.id).top_logprobs);
  }
}

} // namespace qwen3_mlx::engine
