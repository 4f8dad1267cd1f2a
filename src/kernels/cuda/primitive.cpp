// SPDX-License-Identifier: MIT
#include "kernels/cuda/primitive.h"

#include <utility>

#include "mlx/ops.h"
#include "mlx/utils.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

// An operation that runs at once.
class Immediate final : public Operands {
 public:
  Immediate(Runtime& runtime, mx::Stream stream)
      : runtime_(runtime), stream_(stream) {}

  // Inputs may be what MLX has recorded and not handed over.
  Launcher launcher() override {
    Launcher launcher = runtime_.launcher;
    launcher.stream = stream_behind(stream_);
    return launcher;
  }
  void* input(const mx::array& array) override {
    return device_pointer(array);
  }
  void* output(mx::array& array) override {
    allocate(runtime_.pool, array);
    return device_pointer(array);
  }
  void* temporary(std::size_t n_bytes) override {
    const auto bytes = allocate_bytes(runtime_.pool, n_bytes);
    keep_until_done(stream_, bytes);
    return device_pointer(bytes);
  }
  unsigned* counters(std::size_t count) override {
    return runtime_.counters_of(launcher().stream, count);
  }

 private:
  Runtime& runtime_;
  mx::Stream stream_;
};

} // namespace

ProductRoom room_for(Operands& operands, const GemmNeeds& needs) {
  return {
      static_cast<float*>(operands.temporary(needs.workspace * sizeof(float))),
      operands.counters(needs.counters)};
}

std::optional<Float> float_of(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? std::optional(Float::bf16)
      : dtype == mx::float16   ? std::optional(Float::f16)
      : dtype == mx::float32   ? std::optional(Float::f32)
                               : std::nullopt;
}

Float type_of(const mx::array& array) {
  return float_of(array.dtype()).value();
}

CudaPrimitive::CudaPrimitive(std::shared_ptr<Runtime> runtime)
    : UnaryPrimitive(mx::default_stream(mx::Device::gpu)),
      runtime_(std::move(runtime)) {}

void CudaPrimitive::eval_cpu(const std::vector<mx::array>&, mx::array&) {
  throw InvalidArgument("a kernel of the GPU was asked to run on the CPU");
}

void CudaPrimitive::eval_gpu(
    const std::vector<mx::array>& inputs,
    mx::array& out) {
  Immediate operands(*runtime_, stream());
  run(operands, inputs, out);
}

void append_sequences(
    void* keys,
    void* values,
    const mx::Shape& shape,
    int offset,
    std::vector<DecodeSequence>& sequences) {
  std::size_t n_bytes = 2;
  for (int axis = 1; axis < 4; ++axis) {
    n_bytes *= static_cast<std::size_t>(shape[axis]);
  }
  for (int idx = 0; idx < shape[0]; ++idx) {
    const auto begin = n_bytes * static_cast<std::size_t>(idx);
    sequences.push_back(
        {static_cast<char*>(keys) + begin,
         static_cast<char*>(values) + begin,
         shape[2],
         offset});
  }
}

mx::array dense(const mx::array& x) {
  if (x.has_primitive()
          ? dynamic_cast<const CudaPrimitive*>(&x.primitive()) != nullptr
          : x.flags().row_contiguous) {
    return x;
  }
  return mx::contiguous(x);
}

} // namespace qwen3_mlx::cuda
