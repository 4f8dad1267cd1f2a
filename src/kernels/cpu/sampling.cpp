// SPDX-License-Identifier: MIT
#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace qwen3_mlx::cpu {

namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// Values with room for the kernels, which work on multiples of 64.
class Row {
 public:
  explicit Row(int count)
      : count_(count), values_(round_up(static_cast<std::size_t>(count), 64)) {}

  int count() const {
    return count_;
  }
  float* data() {
    return values_.data();
  }
  std::span<float> values() {
    return {values_.data(), static_cast<std::size_t>(count_)};
  }

 private:
  int count_;
  std::vector<float> values_;
};

void add_bias(const SamplingForm& form, std::span<float> logits) {
  for (const auto& [id, value] : form.logit_bias) {
    logits[id] += value;
  }
}

void penalize(
    const SamplingForm& form,
    std::span<const std::int32_t> window,
    std::span<float> logits) {
  std::vector<std::int32_t> ids(window.begin(), window.end());
  std::sort(ids.begin(), ids.end());
  for (auto next = ids.begin(); next != ids.end();) {
    const std::int32_t id = *next;
    const auto end = std::upper_bound(next, ids.end(), id);
    const auto times = static_cast<float>(end - next);
    next = end;
    if (id < 0 || static_cast<std::size_t>(id) >= logits.size()) {
      continue;
    }
    float& logit = logits[static_cast<std::size_t>(id)];
    if (form.repetition_penalty != 0 && form.repetition_penalty != 1) {
      logit = logit < 0 ? logit * form.repetition_penalty
                        : logit / form.repetition_penalty;
    }
    logit -= form.presence_penalty;
    logit -= times * form.frequency_penalty;
  }
}

