// SPDX-License-Identifier: MIT
#include "kernels/cuda/ops.h"

#include <utility>

#include "kernels/cuda/primitive.h"
#include "mlx/ops.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

class AttentionPrimitive final : public CudaPrimitive {
 public:
  /// A segment, without arrays: they would outlive the graph's need of them.
  struct Part {
    int batch;
    int offset;
  };

  AttentionPrimitive(
      std::shared_ptr<Runtime> runtime,
      DecodeAttentionArgs args,
      std::vector<Part> parts)
      : CudaPrimitive(std::move(runtime)), args_(args),
        parts_(std::move(parts)) {}

  // qkv, periods, both norms if there are any, keys and values of each part,
  // then whatever must have run before.
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    DecodeAttentionArgs args = args_;
    args.qkv = operands.input(inputs[0]);
    args.periods = static_cast<const float*>(operands.input(inputs[1]));
    std::size_t next = 2;
    if (has_norm()) {
      args.q_norm = operands.input(inputs[next++]);
      args.k_norm = operands.input(inputs[next++]);
    } else {
      args.q_norm = args.k_norm = nullptr;
    }
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
    return has_norm() ? 4 : 2;
  }

  const char* name() const override {
    return "CudaDecodeAttention";
  }

 private:
  bool has_norm() const {
    return args_.norm_eps > 0;
  }

  DecodeAttentionArgs args_;
  std::vector<Part> parts_;
};

} // namespace

bool takes_attention(const mx::array& qkv, const AttentionForm& form) {
  const auto type = float_of(qkv.dtype());
  return type &&
      supports_decode(*type, form.n_heads, form.n_kv_heads, form.head_dim) &&
      (form.q_norm == nullptr) == (form.k_norm == nullptr);
}

mx::array decode_attention_op(
    const mx::array& qkv,
    const AttentionForm& form,
    const mx::array& periods,
    const std::vector<DecodeSegment>& segments,
    const std::shared_ptr<Runtime>& runtime) {
  std::vector<mx::array> inputs{dense(qkv), dense(periods)};
  for (const mx::array* norm : {form.q_norm, form.k_norm}) {
    if (norm != nullptr) {
      inputs.push_back(dense(
          norm->dtype() == qkv.dtype() ? *norm
                                       : mx::astype(*norm, qkv.dtype())));
    }
  }
  std::vector<AttentionPrimitive::Part> parts;
  for (const auto& segment : segments) {
    parts.push_back({segment.batch, segment.offset});
    inputs.push_back(segment.keys);
    inputs.push_back(segment.values);
  }
  for (const auto& segment : segments) {
    if (segment.after) {
      inputs.push_back(*segment.after);
    }
  }
  const bool has_norm = form.q_norm != nullptr;
  return {
      mx::Shape{qkv.shape(0), form.n_heads * form.head_dim},
      qkv.dtype(),
      std::make_shared<AttentionPrimitive>(
          runtime,
          DecodeAttentionArgs{
              .type = type_of(qkv),
              .num_heads = form.n_heads,
              .num_kv_heads = form.n_kv_heads,
              .head_dim = form.head_dim,
              .scale = form.scale,
              .window = form.window.value_or(0),
              .norm_eps = has_norm ? form.norm_eps : 0.0F},
          std::move(parts)),
      std::move(inputs)};
}

} // namespace qwen3_mlx::cuda
