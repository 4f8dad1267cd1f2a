// SPDX-License-Identifier: MIT
#include "qwen3_mlx/prompt_cache.h"

#include <charconv>
#include <cstring>
#include <map>

#include "formats/safetensors.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "nn/growing_kv.h"
#include "nn/quantized_kv.h"
#include "nn/rotating_kv.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

constexpr const char* format_version = "1";
constexpr std::string_view counter_prefix = "counter.";
// Far above any context, far below what an int holds.
constexpr std::int64_t max_positions = 1 << 30;

struct DTypePair {
  DType stored;
  mx::Dtype array;
};

const std::vector<DTypePair>& dtypes() {
  static const std::vector<DTypePair> table = {
      {DType::f32, mx::float32},
      {DType::f16, mx::float16},
      {DType::bf16, mx::bfloat16},
      {DType::u32, mx::uint32}};
  return table;
}

DType stored_dtype(mx::Dtype dtype) {
  for (const auto& pair : dtypes()) {
    if (pair.array == dtype) {
      return pair.stored;
    }
  }
  throw InvalidArgument("a cache of this dtype cannot be saved");
}

std::string layer_prefix(std::size_t layer_idx) {
  return "layers." + std::to_string(layer_idx) + ".";
}

TensorToSave to_save(const std::string& name, const mx::array& array) {
  const auto& shape = array.shape();
  return {
      name,
      stored_dtype(array.dtype()),
      {shape.begin(), shape.end()},
      {reinterpret_cast<const std::byte*>(array.data<char>()), array.nbytes()}};
}

std::unique_ptr<KVStore> make_store(const std::string& kind) {
  // The settings come with the counters.
  if (kind == "growing") {
    return std::make_unique<GrowingKV>();
  }
  if (kind == "rotating") {
    return std::make_unique<RotatingKV>(2, 0);
  }
  if (kind == "quantized") {
    return std::make_unique<QuantizedKV>(8, 64, 0);
  }
  return nullptr;
}

/// A saved file, read and checked piece by piece.
class SavedCache {
 public:
  SavedCache(const std::filesystem::path& path, const Model& model)
      : file_(path), model_(model) {
    if (metadata("format") != "qwen3-mlx prompt cache" ||
        metadata("version") != format_version) {
      fail("not a prompt cache of this version; make it anew");
    }
    if (metadata("model") != model.fingerprint()) {
      fail("belongs to another model than " + model.path().string());
    }
  }

  std::vector<std::uint32_t> tokens() const {
    const auto* info = file_.find("tokens");
    if (info == nullptr || info->dtype != DType::u32 ||
        info->shape.size() != 1) {
      fail("tensor tokens: expected U32 [n]");
    }
    std::vector<std::uint32_t> ids(info->n_bytes / sizeof(std::uint32_t));
    file_.file().read(info->offset, info->n_bytes, ids.data());
    return ids;
  }

  KVCache layer(std::size_t layer_idx, std::size_t n_tokens) const {
    const auto prefix = layer_prefix(layer_idx);
    auto store = make_store(metadata(prefix + "kind"));
    if (!store) {
      fail(prefix + "kind: unknown");
    }
    std::vector<std::pair<std::string, mx::array>> state;
    for (const auto& info : file_.tensors()) {
      if (info.name.starts_with(prefix)) {
        check_shape(info);
        state.emplace_back(info.name.substr(prefix.size()), read(info));
      }
    }
    std::vector<std::pair<std::string, int>> counters;
    const auto counter = prefix + std::string(counter_prefix);
    for (const auto& [key, text] : file_.metadata()) {
      if (key.starts_with(counter)) {
        counters.emplace_back(key.substr(counter.size()), to_int(key, text));
      }
    }
    check_packing(state, counters);
    try {
      store->restore(state, counters);
    } catch (const InvalidArgument& error) {
      fail(prefix + ": " + error.what());
    }
    if (store->offset() != static_cast<int>(n_tokens)) {
      fail(
          prefix + "offset: expected the " + std::to_string(n_tokens) +
          " tokens of the file, found " + std::to_string(store->offset()));
    }
    return KVCache(std::move(store));
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const {
    throw FileError(file_.path(), reason);
  }

  std::string metadata(const std::string& key) const {
    const auto entry = file_.metadata().find(key);
    if (entry == file_.metadata().end()) {
      fail("metadata " + key + " is missing; not a prompt cache");
    }
    return entry->second;
  }

  int to_int(const std::string& key, const std::string& text) const {
    int value = 0;
    const auto* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, value);
    if (result.ec != std::errc() || result.ptr != end) {
      fail("metadata " + key + ": expected an integer");
    }
    return value;
  }

