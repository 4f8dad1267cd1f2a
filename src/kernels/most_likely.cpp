// SPDX-License-Identifier: MIT
#include "qwen3_mlx/most_likely.h"

#include "kernels/ops.h"
#include "mlx/ops.h"

namespace qwen3_mlx {

mx::array finite_rows(const mx::array& logits, mx::StreamOrDevice s) {
  // One NaN or infinity makes the sum one; 150 thousand finite logits do not
  // reach float32's end, which is bfloat16's too.
  const auto wide = logits.dtype() == mx::bfloat16
      ? logits
      : mx::astype(logits, mx::float32, s);
  return mx::isfinite(mx::sum(wide, -1, /* keepdims */ false, s), s);
}

mx::array
told_of(const mx::array& ids, const mx::array& logits, mx::StreamOrDevice s) {
  return mx::stack(
      {mx::astype(ids, mx::uint32, s),
       mx::astype(finite_rows(logits, s), mx::uint32, s)},
      0,
      s);
}

MostLikely most_likely(const mx::array& logits, mx::StreamOrDevice s) {
  const auto ids = ops::arg_max(logits, s);
  return {ids, told_of(ids, logits, s)};
}

} // namespace qwen3_mlx
