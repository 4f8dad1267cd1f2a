// SPDX-License-Identifier: MIT
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace qwen3_mlx::cpu {

namespace {

// Query rows (tokens times heads of a group) of one unit of work: they share
// each key block, widened once; more would leave too few units for threads.
constexpr int kRowsPerUnit = 64;
// A sequence's last rows may be shared by spans of positions when they are at
// most this many, which bounds the memory of unfinished rows.
constexpr int kMostRowsToSplit = 16;

// Cosines, then sines, of every row: [num_rows][2][rotary_dim / 2].
std::unique_ptr<float[]>
rope_table(const Context& context, const AttentionArgs& args, int num_rows) {
  if (args.rotary_dim == 0) {
    return nullptr;
  }
  struct Row {
    const float* inv_freq;
    int position;
  };
  std::vector<Row> rows;
  rows.reserve(static_cast<std::size_t>(num_rows));
  for (const SequenceRows& sequence : args.sequences) {
    for (int row = 0; row < sequence.num_rows; ++row) {
      rows.push_back({sequence.inv_freq, sequence.first_position + row});
    }
  }
  const int half = args.rotary_dim / 2;
  auto table = make_scratch<float>(
      static_cast<std::size_t>(num_rows) *
      static_cast<std::size_t>(args.rotary_dim));
  context.pool.parallel_for(num_rows, [&](int row_idx) {
    const auto idx_of_row = static_cast<std::size_t>(row_idx);
    const Row& row = rows[idx_of_row];
    float* const cosines =
        table.get() + idx_of_row * static_cast<std::size_t>(args.rotary_dim);
    for (int idx = 0; idx < half; ++idx) {
      const float angle = static_cast<float>(row.position) * row.inv_freq[idx];
      cosines[idx] = std::cos(angle);
      cosines[half + idx] = std::sin(angle);
    }
  });
  return table;
}

// Rows [first, first + count) of a sequence, whose rows begin at `base`, with
// the heads of one key/value head.
struct Unit {
  const SequenceRows* sequence;
  int base;
  int first;
  int count;
  int kv_head;
  int span = -1;            // this one alone, unless negative
  float* partial = nullptr; // of the span, then
};

// The rows of a unit whose spans were shared out, to be put together.
struct Merge {
  Unit unit;
  int num_spans;
};

class Step {
 public:
  Step(
      const Context& context,
      const AttentionArgs& args,
      int num_rows,
      const MutableRows& out)
      : context_(context), args_(args), out_(out),
        rope_(rope_table(context, args, num_rows)) {}

  int group() const {
    return args_.num_heads / args_.num_kv_heads;
  }

  // Writes the keys and values of rows [first, first + count), whose positions
  // lie in one block.
  void
  append(const SequenceRows& sequence, int base, int first, int count) const {
    for (int row = 0; row < count; ++row) {
      const int position = sequence.first_position + first + row;
      const bool is_head = position < sequence.head_length;
      const KvShape& kv = is_head ? sequence.head_kv : sequence.kv;
      auto* const block = const_cast<std::byte*>(
          (is_head ? sequence.head_blocks
                   : sequence.blocks)[position / kKvBlockSize]);
      for (int head = 0; head < args_.num_kv_heads; ++head) {
        append_one(
            kv, block, base + first + row, head, position % kKvBlockSize);
      }
    }
  }

  void attend(const Unit& unit) const {
    const auto dim = static_cast<std::size_t>(args_.head_dim);
    const auto padded = round_up(dim, 64);
    const auto group_size = static_cast<std::size_t>(group());
    const auto num_rows = static_cast<std::size_t>(unit.count) * group_size;
    const auto queries = make_scratch<float>(num_rows * padded);
    const auto scratch = make_scratch<float>(
        attention_scratch(static_cast<int>(num_rows), args_.head_dim));
    std::vector<const float*> query_rows(num_rows);
    std::vector<SeenKeys> seen(num_rows);
    std::vector<void*> out_rows(num_rows);
    for (int token = 0; token < unit.count; ++token) {
      const int row = unit.base + unit.first + token;
      const SeenKeys keys = seen_by(
          *unit.sequence, unit.sequence->first_position + unit.first + token);
      for (int idx = 0; idx < group(); ++idx) {
        const auto at = static_cast<std::size_t>(token) * group_size +
            static_cast<std::size_t>(idx);
        const int head = unit.kv_head * group() + idx;
        float* const query = queries.get() + at * padded;
        load_head(args_.queries, args_.q_norm, row, head, query);
        query_rows[at] = query;
        seen[at] = keys;
        out_rows[at] = out_of(row, head);
      }
    }
    context_.kernels.attend(AttentionJob{
        .shape = unit.sequence->kv,
        .head_shape = unit.sequence->head_kv,
        .head_length = unit.sequence->head_length,
        .kv_head = unit.kv_head,
        .scale = args_.scale,
        .blocks = unit.sequence->blocks,
        .head_blocks = unit.sequence->head_blocks,
        .num_rows = static_cast<int>(num_rows),
        .queries = query_rows.data(),
        .seen = seen.data(),
        .out = out_rows.data(),
        .out_type = out_.type,
        .partial = unit.partial,
        .span = unit.span,
        .scratch = scratch.get(),
        .exact = context_.exact});
  }

  void merge(const Merge& merge) const {
    const int num_rows = merge.unit.count * group();
    const std::size_t size = partial_size(args_.head_dim);
    for (int row = 0; row < num_rows; ++row) {
      context_.kernels.merge_spans(
          merge.unit.partial + static_cast<std::size_t>(row) * size,
          static_cast<std::size_t>(num_rows) * size,
          merge.num_spans,
          args_.head_dim,
          out_of(
              merge.unit.base + merge.unit.first + row / group(),
              merge.unit.kv_head * group() + row % group()),
          out_.type);
    }
  }

 private:
  static SeenKeys seen_by(const SequenceRows& sequence, int position) {
    const int last = position + 1;
    const int from_window =
        sequence.window ? std::max(0, last - *sequence.window) : 0;
    if (!sequence.recent) {
      return {.first = from_window, .last = last};
    }
    const int first = std::max(from_window, last - *sequence.recent);
    return {
        .first_kept = std::min(from_window, first),
        .last_kept = std::min(sequence.keep, first),
        .first = first,
        .last = last};
  }

  void* out_of(int row, int head) const {
    return static_cast<std::byte*>(out_.row(static_cast<std::size_t>(row))) +
        static_cast<std::size_t>(head * args_.head_dim) * size_of(out_.type);
  }

  // Head `head` of row `row`, normalized and rotated.
  void load_head(
      const Rows& rows,
      const std::optional<RmsNorm>& norm,
      int row,
      int head,
      float* to) const {
    const int dim = args_.head_dim;
    const auto* from =
        static_cast<const std::byte*>(rows.row(static_cast<std::size_t>(row))) +
        static_cast<std::size_t>(head * dim) * size_of(rows.type);
    context_.kernels.load_row(from, rows.type, dim, to);
    if (norm) {
      context_.kernels.rms_norm(
          to, dim, norm->weight.data, norm->weight.type, norm->eps);
    }
    if (rope_) {
      const float* const cosines = rope_.get() +
          static_cast<std::size_t>(row) *
              static_cast<std::size_t>(args_.rotary_dim);
      context_.kernels.rotate(
          to, args_.rotary_dim, cosines, cosines + args_.rotary_dim / 2);
    }
  }

  void append_one(
      const KvShape& kv,
      std::byte* block,
      int row,
      int head,
      int position) const {
    std::array<float, kMaxHeadDim> key;
    load_head(args_.keys, args_.k_norm, row, head, key.data());
    std::array<float, kMaxHeadDim> value;
    const auto* const from = static_cast<const std::byte*>(args_.values.row(
                                 static_cast<std::size_t>(row))) +
        static_cast<std::size_t>(head * kv.head_dim) *
            size_of(args_.values.type);
    context_.kernels.load_row(
        from, args_.values.type, kv.head_dim, value.data());
    std::byte* const keys = block + kv.keys_at(head);
    std::byte* const values = block + kv.values_at(head);
    if (kv.is_quantized()) {
      quantize(kv, key.data(), keys, position, [&](int dim) {
        return kv.key_code(dim, position);
      });
      quantize(kv, value.data(), values, position, [&](int dim) {
        return kv.value_code(dim, position);
      });
      return;
    }
    const std::size_t size = size_of(kv.type);
    const auto dim = static_cast<std::size_t>(kv.head_dim);
    std::array<std::byte, kMaxHeadDim * sizeof(float)> rounded;
    context_.kernels.store_row(
        key.data(), kv.head_dim, rounded.data(), kv.type);
    std::byte* const column = keys + static_cast<std::size_t>(position) * size;
    for (std::size_t idx = 0; idx < dim; ++idx) {
      std::memcpy(
          column + idx * kKvBlockSize * size,
          rounded.data() + idx * size,
          size);
    }
    context_.kernels.store_row(
        value.data(),
        kv.head_dim,
        values + static_cast<std::size_t>(position) * dim * size,
        kv.type);
  }

  // One position of a quantized head; place_of(dim) is where a code lies.
  template <class PlaceOf>
  void quantize(
      const KvShape& kv,
      const float* from,
      std::byte* head,
      int position,
      PlaceOf&& place_of) const {
    std::array<std::uint8_t, kMaxHeadDim> codes;
    const auto mask = static_cast<unsigned>((1 << kv.bits) - 1);
    for (int dim = 0; dim < kv.head_dim; dim += kv.group) {
      float scale;
      float bias;
      context_.kernels.quantize_affine(
          from + dim, kv.group, kv.bits, codes.data(), &scale, &bias);
      std::byte* const scales = head + kv.scales_at();
      const std::size_t at = kv.scale_index(dim, position);
      store_float(scales, kv.type, at, scale);
      store_float(scales, kv.type, at + kKvBlockSize, bias);
      for (int idx = 0; idx < kv.group; ++idx) {
        const CodePlace place = place_of(dim + idx);
        auto& byte = head[place.byte];
        byte = (byte & static_cast<std::byte>(~(mask << place.shift))) |
            static_cast<std::byte>(
                   codes[static_cast<std::size_t>(idx)] << place.shift);
      }
    }
  }

  const Context& context_;
  const AttentionArgs& args_;
  const MutableRows& out_;
  std::unique_ptr<float[]> rope_;
};

// The work of a step, cut for threads.
struct Plan {
  struct Append {
    const SequenceRows* sequence;
    int base;
    int first;
    int count;
  };
  std::vector<Append> appends;
  std::vector<Unit> units;
  std::vector<Merge> merges;
  std::unique_ptr<float[]> partials;
  int num_rows = 0;

  Plan(const AttentionArgs& args, int num_threads);

 private:
  void split_spans(const AttentionArgs& args, int num_threads);
};

Plan::Plan(const AttentionArgs& args, int num_threads) {
  const int tokens_per_unit =
      std::max(1, kRowsPerUnit / (args.num_heads / args.num_kv_heads));
  for (const SequenceRows& sequence : args.sequences) {
    for (int row = 0; row < sequence.num_rows;) {
      const int in_block = (sequence.first_position + row) % kKvBlockSize;
      const int count =
          std::min(kKvBlockSize - in_block, sequence.num_rows - row);
      appends.push_back({&sequence, num_rows, row, count});
      row += count;
    }
    // The last rows see the most keys: first, so that threads end together.
    const int num_units =
        (sequence.num_rows + tokens_per_unit - 1) / tokens_per_unit;
    for (int unit = num_units - 1; unit >= 0; --unit) {
      const int first = unit * tokens_per_unit;
      for (int head = 0; head < args.num_kv_heads; ++head) {
        units.push_back(
            {&sequence,
             num_rows,
             first,
             std::min(tokens_per_unit, sequence.num_rows - first),
             head});
      }
    }
    num_rows += sequence.num_rows;
  }
  if (num_threads > 1) {
    split_spans(args, num_threads);
  }
}

// Shares out the spans of units that would keep one thread busy while others
// have nothing left to do.
void Plan::split_spans(const AttentionArgs& args, int num_threads) {
  const auto length = [](const Unit& unit) {
    return unit.sequence->first_position + unit.first + unit.count;
  };
  const auto work = [&](const Unit& unit) {
    return static_cast<std::int64_t>(length(unit)) * unit.count;
  };
  std::int64_t total = 0;
  for (const Unit& unit : units) {
    total += work(unit);
  }
  const std::int64_t share = total / (4 * num_threads);
  const int group = args.num_heads / args.num_kv_heads;
  const auto num_spans = [&](const Unit& unit) {
    return (length(unit) + kSpanKeys - 1) / kSpanKeys;
  };
  const auto is_split = [&](const Unit& unit) {
    return unit.count * group <= kMostRowsToSplit && num_spans(unit) > 1 &&
        work(unit) > share;
  };
  const auto n_floats = [&](const Unit& unit) {
    return static_cast<std::size_t>(unit.count * group) *
        partial_size(args.head_dim);
  };
  std::size_t size = 0;
  for (const Unit& unit : units) {
    size += is_split(unit)
        ? n_floats(unit) * static_cast<std::size_t>(num_spans(unit))
        : 0;
  }
  if (size == 0) {
    return;
  }
  partials = make_scratch<float>(size);
  float* next = partials.get();
  std::vector<Unit> parts;
  for (const Unit& unit : units) {
    if (!is_split(unit)) {
      parts.push_back(unit);
      continue;
    }
    merges.push_back({unit, num_spans(unit)});
    merges.back().unit.partial = next;
    for (int span = 0; span < num_spans(unit); ++span) {
      Unit part = unit;
      part.span = span;
      part.partial = next;
      parts.push_back(part);
      next += n_floats(unit);
    }
  }
  units = std::move(parts);
}

} // namespace

void attention(
    const Context& context,
    const AttentionArgs& args,
    const MutableRows& out) {
  const Plan plan(args, context.pool.size());
  const Step step(context, args, plan.num_rows, out);
  const auto run = [&](const auto& items, auto&& function) {
    context.pool.parallel_for(static_cast<int>(items.size()), [&](int idx) {
      function(items[static_cast<std::size_t>(idx)]);
    });
  };
  run(plan.appends, [&](const Plan::Append& part) {
    step.append(*part.sequence, part.base, part.first, part.count);
  });
  run(plan.units, [&](const Unit& unit) { step.attend(unit); });
  run(plan.merges, [&](const Merge& merge) { step.merge(merge); });
}

} // namespace qwen3_mlx::cpu