  // [1, n_kv_heads, positions, head_dim] floats; in packed form uint32, with
  // float scales and biases, and a last dimension that is shorter.
  void check_shape(const TensorInfo& info) const {
    const auto& args = model_.args();
    const bool is_packed = info.name.find("packed") != std::string::npos;
    const bool is_words = info.name.ends_with(".packed_keys") ||
        info.name.ends_with(".packed_values");
    const bool fits = info.shape.size() == 4 && info.shape[0] == 1 &&
        info.shape[1] == args.num_key_value_heads && info.shape[2] >= 1 &&
        info.shape[2] <= max_positions && info.shape[3] >= 1 &&
        (is_packed ? info.shape[3] <= args.head_dim
                   : info.shape[3] == args.head_dim) &&
        is_words == (info.dtype == DType::u32);
    if (!fits) {
      throw TensorError(
          file_.path(),
          info.name,
          "expected [1, " + std::to_string(args.num_key_value_heads) +
              ", positions, " + std::to_string(args.head_dim) +
              "] or its packed form");
    }
  }

  // What is packed must unfold to head_dim, at the bits and the group that the
  // counters name.
  void check_packing(
      const std::vector<std::pair<std::string, mx::array>>& state,
      const std::vector<std::pair<std::string, int>>& counters) const {
    const auto counter = [&](std::string_view name) -> std::int64_t {
      for (const auto& [key, value] : counters) {
        if (key == name) {
          return value;
        }
      }
      return 0;
    };
    for (const auto& [name, array] : state) {
      if (!name.starts_with("packed_")) {
        continue;
      }
      const std::int64_t width = array.shape(3);
      const std::int64_t head_dim = model_.args().head_dim;
      const bool is_words = array.dtype() == mx::uint32;
      const bool fits = is_words ? width * 32 == head_dim * counter("bits")
                                 : width * counter("group_size") == head_dim;
      if (!fits) {
        fail(
            name + ": " + std::to_string(width) + " columns are not " +
            std::to_string(head_dim) + " numbers of " +
            std::to_string(counter("bits")) + " bits in groups of " +
            std::to_string(counter("group_size")));
      }
    }
  }

  mx::array read(const TensorInfo& info) const {
    for (const auto& pair : dtypes()) {
      if (pair.stored == info.dtype) {
        mx::Shape shape;
        for (const auto size : info.shape) {
          shape.push_back(static_cast<int>(size));
        }
        auto data = mx::allocator::malloc(info.n_bytes);
        auto buffer = data.buffer();
        file_.file().read(info.offset, info.n_bytes, buffer.raw_ptr());
        return mx::array(std::move(data), std::move(shape), pair.array);
      }
    }
    throw TensorError(
        file_.path(),
        info.name,
        "type " + std::string(dtype_name(info.dtype)) + " is not a cache's");
  }

  SafetensorsFile file_;
  const Model& model_;
};

} // namespace

void save_prompt_cache(
    const std::filesystem::path& path,
    const std::vector<KVCache>& cache,
    std::span<const std::uint32_t> tokens,
    const Model& model) {
  std::map<std::string, std::string> metadata = {
      {"format", "qwen3-mlx prompt cache"},
      {"version", format_version},
      {"model", model.fingerprint()}};
  std::vector<mx::array> arrays;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < cache.size(); ++i) {
    const auto& store = cache[i].store();
    if (store.offset() != static_cast<int>(tokens.size())) {
      throw InvalidArgument(
          "tokens: expected the " + std::to_string(store.offset()) +
          " that the cache holds, found " + std::to_string(tokens.size()));
    }
    const auto prefix = layer_prefix(i);
    metadata[prefix + "kind"] = store.kind();
    const auto counters = prefix + std::string(counter_prefix);
    for (const auto& [name, value] : store.counters()) {
      metadata[counters + name] = std::to_string(value);
    }
    for (const auto& [name, array] : store.state()) {
      names.push_back(prefix + name);
      arrays.push_back(mx::contiguous(array));
    }
  }
  names.emplace_back("tokens");
  arrays.push_back(
      mx::array(tokens.begin(), {static_cast<int>(tokens.size())}, mx::uint32));
  mx::eval(arrays);

  std::vector<TensorToSave> tensors;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    tensors.push_back(to_save(names[i], arrays[i]));
  }
  // It holds what somebody wrote.
  save_safetensors(path, tensors, metadata, AtomicFile::Access::owner);
}

PromptCache
load_prompt_cache(const std::filesystem::path& path, const Model& model) {
  const SavedCache saved(path, model);
  PromptCache prompt_cache{{}, saved.tokens()};
  const auto n_layers =
      static_cast<std::size_t>(model.args().num_hidden_layers);
  for (std::size_t i = 0; i < n_layers; ++i) {
    prompt_cache.cache.push_back(saved.layer(i, prompt_cache.tokens.size()));
  }
  return prompt_cache;
}

} // namespace qwen3_mlx
