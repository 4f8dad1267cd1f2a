// SPDX-License-Identifier: MIT
// Products of activations with packed matrices on the CPU: GB/s of weights and
// GOP/s for shapes of Qwen3-0.6B and 4B, beside the read bandwidth that the
// same threads reach on plain memory. Weights are cycled through copies larger
// than the caches, as a decode step meets them.
//
//   qwen3_mlx_cpu_matmul_bench [--threads N] [--isa NAME] [--bandwidth]
//   [--json]
//
// --bandwidth measures the machine alone.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu_testing.h"

namespace {

namespace cpu = qwen3_mlx::cpu;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

// Larger than the last-level cache of common machines.
constexpr std::size_t kColdBytes = std::size_t{256} << 20;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Median over repetitions: neighbours disturb single runs.
template <class Function>
double median_seconds(int repetitions, Function&& function) {
  std::vector<double> times;
  for (int idx = 0; idx < repetitions; ++idx) {
    const auto start = Clock::now();
    function();
    times.push_back(seconds_since(start));
  }
  std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
  return times[static_cast<std::size_t>(repetitions / 2)];
}

// GB/s of summing a large buffer as integers, window by window: a window takes
// as long as a product, so that neighbours disturb both alike.
double read_bandwidth(qwen3_mlx::ThreadPool& pool) {
  constexpr std::size_t kWindow = std::size_t{16} << 20;
  constexpr std::size_t kChunk = std::size_t{64} << 10;
  const std::vector<std::uint64_t> data(kColdBytes / 8, 1);
  std::vector<std::uint64_t> sums(kWindow / kChunk);
  std::size_t window = 0;
  const double seconds = median_seconds(65, [&] {
    const std::uint64_t* const from =
        data.data() + window * kWindow / 8 % data.size();
    ++window;
    pool.parallel_for(static_cast<int>(sums.size()), [&](int chunk) {
      const auto idx = static_cast<std::size_t>(chunk);
      const std::uint64_t* const part = from + idx * kChunk / 8;
      std::uint64_t lanes[16] = {};
      for (std::size_t at = 0; at < kChunk / 8; at += 16) {
        for (std::size_t lane = 0; lane < 16; ++lane) {
          lanes[lane] += part[at + lane];
        }
      }
      for (const std::uint64_t lane : lanes) {
        sums[idx] += lane;
      }
    });
  });
  if (sums[0] == 0) { // keeps the sums
    std::puts("");
  }
  return static_cast<double>(kWindow) / seconds / 1e9;
}

struct Shape {
  const char* name;
  int rows;
  int cols;
};

struct Format {
  const char* name;
  cpu::SourceFormat format;
  int bits;
  int group;
};

// Products of one shape and format at several numbers of rows.
void run(
    const cpu::Context& context,
    const Shape& shape,
    const Format& format,
    int only_batch,
    Json& table) {
  const cpu::testing::TestMatrix matrix(
      {.rows = shape.rows,
       .cols = shape.cols,
       .format = format.format,
       .bits = format.bits,
       .group = format.group,
       .type = cpu::Float::bf16},
      1);
  const cpu::testing::TestPacked packed(matrix.source);
  const std::size_t n_bytes = packed.data.size();
  const std::size_t num_copies = kColdBytes / n_bytes + 1;
  const std::vector<std::vector<std::byte>> copies(num_copies, packed.data);
  const auto cols = static_cast<std::size_t>(shape.cols);
  const auto rows = static_cast<std::size_t>(shape.rows);
  std::size_t next = 0;
  for (const int batch : {1, 2, 4, 8, 16, 128, 512}) {
    if (only_batch != 0 && batch != only_batch) {
      continue;
    }
    const auto count = static_cast<std::size_t>(batch);
    const auto x = cpu::testing::random_floats(count * cols, 2);
    std::vector<float> out(count * rows);
    const auto once = [&] {
      cpu::linear(
          context,
          {x.data(), cpu::Float::f32, cols},
          batch,
          {packed.layout, copies[next++ % num_copies].data()},
          {},
          {out.data(), cpu::Float::f32, rows});
    };
    once();
    const double seconds = median_seconds(batch > 16 ? 5 : 25, once);
    const double gbs = static_cast<double>(n_bytes) / seconds / 1e9;
    const double gops =
        2e-9 * static_cast<double>(count * rows * cols) / seconds;
    table.push_back(
        {{"shape", shape.name},
         {"format", format.name},
         {"batch", batch},
         {"seconds", seconds},
         {"gb_per_second", gbs},
         {"gop_per_second", gops}});
  }
}

// GOP/s of the best product of few columns, whose operands stay in the caches:
// the kernels' own bound.
double cached_gops(const cpu::Context& context) {
  const cpu::testing::TestMatrix matrix(
      {.rows = 256,
       .cols = 1024,
       .format = cpu::SourceFormat::affine,
       .bits = 4,
       .group = 64,
       .type = cpu::Float::bf16},
      1);
  const cpu::testing::TestPacked packed(matrix.source);
  constexpr int kBatch = 64;
  const auto x = cpu::testing::random_floats(kBatch * 1024, 2);
  std::vector<float> out(kBatch * 256);
  const double seconds = median_seconds(65, [&] {
    cpu::linear(
        context,
        {x.data(), cpu::Float::f32, 1024},
        kBatch,
        {packed.layout, packed.data.data()},
        {},
        {out.data(), cpu::Float::f32, 256});
  });
  return 2e-9 * kBatch * 256 * 1024 / seconds;
}

struct Options {
  int threads = 0;
  std::string isa;
  std::string shape; ///< Part of a name.
  int batch = 0;     ///< 0: all.
  bool bandwidth_only = false;
  bool json = false;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int idx = 1; idx < argc; ++idx) {
    const std::string_view word = argv[idx];
    const bool has_value = idx + 1 < argc;
    if (word == "--threads" && has_value) {
      options.threads = std::atoi(argv[++idx]);
    } else if (word == "--isa" && has_value) {
      options.isa = argv[++idx];
    } else if (word == "--shape" && has_value) {
      options.shape = argv[++idx];
    } else if (word == "--batch" && has_value) {
      options.batch = std::atoi(argv[++idx]);
    } else if (word == "--bandwidth") {
      options.bandwidth_only = true;
    } else if (word == "--json") {
      options.json = true;
    } else {
      std::fprintf(
          stderr,
          "usage: qwen3_mlx_cpu_matmul_bench [--threads N] [--isa NAME] "
          "[--bandwidth] [--shape PART] [--batch N] [--json]\n");
      std::exit(2);
    }
  }
  return options;
}

