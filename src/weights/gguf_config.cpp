// SPDX-License-Identifier: MIT
#include "weights/gguf_config.h"

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

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
    map.copy_float("rope.scaling.attn_factor", "attention_factor", scaling);
    map.copy_float("rope.scaling.yarn_beta_fast", "beta_fast", scaling);
    map.copy_float("rope.scaling.yarn_beta_slow", "beta_slow", scaling);
    if (const auto length =
            file.get_uint(map.key("rope.scaling.original_context_length"))) {
      scaling["original_max_position_embeddings"] = *length;
    }
  }
  if (file.find("rope_freqs.weight") != nullptr) {
    throw TensorError(
        file.path(),
        "rope_freqs.weight",
        "Llama 3 rope scaling cannot be read from GGUF files yet; use the "
        "model's safetensors checkpoint");
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

void map_experts(Mapper& map, const GgufFile& file) {
  const auto count = file.get_uint(map.key("expert_count"));
  if (map.json["model_type"] != "qwen3_moe") {
    if (count.value_or(0) > 0) {
      map.fail("expert_count", "only qwen3moe may have experts");
    }
    return;
  }
  map.need_int("expert_count", "num_experts");
  map.need_int("expert_used_count", "num_experts_per_tok");
  map.need_int("expert_feed_forward_length", "moe_intermediate_size");
  // The architecture normalizes; only newer files say so.
  map.json["norm_topk_prob"] =
      file.get_bool(map.key("expert_weights_norm")).value_or(true);
}

void map_vocabulary(Mapper& map, const GgufFile& file) {
  const auto* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw TensorError(
        file.path(), "token_embd.weight", "is missing, expected a matrix");
  }
  // Rows of the embedding are what counts: vocab_size is not always written.
  map.json["vocab_size"] = embedding->shape[0];
  map.json["tie_word_embeddings"] = file.find("output.weight") == nullptr;
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

Config config_from_gguf(const GgufFile& file) {
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
  map_experts(map, file);
  map_vocabulary(map, file);
  // GGUF has no key for it: the tensors are there or not.
  map.json["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
  map.json["torch_dtype"] = "float16";
  return Config::parse(file.path(), map.json.dump());
}

} // namespace qwen3_mlx
