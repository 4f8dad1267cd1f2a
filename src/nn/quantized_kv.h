// SPDX-License-Identifier: MIT
// A cache whose keys and values are quantized, but for the first positions.
#pragma once

#include <array>

#include "nn/growing_kv.h"

namespace qwen3_mlx {

/// Positions below `start` are kept as they come, later ones are quantized
/// (mode affine) when they are appended. A query reads both parts as if they
/// were one, so that chunking a prompt changes nothing.
class QuantizedKV final : public KVStore {
 public:
  QuantizedKV(int bits, int group_size, int start);

  bool has_blocks() const override {
    return true;
  }
  cpu::KvAppend
  append(const cpu::KvShape& shape, int batch, int length) override;
  void written_by(const mx::array& attention) override;
  std::optional<KVQuantization> in_place_form() const override;
  std::optional<WritableKeyValues> append_in_place(
      const mx::Shape& shape,
      mx::Dtype dtype,
      const MakeArray& make) override;
  mx::array attend(
      const mx::array& queries,
      const mx::array& keys,
      const mx::array& values,
      const AttentionMask& mask) override;
  KeyValues
  update_and_fetch(const mx::array& keys, const mx::array& values) override;
  std::optional<KeyValues> fetch() const override;

  int offset() const override {
    return head_.offset() + tail_length_;
  }
  bool can_trim(int n) const override {
    return n <= offset();
  }
  void trim(int n) override;

  std::size_t n_bytes() const override;
  std::vector<mx::array> pending() const override;
  std::vector<std::pair<std::string, mx::array>> state() const override;
  std::string kind() const override {
    return "quantized";
  }
  std::vector<std::pair<std::string, int>> counters() const override;
  void restore(
      const std::vector<std::pair<std::string, mx::array>>& state,
      const std::vector<std::pair<std::string, int>>& counters) override;
  std::unique_ptr<KVStore> copy() const override;
  std::unique_ptr<KVStore> make_empty() const override {
    return std::make_unique<QuantizedKV>(bits_, group_size_, start_);
  }

 private:
  // A packed tensor of positions: weights uint32, scales and biases.
  struct Packed {
    std::array<std::optional<mx::array>, 3> parts;

    Packed cut(int length) const;
    Packed contiguous(int length) const;
    Packed with_group_axis() const;
    /// Positions it has room for.
    int capacity() const;
    cpu::KvArrays memory();
  };

  // A layer's keys and values behind the first positions.
  struct Tail {
    Packed keys;
    Packed values;
  };
  /// Gives the tail room for `capacity` positions, in arrays of its own.
  void grow(
      const mx::Shape& shape,
      mx::Dtype dtype,
      int capacity,
      const MakeArray& make);
  /// The tail as it is after the last write in place, for MLX's operations.
  Tail settled() const;
  /// The same once and for all.
  void settle();
  /// What the blocks hold as arrays, once all writing has ended.
  Tail arrays_of(const NativeBlocks& native) const;
  /// Moves the tail between the two forms.
  void use_arrays();
  void use_blocks(const cpu::KvShape& shape, int batch);

  void push(const mx::array& keys, const mx::array& values);
  void write(Packed& packed, const mx::array& update) const;
  mx::array dequantize(const Packed& packed, mx::Dtype dtype) const;
  mx::array
  product(const mx::array& x, const Packed& packed, bool transpose) const;

  int bits_;
  int group_size_;
  int start_;
  GrowingKV head_;
  Tail tail_;
  int tail_length_ = 0;
  // As in GrowingKV: the last operation on a GPU that writes to the tail in
  // place, and whether no one else may hold its arrays.
  std::optional<mx::array> last_write_;
  mutable bool is_owner_ = false;
  /// Instead of the tail's arrays, once a CPU kernel has attended.
  std::optional<NativeBlocks> native_;
};

} // namespace qwen3_mlx
