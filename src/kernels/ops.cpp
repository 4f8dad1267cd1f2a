// SPDX-License-Identifier: MIT
#include "kernels/ops.h"

#include <sstream>

#include "kernels/cpu/ops.h"
#include "kernels/cuda/ops.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/compile.h"
#include "mlx/device.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::ops {
namespace {

// Below this many token-expert pairs sorting costs more than the reuse of an
// expert's weights by neighbouring rows gains (mlx-lm's figure).
constexpr int min_pairs_to_sort = 64;

void check_inner(const char* op, const mx::array& x, const Matrix& w) {
  if (x.ndim() == 0 || x.shape(-1) != w.in_dim()) {
    std::ostringstream message;
    message << "[" << op << "] expected x [..., " << w.in_dim() << "] but got "
            << x.shape();
    throw InvalidArgument(message.str());
  }
}

const mx::array* pointer(const Bias& bias) {
  return bias ? &*bias : nullptr;
}

// silu(gate) * up
mx::array gated(const mx::array& gate, const mx::array& up) {
  return mx::multiply(mx::multiply(gate, mx::sigmoid(gate)), up);
}

std::vector<mx::array> gated_arrays(const std::vector<mx::array>& gate_and_up) {
  return {gated(gate_and_up[0], gate_and_up[1])};
}

// On a GPU compiled into one kernel. MLX compiles on the CPU too, by calling a
// C++ compiler at run time, and gains nothing there.
mx::array fused_gated(const mx::array& gate, const mx::array& up) {
  if (mx::default_device() == mx::Device::cpu) {
    return gated(gate, up);
  }
  // MLX keeps what it compiled, by the function's address.
  return mx::compile(gated_arrays, /* shapeless */ true)({gate, up})[0];
}

mx::array slice_last(const mx::array& x, int begin, int end) {
  mx::Shape start(x.ndim(), 0);
  mx::Shape stop = x.shape();
  start.back() = begin;
  stop.back() = end;
  return mx::slice(x, std::move(start), std::move(stop));
}

// x [N, 1, in] through the expert that `experts` [N] or [T, k] names.
mx::array gather_linear(
    const mx::array& x,
    const Matrix& w,
    const mx::array& experts,
    bool sorted) {
  if (w.blocks) {
    return gather_linear(x, cuda::unpacked(w, x.dtype()), experts, sorted);
  }
  if (w.format.is_quantized()) {
    return mx::gather_qmm(
        x,
        w.weight,
        *w.scales,
        w.biases,
        /* lhs_indices */ std::nullopt,
        experts,
        /* transpose */ true,
        w.format.group_size,
        w.format.bits,
        to_string(w.format.mode),
        /* global_scale */ std::nullopt,
        sorted);
  }
  // MLX 0.32.4 gives wrong products on CUDA when it is told that indices of
  // the same graph are sorted; without the hint they are right, and slower.
  return mx::gather_mm(
      x,
      mx::swapaxes(w.weight, -1, -2),
      /* lhs_indices */ std::nullopt,
      experts,
      sorted && !mx::cu::is_available());
}

mx::array gather_mlp(
    const mx::array& x,
    const Experts& w,
    const mx::array& experts,
    bool sorted) {
  const auto gate = gather_linear(x, w.gate_up, experts, sorted);
  const auto hidden = w.up == nullptr
      ? swiglu(gate)
      : fused_gated(gate, gather_linear(x, *w.up, experts, sorted));
  return gather_linear(hidden, w.down, experts, sorted);
}

} // namespace

bool is_tiled(const Experts& w) {
  return w.gate_up.tiles && w.down.tiles && (w.up == nullptr || w.up->tiles);
}

bool is_fused(const Experts& w) {
  return is_tiled(w) || cuda::takes_experts(w.gate_up, w.up, w.down);
}

mx::array linear(const mx::array& x, const Matrix& w, const Bias& bias) {
  check_inner("linear", x, w);
  if (w.tiles) {
    return cpu::linear_op(x, w, {.bias = pointer(bias)});
  }
  if (w.blocks) {
    return cuda::takes_rows(x, w)
        ? cuda::linear_op(x, w, {.bias = pointer(bias)})
        : linear(x, cuda::unpacked(w, x.dtype()), bias);
  }
  if (!w.format.is_quantized()) {
    const auto transposed = mx::swapaxes(w.weight, -1, -2);
    return bias ? mx::addmm(*bias, x, transposed) : mx::matmul(x, transposed);
  }
  const auto out = mx::quantized_matmul(
      x,
      w.weight,
      *w.scales,
      w.biases,
      /* transpose */ true,
      w.format.group_size,
      w.format.bits,
      to_string(w.format.mode));
  return bias ? mx::add(out, *bias) : out;
}

