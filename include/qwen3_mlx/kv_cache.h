// SPDX-License-Identifier: MIT
// One layer's cache of attention keys and values: growing, rotating or
// quantized.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// Which cache a model makes; the default grows without limit in the dtype of
/// the activations.
struct CacheOptions {
  /// Keep at most this many positions: the first `keep` and the most recent
  /// others (attention sinks, arXiv 2309.17453). Must exceed `keep`.
  std::optional<int> max_kv_size;
  int keep = 4;
  /// Quantize keys and values (mode affine) to 4 or 8 bits...
  std::optional<int> kv_bits;
  int kv_group_size = 64; ///< ...in groups of 32, 64 or 128...
  /// ...but those of the first positions, which stay as they are. So what a
  /// position holds never depends on how the prompt was cut into chunks.
  int quantized_kv_start = 0;
};

/// Keys and values [B, n_kv_heads, length, head_dim].
struct KeyValues {
  mx::array keys;
  mx::array values;
};

/// Makes an evaluated array whose elements may be anything.
using MakeArray = std::function<mx::array(const mx::Shape&, mx::Dtype)>;

/// How a cache quantizes positions (mode affine).
struct KVQuantization {
  int bits = 0; ///< 0: not at all.
  int group_size = 0;

  bool operator==(const KVQuantization&) const = default;
};

/// Keys and values [B, n_kv_heads, capacity, head_dim] with room for positions
/// from `offset` on, which an operation on an NVIDIA GPU writes in place.
/// Quantized ones are codes [..., head_dim * bits / 32] of uint32.
struct WritableKeyValues {
  mx::array keys;
  mx::array values;
  int offset;
  /// The operation that wrote in place last, when one did.
  std::optional<mx::array> after;
  /// Of quantized ones, [..., head_dim / group_size] each: the scales of keys,
  /// their biases, and both of values.
  std::vector<mx::array> scales;
};

/// How queries look at the cache.
struct AttentionMask {
  float scale; ///< Multiplies the scores.
  /// A query sees itself and the window - 1 positions before; all if absent.
  std::optional<int> window;
};

namespace cpu {
struct KvAppend;
struct KvShape;
} // namespace cpu

/// What one layer keeps, made by KVCache's constructor as CacheOptions say. The
/// border behind which the kinds of cache differ.
class KVStore {
 public:
  virtual ~KVStore() = default;

  /// Appends keys and values [B, n_kv_heads, L, head_dim] at position
  /// offset(), then lets queries [B, n_heads, L, head_dim] of the same
  /// positions attend. Returns [B, n_heads, L, head_dim].
  virtual mx::array attend(
      const mx::array& queries,
      const mx::array& keys,
      const mx::array& values,
      const AttentionMask& mask) = 0;
  /// Whether append() may be called: for this project's CPU kernels, the cache
  /// consists of blocks (kernels/cpu/kv_blocks.h).
  virtual bool has_blocks() const {
    return false;
  }
  /// Makes room for `length` more positions of each of `batch` sequences and
  /// counts them as held; `shape` is what a new cache is to be made of. The
  /// operation that writes them is told by written_by(), before anything else
  /// is asked.
  virtual cpu::KvAppend
  append(const cpu::KvShape& shape, int batch, int length);
  virtual void written_by(const mx::array& attention);
  /// How append_in_place() keeps positions; nothing when the cache has no such
  /// form.
  virtual std::optional<KVQuantization> in_place_form() const {
    return std::nullopt;
  }
  /// Makes room for new keys and values `shape` [B, n_kv_heads, L, head_dim],
  /// by `make` where more is needed, and counts them as held. Nothing when the
  /// cache is not of that type or has no such form. Then as append().
  virtual std::optional<WritableKeyValues> append_in_place(
      const mx::Shape& shape,
      mx::Dtype dtype,
      const MakeArray& make);
  /// Appends, and returns all that is held, dense and in temporal order.
  virtual KeyValues
  update_and_fetch(const mx::array& keys, const mx::array& values) = 0;
  /// All that is held, dense and in temporal order; absent when empty.
  virtual std::optional<KeyValues> fetch() const = 0;

  /// Positions seen so far, forgotten ones included.
  virtual int offset() const = 0;
  /// Most positions held at once, when there is a limit.
  virtual std::optional<int> max_size() const {
    return std::nullopt;
  }
  /// Whether the last `n` positions can be taken back.
  virtual bool can_trim(int n) const = 0;
  virtual void trim(int n) = 0;

  /// Bytes of the arrays held.
  virtual std::size_t n_bytes() const = 0;
  /// The arrays to evaluate with a step.
  virtual std::vector<mx::array> pending() const;
  /// The arrays to save, with their names.
  virtual std::vector<std::pair<std::string, mx::array>> state() const = 0;
  /// Name of the kind, the settings and the counters, to save with state().
  virtual std::string kind() const = 0;
  virtual std::vector<std::pair<std::string, int>> counters() const = 0;
  /// Takes back what state() and counters() gave. Throws InvalidArgument when
  /// they do not fit together.
  virtual void restore(
      const std::vector<std::pair<std::string, mx::array>>& state,
      const std::vector<std::pair<std::string, int>>& counters) = 0;

  virtual std::unique_ptr<KVStore> copy() const = 0;
  /// An empty one of the same kind and settings.
  virtual std::unique_ptr<KVStore> make_empty() const = 0;
};

/// The cache of one layer for one sequence, or for B sequences of equal length.
/// It is moved, never copied by accident: copy() says so.
class KVCache {
 public:
  /// Grows without limit.
  KVCache();
  /// Throws InvalidArgument naming the option that is out of range.
  explicit KVCache(const CacheOptions& options);
  explicit KVCache(std::unique_ptr<KVStore> store);

  KVCache copy() const;

  /// The crate's names for what fetch() returns; absent when empty.
  std::optional<mx::array> keys() const;
  std::optional<mx::array> values() const;

  int offset() const {
    return store_->offset();
  }
  std::optional<int> max_size() const {
    return store_->max_size();
  }
  std::size_t n_bytes() const {
    return store_->n_bytes();
  }
  KeyValues update_and_fetch(const mx::array& keys, const mx::array& values) {
    return store_->update_and_fetch(keys, values);
  }
  bool can_trim(int n) const {
    return store_->can_trim(n);
  }
  /// Takes the last `n` positions back. Throws InvalidArgument when
  /// can_trim(n) is false.
  void trim(int n);
  /// Forgets everything but its kind and settings, a loaded cache too.
  void reset();

  KVStore& store() {
    return *store_;
  }
  const KVStore& store() const {
    return *store_;
  }

 private:
  std::unique_ptr<KVStore> store_;
};

/// Evaluates everything the caches hold, so that no graph of the past stays.
void eval_caches(const std::vector<KVCache>& caches);

} // namespace qwen3_mlx
