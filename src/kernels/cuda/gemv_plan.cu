// SPDX-License-Identifier: MIT
#include "kernels/cuda/gemv_plan.h"

#include <algorithm>

namespace qwen3_mlx::cuda {
namespace {

// How a product is cut: rows of blocks, partial sums a warp may leave, blocks
// of threads, rows of x at once (0: not one fits), and bytes of shared memory.
struct Cut {
  int units;
  int slots;
  int blocks;
  int rows;

  std::size_t shared_bytes(const GemvArgs& args, int of_rows) const {
    const auto& layout = args.layout;
    const int stages = layout.bits == 4 ? gemv_stages<4>
        : layout.bits == 8              ? gemv_stages<8>
                                        : gemv_stages<16>;
    const std::size_t x_bytes = static_cast<std::size_t>(of_rows) *
        static_cast<std::size_t>(layout.padded_cols() + kGemvPadding) *
        (gemv_operands(args) == GemvOperands::split ? 4 : 2);
    const std::size_t groups = layout.group == 0
        ? 0
        : static_cast<std::size_t>(layout.padded_cols() / layout.group);
    return static_cast<std::size_t>(
               kGemvWarps * stages * layout.block_bytes()) +
        x_bytes +
        sizeof(float) * static_cast<std::size_t>(of_rows) *
        (groups + kGemvWarps +
         static_cast<std::size_t>(kGemvWarps * slots * kBlockRows));
  }
};

Cut cut_of(const Launcher& launcher, const GemvArgs& args) {
  const auto& layout = args.layout;
  Cut cut{};
  cut.units = layout.row_blocks() / (args.gated ? 2 : 1);
  const int pairs = args.experts == nullptr ? 1 : args.num_rows;
  cut.blocks = std::clamp(launcher.num_sms / pairs, 1, std::max(1, cut.units));
  const int per_block = (cut.units + cut.blocks - 1) / cut.blocks *
      (args.gated ? 2 : 1) * layout.col_blocks();
  cut.slots =
      ((per_block + kGemvWarps - 1) / kGemvWarps) / layout.col_blocks() + 2;
  cut.rows =
      args.experts == nullptr ? std::min(args.num_rows, kMaxGemvRows) : 1;
  while (cut.rows > 0 &&
         cut.shared_bytes(args, cut.rows) >
             static_cast<std::size_t>(launcher.shared_bytes)) {
    --cut.rows;
  }
  return cut;
}

} // namespace

GemvOperands gemv_operands(const GemvArgs& args) {
  if (args.layout.is_plain()) { // these are operands as they are
    return args.layout.type == Float::f16                  ? GemvOperands::half
        : args.norm != nullptr || args.type != Float::bf16 ? GemvOperands::split
                                                           : GemvOperands::bf16;
  }
  return args.type == Float::f32                        ? GemvOperands::split
      : args.norm != nullptr || args.type == Float::f16 ? GemvOperands::half
                                                        : GemvOperands::bf16;
}

bool fits_gemv(const Launcher& launcher, const GemvArgs& args) {
  return cut_of(launcher, args).rows > 0;
}

void gemv(const Launcher& launcher, GemvArgs args) {
  const auto& layout = args.layout;
  const Cut cut = cut_of(launcher, args);
  const int pairs = args.experts == nullptr ? 1 : args.num_rows;
  const int rows = cut.rows;
  const auto limit = static_cast<std::size_t>(launcher.shared_bytes);
  if (rows == 0) {
    throw Error(
        "CUDA: gemv: a row of " + std::to_string(layout.cols) +
        " elements does not fit into shared memory");
  }
  const auto advance = [](const void* data, std::size_t bytes) {
    return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
  };
  const auto x_bytes =
      static_cast<std::size_t>(layout.cols) * size_of(args.type);
  const auto y_bytes =
      static_cast<std::size_t>(args.gated ? layout.rows / 2 : layout.rows) *
      size_of(args.type);
  for (int left = args.experts == nullptr ? args.num_rows : 1; left > 0;
       left -= rows) {
    const int now = std::min(rows, left);
    const GemvShape shape{cut.units, now, cut.slots};
    start_gemv(
        launcher,
        args,
        shape,
        dim3(static_cast<unsigned>(cut.blocks), static_cast<unsigned>(pairs)),
        // Two blocks of one kernel must not meet on a multiprocessor while
        // others stand empty: where kernels overlap, the next one's
        // blocks go wherever there is room.
        std::max(
            cut.shared_bytes(args, now),
            launcher.overlap ? limit / 2 + 1024 : 0));
    args.x = advance(args.x, x_bytes * static_cast<std::size_t>(now));
    args.y =
        static_cast<char*>(args.y) + y_bytes * static_cast<std::size_t>(now);
    args.residual =
        advance(args.residual, y_bytes * static_cast<std::size_t>(now));
  }
}

} // namespace qwen3_mlx::cuda
