// SPDX-License-Identifier: MIT
// The kernels for one instruction set; CMakeLists.txt gives this file the
// compiler flags of that set, and isa.cpp picks among the tables.
#include "kernels/cpu/isa_tables.h"
#include "kernels/cpu/simd_portable.h"

namespace qwen3_mlx::cpu {
namespace portable {
namespace {

#include "kernels/cpu/row_kernels_inl.h"

#include "kernels/cpu/matmul_inl.h"

#include "kernels/cpu/attention_inl.h"

} // namespace

const KernelTable table{
    .name = "portable",
    .max_block_rows = kMaxRows,
    .load_row = load_row,
    .store_row = store_row,
    .rms_norm = rms_norm,
    .quantize_row = quantize_row,
    .quantize_affine = quantize_affine,
    .swiglu = swiglu,
    .add_scaled = add_scaled,
    .rotate = rotate,
    .softmax = softmax,
    .arg_max = arg_max,
    .matmul_tiles = matmul_tiles,
    .attend = attend,
    .merge_spans = merge_spans};

} // namespace portable
} // namespace qwen3_mlx::cpu
