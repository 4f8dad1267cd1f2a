// SPDX-License-Identifier: MIT
#include "qwen3_mlx/kv_cache.h"

#include "kernels/cpu/kv_blocks.h"
#include "mlx/transforms.h"
#include "nn/growing_kv.h"
#include "nn/quantized_kv.h"
#include "nn/rotating_kv.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

void require(bool condition, const std::string& message) {
  if (!condition) {
    throw InvalidArgument(message);
  }
}

std::unique_ptr<KVStore> make_store(const CacheOptions& options) {
  if (options.max_kv_size) {
    const int size = *options.max_kv_size;
    require(
        !options.kv_bits,
        "max_kv_size and kv_bits: a rotating cache cannot be quantized; "
        "give one of them");
    require(
        options.keep >= 0 && size > options.keep,
        "max_kv_size: expected more than the " + std::to_string(options.keep) +
            " positions that are always kept, found " + std::to_string(size));
    return std::make_unique<RotatingKV>(size, options.keep);
  }
  if (options.kv_bits) {
    const int bits = *options.kv_bits;
    const int group_size = options.kv_group_size;
    require(
        bits == 4 || bits == 8,
        "kv_bits: expected 4 or 8, found " + std::to_string(bits));
    require(
        group_size == 32 || group_size == 64 || group_size == 128,
        "kv_group_size: expected 32, 64 or 128, found " +
            std::to_string(group_size));
    require(
        options.quantized_kv_start >= 0,
        "quantized_kv_start: expected at least 0, found " +
            std::to_string(options.quantized_kv_start));
    return std::make_unique<QuantizedKV>(
        bits, group_size, options.quantized_kv_start);
  }
  return std::make_unique<GrowingKV>();
}

} // namespace

cpu::KvAppend KVStore::append(const cpu::KvShape&, int, int) {
  throw InvalidArgument("a " + kind() + " cache does not consist of blocks");
}

void KVStore::written_by(const mx::array&) {}

std::optional<WritableKeyValues>
KVStore::append_in_place(const mx::Shape&, mx::Dtype, const MakeArray&) {
  return std::nullopt;
}

std::vector<mx::array> KVStore::pending() const {
  std::vector<mx::array> arrays;
  for (auto& [name, array] : state()) {
    arrays.push_back(std::move(array));
  }
  return arrays;
}

KVCache::KVCache() : KVCache(CacheOptions{}) {}

KVCache::KVCache(const CacheOptions& options) : store_(make_store(options)) {}

KVCache::KVCache(std::unique_ptr<KVStore> store) : store_(std::move(store)) {}

KVCache KVCache::copy() const {
  return KVCache(store_->copy());
}

std::optional<mx::array> KVCache::keys() const {
  auto held = store_->fetch();
  return held ? std::optional(held->keys) : std::nullopt;
}

std::optional<mx::array> KVCache::values() const {
  auto held = store_->fetch();
  return held ? std::optional(held->values) : std::nullopt;
}

void KVCache::trim(int n) {
  require(
      n >= 0 && store_->can_trim(n),
      "cannot take back " + std::to_string(n) + " positions of a " +
          store_->kind() + " cache at offset " +
          std::to_string(store_->offset()));
  store_->trim(n);
}

void KVCache::reset() {
  store_ = store_->make_empty();
}

void eval_caches(const std::vector<KVCache>& caches) {
  std::vector<mx::array> arrays;
  for (const auto& cache : caches) {
    for (auto& array : cache.store().pending()) {
      arrays.push_back(std::move(array));
    }
  }
  mx::eval(std::move(arrays));
}

} // namespace qwen3_mlx
