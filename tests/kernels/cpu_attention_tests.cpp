// SPDX-License-Identifier: MIT
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu_testing.h"

namespace qwen3_mlx::cpu {
namespace {

using testing::random_floats;
using testing::relative_error;

// What is left of `count` floats in MLX's mode affine.
void round_affine(double* x, std::size_t count, int bits) {
  const auto [low, high] = std::minmax_element(x, x + count);
  const auto lowest = float(*low);
  const auto highest = float(*high);
  const auto last = float((1 << bits) - 1);
  const bool low_is_edge = std::fabs(lowest) > std::fabs(highest);
  const float step = std::max((highest - lowest) / last, 1e-7F);
  float scale = low_is_edge ? step : -step;
  const float edge = low_is_edge ? lowest : highest;
  const float steps = std::rint(edge / scale);
  scale = steps != 0 ? edge / steps : scale;
  const float bias = steps != 0 ? edge : 0.0F;
  for (std::size_t idx = 0; idx < count; ++idx) {
    const float code = std::rint((float(x[idx]) - bias) / scale);
    x[idx] = double(std::clamp(code, 0.0F, last)) * scale + bias;
  }
}

// One sequence's attention, whole or in chunks, with its cache.
struct Problem {
  int num_heads = 4;
  int num_kv_heads = 2;
  int head_dim = 32;
  int length = 150;
  std::optional<int> window;
  int keep = 0;
  std::optional<int> recent;
  Float type = Float::f32;
  int bits = 0; // of positions from `dense` on, unless 0
  int group = 0;
  int dense = 0;
  std::vector<float> q, k, v, q_weight, k_weight, inv_freq;

  void fill() {
    const auto n = std::size_t(length);
    const auto dim = std::size_t(head_dim);
    q = random_floats(n * std::size_t(num_heads) * dim, 3);
    k = random_floats(n * std::size_t(num_kv_heads) * dim, 5);
    v = random_floats(n * std::size_t(num_kv_heads) * dim, 7);
    q_weight = random_floats(dim, 9);
    k_weight = random_floats(dim, 11);
    for (int idx = 0; idx < head_dim / 2; ++idx) {
      inv_freq.push_back(float(std::pow(10000.0, -2.0 * idx / head_dim)));
    }
  }

  KvShape shape() const {
    return {num_kv_heads, head_dim, type, bits, group};
  }
  KvShape dense_shape() const {
    return {num_kv_heads, head_dim, type};
  }
  std::size_t q_stride() const {
    return std::size_t(num_heads) * std::size_t(head_dim);
  }
  std::size_t kv_stride() const {
    return std::size_t(num_kv_heads) * std::size_t(head_dim);
  }

  // All but the rows.
  AttentionArgs args() const {
    return {
        .num_heads = num_heads,
        .num_kv_heads = num_kv_heads,
        .head_dim = head_dim,
        .scale = 1.0F / std::sqrt(float(head_dim)),
        .q_norm = RmsNorm{{q_weight.data(), Float::f32}, 1e-6F},
        .k_norm = RmsNorm{{k_weight.data(), Float::f32}, 1e-6F},
        .rotary_dim = head_dim};
  }
  SequenceRows
  sequence(const std::vector<std::byte*>& blocks, int first, int count) const {
    return {
        .kv = shape(),
        .blocks = blocks.data(),
        .num_rows = count,
        .first_position = first,
        .inv_freq = inv_freq.data(),
        .window = window,
        .keep = keep,
        .recent = recent};
  }