// Ids of the k largest values, the lower ones among equals, in rising order.
std::vector<std::uint32_t> largest(std::span<const float> values, int k) {
  using Entry = std::pair<float, std::uint32_t>;
  const auto is_before = [](const Entry& a, const Entry& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  const auto count = std::min(static_cast<std::size_t>(k), values.size());
  std::vector<Entry> kept; // a heap whose first is the least
  kept.reserve(count);
  for (std::size_t id = 0; id < values.size(); ++id) {
    // What is no number compares as nothing: as the least of all it orders.
    const float value = std::isnan(values[id]) ? kHidden : values[id];
    const Entry entry{value, static_cast<std::uint32_t>(id)};
    if (kept.size() < count) {
      kept.push_back(entry);
      std::push_heap(kept.begin(), kept.end(), is_before);
    } else if (count > 0 && value > kept.front().first) {
      std::pop_heap(kept.begin(), kept.end(), is_before);
      kept.back() = entry;
      std::push_heap(kept.begin(), kept.end(), is_before);
    }
  }
  std::vector<std::uint32_t> ids;
  ids.reserve(kept.size());
  for (const Entry& entry : kept) {
    ids.push_back(entry.second);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

Row probabilities(const KernelTable& kernels, std::span<const float> logits) {
  Row probs(static_cast<int>(logits.size()));
  std::copy(logits.begin(), logits.end(), probs.data());
  kernels.softmax(probs.data(), probs.count());
  return probs;
}

// The place of the first value beyond `draw` of the mass of all.
std::uint32_t draw_from(
    const KernelTable& kernels,
    float temperature,
    Row& log_probs,
    float draw) {
  if (temperature != 1) {
    const float inverse = 1.0F / std::max(temperature, 1e-6F);
    for (float& value : log_probs.values()) {
      value *= inverse;
    }
  }
  kernels.softmax(log_probs.data(), log_probs.count());
  const auto probs = log_probs.values();
  const double total = std::accumulate(probs.begin(), probs.end(), 0.0);
  const double target = static_cast<double>(draw) * total;
  double mass = 0;
  std::uint32_t last = 0;
  for (std::size_t idx = 0; idx < probs.size(); ++idx) {
    if (probs[idx] > 0) {
      mass += static_cast<double>(probs[idx]);
      last = static_cast<std::uint32_t>(idx);
      if (mass > target) {
        break;
      }
    }
  }
  return last;
}

// Of the k most likely tokens, with top-p and min-p among them.
std::uint32_t sample_few(
    const KernelTable& kernels,
    const SamplingForm& form,
    std::span<float> logits,
    float draw) {
  const auto ids = largest(logits, form.top_k);
  Row values(static_cast<int>(ids.size()));
  for (std::size_t idx = 0; idx < ids.size(); ++idx) {
    values.data()[idx] = logits[ids[idx]];
  }
  if (form.has_top_p() || form.min_p > 0) {
    std::vector<std::size_t> order(ids.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const float* const value = values.data();
    std::stable_sort(
        order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
          const bool a_counts = !std::isnan(value[a]);
          const bool b_counts = !std::isnan(value[b]);
          return a_counts && (!b_counts || value[a] > value[b]);
        });
    // Mass is measured against the whole row, not against the candidates.
    std::vector<float> mass_above(ids.size(), 0.0F);
    if (form.has_top_p()) {
      Row probs = probabilities(kernels, logits);
      float mass = 0;
      for (std::size_t rank = 0; rank < order.size(); ++rank) {
        mass_above[rank] = mass;
        mass += probs.data()[ids[order[rank]]];
      }
    }
    const float least = form.min_p > 0
        ? values.data()[order[0]] + std::log(form.min_p)
        : kHidden;
    for (std::size_t rank = 0; rank < order.size(); ++rank) {
      float& log_prob = values.data()[order[rank]];
      const bool likely = log_prob >= least ||
          (form.min_tokens_to_keep > 1 &&
           static_cast<int>(rank) < form.min_tokens_to_keep);
      const bool in_mass = !form.has_top_p() || mass_above[rank] < form.top_p;
      if (!likely || !in_mass) {
        log_prob = kHidden;
      }
    }
  }
  return ids[draw_from(kernels, form.temperature, values, draw)];
}

void hide_below(std::span<float> logits, float bound) {
  for (float& logit : logits) {
    if (logit < bound) {
      logit = kHidden;
    }
  }
}

// The least logit of the most likely tokens whose mass reaches top_p.
float top_p_bound(
    const KernelTable& kernels,
    std::span<const float> logits,
    float top_p) {
  Row probs = probabilities(kernels, logits);
  const float best = *std::max_element(logits.begin(), logits.end());
  const auto total =
      std::accumulate(probs.data(), probs.data() + probs.count(), 0.0);
  const double wanted = static_cast<double>(top_p) * total;
  // Tokens far below the best one are not sorted unless those above it are
  // short of the mass.
  std::vector<std::uint32_t> near;
  for (float width = 4; near.size() < logits.size(); width *= 2) {
    near.clear();
    double mass = 0;
    const bool is_last = width > 1e3F;
    for (std::size_t id = 0; id < logits.size(); ++id) {
      if (is_last || logits[id] >= best - width) {
        near.push_back(static_cast<std::uint32_t>(id));
        mass += static_cast<double>(probs.data()[id]);
      }
    }
    if (is_last || mass >= wanted) {
      break;
    }
  }
  std::sort(near.begin(), near.end(), [&](std::uint32_t a, std::uint32_t b) {
    return probs.data()[a] > probs.data()[b] ||
        (probs.data()[a] == probs.data()[b] && a < b);
  });
  double mass = 0;
  float bound = kHidden;
  for (const std::uint32_t id : near) {
    if (mass >= wanted) {
      break;
    }
    bound = logits[id];
    mass += static_cast<double>(probs.data()[id]);
  }
  return bound;
}

void apply_min_p(const SamplingForm& form, std::span<float> logits) {
  const float best = *std::max_element(logits.begin(), logits.end());
  std::vector<std::pair<std::uint32_t, float>> kept;
  if (form.min_tokens_to_keep > 1) {
    for (const std::uint32_t id : largest(logits, form.min_tokens_to_keep)) {
      kept.emplace_back(id, logits[id]);
    }
  }
  hide_below(logits, best + std::log(form.min_p));
  for (const auto& [id, logit] : kept) {
    logits[id] = logit;
  }
}

// Drops all tokens above the threshold but the least likely of them.
void apply_xtc(
    const KernelTable& kernels,
    const SamplingForm& form,
    std::span<float> logits) {
  Row probs = probabilities(kernels, logits);
  float least = std::numeric_limits<float>::infinity();
  for (const float prob : probs.values()) {
    if (prob > form.xtc_threshold) {
      least = std::min(least, prob);
    }
  }
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const auto& special = form.xtc_special_tokens;
    if (probs.data()[id] > least &&
        std::find(special.begin(), special.end(), id) == special.end()) {
      logits[id] = kHidden;
    }
  }
}

// Of all tokens that the filters leave.
std::uint32_t sample_all(
    const KernelTable& kernels,
    const SamplingForm& form,
    Row& row,
    const SamplingInputs& inputs) {
  const auto logits = row.values();
  if (form.has_top_p()) {
    hide_below(logits, top_p_bound(kernels, logits, form.top_p));
  }
  if (form.min_p > 0) {
    apply_min_p(form, logits);
  }
  if (form.xtc_probability > 0 && inputs.xtc_draw <= form.xtc_probability) {
    apply_xtc(kernels, form, logits);
  }
  if (form.top_k > 0 && form.top_k < row.count()) {
    const auto ids = largest(logits, form.top_k);
    Row few(static_cast<int>(ids.size()));
    for (std::size_t idx = 0; idx < ids.size(); ++idx) {
      few.data()[idx] = logits[ids[idx]];
    }
    return ids[draw_from(kernels, form.temperature, few, inputs.draw)];
  }
  return draw_from(kernels, form.temperature, row, inputs.draw);
}

} // namespace

std::uint32_t sample_row(
    const KernelTable& kernels,
    const SamplingForm& form,
    const void* logits,
    Float type,
    int vocab_size,
    const SamplingInputs& inputs) {
  Row row(vocab_size);
  kernels.load_row(logits, type, vocab_size, row.data());
  add_bias(form, row.values());
  penalize(form, inputs.window, row.values());
  if (form.is_greedy()) {
    return kernels.arg_max(row.data(), Float::f32, vocab_size);
  }
  // XTC stands between top-p and top-k and weighs tokens beyond the k.
  if (form.top_k > 0 && form.top_k < vocab_size && form.xtc_probability == 0) {
    return sample_few(kernels, form, row.values(), inputs.draw);
  }
  return sample_all(kernels, form, row, inputs);
}

} // namespace qwen3_mlx::cpu
