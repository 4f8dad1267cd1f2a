// SPDX-License-Identifier: MIT
// The products of attention: rows of queries with a block's keys, and of
// weights with its values. Included by attention_inl.h.

/// Vectors of running sums that fit the registers beside `num_rows` factors, a
/// power of two up to `most`.
constexpr int sums_per_row(int num_rows, int most) {
  int count = most;
  while (count > 1 && count * num_rows > kSums) {
    count /= 2;
  }
  return count;
}

struct KeyBlock {
  const std::byte* keys;   // [head_dim][kKvBlockSize]
  const std::byte* values; // [kKvBlockSize][head_dim]
  int begin;               // position of the first key
  int first; // first and last key, from `begin`, that any row sees
  int last;
};

// Rows of queries in the form in which keys meet them.
struct QueryRows {
  const float* const* floats;
  const std::int32_t* pairs; // [num_rows][head_dim / 2]
};

// In float32, from keys and values of `type`.
template <Float type>
struct FloatDots {
  static F32 weight(F32 p) {
    return p;
  }
  static void pack_weights(float*) {}

  // scores[m][key] = q[m] . k[key] for the keys of some vectors.
  template <int num_rows, int num_vectors>
  static void score_keys(
      const KeyBlock& block,
      int first_key,
      int head_dim,
      const QueryRows& queries,
      int row,
      float* const* scores) {
    F32 acc[num_rows][num_vectors];
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        acc[m][idx] = set1(0);
      }
    }
    const float* const* const q = queries.floats + row;
    for (int dim = 0; dim < head_dim; ++dim) {
      const auto at = static_cast<std::size_t>(dim) * kKvBlockSize +
          static_cast<std::size_t>(first_key);
      for (int idx = 0; idx < num_vectors; ++idx) {
        const F32 k = load_any(
            block.keys, type, at + static_cast<std::size_t>(idx * kLanes));
        for (int m = 0; m < num_rows; ++m) {
          acc[m][idx] = fma(k, set1(q[m][dim]), acc[m][idx]);
        }
      }
    }
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        store(scores[m] + first_key + idx * kLanes, acc[m][idx]);
      }
    }
  }

  // out[m] += sum over keys of weights[m][key] * v[key], for some vectors.
  template <int num_rows, int num_vectors>
  static void add_values(
      const KeyBlock& block,
      int head_dim,
      int first_dim,
      const float* const* weights,
      float* const* out) {
    F32 acc[num_rows][num_vectors];
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        acc[m][idx] = load(out[m] + first_dim + idx * kLanes);
      }
    }
    for (int key = block.first; key < block.last; ++key) {
      const auto at =
          static_cast<std::size_t>(key) * static_cast<std::size_t>(head_dim) +
          static_cast<std::size_t>(first_dim);
      for (int idx = 0; idx < num_vectors; ++idx) {
        const F32 v = load_any(
            block.values, type, at + static_cast<std::size_t>(idx * kLanes));
        for (int m = 0; m < num_rows; ++m) {
          acc[m][idx] = fma(v, set1(weights[m][key]), acc[m][idx]);
        }
      }
    }
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        store(out[m] + first_dim + idx * kLanes, acc[m][idx]);
      }
    }
  }
};

#ifdef QWEN3_MLX_BF16_DOTS
// In pairs of bfloat16, summed in float32: two components of the head at a time
// for scores, two keys for values. A block may have been brought into pairs,
// keys [head_dim / 2][kKvBlockSize], values [kKvBlockSize / 2][head_dim], with
// zeros for a key beyond the last.
template <bool paired>
struct PairDots {
  static constexpr std::size_t kPair = 4; // bytes

  static F32 weight(F32 p) {
    return round_as_bf16(p);
  }
  static void pack_weights(float* weights) {
    for (int key = 0; key < kKvBlockSize; key += 32) {
      round_to_pairs(weights + key, weights + key / 2);
    }
  }

