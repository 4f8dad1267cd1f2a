// SPDX-License-Identifier: MIT
// A decode step's attention over quantized caches against float64.
#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/quantized_reference.h"

namespace qwen3_mlx::cuda {
namespace {

struct Case {
  Float type = Float::bf16;
  KvForm kv{8, 64};
  int num_heads = 8;
  int num_kv_heads = 2;
  int head_dim = 128;
  bool norm = true;
  int window = 0;
  bool in_table = false;
  std::vector<int> offsets;
};

class QuantizedDecodeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  // What the kernel made of rows of qkv; appends to the caches.
  std::vector<double>
  run(const Case& c,
      const Numbers& qkv,
      const Numbers& q_norm,
      const Numbers& k_norm,
      const std::vector<QuantizedCache>& caches) const {
    const auto n = c.offsets.size();
    const auto G = static_cast<std::size_t>(c.num_kv_heads);
    const DeviceArray<std::uint8_t> qkv_d(qkv.bytes);
    const DeviceArray<std::uint8_t> q_norm_d(q_norm.bytes);
    const DeviceArray<std::uint8_t> k_norm_d(k_norm.bytes);
    const DeviceArray<float> periods(rope_periods(c.head_dim));
    const DeviceArray<std::uint8_t> out(
        n * static_cast<std::size_t>(c.num_heads * c.head_dim) * 2);
    const DeviceArray<unsigned> counters(std::vector<unsigned>(n * G, 0));
    std::vector<DecodeSequence> sequences;
    for (std::size_t s = 0; s < n; ++s) {
      sequences.push_back(caches[s].sequence(c.offsets[s]));
    }
    DecodeAttentionArgs args{
        .qkv = qkv_d.get(),
        .out = out.get(),
        .type = c.type,
        .num_heads = c.num_heads,
        .num_kv_heads = c.num_kv_heads,
        .head_dim = c.head_dim,
        .scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim)),
        .window = c.window,
        .q_norm = c.norm ? q_norm_d.get() : nullptr,
        .k_norm = c.norm ? k_norm_d.get() : nullptr,
        .norm_eps = 1e-6F,
        .periods = periods.get(),
        .counters = counters.get(),
        .kv = c.kv};
    int most = 1;
    for (const int offset : c.offsets) {
      most = std::max(most, splits_of(offset + 1) + 1);
    }
    const DeviceArray<float> workspace(
        decode_workspace(args, static_cast<int>(n), most));
    args.workspace = workspace.get();
    if (c.in_table) {
      const DeviceArray<int> offsets(c.offsets);
      for (auto& sequence : sequences) {
        sequence.offset = -1; // not read
      }
      const DeviceArray<DecodeSequence> table(sequences);
      decode_attention(
          launcher_,
          args,
          DecodeTable{table.get(), offsets.get(), static_cast<int>(n), most});
      check(cudaDeviceSynchronize(), "run");
    } else {
      decode_attention(launcher_, args, sequences);
    }
    const auto got = decode_all(c.type, out.read());
    for (const unsigned counter : counters.read()) {
      EXPECT_EQ(counter, 0U);
    }
    return got;
  }

  void compare(const Case& c) {
    const auto D = static_cast<std::size_t>(c.head_dim);
    const auto H = static_cast<std::size_t>(c.num_heads);
    const auto G = static_cast<std::size_t>(c.num_kv_heads);
    const std::size_t row_size = (H + 2 * G) * D;
    const auto n = c.offsets.size();
    const auto qkv = Numbers::random(rng_, c.type, n * row_size);
    const auto q_norm = Numbers::random(rng_, c.type, D, 0.2F, 1);
    const auto k_norm = Numbers::random(rng_, c.type, D, 0.2F, 1);
    const auto periods = rope_periods(c.head_dim);
    const auto norm_of = [&](const Numbers& norm) {
      return c.norm ? norm.values : std::vector<double>();
    };
    std::vector<QuantizedCache> caches;
    for (const int offset : c.offsets) {
      caches.emplace_back(
          rng_,
          c.type,
          c.kv,
          c.num_kv_heads,
          c.head_dim,
          offset,
          offset + 1 + offset % 3 * 16);
    }
    const auto got = run(c, qkv, q_norm, k_norm, caches);

    std::vector<double> expected(n * H * D);
    for (std::size_t s = 0; s < n; ++s) {
      const double* row = qkv.values.data() + s * row_size;
      const int offset = c.offsets[s];
      auto& cache = caches[s];
      const auto keys = cache.keys_on_device->read();
      const auto values = cache.values_on_device->read();
      for (int g = 0; g < c.num_kv_heads; ++g) {
        const auto at = static_cast<std::size_t>(g);
        const auto key =
            prepared_head(row + (H + at) * D, norm_of(k_norm), periods, offset);
        // At the first position nothing is rotated, so without a norm the key's
        // elements are known to the bit.
        expect_row(
            keys, cache.row(g, offset), key.data(), !c.norm && offset == 0);
        expect_row(
            values,
            cache.row(g, offset),
            row + (H + G + at) * D,
            /* exact */ true);
      }
      expect_only_appended(cache, keys, cache.keys, offset, c.num_kv_heads);
      expect_only_appended(cache, values, cache.values, offset, c.num_kv_heads);
      const int first = c.window > 0 ? std::max(0, offset + 1 - c.window) : 0;
      for (std::size_t h = 0; h < H; ++h) {
        const auto q =
            prepared_head(row + h * D, norm_of(q_norm), periods, offset);
        const int g = static_cast<int>(h / (H / G));
        std::vector<double> sum(D);
        double total = 0;
        for (int p = first; p <= offset; ++p) {
          const std::size_t at = cache.row(g, p);
          double score = 0;
          for (std::size_t d = 0; d < D; ++d) {
            score += q[d] * keys.value(at, d);
          }
          const double weight =
              std::exp(score / std::sqrt(static_cast<double>(D)));
          total += weight;
          for (std::size_t d = 0; d < D; ++d) {
            sum[d] += weight * values.value(at, d);
          }
        }
        for (std::size_t d = 0; d < D; ++d) {
          expected[(s * H + h) * D + d] = sum[d] / total;
        }
      }
    }
    // Queries and weights are rounded to the type as in any flash attention,
    // and centered codes are greater than what they mean.
    const double error = relative_error(got, expected);
    EXPECT_LE(error, c.type == Float::bf16 ? 4e-3 : 1e-3)
        << c.kv.bits << " bits in groups of " << c.kv.group << ", heads " << H
        << "/" << G << " of " << D << ", first offset " << c.offsets[0]
        << ", window " << c.window;
    worst_ = std::max(worst_, error);
  }

  void TearDown() override {
    std::printf("greatest relative error %.5f\n", worst_);
  }

  static void expect_only_appended(
      const QuantizedCache& cache,
      const QuantizedNumbers& got,
      const QuantizedNumbers& before,
      int offset,
      int num_kv_heads) {
    for (int g = 0; g < num_kv_heads; ++g) {
      for (int p = 0; p < cache.capacity; ++p) {
        if (p == offset) {
          continue;
        }
        const auto same = [&](const auto& a, const auto& b, std::size_t size) {
          const auto begin =
              static_cast<std::ptrdiff_t>(cache.row(g, p) * size);
          return std::equal(
              a.begin() + begin,
              a.begin() + begin + static_cast<std::ptrdiff_t>(size),
              b.begin() + begin);
        };
        const std::size_t groups = got.num_groups() * 2;
        ASSERT_TRUE(
            same(got.codes, before.codes, got.row_bytes()) &&
            same(got.scales, before.scales, groups) &&
            same(got.biases, before.biases, groups))
            << "position " << p << " changed, not " << offset << " alone";
      }
    }
  }

  Launcher launcher_;
  std::mt19937 rng_{2};
  double worst_ = 0;
};

