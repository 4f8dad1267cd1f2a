// SPDX-License-Identifier: MIT
#include "nn/quantized_kv.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/views.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"
#include "nn/attention_mask.h"
#include "nn/kv_state.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

constexpr std::array<const char*, 3> part_names = {"", ".scales", ".biases"};

} // namespace

QuantizedKV::QuantizedKV(int bits, int group_size, int start)
    : bits_(bits), group_size_(group_size), start_(start) {}

QuantizedKV::Tail QuantizedKV::arrays_of(const NativeBlocks& native) const {
  native.wait();
  const auto& blocks = *native.blocks;
  const auto& shape = blocks.shape();
  Tail tail;
  for (Packed* packed : {&tail.keys, &tail.values}) {
    const auto part = [&](int n, mx::Dtype dtype) {
      return mx::zeros(
          {blocks.batch(), shape.n_kv_heads, tail_length_, n}, dtype);
    };
    const auto dtype = cpu::dtype_of(shape.type);
    const int n_groups = shape.head_dim / shape.group;
    packed->parts = {
        part(shape.head_dim * shape.bits / 32, mx::uint32),
        part(n_groups, dtype),
        part(n_groups, dtype)};
  }
  blocks.save(
      start_, start_ + tail_length_, tail.keys.memory(), tail.values.memory());
  return tail;
}

void QuantizedKV::use_arrays() {
  if (!native_) {
    return;
  }
  tail_ = tail_length_ > 0 ? arrays_of(*native_) : Tail{};
  native_.reset();
}

void QuantizedKV::use_blocks(const cpu::KvShape& shape, int batch) {
  if (native_) {
    return;
  }
  cpu::KvShape own = shape;
  own.bits = bits_;
  own.group = group_size_;
  if (own.head_dim % own.group != 0) {
    throw InvalidArgument(
        "kv_group_size: " + std::to_string(group_size_) +
        " does not divide the model's head_dim of " +
        std::to_string(own.head_dim) + "; give 32");
  }
  settle();
  const auto native = make_blocks(own, batch, tail_.keys.parts[1]);
  if (tail_length_ > 0) {
    auto keys = tail_.keys.contiguous(tail_length_);
    auto values = tail_.values.contiguous(tail_length_);
    native.blocks->load(
        start_, start_ + tail_length_, keys.memory(), values.memory());
  }
  tail_ = {};
  native_ = native;
}

cpu::KvAppend
QuantizedKV::append(const cpu::KvShape& shape, int batch, int length) {
  use_blocks(shape, batch);
  cpu::KvAppend append;
  append.offset = offset();
  append.after = native_->last;
  if (start_ > 0) {
    const int n_dense = std::clamp(start_ - offset(), 0, length);
    auto head = head_.append(shape, batch, n_dense);
    append.head = {head.shape, std::move(head.tables), start_};
    append.after = append.after ? append.after : head.after;
    tail_length_ += length - n_dense;
  } else {
    tail_length_ += length;
  }
  // `start_` may be far beyond any text: no table is made to there before.
  const int in_blocks = (offset() + cpu::kKvBlockSize - 1) / cpu::kKvBlockSize *
      cpu::kKvBlockSize;
  const int first = std::min(start_, in_blocks);
  native_->blocks->reserve(first, first + tail_length_);
  append.shape = native_->blocks->shape();
  append.tables = native_->blocks->tables();
  return append;
}

std::optional<KVQuantization> QuantizedKV::in_place_form() const {
  if (start_ > 0) {
    return std::nullopt;
  }
  return KVQuantization{bits_, group_size_};
}

int QuantizedKV::Packed::capacity() const {
  return parts[0] ? parts[0]->shape(2) : 0;
}

