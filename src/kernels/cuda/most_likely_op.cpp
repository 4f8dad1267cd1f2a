// SPDX-License-Identifier: MIT
#include "kernels/cuda/most_likely.h"

#include <utility>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/primitive.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

class MostLikelyPrimitive final : public mx::Primitive {
 public:
  explicit MostLikelyPrimitive(std::shared_ptr<Runtime> runtime)
      : Primitive(mx::default_stream(mx::Device::gpu)),
        runtime_(std::move(runtime)) {}

  void
  eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw InvalidArgument("a kernel of the GPU was asked to run on the CPU");
  }

  // logits -> ids, told
  void eval_gpu(
      const std::vector<mx::array>& inputs,
      std::vector<mx::array>& outputs) override {
    const auto& logits = inputs[0];
    allocate(runtime_->pool, outputs[0]);
    allocate_for_host(runtime_->pool, outputs[1]);
    Launcher launcher = runtime_->launcher;
    launcher.stream = stream_behind(stream());
    const int rows = logits.shape(0);
    const auto workspace =
        allocate_bytes(runtime_->pool, most_likely_workspace(rows));
    keep_until_done(stream(), workspace);
    most_likely(
        launcher,
        {.logits = device_pointer(logits),
         .type = type_of(logits),
         .rows = rows,
         .cols = logits.shape(1),
         .ids = static_cast<std::uint32_t*>(device_pointer(outputs[0])),
         .told = static_cast<std::uint32_t*>(device_pointer(outputs[1])),
         .workspace = device_pointer(workspace),
         .counters = runtime_->counters_of(
             launcher.stream, static_cast<std::size_t>(rows))});
  }

  const char* name() const override {
    return "CudaMostLikely";
  }

 private:
  std::shared_ptr<Runtime> runtime_;
};

} // namespace

std::optional<MostLikely> most_likely_op(
    const mx::array& logits,
    const std::shared_ptr<Runtime>& runtime) {
  if (!float_of(logits.dtype()) || logits.ndim() != 2 || logits.shape(0) < 1 ||
      logits.shape(1) < 8 || logits.shape(1) % 8 != 0) {
    return std::nullopt;
  }
  const int rows = logits.shape(0);
  const auto outputs = mx::array::make_arrays(
      {mx::Shape{rows}, mx::Shape{2, rows}},
      {mx::uint32, mx::uint32},
      std::make_shared<MostLikelyPrimitive>(runtime),
      {dense(logits)});
  return MostLikely{outputs[0], outputs[1]};
}

} // namespace qwen3_mlx::cuda