  static I32
  key_pairs(const KeyBlock& block, int pair, int key, int /*head_dim*/) {
    if constexpr (paired) {
      return load_i(
          block.keys +
          static_cast<std::size_t>(pair * kKvBlockSize + key) * kPair);
    }
    const std::byte* const first = block.keys +
        static_cast<std::size_t>(2 * pair * kKvBlockSize + key) * 2;
    return pair_up(first, first + 2 * kKvBlockSize);
  }

  static I32
  value_pairs(const KeyBlock& block, int pair, int dim, int head_dim) {
    if constexpr (paired) {
      return load_i(
          block.values +
          static_cast<std::size_t>(pair * head_dim + dim) * kPair);
    }
    alignas(64) static constexpr std::byte kZeros[2 * kLanes] = {};
    const std::byte* const first =
        block.values + static_cast<std::size_t>(2 * pair * head_dim + dim) * 2;
    return pair_up(
        first, 2 * pair + 1 < block.last ? first + 2 * head_dim : kZeros);
  }

  // Brings a block into pairs.
  static void
  pair_block(KeyBlock& block, int head_dim, float* keys, float* values) {
    for (int pair = 0; pair < head_dim / 2; ++pair) {
      for (int key = 0; key < kKvBlockSize; key += kLanes) {
        store_i(
            keys + pair * kKvBlockSize + key,
            PairDots<false>::key_pairs(block, pair, key, head_dim));
      }
    }
    for (int pair = 0; 2 * pair < block.last; ++pair) {
      for (int dim = 0; dim < head_dim; dim += kLanes) {
        store_i(
            values + pair * head_dim + dim,
            PairDots<false>::value_pairs(block, pair, dim, head_dim));
      }
    }
    block.keys = reinterpret_cast<const std::byte*>(keys);
    block.values = reinterpret_cast<const std::byte*>(values);
  }

  template <int num_rows, int num_vectors>
  static void score_keys(
      const KeyBlock& block,
      int first_key,
      int head_dim,
      const QueryRows& queries,
      int row,
      float* const* scores) {
    F32 acc[num_rows][num_vectors];
    const std::int32_t* q[num_rows];
    for (int m = 0; m < num_rows; ++m) {
      q[m] = queries.pairs + (row + m) * (head_dim / 2);
      for (int idx = 0; idx < num_vectors; ++idx) {
        acc[m][idx] = set1(0);
      }
    }
    for (int pair = 0; pair < head_dim / 2; ++pair) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        const I32 k =
            key_pairs(block, pair, first_key + idx * kLanes, head_dim);
        for (int m = 0; m < num_rows; ++m) {
          acc[m][idx] = dot_pairs(k, set1_i(q[m][pair]), acc[m][idx]);
        }
      }
    }
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        store(scores[m] + first_key + idx * kLanes, acc[m][idx]);
      }
    }
  }

  template <int num_rows, int num_vectors>
  static void add_values(
      const KeyBlock& block,
      int head_dim,
      int first_dim,
      const float* const* weights,
      float* const* out) {
    F32 acc[num_rows][num_vectors];
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        acc[m][idx] = load(out[m] + first_dim + idx * kLanes);
      }
    }
    for (int pair = block.first / 2; 2 * pair < block.last; ++pair) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        const I32 v =
            value_pairs(block, pair, first_dim + idx * kLanes, head_dim);
        for (int m = 0; m < num_rows; ++m) {
          std::int32_t p;
          std::memcpy(&p, weights[m] + pair, sizeof(p));
          acc[m][idx] = dot_pairs(v, set1_i(p), acc[m][idx]);
        }
      }
    }
    for (int m = 0; m < num_rows; ++m) {
      for (int idx = 0; idx < num_vectors; ++idx) {
        store(out[m] + first_dim + idx * kLanes, acc[m][idx]);
      }
    }
  }
};
#endif
