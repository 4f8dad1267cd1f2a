// SPDX-License-Identifier: MIT
// Decode on an NVIDIA GPU, kernels alone: each product of a model's step with
// its share of the copy bandwidth measured in the same run, attention at some
// lengths, and the whole chain of a step as one graph. Weights are random; as
// many copies are read in turn as exceed the second cache.
//
// Usage: qwen3_mlx_cuda_decode_bench [MODEL...]
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/warpgroup_gemm.h"

namespace {

using namespace qwen3_mlx::cuda;

struct Model {
  std::string name;
  int hidden;
  int layers;
  int intermediate;
  int heads;
  int kv_heads;
  int vocab = 151936;
  int head_dim = 128;
  int experts = 0; // with intermediate of one of them, 8 a token
};

const std::vector<Model> models{
    {"0.6B", 1024, 28, 3072, 16, 8},
    {"4B", 2560, 36, 9728, 32, 8},
    {"8B", 4096, 36, 12288, 32, 8},
    {"30B-A3B", 2048, 48, 768, 32, 4, 151936, 128, 128}};

struct Timer {
  Launcher launcher;

  // Microseconds of one run of `work`, as a graph; the median of five.
  double operator()(const std::function<void()>& work, int repeats) const {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(
        cudaStreamBeginCapture(
            launcher.stream, cudaStreamCaptureModeThreadLocal),
        "capture");
    work();
    check(cudaStreamEndCapture(launcher.stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    cudaEvent_t begin;
    cudaEvent_t end;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    for (int i = 0; i < 3; ++i) {
      check(cudaGraphLaunch(exec, launcher.stream), "launch");
    }
    check(cudaStreamSynchronize(launcher.stream), "run");
    std::vector<double> times;
    for (int trial = 0; trial < 5; ++trial) {
      check(cudaEventRecord(begin, launcher.stream), "record");
      for (int i = 0; i < repeats; ++i) {
        check(cudaGraphLaunch(exec, launcher.stream), "launch");
      }
      check(cudaEventRecord(end, launcher.stream), "record");
      check(cudaEventSynchronize(end), "run");
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin, end), "time");
      times.push_back(double{milliseconds} * 1e3 / repeats);
    }
    std::sort(times.begin(), times.end());
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return times[times.size() / 2];
  }
};

// Memory that lives as long as the program.
std::uint8_t* allocate(std::size_t n_bytes, bool random) {
  static std::vector<std::uint8_t> noise;
  if (noise.empty()) {
    // bfloat16 near 0.01, any code.
    std::uint32_t state = 1;
    noise.resize(std::size_t{1} << 24);
    for (std::size_t i = 0; i < noise.size(); i += 2) {
      state = state * 1664525 + 1013904223;
      noise[i] = static_cast<std::uint8_t>(state >> 24);
      noise[i + 1] = (state >> 16 & 1) != 0 ? 0x3c : 0xbc;
    }
  }
  void* data = nullptr;
  check(cudaMalloc(&data, n_bytes), "allocate");
  if (random) {
    auto* const bytes = static_cast<std::uint8_t*>(data);
    std::size_t filled = std::min(noise.size(), n_bytes);
    check(
        cudaMemcpy(bytes, noise.data(), filled, cudaMemcpyHostToDevice),
        "fill");
    while (filled < n_bytes) {
      const std::size_t more = std::min(filled, n_bytes - filled);
      check(
          cudaMemcpy(bytes + filled, bytes, more, cudaMemcpyDeviceToDevice),
          "fill");
      filled += more;
    }
  } else {
    check(cudaMemset(data, 0, n_bytes), "fill");
  }
  return static_cast<std::uint8_t*>(data);
}

double copy_rate(const Launcher& launcher, const Timer& time) {
  const std::size_t n_bytes = std::size_t{2} << 30;
  auto* from = allocate(n_bytes, true);
  auto* to = allocate(n_bytes, false);
  const double us = time(
      [&] {
        check(
            cudaMemcpyAsync(
                to, from, n_bytes, cudaMemcpyDeviceToDevice, launcher.stream),
            "copy");
      },
      3);
  cudaFree(from);
  cudaFree(to);
  return 2.0 * static_cast<double>(n_bytes) / us * 1e-3;
}

struct Product {
  std::string name;
  PackedLayout layout;
  bool norm;
  bool residual;
  bool gated;
};

std::vector<Product> products_of(const Model& m, int bits) {
  const auto layout = [&](int rows, int cols) {
    return PackedLayout{rows, cols, bits, bits == 16 ? 0 : 64, Float::bf16};
  };
  std::vector<Product> all{
      {"qkv",
       layout((m.heads + 2 * m.kv_heads) * m.head_dim, m.hidden),
       true,
       false,
       false},
      {"out", layout(m.hidden, m.heads * m.head_dim), false, true, false},
      {"gate+up", layout(2 * m.intermediate, m.hidden), true, false, true},
      {"down", layout(m.hidden, m.intermediate), false, true, false},
      {"lm_head", layout(m.vocab, m.hidden), true, false, false}};
  return all;
}

class Bench {
 public:
  Bench() {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "device");
    check(
        cudaStreamCreateWithFlags(&launcher_.stream, cudaStreamNonBlocking),
        "stream");
    launcher_.num_sms = properties.multiProcessorCount;
    launcher_.shared_bytes =
        static_cast<int>(properties.sharedMemPerBlockOptin);
    launcher_.has_warpgroups = properties.major == 9 && has_warpgroup_code();
    time_ = Timer{launcher_};
    rate_ = copy_rate(launcher_, time_);
    std::printf("%s, copy %.0f GB/s\n", properties.name, rate_);
    x_ = allocate(std::size_t{64} << 20, true);
    y_ = allocate(std::size_t{256} << 20, true);
    norm_ = allocate(1 << 20, true);
    normed_ = allocate(std::size_t{1024} << 20, false);
    sorting_ = allocate(std::size_t{16} << 20, false);
    workspace_ =
        reinterpret_cast<float*>(allocate(std::size_t{256} << 20, false));
    counters_ = reinterpret_cast<unsigned*>(allocate(1 << 20, false));
    std::vector<float> periods(128, 10000.0F);
    periods_ = reinterpret_cast<float*>(allocate(512, false));
    check(
        cudaMemcpy(periods_, periods.data(), 512, cudaMemcpyHostToDevice),
        "copy");
  }

