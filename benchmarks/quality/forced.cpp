// SPDX-License-Identifier: MIT
// Reads sequences of token ids, each from an empty cache, and prints what the
// model says after every token: the most likely next token, and the negative
// log-likelihood of the one that follows.
//
//   qwen3_mlx_forced MODEL exact|int8 < ids.json > said.json
//
// in: [[id, ...], ...]   out: [{"greedy": [id, ...], "losses": [x, ...]}, ...]
#include <mlx/mlx.h>

#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "qwen3_mlx/model.h"

namespace {

namespace mx = mlx::core;
using Json = nlohmann::json;

Json say(const qwen3_mlx::Model& model, const std::vector<std::uint32_t>& ids) {
  const int length = static_cast<int>(ids.size());
  const mx::array tokens(ids.begin(), {1, length}, mx::uint32);
  auto cache = model.make_cache();
  const auto logits = mx::astype(model(tokens, cache), mx::float32);
  auto greedy = mx::argmax(logits, -1);
  const auto known = mx::slice(logits, {0, 0, 0}, {1, length - 1, 1 << 30});
  const auto targets = mx::slice(tokens, {0, 1}, {1, length});
  const auto chosen =
      mx::take_along_axis(known, mx::expand_dims(targets, -1), -1);
  auto losses =
      mx::contiguous(mx::logsumexp(known, -1) - mx::squeeze(chosen, -1));
  mx::eval(greedy, losses);
  const auto* const ids_out = greedy.data<std::uint32_t>();
  const auto* const losses_out = losses.data<float>();
  return {
      {"greedy", std::vector(ids_out, ids_out + greedy.size())},
      {"losses", std::vector(losses_out, losses_out + losses.size())}};
}

} // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: qwen3_mlx_forced MODEL exact|int8 < ids.json\n";
    return 2;
  }
  mx::set_default_device(mx::Device::cpu);
  qwen3_mlx::LoadOptions options;
  options.exact = std::string_view(argv[2]) == "exact";
  const auto model = qwen3_mlx::load_model(argv[1], options);
  Json said = Json::array();
  for (const auto& ids : Json::parse(std::cin)) {
    said.push_back(say(model, ids.get<std::vector<std::uint32_t>>()));
  }
  std::cout << said << '\n';
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
