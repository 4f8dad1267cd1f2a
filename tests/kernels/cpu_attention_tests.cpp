// SPDX-License-Identifier: MIT
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu_testing.h"

namespace qwen3_mlx::cpu {
namespace {

using testing::encode;
using testing::random_floats;
using testing::relative_error;

// One sequence's attention, whole or in chunks, with its cache.
struct Problem {
  int num_heads = 4;
  int num_kv_heads = 2;
  int head_dim = 32;
  int length = 150;
  std::optional<int> window;
  Float type = Float::f32;
  std::vector<float> q, k, v, q_weight, k_weight, inv_freq;
  std::vector<std::int32_t> positions;

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
    for (int position = 0; position < length; ++position) {
      positions.push_back(position);
    }
  }

  std::vector<float>
  run(const Context& context, const std::vector<int>& chunks) const {
    const auto dim = std::size_t(head_dim);
    const auto capacity = std::size_t(length) + 13;
    std::vector<std::byte> keys(
        std::size_t(num_kv_heads) * capacity * dim * size_of(type),
        std::byte{0x7f}); // NaN where nothing was written
    auto values = keys;
    const auto q_stride = std::size_t(num_heads) * dim;
    const auto kv_stride = std::size_t(num_kv_heads) * dim;
    std::vector<float> out(std::size_t(length) * q_stride);
    int begin = 0;
    for (const int chunk : chunks) {
      const auto at = std::size_t(begin);
      attention(
          context,
          {.num_heads = num_heads,
           .num_kv_heads = num_kv_heads,
           .head_dim = head_dim,
           .scale = 1.0F / std::sqrt(float(head_dim)),
           .window = window,
           .queries = {q.data() + at * q_stride, Float::f32, q_stride},
           .keys = {k.data() + at * kv_stride, Float::f32, kv_stride},
           .values = {v.data() + at * kv_stride, Float::f32, kv_stride},
           .kv_type = type,
           .q_norm = RmsNorm{{q_weight.data(), Float::f32}, 1e-6F},
           .k_norm = RmsNorm{{k_weight.data(), Float::f32}, 1e-6F},
           .inv_freq = inv_freq.data(),
           .rotary_dim = head_dim,
           .rope_scale = 1.0F,
           .positions = positions.data() + at,
           .sequences =
               {{.kv =
                     {.keys = keys.data(),
                      .values = values.data(),
                      .key_head_stride = capacity * dim,
                      .value_head_stride = capacity * dim,
                      .token_stride = dim},
                 .num_rows = chunk,
                 .first_key_idx = begin}}},
          {out.data() + at * q_stride, Float::f32, q_stride});
      begin += chunk;
    }
    return out;
  }

  std::vector<double> prepared(
      const std::vector<float>& rows,
      int heads,
      const std::vector<float>& weight) const {
    std::vector<double> out(rows.begin(), rows.end());
    const auto dim = std::size_t(head_dim);
    for (std::size_t row = 0; row < std::size_t(length * heads); ++row) {
      double squares = 0;
      double* head = out.data() + row * dim;
      for (std::size_t d = 0; d < dim; ++d) {
        squares += head[d] * head[d];
      }
      for (std::size_t d = 0; d < dim; ++d) {
        head[d] *= weight[d] / std::sqrt(squares / double(dim) + 1e-6);
      }
      for (std::size_t d = 0; d < dim / 2; ++d) {
        const double angle = double(row / std::size_t(heads)) * inv_freq[d];
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
    const auto keys = prepared(k, num_kv_heads, k_weight);
    const auto dim = std::size_t(head_dim);
    std::vector<double> out;
    for (int t = 0; t < length; ++t) {
      for (int head = 0; head < num_heads; ++head) {
        const auto kv_head = std::size_t(head / (num_heads / num_kv_heads));
        const auto at = [&](int u) {
          return (std::size_t(u) * std::size_t(num_kv_heads) + kv_head) * dim;
        };
        const double* query =
            queries.data() + std::size_t(t * num_heads + head) * dim;
        const int first = window ? std::max(0, t + 1 - *window) : 0;
        std::vector<double> weights;
        double total = 0;
        for (int u = first; u <= t; ++u) {
          double score = 0;
          for (std::size_t d = 0; d < dim; ++d) {
            score += query[d] * keys[at(u) + d];
          }
          weights.push_back(std::exp(score / std::sqrt(double(head_dim))));
          total += weights.back();
        }
        for (std::size_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (int u = first; u <= t; ++u) {
            sum += weights[std::size_t(u - first)] * v[at(u) + d];
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
  return all;
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
        const auto out = problem.run({pool, *kernels}, {problem.length});
        EXPECT_LE(relative_error(out, expected), bound)
            << kernels->name << " head " << problem.head_dim;
        if (first.empty()) {
          first = out;
        }
        EXPECT_EQ(out, first) << kernels->name;
      }
    }
  }
}

TEST(CpuAttention, ChunksAndThreadsDoNotChangeBits) {
  for (Problem& problem : problems()) {
    problem.type = Float::bf16;
    for (const KernelTable* kernels : available_kernels()) {
      ThreadPool one(1);
      ThreadPool four(4);
      const auto whole = problem.run({one, *kernels}, {problem.length});
      EXPECT_EQ(problem.run({four, *kernels}, {64, 65, 21}), whole);
      EXPECT_EQ(
          problem.run(
              {four, *kernels},
              std::vector<int>(std::size_t(problem.length), 1)),
          whole);
    }
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
