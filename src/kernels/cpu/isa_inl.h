// SPDX-License-Identifier: MIT
// The kernels of one instruction set as a table. Included once by each
// isa_*.cpp, inside the namespace of its vector type; CMakeLists.txt compiles
// that file for the set, and isa.cpp picks among the tables.

namespace {

#include "kernels/cpu/row_kernels_inl.h"

#include "kernels/cpu/matmul_inl.h"

#include "kernels/cpu/attention_inl.h"

constexpr KernelTable make_table(std::string_view name) {
  return {
      .name = name,
      .max_block_rows = kMaxRows,
      .max_float_rows = kMaxFloatRows,
      .has_bf16_pairs = kHasBf16Pairs,
      .load_row = load_row,
      .store_row = store_row,
      .rms_norm = rms_norm,
      .quantize_rows = quantize_rows,
      .quantize_affine = quantize_affine,
      .swiglu = swiglu,
      .add_scaled = add_scaled,
      .rotate = rotate,
      .softmax = softmax,
      .arg_max = arg_max,
      .matmul_tiles = matmul_tiles,
      .attend = attend,
      .merge_spans = merge_spans};
}

} // namespace
