// SPDX-License-Identifier: MIT
// However a sequence is fed, its logits are the same: at once, in chunks,
// token by token, beside others, or from a saved cache.
#include <gtest/gtest.h>

#include <thread>

#if defined(__GLIBC__) // which the headers above define
#include <malloc.h>
#endif

#include "models/property_cases.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/generate.h"
#include "qwen3_mlx/model.h"
#include "qwen3_mlx/prompt_cache.h"

namespace qwen3_mlx::testing {
namespace {

class CacheProperty : public ModelProperty {};

TEST_P(CacheProperty, TokenByTokenEqualsWhole) {
  auto whole_cache = make_cache();
  auto single_cache = make_cache();
  EXPECT_LE(
      max_abs_difference(
          logits_in_pieces(whole_cache, prompt().size()),
          logits_in_pieces(single_cache, 1)),
      tolerance_);
}

TEST_P(CacheProperty, ChunksEqualWhole) {
  auto whole_cache = make_cache();
  const auto whole = logits_in_pieces(whole_cache, prompt().size());
  for (const std::size_t piece : {3U, 16U, 39U}) {
    auto cache = make_cache();
    EXPECT_LE(
        max_abs_difference(whole, logits_in_pieces(cache, piece)), tolerance_)
        << "pieces of " << piece;
  }
}

TEST_P(CacheProperty, RaggedBatchEqualsAlone) {
  // A prompt of 9, one of 1, a decode step after 23 and a chunk after 11.
  struct Sequence {
    std::size_t num_cached;
    std::size_t num_new;
  };
  const std::vector<Sequence> sequences{{0, 9}, {0, 1}, {23, 1}, {11, 14}};
  std::vector<std::vector<KVCache>> caches;
  std::vector<std::uint32_t> tokens;
  std::vector<float> alone;
  for (const auto& [num_cached, num_new] : sequences) {
    auto alone_cache = make_cache();
    caches.push_back(make_cache());
    if (num_cached > 0) {
      const auto ids = as_batch(prompt().first(num_cached));
      mx::eval(model()(ids, alone_cache), model()(ids, caches.back()));
    }
    const auto ids = prompt().subspan(num_cached, num_new);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    const auto rows = values_of(model()(as_batch(ids), alone_cache));
    alone.insert(alone.end(), rows.begin(), rows.end());
  }
  StepInput step{
      .tokens = mx::array(
          tokens.data(),
          mx::Shape{static_cast<int>(tokens.size())},
          mx::uint32)};
  for (std::size_t idx = 0; idx < sequences.size(); ++idx) {
    step.segments.push_back(
        {.cache = caches[idx],
         .length = static_cast<int>(sequences[idx].num_new)});
  }
  EXPECT_LE(
      max_abs_difference(values_of(model().forward(step)), alone), tolerance_);
}

TEST_P(CacheProperty, CopiedCacheEqualsItsSource) {
  auto cache = make_cache();
  mx::eval(model()(as_batch(prompt().first(20)), cache));
  std::vector<KVCache> copied;
  for (const auto& layer : cache) {
    copied.push_back(layer.copy());
  }
  const auto rest = as_batch(prompt().subspan(20));
  const auto expected = values_of(model()(rest, cache));
  EXPECT_EQ(values_of(model()(rest, copied)), expected);
}

TEST_P(CacheProperty, TrimmedCacheEqualsShorterOne) {
  auto cache = make_cache();
  mx::eval(model()(as_batch(prompt().first(12)), cache));
  mx::eval(model()(as_batch(prompt().subspan(30, 3)), cache));
  for (auto& layer : cache) {
    ASSERT_TRUE(layer.can_trim(3));
    layer.trim(3);
  }
  auto fresh_cache = make_cache();
  mx::eval(model()(as_batch(prompt().first(12)), fresh_cache));
  const auto rest = as_batch(prompt().subspan(12, 8));
  EXPECT_LE(
      max_abs_difference(
          values_of(model()(rest, cache)),
          values_of(model()(rest, fresh_cache))),
      tolerance_);
}

TEST_P(CacheProperty, SavedCacheEqualsFresh) {
  const TempDir folder;
  const auto path = folder.path() / "cache.safetensors";
  auto cache = make_cache();
  mx::eval(model()(as_batch(prompt().first(30)), cache));
  save_prompt_cache(path, cache, prompt().first(30), model());
  using std::filesystem::perms;
  EXPECT_EQ(
      std::filesystem::status(path).permissions(),
      perms::owner_read | perms::owner_write);
  auto loaded = load_prompt_cache(path, model());
  EXPECT_EQ(
      loaded.tokens, std::vector(prompt().begin(), prompt().begin() + 30));
  for (const std::size_t start : {30U, 31U, 35U}) {
    const auto next = as_batch(prompt().subspan(start, start == 30 ? 1 : 4));
    EXPECT_EQ(
        values_of(model()(next, loaded.cache)),
        values_of(model()(next, cache)));
  }
}

#if defined(__GLIBC__)
TEST_P(CacheProperty, WhatMemoryHeldBeforeChangesNothing) {
  const TempDir folder;
  const auto path = folder.path() / "cache.safetensors";
  auto cache = make_cache();
  mx::eval(model()(as_batch(prompt().first(30)), cache));
  save_prompt_cache(path, cache, prompt().first(30), model());
  // Fresh memory is full of numbers near the largest one.
  mallopt(M_PERTURB, 0x80);
  auto loaded = load_prompt_cache(path, model());
  const auto next = as_batch(prompt().subspan(30, 1));
  const auto logits = values_of(model()(next, loaded.cache));
  mallopt(M_PERTURB, 0);
  EXPECT_EQ(logits, values_of(model()(next, cache)));
}
#endif

TEST(PromptCache, IsBoundToTheWeights) {
  const auto [golden, model] = load_tiny_model("qwen3-default");
  const TempDir folder;
  const auto path = folder.path() / "cache.safetensors";
  auto cache = model.make_cache();
  mx::eval(model(as_batch(golden.prompt_ids), cache));
  save_prompt_cache(path, cache, golden.prompt_ids, model);
  const auto again = load_tiny_model("qwen3-default").model;
  EXPECT_EQ(load_prompt_cache(path, again).tokens, golden.prompt_ids);
  // The same shapes, trained further.
  auto other = golden;
  ++other.seed;
  write_tiny_checkpoint(other, folder.path());
  const auto tuned = load_model(folder.path(), stock_float32());
  EXPECT_THROW(load_prompt_cache(path, tuned), FileError);
}

TEST_P(CacheProperty, LoadedOnOneThreadGeneratesOnAnother) {
  GenerateOptions options;
  options.max_tokens = 8;
  options.stop_ids.emplace();
  const auto generate = [&] {
    auto cache = make_cache();
    std::vector<std::uint32_t> ids;
    for (const auto id : Generate(model(), cache, prompt(), {}, options)) {
      ids.push_back(id);
    }
    return ids;
  };
  std::vector<std::uint32_t> elsewhere;
  std::thread([&] { elsewhere = generate(); }).join();
  EXPECT_EQ(elsewhere, generate());
  EXPECT_EQ(elsewhere.size(), 8U);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    CacheProperty,
    ::testing::Combine(
        ::testing::ValuesIn(property_models()),
        ::testing::ValuesIn(cache_cases()),
        ::testing::Values(Kernels::stock, Kernels::native)),
    property_name);

// Rows of one batch: two sequences of equal length in one cache.
class Batch : public ::testing::TestWithParam<Kernels> {};

TEST_P(Batch, RowsEqualEachAlone) {
  for (const auto& name : property_models()) {
    const auto [golden, model] =
        load_tiny_model(name, float32_on_cpu(GetParam()));
    auto reversed = golden.prompt_ids;
    std::reverse(reversed.begin(), reversed.end());
    auto cache = model.make_cache();
    const auto both = values_of(model(
        mx::concatenate(
            {as_batch(golden.prompt_ids), as_batch(reversed)}, /* axis */ 0),
        cache));
    auto first_cache = model.make_cache();
    auto alone = values_of(model(as_batch(golden.prompt_ids), first_cache));
    auto second_cache = model.make_cache();
    const auto second = values_of(model(as_batch(reversed), second_cache));
    alone.insert(alone.end(), second.begin(), second.end());
    EXPECT_LE(
        max_abs_difference(both, alone),
        GetParam() == Kernels::native ? 0.0F : logit_tolerance)
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kernels,
    Batch,
    ::testing::Values(Kernels::stock, Kernels::native),
    [](const auto& test) {
      return test.param == Kernels::stock ? "stock" : "native";
    });

} // namespace
} // namespace qwen3_mlx::testing
