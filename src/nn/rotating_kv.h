// SPDX-License-Identifier: MIT
// A cache of bounded size: the first positions (attention sinks) and the most
// recent others, in a ring.
#pragma once

#include "nn/native_blocks.h"

namespace qwen3_mlx {

/// A query sees the first `keep` positions and the max_size - keep most recent
/// ones, itself included, whether it came alone, in a chunk or in a whole
/// prompt.
class RotatingKV final : public KVStore {
 public:
  RotatingKV(int max_size, int keep);

  bool has_blocks() const override {
    return true;
  }
  cpu::KvAppend
  append(const cpu::KvShape& shape, int batch, int length) override;
  void written_by(const mx::array& attention) override;
  mx::array attend(
      const mx::array& queries,
      const mx::array& keys,
      const mx::array& values,
      const AttentionMask& mask) override;
  KeyValues
  update_and_fetch(const mx::array& keys, const mx::array& values) override;
  std::optional<KeyValues> fetch() const override;

  int offset() const override {
    return offset_;
  }
  std::optional<int> max_size() const override {
    return max_size_;
  }
  bool can_trim(int n) const override {
    return n == 0 || (n <= offset_ && offset_ <= max_size_);
  }
  void trim(int n) override {
    offset_ -= n;
  }

  std::size_t n_bytes() const override;
  std::vector<mx::array> pending() const override;
  std::vector<std::pair<std::string, mx::array>> state() const override;
  std::string kind() const override {
    return "rotating";
  }
  std::vector<std::pair<std::string, int>> counters() const override {
    return {{"offset", offset_}, {"max_size", max_size_}, {"keep", keep_}};
  }
  void restore(
      const std::vector<std::pair<std::string, mx::array>>& state,
      const std::vector<std::pair<std::string, int>>& counters) override;
  std::unique_ptr<KVStore> copy() const override;
  std::unique_ptr<KVStore> make_empty() const override {
    return std::make_unique<RotatingKV>(max_size_, keep_);
  }

 private:
  int num_recent() const {
    return max_size_ - keep_;
  }
  int slot(int position) const;
  /// Moves what is held between arrays and blocks.
  void use_arrays();
  void use_blocks(const cpu::KvShape& shape, int batch);
  KeyValues rings_of(const NativeBlocks& native) const;
  mx::array temporal_order(const mx::array& ring) const;
  mx::array ring_order(const mx::array& temporal) const;
  KeyValues push(const mx::array& keys, const mx::array& values);
  void write(const mx::array& keys, const mx::array& values);
  mx::array visible(int L, int K, std::optional<int> window) const;

  int max_size_;
  int keep_;
  int offset_ = 0;
  // [B, n_kv_heads, capacity <= max_size, head_dim]; position p at slot(p).
  std::optional<mx::array> keys_;
  std::optional<mx::array> values_;
  /// Instead of the rings, once a CPU kernel has attended: blocks of all
  /// positions but those that no query sees any more.
  std::optional<NativeBlocks> native_;
};

} // namespace qwen3_mlx