  void overlap(bool on) {
    launcher_.overlap = on;
    time_.launcher = launcher_;
  }

  void products(const Model& m, int bits, int rows) {
    for (const auto& p : products_of(m, bits)) {
      if (m.experts > 0 && (p.gated || p.name == "down")) {
        continue;
      }
      const std::size_t n_bytes = p.layout.n_bytes();
      const int copies = static_cast<int>(
          std::clamp<std::size_t>(400'000'000 / n_bytes, 2, 100));
      auto* weights =
          allocate(n_bytes * static_cast<std::size_t>(copies), true);
      const double us =
          time_(
              [&] {
                for (int i = 0; i < copies; ++i) {
                  run(p,
                      weights + n_bytes * static_cast<std::size_t>(i),
                      x_,
                      y_,
                      rows);
                }
              },
              3) /
          copies;
      cudaFree(weights);
      const double gb_s = static_cast<double>(n_bytes) / us * 1e-3;
      std::printf(
          "%-8s %2d bit %-8s [%6d,%6d] x%-2d %s %8.2f us %6.0f GB/s %5.1f%% of "
          "copy\n",
          m.name.c_str(),
          bits,
          p.name.c_str(),
          p.layout.rows,
          p.layout.cols,
          rows,
          launcher_.overlap ? "overlap" : "plain  ",
          us,
          gb_s,
          100 * gb_s / rate_);
    }
  }

