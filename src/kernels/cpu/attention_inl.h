// SPDX-License-Identifier: MIT
// Attention over a contiguous cache with an online softmax in float32. Included
// once by each isa_*.cpp, inside the namespace of its vector type.
//
// Keys are taken in blocks that begin at multiples of kKeyBlock, whatever the
// rows, so that a query's sums run in one order in prefill, decode and any
// batch. A lane is a component of the head; 16 scores are reduced at a time.
// Rows of one key/value head come together: each key and value is read from
// memory once for all of them.

struct AttentionScratch {
  float* out;    // [num_rows][head_dim]
  float* scores; // [num_rows][kKeyBlock]
  float* keys;   // [kKeyBlock][head_dim] float32, when many rows share them
  float* values;
};

struct KeyBlock {
  const void* keys; // of key 0 of the block
  const void* values;
  std::size_t key_stride;
  std::size_t value_stride;
  int first; // first and last key of the block that any row sees
  int last;
};

// scores[m][key] = q[m] . k[key] for 16 keys; those outside the block's seen
// range repeat its nearest key and are masked later.
template <Float type, int num_rows>
inline void score_16_keys(
    const KeyBlock& block,
    int first_key,
    int head_dim,
    const float* const* queries,
    float* const* scores) {
  alignas(64) float partial[num_rows][kLanes * kLanes];
  for (int idx = 0; idx < kLanes; ++idx) {
    int key = first_key + idx;
    key = key < block.first ? block.first : key;
    key = key >= block.last ? block.last - 1 : key;
    const std::size_t at = static_cast<std::size_t>(key) * block.key_stride;
    F32 acc[num_rows];
    for (int m = 0; m < num_rows; ++m) {
      acc[m] = set1(0);
    }
    for (int dim = 0; dim < head_dim; dim += kLanes) {
      const F32 k =
          load_any(block.keys, type, at + static_cast<std::size_t>(dim));
      for (int m = 0; m < num_rows; ++m) {
        acc[m] = fma(k, load(queries[m] + dim), acc[m]);
      }
    }
    for (int m = 0; m < num_rows; ++m) {
      store(partial[m] + kLanes * idx, acc[m]);
    }
  }
  for (int m = 0; m < num_rows; ++m) {
    store(scores[m] + first_key, sum16(partial[m]));
  }
}

template <Float type, int num_rows>
inline void add_values(
    const KeyBlock& block,
    int head_dim,
    const float* const* weights,
    float* const* out) {
  // Eight vectors a row: a head of 128 in one pass over the block.
  constexpr int kVectors = num_rows == 1 ? 8 : 16 / num_rows;
  for (int dim = 0; dim < head_dim; dim += kVectors * kLanes) {
    const int left = (head_dim - dim) / kLanes;
    const int count = left < kVectors ? left : kVectors;
    F32 acc[num_rows][kVectors];
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < kVectors; ++idx) {
        acc[m][idx] = idx < count ? load(out[m] + dim + idx * kLanes) : set1(0);
      }
    }
    for (int key = block.first; key < block.last; ++key) {
      const std::size_t at =
          static_cast<std::size_t>(key) * block.value_stride +
          static_cast<std::size_t>(dim);
      if (count == kVectors) {
        for (int idx = 0; idx < kVectors; ++idx) {
          const F32 v = load_any(
              block.values, type, at + static_cast<std::size_t>(idx * kLanes));
          for (int m = 0; m < num_rows; ++m) {
            acc[m][idx] = fma(v, set1(weights[m][key]), acc[m][idx]);
          }
        }
        continue;
      }
      for (int idx = 0; idx < count; ++idx) {
        const F32 v = load_any(
            block.values, type, at + static_cast<std::size_t>(idx * kLanes));
        for (int m = 0; m < num_rows; ++m) {
          acc[m][idx] = fma(v, set1(weights[m][key]), acc[m][idx]);
        }
      }
    }
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < count; ++idx) {
        store(out[m] + dim + idx * kLanes, acc[m][idx]);
      }
    }
  }
}

struct SoftmaxState {
  float largest;
  float total;
};

// Turns a row's scores of one block into weights and scales what the row has
// summed so far. `first` and `last` bound the keys this row sees.
inline void softmax_step(
    const AttentionJob& job,
    int first,
    int last,
    float* scores,
    SoftmaxState& state,
    float* out) {
  const float hidden = -__builtin_inff();
  for (int key = 0; key < first; ++key) {
    scores[key] = hidden;
  }
  for (int key = last; key < kKeyBlock; ++key) {
    scores[key] = hidden;
  }
  const F32 scale = set1(job.scale);
  F32 largest = set1(state.largest);
  for (int key = 0; key < kKeyBlock; key += kLanes) {
    const F32 s = mul(load(scores + key), scale);
    store(scores + key, s);
    largest = max(largest, s);
  }
  const float most = max_lane(largest);
  F32 total = set1(0);
  for (int key = 0; key < kKeyBlock; key += kLanes) {
    const F32 p = exp(sub(load(scores + key), set1(most)));
    store(scores + key, p);
    total = add(total, p);
  }
  if (most > state.largest) {
    float old[kLanes];
    store(old, exp(set1(state.largest - most)));
    for (int dim = 0; dim < job.head_dim; dim += kLanes) {
      store(out + dim, mul(load(out + dim), set1(old[0])));
    }
    state.total *= old[0];
    state.largest = most;
  }
  state.total += sum(total);
}

