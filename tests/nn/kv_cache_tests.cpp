// SPDX-License-Identifier: MIT
#include "qwen3_mlx/kv_cache.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/error.h"
#include "testing/arrays.h"

namespace qwen3_mlx {
namespace {

using testing::max_difference;
using testing::normal;

constexpr int n_heads = 4;
constexpr int n_kv_heads = 2;
constexpr int head_dim = 32;

mx::array positions(const mx::array& x, int begin, int end) {
  return mx::slice(
      x, {0, 0, begin, 0}, {x.shape(0), x.shape(1), end, x.shape(3)});
}

// Queries, keys and values of a text of `length` positions.
struct Text {
  explicit Text(int length)
      : queries(normal({1, n_heads, length, head_dim}, 1)),
        keys(normal({1, n_kv_heads, length, head_dim}, 2)),
        values(normal({1, n_kv_heads, length, head_dim}, 3)) {}

  mx::array queries;
  mx::array keys;
  mx::array values;
};

// Attention of the text through `cache`, cut into chunks of those lengths.
mx::array attend(
    KVCache& cache,
    const Text& text,
    const std::vector<int>& chunks,
    std::optional<int> window = std::nullopt) {
  std::vector<mx::array> outputs;
  int begin = 0;
  for (const int length : chunks) {
    const int end = begin + length;
    outputs.push_back(cache.store().attend(
        positions(text.queries, begin, end),
        positions(text.keys, begin, end),
        positions(text.values, begin, end),
        {0.2f, window}));
    outputs.back().eval();
    begin = end;
  }
  return mx::concatenate(outputs, 2);
}

// The definition: each query over the keys that `sees` lets through.
mx::array reference(
    const Text& text,
    const std::function<bool(int query, int key)>& sees) {
  const int length = text.keys.shape(2);
  std::vector<float> mask;
  for (int query = 0; query < length; ++query) {
    for (int key = 0; key < length; ++key) {
      const bool seen = key <= query && sees(query, key);
      mask.push_back(seen ? 0.0f : -1e30f);
    }
  }
  const auto repeat = [](const mx::array& x) {
    return mx::repeat(x, n_heads / n_kv_heads, 1);
  };
  const auto scores =
      mx::matmul(text.queries, mx::swapaxes(repeat(text.keys), -1, -2)) *
          mx::array(0.2f) +
      mx::array(mask.begin(), {length, length});
  return mx::matmul(mx::softmax(scores, -1), repeat(text.values));
}

std::vector<int> ones(int n) {
  return std::vector<int>(static_cast<std::size_t>(n), 1);
}

std::vector<std::vector<int>> cuts_of_40() {
  return {{40}, {1, 39}, {7, 1, 1, 20, 11}, {17, 16, 1, 1, 5}, ones(40)};
}

TEST(KVCache, GrowingSeesTheWholePast) {
  const Text text(40);
  const auto expected = reference(text, [](int, int) { return true; });
  for (const auto& cut : cuts_of_40()) {
    KVCache cache;
    EXPECT_LT(max_difference(attend(cache, text, cut), expected), 1e-5f);
    EXPECT_EQ(cache.offset(), 40);
  }
}

TEST(KVCache, GrowingCrossesItsSteps) {
  const Text text(600);
  KVCache cache;
  const auto out = attend(cache, text, {255, 1, 1, 255, 88});
  EXPECT_LT(
      max_difference(out, reference(text, [](int, int) { return true; })),
      1e-5f);
  EXPECT_EQ(max_difference(*cache.keys(), text.keys), 0.0f);
}

TEST(KVCache, SlidingWindow) {
  const Text text(40);
  const int window = 9;
  const auto expected =
      reference(text, [&](int query, int key) { return query - key < window; });
  for (const auto& cut : cuts_of_40()) {
    KVCache cache;
    const auto out = attend(cache, text, cut, window);
    EXPECT_LT(max_difference(out, expected), 1e-5f);
  }
}

TEST(KVCache, RotatingSeesSinksAndRecentPositions) {
  const Text text(40);
  for (const int max_size : {8, 12, 39, 40, 64}) {
    for (const int keep : {0, 4}) {
      const auto expected = reference(text, [&](int query, int key) {
        return key < keep || query - key < max_size - keep;
      });
      for (const auto& cut : cuts_of_40()) {
        KVCache cache(CacheOptions{.max_kv_size = max_size, .keep = keep});
        const auto out = attend(cache, text, cut);
        EXPECT_LT(max_difference(out, expected), 1e-5f)
            << "max_size " << max_size << " keep " << keep << " cut "
            << cut.size();
        EXPECT_LE(cache.keys()->shape(2), max_size);
      }
    }
  }
}

TEST(KVCache, RotatingInsideAWindow) {
  const Text text(40);
  for (const int window : {3, 6, 30}) {
    const auto expected = reference(text, [&](int query, int key) {
      return query - key < window && (key < 4 || query - key < 12);
    });
    for (const auto& cut : cuts_of_40()) {
      KVCache cache(CacheOptions{.max_kv_size = 16});
      const auto out = attend(cache, text, cut, window);
      EXPECT_LT(max_difference(out, expected), 1e-5f) << "window " << window;
    }
  }
}

TEST(KVCache, QuantizedDoesNotDependOnTheCut) {
  const Text text(40);
  const auto exact = reference(text, [](int, int) { return true; });
  for (const int start : {0, 10, 100}) {
    const CacheOptions options{
        .kv_bits = 8, .kv_group_size = 32, .quantized_kv_start = start};
    KVCache whole_cache(options);
    const auto whole = attend(whole_cache, text, {40});
    EXPECT_LT(max_difference(whole, exact), 0.03f);
    for (const auto& cut : cuts_of_40()) {
      KVCache cache(options);
      EXPECT_LT(max_difference(attend(cache, text, cut), whole), 1e-5f);
    }
  }
}

TEST(KVCache, TrimTakesPositionsBack) {
  const Text text(40);
  for (const CacheOptions& options :
       {CacheOptions{},
        CacheOptions{.max_kv_size = 64},
        CacheOptions{
            .kv_bits = 4, .kv_group_size = 32, .quantized_kv_start = 20}}) {
    KVCache straight(options);
    const auto expected = attend(straight, text, {40});
    KVCache cache(options);
    attend(cache, text, {40});
    cache.trim(25);
    EXPECT_EQ(cache.offset(), 15);
    const auto again = cache.store().attend(
        positions(text.queries, 15, 40),
        positions(text.keys, 15, 40),
        positions(text.values, 15, 40),
        {0.2f, std::nullopt});
    EXPECT_LT(max_difference(again, positions(expected, 15, 40)), 1e-5f);
  }
  KVCache wrapped(CacheOptions{.max_kv_size = 16});
  attend(wrapped, text, {40});
  EXPECT_FALSE(wrapped.can_trim(1));
  EXPECT_THROW(wrapped.trim(1), InvalidArgument);
}

TEST(KVCache, CopyIsIndependent) {
  const Text text(40);
  KVCache cache;
  attend(cache, text, {40});
  auto other = cache.copy();
  other.trim(10);
  EXPECT_EQ(cache.offset(), 40);
  EXPECT_EQ(other.offset(), 30);
  cache.reset();
  EXPECT_EQ(cache.offset(), 0);
  EXPECT_FALSE(cache.keys().has_value());
}

TEST(KVCache, StateRestores) {
  const Text text(40);
  for (const CacheOptions& options :
       {CacheOptions{},
        CacheOptions{.max_kv_size = 16},
        CacheOptions{
            .kv_bits = 4, .kv_group_size = 32, .quantized_kv_start = 7}}) {
    KVCache cache(options);
    attend(cache, text, {40});
    KVCache restored(options);
    restored.store().restore(cache.store().state(), cache.store().counters());
    EXPECT_EQ(restored.offset(), 40);
    EXPECT_EQ(max_difference(*restored.keys(), *cache.keys()), 0.0f);
    EXPECT_EQ(max_difference(*restored.values(), *cache.values()), 0.0f);
    EXPECT_THROW(restored.store().restore({}, {}), InvalidArgument);
  }
}

TEST(KVCache, ResetKeepsTheSettingsOfARestoredCache) {
  const Text text(40);
  KVCache cache({.max_kv_size = 16, .keep = 2});
  attend(cache, text, {40});
  // As a cache comes from a file: its settings are those of the counters.
  KVCache loaded(KVCache({.max_kv_size = 8}).store().make_empty());
  loaded.store().restore(cache.store().state(), cache.store().counters());
  loaded.reset();
  EXPECT_EQ(loaded.offset(), 0);
  EXPECT_FALSE(loaded.keys().has_value());
  EXPECT_EQ(loaded.max_size(), 16);
  cache.reset();
  EXPECT_EQ(loaded.store().counters(), cache.store().counters());
}

TEST(KVCache, RestoreRefusesArraysThatDoNotBelongTogether) {
  const Text text(40);
  for (const CacheOptions& options :
       {CacheOptions{},
        CacheOptions{.max_kv_size = 16},
        CacheOptions{.kv_bits = 4, .kv_group_size = 32}}) {
    KVCache cache(options);
    attend(cache, text, {40});
    const auto state = cache.store().state();
    const auto counters = cache.store().counters();
    for (std::size_t idx = 0; idx < state.size(); ++idx) {
      auto shorter = state;
      auto& array = shorter[idx].second;
      array = positions(array, 0, array.shape(2) - 1);
      auto fewer = state;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(idx));
      KVCache other(options);
      EXPECT_THROW(other.store().restore(shorter, counters), InvalidArgument);
      EXPECT_THROW(other.store().restore(fewer, counters), InvalidArgument);
    }
  }
}

TEST(KVCache, RestoreRefusesCountersThatDoNotBelongTogether) {
  const Text text(40);
  KVCache cache({.kv_bits = 4, .kv_group_size = 32, .quantized_kv_start = 10});
  attend(cache, text, {40});
  const auto state = cache.store().state();
  for (const auto& [name, value] :
       {std::pair("bits", 3),
        std::pair("bits", 7),
        std::pair("group_size", 33),
        std::pair("group_size", 96),
        std::pair("start", 3),
        std::pair("start", 33)}) {
    auto counters = cache.store().counters();
    for (auto& counter : counters) {
      counter.second = counter.first == name ? value : counter.second;
    }
    const auto store = cache.store().make_empty();
    EXPECT_THROW(store->restore(state, counters), InvalidArgument)
        << name << " " << value;
  }
}

TEST(KVCache, DecodeWritesInPlace) {
  const Text text(300);
  KVCache cache;
  attend(cache, text, {290});
  const void* buffer = nullptr;
  for (int at = 290; at < 300; ++at) {
    auto out = cache.store().attend(
        positions(text.queries, at, at + 1),
        positions(text.keys, at, at + 1),
        positions(text.values, at, at + 1),
        {0.2f, std::nullopt});
    out.eval();
    const auto keys = cache.store().state()[0].second;
    if (at > 290) {
      EXPECT_EQ(keys.data<float>(), buffer) << "copied at " << at;
    }
    buffer = keys.data<float>();
  }
}

// What an operation on an NVIDIA GPU does to a quantized cache.
void quantize_in_place(KVCache& cache, const Text& text, int begin, int end) {
  const MakeArray make = [](const mx::Shape& shape, mx::Dtype dtype) {
    auto array = mx::full(shape, mx::array(7, dtype));
    array.eval();
    return array;
  };
  auto room = cache.store().append_in_place(
      {1, n_kv_heads, end - begin, head_dim}, mx::float32, make);
  ASSERT_TRUE(room);
  ASSERT_EQ(room->offset, begin);
  ASSERT_EQ(room->scales.size(), 4U);
  const std::array held{
      std::array{room->keys, room->scales[0], room->scales[1]},
      std::array{room->values, room->scales[2], room->scales[3]}};
  for (const auto& [arrays, from] :
       {std::pair{held[0], text.keys}, std::pair{held[1], text.values}}) {
    const auto parts = mx::quantize(positions(from, begin, end), 32, 8);
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      auto to = arrays[i];
      const auto part = mx::contiguous(parts[i]);
      mx::eval(to, part);
      const auto size = static_cast<std::size_t>(to.shape(3)) * to.itemsize();
      const auto rows = static_cast<std::size_t>(end - begin);
      const auto capacity = static_cast<std::size_t>(to.shape(2));
      for (std::size_t head = 0; head < n_kv_heads; ++head) {
        std::memcpy(
            to.data<char>() +
                (head * capacity + static_cast<std::size_t>(begin)) * size,
            part.data<char>() + head * rows * size,
            rows * size);
      }
    }
  }
  cache.store().written_by(mx::array(0.0f));
}

