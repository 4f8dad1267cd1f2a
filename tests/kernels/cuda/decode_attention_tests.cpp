// SPDX-License-Identifier: MIT
// A decode step's attention against float64.
#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/device_data.h"

namespace qwen3_mlx::cuda {
namespace {

struct Case {
  Float type = Float::bf16;
  int num_heads = 8;
  int num_kv_heads = 2;
  int head_dim = 128;
  bool norm = true;
  int window = 0;
  std::vector<int> offsets;
};

class DecodeAttentionTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  std::vector<std::uint8_t> compare(const Case& c) {
    const auto D = static_cast<std::size_t>(c.head_dim);
    const auto H = static_cast<std::size_t>(c.num_heads);
    const auto G = static_cast<std::size_t>(c.num_kv_heads);
    const auto n = c.offsets.size();
    const auto qkv = Numbers::random(rng_, c.type, n * (H + 2 * G) * D);
    const auto q_norm = Numbers::random(rng_, c.type, D, 0.2F, 1);
    const auto k_norm = Numbers::random(rng_, c.type, D, 0.2F, 1);
    const auto periods = rope_periods(c.head_dim);
    const auto norm_of = [&](const Numbers& norm) {
      return c.norm ? norm.values : std::vector<double>();
    };
    const DeviceArray<std::uint8_t> qkv_d(qkv.bytes);
    const DeviceArray<std::uint8_t> q_norm_d(q_norm.bytes);
    const DeviceArray<std::uint8_t> k_norm_d(k_norm.bytes);
    const DeviceArray<float> periods_d(periods);
    const DeviceArray<std::uint8_t> out(n * H * D * 2);
    const DeviceArray<unsigned> counters(std::vector<unsigned>(n * G, 0));
    std::vector<DecodeSequence> sequences;
    std::vector<Numbers> keys;
    std::vector<Numbers> values;
    std::vector<std::unique_ptr<DeviceArray<std::uint8_t>>> memory;
    for (const int offset : c.offsets) {
      const int capacity = offset + 1 + offset % 3;
      const std::size_t size = G * static_cast<std::size_t>(capacity) * D;
      keys.push_back(Numbers::random(rng_, c.type, size));
      values.push_back(Numbers::random(rng_, c.type, size));
      memory.push_back(
          std::make_unique<DeviceArray<std::uint8_t>>(keys.back().bytes));
      memory.push_back(
          std::make_unique<DeviceArray<std::uint8_t>>(values.back().bytes));
      sequences.push_back(
          {memory[memory.size() - 2]->get(),
           memory.back()->get(),
           capacity,
           offset});
    }
    DecodeAttentionArgs args{
        .qkv = qkv_d.get(),
        .out = out.get(),
        .type = c.type,
        .num_heads = c.num_heads,
        .num_kv_heads = c.num_kv_heads,
        .head_dim = c.head_dim,
        .scale = 1.0F / std::sqrt(static_cast<float>(D)),
        .window = c.window,
        .q_norm = c.norm ? q_norm_d.get() : nullptr,
        .k_norm = c.norm ? k_norm_d.get() : nullptr,
        .norm_eps = 1e-6F,
        .periods = periods_d.get(),
        .counters = counters.get()};
    const DeviceArray<float> workspace(decode_workspace(args, sequences));
    args.workspace = workspace.get();
    decode_attention(launcher_, args, sequences);
    const auto bytes = out.read();
    const auto got = decode_all(c.type, bytes);
    for (const unsigned counter : counters.read()) {
      EXPECT_EQ(counter, 0U);
    }