template <Float type, int num_rows>
inline void attend_block(
    const AttentionJob& job,
    const AttentionScratch& scratch,
    const KeyBlock& block,
    int block_begin,
    int row,
    SoftmaxState* states) {
  const float* queries[num_rows];
  float* scores[num_rows];
  float* out[num_rows];
  for (int m = 0; m < num_rows; ++m) {
    queries[m] = job.queries[row + m];
    scores[m] = scratch.scores + (row + m) * kKeyBlock;
    out[m] = scratch.out + (row + m) * job.head_dim;
  }
  const int first_16 = block.first / kLanes * kLanes;
  for (int key = first_16; key < block.last; key += kLanes) {
    score_16_keys<type, num_rows>(block, key, job.head_dim, queries, scores);
  }
  const float* weights[num_rows];
  for (int m = 0; m < num_rows; ++m) {
    weights[m] = scores[m];
    const int first = job.first_key[row + m] - block_begin;
    const int last = job.last_key[row + m] - block_begin;
    if (first >= kKeyBlock || last <= 0) {
      // This row sees nothing here: weights of zero change nothing.
      for (int key = 0; key < kKeyBlock; ++key) {
        scores[m][key] = 0;
      }
      continue;
    }
    softmax_step(
        job,
        first < 0 ? 0 : first,
        last > kKeyBlock ? kKeyBlock : last,
        scores[m],
        states[row + m],
        out[m]);
  }
  add_values<type, num_rows>(block, job.head_dim, weights, out);
}

template <Float type>
inline void attend_rows(
    const AttentionJob& job,
    const AttentionScratch& scratch,
    const KeyBlock& block,
    int block_begin,
    SoftmaxState* states) {
  int row = 0;
  for (; row + 4 <= job.num_rows; row += 4) {
    attend_block<type, 4>(job, scratch, block, block_begin, row, states);
  }
  for (; row + 2 <= job.num_rows; row += 2) {
    attend_block<type, 2>(job, scratch, block, block_begin, row, states);
  }
  for (; row < job.num_rows; ++row) {
    attend_block<type, 1>(job, scratch, block, block_begin, row, states);
  }
}

inline void attend_typed(
    const AttentionJob& job,
    const AttentionScratch& scratch,
    const KeyBlock& block,
    Float type,
    int block_begin,
    SoftmaxState* states) {
  switch (type) {
  case Float::f32:
    return attend_rows<Float::f32>(job, scratch, block, block_begin, states);
  case Float::f16:
    return attend_rows<Float::f16>(job, scratch, block, block_begin, states);
  case Float::bf16:
    return attend_rows<Float::bf16>(job, scratch, block, block_begin, states);
  }
}

// From this many rows on a block is widened to float32 once for all of them.
inline constexpr int kRowsToWiden = 8;
inline constexpr int kMaxAttentionRows = 64;

inline void attend_some(const AttentionJob& job) {
  SoftmaxState states[kMaxAttentionRows];
  AttentionScratch scratch;
  scratch.out = job.scratch;
  scratch.scores = scratch.out + job.num_rows * job.head_dim;
  scratch.keys = scratch.scores + job.num_rows * kKeyBlock;
  scratch.values = scratch.keys + kKeyBlock * job.head_dim;
  int first = job.first_key[0];
  int last = job.last_key[0];
  for (int row = 0; row < job.num_rows; ++row) {
    states[row] = {-__builtin_inff(), 0};
    first = job.first_key[row] < first ? job.first_key[row] : first;
    last = job.last_key[row] > last ? job.last_key[row] : last;
    for (int dim = 0; dim < job.head_dim; dim += kLanes) {
      store(scratch.out + row * job.head_dim + dim, set1(0));
    }
  }
  for (int begin = first / kKeyBlock * kKeyBlock; begin < last;
       begin += kKeyBlock) {
    const auto at = static_cast<std::size_t>(begin) * size_of(job.kv_type);
    KeyBlock block{
        .keys = static_cast<const std::byte*>(job.keys) + at * job.key_stride,
        .values =
            static_cast<const std::byte*>(job.values) + at * job.value_stride,
        .key_stride = job.key_stride,
        .value_stride = job.value_stride,
        .first = first > begin ? first - begin : 0,
        .last = last - begin < kKeyBlock ? last - begin : kKeyBlock};
    Float type = job.kv_type;
    if (job.num_rows >= kRowsToWiden && type != Float::f32) {
      const auto dim = static_cast<std::size_t>(job.head_dim);
      for (int key = block.first; key < block.last; ++key) {
        const auto idx = static_cast<std::size_t>(key);
        for (std::size_t d = 0; d < dim; d += kLanes) {
          store(
              scratch.keys + idx * dim + d,
              load_any(block.keys, type, idx * block.key_stride + d));
          store(
              scratch.values + idx * dim + d,
              load_any(block.values, type, idx * block.value_stride + d));
        }
      }
      block.keys = scratch.keys;
      block.values = scratch.values;
      block.key_stride = block.value_stride = dim;
      type = Float::f32;
    }
    attend_typed(job, scratch, block, type, begin, states);
  }
  for (int row = 0; row < job.num_rows; ++row) {
    float* const out = scratch.out + row * job.head_dim;
    const F32 inverse = set1(1.0F / states[row].total);
    for (int dim = 0; dim < job.head_dim; dim += kLanes) {
      store(out + dim, mul(load(out + dim), inverse));
    }
    store_row(out, job.head_dim, job.out[row], job.out_type);
  }
}

void attend(const AttentionJob& job) {
  for (int row = 0; row < job.num_rows; row += kMaxAttentionRows) {
    AttentionJob part = job;
    part.num_rows = job.num_rows - row < kMaxAttentionRows ? job.num_rows - row
                                                           : kMaxAttentionRows;
    part.queries += row;
    part.first_key += row;
    part.last_key += row;
    part.out += row;
    attend_some(part);
  }
}