  /// One launch of each kind, for a profiler.
  void profile() {
    for (const int rows : {32, 128}) {
      const auto p = products_of(models[1], 4)[3];
      auto* weight = allocate(p.layout.n_bytes(), true);
      run(p, weight, x_, y_, rows);
    }
    for (const auto& p : products_of(models[1], 4)) {
      auto* weight = allocate(p.layout.n_bytes(), true);
      run(p, weight, x_, y_, 1);
    }
    auto* kv = allocate(2 * kv_bytes(models[1], 512), true);
    attend(models[1], kv, 512, 1, x_, y_);
    check(cudaDeviceSynchronize(), "run");
  }

  void attention(const Model& m, int length, int sequences) {
    const auto bytes = kv_bytes(m, length);
    const int copies = static_cast<int>(std::clamp<std::size_t>(
        400'000'000 / (2 * bytes * static_cast<std::size_t>(sequences)),
        2,
        50));
    auto* kv = allocate(
        2 * bytes * static_cast<std::size_t>(sequences * copies), true);
    const double us =
        time_(
            [&] {
              for (int i = 0; i < copies; ++i) {
                attend(
                    m,
                    kv + 2 * bytes * static_cast<std::size_t>(i * sequences),
                    length,
                    sequences,
                    x_,
                    y_);
              }
            },
            3) /
        copies;
    cudaFree(kv);
    const double read =
        2.0 * static_cast<double>(bytes) * sequences / us * 1e-3;
    std::printf(
        "%-8s attention %6d positions x%-2d %s %8.2f us %6.0f GB/s %5.1f%% of "
        "copy\n",
        m.name.c_str(),
        length,
        sequences,
        launcher_.overlap ? "overlap" : "plain  ",
        us,
        read,
        100 * read / rate_);
  }

  void step(const Model& m, int bits, int length, int rows) {
    auto parts = products_of(m, bits);
    std::vector<std::uint8_t*> weights;
    double total = 0;
    for (int layer = 0; layer < m.layers; ++layer) {
      for (std::size_t i = 0; i < 4; ++i) {
        const bool of_experts = m.experts > 0 && i >= 2;
        const std::size_t n_bytes = parts[i].layout.n_bytes() *
            static_cast<std::size_t>(of_experts ? m.experts : 1);
        weights.push_back(allocate(n_bytes, true));
        total += static_cast<double>(parts[i].layout.n_bytes()) *
            (of_experts ? 8 * rows : 1);
      }
    }
    weights.push_back(allocate(parts[4].layout.n_bytes(), true));
    total += static_cast<double>(parts[4].layout.n_bytes());
    const auto bytes = kv_bytes(m, length);
    auto* kv =
        allocate(2 * bytes * static_cast<std::size_t>(rows * m.layers), true);
    const PackedLayout router{128, m.hidden, 16, 0, Float::bf16};
    auto* router_weight = allocate(router.n_bytes(), true);
    // Random weights route all rows alike: the experts are drawn.
    auto* routed = reinterpret_cast<std::uint32_t*>(allocate(1 << 16, false));
    auto* experts = reinterpret_cast<std::uint32_t*>(allocate(1 << 16, false));
    if (m.experts > 0) {
      std::vector<std::uint32_t> drawn;
      std::mt19937 rng(5);
      std::vector<std::uint32_t> all(static_cast<std::size_t>(m.experts));
      std::iota(all.begin(), all.end(), 0U);
      for (int row = 0; row < rows; ++row) {
        std::shuffle(all.begin(), all.end(), rng);
        drawn.insert(drawn.end(), all.begin(), all.begin() + 8);
      }
      check(
          cudaMemcpy(
              experts, drawn.data(), drawn.size() * 4, cudaMemcpyHostToDevice),
          "copy");
    }
    auto* mix = reinterpret_cast<float*>(allocate(1 << 16, false));
    std::uint8_t* x = x_;
    std::uint8_t* qkv = y_;
    std::uint8_t* out = y_ + (64 << 20);
    std::uint8_t* hidden = y_ + (128 << 20);
    std::uint8_t* pairs = y_ + (160 << 20);
    const auto chain = [&] {
      for (int layer = 0; layer < m.layers; ++layer) {
        auto* const* w = weights.data() + layer * 4;
        run(parts[0], w[0], x, qkv, rows);
        attend(
            m,
            kv + 2 * bytes * static_cast<std::size_t>(layer * rows),
            length,
            rows,
            qkv,
            out);
        run(parts[1], w[1], out, x, rows);
        if (m.experts == 0) {
          run(parts[2], w[2], x, hidden, rows);
          run(parts[3], w[3], hidden, x, rows);
          continue;
        }
        run({"router", router, true, false, false},
            router_weight,
            x,
            hidden,
            rows);
        route(
            launcher_,
            hidden,
            Float::bf16,
            rows,
            m.experts,
            8,
            true,
            routed,
            mix);
        GemvArgs args = args_of(parts[2], w[2], x, pairs, rows * 8);
        args.experts = experts;
        args.num_experts = m.experts;
        args.rows_per_x = 8;
        GemvArgs down = args_of(parts[3], w[3], pairs, hidden, rows * 8);
        down.residual = nullptr;
        down.num_experts = m.experts;
        if (rows * 8 < min_grouped_pairs(launcher_, m.experts)) {
          down.experts = experts;
          gemv(launcher_, args);
          gemv(launcher_, down);
        } else {
          args.experts = nullptr;
          run_grouped(args, down, experts, m.experts);
        }
        weighted_sum(
            launcher_, x, hidden, mix, Float::bf16, rows, 8, m.hidden, x);
      }
      run(parts[4], weights.back(), x, qkv, rows);
    };
    const double us = time_(chain, 5);
    std::printf(
        "STEP %-8s %2d bit, %5d positions, %2d rows, %s %9.1f us = %7.0f "
        "tokens/s, weights at %5.0f GB/s\n",
        m.name.c_str(),
        bits,
        length,
        rows,
        launcher_.overlap ? "overlap" : "plain  ",
        us,
        rows * 1e6 / us,
        total / us * 1e-3);
    std::fflush(stdout);
    for (auto* w : weights) {
      cudaFree(w);
    }
    cudaFree(kv);
  }

