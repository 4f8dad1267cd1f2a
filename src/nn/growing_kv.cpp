// SPDX-License-Identifier: MIT
#include "nn/growing_kv.h"

#include <algorithm>

#include "kernels/cpu/views.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "nn/attention_mask.h"
#include "nn/kv_state.h"

namespace qwen3_mlx {
namespace {

// The buffer grows by whole steps, and by a quarter when it is long, so that
// copying it stays a small part of the work.
constexpr int kCapacityStep = 256;

int grown_capacity(int capacity, int needed) {
  if (needed <= capacity) {
    return capacity;
  }
  const int wanted = std::max(needed, capacity + capacity / 4);
  return (wanted + kCapacityStep - 1) / kCapacityStep * kCapacityStep;
}

} // namespace

KeyValues GrowingKV::arrays_of(const Native& native) const {
  if (native.last) {
    mx::eval(*native.last);
  }
  const auto& buffer = *native.buffer;
  const mx::Shape shape{
      buffer.batch(), buffer.n_kv_heads(), offset_, buffer.head_dim()};
  auto keys = mx::zeros(shape, native.dtype);
  auto values = mx::zeros(shape, native.dtype);
  mx::eval(keys, values);
  buffer.save(offset_, keys.data<std::byte>(), values.data<std::byte>());
  return {keys, values};
}

void GrowingKV::use_arrays() {
  if (!native_) {
    return;
  }
  const auto held = arrays_of(*native_);
  keys_ = held.keys;
  values_ = held.values;
  native_.reset();
}

void GrowingKV::use_buffer(const cpu::AttentionCall& call) {
  if (native_) {
    return;
  }
  const auto dtype = keys_ ? keys_->dtype() : call.qkv.dtype();
  Native native{
      std::make_shared<cpu::KvBuffer>(
          call.batch,
          call.form.n_kv_heads,
          call.form.head_dim,
          cpu::float_type(dtype).value()),
      /* capacity */ 0,
      std::nullopt,
      dtype};
  if (offset_ > 0) {
    auto keys = mx::contiguous(cut_positions(*keys_, 0, offset_));
    auto values = mx::contiguous(cut_positions(*values_, 0, offset_));
    mx::eval(keys, values);
    native.buffer->load(
        offset_, keys.data<std::byte>(), values.data<std::byte>());
    native.capacity = native.buffer->capacity();
  }
  keys_.reset();
  values_.reset();
  native_ = std::move(native);
}

std::optional<mx::array> GrowingKV::attend(const cpu::AttentionCall& call) {
  use_buffer(call);
  native_->capacity = grown_capacity(native_->capacity, offset_ + call.length);
  native_->last = cpu::attention_op(
      call, native_->buffer, offset_, native_->capacity, native_->last);
  offset_ += call.length;
  return native_->last;
}

std::unique_ptr<KVStore> GrowingKV::copy() const {
  auto other = std::make_unique<GrowingKV>(*this);
  other->use_arrays(); // a buffer has one owner
  return other;
}

std::vector<mx::array> GrowingKV::pending() const {
  if (native_) {
    return native_->last ? std::vector{*native_->last}
                         : std::vector<mx::array>{};
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
    return arrays_of(*native_);
  }
  return KeyValues{
      cut_positions(*keys_, 0, offset_), cut_positions(*values_, 0, offset_)};
}

std::size_t GrowingKV::n_bytes() const {
  if (native_) {
    const auto& buffer = *native_->buffer;
    return 2 * native_->dtype.size() *
        static_cast<std::size_t>(buffer.batch()) *
        static_cast<std::size_t>(buffer.n_kv_heads()) *
        static_cast<std::size_t>(buffer.head_dim()) *
        static_cast<std::size_t>(native_->capacity);
  }
  return keys_ ? keys_->nbytes() + values_->nbytes() : 0;
}

std::vector<std::pair<std::string, mx::array>> GrowingKV::state() const {
  if (native_) {
    const auto held = arrays_of(*native_);
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
