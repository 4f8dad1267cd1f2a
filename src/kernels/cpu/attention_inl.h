// SPDX-License-Identifier: MIT
// Attention over blocks of keys and values with an online softmax in float32.
// Included once by each isa_*.cpp, inside the namespace of its vector type.
//
// Keys are taken a block at a time, whatever the rows, so that a query's sums
// run in one order in prefill, decode and any batch. Keys of a block lie
// transposed: for scores a lane is a key, for values a component of the head,
// and nothing is summed across lanes. Rows of one key/value head come together:
// each key and value is read from memory once for all of them.

#include "kernels/cpu/attention_dots_inl.h"

// A row of a span: head_dim sums, then the largest score and the total weight.
inline float& largest_of(float* partial, int head_dim) {
  return partial[head_dim];
}
inline float& total_of(float* partial, int head_dim) {
  return partial[head_dim + 1];
}

// e^x of one number, by the vector function.
inline float exp_one(float x) {
  float lanes[kLanes];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

inline void scale_row(float* row, int count, float factor) {
  for (int dim = 0; dim < count; dim += kLanes) {
    store(row + dim, mul(load(row + dim), set1(factor)));
  }
}

// Turns a row's scores of one block into weights and scales what the row has
// summed so far. Positions count from the block's begin.
template <class Dots>
inline void softmax_step(
    float scale_of_scores,
    int head_dim,
    const SeenKeys& seen,
    float* scores,
    float* partial) {
  const float hidden = -__builtin_inff();
  for (int key = 0; key < seen.first_kept; ++key) {
    scores[key] = hidden;
  }
  for (int key = seen.last_kept; key < seen.first; ++key) {
    scores[key] = hidden;
  }
  for (int key = seen.last; key < kKvBlockSize; ++key) {
    scores[key] = hidden;
  }
  float& largest_so_far = largest_of(partial, head_dim);
  float& total_so_far = total_of(partial, head_dim);
  const F32 scale = set1(scale_of_scores);
  F32 largest = set1(largest_so_far);
  for (int key = 0; key < kKvBlockSize; key += kLanes) {
    const F32 s = mul(load(scores + key), scale);
    store(scores + key, s);
    largest = max(largest, s);
  }
  const float most = max_lane(largest);
  F32 total = set1(0);
  for (int key = 0; key < kKvBlockSize; key += kLanes) {
    const F32 p = Dots::weight(exp(sub(load(scores + key), set1(most))));
    store(scores + key, p);
    total = add(total, p);
  }
  if (most > largest_so_far) {
    const float old = exp_one(largest_so_far - most);
    scale_row(partial, head_dim, old);
    total_so_far *= old;
    largest_so_far = most;
  }
  total_so_far += sum(total);
}

inline int clamp_key(int position, int begin) {
  const int key = position - begin;
  return key < 0 ? 0 : key > kKvBlockSize ? kKvBlockSize : key;
}

// What a row sees of a block: both ranges inside it, in order.
inline SeenKeys seen_in_block(const SeenKeys& seen, int begin) {
  SeenKeys part{
      clamp_key(seen.first_kept, begin),
      clamp_key(seen.last_kept, begin),
      clamp_key(seen.first, begin),
      clamp_key(seen.last, begin)};
  if (part.first_kept >= part.last_kept) {
    part.first_kept = part.last_kept = part.first;
  }
  if (part.first >= part.last) {
    part.first = part.last = part.last_kept;
  }
  return part;
}
inline bool sees_nothing(const SeenKeys& part) {
  return part.first_kept >= part.last_kept && part.first >= part.last;
}

// Widens the range of keys of a block to those that a row sees.
inline void include(const SeenKeys& seen, KeyBlock& block) {
  if (sees_nothing(seen)) {
    return;
  }
  block.first = seen.first_kept < block.first ? seen.first_kept : block.first;
  block.last = seen.last > block.last ? seen.last : block.last;
}

inline float* row_of(float* rows, int row, std::size_t size) {
  return rows + static_cast<std::size_t>(row) * size;
}

template <class Dots, int num_rows>
inline void attend_block(
    const AttentionJob& job,
    KeyBlock block,
    const QueryRows& queries,
    int row,
    float* all_scores,
    float* partials) {
  const int head_dim = job.shape.head_dim;
  float* scores[num_rows];
  float* partial[num_rows];
  SeenKeys seen[num_rows];
  // Of the block's keys those that these rows see.
  block.first = kKvBlockSize;
  block.last = 0;
  for (int m = 0; m < num_rows; ++m) {
    scores[m] = row_of(all_scores, row + m, kKvBlockSize);
    partial[m] = row_of(partials, row + m, partial_size(head_dim));
    seen[m] = seen_in_block(job.seen[row + m], block.begin);
    include(seen[m], block);
  }
  if (block.first >= block.last) {
    return;
  }
  constexpr int kKeyVectors = sums_per_row(num_rows, 4);
  for (int key = block.first / kLanes * kLanes; key < block.last;) {
    const int wanted = (block.last - key + kLanes - 1) / kLanes;
    if (kKeyVectors >= 4 && wanted >= 3 && key == 0) {
      Dots::template score_keys<num_rows, kKeyVectors>(
          block, key, head_dim, queries, row, scores);
      key += kKeyVectors * kLanes;
    } else if (kKeyVectors >= 2 && wanted >= 2) {
      constexpr int kTwo = kKeyVectors < 2 ? 1 : 2;
      Dots::template score_keys<num_rows, kTwo>(
          block, key, head_dim, queries, row, scores);
      key += kTwo * kLanes;
    } else {
      Dots::template score_keys<num_rows, 1>(
          block, key, head_dim, queries, row, scores);
      key += kLanes;
    }
  }
  const float* weights[num_rows];
  for (int m = 0; m < num_rows; ++m) {
    weights[m] = scores[m];
    if (sees_nothing(seen[m])) { // weights of zero change nothing
      for (int idx = 0; idx < kKvBlockSize; ++idx) {
        scores[m][idx] = 0;
      }
      continue;
    }
    softmax_step<Dots>(job.scale, head_dim, seen[m], scores[m], partial[m]);
    Dots::pack_weights(scores[m]);
  }
  constexpr int kValueVectors = sums_per_row(num_rows, 8);
  int dim = 0;
  for (; dim + kValueVectors * kLanes <= head_dim;
       dim += kValueVectors * kLanes) {
    Dots::template add_values<num_rows, kValueVectors>(
        block, head_dim, dim, weights, partial);
  }
  for (; dim < head_dim; dim += kLanes) {
    Dots::template add_values<num_rows, 1>(
        block, head_dim, dim, weights, partial);
  }
}

template <class Dots>
inline void attend_rows(
    const AttentionJob& job,
    const KeyBlock& block,
    const QueryRows& queries,
    float* scores,
    float* partials) {
  int row = 0;
  for (; row + 6 <= job.num_rows; row += 6) {
    attend_block<Dots, 6>(job, block, queries, row, scores, partials);
  }
  for (; row + 4 <= job.num_rows; row += 4) {
    attend_block<Dots, 4>(job, block, queries, row, scores, partials);
  }
  for (; row + 2 <= job.num_rows; row += 2) {
    attend_block<Dots, 2>(job, block, queries, row, scores, partials);
  }
  for (; row < job.num_rows; ++row) {
    attend_block<Dots, 1>(job, block, queries, row, scores, partials);
  }
}

// From this many rows on a block is widened to float32 once for all of them.
inline constexpr int kRowsToWiden = 8;

inline void widen(const std::byte* from, Float type, int count, float* to) {
  for (int idx = 0; idx < count; idx += kLanes) {
    store(to + idx, load_any(from, type, static_cast<std::size_t>(idx)));
  }
}

// The codes of a quantized head as float32: keys [head_dim][kKvBlockSize]...
inline void
dequantize_keys(const KvShape& shape, const std::byte* head, float* to) {
  const std::byte* const scales = head + shape.scales_at();
  const int mask = (1 << shape.bits) - 1;
  for (int dim = 0; dim < shape.head_dim; ++dim) {
    const CodePlace place = shape.key_code(dim, 0);
    const I32 codes = load_i(head + place.byte);
    for (int idx = 0; idx < kKvBlockSize / kLanes; ++idx) {
      const std::size_t at = shape.scale_index(dim, idx * kLanes);
      store(
          to + dim * kKvBlockSize + idx * kLanes,
          fma(load_any(scales, shape.type, at),
              bits_as_float(codes, 8 * idx + place.shift, mask),
              load_any(scales, shape.type, at + kKvBlockSize)));
    }
  }
}

// ...and values [kKvBlockSize][head_dim], of the first `count` positions.
inline void dequantize_values(
    const KvShape& shape,
    const std::byte* head,
    int count,
    float* to) {
  const std::byte* const scales = head + shape.scales_at();
  const int mask = (1 << shape.bits) - 1;
  for (int dim = 0; dim < shape.head_dim; dim += kLanes) {
    for (int first = 0; first < count; first += 4) {
      const CodePlace place = shape.value_code(dim, first);
      const I32 codes = load_i(head + place.byte);
      for (int idx = 0; idx < 4; ++idx) {
        const int position = first + idx;
        const std::size_t at = shape.scale_index(dim, position);
        store(
            to + position * shape.head_dim + dim,
            fma(set1(load_float(scales, shape.type, at)),
                bits_as_float(codes, 8 * idx + place.shift, mask),
                set1(load_float(scales, shape.type, at + kKvBlockSize))));
      }
    }
  }
}

struct SpanScratch {
  std::int32_t* query_pairs; // [num_rows][head_dim / 2]
  float* scores;             // [num_rows][kKvBlockSize]
  float* keys;   // [head_dim][kKvBlockSize] float32, when many rows share them
  float* values; // or they are quantized
};

// Makes a block float32 in `scratch`: quantized, or partly so where the dense
// head ends.
inline void widen_quantized(
    const AttentionJob& job,
    int num_values,
    const SpanScratch& scratch,
    KeyBlock& block) {
  const KvShape& shape = job.shape;
  const int idx_of_block = block.begin / kKvBlockSize;
  const std::byte* const data = job.blocks[idx_of_block];
  dequantize_keys(shape, data + shape.keys_at(job.kv_head), scratch.keys);
  dequantize_values(
      shape, data + shape.values_at(job.kv_head), num_values, scratch.values);
  const int num_dense = clamp_key(job.head_length, block.begin);
  if (num_dense > 0) {
    const KvShape& dense = job.head_shape;
    const std::byte* const head = job.head_blocks[idx_of_block];
    const std::byte* const keys = head + dense.keys_at(job.kv_head);
    for (int dim = 0; dim < dense.head_dim; ++dim) {
      for (int key = 0; key < num_dense; ++key) {
        const int at = dim * kKvBlockSize + key;
        scratch.keys[at] =
            load_float(keys, dense.type, static_cast<std::size_t>(at));
      }
    }
    widen(
        head + dense.values_at(job.kv_head),
        dense.type,
        num_dense * dense.head_dim,
        scratch.values);
  }
  block.keys = reinterpret_cast<const std::byte*>(scratch.keys);
  block.values = reinterpret_cast<const std::byte*>(scratch.values);
}

// Attends to positions [begin, end) of one span.
inline void attend_span(
    const AttentionJob& job,
    int begin,
    int end,
    const SpanScratch& scratch,
    float* partials) {
  const int head_dim = job.shape.head_dim;
  const QueryRows queries{job.queries, scratch.query_pairs};
  for (int row = 0; row < job.num_rows; ++row) {
    float* const partial =
        partials + static_cast<std::size_t>(row) * partial_size(head_dim);
    for (int dim = 0; dim < head_dim; dim += kLanes) {
      store(partial + dim, set1(0));
    }
    largest_of(partial, head_dim) = -__builtin_inff();
    total_of(partial, head_dim) = 0;
  }
  for (int at = begin; at < end; at += kKvBlockSize) {
    KeyBlock block{
        .keys = nullptr,
        .values = nullptr,
        .begin = at,
        .first = kKvBlockSize,
        .last = 0};
    for (int row = 0; row < job.num_rows; ++row) {
      include(seen_in_block(job.seen[row], at), block);
    }
    if (block.first >= block.last) {
      continue;
    }
    const bool is_head = at + kKvBlockSize <= job.head_length;
    const KvShape& shape = is_head ? job.head_shape : job.shape;
    Float type = shape.type;
    if (shape.is_quantized()) {
      widen_quantized(job, block.last, scratch, block);
      type = Float::f32;
    } else {
      const std::byte* const data =
          (is_head ? job.head_blocks : job.blocks)[at / kKvBlockSize];
      block.keys = data + shape.keys_at(job.kv_head);
      block.values = data + shape.values_at(job.kv_head);
#ifdef QWEN3_MLX_BF16_DOTS
      if (type == Float::bf16 && !job.exact) {
        if (job.num_rows < kRowsToWiden) {
          attend_rows<PairDots<false>>(
              job, block, queries, scratch.scores, partials);
          continue;
        }
        PairDots<true>::pair_block(
            block, head_dim, scratch.keys, scratch.values);
        attend_rows<PairDots<true>>(
            job, block, queries, scratch.scores, partials);
        continue;
      }
#endif
      if (job.num_rows >= kRowsToWiden && type != Float::f32) {
        widen(block.keys, type, head_dim * kKvBlockSize, scratch.keys);
        widen(block.values, type, head_dim * block.last, scratch.values);
        block.keys = reinterpret_cast<const std::byte*>(scratch.keys);
        block.values = reinterpret_cast<const std::byte*>(scratch.values);
        type = Float::f32;
      }
    }
    switch (type) {
    case Float::f32:
      attend_rows<FloatDots<Float::f32>>(
          job, block, queries, scratch.scores, partials);
      break;
    case Float::f16:
      attend_rows<FloatDots<Float::f16>>(
          job, block, queries, scratch.scores, partials);
      break;
    case Float::bf16:
      attend_rows<FloatDots<Float::bf16>>(
          job, block, queries, scratch.scores, partials);
      break;
    }
  }
}

// Adds the result of a span to what the spans before it gave.
inline void merge_span(float* to, float* from, int head_dim) {
  const float from_largest = largest_of(from, head_dim);
  if (total_of(from, head_dim) == 0) { // the row sees nothing of this span
    return;
  }
  float& to_largest = largest_of(to, head_dim);
  const float most = to_largest > from_largest ? to_largest : from_largest;
  const float to_scale = exp_one(to_largest - most);
  const float from_scale = exp_one(from_largest - most);
  for (int dim = 0; dim < head_dim; dim += kLanes) {
    store(
        to + dim,
        fma(load(from + dim),
            set1(from_scale),
            mul(load(to + dim), set1(to_scale))));
  }
  total_of(to, head_dim) = __builtin_fmaf(
      total_of(from, head_dim), from_scale, total_of(to, head_dim) * to_scale);
  to_largest = most;
}

inline void finish_row(float* row, int head_dim, void* out, Float out_type) {
  scale_row(row, head_dim, 1.0F / total_of(row, head_dim));
  store_row(row, head_dim, out, out_type);
}

void merge_spans(
    float* partials,
    std::size_t stride,
    int num_spans,
    int head_dim,
    void* out,
    Float out_type) {
  for (int span = 1; span < num_spans; ++span) {
    merge_span(
        partials, partials + static_cast<std::size_t>(span) * stride, head_dim);
  }
  finish_row(partials, head_dim, out, out_type);
}

// Queries as pairs of bfloat16, where an instruction set multiplies these.
inline void round_queries(
    [[maybe_unused]] const AttentionJob& job,
    [[maybe_unused]] std::int32_t* pairs) {
#ifdef QWEN3_MLX_BF16_DOTS
  // Heads are multiples of 16 numbers: the last 16 may be half a vector.
  const int head_dim = job.shape.head_dim;
  for (int row = 0; row < job.num_rows; ++row, pairs += head_dim / 2) {
    int dim = 0;
    for (; dim + 32 <= head_dim; dim += 32) {
      round_to_pairs(job.queries[row] + dim, pairs + dim / 2);
    }
    if (dim < head_dim) {
      float last[32] = {};
      std::int32_t rounded[16];
      store(last, load(job.queries[row] + dim));
      round_to_pairs(last, rounded);
      std::memcpy(pairs + dim / 2, rounded, 32);
    }
  }
#endif
}

void attend(const AttentionJob& job) {
  const int head_dim = job.shape.head_dim;
  const std::size_t row_size = partial_size(head_dim);
  const auto num_rows = static_cast<std::size_t>(job.num_rows);
  float* const sums = job.scratch;
  float* const span_sums = sums + num_rows * row_size;
  SpanScratch scratch;
  scratch.scores = span_sums + num_rows * row_size;
  scratch.keys = scratch.scores + num_rows * kKvBlockSize;
  scratch.values = scratch.keys + kKvBlockSize * head_dim;
  scratch.query_pairs =
      reinterpret_cast<std::int32_t*>(scratch.values + kKvBlockSize * head_dim);
  round_queries(job, scratch.query_pairs);
  if (job.partial != nullptr) {
    const int begin = job.span * kSpanKeys;
    attend_span(job, begin, begin + kSpanKeys, scratch, job.partial);
    return;
  }
  int last = 0;
  for (int row = 0; row < job.num_rows; ++row) {
    last = job.seen[row].last > last ? job.seen[row].last : last;
  }
  for (int begin = 0; begin < last; begin += kSpanKeys) {
    const int end = last < begin + kSpanKeys ? last : begin + kSpanKeys;
    if (begin == 0) {
      attend_span(job, begin, end, scratch, sums);
      continue;
    }
    attend_span(job, begin, end, scratch, span_sums);
    for (std::size_t row = 0; row < num_rows; ++row) {
      merge_span(sums + row * row_size, span_sums + row * row_size, head_dim);
    }
  }
  for (std::size_t row = 0; row < num_rows; ++row) {
    finish_row(sums + row * row_size, head_dim, job.out[row], job.out_type);
  }
}
