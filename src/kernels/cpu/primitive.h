// SPDX-License-Identifier: MIT
// What the CPU's primitives share.
#pragma once

#include <utility>
#include <vector>

#include "kernels/cpu/views.h"
#include "kernels/mlx_internals.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cpu {

// A primitive that runs on the CPU alone, whose work is queued on the stream.
class CpuPrimitive : public mx::UnaryPrimitive {
 public:
  CpuPrimitive() : CpuPrimitive(mx::default_stream(mx::Device::cpu)) {}
  explicit CpuPrimitive(mx::Stream stream) : UnaryPrimitive(stream) {}

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw InvalidArgument("a kernel of the CPU was asked to run on the GPU");
  }

 protected:
  static MutableRows allocate(mx::array& out) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    return {
        out.data<std::byte>(),
        float_type(out.dtype()).value(),
        static_cast<std::size_t>(out.shape(-1))};
  }

  template <class Task>
  void
  enqueue(const std::vector<mx::array>& inputs, mx::array& out, Task&& task) {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (const mx::array& input : inputs) {
      encoder.set_input_array(input);
    }
    encoder.set_output_array(out);
    encoder.dispatch(std::forward<Task>(task));
  }
};

inline mx::array as_float(const mx::array& x) {
  return float_type(x.dtype()) ? x : mx::astype(x, mx::float32);
}

// Vectors are weights and contiguous, as loaded; slices of them may not be.
inline mx::array side_by_side(const mx::array& x) {
  return x.has_primitive() ? mx::contiguous(x) : x;
}

} // namespace qwen3_mlx::cpu