TEST(KVCache, QuantizedIsWrittenInPlace) {
  const Text text(700);
  const CacheOptions options{.kv_bits = 8, .kv_group_size = 32};
  KVCache cache(options);
  EXPECT_EQ(cache.store().in_place_form(), (KVQuantization{8, 32}));
  KVCache expected(options);
  const auto check = [&](const KVCache& of, int length) {
    expected.reset();
    const auto all = expected.update_and_fetch(
        positions(text.keys, 0, length), positions(text.values, 0, length));
    EXPECT_EQ(of.offset(), length);
    EXPECT_EQ(max_difference(*of.keys(), all.keys), 0) << length;
    EXPECT_EQ(max_difference(*of.values(), all.values), 0) << length;
  };
  quantize_in_place(cache, text, 0, 250);
  const auto address = [&] {
    auto codes = cache.store().state()[0].second;
    codes.eval();
    return codes.data<char>();
  };
  const auto* const first = address();
  check(cache, 250);
  quantize_in_place(cache, text, 250, 251); // someone has seen the arrays
  EXPECT_NE(address(), first);
  check(cache, 251);
  const auto copy = cache.copy();
  quantize_in_place(cache, text, 251, 600); // they have grown
  check(cache, 600);
  check(copy, 251);
  cache.trim(40);
  quantize_in_place(cache, text, 560, 561);
  check(cache, 561);
  // MLX's operations go on where a kernel has stopped, and the other way.
  cache.update_and_fetch(
      positions(text.keys, 561, 570), positions(text.values, 561, 570));
  check(cache, 570);
  quantize_in_place(cache, text, 570, 700);
  check(cache, 700);
}

