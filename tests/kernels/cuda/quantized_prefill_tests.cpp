// SPDX-License-Identifier: MIT
// Attention of many new positions over quantized caches against float64, and
// against itself however the positions are cut.
#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/quantized_cache.h"
#include "kernels/cuda/quantized_reference.h"

namespace qwen3_mlx::cuda {
namespace {

struct Piece {
  int offset;
  int length;
};

struct Case {
  Float type = Float::bf16;
  KvForm kv{8, 64};
  int num_heads = 8;
  int num_kv_heads = 2;
  int head_dim = 128;
  std::vector<Piece> pieces;

  std::size_t row_size() const { // of qkv
    return static_cast<std::size_t>((num_heads + 2 * num_kv_heads) * head_dim);
  }
  std::size_t out_size() const {
    return static_cast<std::size_t>(num_heads * head_dim);
  }
};

class QuantizedPrefillTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  std::vector<std::uint8_t>
  run(const Case& c,
      const std::vector<std::uint8_t>& qkv,
      const std::vector<const QuantizedCache*>& caches) const {
    const DeviceArray<std::uint8_t> qkv_d(qkv);
    const DeviceArray<float> periods(rope_periods(c.head_dim));
    const std::size_t n_bytes = qkv.size() / c.row_size() * c.out_size();
    const DeviceArray<std::uint8_t> out(n_bytes);
    const DeviceArray<std::uint8_t> queries(n_bytes);
    std::vector<std::unique_ptr<DeviceArray<std::uint8_t>>> elements;
    std::vector<QuantizedPiece> pieces;
    std::vector<PrefillSequence> sequences;
    int row = 0;
    for (std::size_t s = 0; s < c.pieces.size(); ++s) {
      const auto& [offset, length] = c.pieces[s];
      const int total = offset + length;
      for (int i = 0; i < 2; ++i) {
        elements.push_back(std::make_unique<DeviceArray<std::uint8_t>>(
            static_cast<std::size_t>(c.num_kv_heads * total * c.head_dim) * 2));
      }
      void* const keys = elements[2 * s]->get();
      void* const values = elements[2 * s + 1]->get();
      pieces.push_back({caches[s]->sequence(offset), keys, values, length});
      sequences.push_back({keys, values, total, offset, row, length});
      row += length;
    }
    const PrefillAttentionArgs args{
        .qkv = qkv_d.get(),
        .queries = queries.get(),
        .out = out.get(),
        .type = c.type,
        .num_heads = c.num_heads,
        .num_kv_heads = c.num_kv_heads,
        .head_dim = c.head_dim,
        .scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim)),
        .periods = periods.get()};
    const QuantizedCacheArgs of_cache{c.type, c.kv, c.num_kv_heads, c.head_dim};
    read_held(launcher_, of_cache, pieces);
    append_positions(launcher_, args, sequences);
    quantize_new(launcher_, of_cache, pieces);
    attend_positions(launcher_, args, sequences);
    return out.read();
  }

  QuantizedCache make_cache(const Case& c, const Piece& piece) {
    return QuantizedCache(
        rng_,
        c.type,
        c.kv,
        c.num_kv_heads,
        c.head_dim,
        piece.offset,
        piece.offset + piece.length);
  }

  Numbers random_rows(const Case& c) {
    std::size_t rows = 0;
    for (const auto& each : c.pieces) {
      rows += static_cast<std::size_t>(each.length);
    }
    return Numbers::random(rng_, c.type, rows * c.row_size());
  }

  void compare(const Case& c) {
    const auto D = static_cast<std::size_t>(c.head_dim);
    const auto H = static_cast<std::size_t>(c.num_heads);
    const auto G = static_cast<std::size_t>(c.num_kv_heads);
    const auto qkv = random_rows(c);
    std::vector<QuantizedCache> caches;
    std::vector<const QuantizedCache*> pointers;
    for (const auto& piece : c.pieces) {
      caches.push_back(make_cache(c, piece));
    }
    for (const auto& cache : caches) {
      pointers.push_back(&cache);
    }
    const auto got = decode_all(c.type, run(c, qkv.bytes, pointers));
    std::vector<double> expected(got.size());
    const auto periods = rope_periods(c.head_dim);
    const double* row = qkv.values.data();
    double* out = expected.data();
    for (std::size_t s = 0; s < caches.size(); ++s) {
      const auto& cache = caches[s];
      const auto keys = cache.keys_on_device->read();
      const auto values = cache.values_on_device->read();
      for (int i = 0; i < c.pieces[s].length; ++i) {
        const int position = c.pieces[s].offset + i;
        for (std::size_t g = 0; g < G; ++g) {
          const auto at = cache.row(static_cast<int>(g), position);
          const auto key =
              prepared_head(row + (H + g) * D, {}, periods, position);
          expect_row(keys, at, key.data(), position == 0);
          expect_row(values, at, row + (H + G + g) * D, /* exact */ true);
        }
        for (std::size_t h = 0; h < H; ++h) {
          const auto q = prepared_head(row + h * D, {}, periods, position);
          double total = 0;
          std::vector<double> sum(D);
          for (int p = 0; p <= position; ++p) {
            const auto at = cache.row(static_cast<int>(h / (H / G)), p);
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
            out[h * D + d] = sum[d] / total;
          }
        }
        row += c.row_size();
        out += c.out_size();
      }
    }
    // Keys and values are rounded to the type too.
    EXPECT_LE(
        relative_error(got, expected), c.type == Float::bf16 ? 6e-3 : 1e-3)
        << c.kv.bits << " bits in groups of " << c.kv.group << ", first piece "
        << c.pieces[0].length << " behind " << c.pieces[0].offset;
  }

  Launcher launcher_;
  std::mt19937 rng_{3};
};

TEST_F(QuantizedPrefillTest, HandlesForms) {
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
               .pieces = {{0, 70}, {100, 1}, {33, 17}}});
        }
      }
    }
  }
}

TEST_F(QuantizedPrefillTest, HandlesManySequences) {
  Case c{.num_heads = 4, .num_kv_heads = 1, .head_dim = 64, .pieces = {}};
  for (int i = 0; i < 70; ++i) {
    c.pieces.push_back({i % 5 * 9, 1 + i % 7});
  }
  compare(c);
}

// To the bit: what a position holds and gets.
TEST_F(QuantizedPrefillTest, DoesNotDependOnCuts) {
  const Case whole{.pieces = {{0, 150}}};
  const auto qkv = random_rows(whole);
  const auto at_once = make_cache(whole, {0, 150});
  const auto expected = run(whole, qkv.bytes, {&at_once});
  const auto in_pieces = make_cache(whole, {0, 150});
  std::vector<std::uint8_t> got;
  int done = 0;
  for (const int length : {1, 63, 40, 46}) {
    const Case piece{.pieces = {{done, length}}};
    const auto row_bytes = static_cast<std::ptrdiff_t>(2 * whole.row_size());
    const auto begin = qkv.bytes.begin() + done * row_bytes;
    const auto out =
        run(piece, {begin, begin + length * row_bytes}, {&in_pieces});
    got.insert(got.end(), out.begin(), out.end());
    done += length;
  }
  EXPECT_EQ(got, expected);
  EXPECT_EQ(
      at_once.keys_on_device->read().codes,
      in_pieces.keys_on_device->read().codes);
  EXPECT_EQ(
      at_once.values_on_device->read().codes,
      in_pieces.values_on_device->read().codes);
}

} // namespace
} // namespace qwen3_mlx::cuda