  std::vector<float>
  run(const Context& context,
      const std::vector<int>& chunks,
      bool scattered = false) const {
    Pool pool(shape(), length);
    const Pool head(dense_shape(), dense);
    if (scattered) {
      std::mt19937 engine(1);
      std::shuffle(pool.blocks.begin(), pool.blocks.end(), engine);
    }
    std::vector<float> out(std::size_t(length) * q_stride());
    int begin = 0;
    for (const int chunk : chunks) {
      const auto at = std::size_t(begin);
      AttentionArgs step = args();
      step.queries = {q.data() + at * q_stride(), Float::f32, q_stride()};
      step.keys = {k.data() + at * kv_stride(), Float::f32, kv_stride()};
      step.values = {v.data() + at * kv_stride(), Float::f32, kv_stride()};
      step.sequences = {sequence(pool.blocks, begin, chunk)};
      step.sequences[0].head_kv = dense_shape();
      step.sequences[0].head_blocks = head.blocks.data();
      step.sequences[0].head_length = dense;
      attention(
          context,
          step,
          {out.data() + at * q_stride(), Float::f32, q_stride()});
      begin += chunk;
    }
    return out;
  }

  // Memory for blocks, NaN where nothing was written.
  struct Pool {
    std::vector<std::byte> data;
    std::vector<std::byte*> blocks;

    Pool(const KvShape& shape, int length) {
      const auto count =
          std::size_t((length + kKvBlockSize - 1) / kKvBlockSize);
      data.assign(count * shape.block_bytes(), std::byte{0x7f});
      for (std::size_t idx = 0; idx < count; ++idx) {
        blocks.push_back(data.data() + idx * shape.block_bytes());
      }
    }
  };

  std::vector<double> prepared(
      const std::vector<float>& rows,
      int heads,
      const std::vector<float>& weight) const {
    std::vector<double> out(rows.begin(), rows.end());
    const auto dim = std::size_t(head_dim);
    for (std::size_t row = 0; row < std::size_t(length) * std::size_t(heads);
         ++row) {
      double squares = 0;
      double* head = out.data() + row * dim;
      for (std::size_t d = 0; d < dim; ++d) {
        squares += head[d] * head[d];
      }
      for (std::size_t d = 0; d < dim; ++d) {
        head[d] *= weight[d] / std::sqrt(squares / double(dim) + 1e-6);
      }
      for (std::size_t d = 0; d < dim / 2; ++d) {
        const auto position = row / std::size_t(heads);
        const double angle = double(position) * inv_freq[d];
        const double a = head[d];
        const double b = head[d + dim / 2];
        head[d] = a * std::cos(angle) - b * std::sin(angle);
        head[d + dim / 2] = a * std::sin(angle) + b * std::cos(angle);
      }
    }
    return out;
  }

  std::vector<double> definition() const {
    const auto queries = prepared(q, num_heads, q_weight);
    auto keys = prepared(k, num_kv_heads, k_weight);
    std::vector<double> values(v.begin(), v.end());
    const auto dim = std::size_t(head_dim);
    for (auto* numbers : {&keys, &values}) {
      for (std::size_t at = std::size_t(dense) * kv_stride();
           bits != 0 && at < numbers->size();
           at += std::size_t(group)) {
        round_affine(numbers->data() + at, std::size_t(group), bits);
      }
    }
    std::vector<double> out;
    for (int t = 0; t < length; ++t) {
      for (int head = 0; head < num_heads; ++head) {
        const auto kv_head = std::size_t(head / (num_heads / num_kv_heads));
        const auto at = [&](int u) {
          return (std::size_t(u) * std::size_t(num_kv_heads) + kv_head) * dim;
        };
        const double* query =
            queries.data() + std::size_t(t * num_heads + head) * dim;
        const auto is_seen = [&](int u) {
          return (!window || t - u < *window) &&
              (!recent || u < keep || t - u < *recent);
        };
        std::vector<double> weights;
        double total = 0;
        for (int u = 0; u <= t; ++u) {
          if (!is_seen(u)) {
            weights.push_back(0);
            continue;
          }
          double score = 0;
          for (std::size_t d = 0; d < dim; ++d) {
            score += query[d] * keys[at(u) + d];
          }
          weights.push_back(std::exp(score / std::sqrt(double(head_dim))));
          total += weights.back();
        }
        for (std::size_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (int u = 0; u <= t; ++u) {
            sum += weights[std::size_t(u)] * values[at(u) + d];
          }
          out.push_back(sum / total);
        }
      }
    }
    return out;
  }
};

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const auto& [heads, kv_heads, dim] :
       {std::tuple(4, 2, 32),
        {8, 1, 16},
        {3, 3, 48},
        {5, 1, 128},
        {2, 1, 256}}) {
    for (const int window : {0, 5, 70}) {
      Problem problem;
      problem.num_heads = heads;
      problem.num_kv_heads = kv_heads;
      problem.head_dim = dim;
      if (window != 0) {
        problem.window = window;
      }
      problem.fill();
      all.push_back(problem);
    }
  }
  // Sinks and recent positions, with and without a window; several spans.
  for (const int window : {0, 90, 700}) {
    Problem problem;
    problem.length = window == 700 ? 1100 : 150;
    problem.keep = 4;
    problem.recent = window == 700 ? 600 : 60;
    if (window != 0) {
      problem.window = window;
    }
    problem.fill();
    all.push_back(problem);
  }
  Problem long_one;
  long_one.length = 1100;
  long_one.fill();
  all.push_back(long_one);
  return all;
}

