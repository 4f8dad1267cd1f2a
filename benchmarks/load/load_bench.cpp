// SPDX-License-Identifier: MIT
// Loads a generated checkpoint of at least 1 GB by plan and compares the peak
// memory of the process with the checkpoint's size:
//
//   load_bench [--layers N] [--threads N] [--plain] [--dir DIR] [--keep]
//
// Matrices are packed for the CPU kernels while they are read, as a user's are,
// or with --plain left as MLX's operations want them.
// Exits with 1 when the peak is above 1.1 times the checkpoint.
#include <sys/resource.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "kernels/cpu/tiles.h"
#include "weights/load_plan.h"

namespace {

using namespace qwen3_mlx;
namespace fs = std::filesystem;

// A layer of these sizes has 67 MB in bfloat16; 17 and the embedding, 1.16 GB.
constexpr int hidden = 2048;
constexpr int ffn = 4096;
constexpr int vocab = 4096;

struct Options {
  int layers = 17;
  int threads = 0;
  bool plain = false;
  fs::path dir = fs::temp_directory_path() / "qwen3-mlx-load-bench";
  bool keep = false;
};

Options parse_options(const std::vector<std::string>& words) {
  Options options;
  for (std::size_t idx = 0; idx < words.size(); ++idx) {
    const auto value = [&] { return words.at(++idx); };
    if (words[idx] == "--layers") {
      options.layers = std::stoi(value());
    } else if (words[idx] == "--threads") {
      options.threads = std::stoi(value());
    } else if (words[idx] == "--plain") {
      options.plain = true;
    } else if (words[idx] == "--dir") {
      options.dir = value();
    } else if (words[idx] == "--keep") {
      options.keep = true;
    } else {
      throw std::invalid_argument("unknown option " + words[idx]);
    }
  }
  return options;
}

std::string layer_prefix(int idx) {
  return "model.layers." + std::to_string(idx) + ".";
}

/// One shard a layer, so that writing needs one layer's memory only.
void write_checkpoint(const fs::path& dir, int n_layers) {
  fs::create_directories(dir);
  const std::vector<std::byte> zeros(
      std::size_t{2} * ffn * hidden, std::byte{0});
  std::string index = "{\"weight_map\":{";
  const auto write = [&](const std::string& file,
                         const std::vector<std::pair<std::string, int>>& rows) {
    std::vector<TensorToSave> tensors;
    for (const auto& [name, out] : rows) {
      const auto n_bytes =
          std::size_t{2} * hidden * static_cast<std::size_t>(out);
      tensors.push_back(
          {name, DType::bf16, {out, hidden}, std::span(zeros).first(n_bytes)});
      index += (index.back() == '{' ? "" : ",") + ("\"" + name + "\":\"") +
          file + "\"";
    }
    save_safetensors(dir / file, tensors);
  };
  write("embedding.safetensors", {{"model.embed_tokens.weight", vocab}});
  for (int idx = 0; idx < n_layers; ++idx) {
    const auto prefix = layer_prefix(idx);
    write(
        "layer-" + std::to_string(idx) + ".safetensors",
        {{prefix + "self_attn.q_proj.weight", hidden},
         {prefix + "self_attn.k_proj.weight", hidden},
         {prefix + "self_attn.v_proj.weight", hidden},
         {prefix + "self_attn.o_proj.weight", hidden},
         {prefix + "mlp.gate_proj.weight", ffn},
         {prefix + "mlp.up_proj.weight", ffn}});
  }
  AtomicFile file(dir / "model.safetensors.index.json");
  file.write(index + "}}");
  file.commit();
}

std::vector<Matrix> take_all(const Weights& w, int n_layers) {
  std::vector<Matrix> out = {w.sub("embed_tokens").matrix(vocab, hidden)};
  for (int idx = 0; idx < n_layers; ++idx) {
    const auto layer = w.sub("layers", idx);
    out.push_back(
        *layer.sub("self_attn")
             .merged(
                 std::array<std::string_view, 3>{"q_proj", "k_proj", "v_proj"},
                 std::array{hidden, hidden, hidden},
                 hidden));
    out.push_back(layer.sub("self_attn").sub("o_proj").matrix(hidden, hidden));
    out.push_back(*layer.sub("mlp").merged(
        std::array<std::string_view, 2>{"gate_proj", "up_proj"},
        std::array{ffn, ffn},
        hidden));
  }
  return out;
}

double peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<double>(usage.ru_maxrss);
#else
  return static_cast<double>(usage.ru_maxrss) * 1024.0; // Linux counts KiB
#endif
}

int run(const Options& options) {
  write_checkpoint(options.dir, options.layers);
  const auto args = parse_model_args(Config::parse(
      "config.json",
      R"({"model_type":"qwen3","hidden_size":2048,"num_hidden_layers":)" +
          std::to_string(options.layers) +
          R"(,"intermediate_size":4096,"num_attention_heads":16,)"
          R"("vocab_size":4096,"torch_dtype":"bfloat16"})"));
  const double before = peak_bytes();
  const auto start = std::chrono::steady_clock::now();
  PlanOptions plan_options;
  if (!options.plain) {
    plan_options.tiles =
        std::make_shared<cpu::Runtime>(options.threads, /* exact */ true);
  }
  LoadPlan plan(Checkpoint::open(options.dir), args, plan_options);
  const auto matrices = take_all(plan.weights().sub("model"), options.layers);
  const auto n_bytes = static_cast<double>(plan.n_bytes());
  int n_calls = 0;
  plan.read(options.threads, [&](std::uint64_t, std::uint64_t) { ++n_calls; });
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  const double ratio = peak_bytes() / n_bytes;
  std::cout << "checkpoint  " << n_bytes / 1e9 << " GB\n"
            << "time        " << seconds.count() << " s, "
            << n_bytes / 1e9 / seconds.count() << " GB/s\n"
            << "progress    " << n_calls << " calls\n"
            << "peak before " << before / 1e9 << " GB\n"
            << "peak        " << peak_bytes() / 1e9 << " GB, " << ratio
            << " x the checkpoint (at most 1.1)\n";
  if (!options.keep) {
    fs::remove_all(options.dir);
  }
  return ratio <= 1.1 && !matrices.empty() ? EXIT_SUCCESS : EXIT_FAILURE;
}

} // namespace

int main(int argc, char** argv) {
  try {
    return run(parse_options({argv + 1, argv + argc}));
  } catch (const std::exception& error) {
    std::cerr << "load_bench: " << error.what() << "\n";
    return EXIT_FAILURE;
  }
}
