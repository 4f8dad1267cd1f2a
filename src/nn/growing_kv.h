// SPDX-License-Identifier: MIT
// A cache that grows in steps and forgets nothing.
#pragma once

#include "nn/native_blocks.h"

namespace qwen3_mlx {

class GrowingKV final : public KVStore {
 public:
  mx::array attend(
      const mx::array& queries,
      const mx::array& keys,
      const mx::array& values,
      const AttentionMask& mask) override;
  bool has_blocks() const override {
    return true;
  }
  cpu::KvAppend
  append(const cpu::KvShape& shape, int batch, int length) override;
  void written_by(const mx::array& attention) override;
  std::optional<KVQuantization> in_place_form() const override {
    return KVQuantization{};
  }
  std::optional<WritableKeyValues> append_in_place(
      const mx::Shape& shape,
      mx::Dtype dtype,
      const MakeArray& make) override;
  KeyValues
  update_and_fetch(const mx::array& keys, const mx::array& values) override;
  std::optional<KeyValues> fetch() const override;

  int offset() const override {
    return offset_;
  }
  bool can_trim(int n) const override {
    return n <= offset_;
  }
  void trim(int n) override {
    offset_ -= n;
  }

  std::size_t n_bytes() const override;
  std::vector<mx::array> pending() const override;
  std::vector<std::pair<std::string, mx::array>> state() const override;
  std::string kind() const override {
    return "growing";
  }
  std::vector<std::pair<std::string, int>> counters() const override {
    return {{"offset", offset_}};
  }
  void restore(
      const std::vector<std::pair<std::string, mx::array>>& state,
      const std::vector<std::pair<std::string, int>>& counters) override;
  std::unique_ptr<KVStore> copy() const override;
  std::unique_ptr<KVStore> make_empty() const override {
    return std::make_unique<GrowingKV>();
  }

  /// Moves what blocks hold back to arrays, for MLX's operations.
  void use_arrays();

 private:
  std::optional<mx::array> keys_; // [B, n_kv_heads, capacity, head_dim]
  std::optional<mx::array> values_;
  int offset_ = 0;
  // The last operation on a GPU that writes to the arrays in place, unseen by
  // MLX, when one does.
  std::optional<mx::array> last_write_;
  // Whether no one else may hold the arrays: else they are copied first.
  mutable bool is_owner_ = false;

  /// The arrays as they are after the last write in place.
  KeyValues settled() const;

  void use_blocks(const cpu::KvShape& shape, int batch);

  /// Instead of the arrays above, once a CPU kernel has attended.
  std::optional<NativeBlocks> native_;
};

} // namespace qwen3_mlx
