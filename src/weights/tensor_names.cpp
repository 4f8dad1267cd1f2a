// SPDX-License-Identifier: MIT
#include "weights/tensor_names.h"

#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

using Tensors = std::map<std::string, StoredTensor, std::less<>>;

/// "model.layers..." whatever stands before it in the file.
std::string normalize_prefix(std::string_view name) {
  constexpr std::string_view wrapped = "model.language_model.";
  constexpr std::string_view wrapper = "language_model.";
  if (name.starts_with(wrapped)) {
    return "model." + std::string(name.substr(wrapped.size()));
  }
  if (name.starts_with(wrapper)) {
    name.remove_prefix(wrapper.size());
  }
  // Checkpoints of the bare transformer, as embedding models are.
  for (const std::string_view child : {"layers.", "embed_tokens.", "norm."}) {
    if (name.starts_with(child)) {
      return "model." + std::string(name);
    }
  }
  return std::string(name);
}

/// "<mlp>.experts.<idx>.<rest>"
struct ExpertName {
  std::string stacked; ///< "<mlp>.switch_mlp.<rest>"
  int idx;
};

std::optional<ExpertName> parse_expert(const std::string& name) {
  constexpr std::string_view infix = ".experts.";
  const auto at = name.find(infix);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  const auto* begin = name.data() + at + infix.size();
  const auto* end = name.data() + name.size();
  int idx = 0;
  const auto [rest, error] = std::from_chars(begin, end, idx);
  if (error != std::errc{} || rest == end || *rest != '.' || idx < 0) {
    return std::nullopt;
  }
  return ExpertName{
      name.substr(0, at) + ".switch_mlp" + std::string(rest, end), idx};
}

/// Gate rows, or up rows, of each expert in a tensor [E, 2 * I, d].
StoredTensor half_of_experts(const StoredTensor& fused, bool upper) {
  StoredTensor half = fused;
  half.shape[1] /= 2;
  half.pieces.clear();
  const auto& whole = fused.pieces.front();
  const auto n_experts = static_cast<std::uint64_t>(fused.shape[0]);
  const auto n_bytes = whole.n_bytes / n_experts / 2;
  for (std::uint64_t idx = 0; idx < n_experts; ++idx) {
    const auto skip = (2 * idx + (upper ? 1 : 0)) * n_bytes;
    half.pieces.push_back({whole.file, whole.offset + skip, n_bytes});
  }
  return half;
}

/// Gathers tensors under their canonical names.
class Collector {
 public:
  void add(StoredTensor tensor) {
    const auto name = normalize_prefix(tensor.source_name);
    if (name.ends_with("rotary_emb.inv_freq")) {
      return;
    }
    if (const auto expert = parse_expert(name)) {
      auto& experts = experts_[expert->stacked];
      const auto [place, added] =
          experts.try_emplace(expert->idx, std::move(tensor));
      if (!added) {
        fail_twice(tensor, place->second);
      }
      return;
    }
    if (!add_fused(name, tensor)) {
      insert(name, std::move(tensor));
    }
  }

  Tensors finish(const std::filesystem::path& directory) {
    for (auto& [name, experts] : experts_) {
      insert(name, stack(directory, name, experts));
    }
    return std::move(tensors_);
  }

 private:
  [[noreturn]] static void
  fail_twice(const StoredTensor& tensor, const StoredTensor& other) {
    throw TensorError(
        tensor.path(),
        printable(tensor.source_name),
        "means the same as " + printable(other.source_name) + " in " +
            other.path().string());
  }

  void insert(const std::string& name, StoredTensor tensor) {
    const auto [place, added] = tensors_.try_emplace(name, std::move(tensor));
    if (!added) {
      fail_twice(tensor, place->second);
    }
  }

  /// transformers 5 stores all experts in one tensor without ".weight".
  bool add_fused(const std::string& name, const StoredTensor& tensor) {
    constexpr std::string_view down = ".experts.down_proj";
    constexpr std::string_view gate_up = ".experts.gate_up_proj";
    if (name.ends_with(down)) {
      const auto mlp = name.substr(0, name.size() - down.size());
      insert(mlp + ".switch_mlp.down_proj.weight", tensor);
      return true;
    }
    if (!name.ends_with(gate_up)) {
      return false;
    }
    const auto& shape = tensor.shape;
    if (shape.size() != 3 || shape[0] < 1 || shape[1] % 2 != 0) {
      throw TensorError(
          tensor.path(),
          printable(tensor.source_name),
          "expected [experts, 2 * moe_intermediate_size, hidden_size], found " +
              to_string(shape));
    }
    const auto mlp = name.substr(0, name.size() - gate_up.size());
    insert(
        mlp + ".switch_mlp.gate_proj.weight",
        half_of_experts(tensor, /* upper */ false));
    insert(
        mlp + ".switch_mlp.up_proj.weight",
        half_of_experts(tensor, /* upper */ true));
    return true;
  }

  static StoredTensor stack(
      const std::filesystem::path& directory,
      const std::string& name,
      std::map<int, StoredTensor>& experts) {
    StoredTensor stacked = experts.begin()->second;
    stacked.pieces.clear();
    // What bitsandbytes says of each matrix is as long as its numbers are.
    const bool is_text = name.find(".quant_state.") != std::string::npos;
    int expected_idx = 0;
    for (auto& [idx, expert] : experts) {
      if (idx != expected_idx) {
        throw TensorError(
            directory,
            name,
            "expert " + std::to_string(expected_idx) +
                " is missing, the next one is " +
                printable(expert.source_name));
      }
      ++expected_idx;
      const bool same_shape = expert.shape == experts.begin()->second.shape ||
          (is_text && expert.shape.size() == 1);
      if (!same_shape || expert.type_name != stacked.type_name) {
        throw TensorError(
            expert.path(),
            printable(expert.source_name),
            "is " + expert.type_name + " " + to_string(expert.shape) +
                ", expected " + stacked.type_name + " " +
                to_string(experts.begin()->second.shape) +
                " as expert 0 has it");
      }
      stacked.pieces.push_back(expert.pieces.front());
    }
    stacked.shape.insert(stacked.shape.begin(), expected_idx);
    return stacked;
  }

  Tensors tensors_;
  std::map<std::string, std::map<int, StoredTensor>> experts_;
};

} // namespace

Tensors canonical_tensors(
    const std::filesystem::path& directory,
    std::vector<NamedTensor> tensors) {
  Collector collector;
  for (auto& [file_name, tensor] : tensors) {
    collector.add(std::move(tensor));
  }
  return collector.finish(directory);
}

} // namespace qwen3_mlx
