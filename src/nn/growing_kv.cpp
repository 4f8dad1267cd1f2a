// SPDX-License-Identifier: MIT
#include "nn/growing_kv.h"

#include "nn/attention_mask.h"
#include "nn/kv_state.h"

namespace qwen3_mlx {

void GrowingKV::use_arrays() {
  if (!native_) {
    return;
  }
  const auto held = native_->read(0, offset_);
  keys_ = held.keys;
  values_ = held.values;
  native_.reset();
}

void GrowingKV::use_blocks(const cpu::KvShape& shape, int batch) {
  if (native_) {
    return;
  }
  const auto native = make_blocks(shape, batch, keys_);
  if (offset_ > 0) {
    native.write(0, *fetch());
  }
  keys_.reset();
  values_.reset();
  native_ = native;
}

cpu::KvAppend
GrowingKV::append(const cpu::KvShape& shape, int batch, int length) {
  use_blocks(shape, batch);
  native_->blocks->reserve(offset_, offset_ + length);
  cpu::KvAppend append{
      .shape = native_->blocks->shape(),
      .tables = native_->blocks->tables(),
      .offset = offset_,
      .after = native_->last};
  offset_ += length;
  return append;
}

void GrowingKV::written_by(const mx::array& attention) {
  native_->last = attention;
}

std::unique_ptr<KVStore> GrowingKV::copy() const {
  auto other = std::make_unique<GrowingKV>(*this);
  other->use_arrays(); // blocks that are written have one owner
  return other;
}

std::vector<mx::array> GrowingKV::pending() const {
  if (native_) {
    return native_->pending();
  }
  return KVStore::pending();
}

KeyValues
GrowingKV::update_and_fetch(const mx::array& keys, const mx::array& values) {
  use_arrays();
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
  if (native_) {
    return native_->read(0, offset_);
  }
  return KeyValues{
      cut_positions(*keys_, 0, offset_), cut_positions(*values_, 0, offset_)};
}

std::size_t GrowingKV::n_bytes() const {
  if (native_) {
    return native_->blocks->n_bytes();
  }
  return keys_ ? keys_->nbytes() + values_->nbytes() : 0;
}

std::vector<std::pair<std::string, mx::array>> GrowingKV::state() const {
  if (native_) {
    const auto held = native_->read(0, offset_);
    return {{"keys", held.keys}, {"values", held.values}};
  }
  if (!keys_) {
    return {};
  }
  return {{"keys", *keys_}, {"values", *values_}};
}

void GrowingKV::restore(
    const std::vector<std::pair<std::string, mx::array>>& state,
    const std::vector<std::pair<std::string, int>>& counters) {
  native_.reset();
  const KVState saved(state, counters);
  offset_ = saved.counter("offset", 0, saved.capacity({"keys", "values"}));
  keys_ = saved.positions("keys");
  values_ = saved.positions("values");
}

} // namespace qwen3_mlx
