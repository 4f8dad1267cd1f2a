// SPDX-License-Identifier: MIT
// Decode on an NVIDIA GPU, kernels alone: each product of a model's step with
// its share of the copy bandwidth measured in the same run, attention at some
// lengths, and the whole chain of a step as one graph. Weights are random; as
// many copies are read in turn as exceed the second cache. --matmul-rate is
// what the GPU's own library reaches, for who draws shares of it
// (plot_cuda.py).
//
// Usage: qwen3_mlx_cuda_decode_bench [--json FILE] [--matmul-rate TFLOPS]
//            [MODEL...]
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "device_timer.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/warpgroup_few_rows.h"
#include "kernels/cuda/warpgroup_gemm.h"
#include "report.h"

namespace {

using namespace qwen3_mlx::cuda;
using namespace qwen3_mlx::cuda::bench;

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

enum class ExpertParts { sorting, gate_up, down, all };

class Bench {
 public:
  explicit Bench(double matmul_rate) {
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
    report_.emplace(properties.name, copy_rate(launcher_, time_), matmul_rate);
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
      const double values = static_cast<double>(p.layout.rows) * p.layout.cols;
      report_->add(KernelFigure{
          .model = m.name,
          .kernel = p.name + ", " + std::to_string(bits) + " bits",
          .shape = std::to_string(p.layout.rows) + " x " +
              std::to_string(p.layout.cols),
          .rows = rows,
          .overlap = launcher_.overlap,
          .us = us,
          .n_bytes = static_cast<double>(n_bytes),
          .flops = 2 * values * rows});
    }
  }

  // A mixture's sorting, alone and with each of its two products.
  void experts(const Model& m) {
    const auto parts = products_of(m, 4);
    const auto stack = [&](std::size_t part) {
      return parts[part].layout.n_bytes() * static_cast<std::size_t>(m.experts);
    };
    auto* const gate_up = allocate(stack(2), true);
    auto* const down = allocate(stack(3), true);
    auto* const experts =
        reinterpret_cast<std::uint32_t*>(allocate(1 << 16, false));
    for (const int rows : {16, 32, 128, 256}) {
      draw_experts(m, rows, experts);
      for (const ExpertParts which :
           {ExpertParts::sorting, ExpertParts::gate_up, ExpertParts::down}) {
        GemvArgs first = args_of(parts[2], gate_up, x_, y_, rows * 8);
        GemvArgs second = args_of(parts[3], down, x_, y_, rows * 8);
        second.residual = nullptr;
        first.num_experts = second.num_experts = m.experts;
        const double us = time_(
            [&] { run_grouped(first, second, experts, m.experts, which); }, 3);
        const bool has_product = which != ExpertParts::sorting;
        report_->add(KernelFigure{
            .model = m.name,
            .kernel = !has_product              ? "sorting"
                : which == ExpertParts::gate_up ? "sorting, gate+up"
                                                : "sorting, down",
            .shape = std::to_string(m.experts) + " experts",
            .rows = rows,
            .overlap = launcher_.overlap,
            .us = us,
            .n_bytes = has_product ? static_cast<double>(stack(
                                         which == ExpertParts::gate_up ? 2 : 3))
                                   : 0.0,
            .flops = 0});
      }
    }
    for (void* memory :
         {static_cast<void*>(gate_up),
          static_cast<void*>(down),
          static_cast<void*>(experts)}) {
      cudaFree(memory);
    }
  }