TEST(KVCache, QuantizedIsWrittenInPlaceOnlyWhereItFits) {
  const Text text(40);
  const auto make = [](const mx::Shape& shape, mx::Dtype dtype) {
    return mx::zeros(shape, dtype);
  };
  const mx::Shape shape{1, n_kv_heads, 1, head_dim};
  KVCache late({.kv_bits = 8, .kv_group_size = 32, .quantized_kv_start = 5});
  EXPECT_FALSE(late.store().in_place_form());
  EXPECT_FALSE(late.store().append_in_place(shape, mx::float32, make));
  KVCache wide({.kv_bits = 8, .kv_group_size = 64}); // than a head
  EXPECT_FALSE(wide.store().append_in_place(shape, mx::float32, make));
  KVCache held({.kv_bits = 8, .kv_group_size = 32});
  held.update_and_fetch(text.keys, text.values);
  EXPECT_FALSE(held.store().append_in_place(shape, mx::float16, make));
  EXPECT_EQ(held.offset(), 40);
}

TEST(KVCache, OptionsAreChecked) {
  const auto make = [](CacheOptions options) { return KVCache(options); };
  EXPECT_THROW(make({.max_kv_size = 4}), InvalidArgument);
  EXPECT_THROW(make({.max_kv_size = 64, .kv_bits = 4}), InvalidArgument);
  EXPECT_THROW(make({.kv_bits = 3}), InvalidArgument);
  EXPECT_THROW(make({.kv_bits = 4, .kv_group_size = 48}), InvalidArgument);
  EXPECT_THROW(make({.kv_bits = 4, .quantized_kv_start = -1}), InvalidArgument);
}

} // namespace
} // namespace qwen3_mlx
