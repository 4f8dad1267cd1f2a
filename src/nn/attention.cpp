// SPDX-License-Identifier: MIT
#include "qwen3_mlx/nn/attention.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "kernels/cpu/attention_op.h"
#include "kernels/cpu/views.h"
#include "kernels/cuda/ops.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "weights/weights.h"

namespace qwen3_mlx {
namespace {

// Elements [begin, end) of axis `axis`.
mx::array cut(const mx::array& x, int axis, int begin, int end) {
  mx::Shape start(x.ndim(), 0);
  mx::Shape stop = x.shape();
  start[axis] = begin;
  stop[axis] = end;
  return mx::slice(x, std::move(start), std::move(stop));
}

// One long prompt alone keeps a GPU busy with MLX's operations too, whose
// attention is the faster one then (benchmarks/results/cuda.md).
constexpr int long_prompt = 1024;

bool is_one_long_prompt(std::span<const Segment> segments) {
  return segments.size() == 1 && segments[0].batch == 1 &&
      segments[0].length >= long_prompt;
}

std::optional<RMSNorm> head_norm(
    const ModelArgs& args,
    const BlockForm& form,
    const Weights& w,
    std::string_view name) {
  if (!form.qk_norm) {
    return std::nullopt;
  }
  return RMSNorm(w.sub(name), args.head_dim, args.rms_norm_eps);
}

} // namespace

Attention::Attention(
    const ModelArgs& args,
    const BlockForm& form,
    const Weights& w,
    int layer_idx)
    : n_heads(args.num_attention_heads), n_kv_heads(args.num_key_value_heads),
      head_dim(args.head_dim),
      scale(1.0f / std::sqrt(static_cast<float>(args.head_dim))),
      sliding_window(args.sliding_window_of(layer_idx)),
      qkv_proj(
          w,
          args.hidden_size,
          {{"q_proj", n_heads * head_dim},
           {"k_proj", n_kv_heads * head_dim},
           {"v_proj", n_kv_heads * head_dim}},
          form.qkv_bias),
      q_proj(qkv_proj[0]), k_proj(qkv_proj[1]), v_proj(qkv_proj[2]),
      o_proj(
          w.sub("o_proj"),
          n_heads * head_dim,
          args.hidden_size,
          form.output_bias),
      q_norm(head_norm(args, form, w, "q_norm")),
      k_norm(head_norm(args, form, w, "k_norm")),
      rope(args.rope_scaling, args.head_dim, args.max_position_embeddings) {
  // RoPE's factor on queries and keys enters the scores squared.
  scale *= rope.attention_factor() * rope.attention_factor();
  if (q_norm) {
    std::vector<std::string_view> names(
        static_cast<std::size_t>(n_heads), "q_norm");
    names.insert(names.end(), static_cast<std::size_t>(n_kv_heads), "k_norm");
    const std::vector<int> sizes(names.size(), head_dim);
    // A view of memory that is filled later; evaluated here because lazy
    // arrays may not cross to the thread that uses the model.
    auto weight = mx::reshape(
        w.merged_vector(names, "weight", sizes),
        {1, 1, n_heads + n_kv_heads, head_dim});
    weight.eval();
    qk_norm_weight_ = weight;
  }
}

mx::array Attention::operator()(
    const mx::array& x,
    const RMSNorm& norm,
    const LayerStep& step) const {
  return o_proj.add_to(x, heads(x, norm, step));
}

mx::array Attention::heads(
    const mx::array& x,
    const RMSNorm& norm,
    const LayerStep& step) const {
  return attend(qkv_proj(x, norm), step);
}

mx::array Attention::attend(const mx::array& qkv, const LayerStep& step) const {
  if (auto out = attend_natively(qkv, step)) {
    return *out;
  }
  if (auto out = attend_on_cuda(qkv, step)) {
    return *out;
  }
  if (step.segments.size() == 1) {
    return attend_segment(qkv, step.segments[0], step.layer_idx);
  }
  std::vector<mx::array> outputs;
  outputs.reserve(step.segments.size());
  int begin = 0;
  for (const auto& segment : step.segments) {
    const int end = begin + segment.num_tokens();
    outputs.push_back(
        attend_segment(cut(qkv, 0, begin, end), segment, step.layer_idx));
    begin = end;
  }
  return mx::concatenate(std::move(outputs), 0);
}

std::optional<mx::array>
Attention::attend_natively(const mx::array& qkv, const LayerStep& step) const {
  const auto& tiles = o_proj.tiles();
  if (!tiles || !cpu::supports_head_dim(head_dim) || step.segments.empty()) {
    return std::nullopt;
  }
  const auto store_of = [&](const Segment& segment) -> KVStore& {
    return segment.cache[static_cast<std::size_t>(step.layer_idx)].store();
  };
  if (!std::ranges::all_of(step.segments, [&](const Segment& segment) {
        return store_of(segment).has_blocks();
      })) {
    return std::nullopt;
  }
  const cpu::KvShape shape{
      n_kv_heads,
      head_dim,
      cpu::float_type(qkv.dtype()).value_or(cpu::Float::f32)};
  std::vector<cpu::AttentionSegment> parts;
  parts.reserve(step.segments.size());
  for (const Segment& segment : step.segments) {
    auto& store = store_of(segment);
    const int total_length =
        segment.prompt_length.value_or(store.offset() + segment.length);
    parts.push_back(
        {store.append(shape, segment.batch, segment.length),
         segment.length,
         rope.periods_array(total_length)});
  }
  const auto out = cpu::attention_op(
      qkv,
      {.n_heads = n_heads,
       .n_kv_heads = n_kv_heads,
       .head_dim = head_dim,
       .scale = scale,
       .window = sliding_window,
       .q_norm = q_norm ? &q_norm->weight : nullptr,
       .k_norm = k_norm ? &k_norm->weight : nullptr,
       .norm_eps = q_norm ? q_norm->eps : 0.0f},
      std::move(parts),
      tiles->runtime);
  for (const Segment& segment : step.segments) {
    store_of(segment).written_by(out);
  }
  return out;
}

std::optional<mx::array>
Attention::attend_on_cuda(const mx::array& qkv, const LayerStep& step) const {
  const auto& blocks = o_proj.blocks();
  if (!blocks || step.segments.empty()) {
    return std::nullopt;
  }
  const auto store_of = [&](const Segment& segment) -> KVStore& {
    return segment.cache[static_cast<std::size_t>(step.layer_idx)].store();
  };
  const auto kept = store_of(step.segments.front()).in_place_form();
  if (!kept) {
    return std::nullopt;
  }
  const cuda::AttentionForm form{
      .n_heads = n_heads,
      .n_kv_heads = n_kv_heads,
      .head_dim = head_dim,
      .scale = scale,
      .window = sliding_window,
      .q_norm = q_norm ? &q_norm->weight : nullptr,
      .k_norm = k_norm ? &k_norm->weight : nullptr,
      .norm_eps = q_norm ? q_norm->eps : 0.0f,
      .kv_bits = kept->bits,
      .kv_group = kept->group_size};
  const bool many = std::ranges::any_of(
      step.segments, [](const Segment& each) { return each.length > 1; });
  if ((is_one_long_prompt(step.segments) &&
       !cuda::is_exact(*blocks->runtime)) ||
      !cuda::takes_attention(qkv, form, many, *blocks->runtime)) {
    return std::nullopt;
  }
  const auto periods_of = [&](const Segment& segment) {
    return rope.periods_array(segment.prompt_length.value_or(
        store_of(segment).offset() + segment.length));
  };
  const auto periods = periods_of(step.segments.front());
  const bool alike =
      std::ranges::all_of(step.segments, [&](const Segment& segment) {
        return store_of(segment).in_place_form() == kept &&
            periods_of(segment).id() == periods.id();
      });
  if (!alike) {
    return std::nullopt;
  }
  const auto make = [&](const mx::Shape& shape, mx::Dtype dtype) {
    return cuda::fresh_array(*blocks->runtime, shape, dtype);
  };
  std::vector<cuda::CacheSegment> parts;
  parts.reserve(step.segments.size());
  for (const Segment& segment : step.segments) {
    auto room = store_of(segment).append_in_place(
        {segment.batch, n_kv_heads, segment.length, head_dim},
        qkv.dtype(),
        make);
    if (!room) {
      // Rooms made before are given back, and the step takes MLX's way.
      for (std::size_t idx = 0; idx < parts.size(); ++idx) {
        const auto& earlier = step.segments[idx];
        store_of(earlier).trim(earlier.length);
      }
      return std::nullopt;
    }
    parts.push_back(
        {std::move(room->keys),
         std::move(room->values),
         segment.batch,
         segment.length,
         room->offset,
         std::move(room->after),
         std::move(room->scales)});
  }
  const auto out =
      cuda::attention_op(qkv, form, periods, parts, blocks->runtime);
  for (const Segment& segment : step.segments) {
    store_of(segment).written_by(out);
  }
  return out;
}

mx::array Attention::attend_segment(
    const mx::array& qkv,
    const Segment& segment,
    int layer_idx) const {
  auto& store = segment.cache[static_cast<std::size_t>(layer_idx)].store();
  const int B = segment.batch;
  const int L = segment.length;
  const int n_qk_heads = n_heads + n_kv_heads;

  const auto heads =
      mx::reshape(qkv, {B, L, n_qk_heads + n_kv_heads, head_dim});
  auto qk = cut(heads, 2, 0, n_qk_heads);
  if (qk_norm_weight_) {
    qk = mx::multiply(
        mx::fast::rms_norm(qk, std::nullopt, q_norm->eps), *qk_norm_weight_);
  }
  const int offset = store.offset();
  const int total_length = segment.prompt_length.value_or(offset + L);
  qk = rope(mx::swapaxes(qk, 1, 2), offset, total_length);

  const auto values = cut(heads, 2, n_qk_heads, n_qk_heads + n_kv_heads);
  const auto out = store.attend(
      cut(qk, 1, 0, n_heads),
      cut(qk, 1, n_heads, n_qk_heads),
      mx::swapaxes(values, 1, 2),
      {scale, sliding_window}); // [B, n_heads, L, head_dim]
  return mx::reshape(mx::swapaxes(out, 1, 2), {B * L, n_heads * head_dim});
}

} // namespace qwen3_mlx
