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
    const mx::array& keys,
    const mx::array& values,
    std::span<const mx::array> scales,
    int offset,
    std::vector<DecodeSequence>& sequences) {
  // Of one sequence's part of an array.
  const auto part = [](const mx::array& of, int idx) -> void* {
    std::size_t n_bytes = of.itemsize();
    for (int axis = 1; axis < 4; ++axis) {
      n_bytes *= static_cast<std::size_t>(of.shape(axis));
    }
    return static_cast<char*>(device_pointer(of)) +
        n_bytes * static_cast<std::size_t>(idx);
  };
  for (int idx = 0; idx < keys.shape(0); ++idx) {
    DecodeSequence sequence{
        .keys = part(keys, idx),
        .values = part(values, idx),
        .capacity = keys.shape(2),
        .offset = offset};
    if (scales.size() == 4) {
      sequence.key_scales = part(scales[0], idx);
      sequence.key_biases = part(scales[1], idx);
      sequence.value_scales = part(scales[2], idx);
      sequence.value_biases = part(scales[3], idx);
    }
    sequences.push_back(sequence);
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