mx::array norm_linear(
    const mx::array& x,
    const Norm& norm,
    const Matrix& w,
    const Bias& bias) {
  check_inner("norm_linear", x, w);
  if (w.tiles) {
    return cpu::linear_op(
        x,
        w,
        {.norm_weight = &norm.weight,
         .norm_eps = norm.eps,
         .bias = pointer(bias)});
  }
  if (w.blocks && cuda::takes_rows(x, w)) {
    return cuda::linear_op(
        x,
        w,
        {.norm_weight = &norm.weight,
         .norm_eps = norm.eps,
         .bias = pointer(bias)});
  }
  return linear(mx::fast::rms_norm(x, norm.weight, norm.eps), w, bias);
}

mx::array linear_swiglu(const mx::array& x, const Matrix& w, const Bias& bias) {
  check_inner("linear_swiglu", x, w);
  if (w.tiles) {
    return cpu::linear_op(x, w, {.bias = pointer(bias), .gated = true});
  }
  if (w.blocks && cuda::takes_rows(x, w, /* gated */ true)) {
    return cuda::linear_op(x, w, {.bias = pointer(bias), .gated = true});
  }
  return swiglu(linear(x, w, bias));
}

mx::array norm_linear_swiglu(
    const mx::array& x,
    const Norm& norm,
    const Matrix& w,
    const Bias& bias) {
  check_inner("norm_linear_swiglu", x, w);
  if (w.tiles) {
    return cpu::linear_op(
        x,
        w,
        {.norm_weight = &norm.weight,
         .norm_eps = norm.eps,
         .bias = pointer(bias),
         .gated = true});
  }
  if (w.blocks && cuda::takes_rows(x, w, /* gated */ true)) {
    return cuda::linear_op(
        x,
        w,
        {.norm_weight = &norm.weight,
         .norm_eps = norm.eps,
         .bias = pointer(bias),
         .gated = true});
  }
  return swiglu(norm_linear(x, norm, w, bias));
}

mx::array linear_add(
    const mx::array& residual,
    const mx::array& x,
    const Matrix& w,
    const Bias& bias) {
  if (w.tiles) {
    check_inner("linear_add", x, w);
    return cpu::linear_op(x, w, {.bias = pointer(bias), .residual = &residual});
  }
  if (w.blocks) {
    check_inner("linear_add", x, w);
    return cuda::takes_rows(x, w)
        ? cuda::linear_op(x, w, {.bias = pointer(bias), .residual = &residual})
        : linear_add(residual, x, cuda::unpacked(w, x.dtype()), bias);
  }
  if (!w.format.is_quantized() && !bias) {
    check_inner("linear_add", x, w);
    return mx::addmm(residual, x, mx::swapaxes(w.weight, -1, -2));
  }
  return mx::add(residual, linear(x, w, bias));
}

mx::array swiglu(const mx::array& gate_up) {
  const int n = gate_up.shape(-1) / 2;
  return fused_gated(slice_last(gate_up, 0, n), slice_last(gate_up, n, 2 * n));
}

mx::array arg_max(const mx::array& values, mx::StreamOrDevice s) {
  const mx::Stream stream = mx::to_stream(s);
  // MLX's CPU looks at one element at a time.
  if (stream.device == mx::Device::cpu && values.ndim() == 2 &&
      values.size() > 0 && mx::issubdtype(values.dtype(), mx::floating) &&
      values.dtype() != mx::float64) {
    return cpu::arg_max_op(values, stream);
  }
  return mx::argmax(values, -1, /* keepdims */ false, s);
}

mx::array embedding(const mx::array& tokens, const Matrix& w, mx::Dtype dtype) {
  if (w.tiles) {
    return cpu::embedding_op(tokens, w, dtype);
  }
  if (w.blocks) {
    return cuda::embedding_op(tokens, w, dtype);
  }
  auto table_rows = mx::take(w.weight, tokens, 0);
  if (w.format.is_quantized()) {
    const auto biases =
        w.biases ? std::optional(mx::take(*w.biases, tokens, 0)) : std::nullopt;
    table_rows = mx::dequantize(
        table_rows,
        mx::take(*w.scales, tokens, 0),
        biases,
        w.format.group_size,
        w.format.bits,
        to_string(w.format.mode),
        /* global_scale */ std::nullopt,
        dtype);
  }
  return mx::astype(table_rows, dtype);
}