TEST_F(QuantizedDecodeTest, HandlesLengths) {
  for (const int offset :
       {0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 300, 1000, 2047, 2048, 5000}) {
    compare({.offsets = {offset}});
  }
}

TEST_F(QuantizedDecodeTest, HandlesForms) {
  for (const Float type : {Float::bf16, Float::f16}) {
    for (const int bits : {8, 4}) {
      for (const int group : {32, 64, 128}) {
        for (const int dim : {64, 96, 128, 256}) {
          if (!is_supported(KvForm{bits, group}, dim)) {
            continue;
          }
          compare(
              {.type = type,
               .kv = {bits, group},
               .head_dim = dim,
               .norm = dim >= 128,
               .offsets = {0, 33, 200, 700}});
        }
      }
    }
  }
}

TEST_F(QuantizedDecodeTest, HandlesUnequalLengthsTogether) {
  compare({.offsets = {700, 0, 64, 3000, 5}});
  compare({.in_table = true, .offsets = {700, 0, 64, 3000, 5}});
  std::vector<int> many;
  for (int i = 0; i < 70; ++i) {
    many.push_back(i * 7);
  }
  compare({.num_heads = 4, .num_kv_heads = 2, .offsets = many});
}

TEST_F(QuantizedDecodeTest, HandlesShapesOfModels) {
  for (const auto& [heads, kv_heads, dim] :
       {std::array{16, 8, 128},
        std::array{32, 8, 128},
        std::array{32, 4, 128},
        std::array{28, 4, 128},
        std::array{14, 2, 64},
        std::array{9, 3, 64},
        std::array{4, 4, 128}}) {
    compare(
        {.num_heads = heads,
         .num_kv_heads = kv_heads,
         .head_dim = dim,
         .offsets = {200, 33}});
  }
}

TEST_F(QuantizedDecodeTest, HandlesLengthsOfOtherHeads) {
  for (const int offset : {0, 1, 15, 16, 17, 64, 128, 300, 1000, 3000}) {
    for (const int bits : {8, 4}) {
      compare({.kv = {bits, 32}, .head_dim = 96, .offsets = {offset}});
      compare({.kv = {bits, 64}, .head_dim = 256, .offsets = {offset}});
      compare({.kv = {bits, 128}, .offsets = {offset}});
    }
  }
}

TEST_F(QuantizedDecodeTest, SeesItsWindowOnly) {
  for (const int window : {1, 7, 16, 100, 129, 4096}) {
    compare({.window = window, .offsets = {0, 50, 500}});
    compare(
        {.kv = {8, 32},
         .head_dim = 96,
         .window = window,
         .offsets = {0, 50, 500}});
    compare({.head_dim = 256, .window = window, .offsets = {0, 50, 500}});
    compare({.window = window, .in_table = true, .offsets = {0, 50, 500}});
  }
}

} // namespace
} // namespace qwen3_mlx::cuda
