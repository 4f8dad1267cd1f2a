// SPDX-License-Identifier: MIT
#include "kernels/cuda/ops.h"

#include <utility>

#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/primitive.h"
#include "mlx/ops.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

/// A segment, without arrays: they would outlive the graph's need of them.
struct Part {
  int batch;
  int length;
  int offset;
};

// What precedes the caches among the inputs: qkv, periods, and both norms if
// there are any. Sets them; returns how many there are.
template <class Args>
std::size_t take_inputs(
    Operands& operands,
    const std::vector<mx::array>& inputs,
    Args& args) {
  args.qkv = operands.input(inputs[0]);
  args.periods = static_cast<const float*>(operands.input(inputs[1]));
  if (args.norm_eps <= 0) {
    return 2;
  }
  args.q_norm = operands.input(inputs[2]);
  args.k_norm = operands.input(inputs[3]);
  return 4;
}

class DecodePrimitive final : public CudaPrimitive {
 public:
  DecodePrimitive(
      std::shared_ptr<Runtime> runtime,
      const DecodeAttentionArgs& args,
      std::vector<Part> parts)
      : CudaPrimitive(std::move(runtime)), args_(args),
        parts_(std::move(parts)) {}

  // What take_inputs() takes, keys and values of each part, then whatever must
  // have run before.
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    DecodeAttentionArgs args = args_;
    std::size_t next = take_inputs(operands, inputs, args);
    args.out = operands.output(out);
    if (const DecodeTable* table = operands.next_layer()) {
      args.workspace = static_cast<float*>(operands.temporary(
          sizeof(float) *
          decode_workspace(args, table->count, table->max_splits)));
      args.counters = operands.counters(
          static_cast<std::size_t>(table->count * args.num_kv_heads));
      decode_attention(operands.launcher(), args, *table);
      return;
    }
    std::vector<DecodeSequence> sequences;
    for (const Part& part : parts_) {
      const auto& keys = inputs[next++];
      const auto& values = inputs[next++];
      append_sequences(
          operands.input(keys),
          operands.input(values),
          keys.shape(),
          part.offset,
          sequences);
    }
    args.workspace = static_cast<float*>(
        operands.temporary(decode_workspace(args, sequences) * sizeof(float)));
    args.counters = operands.counters(
        sequences.size() * static_cast<std::size_t>(args.num_kv_heads));
    decode_attention(operands.launcher(), args, sequences);
  }

  std::size_t num_lasting_inputs(std::size_t) const override {
    return args_.norm_eps > 0 ? 4 : 2;
  }

  const char* name() const override {
    return "CudaDecodeAttention";
  }

 private:
  DecodeAttentionArgs args_;
  std::vector<Part> parts_;
};

class PrefillPrimitive final : public CudaPrimitive {
 public:
  PrefillPrimitive(
      std::shared_ptr<Runtime> runtime,
      const PrefillAttentionArgs& args,
      std::vector<Part> parts)
      : CudaPrimitive(std::move(runtime)), args_(args),
        parts_(std::move(parts)) {}

  // As those of DecodePrimitive.
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    PrefillAttentionArgs args = args_;
    std::size_t next = take_inputs(operands, inputs, args);
    args.out = operands.output(out);
    args.queries = operands.temporary(out.nbytes());
    std::vector<PrefillSequence> sequences;
    std::vector<DecodeSequence> of_part;
    int row = 0;
    for (const Part& part : parts_) {
      const auto& keys = inputs[next++];
      const auto& values = inputs[next++];
      of_part.clear();
      append_sequences(
          operands.input(keys),
          operands.input(values),
          keys.shape(),
          part.offset,
          of_part);
      for (const auto& each : of_part) {
        sequences.push_back(
            {.keys = each.keys,
             .values = each.values,
             .capacity = each.capacity,
             .offset = each.offset,
             .first_row = row,
             .length = part.length});
        row += part.length;
      }
    }
    prefill_attention(operands.launcher(), args, sequences);
  }

  const char* name() const override {
    return "CudaPrefillAttention";
  }

 private:
  PrefillAttentionArgs args_;
  std::vector<Part> parts_;
};

template <class Args>
Args args_of(const mx::array& qkv, const AttentionForm& form) {
  return {
      .type = type_of(qkv),
      .num_heads = form.n_heads,
      .num_kv_heads = form.n_kv_heads,
      .head_dim = form.head_dim,
      .scale = form.scale,
      .window = form.window.value_or(0),
      .norm_eps = form.q_norm != nullptr ? form.norm_eps : 0.0F};
}

} // namespace

bool takes_attention(
    const mx::array& qkv,
    const AttentionForm& form,
    bool many,
    const Runtime& runtime) {
  const auto type = float_of(qkv.dtype());
  if (!type || (form.q_norm == nullptr) != (form.k_norm == nullptr)) {
    return false;
  }
  return many || runtime.exact
      ? supports_prefill(
            runtime.launcher,
            *type,
            form.n_heads,
            form.n_kv_heads,
            form.head_dim)
      : supports_decode(*type, form.n_heads, form.n_kv_heads, form.head_dim);
}

mx::array attention_op(
    const mx::array& qkv,
    const AttentionForm& form,
    const mx::array& periods,
    const std::vector<CacheSegment>& segments,
    const std::shared_ptr<Runtime>& runtime) {
  std::vector<mx::array> inputs{dense(qkv), dense(periods)};
  for (const mx::array* norm : {form.q_norm, form.k_norm}) {
    if (norm != nullptr) {
      inputs.push_back(dense(
          norm->dtype() == qkv.dtype() ? *norm
                                       : mx::astype(*norm, qkv.dtype())));
    }
  }
  std::vector<Part> parts;
  // The kernel for one position adds up in another order.
  bool decodes = !runtime->exact;
  for (const auto& segment : segments) {
    decodes = decodes && segment.length == 1;
    parts.push_back({segment.batch, segment.length, segment.offset});
    inputs.push_back(segment.keys);
    inputs.push_back(segment.values);
  }
  for (const auto& segment : segments) {
    if (segment.after) {
      inputs.push_back(*segment.after);
    }
  }
  std::shared_ptr<mx::Primitive> primitive;
  if (decodes) {
    primitive = std::make_shared<DecodePrimitive>(
        runtime, args_of<DecodeAttentionArgs>(qkv, form), std::move(parts));
  } else {
    primitive = std::make_shared<PrefillPrimitive>(
        runtime, args_of<PrefillAttentionArgs>(qkv, form), std::move(parts));
  }
  return {
      mx::Shape{qkv.shape(0), form.n_heads * form.head_dim},
      qkv.dtype(),
      std::move(primitive),
      std::move(inputs)};
}

mx::array
fresh_array(const Runtime& runtime, const mx::Shape& shape, mx::Dtype dtype) {
  return new_array(runtime.pool, shape, dtype);
}

} // namespace qwen3_mlx::cuda