// Whether a set rounds to bfloat16 on the way unless it is to be exact, and so
// differs from the others.
bool multiplies_bf16(const KernelTable& kernels) {
  return kernels.name == "avx512bf16";
}

TEST(CpuAttention, AgreesWithItsDefinition) {
  ThreadPool pool(2);
  for (Problem& problem : problems()) {
    const auto expected = problem.definition();
    for (const Float type : {Float::f32, Float::f16, Float::bf16}) {
      problem.type = type;
      const double bound = type == Float::f32 ? 1e-5
          : type == Float::f16                ? 1e-3
                                              : 1e-2;
      std::vector<float> first;
      for (const KernelTable* kernels : available_kernels()) {
        auto out = problem.run({pool, *kernels}, {problem.length});
        EXPECT_LE(relative_error(out, expected), bound)
            << kernels->name << " head " << problem.head_dim;
        if (multiplies_bf16(*kernels)) {
          out = problem.run({pool, *kernels, true}, {problem.length});
        }
        if (first.empty()) {
          first = out;
        }
        EXPECT_EQ(out, first) << kernels->name;
      }
    }
  }
}

// Quantized, wholly or from some position on.
std::vector<Problem> quantized_problems() {
  std::vector<Problem> all;
  for (const auto& [dim, bits, group, dense, length] :
       {std::tuple(32, 8, 32, 0, 150),
        {32, 4, 32, 0, 150},
        {64, 4, 64, 64, 150},
        {128, 8, 64, 70, 200},
        {128, 4, 128, 3, 150},
        {96, 4, 32, 700, 1100},
        {64, 8, 32, 400, 150}}) {
    Problem problem;
    problem.head_dim = dim;
    problem.bits = bits;
    problem.group = group;
    problem.dense = dense;
    problem.length = length;
    problem.fill();
    all.push_back(problem);
  }
  all.back().window = 70;
  return all;
}

TEST(CpuAttention, QuantizedAgreesWithItsDefinition) {
  ThreadPool pool(2);
  for (Problem& problem : quantized_problems()) {
    const auto expected = problem.definition();
    for (const Float type : {Float::f32, Float::bf16}) {
      problem.type = type;
      std::vector<float> first;
      for (const KernelTable* kernels : available_kernels()) {
        auto out = problem.run({pool, *kernels}, {problem.length});
        // A key that lies between two codes may round to the other one.
        EXPECT_LE(
            relative_error(out, expected), type == Float::f32 ? 1e-3 : 2e-2)
            << kernels->name << ' ' << problem.head_dim << ' ' << problem.bits
            << " bits";
        if (multiplies_bf16(*kernels)) {
          out = problem.run({pool, *kernels, true}, {problem.length});
        }
        if (first.empty()) {
          first = out;
        }
        EXPECT_EQ(out, first) << kernels->name;
      }
    }
  }
}

