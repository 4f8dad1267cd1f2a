// SPDX-License-Identifier: MIT
// A checkpoint as one GGUF file.

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>
#include <utility>

#include "convert/gguf_job.h"
#include "convert/gguf_metadata.h"
#include "convert/source.h"
#include "convert/staged_directory.h"
#include "convert/work.h"
#include "formats/checked.h"
#include "qwen3_mlx/convert.h"
#include "qwen3_mlx/error.h"
#include "weights/gguf_names.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;

struct TypeRow {
  GgufType type;
  GgmlType ggml;
  std::uint32_t file_type; ///< llama.cpp's number for a file of it.
};

constexpr auto type_rows = std::to_array<TypeRow>({
    {GgufType::f32, GgmlType::f32, 0},
    {GgufType::f16, GgmlType::f16, 1},
    {GgufType::q4_0, GgmlType::q4_0, 2},
    {GgufType::q4_1, GgmlType::q4_1, 3},
    {GgufType::q8_0, GgmlType::q8_0, 7},
    {GgufType::bf16, GgmlType::bf16, 32},
});

const TypeRow& row_of(GgufType type) {
  return *std::find_if(
      type_rows.begin(), type_rows.end(), [&](const auto& row) {
        return row.type == type;
      });
}

/// What a matrix is stored as.
GgmlType
type_of(const std::string& module, std::int64_t n_columns, GgmlType wanted) {
  constexpr std::int64_t block_size = 32;
  // Too small to save anything, and they decide which experts run.
  if (module.ends_with("mlp.gate") || module.ends_with("shared_expert_gate")) {
    return GgmlType::f32;
  }
  const bool is_packed = ggml_block(wanted).n_elements > 1;
  if (is_packed && n_columns % block_size != 0) {
    return GgmlType::f16;
  }
  // 4 bits in the embedding and the head cost more than they save.
  const bool is_outer = module == "model.embed_tokens" || module == "lm_head";
  return is_packed && is_outer ? GgmlType::q8_0 : wanted;
}

std::vector<GgufJob>
plan(const Checkpoint& checkpoint, const ModelArgs& args, GgmlType wanted) {
  constexpr std::string_view weight = ".weight";
  std::vector<GgufJob> jobs;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const bool is_weight = name.ends_with(weight);
    const auto module =
        is_weight ? name.substr(0, name.size() - weight.size()) : name;
    if ((args.tie_word_embeddings && name.starts_with("lm_head.")) ||
        name.ends_with(".scales") || name.ends_with(".biases")) {
      continue; // the latter are parts of matrices
    }
    const auto target = gguf_tensor_name(name);
    if (target.empty()) {
      throw TensorError(
          tensor.path(),
          printable(tensor.source_name),
          "has no name in GGUF files of " + gguf_architecture(args));
    }
    const bool is_llama = args.model_type == "llama";
    const std::int64_t heads = !is_llama ? 0
        : target.find(".attn_q.") != std::string::npos
        ? args.num_attention_heads
        : target.find(".attn_k.") != std::string::npos
        ? args.num_key_value_heads
        : 0;
    if (tensor.shape.size() < 2) {
      jobs.emplace_back(target, SourceRows(tensor), GgmlType::f32, heads);
      continue;
    }
    StoredMatrix matrix(checkpoint, args.quantization, module);
    const auto type = type_of(module, matrix.shape().back(), wanted);
    jobs.emplace_back(target, SourceRows(std::move(matrix)), type, heads);
    if (module.ends_with("shared_expert_gate")) {
      jobs.back().flatten(); // llama.cpp has a vector there
    }
  }
  return jobs;
}

std::string model_name(const ModelArgs& args, const fs::path& from) {
  const auto clean = fs::absolute(from).lexically_normal();
  const auto name =
      (clean.has_filename() ? clean : clean.parent_path()).stem().string();
  return name.empty() ? args.model_type : name;
}

} // namespace

ConvertResult convert_to_gguf(
    const fs::path& from,
    const fs::path& to,
    const GgufOptions& options,
    const ConvertProgress& progress) {
  const auto [args, checkpoint] = open_source(from, to);
  gguf_architecture(args); // before anything is written
  const auto& type = row_of(options.type);
  auto jobs = plan(checkpoint, args, type.ggml);
  const auto factors = rope_factors(args);

  GgufMetadata metadata;
  add_model_metadata(args, model_name(args, from), type.file_type, metadata);
  add_tokenizer_metadata(from, args.vocab_size, metadata);
  std::vector<GgufTensorSpec> specs;
  ConvertResult result{.n_shards = 1};
  for (const auto& job : jobs) {
    specs.push_back(job.spec());
    result.n_parameters += job.source().n_elements();
    result.n_bytes += job.spec().n_bytes();
  }
  if (!factors.empty()) {
    specs.push_back(
        {"rope_freqs.weight",
         GgmlType::f32,
         {static_cast<std::int64_t>(factors.size())}});
  }
  const auto layout = layout_gguf(metadata, specs);

  StagedDirectory staged(to, options.force, StagedDirectory::Kind::file);
  if (const auto free = staged.free_bytes(); free < layout.file_size) {
    throw FileError(
        staged.target(),
        "needs " + std::to_string(layout.file_size) + " bytes, the disk has " +
            std::to_string(free) + " left");
  }
  auto& file = staged.create("model.gguf");
  file.write(0, layout.head.data(), layout.head.size());
  // The last tensor's padding, without which llama.cpp finds the file short.
  const char zero = 0;
  file.write(layout.file_size - 1, &zero, 1);
  for (std::size_t idx = 0; idx < jobs.size(); ++idx) {
    jobs[idx].place(file, layout.offsets[idx]);
  }
  if (!factors.empty()) {
    file.write(
        layout.offsets.back(),
        factors.data(),
        factors.size() * sizeof(factors[0]));
  }
  Work<GgufJob>(jobs, progress).run(options.n_threads);
  staged.publish();
  return result;
}

} // namespace qwen3_mlx
