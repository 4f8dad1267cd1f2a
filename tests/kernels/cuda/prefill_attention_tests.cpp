// SPDX-License-Identifier: MIT
// Attention of many new positions against float64, and against itself however
// the positions are cut.
#include "kernels/cuda/prefill_attention.h"

#include <algorithm>
#include <memory>

#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/device_data.h"

namespace qwen3_mlx::cuda {
namespace {

struct Piece {
  int offset;
  int length;
};

struct Case {
  Float type = Float::bf16;
  int num_heads = 8;
  int num_kv_heads = 2;
  int head_dim = 128;
  bool norm = true;
  int window = 0;
  std::vector<Piece> sequences;

  std::size_t row_size() const { // of qkv
    return static_cast<std::size_t>((num_heads + 2 * num_kv_heads) * head_dim);
  }
  std::size_t out_size() const {
    return static_cast<std::size_t>(num_heads * head_dim);
  }
};

class PrefillAttentionTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  // Keys and values of each sequence, random where others have written.
  struct Caches {
    std::vector<int> capacities;
    std::vector<Numbers> keys;
    std::vector<Numbers> values;
    std::vector<std::unique_ptr<DeviceArray<std::uint8_t>>> memory;
  };

  Caches make_caches(const Case& c) {
    Caches caches;
    for (const auto& [offset, length] : c.sequences) {
      const int capacity = offset + length + offset % 3;
      const auto size =
          static_cast<std::size_t>(capacity * c.num_kv_heads * c.head_dim);
      caches.capacities.push_back(capacity);
      for (auto* of : {&caches.keys, &caches.values}) {
        of->push_back(Numbers::random(rng_, c.type, size));
        caches.memory.push_back(
            std::make_unique<DeviceArray<std::uint8_t>>(of->back().bytes));
      }
    }
    return caches;
  }

  struct Weights {
    Numbers q_norm;
    Numbers k_norm;
  };
  Weights make_weights(const Case& c) {
    const auto D = static_cast<std::size_t>(c.head_dim);
    return {
        Numbers::random(rng_, c.type, D, 0.2F, 1),
        Numbers::random(rng_, c.type, D, 0.2F, 1)};
  }

  std::vector<std::uint8_t>
  run(const Case& c,
      const std::vector<std::uint8_t>& qkv,
      const Weights& weights,
      const Caches& caches) const {
    const DeviceArray<std::uint8_t> qkv_d(qkv);
    const DeviceArray<std::uint8_t> q_norm(weights.q_norm.bytes);
    const DeviceArray<std::uint8_t> k_norm(weights.k_norm.bytes);
    const DeviceArray<float> periods(rope_periods(c.head_dim));
    const std::size_t n_bytes = qkv.size() / c.row_size() * c.out_size();
    const DeviceArray<std::uint8_t> out(n_bytes);
    const DeviceArray<std::uint8_t> queries(n_bytes);
    std::vector<PrefillSequence> sequences;
    int row = 0;
    for (std::size_t s = 0; s < c.sequences.size(); ++s) {
      sequences.push_back(
          {.keys = caches.memory[2 * s]->get(),
           .values = caches.memory[2 * s + 1]->get(),
           .capacity = caches.capacities[s],
           .offset = c.sequences[s].offset,
           .first_row = row,
           .length = c.sequences[s].length});
      row += c.sequences[s].length;
    }
    prefill_attention(
        launcher_,
        {.qkv = qkv_d.get(),
         .queries = queries.get(),
         .out = out.get(),
         .type = c.type,
         .num_heads = c.num_heads,
         .num_kv_heads = c.num_kv_heads,
         .head_dim = c.head_dim,
         .scale = scale_of(c),
         .window = c.window,
         .q_norm = c.norm ? q_norm.get() : nullptr,
         .k_norm = c.norm ? k_norm.get() : nullptr,
         .norm_eps = 1e-6F,
         .periods = periods.get()},
        sequences);
    return out.read();
  }

  static float scale_of(const Case& c) {
    return 1.0F / std::sqrt(static_cast<float>(c.head_dim));
  }

  Numbers random_rows(const Case& c) {
    std::size_t rows = 0;
    for (const auto& each : c.sequences) {
      rows += static_cast<std::size_t>(each.length);
    }
    return Numbers::random(rng_, c.type, rows * c.row_size());
  }