TEST(CpuAttention, ChunksBlocksAndThreadsDoNotChangeBits) {
  auto all = problems();
  for (const Problem& problem : quantized_problems()) {
    all.push_back(problem);
  }
  for (Problem& problem : all) {
    problem.type = Float::bf16;
    for (const KernelTable* kernels : available_kernels()) {
      if (kernels->name == "portable" && problem.length > 200) {
        continue; // the other sets give the same bits, sooner
      }
      ThreadPool one(1);
      ThreadPool four(4);
      const auto whole = problem.run({one, *kernels}, {problem.length});
      EXPECT_EQ(
          problem.run(
              {four, *kernels},
              {64, 65, problem.length - 129},
              /* scattered */ true),
          whole);
      EXPECT_EQ(
          problem.run(
              {four, *kernels},
              std::vector<int>(std::size_t(problem.length), 1),
              /* scattered */ true),
          whole);
    }
  }
}

// Prefill and decode of sequences of unequal lengths in one call.
TEST(CpuAttention, NeighboursDoNotChangeBits) {
  ThreadPool threads(3);
  Problem problem;
  problem.length = 1500;
  problem.type = Float::bf16;
  problem.fill();
  for (const KernelTable* kernels : available_kernels()) {
    if (kernels->name == "portable") {
      continue;
    }
    const Context context{threads, *kernels};
    const auto alone = problem.run(context, {problem.length});
    // A prompt's last chunk, three decodes, one of them long, a whole prompt.
    struct Part {
      int first;
      int count;
    };
    const std::vector<Part> parts{
        {100, 70}, {64, 1}, {1499, 1}, {3, 1}, {0, 40}};
    std::vector<Problem::Pool> pools;
    std::vector<float> q;
    std::vector<float> k;
    std::vector<float> v;
    AttentionArgs step = problem.args();
    std::vector<float> expected;
    for (const Part& part : parts) {
      const int first = part.first;
      const int count = part.count;
      pools.emplace_back(
          KvShape{problem.num_kv_heads, problem.head_dim, problem.type},
          first + count);
      AttentionArgs before = problem.args();
      std::vector<float> unused(std::size_t(first) * problem.q_stride());
      before.queries = {problem.q.data(), Float::f32, problem.q_stride()};
      before.keys = {problem.k.data(), Float::f32, problem.kv_stride()};
      before.values = {problem.v.data(), Float::f32, problem.kv_stride()};
      before.sequences = {problem.sequence(pools.back().blocks, 0, first)};
      attention(
          context, before, {unused.data(), Float::f32, problem.q_stride()});
      const auto take = [&](const std::vector<float>& from,
                            std::size_t stride,
                            std::vector<float>& to) {
        const auto* const begin = from.data() + std::size_t(first) * stride;
        to.insert(to.end(), begin, begin + std::size_t(count) * stride);
      };
      take(problem.q, problem.q_stride(), q);
      take(problem.k, problem.kv_stride(), k);
      take(problem.v, problem.kv_stride(), v);
      take(alone, problem.q_stride(), expected);
    }
    for (std::size_t idx = 0; idx < parts.size(); ++idx) {
      step.sequences.push_back(problem.sequence(
          pools[idx].blocks, parts[idx].first, parts[idx].count));
    }
    step.queries = {q.data(), Float::f32, problem.q_stride()};
    step.keys = {k.data(), Float::f32, problem.kv_stride()};
    step.values = {v.data(), Float::f32, problem.kv_stride()};
    std::vector<float> out(q.size());
    attention(context, step, {out.data(), Float::f32, problem.q_stride()});
    EXPECT_EQ(out, expected) << kernels->name;
  }
}

TEST(CpuAttention, NoRows) {
  ThreadPool pool(2);
  Problem problem;
  problem.length = 0;
  problem.fill();
  EXPECT_TRUE(problem.run({pool, select_kernels()}, {0}).empty());
}

} // namespace
} // namespace qwen3_mlx::cpu