  const Report& report() const {
    return *report_;
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

  void attention(
      const Model& m,
      int length,
      int sequences,
      const KvForm& form = {}) {
    const auto bytes = kv_bytes(m, length, form);
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
                    y_,
                    form);
              }
            },
            3) /
        copies;
    cudaFree(kv);
    report_->add(KernelFigure{
        .model = m.name,
        .kernel = form.is_quantized()
            ? "attention, " + std::to_string(form.bits) + " bits"
            : "attention",
        .shape = std::to_string(length) + " positions",
        .rows = sequences,
        .overlap = launcher_.overlap,
        .us = us,
        .n_bytes = 2.0 * static_cast<double>(bytes) * sequences,
        .flops = 4.0 * m.heads * m.head_dim * length * sequences});
  }

  void prefill(const Model& m, int length) {
    const auto bytes = kv_bytes(m, length);
    auto* keys = allocate(2 * bytes, true);
    const double us = time_(
        [&] {
          const PrefillSequence whole{
              .keys = keys,
              .values = keys + bytes,
              .capacity = length,
              .offset = 0,
              .first_row = 0,
              .length = length};
          prefill_attention(
              launcher_,
              {.qkv = x_,
               .queries = normed_,
               .out = y_,
               .num_heads = m.heads,
               .num_kv_heads = m.kv_heads,
               .head_dim = m.head_dim,
               .scale = 0.088F,
               .q_norm = norm_,
               .k_norm = norm_,
               .norm_eps = 1e-6F,
               .periods = periods_},
              std::span(&whole, 1));
        },
        3);
    cudaFree(keys);
    const double row = (2.0 * m.heads + 2.0 * m.kv_heads) * m.head_dim * 2;
    report_->add(KernelFigure{
        .model = m.name,
        .kernel = "prefill attention",
        .shape = std::to_string(length) + " positions",
        .rows = length,
        .overlap = launcher_.overlap,
        .us = us,
        .n_bytes = row * length,
        .flops = 2.0 * m.heads * m.head_dim * length * length});
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
      draw_experts(m, rows, experts);
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
            {.logits = hidden,
             .num_experts = m.experts,
             .k = 8,
             .normalize = true,
             .experts = routed,
             .weights = mix},
            rows);
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
            launcher_,
            {.residual = x,
             .parts = hidden,
             .weights = mix,
             .k = 8,
             .cols = m.hidden,
             .out = x},
            rows);
      }
      run(parts[4], weights.back(), x, qkv, rows);
    };
    const double us = time_(chain, 5);
    report_->add(StepFigure{
        .model = m.name,
        .bits = bits,
        .positions = length,
        .rows = rows,
        .overlap = launcher_.overlap,
        .us = us,
        .weight_bytes = total});
    for (auto* w : weights) {
      cudaFree(w);
    }
    cudaFree(kv);
  }

 private:
  // Eight different experts for each row.
  static void draw_experts(const Model& m, int rows, std::uint32_t* to) {
    std::vector<std::uint32_t> drawn;
    std::mt19937 rng(5);
    std::vector<std::uint32_t> all(static_cast<std::size_t>(m.experts));
    std::iota(all.begin(), all.end(), 0U);
    for (int row = 0; row < rows; ++row) {
      std::shuffle(all.begin(), all.end(), rng);
      drawn.insert(drawn.end(), all.begin(), all.begin() + 8);
    }
    check(
        cudaMemcpy(to, drawn.data(), drawn.size() * 4, cudaMemcpyHostToDevice),
        "copy");
  }

  // Of keys, or of values, of `length` positions.
  static std::size_t
  kv_bytes(const Model& m, int length, const KvForm& form = {}) {
    const auto dim = static_cast<std::size_t>(m.head_dim);
    const std::size_t of_head = form.is_quantized()
        ? dim * static_cast<std::size_t>(form.bits) / 8 +
            4 * dim / static_cast<std::size_t>(form.group)
        : dim * 2;
    return static_cast<std::size_t>(m.kv_heads) *
        static_cast<std::size_t>(length) * of_head;
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
    if (prefers_few_rows(launcher_, p.layout, Float::bf16, rows)) {
      few_rows_gemm(launcher_, args, {});
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
      int num_experts,
      ExpertParts which = ExpertParts::all) const {
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
      if (prefers_few_expert_rows(
              launcher_, args.layout, Float::bf16, tile_rows)) {
        few_rows_gemm(launcher_, args, rows);
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
    if (which == ExpertParts::gate_up || which == ExpertParts::all) {
      multiply(gate_up);
    }
    rows.in_rows = nullptr;
    rows.out_rows = ints + 4096;
    if (which == ExpertParts::down || which == ExpertParts::all) {
      multiply(down);
    }
  }

  void attend(
      const Model& m,
      std::uint8_t* kv,
      int length,
      int rows,
      const std::uint8_t* qkv,
      std::uint8_t* out,
      const KvForm& form = {}) const {
    const auto bytes = kv_bytes(m, length, form);
    const auto groups = static_cast<std::size_t>(m.kv_heads) *
        static_cast<std::size_t>(length) *
        static_cast<std::size_t>(
                            form.is_quantized() ? m.head_dim / form.group : 0) *
        2;
    std::vector<DecodeSequence> sequences;
    for (int i = 0; i < rows; ++i) {
      auto* keys = kv + 2 * bytes * static_cast<std::size_t>(i);
      auto* values = keys + bytes;
      // Codes, then scales, then biases.
      sequences.push_back(
          {.keys = keys,
           .values = values,
           .capacity = length,
           .offset = length - 1,
           .key_scales = values - 2 * groups,
           .key_biases = values - groups,
           .value_scales = values + bytes - 2 * groups,
           .value_biases = values + bytes - groups});
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
         .counters = counters_,
         .kv = form},
        sequences);
  }

  Launcher launcher_;
  Timer time_;
  std::optional<Report> report_;
  std::uint8_t* x_;
  std::uint8_t* y_;
  std::uint8_t* norm_;
  std::uint8_t* normed_;
  std::uint8_t* sorting_;
  float* workspace_;
  unsigned* counters_;
  float* periods_;
};