  // Checks what was appended; the caches' numbers are then what was written.
  static void check_appended(
      const Case& c,
      std::size_t s,
      const double* rows,
      const std::vector<double>& k_norm,
      Caches& caches) {
    const auto D = static_cast<std::size_t>(c.head_dim);
    const auto H = static_cast<std::size_t>(c.num_heads);
    const auto G = static_cast<std::size_t>(c.num_kv_heads);
    const auto capacity = static_cast<std::size_t>(caches.capacities[s]);
    const auto periods = rope_periods(c.head_dim);
    const auto keys = decode_all(c.type, caches.memory[2 * s]->read());
    const auto values = decode_all(c.type, caches.memory[2 * s + 1]->read());
    for (int i = 0; i < c.sequences[s].length; ++i) {
      const int position = c.sequences[s].offset + i;
      const double* row = rows + static_cast<std::size_t>(i) * c.row_size();
      for (std::size_t g = 0; g < G; ++g) {
        const auto key =
            prepared_head(row + (H + g) * D, k_norm, periods, position);
        for (std::size_t d = 0; d < D; ++d) {
          const auto at =
              (g * capacity + static_cast<std::size_t>(position)) * D + d;
          ASSERT_NEAR(keys[at], key[d], 0.01 * (1 + std::abs(key[d])));
          ASSERT_EQ(values[at], row[(H + G + g) * D + d]);
          caches.keys[s].values[at] = keys[at];
          caches.values[s].values[at] = values[at];
        }
      }
    }
    ASSERT_EQ(caches.keys[s].values, keys) << "other positions changed";
    ASSERT_EQ(caches.values[s].values, values) << "other positions changed";
  }

  static void attend(
      const Case& c,
      std::size_t s,
      const double* row,
      const std::vector<double>& q_norm,
      int position,
      const Caches& caches,
      double* out) {
    const auto D = static_cast<std::size_t>(c.head_dim);
    const auto H = static_cast<std::size_t>(c.num_heads);
    const auto capacity = static_cast<std::size_t>(caches.capacities[s]);
    const auto periods = rope_periods(c.head_dim);
    const int first = c.window > 0 ? std::max(0, position + 1 - c.window) : 0;
    for (std::size_t h = 0; h < H; ++h) {
      const auto q = prepared_head(row + h * D, q_norm, periods, position);
      const std::size_t g =
          h / static_cast<std::size_t>(c.num_heads / c.num_kv_heads);
      double total = 0;
      std::vector<double> sum(D);
      for (int p = first; p <= position; ++p) {
        const auto at = (g * capacity + static_cast<std::size_t>(p)) * D;
        double score = 0;
        for (std::size_t d = 0; d < D; ++d) {
          score += q[d] * caches.keys[s].values[at + d];
        }
        const double weight = std::exp(score * double{scale_of(c)});
        total += weight;
        for (std::size_t d = 0; d < D; ++d) {
          sum[d] += weight * caches.values[s].values[at + d];
        }
      }
      for (std::size_t d = 0; d < D; ++d) {
        out[h * D + d] = sum[d] / total;
      }
    }
  }

  void compare(const Case& c) {
    const auto qkv = random_rows(c);
    const auto weights = make_weights(c);
    auto caches = make_caches(c);
    const auto got = decode_all(c.type, run(c, qkv.bytes, weights, caches));
    std::vector<double> expected(got.size());
    const auto norm_of = [&](const Numbers& norm) {
      return c.norm ? norm.values : std::vector<double>();
    };
    std::size_t row = 0;
    for (std::size_t s = 0; s < c.sequences.size(); ++s) {
      const auto& [offset, length] = c.sequences[s];
      const double* rows = qkv.values.data() + row * c.row_size();
      check_appended(c, s, rows, norm_of(weights.k_norm), caches);
      for (int i = 0; i < length; ++i) {
        attend(
            c,
            s,
            rows + static_cast<std::size_t>(i) * c.row_size(),
            norm_of(weights.q_norm),
            offset + i,
            caches,
            expected.data() + row * c.out_size());
        ++row;
      }
    }
    // Queries and weights are rounded to the type as in any flash attention.
    EXPECT_LE(
        relative_error(got, expected), c.type == Float::bf16 ? 4e-3 : 6e-4)
        << "heads " << c.num_heads << "/" << c.num_kv_heads << " of "
        << c.head_dim << ", window " << c.window << ", first piece at "
        << c.sequences[0].offset << " of " << c.sequences[0].length;
  }

