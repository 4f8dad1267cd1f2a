// SPDX-License-Identifier: MIT
// What Generate yields depends on the model, the prompt, the parameters and
// the seed, and on nothing else; and how it ends.
#include "qwen3_mlx/generate.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <thread>

#include "qwen3_mlx/error.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::testing {
namespace {

class GenerateProperty : public ::testing::Test {
 protected:
  static GenerateOptions no_stop(int max_tokens) {
    GenerateOptions options;
    options.max_tokens = max_tokens;
    options.stop_ids.emplace();
    return options;
  }

  std::vector<std::uint32_t>
  generate(const SamplingParams& params, const GenerateOptions& options) const {
    auto cache = tiny_.model.make_cache();
    std::vector<std::uint32_t> ids;
    for (const auto id :
         Generate(tiny_.model, cache, prompt(), params, options)) {
      ids.push_back(id);
    }
    return ids;
  }

  std::span<const std::uint32_t> prompt() const {
    return tiny_.golden.prompt_ids;
  }

  TinyModel tiny_ = load_tiny_model("qwen3-default");
  SamplingParams sampled_{
      .temperature = 0.9F,
      .top_p = 0.95F,
      .top_k = 20,
      .repetition_penalty = 1.1F,
      .seed = 42};
};

TEST_F(GenerateProperty, SameSeedSameTokensHoweverThePromptIsCut) {
  const auto expected = generate(sampled_, no_stop(24));
  EXPECT_EQ(expected.size(), 24U);
  for (const int prefill_step_size : {1, 7, 39, 40}) {
    auto options = no_stop(24);
    options.prefill_step_size = prefill_step_size;
    EXPECT_EQ(generate(sampled_, options), expected) << prefill_step_size;
  }
}

TEST_F(GenerateProperty, SeedsGiveDifferentTokens) {
  auto other = sampled_;
  other.seed = 43;
  EXPECT_NE(generate(sampled_, no_stop(24)), generate(other, no_stop(24)));
}

TEST_F(GenerateProperty, ASeedGivesTheSameTokensInABatch) {
  // Two sequences, step by step in one ragged pass; the first by hand as
  // Generate does it alone.
  const auto expected = generate(sampled_, no_stop(12));
  const auto& model = tiny_.model;
  auto cache = model.make_cache();
  auto neighbour_cache = model.make_cache();
  SequenceSampler sampler(sampled_, model.args().vocab_size, prompt());
  std::vector<std::uint32_t> tokens(prompt().begin(), prompt().end());
  std::vector<std::uint32_t> neighbour{5, 6, 7};
  std::vector<std::uint32_t> ids;
  while (ids.size() < expected.size()) {
    const auto length = static_cast<int>(tokens.size());
    const auto neighbour_length = static_cast<int>(neighbour.size());
    tokens.insert(tokens.end(), neighbour.begin(), neighbour.end());
    StepInput step{
        .tokens =
            mx::array(tokens.data(), {length + neighbour_length}, mx::uint32),
        .segments =
            {{.cache = cache, .length = length},
             {.cache = neighbour_cache, .length = neighbour_length}},
        .logits_rows = std::vector<int>{length - 1}};
    ids.push_back(sampler(model.forward(step)).item<std::uint32_t>());
    tokens = {ids.back()};
    neighbour = {static_cast<std::uint32_t>(ids.size())};
  }
  EXPECT_EQ(ids, expected);
}

TEST_F(GenerateProperty, TheArrayFormEqualsTheSpanForm) {
  std::vector<KVCache> cache;
  std::vector<std::uint32_t> ids;
  for (const auto id :
       Generate(tiny_.model, cache, /* temp */ 0, as_batch(prompt()))) {
    ids.push_back(id);
    if (ids.size() == tiny_.golden.greedy_ids.size()) {
      break;
    }
  }
  EXPECT_EQ(ids, tiny_.golden.greedy_ids);
}

TEST_F(GenerateProperty, PenaltiesSeeWhatTheCacheHolds) {
  const auto held = prompt().first(prompt().size() - 2);
  auto cache = tiny_.model.make_cache();
  mx::eval(tiny_.model(
      mx::array(held.begin(), {1, static_cast<int>(held.size())}, mx::uint32),
      cache));
  auto options = no_stop(12);
  options.history.assign(held.begin(), held.end());
  std::vector<std::uint32_t> ids;
  for (const auto id : Generate(
           tiny_.model,
           cache,
           prompt().subspan(held.size()),
           sampled_,
           options)) {
    ids.push_back(id);
  }
  EXPECT_EQ(ids, generate(sampled_, no_stop(12)));
}

TEST_F(GenerateProperty, AStopIdIsTheLastToken) {
  const auto& greedy = tiny_.golden.greedy_ids;
  const auto stop_id = greedy[9];
  const auto first = std::find(greedy.begin(), greedy.end(), stop_id);
  auto options = no_stop(64);
  options.stop_ids = {{stop_id}};
  auto cache = tiny_.model.make_cache();
  Generate generate(tiny_.model, cache, prompt(), {}, options);
  EXPECT_FALSE(generate.finish_reason());
  std::vector<std::uint32_t> ids;
  for (const auto id : generate) {
    ids.push_back(id);
  }
  EXPECT_EQ(ids, std::vector(greedy.begin(), first + 1));
  EXPECT_EQ(generate.finish_reason(), FinishReason::stop);
  // The cache is ready for the next turn: all but the last token.
  EXPECT_EQ(
      cache.front().offset(),
      static_cast<int>(prompt().size() + ids.size()) - 1);
}

TEST_F(GenerateProperty, TheNextTurnContinuesOnTheSameCache) {
  auto cache = tiny_.model.make_cache();
  std::vector<std::uint32_t> conversation(prompt().begin(), prompt().end());
  for (const auto id : Generate(tiny_.model, cache, prompt(), {}, no_stop(6))) {
    conversation.push_back(id);
  }
  // The last token is not in the cache yet.
  const std::vector<std::uint32_t> turn{conversation.back(), 3, 1, 4};
  conversation.insert(conversation.end(), {3, 1, 4});
  const auto ids_of = [&](std::vector<KVCache>& layers, const auto& tokens) {
    std::vector<std::uint32_t> ids;
    for (const auto id :
         Generate(tiny_.model, layers, tokens, {}, no_stop(8))) {
      ids.push_back(id);
    }
    return ids;
  };
  auto fresh_cache = tiny_.model.make_cache();
  EXPECT_EQ(ids_of(cache, turn), ids_of(fresh_cache, conversation));
}

TEST_F(GenerateProperty, LogprobsAreTheModelsOwn) {
  auto options = no_stop(5);
  options.logprobs = true;
  options.top_logprobs = 4;
  auto cache = tiny_.model.make_cache();
  Generate generate(tiny_.model, cache, prompt(), sampled_, options);
  std::vector<std::uint32_t> tokens(prompt().begin(), prompt().end());
  for (const auto id : generate) {
    auto fresh_cache = tiny_.model.make_cache();
    const int vocab_size = tiny_.model.args().vocab_size;
    const auto all = values_of(log_softmax(mx::reshape(
        tiny_.model(as_batch(tokens), fresh_cache), {-1, vocab_size})));
    const std::span row =
        std::span(all).last(static_cast<std::size_t>(vocab_size));
    const auto& logprobs = generate.logprobs();
    EXPECT_EQ(logprobs.id, id);
    EXPECT_NEAR(logprobs.logprob, row[id], logit_tolerance);
    ASSERT_EQ(logprobs.top.size(), 4U);
    for (const auto& [top_id, logprob] : logprobs.top) {
      EXPECT_NEAR(logprob, row[top_id], logit_tolerance);
    }
    EXPECT_NEAR(
        logprobs.top.front().second,
        *std::max_element(row.begin(), row.end()),
        logit_tolerance);
    tokens.push_back(id);
  }
}

TEST_F(GenerateProperty, StepsWriteTheCacheInPlace) {
  // MLX updates a buffer in place only while nobody else holds it: a handle
  // kept anywhere would make every step copy the cache.
  auto cache = tiny_.model.make_cache();
  const auto buffers = [&] {
    std::vector<const void*> pointers;
    for (const auto& layer : cache) {
      for (const auto& [name, array] : layer.store().state()) {
        auto evaluated = array;
        evaluated.eval();
        pointers.push_back(evaluated.data<void>());
      }
    }
    return pointers;
  };
  std::vector<const void*> first;
  int num_tokens = 0;
  for ([[maybe_unused]] const auto id :
       Generate(tiny_.model, cache, prompt(), sampled_, no_stop(40))) {
    if (++num_tokens == 3) {
      first = buffers();
    } else if (num_tokens > 3) {
      ASSERT_EQ(buffers(), first) << "after " << num_tokens << " tokens";
    }
  }
  EXPECT_FALSE(first.empty());
}

TEST_F(GenerateProperty, CancellationEndsTheText) {
  auto options = no_stop(64);
  int num_tokens = 0;
  options.cancelled = [&] { return num_tokens >= 3; };
  auto cache = tiny_.model.make_cache();
  Generate generate(tiny_.model, cache, prompt(), {}, options);
  for ([[maybe_unused]] const auto id : generate) {
    ++num_tokens;
  }
  EXPECT_EQ(num_tokens, 3);
  EXPECT_EQ(generate.finish_reason(), FinishReason::cancelled);
}

TEST_F(GenerateProperty, AnErrorEndsTheRange) {
  auto options = no_stop(64);
  options.prefill_step_size = 8;
  options.prompt_progress = [](int, int) { throw Error("progress"); };
  auto cache = tiny_.model.make_cache();
  Generate in_prompt(tiny_.model, cache, prompt(), {}, options);
  EXPECT_THROW(in_prompt.begin(), Error);
  EXPECT_TRUE(in_prompt.begin() == in_prompt.end());
  EXPECT_EQ(in_prompt.finish_reason(), FinishReason::cancelled);

  options.prompt_progress = {};
  int num_questions = 0;
  options.cancelled = [&]() -> bool {
    if (++num_questions == 8) {
      throw Error("cancelled");
    }
    return false;
  };
  cache = tiny_.model.make_cache();
  Generate in_text(tiny_.model, cache, prompt(), {}, options);
  EXPECT_THROW(
      {
        for ([[maybe_unused]] const auto id : in_text) {
        }
      },
      Error);
  EXPECT_TRUE(in_text.begin() == in_text.end());
  EXPECT_EQ(in_text.finish_reason(), FinishReason::cancelled);
}

TEST_F(GenerateProperty, TokensOutsideTheVocabularyAreRefused) {
  auto cache = tiny_.model.make_cache();
  const std::vector<std::uint32_t> bad{1, 96};
  EXPECT_THROW(
      Generate(tiny_.model, cache, bad, {}, no_stop(1)), InvalidArgument);
  EXPECT_THROW(
      Generate(
          tiny_.model, cache, std::span<const std::uint32_t>{}, {}, no_stop(1)),
      InvalidArgument);
}

TEST(Generate, NanLogitsEndTheTextWithAnError) {
  auto golden = load_tiny_case(parity_goldens(), "qwen3-default");
  golden.tensors.back().center = std::numeric_limits<float>::quiet_NaN();
  const TempDir folder;
  write_tiny_checkpoint(golden, folder.path());
  const auto model = load_model(folder.path(), stock_float32());
  auto cache = model.make_cache();
  Generate generate(model, cache, golden.prompt_ids);
  EXPECT_THROW(
      {
        for ([[maybe_unused]] const auto id : generate) {
        }
      },
      Error);
}

} // namespace
} // namespace qwen3_mlx::testing
