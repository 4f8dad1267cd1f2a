// SPDX-License-Identifier: MIT
// What chat keeps of a conversation from turn to turn, also when memory runs
// out on the way.
#include "cli/held_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <optional>

namespace qwen3_mlx::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A layer's cache that counts positions and, at will, has no memory.
class CountingStore : public KVStore {
 public:
  struct Settings {
    bool can_trim = true;
    bool fails_to_trim = false;
  };
  CountingStore(int offset, Settings& settings)
      : offset_(offset), settings_(settings) {}

  mx::array attend(
      const mx::array& queries,
      const mx::array&,
      const mx::array&,
      const AttentionMask&) override {
    return queries;
  }
  KeyValues
  update_and_fetch(const mx::array& keys, const mx::array& values) override {
    return {keys, values};
  }
  std::optional<KeyValues> fetch() const override {
    return std::nullopt;
  }
  int offset() const override {
    return offset_;
  }
  bool can_trim(int) const override {
    return settings_.can_trim;
  }
  void trim(int n) override {
    if (settings_.fails_to_trim) {
      throw std::bad_alloc();
    }
    offset_ -= n;
  }
  std::size_t n_bytes() const override {
    return 0;
  }
  std::vector<std::pair<std::string, mx::array>> state() const override {
    return {};
  }
  std::string kind() const override {
    return "counting";
  }
  std::vector<std::pair<std::string, int>> counters() const override {
    return {};
  }
  void restore(
      const std::vector<std::pair<std::string, mx::array>>&,
      const std::vector<std::pair<std::string, int>>&) override {}
  std::unique_ptr<KVStore> copy() const override {
    return std::make_unique<CountingStore>(*this);
  }
  std::unique_ptr<KVStore> make_empty() const override {
    return std::make_unique<CountingStore>(0, settings_);
  }

 private:
  int offset_;
  Settings& settings_;
};

class HeldCacheTest : public ::testing::Test {
 protected:
  HeldCache held(
      std::vector<std::uint32_t> ids,
      std::optional<int> first_offset = {},
      std::optional<int> second_offset = {}) {
    const int length = static_cast<int>(ids.size());
    std::vector<KVCache> cache;
    cache.emplace_back(
        std::make_unique<CountingStore>(first_offset.value_or(length), first_));
    cache.emplace_back(std::make_unique<CountingStore>(
        second_offset.value_or(length), second_));
    return HeldCache(std::move(cache), std::move(ids));
  }
  static std::vector<int> offsets(HeldCache& held) {
    std::vector<int> all;
    for (const auto& layer : held.cache()) {
      all.push_back(layer.offset());
    }
    return all;
  }

  const std::vector<std::uint32_t> text_{1, 2, 3, 4, 5};
  CountingStore::Settings first_;
  CountingStore::Settings second_;
};

TEST_F(HeldCacheTest, KeepsWhatTwoTextsShare) {
  auto cache = held({1, 2, 9, 9});
  EXPECT_EQ(cache.keep_prefix_of(text_), 2U);
  EXPECT_THAT(cache.ids(), ElementsAre(1, 2));
  EXPECT_THAT(offsets(cache), ElementsAre(2, 2));
}

TEST_F(HeldCacheTest, LeavesATokenToRead) {
  auto cache = held({1, 2, 3, 4, 5});
  EXPECT_EQ(cache.keep_prefix_of(text_), 4U);
  EXPECT_THAT(offsets(cache), ElementsAre(4, 4));
}

TEST_F(HeldCacheTest, BeginsAnewWhereALayerCannotBeTrimmed) {
  second_.can_trim = false;
  auto cache = held({1, 2, 9, 9});
  EXPECT_EQ(cache.keep_prefix_of(text_), 0U);
  EXPECT_THAT(offsets(cache), ElementsAre(0, 0));
}

TEST_F(HeldCacheTest, TakesWhatTheCacheHoldsOfWhatWasSaid) {
  auto cache = held({1, 2}, 4, 4);
  cache.extend(std::vector<std::uint32_t>{3, 4, 5});
  EXPECT_THAT(cache.ids(), ElementsAre(1, 2, 3, 4));
}

TEST_F(HeldCacheTest, BeginsAnewWhereAStepReachedSomeLayersOnly) {
  auto cache = held({1, 2}, 5, 3);
  EXPECT_EQ(cache.keep_prefix_of(text_), 0U);
  EXPECT_THAT(offsets(cache), ElementsAre(0, 0));
  auto other = held({1, 2}, 2, 3); // the first layer is as it should be
  EXPECT_EQ(other.keep_prefix_of(text_), 0U);
  EXPECT_THAT(offsets(other), ElementsAre(0, 0));
}

TEST_F(HeldCacheTest, BeginsAnewAfterMemoryRanOutWhileTrimming) {
  auto cache = held({1, 2, 9, 9});
  second_.fails_to_trim = true; // the first layer is trimmed by then
  EXPECT_THROW(cache.keep_prefix_of(text_), std::bad_alloc);
  EXPECT_THAT(cache.ids(), IsEmpty());
  second_.fails_to_trim = false;
  EXPECT_EQ(cache.keep_prefix_of(text_), 0U);
  EXPECT_THAT(offsets(cache), ElementsAre(0, 0));
}

TEST_F(HeldCacheTest, ForgetsAll) {
  auto cache = held({1, 2, 3});
  cache.forget();
  EXPECT_THAT(cache.ids(), IsEmpty());
  EXPECT_THAT(offsets(cache), ElementsAre(0, 0));
}

} // namespace
} // namespace qwen3_mlx::cli
