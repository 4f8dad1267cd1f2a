// SPDX-License-Identifier: MIT
#include "testing/tiny_gguf.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace qwen3_mlx::testing {
namespace {

using Json = nlohmann::json;

// Value types of GGUF metadata, and ggml's type of plain floats.
constexpr std::uint32_t uint32 = 4;
constexpr std::uint32_t float32 = 6;
constexpr std::uint32_t string = 8;
constexpr std::uint32_t ggml_f32 = 0;
constexpr std::size_t alignment = 32;

class Bytes {
 public:
  template <typename T>
  void number(T value) {
    const auto at = text_.size();
    text_.resize(at + sizeof value);
    std::memcpy(text_.data() + at, &value, sizeof value);
  }
  void string(std::string_view value) {
    number<std::uint64_t>(value.size());
    text_ += value;
  }
  void floats(const std::vector<float>& values) {
    const auto at = text_.size();
    text_.resize(at + values.size() * sizeof(float));
    std::memcpy(
        text_.data() + at, values.data(), values.size() * sizeof(float));
  }
  void align() {
    text_.append((alignment - text_.size() % alignment) % alignment, '\0');
  }
  void append(const Bytes& other) {
    text_ += other.text_;
  }
  const std::string& text() const {
    return text_;
  }

 private:
  std::string text_;
};

class Metadata {
 public:
  void add(std::string_view key, std::string_view value) {
    start(key, string);
    bytes_.string(value);
  }
  void add(std::string_view key, int value) {
    start(key, uint32);
    bytes_.number(static_cast<std::uint32_t>(value));
  }
  void add(std::string_view key, float value) {
    start(key, float32);
    bytes_.number(value);
  }
  const Bytes& bytes() const {
    return bytes_;
  }
  std::uint64_t count() const {
    return count_;
  }

 private:
  void start(std::string_view key, std::uint32_t type) {
    ++count_;
    bytes_.string(key);
    bytes_.number(type);
  }

  Bytes bytes_;
  std::uint64_t count_ = 0;
};

Metadata metadata_of(const Json& config, const std::string& architecture) {
  const int hidden_size = config.at("hidden_size");
  const int n_heads = config.at("num_attention_heads");
  const int head_dim = config.value("head_dim", hidden_size / n_heads);
  Metadata metadata;
  metadata.add("general.architecture", architecture);
  const auto add = [&](const char* key, auto value) {
    metadata.add(architecture + "." + key, value);
  };
  add("block_count", config.at("num_hidden_layers").get<int>());
  add("context_length", config.at("max_position_embeddings").get<int>());
  add("embedding_length", hidden_size);
  add("feed_forward_length", config.at("intermediate_size").get<int>());
  add("attention.head_count", n_heads);
  add("attention.head_count_kv", config.at("num_key_value_heads").get<int>());
  add("attention.key_length", head_dim);
  add("attention.value_length", head_dim);
  add("attention.layer_norm_rms_epsilon",
      config.at("rms_norm_eps").get<float>());
  add("rope.dimension_count", head_dim);
  add("vocab_size", config.at("vocab_size").get<int>());
  if (config.contains("num_experts")) {
    add("expert_count", config.at("num_experts").get<int>());
    add("expert_used_count", config.at("num_experts_per_tok").get<int>());
    add("expert_feed_forward_length",
        config.at("moe_intermediate_size").get<int>());
  }

  const auto parameters = config.value("rope_parameters", Json::object());
  const auto scaling = config.value("rope_scaling", parameters);
  const float theta = config.contains("rope_theta")
      ? config.at("rope_theta").get<float>()
      : parameters.at("rope_theta").get<float>();
  add("rope.freq_base", theta);
  const auto type =
      scaling.value("rope_type", scaling.value("type", std::string("default")));
  if (type != "default") {
    add("rope.scaling.type", type);
    add("rope.scaling.factor", scaling.at("factor").get<float>());
  }
  if (type == "yarn") {
    add("rope.scaling.original_context_length",
        scaling.at("original_max_position_embeddings").get<int>());
  }
  return metadata;
}

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"
std::string gguf_name(std::string name) {
  static const std::vector<std::pair<std::string, std::string>> renames = {
      {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},
      {"lm_head", "output"},
      {"model.layers", "blk"},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"mlp.experts.gate_proj", "ffn_gate_exps"},
      {"mlp.experts.up_proj", "ffn_up_exps"},
      {"mlp.experts.down_proj", "ffn_down_exps"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"mlp.gate.", "ffn_gate_inp."},
  };
  for (const auto& [from, to] : renames) {
    if (const auto at = name.find(from); at != std::string::npos) {
      name.replace(at, from.size(), to);
    }
  }
  return name;
}

