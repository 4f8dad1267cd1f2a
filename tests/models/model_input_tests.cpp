// SPDX-License-Identifier: MIT
// What a model refuses before any kernel reads memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "qwen3_mlx/error.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::HasSubstr;

class ModelInput : public ::testing::TestWithParam<Kernels> {
 protected:
  void expect_refused(const mx::array& tokens, const std::string& reason) {
    auto cache = tiny_.model.make_cache();
    try {
      tiny_.model(tokens, cache);
      FAIL() << "was accepted";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), HasSubstr(reason));
    }
    const auto flat = mx::reshape(tokens, {static_cast<int>(tokens.size())});
    mx::eval(flat);
    const Segment segment{
        .cache = cache, .length = static_cast<int>(tokens.size())};
    EXPECT_THROW(tiny_.model.forward({flat, {segment}}), InvalidArgument);
  }

  TinyModel tiny_ =
      load_tiny_model("qwen3-default", float32_on_cpu(GetParam()));
};

TEST_P(ModelInput, IdsOutsideTheVocabularyAreRefused) {
  const auto n = static_cast<std::uint32_t>(tiny_.model.args().vocab_size);
  for (const std::uint32_t bad : {n, n + 1, 0x80000000U, 0xffffffffU}) {
    const std::vector<std::uint32_t> ids = {0, n - 1, bad};
    expect_refused(as_batch(ids), std::to_string(bad));
  }
  const std::vector<int> negative = {1, -1};
  expect_refused(
      mx::array(negative.data(), {1, 2}, mx::int32), "vocabulary of");
}

TEST_P(ModelInput, IdsAreIntegersOf32Bits) {
  expect_refused(mx::array({1.0F, 2.0F}, {1, 2}), "expected uint32 or int32");
}

INSTANTIATE_TEST_SUITE_P(
    Kernels,
    ModelInput,
    ::testing::Values(Kernels::stock, Kernels::native),
    [](const auto& test) {
      return test.param == Kernels::stock ? "stock" : "native";
    });

} // namespace
} // namespace qwen3_mlx::testing
