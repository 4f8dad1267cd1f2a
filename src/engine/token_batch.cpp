// SPDX-License-Identifier: MIT
#include "engine/token_batch.h"

#include <algorithm>
#include <cstddef>

namespace qwen3_mlx::engine {
namespace {

using Rows = std::vector<TokenBatch::Row>;

/// Rows that are sampled in one go.
struct Group {
  const Sampler* sampler;
  std::vector<int> rows;
};

std::vector<Group> groups_of(const Rows& rows) {
  std::vector<Group> groups;
  for (std::size_t idx = 0; idx < rows.size(); ++idx) {
    const auto* sampler = rows[idx].choice.sampler.get();
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

// [R, 2]: the random numbers of each row's next token, which comes behind
// `num_unknown` that the sequences do not have yet.
mx::array
draws_of(const Rows& all, const std::vector<int>& rows, int num_unknown) {
  std::vector<float> draws;
  for (const int row : rows) {
    const auto& [sequence, choice] = all[static_cast<std::size_t>(row)];
    const auto index = sequence->num_generated() + num_unknown;
    const auto drawn = draw(choice.seed, static_cast<std::uint64_t>(index));
    draws.insert(draws.end(), {drawn.token, drawn.xtc});
  }
  return mx::array(
      draws.begin(), {static_cast<int>(rows.size()), 2}, mx::float32);
}

// [R, W]: the last tokens of each row, -1 before its start.
mx::array windows_of(
    const Rows& all,
    const std::vector<int>& rows,
    const SamplingParams& params,
    const std::optional<mx::array>& newest) {
  const int width = params.has_penalties() ? params.penalty_window : 0;
  const int num_unknown = newest && width > 0 ? 1 : 0;
  const int num_known = width - num_unknown;
  std::vector<std::int32_t> ids;
  for (const int row : rows) {
    const auto& tokens = all[static_cast<std::size_t>(row)].sequence->tokens;
    const auto seen = std::min(num_known, static_cast<int>(tokens.size()));
    ids.insert(ids.end(), static_cast<std::size_t>(num_known - seen), -1);
    ids.insert(ids.end(), tokens.end() - seen, tokens.end());
  }
  const auto num_rows = static_cast<int>(rows.size());
  const mx::array known(ids.data(), mx::Shape{num_rows, num_known}, mx::int32);
  if (num_unknown == 0) {
    return known;
  }
  const auto unknown = mx::reshape(
      mx::astype(take_rows(*newest, rows), mx::int32), {num_rows, 1});
  return num_known == 0 ? unknown : mx::concatenate({known, unknown}, 1);
}

mx::array sample(
    const mx::array& logits,
    const Rows& rows,
    const std::optional<mx::array>& newest) {
  const auto groups = groups_of(rows);
  std::vector<mx::array> ids;
  std::vector<int> place(rows.size()); // of each row in the groups' order
  int next = 0;
  for (const auto& group : groups) {
    ids.push_back((*group.sampler)(
        take_rows(logits, group.rows),
        draws_of(rows, group.rows, newest ? 1 : 0),
        windows_of(rows, group.rows, group.sampler->params(), newest)));
    for (const int row : group.rows) {
      place[static_cast<std::size_t>(row)] = next++;
    }
  }
  return ids.size() == 1 ? ids.front()
                         : take_rows(mx::concatenate(ids, 0), place);
}

// Of as many rows as there are, or more.
MostLikely choose(
    const Model& model,
    const mx::array& logits,
    const Rows& rows,
    const std::optional<mx::array>& newest) {
  if (std::ranges::all_of(rows, [](const TokenBatch::Row& row) {
        return row.choice.sampler->is_most_likely();
      })) {
    return model.most_likely(logits);
  }
  const auto wanted = first_rows(logits, static_cast<int>(rows.size()));
  const auto ids = sample(wanted, rows, newest);
  return {ids, told_of(ids, wanted)};
}

std::vector<TokenResult> results_of(const Rows& rows) {
  std::vector<TokenResult> results(rows.size());
  for (std::size_t idx = 0; idx < rows.size(); ++idx) {
    results[idx].id = rows[idx].sequence->id;
  }
  return results;
}

} // namespace

mx::array first_rows(const mx::array& x, int count) {
  if (count == x.shape(0)) {
    return x;
  }
  auto end = x.shape();
  end[0] = count;
  return mx::slice(x, mx::Shape(end.size(), 0), end);
}

mx::array take_rows(const mx::array& x, const std::vector<int>& rows) {
  bool is_all = static_cast<int>(rows.size()) == x.shape(0);
  for (std::size_t idx = 0; idx < rows.size() && is_all; ++idx) {
    is_all = rows[idx] == static_cast<int>(idx);
  }
  if (is_all) {
    return x;
  }
  return mx::take(
      x,
      mx::array(rows.begin(), {static_cast<int>(rows.size())}, mx::int32),
      0);
}

TokenBatch::TokenBatch(
    const Model& model,
    const mx::array& logits,
    const std::vector<Row>& rows,
    const std::optional<mx::array>& newest)
    : TokenBatch(logits, rows, choose(model, logits, rows, newest)) {}

TokenBatch::TokenBatch(
    const mx::array& logits,
    const std::vector<Row>& rows,
    MostLikely chosen)
    : results_(results_of(rows)),
      ids_(first_rows(chosen.ids, static_cast<int>(rows.size()))),
      told_(std::move(chosen.told)) {
  std::vector<std::size_t> wanted;
  std::vector<int> indices;
  std::vector<int> num_top;
  for (std::size_t idx = 0; idx < rows.size(); ++idx) {
    const auto& choice = rows[idx].choice;
    if (choice.logprobs) {
      wanted.push_back(idx);
      indices.push_back(static_cast<int>(idx));
      num_top.push_back(choice.top_logprobs);
    }
  }
  if (!wanted.empty()) {
    const int most = *std::max_element(num_top.begin(), num_top.end());
    auto found = log_probs_of(
        take_rows(logits, indices), take_rows(ids_, indices), most);
    found.top_ids = mx::contiguous(found.top_ids);
    found.top = mx::contiguous(found.top);
    logprobs_ =
        Logprobs{std::move(wanted), std::move(num_top), std::move(found)};
  }
}

std::vector<mx::array> TokenBatch::arrays() const {
  std::vector<mx::array> arrays{ids_, told_};
  if (logprobs_) {
    const auto& [chosen, top_ids, top] = logprobs_->arrays;
    arrays.insert(arrays.end(), {chosen, top_ids, top});
  }
  return arrays;
}

std::vector<TokenResult> TokenBatch::read() const {
  mx::eval(arrays());
  auto results = results_;
  const auto* const told = told_.data<std::uint32_t>();
  const auto width = static_cast<std::size_t>(told_.shape(1));
  for (std::size_t idx = 0; idx < results.size(); ++idx) {
    results[idx].token = told[idx];
    results[idx].is_finite = told[width + idx] != 0;
  }
  if (!logprobs_) {
    return results;
  }
  const auto& [chosen, top_ids, top] = logprobs_->arrays;
  const auto num_shown = static_cast<std::size_t>(top.shape(1));
  for (std::size_t i = 0; i < logprobs_->rows.size(); ++i) {
    auto& result = results[logprobs_->rows[i]];
    TokenLogprobs out;
    out.id = result.token;
    out.logprob = chosen.data<float>()[i];
    const auto num_top = static_cast<std::size_t>(logprobs_->num_top[i]);
    for (std::size_t at = i * num_shown; at < i * num_shown + num_top; ++at) {
      out.top.emplace_back(
          top_ids.data<std::uint32_t>()[at], top.data<float>()[at]);
    }
    result.logprobs = std::move(out);
  }
  return results;
}

} // namespace qwen3_mlx::engine
