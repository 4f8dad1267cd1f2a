// SPDX-License-Identifier: MIT
// Weights in the place of a model's own, on every kind of layer.
#include "convert/damage_meter.h"

#include <map>
#include <string>
#include <tuple>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/source.h"
#include "testing/tiny_model.h"
#include "weights/stored_matrix.h"

namespace qwen3_mlx {
namespace {

class DamageMeterTest
    : public ::testing::TestWithParam<std::tuple<std::string, Kernels>> {
 protected:
  DamageMeterTest()
      : golden_(testing::load_tiny_case(
            testing::parity_goldens(),
            std::get<0>(GetParam()))),
        n_layers_(nlohmann::json::parse(golden_.config)["num_hidden_layers"]) {
    mx::set_default_device(mx::Device::cpu);
    testing::write_tiny_checkpoint(golden_, folder_.path());
    const auto [args, checkpoint] =
        open_source(folder_.path(), folder_.path() / "target");
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      const std::string leaf = ".weight";
      if (!name.ends_with(leaf) || tensor.shape.size() < 2) {
        continue;
      }
      const auto module = name.substr(0, name.size() - leaf.size());
      const StoredMatrix matrix(checkpoint, args.quantization, module);
      std::vector<float> values(matrix.n_rows() * matrix.n_columns());
      std::vector<std::byte> scratch;
      matrix.read_rows(0, matrix.n_rows(), values.data(), scratch);
      mx::Shape shape;
      for (const auto dim : matrix.shape()) {
        shape.push_back(static_cast<int>(dim));
      }
      weights_.emplace(module, mx::array(values.begin(), shape));
    }
  }

  DamageMeter meter() const {
    const auto model = load_model(
        folder_.path(), testing::float32_on_cpu(std::get<1>(GetParam())));
    auto ids = golden_.prompt_ids;
    while (ids.size() < 300) {
      ids.insert(
          ids.end(), golden_.greedy_ids.begin(), golden_.greedy_ids.end());
    }
    return {model, mx::array(ids.begin(), {static_cast<int>(ids.size())})};
  }

  std::optional<mx::array> own(const std::string& module) const {
    const auto found = weights_.find(module);
    return found == weights_.end() ? std::nullopt
                                   : std::optional(found->second);
  }

  testing::TinyCase golden_;
  int n_layers_;
  testing::TempDir folder_;
  std::map<std::string, mx::array> weights_;
};

TEST_P(DamageMeterTest, TheModelsOwnWeightsDoNone) {
  const auto found = meter();
  const auto nothing = [](const std::string&) { return std::nullopt; };
  EXPECT_LT(found.damage(0, nothing), 1e-5);
  EXPECT_LT(found.damage(n_layers_, nothing), 1e-5);
  std::size_t n_asked = 0;
  const auto all = [&](const std::string& module) {
    auto weight = own(module);
    n_asked += weight ? 1 : 0;
    return weight;
  };
  EXPECT_LT(found.damage(0, all), 1e-5);
  EXPECT_GE(n_asked, 7 * static_cast<std::size_t>(n_layers_) - 2);
}

TEST_P(DamageMeterTest, OtherWeightsDoSomeAndWorseOnesMore) {
  const auto found = meter();
  for (const auto& entry : weights_) {
    const auto& module = entry.first;
    const bool counts = module.ends_with("_proj") &&
        !module.ends_with("experts.down_proj") &&
        !module.ends_with("switch_mlp.down_proj");
    if (!counts && module != "lm_head") {
      continue;
    }
    const auto changed = [&](float factor) {
      return found.damage(0, [&](const std::string& asked) {
        auto mine = own(asked);
        // Nothing of the others, but that stacks of experts come together.
        const bool is_stack = asked.find("switch_mlp.") != std::string::npos;
        if (asked != module) {
          return is_stack ? mine : std::nullopt;
        }
        // Not a multiple, which norms of queries and keys take back.
        return std::optional(
            mx::add(*mine, mx::multiply(mx::abs(*mine), mx::array(factor))));
      });
    };
    const double little = changed(0.05f);
    EXPECT_GT(little, 0) << module;
    EXPECT_GT(changed(0.5f), little) << module;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models,
    DamageMeterTest,
    ::testing::Combine(
        ::testing::Values(
            "llama-tied",
            "qwen2-default",
            "qwen2_moe-sparse-step",
            "qwen3-default",
            "qwen3_moe-default"),
        ::testing::Values(Kernels::native, Kernels::stock)),
    [](const auto& tested) {
      return testing::test_name(std::get<0>(tested.param)) +
          (std::get<1>(tested.param) == Kernels::native ? "_native" : "_stock");
    });

} // namespace
} // namespace qwen3_mlx
