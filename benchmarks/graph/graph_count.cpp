// SPDX-License-Identifier: MIT
// Counts the primitives of the graph of one decode step, by name, as a JSON
// object: graph_count CONFIG.json [cpu|gpu]. Run for a model of n layers and
// one of n + 1, the difference is a layer's share;
// scripts/count_graph.py does so and counts mlx-lm's graph beside it.
#include <cstdint>
#include <exception>
#include <iostream>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx {
namespace {

using Counts = std::map<std::string, int>;

// Counts what is not evaluated yet; a primitive with several outputs once.
// (Compiled functions share one primitive among their calls, so it is the
// arrays that tell calls apart.)
void count(const mx::array& array, std::set<std::uintptr_t>& seen, Counts& to) {
  if (!array.has_primitive() || array.is_available() ||
      !seen.insert(array.id()).second) {
    return;
  }
  for (const auto& sibling : array.siblings()) {
    seen.insert(sibling.id());
  }
  ++to[array.primitive().name()];
  for (const auto& input : array.inputs()) {
    count(input, seen, to);
  }
}

int run(std::span<char*> args) {
  if (args.size() < 2) {
    std::cerr << "usage: graph_count CONFIG.json [cpu|gpu]\n";
    return 2;
  }
  if (args.size() > 2) {
    const bool cpu = std::string(args[2]) == "cpu";
    mx::set_default_device(cpu ? mx::Device::cpu : mx::Device::gpu);
  }
  const auto model = make_random_model(parse_model_args(Config::load(args[1])));
  auto cache = model.make_cache();
  model(mx::zeros({1, 8}, mx::uint32), cache).eval();
  eval_caches(cache);

  auto logits = model(mx::zeros({1, 1}, mx::uint32), cache);
  Counts counts;
  std::set<std::uintptr_t> seen;
  count(logits, seen, counts);
  std::string separator = "{";
  for (const auto& [name, n] : counts) {
    std::cout << separator << '"' << name << "\": " << n;
    separator = ", ";
  }
  std::cout << "}\n";
  return 0;
}

} // namespace
} // namespace qwen3_mlx

int main(int argc, char** argv) {
  try {
    return qwen3_mlx::run({argv, static_cast<std::size_t>(argc)});
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