struct NamedTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

// Rows of q and k of architecture llama: the two halves of each head are
// interleaved.
void interleave_halves(NamedTensor& tensor, std::int64_t n_heads) {
  const auto row_size =
      static_cast<std::size_t>(tensor.shape.size() > 1 ? tensor.shape[1] : 1);
  const auto head_rows = static_cast<std::size_t>(tensor.shape[0] / n_heads);
  const auto source = tensor.values;
  for (std::size_t row = 0; row < static_cast<std::size_t>(tensor.shape[0]);
       ++row) {
    const std::size_t head = row / head_rows;
    const std::size_t in_head = row % head_rows;
    const std::size_t from =
        head * head_rows + (in_head % 2) * (head_rows / 2) + in_head / 2;
    std::memcpy(
        &tensor.values[row * row_size],
        &source[from * row_size],
        row_size * sizeof(float));
  }
}

std::map<std::string, NamedTensor>
tensors_of(const TinyCase& tiny_case, const Json& config) {
  const bool permuted = config.at("model_type") == "llama";
  std::map<std::string, NamedTensor> tensors;
  for (const auto& tensor : tiny_case.tensors) {
    NamedTensor named{tensor.shape, tiny_values(tensor, tiny_case.seed)};
    std::string name = tensor.name;
    if (permuted && name.find("q_proj") != std::string::npos) {
      interleave_halves(named, config.at("num_attention_heads"));
    }
    if (permuted && name.find("k_proj") != std::string::npos) {
      interleave_halves(named, config.at("num_key_value_heads"));
    }
    // Experts "...mlp.experts.3.up_proj.weight", in order: one stack.
    constexpr std::string_view experts = "mlp.experts.";
    if (const auto at = name.find(experts); at != std::string::npos) {
      const auto number = at + experts.size();
      name.erase(number, name.find('.', number) + 1 - number);
      auto& stack = tensors[gguf_name(name)];
      const auto num_experts = stack.shape.empty() ? 1 : stack.shape[0] + 1;
      stack.shape = {num_experts, named.shape[0], named.shape[1]};
      stack.values.insert(
          stack.values.end(), named.values.begin(), named.values.end());
      continue;
    }
    tensors[gguf_name(name)] = std::move(named);
  }
  return tensors;
}

} // namespace

void write_tiny_gguf(
    const TinyCase& tiny_case,
    const std::filesystem::path& path) {
  const auto config = Json::parse(tiny_case.config);
  const std::string model_type = config.at("model_type");
  const auto metadata =
      metadata_of(config, model_type == "qwen3_moe" ? "qwen3moe" : model_type);
  const auto tensors = tensors_of(tiny_case, config);

  Bytes infos;
  Bytes data;
  for (const auto& [name, tensor] : tensors) {
    data.align();
    infos.string(name);
    infos.number(static_cast<std::uint32_t>(tensor.shape.size()));
    // ggml counts dimensions from the innermost.
    for (auto length = tensor.shape.rbegin(); length != tensor.shape.rend();
         ++length) {
      infos.number(static_cast<std::uint64_t>(*length));
    }
    infos.number(ggml_f32);
    infos.number(static_cast<std::uint64_t>(data.text().size()));
    data.floats(tensor.values);
  }

  Bytes file;
  file.number(std::uint32_t{0x46554747}); // "GGUF"
  file.number(std::uint32_t{3});
  file.number(static_cast<std::uint64_t>(tensors.size()));
  file.number(metadata.count());
  file.append(metadata.bytes());
  file.append(infos);
  file.align();
  file.append(data);
  std::ofstream out(path, std::ios::binary);
  out << file.text();
  if (!out) {
    throw std::runtime_error("cannot write " + path.string());
  }
}

} // namespace qwen3_mlx::testing