void QuantizedKV::grow(
    const mx::Shape& shape,
    mx::Dtype dtype,
    int capacity,
    const MakeArray& make) {
  const int n_groups = shape[3] / group_size_;
  const std::array sizes{shape[3] * bits_ / 32, n_groups, n_groups};
  settle();
  for (Packed* packed : {&tail_.keys, &tail_.values}) {
    for (std::size_t i = 0; i < packed->parts.size(); ++i) {
      auto& part = packed->parts[i];
      const auto fresh = make(
          {shape[0], shape[1], capacity - tail_length_, sizes[i]},
          i == 0 ? mx::uint32 : dtype);
      part = tail_length_ == 0
          ? fresh
          : mx::concatenate({cut_positions(*part, 0, tail_length_), fresh}, 2);
    }
  }
  is_owner_ = true;
}

std::optional<WritableKeyValues> QuantizedKV::append_in_place(
    const mx::Shape& shape,
    mx::Dtype dtype,
    const MakeArray& make) {
  if (native_ || !in_place_form() || shape[3] % group_size_ != 0) {
    return std::nullopt;
  }
  const auto fits = [&](const Packed& packed) {
    const auto& codes = *packed.parts[0];
    return packed.parts[1]->dtype() == dtype && codes.shape(0) == shape[0] &&
        codes.shape(1) == shape[1] && codes.shape(3) == shape[3] * bits_ / 32;
  };
  const bool is_empty = !tail_.keys.parts[0];
  if (!is_empty && !(fits(tail_.keys) && fits(tail_.values))) {
    return std::nullopt;
  }
  const int begin = tail_length_;
  const int end = begin + shape[2];
  if (is_empty || !is_owner_ || end > tail_.keys.capacity()) {
    // Doubling keeps the copies of a long text few.
    const int doubled = is_empty ? 0 : grown_capacity(2 * begin);
    grow(shape, dtype, std::max(grown_capacity(end), doubled), make);
  }
  tail_length_ = end;
  const auto& [keys, values] = tail_;
  return WritableKeyValues{
      *keys.parts[0],
      *values.parts[0],
      begin,
      last_write_,
      {*keys.parts[1], *keys.parts[2], *values.parts[1], *values.parts[2]}};
}

QuantizedKV::Tail QuantizedKV::settled() const {
  is_owner_ = false;
  if (!last_write_) {
    return tail_;
  }
  std::vector<mx::array> held;
  for (const Packed* packed : {&tail_.keys, &tail_.values}) {
    for (const auto& part : packed->parts) {
      held.push_back(*part);
    }
  }
  held = mx::depends(held, {*last_write_});
  return {{{held[0], held[1], held[2]}}, {{held[3], held[4], held[5]}}};
}

void QuantizedKV::settle() {
  tail_ = settled();
  last_write_.reset();
}

void QuantizedKV::written_by(const mx::array& attention) {
  if (!native_) {
    last_write_ = attention;
    return;
  }
  native_->last = attention;
  if (start_ > 0) {
    head_.written_by(attention);
  }
}

std::unique_ptr<KVStore> QuantizedKV::copy() const {
  is_owner_ = false;
  auto other = std::make_unique<QuantizedKV>(*this);
  other->use_arrays(); // blocks that are written have one owner
  other->head_.use_arrays();
  return other;
}

std::vector<mx::array> QuantizedKV::pending() const {
  if (native_) {
    return native_->pending();
  }
  if (last_write_) {
    return {*last_write_};
  }
  return KVStore::pending();
}

// Evaluated, its numbers side by side.
QuantizedKV::Packed QuantizedKV::Packed::contiguous(int length) const {
  Packed out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    out.parts[i] = mx::contiguous(cut_positions(*parts[i], 0, length));
    out.parts[i]->eval();
  }
  return out;
}

cpu::KvArrays QuantizedKV::Packed::memory() {
  for (auto& part : parts) {
    part->eval();
  }
  return {
      parts[0]->data<std::byte>(),
      parts[1]->data<std::byte>(),
      parts[2]->data<std::byte>()};
}

