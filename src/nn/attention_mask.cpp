// SPDX-License-Identifier: MIT
#include "nn/attention_mask.h"

#include <algorithm>

#include "mlx/fast.h"
#include "mlx/ops.h"

namespace qwen3_mlx {
namespace {

// Positions a cache grows by, as in mlx-lm: one reallocation per 256 tokens.
constexpr int growth_step = 256;

} // namespace

mx::array cut_positions(const mx::array& x, int begin, int end) {
  if (begin == 0 && end == x.shape(2)) {
    return x;
  }
  return mx::slice(
      x, {0, 0, begin, 0}, {x.shape(0), x.shape(1), end, x.shape(3)});
}

mx::array causal_mask(int n_queries, int offset, std::optional<int> window) {
  const auto keys = mx::expand_dims(mx::arange(offset + n_queries), 0);
  const auto queries =
      mx::expand_dims(mx::arange(offset, offset + n_queries), 1);
  auto mask = mx::greater_equal(queries, keys);
  if (window) {
    mask = mx::logical_and(mask, mx::less(queries - keys, mx::array(*window)));
  }
  return mask;
}

mx::array causal_attention(
    const mx::array& queries,
    const KeyValues& kv,
    const AttentionMask& mask) {
  const int L = queries.shape(2);
  const int K = kv.keys.shape(2);
  const auto attend = [&](const mx::array& keys,
                          const mx::array& values,
                          const std::string& mode,
                          const std::optional<mx::array>& array = {}) {
    return mx::fast::scaled_dot_product_attention(
        queries, keys, values, mask.scale, mode, array);
  };
  if (mask.window && K > *mask.window) {
    if (L > 1) {
      return attend(
          kv.keys, kv.values, "array", causal_mask(L, K - L, mask.window));
    }
    const int begin = K - *mask.window;
    return attend(
        cut_positions(kv.keys, begin, K),
        cut_positions(kv.values, begin, K),
        "");
  }
  return attend(kv.keys, kv.values, L > 1 ? "causal" : "");
}

int grown_capacity(int end) {
  return (end + growth_step - 1) / growth_step * growth_step;
}

mx::array write_positions(
    const std::optional<mx::array>& x,
    const mx::array& update,
    int begin,
    std::optional<int> max_positions) {
  const int B = update.shape(0);
  const int H = update.shape(1);
  const int D = update.shape(3);
  const int end = begin + update.shape(2);
  const int capacity = x ? x->shape(2) : 0;

  // Not evaluated twice: the old buffer must have one holder, or every step
  // would copy it.
  auto grow = [&]() {
    int size = grown_capacity(end);
    if (max_positions) {
      size = std::max(std::min(size, *max_positions), end);
    }
    const auto fresh = mx::zeros({B, H, size - begin, D}, update.dtype());
    if (begin == 0) {
      return fresh;
    }
    return mx::concatenate({cut_positions(*x, 0, begin), fresh}, 2);
  };
  return mx::slice_update(
      end > capacity ? grow() : *x,
      update,
      mx::Shape{0, 0, begin, 0},
      mx::Shape{B, H, end, D});
}

} // namespace qwen3_mlx
