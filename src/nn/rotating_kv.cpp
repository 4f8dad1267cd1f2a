// SPDX-License-Identifier: MIT
#include "nn/rotating_kv.h"

#include <algorithm>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "nn/attention_mask.h"
#include "nn/kv_state.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

RotatingKV::RotatingKV(int max_size, int keep)
    : max_size_(max_size), keep_(keep) {}

int RotatingKV::slot(int position) const {
  return position < max_size_
      ? position
      : keep_ + (position - keep_) % (max_size_ - keep_);
}

// What the ring holds, oldest first.
mx::array RotatingKV::temporal_order(const mx::array& ring) const {
  if (offset_ <= max_size_) {
    return cut_positions(ring, 0, offset_);
  }
  const int oldest = slot(offset_);
  return mx::concatenate(
      {cut_positions(ring, 0, keep_),
       cut_positions(ring, oldest, max_size_),
       cut_positions(ring, keep_, oldest)},
      2);
}

// The reverse, for `temporal` of max_size positions that ends before offset_.
mx::array RotatingKV::ring_order(const mx::array& temporal) const {
  const int n_behind = slot(offset_) - keep_; // positions before the oldest
  const int turn = max_size_ - n_behind;
  return mx::concatenate(
      {cut_positions(temporal, 0, keep_),
       cut_positions(temporal, turn, max_size_),
       cut_positions(temporal, keep_, turn)},
      2);
}

// What the blocks hold, oldest first if it fits, in the order of rings if not.
KeyValues RotatingKV::rings_of(const NativeBlocks& native) const {
  if (offset_ <= max_size_) {
    return native.read(0, offset_);
  }
  const auto kept = native.read(0, keep_);
  const auto recent = native.read(offset_ - num_recent(), offset_);
  return {
      ring_order(mx::concatenate({kept.keys, recent.keys}, 2)),
      ring_order(mx::concatenate({kept.values, recent.values}, 2))};
}

void RotatingKV::use_arrays() {
  if (!native_) {
    return;
  }
  if (offset_ > 0) {
    const auto rings = rings_of(*native_);
    keys_ = rings.keys;
    values_ = rings.values;
  }
  native_.reset();
}

void RotatingKV::use_blocks(const cpu::KvShape& shape, int batch) {
  if (native_) {
    return;
  }
  const auto native = make_blocks(shape, batch, keys_);
  if (offset_ > 0) {
    const auto held = *fetch();
    const int length = held.keys.shape(2);
    const int n_kept = std::min(keep_, length);
    const auto part = [&](int begin, int end) {
      return KeyValues{
          cut_positions(held.keys, begin, end),
          cut_positions(held.values, begin, end)};
    };
    // A row looks over a whole block, with weight 0 for what it does not see:
    // the positions between those kept and the recent ones must be numbers.
    native.blocks->reserve(0, n_kept);
    native.blocks->reserve(offset_ - (length - n_kept), offset_);
    native.blocks->set_to_zero();
    if (n_kept > 0) {
      native.write(0, part(0, n_kept));
    }
    if (n_kept < length) {
      native.write(offset_ - (length - n_kept), part(n_kept, length));
    }
  }
  keys_.reset();
  values_.reset();
  native_ = native;
}

cpu::KvAppend
RotatingKV::append(const cpu::KvShape& shape, int batch, int length) {
  use_blocks(shape, batch);
  native_->blocks->reserve(offset_, offset_ + length);
  cpu::KvAppend append{
      .shape = native_->blocks->shape(),
      .tables = native_->blocks->tables(),
      .offset = offset_,
      .keep = keep_,
      .recent = num_recent(),
      .after = native_->last};
  offset_ += length;
  // The operation keeps the blocks that it reads.
  native_->blocks->forget(keep_, offset_ - num_recent());
  return append;
}

void RotatingKV::written_by(const mx::array& attention) {
  native_->last = attention;
}

std::unique_ptr<KVStore> RotatingKV::copy() const {
  auto other = std::make_unique<RotatingKV>(*this);
  other->use_arrays(); // blocks that are written have one owner
  return other;
}

std::vector<mx::array> RotatingKV::pending() const {
  return native_ ? native_->pending() : KVStore::pending();
}

