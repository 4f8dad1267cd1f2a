// SPDX-License-Identifier: MIT
#include "kernels/cpu/sampling_op.h"

#include <memory>
#include <utility>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/primitive.h"

namespace qwen3_mlx::cpu {

namespace {

class SamplingPrimitive final : public CpuPrimitive {
 public:
  SamplingPrimitive(
      mx::Stream stream,
      std::shared_ptr<const SamplingForm> form,
      bool penalizes)
      : CpuPrimitive(stream), form_(std::move(form)), penalizes_(penalizes) {}

  // logits, then draws unless greedy, then the window if it penalizes
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    std::size_t next = 1;
    const float* draws = nullptr;
    if (!form_->is_greedy()) {
      draws = inputs[next++].data<float>();
    }
    const std::int32_t* window = nullptr;
    std::size_t width = 0;
    if (penalizes_) {
      width = static_cast<std::size_t>(inputs[next].shape(-1));
      window = inputs[next].data<std::int32_t>();
    }
    enqueue(
        inputs,
        out,
        [form = form_,
         x = RowsOf(inputs[0]),
         size = inputs[0].shape(-1),
         draws,
         window,
         width,
         to = out.data<std::uint32_t>()]() mutable {
          const KernelTable& kernels = select_kernels();
          const Rows rows = x.get();
          const auto count = static_cast<std::size_t>(x.count());
          for (std::size_t row = 0; row < count; ++row) {
            SamplingInputs of_row;
            if (window != nullptr) {
              of_row.window = {window + row * width, width};
            }
            if (draws != nullptr) {
              of_row.draw = draws[2 * row];
              of_row.xtc_draw = draws[2 * row + 1];
            }
            to[row] = sample_row(
                kernels, *form, rows.row(row), rows.type, size, of_row);
          }
        });
  }

  const char* name() const override {
    return "CpuSampling";
  }

 private:
  std::shared_ptr<const SamplingForm> form_;
  bool penalizes_;
};

// Evaluated arrays of whole rows are so already.
mx::array packed(const mx::array& x, mx::Dtype dtype, mx::Stream stream) {
  const auto typed = x.dtype() == dtype ? x : mx::astype(x, dtype, stream);
  const bool is_packed = !typed.has_primitive() && typed.flags().row_contiguous;
  return is_packed ? typed
                   : mx::contiguous(typed, /* allow_col_major */ false, stream);
}

} // namespace

mx::array sampling_op(
    const mx::array& logits,
    const mx::array& draws,
    const mx::array& window,
    const SamplingForm& form,
    bool penalizes,
    mx::Stream stream) {
  std::vector<mx::array> inputs{logits};
  if (!form.is_greedy()) {
    inputs.push_back(packed(draws, mx::float32, stream));
  }
  if (penalizes) {
    inputs.push_back(packed(window, mx::int32, stream));
  }
  return mx::array(
      {logits.shape(0)},
      mx::uint32,
      std::make_shared<SamplingPrimitive>(
          stream, std::make_shared<const SamplingForm>(form), penalizes),
      std::move(inputs));
}

} // namespace qwen3_mlx::cpu