void measure(Bench& bench, const Model& m) {
  for (const bool overlap : {false, true}) {
    bench.overlap(overlap);
    bench.products(m, 4, 1);
    bench.attention(m, 512, 1);
    bench.step(m, 4, 512, 1);
  }
  for (const int rows : {8, 16, 32, 128, 512}) {
    bench.products(m, 4, rows);
  }
  if (m.experts > 0) {
    bench.experts(m);
  }
  bench.products(m, 8, 1);
  bench.attention(m, 32768, 1);
  for (const int bits : {8, 4}) {
    bench.attention(m, 512, 1, {bits, 64});
    bench.attention(m, 32768, 1, {bits, 64});
    bench.attention(m, 512, 32, {bits, 64});
  }
  bench.attention(m, 512, 32);
  bench.attention(m, 160, 32);
  bench.prefill(m, 4096);
  bench.step(m, 4, 512, 8);
  for (const int rows : {16, 32, 64, 128, 256}) {
    bench.step(m, 4, 128, rows);
  }
  if (m.experts == 0) {
    bench.products(m, 16, 1);
    bench.step(m, 16, 512, 1);
  }
}

struct Options {
  std::string json;
  double matmul_rate = 0;
  std::vector<std::string> wanted;
};

Options options_of(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) {
        throw std::invalid_argument(word + ": expected a value behind it");
      }
      return argv[++i];
    };
    if (word == "--json") {
      options.json = value();
    } else if (word == "--matmul-rate") {
      options.matmul_rate = std::stod(value());
    } else {
      options.wanted.push_back(word);
    }
  }
  return options;
}

} // namespace

int main(int argc, char** argv) {
  try {
    const Options options = options_of(argc, argv);
    const auto& wanted = options.wanted;
    Bench bench(options.matmul_rate);
    if (!wanted.empty() && wanted[0] == "profile") {
      bench.profile();
      return 0;
    }
    for (const auto& m : models) {
      if (wanted.empty() ||
          std::find(wanted.begin(), wanted.end(), m.name) != wanted.end()) {
        measure(bench, m);
        // What has been measured outlives what fails later.
        if (!options.json.empty()) {
          bench.report().write(options.json);
        }
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
