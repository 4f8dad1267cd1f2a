// SPDX-License-Identifier: MIT
#include "weights/gguf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

using Json = nlohmann::json;

struct ArchitectureRow {
  std::string_view gguf;
  std::string_view model_type;
};

constexpr std::array architecture_rows = std::to_array<ArchitectureRow>({
    {"llama", "llama"},
    {"qwen2", "qwen2"},
    {"qwen2moe", "qwen2_moe"},
    {"qwen3", "qwen3"},
    {"qwen3moe", "qwen3_moe"},
});

/// Copies metadata into a config, key by key.
class Mapper {
 public:
  explicit Mapper(const GgufFile& file) : file_(file) {
    const auto found = file.get_string("general.architecture");
    std::string known;
    for (const auto& row : architecture_rows) {
      if (found == row.gguf) {
        arch_ = *found;
        json["model_type"] = row.model_type;
        return;
      }
      known += (known.empty() ? "" : ", ") + std::string(row.gguf);
    }
    throw FieldError(
        file.path(),
        "general.architecture",
        "expected one of " + known + "; found " +
            (found ? "\"" + printable(*found) + "\"" : "none"));
  }

  std::string key(std::string_view name) const {
    return arch_ + "." + std::string(name);
  }

  [[noreturn]] void
  fail(std::string_view name, const std::string& reason) const {
    throw FieldError(file_.path(), key(name), reason);
  }

  void need_int(std::string_view name, const char* field) {
    const auto value = file_.get_uint(key(name));
    if (!value) {
      fail(name, "is missing, expected an integer");
    }
    json[field] = *value;
  }
  void copy_int(std::string_view name, const char* field) {
    if (const auto value = file_.get_uint(key(name))) {
      json[field] = *value;
    }
  }
  void copy_float(std::string_view name, const char* field, Json& to) {
    if (const auto value = file_.get_float(key(name))) {
      // Metadata floats are float32; JSON keeps all their digits.
      to[field] = *value;
    }
  }

  Json json = Json::object();

 private:
  const GgufFile& file_;
  std::string arch_;
};

/// llama.cpp multiplies YaRN's own temperature, 1 + 0.1 ln(factor), with
/// attn_factor; in configs attention_factor is the product.
void map_attention_factor(
    Mapper& map,
    const GgufFile& file,
    const std::string& type,
    Json& scaling) {
  constexpr const char* name = "rope.scaling.attn_factor";
  const auto attn_factor = file.get_float(map.key(name));
  if (!attn_factor || *attn_factor == 1.0) {
    return;
  }
  if (type != "yarn") {
    map.fail(name, "expected 1 without yarn scaling");
  }
  const double factor = scaling.value("factor", 1.0);
  scaling["attention_factor"] = *attn_factor * (1.0 + 0.1 * std::log(factor));
}

void map_rope(Mapper& map, const GgufFile& file) {
  map.copy_float("rope.freq_base", "rope_theta", map.json);
  const auto type = file.get_string(map.key("rope.scaling.type"));
  if (type && *type != "none") {
    if (*type != "linear" && *type != "yarn") {
      map.fail(
          "rope.scaling.type",
          "expected none, linear or yarn; found \"" + printable(*type) + "\"");
    }
    auto& scaling = map.json["rope_scaling"];
    scaling["rope_type"] = *type;
    map.copy_float("rope.scaling.factor", "factor", scaling);
    map_attention_factor(map, file, *type, scaling);
    map.copy_float("rope.scaling.yarn_beta_fast", "beta_fast", scaling);
    map.copy_float("rope.scaling.yarn_beta_slow", "beta_slow", scaling);
    if (const auto length =
            file.get_uint(map.key("rope.scaling.original_context_length"))) {
      scaling["original_max_position_embeddings"] = *length;
    }
  }
}

/// What Llama 3's scaling multiplies the period of each pair of `n` with, after
/// its reference code with the constants that all of the family use.
std::vector<double>
llama3_factors(std::size_t n, double theta, const Json& scaling) {
  const double length = scaling["original_max_position_embeddings"];
  const double low = scaling["low_freq_factor"];
  const double high = scaling["high_freq_factor"];
  const double factor = scaling["factor"];
  std::vector<double> out;
  for (std::size_t idx = 0; idx < n; ++idx) {
    const auto part = static_cast<double>(idx) / static_cast<double>(n);
    const double wavelength = 2.0 * std::numbers::pi * std::pow(theta, part);
    const double keep =
        std::clamp((length / wavelength - low) / (high - low), 0.0, 1.0);
    out.push_back(1.0 / ((1.0 - keep) / factor + keep));
  }
  return out;
}

