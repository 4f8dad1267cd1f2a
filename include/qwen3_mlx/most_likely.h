// SPDX-License-Identifier: MIT
// The most likely token of each row of logits.
#pragma once

#include "mlx/array.h"
#include "mlx/utils.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// Of n rows of logits.
struct MostLikely {
  mx::array ids; ///< [n] uint32, for what goes on on the device.
  /// [2, n] uint32, to be read: the ids, then 1 where all logits of a row are
  /// finite, else 0.
  mx::array told;
};

/// Which rows hold neither NaN nor infinity: logits [n, V] -> [n] bool.
mx::array finite_rows(const mx::array& logits, mx::StreamOrDevice s = {});
/// logits [n, V] of any float type.
MostLikely most_likely(const mx::array& logits, mx::StreamOrDevice s = {});
/// `told` of ids that were chosen otherwise.
mx::array told_of(
    const mx::array& ids,
    const mx::array& logits,
    mx::StreamOrDevice s = {});

} // namespace qwen3_mlx