void print(const Json& found) {
  const double bandwidth = found["read_bandwidth"];
  std::printf(
      "%d threads, %s, read bandwidth %.1f GB/s\n",
      found["threads"].get<int>(),
      found["isa"].get<std::string>().c_str(),
      bandwidth);
  for (const Json& row : found["products"]) {
    const double gbs = row["gb_per_second"];
    std::printf(
        "%-14s %-10s %5d rows %9.1f us %7.1f GB/s %5.0f %% %8.1f GOP/s\n",
        row["shape"].get<std::string>().c_str(),
        row["format"].get<std::string>().c_str(),
        row["batch"].get<int>(),
        row["seconds"].get<double>() * 1e6,
        gbs,
        100 * gbs / bandwidth,
        row["gop_per_second"].get<double>());
  }
}

} // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  qwen3_mlx::ThreadPool pool(options.threads);
  const cpu::KernelTable& kernels = options.isa.empty()
      ? cpu::select_kernels()
      : cpu::find_kernels(options.isa);
  const cpu::Context context{pool, kernels};
  Json found{
      {"threads", pool.size()},
      {"isa", std::string(kernels.name)},
      {"read_bandwidth", read_bandwidth(pool)},
      {"cached_gop_per_second", cached_gops(context)},
      {"products", Json::array()}};
  const Shape shapes[] = {
      {"0.6B gate/up", 6144, 1024},
      {"0.6B down", 1024, 3072},
      {"4B gate/up", 19456, 2560},
      {"4B qkv", 6144, 2560}};
  const Format formats[] = {
      {"4-bit g64", cpu::SourceFormat::affine, 4, 64},
      {"4-bit g32", cpu::SourceFormat::affine, 4, 32},
      {"8-bit g64", cpu::SourceFormat::affine, 8, 64},
      {"mxfp4", cpu::SourceFormat::mxfp4, 4, 32},
      {"bf16", cpu::SourceFormat::plain, 0, 0}};
  for (const Shape& shape : shapes) {
    for (const Format& format : formats) {
      const std::string name = std::string(shape.name) + " " + format.name;
      if (!options.bandwidth_only &&
          name.find(options.shape) != std::string::npos) {
        run(context, shape, format, options.batch, found["products"]);
      }
    }
  }
  if (options.json) {
    std::puts(found.dump(1).c_str());
  } else {
    print(found);
  }
  return 0;
}