/// GGUF files hold Llama 3's scaling as its effect, a factor for each pair. The
/// parameters follow from it: the largest factor is "factor", the others are
/// the family's, which is checked.
void map_llama3(Mapper& map, const GgufParts& parts) {
  const auto [found_in, tensor] = parts.find("rope_freqs.weight");
  if (tensor == nullptr) {
    return;
  }
  const auto& path = found_in->path();
  const auto fail = [&](const std::string& reason) {
    throw TensorError(path, "rope_freqs.weight", reason);
  };
  constexpr std::int64_t max_pairs = 1 << 15;
  if (tensor->type != GgmlType::f32 || tensor->shape.size() != 1 ||
      tensor->shape[0] > max_pairs ||
      map.json.value("head_dim", 2 * tensor->shape[0]) !=
          2 * tensor->shape[0]) {
    fail("expected one F32 number for each pair of a head");
  }
  std::vector<float> found(static_cast<std::size_t>(tensor->shape[0]));
  found_in->file().read(tensor->offset, tensor->n_bytes, found.data());
  auto& scaling = map.json["rope_scaling"];
  scaling = {
      {"rope_type", "llama3"},
      {"factor", *std::max_element(found.begin(), found.end())},
      {"low_freq_factor", 1.0},
      {"high_freq_factor", 4.0},
      {"original_max_position_embeddings", 8192}};
  const auto expected = llama3_factors(
      found.size(), map.json.value("rope_theta", 10000.0), scaling);
  for (std::size_t idx = 0; idx < found.size(); ++idx) {
    const double difference = std::fabs(double{found[idx]} - expected[idx]);
    if (!(difference <= 1e-4 * expected[idx])) {
      fail(
          "number " + std::to_string(idx) + " is " +
          std::to_string(found[idx]) + ", expected " +
          std::to_string(expected[idx]) +
          " of Llama 3's rope scaling, the only one that can be read");
    }
  }
}

void map_head_dim(Mapper& map, const GgufFile& file) {
  const auto key_length = file.get_uint(map.key("attention.key_length"));
  const auto value_length = file.get_uint(map.key("attention.value_length"));
  if (key_length) {
    map.json["head_dim"] = *key_length;
  } else if (
      const auto rotated = file.get_uint(map.key("rope.dimension_count"))) {
    // Without a key length all of a head is rotated, so this is the head.
    map.json["head_dim"] = *rotated;
  }
  if (value_length && key_length && *value_length != *key_length) {
    map.fail(
        "attention.value_length",
        "expected attention.key_length " + std::to_string(*key_length) +
            ", found " + std::to_string(*value_length));
  }
}

void map_experts(Mapper& map, const GgufParts& parts) {
  const auto& file = parts.first();
  const auto count = file.get_uint(map.key("expert_count"));
  const bool is_qwen2 = map.json["model_type"] == "qwen2_moe";
  if (!is_qwen2 && map.json["model_type"] != "qwen3_moe") {
    if (count.value_or(0) > 0) {
      map.fail("expert_count", "only qwen2moe and qwen3moe may have experts");
    }
    return;
  }
  map.need_int("expert_count", "num_experts");
  map.need_int("expert_used_count", "num_experts_per_tok");
  map.need_int("expert_feed_forward_length", "moe_intermediate_size");
  // qwen3moe normalizes, qwen2moe does not; only newer files say so.
  map.json["norm_topk_prob"] =
      file.get_bool(map.key("expert_weights_norm")).value_or(!is_qwen2);
  if (is_qwen2) {
    map.need_int(
        "expert_shared_feed_forward_length", "shared_expert_intermediate_size");
    map.json["qkv_bias"] = parts.find("blk.0.attn_q.bias").tensor != nullptr;
  }
}

void map_vocabulary(Mapper& map, const GgufParts& parts) {
  const auto& file = parts.first();
  const auto* embedding = parts.find("token_embd.weight").tensor;
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw TensorError(
        file.path(), "token_embd.weight", "is missing, expected a matrix");
  }
  // Rows of the embedding are what counts: vocab_size is not always written.
  map.json["vocab_size"] = embedding->shape[0];
  map.json["tie_word_embeddings"] =
      parts.find("output.weight").tensor == nullptr;
  auto ids = Json::array();
  for (const auto* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto id = file.get_uint(key);
    if (id && std::find(ids.begin(), ids.end(), Json(*id)) == ids.end()) {
      ids.push_back(*id);
    }
  }
  map.json["eos_token_id"] = ids;
  if (const auto id = file.get_uint("tokenizer.ggml.bos_token_id")) {
    map.json["bos_token_id"] = *id;
  }
}

} // namespace

Config config_from_gguf(const GgufParts& parts) {
  const auto& file = parts.first();
  Mapper map(file);
  map.need_int("embedding_length", "hidden_size");
  map.need_int("block_count", "num_hidden_layers");
  map.need_int("feed_forward_length", "intermediate_size");
  map.need_int("attention.head_count", "num_attention_heads");
  map.copy_int("attention.head_count_kv", "num_key_value_heads");
  map.copy_int("context_length", "max_position_embeddings");
  map.copy_float("attention.layer_norm_rms_epsilon", "rms_norm_eps", map.json);
  map_head_dim(map, file);
  map_rope(map, file);
  map_llama3(map, parts);
  map_experts(map, parts);
  map_vocabulary(map, parts);
  // GGUF has no key for it: the tensors are there or not.
  map.json["attention_bias"] =
      parts.find("blk.0.attn_q.bias").tensor != nullptr;
  map.json["torch_dtype"] = "float16";
  return Config::parse(file.path(), map.json.dump());
}

} // namespace qwen3_mlx
