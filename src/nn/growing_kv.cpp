// SPDX-License-Identifier: MIT
#include "nn/growing_kv.h"

#include "nn/attention_mask.h"
#include "nn/kv_state.h"

namespace qwen3_mlx {

KeyValues
GrowingKV::update_and_fetch(const mx::array& keys, const mx::array& values) {
  keys_ = write_positions(keys_, keys, offset_);
  values_ = write_positions(values_, values, offset_);
  offset_ += keys.shape(2);
  return *fetch();
}

mx::array GrowingKV::attend(
    const mx::array& queries,
    const mx::array& keys,
    const mx::array& values,
    const AttentionMask& mask) {
  return causal_attention(queries, update_and_fetch(keys, values), mask);
}

std::optional<KeyValues> GrowingKV::fetch() const {
  if (offset_ == 0) {
    return std::nullopt;
  }
  return KeyValues{
      cut_positions(*keys_, 0, offset_), cut_positions(*values_, 0, offset_)};
}

std::size_t GrowingKV::n_bytes() const {
  return keys_ ? keys_->nbytes() + values_->nbytes() : 0;
}

std::vector<std::pair<std::string, mx::array>> GrowingKV::state() const {
  if (!keys_) {
    return {};
  }
  return {{"keys", *keys_}, {"values", *values_}};
}

void GrowingKV::restore(
    const std::vector<std::pair<std::string, mx::array>>& state,
    const std::vector<std::pair<std::string, int>>& counters) {
  const KVState saved(state, counters);
  offset_ = saved.counter("offset", 0, saved.capacity("keys"));
  keys_ = saved.positions("keys");
  values_ = saved.positions("values");
}

} // namespace qwen3_mlx