// Appends; returns what was held and the new positions, oldest first.
KeyValues RotatingKV::push(const mx::array& keys, const mx::array& values) {
  const auto extended = [&](const std::optional<mx::array>& ring,
                            const mx::array& update) {
    return offset_ == 0 ? update
                        : mx::concatenate({temporal_order(*ring), update}, 2);
  };
  const KeyValues all{extended(keys_, keys), extended(values_, values)};
  offset_ += keys.shape(2);
  const auto kept = [&](const mx::array& x) {
    const int length = x.shape(2);
    if (offset_ <= max_size_) {
      return x;
    }
    const auto recent = cut_positions(x, length - (max_size_ - keep_), length);
    return ring_order(mx::concatenate({cut_positions(x, 0, keep_), recent}, 2));
  };
  keys_ = kept(all.keys);
  values_ = kept(all.values);
  return all;
}

// [L, K] bool: what the queries of the last L positions see of K columns in
// temporal order.
mx::array RotatingKV::visible(int L, int K, std::optional<int> window) const {
  // Between the sinks and the others lie the positions that were forgotten.
  const int n_forgotten = offset_ - K;
  const auto columns = mx::arange(K);
  const auto is_sink = mx::less(columns, mx::array(keep_));
  const auto positions =
      mx::where(is_sink, columns, mx::add(columns, mx::array(n_forgotten)));
  const auto distance = mx::subtract(
      mx::expand_dims(mx::arange(offset_ - L, offset_), 1),
      mx::expand_dims(positions, 0));
  const auto is_recent = mx::less(distance, mx::array(max_size_ - keep_));
  auto seen = mx::logical_and(
      mx::greater_equal(distance, mx::array(0)),
      mx::logical_or(is_sink, is_recent));
  if (window) {
    seen = mx::logical_and(seen, mx::less(distance, mx::array(*window)));
  }
  return seen;
}

mx::array RotatingKV::attend(
    const mx::array& queries,
    const mx::array& keys,
    const mx::array& values,
    const AttentionMask& mask) {
  const int L = keys.shape(2);
  use_arrays();
  const bool in_window = !mask.window || offset_ + L <= *mask.window;
  if (L == 1 && in_window) {
    // Keys carry their rotation, so their order in the ring does not matter.
    write(keys, values);
    const int length = std::min(offset_, max_size_);
    return mx::fast::scaled_dot_product_attention(
        queries,
        cut_positions(*keys_, 0, length),
        cut_positions(*values_, 0, length),
        mask.scale);
  }
  const auto all = push(keys, values);
  if (in_window && offset_ <= max_size_) {
    return causal_attention(queries, all, mask);
  }
  return mx::fast::scaled_dot_product_attention(
      queries,
      all.keys,
      all.values,
      mask.scale,
      "array",
      visible(L, all.keys.shape(2), mask.window));
}

// Writes one position over the oldest one that is not a sink.
void RotatingKV::write(const mx::array& keys, const mx::array& values) {
  const int at = slot(offset_);
  keys_ = write_positions(keys_, keys, at, max_size_);
  values_ = write_positions(values_, values, at, max_size_);
  ++offset_;
}

KeyValues
RotatingKV::update_and_fetch(const mx::array& keys, const mx::array& values) {
  use_arrays();
  push(keys, values);
  return *fetch();
}

std::optional<KeyValues> RotatingKV::fetch() const {
  if (offset_ == 0) {
    return std::nullopt;
  }
  const auto rings = native_ ? rings_of(*native_) : KeyValues{*keys_, *values_};
  return KeyValues{temporal_order(rings.keys), temporal_order(rings.values)};
}

std::size_t RotatingKV::n_bytes() const {
  if (native_) {
    return native_->blocks->n_bytes();
  }
  return keys_ ? keys_->nbytes() + values_->nbytes() : 0;
}

std::vector<std::pair<std::string, mx::array>> RotatingKV::state() const {
  if (native_ && offset_ > 0) {
    const auto rings = rings_of(*native_);
    return {{"keys", rings.keys}, {"values", rings.values}};
  }
  if (!keys_) {
    return {};
  }
  return {{"keys", *keys_}, {"values", *values_}};
}

void RotatingKV::restore(
    const std::vector<std::pair<std::string, mx::array>>& state,
    const std::vector<std::pair<std::string, int>>& counters) {
  native_.reset();
  const KVState saved(state, counters);
  max_size_ = saved.counter("max_size", 2, 1 << 30);
  keep_ = saved.counter("keep", 0, max_size_ - 1);
  offset_ = saved.counter("offset", 0, 1 << 30);
  keys_ = saved.positions("keys");
  values_ = saved.positions("values");
  const int capacity = saved.capacity({"keys", "values"});
  if (capacity < std::min(offset_, max_size_) || capacity > max_size_) {
    throw InvalidArgument(
        "saved cache: keys hold " + std::to_string(capacity) +
        " positions, expected " + std::to_string(std::min(offset_, max_size_)));
  }
}

} // namespace qwen3_mlx