QuantizedKV::Packed QuantizedKV::Packed::cut(int length) const {
  Packed out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    out.parts[i] = cut_positions(*parts[i], 0, length);
  }
  return out;
}

// [B, H, K, n] -> [B, H, 1, K, n], to meet queries grouped by their KV head.
QuantizedKV::Packed QuantizedKV::Packed::with_group_axis() const {
  Packed out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    out.parts[i] = mx::expand_dims(*parts[i], 2);
  }
  return out;
}

void QuantizedKV::write(Packed& packed, const mx::array& update) const {
  const auto fresh = mx::quantize(update, group_size_, bits_);
  for (std::size_t i = 0; i < packed.parts.size(); ++i) {
    packed.parts[i] = write_positions(packed.parts[i], fresh[i], tail_length_);
  }
}

void QuantizedKV::push(const mx::array& keys, const mx::array& values) {
  use_arrays();
  settle();
  const int L = keys.shape(2);
  const int n_dense = std::clamp(start_ - offset(), 0, L);
  if (n_dense > 0) {
    head_.update_and_fetch(
        cut_positions(keys, 0, n_dense), cut_positions(values, 0, n_dense));
  }
  if (n_dense < L) {
    write(tail_.keys, cut_positions(keys, n_dense, L));
    write(tail_.values, cut_positions(values, n_dense, L));
    tail_length_ += L - n_dense;
  }
}

mx::array QuantizedKV::product(
    const mx::array& x,
    const Packed& packed,
    bool transpose) const {
  return mx::quantized_matmul(
      x,
      *packed.parts[0],
      *packed.parts[1],
      packed.parts[2],
      transpose,
      group_size_,
      bits_);
}

mx::array QuantizedKV::attend(
    const mx::array& queries,
    const mx::array& keys,
    const mx::array& values,
    const AttentionMask& mask) {
  push(keys, values);
  const auto head = head_.fetch();
  if (tail_length_ == 0) {
    return causal_attention(queries, *head, mask);
  }
  if (mx::cu::is_available()) {
    // MLX's quantized products on CUDA exist for few shapes only.
    return causal_attention(queries, *fetch(), mask);
  }

  const int B = queries.shape(0);
  const int L = queries.shape(2);
  const int D = queries.shape(3);
  const int H = keys.shape(1);
  const int n_repeats = queries.shape(1) / H;
  const int n_dense = head_.offset();
  const int K = offset();
  const auto q = mx::reshape(
      mx::multiply(queries, mx::array(mask.scale, queries.dtype())),
      {B, H, n_repeats, L, D});
  const auto tail_keys = tail_.keys.cut(tail_length_).with_group_axis();
  const auto tail_values = tail_.values.cut(tail_length_).with_group_axis();

  auto scores = product(q, tail_keys, /* transpose */ true);
  if (head) {
    const auto dense =
        mx::matmul(q, mx::swapaxes(mx::expand_dims(head->keys, 2), -1, -2));
    scores = mx::concatenate({dense, scores}, -1);
  }
  if (L > 1 || (mask.window && K > *mask.window)) {
    scores = mx::where(
        causal_mask(L, K - L, mask.window),
        scores,
        mx::array(-std::numeric_limits<float>::infinity(), scores.dtype()));
  }
  scores = mx::softmax(scores, -1, /* precise */ true);
  const auto columns = [&](int begin, int end) {
    return mx::slice(scores, {0, 0, 0, 0, begin}, {B, H, n_repeats, L, end});
  };
  auto out = product(columns(n_dense, K), tail_values, /* transpose */ false);
  if (head) {
    out = mx::add(
        out, mx::matmul(columns(0, n_dense), mx::expand_dims(head->values, 2)));
  }
  return mx::reshape(out, queries.shape());
}

mx::array QuantizedKV::dequantize(const Packed& packed, mx::Dtype dtype) const {
  const auto held = packed.cut(tail_length_);
  return mx::astype(
      mx::dequantize(
          *held.parts[0], *held.parts[1], held.parts[2], group_size_, bits_),
      dtype);
}