 private:
  static std::size_t kv_bytes(const Model& m, int length) {
    return static_cast<std::size_t>(m.kv_heads) *
        static_cast<std::size_t>(length) *
        static_cast<std::size_t>(m.head_dim) * 2;
  }

  GemvArgs args_of(
      const Product& p,
      const std::uint8_t* weight,
      const std::uint8_t* x,
      std::uint8_t* y,
      int rows) const {
    return {
        .layout = p.layout,
        .weight = weight,
        .x = x,
        .y = y,
        .num_rows = rows,
        .norm = p.norm ? norm_ : nullptr,
        .norm_eps = 1e-6F,
        .residual = p.residual ? y : nullptr,
        .gated = p.gated};
  }

  void
  run(const Product& p,
      const std::uint8_t* weight,
      const std::uint8_t* x,
      std::uint8_t* y,
      int rows) const {
    GemvArgs args = args_of(p, weight, x, y, rows);
    const bool by_warpgroups =
        supports_warpgroup_gemm(launcher_, p.layout, Float::bf16);
    if (rows <= (by_warpgroups ? 5 : kMaxGemvRows)) {
      gemv(launcher_, args);
      return;
    }
    if (by_warpgroups) {
      const ArrangedForm form = arranged_form(p.layout, rows);
      arrange_rows(
          launcher_,
          {.layout = p.layout,
           .form = form,
           .x = args.x,
           .num_rows = rows,
           .norm = args.norm,
           .norm_eps = 1e-6F,
           .to = normed_});
      args.norm = nullptr;
      warpgroup_gemm(launcher_, args, form, normed_, {}, workspace_, counters_);
      return;
    }
    norm_first(args, rows);
    gemm(launcher_, args, workspace_, counters_);
  }

  void norm_first(GemvArgs& args, int rows) const {
    if (args.norm != nullptr) {
      rms_norm(
          launcher_,
          args.x,
          args.norm,
          1e-6F,
          Float::bf16,
          rows,
          args.layout.cols,
          normed_);
      args.x = normed_;
      args.norm = nullptr;
    }
  }

