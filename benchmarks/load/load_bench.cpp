// SPDX-License-Identifier: MIT
// Loads a generated checkpoint of at least 1 GB by plan and compares the peak
// memory of the process with the checkpoint's size:
//
//   load_bench [--layers N] [--threads N] [--bits 4|8] [--plain] [--cuda]
//              [--dir DIR] [--keep]
//
// Matrices are packed for the CPU kernels while they are read, as a user's are,
// or with --plain left as MLX's operations want them, or with --cuda packed
// into the GPU's memory. They are in bfloat16 unless --bits is given (affine,
// groups of 64). The rate is compared with that of reading the files alone, on
// as many threads, from the page cache, where writing has left them.
// Exits with 1 when the peak is above 1.1 times the checkpoint.
#include <sys/resource.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "formats/safetensors.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cuda/runtime.h"
#include "weights/load_plan.h"

namespace {

using namespace qwen3_mlx;
namespace fs = std::filesystem;

// A layer of these sizes has 67 MB in bfloat16; 17 and the embedding, 1.16 GB.
constexpr int hidden = 2048;
constexpr int ffn = 4096;
constexpr int vocab = 4096;
constexpr int group_size = 64;

struct Options {
  int layers = 17;
  int threads = 0;
  int bits = 16;
  bool plain = false;
  bool cuda = false;
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
    } else if (words[idx] == "--bits") {
      options.bits = std::stoi(value());
    } else if (words[idx] == "--cuda") {
      options.cuda = true;
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
void write_checkpoint(const fs::path& dir, int n_layers, int bits) {
  fs::create_directories(dir);
  const std::vector<std::byte> zeros(
      std::size_t{2} * ffn * hidden, std::byte{0});
  std::string index = "{\"weight_map\":{";
  const auto write = [&](const std::string& file,
                         const std::vector<std::pair<std::string, int>>& rows) {
    std::vector<TensorToSave> tensors;
    for (const auto& [name, out] : rows) {
      const auto add = [&](const std::string& part, DType type, int cols) {
        const auto n_bytes = (type == DType::bf16 ? std::size_t{2} : 4) *
            static_cast<std::size_t>(cols) * static_cast<std::size_t>(out);
        tensors.push_back(
            {name + part, type, {out, cols}, std::span(zeros).first(n_bytes)});
        index += (index.back() == '{' ? "" : ",") +
            ("\"" + name + part + "\":\"") + file + "\"";
      };
      if (bits == 16) {
        add(".weight", DType::bf16, hidden);
      } else {
        add(".weight", DType::u32, hidden * bits / 32);
        add(".scales", DType::bf16, hidden / group_size);
        add(".biases", DType::bf16, hidden / group_size);
      }
    }
    save_safetensors(dir / file, tensors);
  };
  write("embedding.safetensors", {{"model.embed_tokens", vocab}});
  for (int idx = 0; idx < n_layers; ++idx) {
    const auto prefix = layer_prefix(idx);
    write(
        "layer-" + std::to_string(idx) + ".safetensors",
        {{prefix + "self_attn.q_proj", hidden},
         {prefix + "self_attn.k_proj", hidden},
         {prefix + "self_attn.v_proj", hidden},
         {prefix + "self_attn.o_proj", hidden},
         {prefix + "mlp.gate_proj", ffn},
         {prefix + "mlp.up_proj", ffn}});
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

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

/// Seconds in which threads read all files of a folder, piece by piece, into
/// memory that was touched before.
double time_reading(const fs::path& dir, int n_threads) {
  constexpr std::uint64_t piece = std::uint64_t{1} << 20;
  std::vector<File> files;
  std::vector<std::pair<std::size_t, std::uint64_t>> pieces;
  for (const auto& entry : fs::directory_iterator(dir)) {
    files.emplace_back(entry.path());
    for (std::uint64_t at = 0; at + piece <= files.back().size(); at += piece) {
      pieces.emplace_back(files.size() - 1, at);
    }
  }
  std::vector<std::byte> memory(pieces.size() * piece);
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (auto idx = next++; idx < pieces.size(); idx = next++) {
      files[pieces[idx].first].read(
          pieces[idx].second, piece, memory.data() + idx * piece);
    }
  };
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int idx = 0; idx < n_threads; ++idx) {
    threads.emplace_back(work);
  }
  for (auto& thread : threads) {
    thread.join();
  }
  return seconds_since(start);
}

PlanOptions plan_options(const Options& options) {
  PlanOptions plan;
  if (options.cuda) {
    plan.blocks = cuda::make_runtime(/* exact */ false);
  } else if (!options.plain) {
    plan.tiles =
        std::make_shared<cpu::Runtime>(options.threads, /* exact */ true);
  }
  return plan;
}

int run(const Options& options) {
  write_checkpoint(options.dir, options.layers, options.bits);
  const auto args = parse_model_args(Config::parse(
      "config.json",
      R"({"model_type":"qwen3","hidden_size":2048,"num_hidden_layers":)" +
          std::to_string(options.layers) +
          R"(,"intermediate_size":4096,"num_attention_heads":16,)"
          R"("vocab_size":4096,"torch_dtype":"bfloat16")" +
          (options.bits == 16 ? "}"
                              : R"(,"quantization":{"group_size":64,"bits":)" +
                   std::to_string(options.bits) + "}}")));
  const int n_threads = options.threads > 0
      ? options.threads
      : static_cast<int>(std::thread::hardware_concurrency());
  const auto how = plan_options(options);
  const double before = peak_bytes();
  const auto start = std::chrono::steady_clock::now();
  LoadPlan plan(Checkpoint::open(options.dir), args, how);
  const auto matrices = take_all(plan.weights().sub("model"), options.layers);
  const auto n_bytes = static_cast<double>(plan.n_bytes());
  const double planning = seconds_since(start);
  int n_calls = 0;
  plan.read(options.threads, [&](std::uint64_t, std::uint64_t) { ++n_calls; });
  const double seconds = seconds_since(start);
  const double peak = peak_bytes();
  const double ratio = peak / n_bytes;
  const double reading = time_reading(options.dir, n_threads);
  std::cout << "checkpoint  " << n_bytes / 1e9 << " GB\n"
            << "time        " << seconds << " s, " << n_bytes / 1e9 / seconds
            << " GB/s, " << reading / seconds << " of reading alone ("
            << n_bytes / 1e9 / reading << " GB/s)\n"
            << "of these    " << planning << " s for the plan and its memory\n"
            << "progress    " << n_calls << " calls\n"
            << "peak before " << before / 1e9 << " GB\n"
            << "peak        " << peak / 1e9 << " GB, " << ratio
            << " x the checkpoint (at most 1.1)\n";
  if (!options.keep) {
    fs::remove_all(options.dir);
  }
  return (options.cuda || ratio <= 1.1) && !matrices.empty() ? EXIT_SUCCESS
                                                             : EXIT_FAILURE;
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
