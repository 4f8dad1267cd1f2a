// SPDX-License-Identifier: MIT
#include "nn/growing_kv.h"

#include <algorithm>

#include "mlx/ops.h"
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
  (native_ ? native_->last : last_write_) = attention;
}

KeyValues GrowingKV::settled() const {
  if (!last_write_) {
    return {*keys_, *values_};
  }
  const auto held = mx::depends({*keys_, *values_}, {*last_write_});
  return {held[0], held[1]};
}

std::optional<WritableKeyValues> GrowingKV::append_in_place(
    const mx::Shape& shape,
    mx::Dtype dtype,
    const MakeArray& make) {
  const auto fits = [&](const mx::array& held) {
    return held.dtype() == dtype && held.shape(0) == shape[0] &&
        held.shape(1) == shape[1] && held.shape(3) == shape[3];
  };
  if (native_ || (keys_ && !(fits(*keys_) && fits(*values_)))) {
    return std::nullopt;
  }
  const int begin = offset_;
  const int end = begin + shape[2];
  if (!keys_ || !is_owner_ || end > keys_->shape(2)) {
    // Doubling keeps the copies of a long text few.
    const int capacity =
        std::max(grown_capacity(end), keys_ ? grown_capacity(2 * begin) : 0);
    const auto fresh = [&] {
      return make({shape[0], shape[1], capacity - begin, shape[3]}, dtype);
    };
    if (begin == 0) {
      keys_ = fresh();
      values_ = fresh();
    } else {
      const auto held = settled();
      keys_ = mx::concatenate({cut_positions(held.keys, 0, begin), fresh()}, 2);
      values_ =
          mx::concatenate({cut_positions(held.values, 0, begin), fresh()}, 2);
    }
    last_write_.reset();
    is_owner_ = true;
  }
  offset_ = end;
  return WritableKeyValues{*keys_, *values_, begin, last_write_, {}};
}

std::unique_ptr<KVStore> GrowingKV::copy() const {
  auto other = std::make_unique<GrowingKV>(*this);
  other->use_arrays(); // blocks that are written have one owner
  is_owner_ = other->is_owner_ = false;
  return other;
}

std::vector<mx::array> GrowingKV::pending() const {
  if (native_) {
    return native_->pending();
  }
  if (last_write_) {
    return {*last_write_};
  }
  return KVStore::pending();
}

KeyValues
GrowingKV::update_and_fetch(const mx::array& keys, const mx::array& values) {
  use_arrays();
  if (keys_) {
    const auto held = settled();
    keys_ = held.keys;
    values_ = held.values;
    last_write_.reset();
  }
  is_owner_ = false;
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
  is_owner_ = false;
  const auto held = settled();
  return KeyValues{
      cut_positions(held.keys, 0, offset_),
      cut_positions(held.values, 0, offset_)};
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
  is_owner_ = false;
  const auto held = settled();
  return {{"keys", held.keys}, {"values", held.values}};
}

void GrowingKV::restore(
    const std::vector<std::pair<std::string, mx::array>>& state,
    const std::vector<std::pair<std::string, int>>& counters) {
  native_.reset();
  last_write_.reset();
  is_owner_ = false;
  const KVState saved(state, counters);
  offset_ = saved.counter("offset", 0, saved.capacity({"keys", "values"}));
  keys_ = saved.positions("keys");
  values_ = saved.positions("values");
}

} // namespace qwen3_mlx