KeyValues
QuantizedKV::update_and_fetch(const mx::array& keys, const mx::array& values) {
  push(keys, values);
  return *fetch();
}

std::optional<KeyValues> QuantizedKV::fetch() const {
  auto held = head_.fetch();
  if (tail_length_ == 0) {
    return held;
  }
  const Tail packed = native_ ? arrays_of(*native_) : settled();
  const auto dtype = packed.keys.parts[1]->dtype();
  KeyValues tail{
      dequantize(packed.keys, dtype), dequantize(packed.values, dtype)};
  if (!held) {
    return tail;
  }
  return KeyValues{
      mx::concatenate({held->keys, tail.keys}, 2),
      mx::concatenate({held->values, tail.values}, 2)};
}

void QuantizedKV::trim(int n) {
  const int from_tail = std::min(n, tail_length_);
  tail_length_ -= from_tail;
  head_.trim(n - from_tail);
}

std::size_t QuantizedKV::n_bytes() const {
  std::size_t total = head_.n_bytes();
  if (native_) {
    return total + native_->blocks->n_bytes();
  }
  for (const Packed* packed : {&tail_.keys, &tail_.values}) {
    for (const auto& part : packed->parts) {
      total += part ? part->nbytes() : 0;
    }
  }
  return total;
}

std::vector<std::pair<std::string, mx::array>> QuantizedKV::state() const {
  auto arrays = head_.state();
  if (tail_length_ > 0) {
    const Tail tail = native_ ? arrays_of(*native_) : settled();
    for (std::size_t i = 0; i < part_names.size(); ++i) {
      const std::string suffix = part_names[i];
      arrays.emplace_back("packed_keys" + suffix, *tail.keys.parts[i]);
      arrays.emplace_back("packed_values" + suffix, *tail.values.parts[i]);
    }
  }
  return arrays;
}

std::vector<std::pair<std::string, int>> QuantizedKV::counters() const {
  return {
      {"offset", head_.offset()},
      {"tail_length", tail_length_},
      {"bits", bits_},
      {"group_size", group_size_},
      {"start", start_}};
}

void QuantizedKV::restore(
    const std::vector<std::pair<std::string, mx::array>>& state,
    const std::vector<std::pair<std::string, int>>& counters) {
  native_.reset();
  last_write_.reset();
  is_owner_ = false;
  const KVState saved(state, counters);
  head_.restore(state, counters);
  bits_ = saved.counter("bits", 4, 8);
  group_size_ = saved.counter("group_size", 32, 128);
  if ((bits_ != 4 && bits_ != 8) ||
      (group_size_ != 32 && group_size_ != 64 && group_size_ != 128)) {
    throw InvalidArgument(
        "saved cache: expected 4 or 8 bits in groups of 32, 64 or 128, found " +
        std::to_string(bits_) + " in groups of " + std::to_string(group_size_));
  }
  start_ = saved.counter("start", 0, 1 << 30);
  for (std::size_t i = 0; i < part_names.size(); ++i) {
    const std::string suffix = part_names[i];
    tail_.keys.parts[i] = saved.positions("packed_keys" + suffix);
    tail_.values.parts[i] = saved.positions("packed_values" + suffix);
  }
  const int capacity = saved.capacity(
      {"packed_keys",
       "packed_keys.scales",
       "packed_keys.biases",
       "packed_values",
       "packed_values.scales",
       "packed_values.biases"});
  tail_length_ = saved.counter("tail_length", 0, capacity);
  if (head_.offset() > start_ ||
      (tail_length_ > 0 && head_.offset() < start_)) {
    throw InvalidArgument(
        "saved cache: " + std::to_string(head_.offset()) +
        " positions are not quantized, expected the first " +
        std::to_string(start_));
  }
}

} // namespace qwen3_mlx