  Launcher launcher_;
  std::mt19937 rng_{2};
};

TEST_F(PrefillAttentionTest, HandlesLengths) {
  for (const int length : {1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 128, 200}) {
    for (const int offset : {0, 1, 63, 64, 100}) {
      compare(
          {.num_heads = 4,
           .num_kv_heads = 2,
           .head_dim = 64,
           .sequences = {{offset, length}}});
    }
  }
}

TEST_F(PrefillAttentionTest, HandlesLengthsOfOtherHeads) {
  for (const int dim : {96, 256}) {
    for (const int length : {1, 16, 31, 64, 65, 130}) {
      for (const int offset : {0, 63, 100}) {
        compare(
            {.num_heads = 4,
             .num_kv_heads = 2,
             .head_dim = dim,
             .norm = length % 2 == 0,
             .sequences = {{offset, length}}});
      }
    }
  }
}

TEST_F(PrefillAttentionTest, HandlesUnequalSequencesTogether) {
  compare({.sequences = {{0, 70}, {300, 1}, {64, 64}, {5, 130}}});
  std::vector<Piece> many;
  for (int i = 0; i < 70; ++i) {
    many.push_back({i % 5 * 9, 1 + i % 17});
  }
  compare({.num_heads = 4, .num_kv_heads = 2, .sequences = many});
}

TEST_F(PrefillAttentionTest, HandlesShapesOfModels) {
  for (const auto& [heads, kv_heads, dim] :
       {std::array{16, 8, 128},
        std::array{32, 8, 128},
        std::array{32, 4, 128},
        std::array{28, 4, 128},
        std::array{40, 8, 128},
        std::array{14, 2, 64},
        std::array{9, 3, 64},
        std::array{4, 4, 128},
        std::array{32, 8, 96},
        std::array{6, 6, 96},
        std::array{16, 2, 256},
        std::array{4, 1, 256}}) {
    for (const Float type : {Float::bf16, Float::f16}) {
      compare(
          {.type = type,
           .num_heads = heads,
           .num_kv_heads = kv_heads,
           .head_dim = dim,
           .norm = dim != 64,
           .sequences = {{20, 45}, {0, 7}}});
    }
  }
}

TEST_F(PrefillAttentionTest, SeesItsWindowOnly) {
  for (const int window : {1, 16, 64, 100, 4096}) {
    for (const int dim : {96, 128, 256}) {
      compare(
          {.head_dim = dim,
           .window = window,
           .sequences = {{0, 90}, {150, 80}}});
    }
  }
}

// To the bit: whole, in pieces, and beside another sequence.
TEST_F(PrefillAttentionTest, DoesNotDependOnCutsOrNeighbours) {
  for (const auto& [window, dim] :
       {std::array{0, 128},
        std::array{50, 128},
        std::array{0, 96},
        std::array{50, 256}}) {
    const Case whole{
        .head_dim = dim, .window = window, .sequences = {{0, 300}}};
    const auto qkv = random_rows(whole);
    const auto weights = make_weights(whole);
    const auto expected = run(whole, qkv.bytes, weights, make_caches(whole));
    auto caches = make_caches(whole);
    std::vector<std::uint8_t> got;
    const std::size_t row_bytes = 2 * whole.row_size();
    int done = 0;
    for (const int length : {1, 63, 100, 29, 107}) {
      const Case piece{
          .head_dim = dim,
          .window = window,
          .sequences = {{done, length}, {0, 40}}};
      const auto begin = qkv.bytes.begin() +
          static_cast<std::ptrdiff_t>(
                             static_cast<std::size_t>(done) * row_bytes);
      std::vector<std::uint8_t> rows(
          begin,
          begin +
              static_cast<std::ptrdiff_t>(
                  static_cast<std::size_t>(length) * row_bytes));
      const Case alone{.head_dim = dim, .sequences = {{0, 40}}};
      const auto other = random_rows(alone);
      rows.insert(rows.end(), other.bytes.begin(), other.bytes.end());
      auto of_other = make_caches(alone);
      if (caches.capacities.size() == 1) {
        caches.capacities.push_back(of_other.capacities[0]);
        caches.memory.push_back(std::move(of_other.memory[0]));
        caches.memory.push_back(std::move(of_other.memory[1]));
      }
      const auto out = run(piece, rows, weights, caches);
      got.insert(
          got.end(),
          out.begin(),
          out.begin() +
              static_cast<std::ptrdiff_t>(
                  static_cast<std::size_t>(length) * 2 * whole.out_size()));
      done += length;
    }
    EXPECT_EQ(got, expected) << "window " << window << ", heads of " << dim;
  }
}

} // namespace
} // namespace qwen3_mlx::cuda
