// SPDX-License-Identifier: MIT
#include "nn/decode_replay.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "mlx/utils.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

// Recording takes as long as some steps: a number of sequences that comes once
// is not recorded.
constexpr int seen_before_recording = 2;
constexpr std::size_t max_graphs = 64;
constexpr int max_sequences = 512;

int num_sequences(const StepInput& step) {
  return step.tokens.shape(0);
}

int longest(const StepInput& step) {
  int longest = 0;
  for (const auto& segment : step.segments) {
    longest = std::max(longest, segment.cache.front().offset() + 1);
  }
  return longest;
}

std::optional<KVQuantization> in_place_form(const StepInput& step) {
  if (step.segments.empty() || step.segments.front().cache.empty()) {
    return std::nullopt;
  }
  const KVCache& first = step.segments.front().cache.front();
  return first.store().in_place_form();
}

bool wants_all_rows(const StepInput& step) {
  if (!step.logits_rows) {
    return true;
  }
  const auto& rows = *step.logits_rows;
  if (static_cast<int>(rows.size()) != num_sequences(step)) {
    return false;
  }
  for (std::size_t idx = 0; idx < rows.size(); ++idx) {
    if (rows[idx] != static_cast<int>(idx)) {
      return false;
    }
  }
  return true;
}

} // namespace

DecodeReplay::DecodeReplay(const ModelArgs& args)
    : num_layers_(args.num_hidden_layers),
      has_lasting_rope_(args.rope_scaling.type != RopeType::dynamic),
      n_kv_heads_(args.num_key_value_heads), head_dim_(args.head_dim) {}

bool DecodeReplay::fits(const StepInput& step) const {
  const auto kept = in_place_form(step);
  return has_lasting_rope_ && kept && num_sequences(step) <= max_sequences &&
      wants_all_rows(step) &&
      std::ranges::all_of(step.segments, [&](const Segment& segment) {
           return segment.length == 1 &&
               std::ranges::all_of(segment.cache, [&](const KVCache& cache) {
                    return cache.offset() == segment.cache.front().offset() &&
                        cache.offset() > 0 &&
                        cache.store().in_place_form() == kept;
                  });
         });
}

// Locked by the caller.
DecodeReplay::Entry& DecodeReplay::entry_of(const Key& key) {
  if (entries_.size() >= max_graphs && !entries_.contains(key)) {
    entries_.erase(std::ranges::min_element(
        entries_, {}, [](const auto& each) { return each.second.last_use; }));
  }
  auto& entry = entries_[key];
  entry.last_use = ++num_uses_;
  return entry;
}

mx::array DecodeReplay::forward(
    const StepInput& step,
    const std::function<mx::array(const StepInput&)>& build) {
  if (!fits(step)) {
    return build(step);
  }
  const cuda::StepForm form{
      num_sequences(step), cuda::step_splits(longest(step))};
  const auto kept = in_place_form(step).value();
  const Key key{
      form.num_sequences,
      form.max_splits,
      kept.bits,
      kept.group_size,
      mx::default_stream(mx::Device::gpu).index};
  std::shared_ptr<cuda::StepGraph> graph;
  bool records = false;
  {
    const std::lock_guard lock(mutex_);
    auto& entry = entry_of(key);
    graph = entry.graph;
    records =
        !graph && !entry.cannot && ++entry.num_seen >= seen_before_recording;
  }
  if (graph) {
    if (auto logits = replay(*graph, step)) {
      return *logits;
    }
  }
  const auto logits = build(step);
  if (records) {
    try {
      graph = cuda::StepGraph::record(step.tokens, logits, form);
    } catch (const Error&) {
      // As where memory is short: such steps run as they would without.
    }
    const std::lock_guard lock(mutex_);
    auto& entry = entry_of(key);
    entry.cannot = graph == nullptr;
    entry.graph = std::move(graph);
  }
  return logits;
}

std::optional<mx::array>
DecodeReplay::replay(cuda::StepGraph& graph, const StepInput& step) const {
  cuda::StepCaches caches;
  const auto num_caches =
      step.segments.size() * static_cast<std::size_t>(num_layers_);
  caches.segments.reserve(num_caches);
  std::vector<KVStore*> stores;
  stores.reserve(num_caches);
  const auto dtype = graph.dtype();
  const MakeArray make = [&](const mx::Shape& shape, mx::Dtype of) {
    return graph.make_array(shape, of);
  };
  for (int layer = 0; layer < num_layers_; ++layer) {
    for (const auto& segment : step.segments) {
      auto& store = segment.cache[static_cast<std::size_t>(layer)].store();
      auto room = store.append_in_place(
          {segment.batch, n_kv_heads_, 1, head_dim_}, dtype, make);
      if (!room) {
        for (KVStore* const other : stores) {
          other->trim(1);
        }
        return std::nullopt;
      }
      stores.push_back(&store);
      if (layer == 0) {
        caches.offsets.insert(
            caches.offsets.end(),
            static_cast<std::size_t>(segment.batch),
            room->offset);
      }
      const bool is_new = room->after &&
          room->after->status() == mx::array::Status::unscheduled &&
          std::ranges::none_of(caches.after, [&](const mx::array& other) {
                            return other.id() == room->after->id();
                          });
      if (is_new) {
        caches.after.push_back(std::move(*room->after));
      }
      caches.segments.push_back(
          {std::move(room->keys),
           std::move(room->values),
           std::move(room->scales)});
    }
  }
  const auto logits = graph.replay(step.tokens, std::move(caches));
  for (KVStore* const store : stores) {
    store->written_by(logits);
  }
  return logits;
}

} // namespace qwen3_mlx
