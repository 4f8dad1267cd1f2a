// SPDX-License-Identifier: MIT
#include "kernels/cuda/ops.h"

#include <span>
#include <utility>

#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/primitive.h"
#include "kernels/cuda/quantized_cache.h"
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

// The sequences of a part, whose arrays are inputs from `next` on.
void take_sequences(
    const std::vector<mx::array>& inputs,
    const KvForm& kv,
    int offset,
    std::size_t& next,
    std::vector<DecodeSequence>& sequences) {
  const std::span all(inputs);
  const std::size_t num_scales = kv.is_quantized() ? 4 : 0;
  append_sequences(
      all[next],
      all[next + 1],
      all.subspan(next + 2, num_scales),
      offset,
      sequences);
  next += 2 + num_scales;
}

// Attention of one new position of each sequence, rows from `first_row` on.
void decode_rows(
    Operands& operands,
    DecodeAttentionArgs args,
    int first_row,
    const std::vector<DecodeSequence>& sequences) {
  const auto row = static_cast<std::size_t>(first_row);
  const auto n_bytes = [&](int n_heads) {
    return row * size_of(args.type) * static_cast<std::size_t>(n_heads) *
        static_cast<std::size_t>(args.head_dim);
  };
  args.qkv = static_cast<const char*>(args.qkv) +
      n_bytes(args.num_heads + 2 * args.num_kv_heads);
  args.out = static_cast<char*>(args.out) + n_bytes(args.num_heads);
  args.workspace = static_cast<float*>(
      operands.temporary(decode_workspace(args, sequences) * sizeof(float)));
  args.counters = operands.counters(
      sequences.size() * static_cast<std::size_t>(args.num_kv_heads));
  decode_attention(operands.launcher(), args, sequences);
}

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
      take_sequences(inputs, args.kv, part.offset, next, sequences);
    }
    decode_rows(operands, args, 0, sequences);
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

// Pieces of prompts, and single positions beside them.
class PrefillPrimitive final : public CudaPrimitive {
 public:
  PrefillPrimitive(
      std::shared_ptr<Runtime> runtime,
      const PrefillAttentionArgs& args,
      const DecodeAttentionArgs& decode_args,
      std::vector<Part> parts)
      : CudaPrimitive(std::move(runtime)), args_(args),
        decode_args_(decode_args), parts_(std::move(parts)) {}

  // As those of DecodePrimitive.
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    PrefillAttentionArgs args = args_;
    std::size_t next = take_inputs(operands, inputs, args);
    args.out = operands.output(out);
    DecodeAttentionArgs decode_args = decode_args_;
    take_inputs(operands, inputs, decode_args);
    decode_args.out = args.out;

    Pieces pieces;
    std::vector<DecodeSequence> singles; // rows that follow each other
    int first_single = 0;
    int row = 0;
    const auto decode_singles = [&] {
      if (!singles.empty()) {
        decode_rows(operands, decode_args, first_single, singles);
        singles.clear();
      }
    };
    for (const Part& part : parts_) {
      if (part.length == 1 && !runtime()->exact) {
        first_single = singles.empty() ? row : first_single;
        take_sequences(inputs, decode_args.kv, part.offset, next, singles);
        row += part.batch;
        continue;
      }
      decode_singles();
      std::vector<DecodeSequence> sequences;
      take_sequences(inputs, decode_args.kv, part.offset, next, sequences);
      for (const auto& each : sequences) {
        add_piece(operands, each, part.length, row, pieces);
        row += part.length;
      }
    }
    decode_singles();
    attend(operands, args, out.nbytes(), pieces);
  }

  const char* name() const override {
    return "CudaPrefillAttention";
  }

 private:
  struct Pieces {
    std::vector<PrefillSequence> sequences;
    std::vector<QuantizedPiece> quantized; // if they are
  };

  void add_piece(
      Operands& operands,
      const DecodeSequence& cache,
      int length,
      int row,
      Pieces& pieces) const {
    PrefillSequence sequence{
        .keys = cache.keys,
        .values = cache.values,
        .capacity = cache.capacity,
        .offset = cache.offset,
        .first_row = row,
        .length = length};
    if (decode_args_.kv.is_quantized()) {
      // The kernel reads elements: all positions are made such for its time.
      const int total = cache.offset + length;
      const std::size_t n_bytes = size_of(args_.type) *
          static_cast<std::size_t>(args_.num_kv_heads) *
          static_cast<std::size_t>(total) *
          static_cast<std::size_t>(args_.head_dim);
      sequence.keys = operands.temporary(n_bytes);
      sequence.values = operands.temporary(n_bytes);
      sequence.capacity = total;
      pieces.quantized.push_back(
          {cache, sequence.keys, sequence.values, length});
    }
    pieces.sequences.push_back(sequence);
  }

  void attend(
      Operands& operands,
      PrefillAttentionArgs& args,
      std::size_t queries_bytes,
      const Pieces& pieces) const {
    if (pieces.sequences.empty()) {
      return;
    }
    args.queries = operands.temporary(queries_bytes);
    const Launcher launcher = operands.launcher();
    const QuantizedCacheArgs cache_args{
        .type = args.type,
        .kv = decode_args_.kv,
        .num_kv_heads = args.num_kv_heads,
        .head_dim = args.head_dim};
    read_held(launcher, cache_args, pieces.quantized);
    append_positions(launcher, args, pieces.sequences);
    quantize_new(launcher, cache_args, pieces.quantized);
    attend_positions(launcher, args, pieces.sequences);
  }

  PrefillAttentionArgs args_;
  DecodeAttentionArgs decode_args_;
  std::vector<Part> parts_;
};

KvForm kv_of(const AttentionForm& form) {
  return {form.kv_bits, form.kv_group};
}

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

DecodeAttentionArgs
decode_args_of(const mx::array& qkv, const AttentionForm& form) {
  auto args = args_of<DecodeAttentionArgs>(qkv, form);
  args.kv = kv_of(form);
  return args;
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
  const bool decodes = supports_decode(
      *type, form.n_heads, form.n_kv_heads, form.head_dim, kv_of(form));
  return many || runtime.exact ? decodes &&
          supports_prefill(runtime.launcher,
                           *type,
                           form.n_heads,
                           form.n_kv_heads,
                           form.head_dim)
                               : decodes;
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
    inputs.insert(inputs.end(), segment.scales.begin(), segment.scales.end());
  }
  for (const auto& segment : segments) {
    if (segment.after) {
      inputs.push_back(*segment.after);
    }
  }
  std::shared_ptr<mx::Primitive> primitive;
  if (decodes) {
    primitive = std::make_shared<DecodePrimitive>(
        runtime, decode_args_of(qkv, form), std::move(parts));
  } else {
    primitive = std::make_shared<PrefillPrimitive>(
        runtime,
        args_of<PrefillAttentionArgs>(qkv, form),
        decode_args_of(qkv, form),
        std::move(parts));
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
