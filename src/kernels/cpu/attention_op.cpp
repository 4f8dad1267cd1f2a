// SPDX-License-Identifier: MIT
#include "kernels/cpu/attention_op.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/primitive.h"

namespace qwen3_mlx::cpu {

namespace {

// Inputs of the primitive: qkv, both norms if there are any, the arrays of
// periods, then whatever must have run before.
class AttentionPrimitive final : public CpuPrimitive {
 public:
  /// A segment, without arrays: they would outlive the graph's need of them.
  struct Part {
    KvShape shape;
    std::vector<std::shared_ptr<const BlockTable>> tables;
    std::optional<KvHead> head;
    int offset;
    int length;
    int keep;
    std::optional<int> recent;
    std::size_t periods_idx;
  };
  struct State {
    std::shared_ptr<Runtime> runtime;
    AttentionArgs args; // shape, scale and the like; no pointers yet
    std::optional<int> window;
    std::optional<float> norm_eps; // present with norms
    std::size_t num_periods;       // arrays of them
    std::vector<Part> parts;
  };

  explicit AttentionPrimitive(State state)
      : state_(std::make_shared<const State>(std::move(state))) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const MutableRows to = allocate(out);
    AttentionArgs args = state_->args;
    std::size_t next = 1;
    if (state_->norm_eps) {
      args.q_norm = RmsNorm{vector_of(inputs[next++]), *state_->norm_eps};
      args.k_norm = RmsNorm{vector_of(inputs[next++]), *state_->norm_eps};
    }
    std::vector<const float*> periods;
    for (std::size_t idx = 0; idx < state_->num_periods; ++idx) {
      periods.push_back(inputs[next++].data<float>());
    }
    enqueue(
        inputs,
        out,
        [state = state_,
         args = std::move(args),
         periods = std::move(periods),
         qkv = RowsOf(inputs[0]),
         to]() mutable { run(*state, args, periods, qkv.get(), to); });
  }

  const char* name() const override {
    return "CpuAttention";
  }

 private:
  static void
  run(const State& state,
      AttentionArgs& args,
      const std::vector<const float*>& periods,
      const Rows& qkv,
      const MutableRows& out) {
    const auto heads_at = [&](int head) {
      return Rows{
          static_cast<const std::byte*>(qkv.data) +
              static_cast<std::size_t>(head * args.head_dim) *
                  size_of(qkv.type),
          qkv.type,
          qkv.stride};
    };
    args.queries = heads_at(0);
    args.keys = heads_at(args.num_heads);
    args.values = heads_at(args.num_heads + args.num_kv_heads);

    const int half = args.rotary_dim / 2;
    std::vector<std::vector<float>> inv_freqs;
    for (const float* of_array : periods) {
      std::vector<float>& inv_freq = inv_freqs.emplace_back();
      for (int idx = 0; idx < half; ++idx) {
        inv_freq.push_back(1.0F / of_array[idx]);
      }
    }
    for (const Part& part : state.parts) {
      for (std::size_t idx = 0; idx < part.tables.size(); ++idx) {
        args.sequences.push_back(
            {.kv = part.shape,
             .blocks = part.tables[idx]->blocks.data(),
             .num_rows = part.length,
             .first_position = part.offset,
             .inv_freq = inv_freqs[part.periods_idx].data(),
             .window = state.window,
             .keep = part.keep,
             .recent = part.recent});
        if (part.head) {
          SequenceRows& rows = args.sequences.back();
          rows.head_kv = part.head->shape;
          rows.head_blocks = part.head->tables[idx]->blocks.data();
          rows.head_length = part.head->length;
        }
      }
    }
    attention(state.runtime->context(), args, out);
  }

  std::shared_ptr<const State> state_;
};

// Index of the array in `arrays`, where it is put if it is not there.
std::size_t index_of(const mx::array& array, std::vector<mx::array>& arrays) {
  const auto found =
      std::find_if(arrays.begin(), arrays.end(), [&](const mx::array& known) {
        return known.id() == array.id();
      });
  if (found != arrays.end()) {
    return static_cast<std::size_t>(found - arrays.begin());
  }
  arrays.push_back(array);
  return arrays.size() - 1;
}

} // namespace

bool supports_head_dim(int head_dim) {
  return head_dim % 16 == 0 && head_dim <= kMaxHeadDim;
}

mx::array attention_op(
    const mx::array& qkv,
    const AttentionForm& form,
    std::vector<AttentionSegment> segments,
    const std::shared_ptr<Runtime>& runtime) {
  AttentionPrimitive::State state{
      .runtime = runtime,
      .args =
          {.num_heads = form.n_heads,
           .num_kv_heads = form.n_kv_heads,
           .head_dim = form.head_dim,
           .scale = form.scale},
      .window = form.window};
  std::vector<mx::array> inputs{as_float(qkv)};
  if (form.q_norm != nullptr && form.k_norm != nullptr) {
    state.norm_eps = form.norm_eps;
    inputs.push_back(side_by_side(as_float(*form.q_norm)));
    inputs.push_back(side_by_side(as_float(*form.k_norm)));
  }
  std::vector<mx::array> periods;
  std::vector<mx::array> before;
  for (AttentionSegment& segment : segments) {
    KvAppend& append = segment.append;
    state.parts.push_back(
        {append.shape,
         std::move(append.tables),
         std::move(append.head),
         append.offset,
         segment.length,
         append.keep,
         append.recent,
         index_of(segment.periods, periods)});
    if (append.after) {
      index_of(*append.after, before);
    }
  }
  state.num_periods = periods.size();
  state.args.rotary_dim = 2 * static_cast<int>(periods[0].size());
  for (const mx::array& array : periods) {
    inputs.push_back(side_by_side(array));
  }
  inputs.insert(inputs.end(), before.begin(), before.end());
  const mx::Dtype dtype = inputs[0].dtype();
  return mx::array(
      {qkv.shape(0), form.n_heads * form.head_dim},
      dtype,
      std::make_shared<AttentionPrimitive>(std::move(state)),
      std::move(inputs));
}

} // namespace qwen3_mlx::cpu