    std::vector<double> expected(n * H * D);
    for (std::size_t s = 0; s < n; ++s) {
      const double* row = qkv.values.data() + s * (H + 2 * G) * D;
      const auto offset = static_cast<std::size_t>(c.offsets[s]);
      const auto capacity = static_cast<std::size_t>(sequences[s].capacity);
      const auto written = decode_all(c.type, memory[2 * s]->read());
      const auto written_v = decode_all(c.type, memory[2 * s + 1]->read());
      for (std::size_t g = 0; g < G; ++g) {
        const auto key = prepared_head(
            row + (H + g) * D, norm_of(k_norm), periods, c.offsets[s]);
        const double* value = row + (H + G + g) * D;
        for (std::size_t d = 0; d < D; ++d) {
          const std::size_t at = (g * capacity + offset) * D + d;
          EXPECT_NEAR(written[at], key[d], 0.01 * (1 + std::abs(key[d])));
          EXPECT_EQ(written_v[at], value[d]);
          keys[s].values[at] = written[at];
          values[s].values[at] = value[d];
        }
      }
      EXPECT_EQ(keys[s].values, written) << "other positions changed";
      for (std::size_t h = 0; h < H; ++h) {
        const auto q =
            prepared_head(row + h * D, norm_of(q_norm), periods, c.offsets[s]);
        const std::size_t g = h / (H / G);
        const std::size_t first = c.window > 0 && c.offsets[s] + 1 > c.window
            ? static_cast<std::size_t>(c.offsets[s] + 1 - c.window)
            : 0;
        std::vector<double> weights;
        double total = 0;
        for (std::size_t p = first; p <= offset; ++p) {
          double score = 0;
          for (std::size_t d = 0; d < D; ++d) {
            score += q[d] * keys[s].values[(g * capacity + p) * D + d];
          }
          weights.push_back(std::exp(score * double{args.scale}));
          total += weights.back();
        }
        for (std::size_t p = first; p <= offset; ++p) {
          for (std::size_t d = 0; d < D; ++d) {
            expected[(s * H + h) * D + d] += weights[p - first] / total *
                values[s].values[(g * capacity + p) * D + d];
          }
        }
      }
    }
    // Queries and weights are rounded to the type as in any flash attention.
    EXPECT_LE(
        relative_error(got, expected), c.type == Float::bf16 ? 4e-3 : 6e-4)
        << "heads " << H << "/" << G << " of " << D << ", first offset "
        << c.offsets[0];
    return bytes;
  }

  Launcher launcher_;
  std::mt19937 rng_{2};
};

TEST_F(DecodeAttentionTest, HandlesLengths) {
  for (const int offset :
       {0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 300, 1000, 2047, 2048, 5000}) {
    compare({.offsets = {offset}});
  }
}

TEST_F(DecodeAttentionTest, HandlesLengthsOfOtherHeads) {
  for (const int dim : {96, 256}) {
    for (const int offset : {0, 1, 15, 16, 17, 63, 64, 65, 128, 1000, 3000}) {
      for (const bool norm : {true, false}) {
        compare({.head_dim = dim, .norm = norm, .offsets = {offset}});
      }
    }
  }
}

TEST_F(DecodeAttentionTest, HandlesUnequalLengthsTogether) {
  compare({.offsets = {700, 0, 64, 3000, 5}});
  std::vector<int> many;
  for (int i = 0; i < 70; ++i) {
    many.push_back(i * 7);
  }
  for (const int offset : {1023, 1024, 2100, 5000, 9000}) {
    many.push_back(offset);
  }
  compare({.num_heads = 4, .num_kv_heads = 2, .offsets = many});
}

TEST_F(DecodeAttentionTest, HandlesShapesOfModels) {
  for (const auto& [heads, kv_heads, dim] :
       {std::array{16, 8, 128},
        std::array{32, 8, 128},
        std::array{32, 4, 128},
        std::array{14, 2, 64},
        std::array{9, 3, 64},
        std::array{16, 1, 64},
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
           .offsets = {200, 33}});
    }
  }
}

TEST_F(DecodeAttentionTest, SeesItsWindowOnly) {
  for (const int window : {1, 16, 100, 4096}) {
    for (const int dim : {96, 128, 256}) {
      compare({.head_dim = dim, .window = window, .offsets = {0, 50, 500}});
    }
  }
}

} // namespace
} // namespace qwen3_mlx::cuda