  // Products of rows sorted by expert.
  void run_grouped(
      GemvArgs gate_up,
      GemvArgs down,
      const std::uint32_t* experts,
      int num_experts) const {
    const int pairs = gate_up.num_rows;
    const bool arranges =
        supports_warpgroup_gemm(launcher_, gate_up.layout, Float::bf16);
    const int tile_rows = arranges
        ? arranged_form(gate_up.layout, expert_rows(pairs, num_experts))
              .tile_rows
        : expert_tile_rows(pairs, num_experts);
    auto* const ints = reinterpret_cast<int*>(sorting_);
    GroupedRows rows{
        .tiles = reinterpret_cast<const ExpertTile*>(ints + (1 << 20)),
        .num_tiles = ints,
        .tile_rows = tile_rows,
        .in_rows = ints + 4096,
        .rows_per_x = 8};
    sort_by_expert(
        launcher_,
        experts,
        pairs,
        num_experts,
        tile_rows,
        ints + 4096,
        reinterpret_cast<ExpertTile*>(ints + (1 << 20)),
        ints);
    const auto multiply = [&](GemvArgs args) {
      if (!arranges) {
        norm_first(args, pairs / 8);
        grouped_gemm(launcher_, args, rows);
        return;
      }
      const ArrangedForm form = arranged_form(args.layout, tile_rows);
      arrange_rows(
          launcher_,
          {.layout = args.layout,
           .form = form,
           .x = args.x,
           .num_rows = pairs,
           .norm = args.norm,
           .norm_eps = 1e-6F,
           .grouped = rows,
           .to = normed_},
          max_expert_tiles(pairs, num_experts, tile_rows));
      args.norm = nullptr;
      warpgroup_gemm(
          launcher_, args, form, normed_, rows, workspace_, counters_);
    };
    multiply(gate_up);
    rows.in_rows = nullptr;
    rows.out_rows = ints + 4096;
    multiply(down);
  }

  void attend(
      const Model& m,
      std::uint8_t* kv,
      int length,
      int rows,
      const std::uint8_t* qkv,
      std::uint8_t* out) const {
    const auto bytes = kv_bytes(m, length);
    std::vector<DecodeSequence> sequences;
    for (int i = 0; i < rows; ++i) {
      auto* keys = kv + 2 * bytes * static_cast<std::size_t>(i);
      sequences.push_back({keys, keys + bytes, length, length - 1});
    }
    decode_attention(
        launcher_,
        {.qkv = qkv,
         .out = out,
         .num_heads = m.heads,
         .num_kv_heads = m.kv_heads,
         .head_dim = m.head_dim,
         .scale = 0.088F,
         .q_norm = norm_,
         .k_norm = norm_,
         .norm_eps = 1e-6F,
         .periods = periods_,
         .workspace = workspace_,
         .counters = counters_},
        sequences);
  }

  Launcher launcher_;
  Timer time_;
  double rate_ = 1;
  std::uint8_t* x_;
  std::uint8_t* y_;
  std::uint8_t* norm_;
  std::uint8_t* normed_;
  std::uint8_t* sorting_;
  float* workspace_;
  unsigned* counters_;
  float* periods_;
};

} // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  try {
    Bench bench;
    if (!wanted.empty() && wanted[0] == "profile") {
      bench.profile();
      return 0;
    }
    for (const auto& m : models) {
      if (!wanted.empty() &&
          std::find(wanted.begin(), wanted.end(), m.name) == wanted.end()) {
        continue;
      }
      for (const bool overlap : {false, true}) {
        bench.overlap(overlap);
        bench.products(m, 4, 1);
        bench.attention(m, 512, 1);
        bench.step(m, 4, 512, 1);
      }
      bench.products(m, 4, 8);
      bench.products(m, 4, 32);
      bench.products(m, 4, 128);
      bench.attention(m, 32768, 1);
      bench.attention(m, 512, 32);
      bench.step(m, 4, 512, 8);
      for (const int rows : {16, 32, 64, 128, 256}) {
        bench.step(m, 4, 128, rows);
      }
      if (m.experts == 0) {
        bench.step(m, 16, 512, 1);
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
