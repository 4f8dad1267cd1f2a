// SPDX-License-Identifier: MIT
#include "weights/load_plan.h"

#include <utility>

#include "weights/plan_state.h"

namespace qwen3_mlx {

LoadPlan::LoadPlan(
    Checkpoint checkpoint,
    const ModelArgs& args,
    PlanOptions options)
    : state_(
          std::make_shared<PlanState>(std::move(checkpoint), args, options)) {}

LoadPlan::LoadPlan(std::shared_ptr<PlanState> state)
    : state_(std::move(state)) {}

LoadPlan LoadPlan::random(
    const ModelArgs& args,
    std::uint64_t seed,
    PlanOptions options) {
  return LoadPlan(std::make_shared<PlanState>(seed, args, options));
}

Weights LoadPlan::weights() const {
  return {state_, ""};
}

void LoadPlan::read(int n_threads, const LoadProgress& progress) {
  state_->read(n_threads, progress);
}

std::uint64_t LoadPlan::n_bytes() const {
  return state_->n_bytes();
}

} // namespace qwen3_mlx
