// SPDX-License-Identifier: MIT
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace qwen3_mlx::cpu {

namespace {

// Query rows (tokens times heads of a group) of one unit of work: they share
// each key block, widened once; more would leave too few units for threads.
constexpr int kRowsPerUnit = 64;

// Cosines, then sines, of every row: [num_rows][2][rotary_dim / 2].
std::unique_ptr<float[]>
rope_table(const Context& context, const AttentionArgs& args, int num_rows) {
  if (args.inv_freq == nullptr) {
    return nullptr;
  }
  const int half = args.rotary_dim / 2;
  auto table = make_scratch<float>(
      static_cast<std::size_t>(num_rows) *
      static_cast<std::size_t>(args.rotary_dim));
  context.pool.parallel_for(num_rows, [&](int row) {
    float* const cosines = table.get() +
        static_cast<std::size_t>(row) *
            static_cast<std::size_t>(args.rotary_dim);
    for (int idx = 0; idx < half; ++idx) {
      const float angle =
          static_cast<float>(args.positions[row]) * args.inv_freq[idx];
      cosines[idx] = std::cos(angle) * args.rope_scale;
      cosines[half + idx] = std::sin(angle) * args.rope_scale;
    }
  });
  return table;
}

class Step {
 public:
  Step(const Context& context, const AttentionArgs& args, int num_rows)
      : context_(context), args_(args),
        rope_(rope_table(context, args, num_rows)) {}

  // Head `head` of row `row`, normalized and rotated.
  void load_head(
      const Rows& rows,
      const std::optional<RmsNorm>& norm,
      int row,
      int head,
      float* to) const {
    const auto dim = static_cast<std::size_t>(args_.head_dim);
    const auto* from =
        static_cast<const std::byte*>(rows.row(static_cast<std::size_t>(row))) +
        static_cast<std::size_t>(head) * dim * size_of(rows.type);
    context_.kernels.load_row(from, rows.type, args_.head_dim, to);
    if (norm) {
      context_.kernels.rms_norm(
          to, args_.head_dim, norm->weight.data, norm->weight.type, norm->eps);
    }
    if (rope_) {
      const float* const cosines = rope_.get() +
          static_cast<std::size_t>(row) *
              static_cast<std::size_t>(args_.rotary_dim);
      context_.kernels.rotate(
          to, args_.rotary_dim, cosines, cosines + args_.rotary_dim / 2);
    }
  }

  // Writes the new key and value of row `row`, head `head`, to index `key_idx`.
  void append(const KvView& kv, int row, int head, int key_idx) const {
    const auto dim = static_cast<std::size_t>(args_.head_dim);
    std::array<float, kMaxHeadDim> buffer;
    const auto at = [&](void* base, std::size_t head_stride) {
      return static_cast<std::byte*>(base) +
          (static_cast<std::size_t>(head) * head_stride +
           static_cast<std::size_t>(key_idx) * kv.token_stride) *
          size_of(args_.kv_type);
    };
    load_head(args_.keys, args_.k_norm, row, head, buffer.data());
    context_.kernels.store_row(
        buffer.data(),
        args_.head_dim,
        at(kv.keys, kv.key_head_stride),
        args_.kv_type);
    const auto* const value = static_cast<const std::byte*>(args_.values.row(
                                  static_cast<std::size_t>(row))) +
        static_cast<std::size_t>(head) * dim * size_of(args_.values.type);
    context_.kernels.load_row(
        value, args_.values.type, args_.head_dim, buffer.data());
    context_.kernels.store_row(
        buffer.data(),
        args_.head_dim,
        at(kv.values, kv.value_head_stride),
        args_.kv_type);
  }

  // Rows [first, first + count) of a sequence (whose rows begin at `base`)
  // with the heads of one key/value head.
  void attend(
      const SequenceRows& sequence,
      int base,
      int first,
      int count,
      int kv_head,
      const MutableRows& out) const {
    const int group = args_.num_heads / args_.num_kv_heads;
    const auto dim = static_cast<std::size_t>(args_.head_dim);
    const auto padded = round_up(dim, 64);
    const auto num_rows = static_cast<std::size_t>(count * group);
    const auto queries = make_scratch<float>(num_rows * padded);
    const auto scratch = make_scratch<float>(
        attention_scratch(static_cast<int>(num_rows), args_.head_dim));
    std::vector<const float*> query_rows(num_rows);
    std::vector<int> first_key(num_rows);
    std::vector<int> last_key(num_rows);
    std::vector<void*> out_rows(num_rows);
    for (int token = 0; token < count; ++token) {
      const int row = base + first + token;
      const int last = sequence.first_key_idx + first + token + 1;
      for (int idx = 0; idx < group; ++idx) {
        const auto at = static_cast<std::size_t>(token * group + idx);
        const int head = kv_head * group + idx;
        float* const query = queries.get() + at * padded;
        load_head(args_.queries, args_.q_norm, row, head, query);
        query_rows[at] = query;
        first_key[at] = args_.window ? std::max(0, last - *args_.window) : 0;
        last_key[at] = last;
        out_rows[at] =
            static_cast<std::byte*>(out.row(static_cast<std::size_t>(row))) +
            static_cast<std::size_t>(head) * dim * size_of(out.type);
      }
    }
    const auto head_start = [&](const void* data, std::size_t stride) {
      return static_cast<const std::byte*>(data) +
          static_cast<std::size_t>(kv_head) * stride * size_of(args_.kv_type);
    };
    context_.kernels.attend(AttentionJob{
        .head_dim = args_.head_dim,
        .scale = args_.scale,
        .keys = head_start(sequence.kv.keys, sequence.kv.key_head_stride),
        .values = head_start(sequence.kv.values, sequence.kv.value_head_stride),
        .kv_type = args_.kv_type,
        .key_stride = sequence.kv.token_stride,
        .value_stride = sequence.kv.token_stride,
        .num_rows = static_cast<int>(num_rows),
        .queries = query_rows.data(),
        .first_key = first_key.data(),
        .last_key = last_key.data(),
        .out = out_rows.data(),
        .out_type = out.type,
        .scratch = scratch.get()});
  }

 private:
  const Context& context_;
  const AttentionArgs& args_;
  std::unique_ptr<float[]> rope_;
};

} // namespace

void attention(
    const Context& context,
    const AttentionArgs& args,
    const MutableRows& out) {
  struct NewKey {
    const SequenceRows* sequence;
    int row;
    int key_idx;
  };
  struct Unit {
    const SequenceRows* sequence;
    int base;
    int first;
    int count;
    int kv_head;
  };
  const int group = args.num_heads / args.num_kv_heads;
  const int tokens_per_unit = std::max(1, kRowsPerUnit / group);
  std::vector<NewKey> new_keys;
  std::vector<Unit> units;
  int base = 0;
  for (const SequenceRows& sequence : args.sequences) {
    for (int row = 0; row < sequence.num_rows; ++row) {
      new_keys.push_back({&sequence, base + row, sequence.first_key_idx + row});
    }
    // The last rows see the most keys: first, so that threads end together.
    const int num_units =
        (sequence.num_rows + tokens_per_unit - 1) / tokens_per_unit;
    for (int unit = num_units - 1; unit >= 0; --unit) {
      const int first = unit * tokens_per_unit;
      for (int head = 0; head < args.num_kv_heads; ++head) {
        units.push_back(
            {&sequence,
             base,
             first,
             std::min(tokens_per_unit, sequence.num_rows - first),
             head});
      }
    }
    base += sequence.num_rows;
  }
  const Step step(context, args, base);
  context.pool.parallel_for(static_cast<int>(new_keys.size()), [&](int idx) {
    const NewKey& key = new_keys[static_cast<std::size_t>(idx)];
    for (int head = 0; head < args.num_kv_heads; ++head) {
      step.append(key.sequence->kv, key.row, head, key.key_idx);
    }
  });
  context.pool.parallel_for(static_cast<int>(units.size()), [&](int idx) {
    const Unit& unit = units[static_cast<std::size_t>(idx)];
    step.attend(
        *unit.sequence, unit.base, unit.first, unit.count, unit.kv_head, out);
  });
}

} // namespace qwen3_mlx::cpu