Matrix rows(const Matrix& w, int begin, int n) {
  if (w.tiles) {
    return cpu::tiled_rows(w, begin, n);
  }
  if (w.blocks) {
    return cuda::packed_rows(w, begin, n);
  }
  const auto cut = [&](const mx::array& a) {
    mx::Shape start(a.ndim(), 0);
    mx::Shape stop = a.shape();
    start[a.ndim() - 2] = begin;
    stop[a.ndim() - 2] = begin + n;
    return mx::slice(a, std::move(start), std::move(stop));
  };
  Matrix part{cut(w.weight), std::nullopt, std::nullopt, w.format};
  if (w.scales) {
    part.scales = cut(*w.scales);
  }
  if (w.biases) {
    part.biases = cut(*w.biases);
  }
  return part;
}

Routing route(const mx::array& logits, int k, bool normalize) {
  const int n_experts = logits.shape(-1);
  const auto scores = mx::astype(logits, mx::float32);
  // argpartition leaves the k greatest behind the others.
  const auto experts = slice_last(
      mx::argpartition(scores, n_experts - k, /* axis */ -1),
      n_experts - k,
      n_experts);
  if (normalize) {
    // Softmax over all, divided by its sum over the k, is softmax over the k.
    const auto chosen = mx::take_along_axis(scores, experts, -1);
    return {experts, mx::softmax(chosen, -1)};
  }
  const auto probabilities = mx::softmax(scores, -1);
  return {experts, mx::take_along_axis(probabilities, experts, -1)};
}

mx::array
experts_mlp(const mx::array& x, const Experts& w, const mx::array& experts) {
  if (is_tiled(w)) {
    return cpu::experts_op(x, {w.gate_up, w.up, w.down}, experts);
  }
  const int n_tokens = x.shape(0);
  const int k = experts.shape(-1);
  if (n_tokens * k < min_pairs_to_sort) {
    const auto out =
        gather_mlp(mx::expand_dims(x, {1, 2}), w, experts, /* sorted */ false);
    return mx::squeeze(out, -2); // [T, k, 1, in]
  }
  // Pairs in the order of their expert, so that its weights are read once.
  const auto flat = mx::flatten(experts);
  const auto order = mx::argsort(flat);
  const auto token_of_pair =
      mx::floor_divide(order, mx::array(k, order.dtype()));
  const auto sorted_x =
      mx::expand_dims(mx::take(x, token_of_pair, 0), 1); // [T k, 1, in]
  const auto out =
      gather_mlp(sorted_x, w, mx::take(flat, order, 0), /* sorted */ true);
  const auto in_order = mx::take(mx::squeeze(out, 1), mx::argsort(order), 0);
  return mx::reshape(in_order, {n_tokens, k, out.shape(-1)});
}

mx::array weighted_sum(const mx::array& outputs, const mx::array& weights) {
  // One product, [T, 1, k] x [T, k, out].
  return mx::squeeze(
      mx::matmul(
          mx::expand_dims(mx::astype(weights, outputs.dtype()), 1), outputs),
      1);
}

mx::array sparse_add(
    const mx::array& residual,
    const Norm& norm,
    const mx::array& logits,
    const Experts& w,
    int k,
    bool normalize) {
  if (is_tiled(w)) {
    return cpu::sparse_op(
        residual,
        logits,
        {.norm_weight = norm.weight,
         .norm_eps = norm.eps,
         .top_k = k,
         .normalize = normalize,
         .experts = {w.gate_up, w.up, w.down}});
  }
  if (cuda::takes_experts(w.gate_up, w.up, w.down)) {
    return cuda::sparse_op(
        residual,
        logits,
        {w.gate_up, w.down},
        {.norm_weight = norm.weight,
         .norm_eps = norm.eps,
         .top_k = k,
         .normalize = normalize});
  }
  const auto [experts, weights] = route(logits, k, normalize);
  const auto outputs = experts_mlp(
      mx::fast::rms_norm(residual, norm.weight, norm.eps), w, experts);
  return mx::add(residual, weighted_sum(outputs, weights));
}

} // namespace qwen3_mlx::ops
