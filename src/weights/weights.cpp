// SPDX-License-Identifier: MIT
#include "weights/weights.h"

#include <utility>
#include <vector>

#include "weights/plan_state.h"

namespace qwen3_mlx {

Weights::Weights(std::shared_ptr<PlanState> plan, std::string prefix)
    : plan_(std::move(plan)), prefix_(std::move(prefix)) {}

std::string Weights::name(std::string_view leaf) const {
  return prefix_.empty() ? std::string(leaf)
                         : prefix_ + "." + std::string(leaf);
}

Weights Weights::sub(std::string_view child) const {
  return {plan_, name(child)};
}

Weights Weights::sub(std::string_view child, int index) const {
  return {plan_, name(child) + "." + std::to_string(index)};
}

bool Weights::has(std::string_view leaf) const {
  return plan_->has(name(leaf));
}

mx::array Weights::vector(std::string_view leaf, int size) const {
  const auto full = name(leaf);
  return plan_->take_vector({&full, 1}, {&size, 1});
}

mx::array Weights::merged_vector(
    std::span<const std::string_view> names,
    std::string_view leaf,
    std::span<const int> sizes) const {
  std::vector<std::string> full;
  for (const auto child : names) {
    full.push_back(name(child) + "." + std::string(leaf));
  }
  return plan_->take_vector(full, sizes);
}

Matrix Weights::matrix(int out, int in) const {
  const ModulePart part{prefix_, out};
  return *plan_->take_matrix({&part, 1}, in, /* n_experts */ 0);
}

std::optional<Matrix> Weights::merged(
    std::span<const std::string_view> names,
    std::span<const int> outs,
    int in) const {
  std::vector<ModulePart> parts;
  for (std::size_t idx = 0; idx < names.size(); ++idx) {
    parts.push_back({name(names[idx]), outs[idx]});
  }
  return plan_->take_matrix(parts, in, /* n_experts */ 0);
}

Matrix Weights::experts(int n_experts, int out, int in) const {
  const ModulePart part{prefix_, out};
  return *plan_->take_matrix({&part, 1}, in, n_experts);
}

std::optional<Matrix> Weights::merged_experts(
    std::span<const std::string_view> names,
    int n_experts,
    int out_each,
    int in) const {
  std::vector<ModulePart> parts;
  for (const auto child : names) {
    parts.push_back({name(child), out_each});
  }
  return plan_->take_matrix(parts, in, n_experts);
}

mx::Dtype Weights::dtype() const {
  return plan_->dtype();
}

} // namespace qwen3_mlx
