// SPDX-License-Identifier: MIT
// Matrices into blocks, and out of them: whole, and by rows.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kThreads = 256;

struct PackArgs {
  PackedLayout layout;
  SourceMatrix from;
  unsigned char* to;
};

__device__ __forceinline__ unsigned char
source_code(const SourceMatrix& from, int bits, std::size_t at) {
  const auto* const codes = static_cast<const unsigned char*>(from.weight);
  const unsigned code = code_at(codes, at, bits);
  return static_cast<unsigned char>(
      from.form == SourceForm::mxfp4 ? mxfp4_as_affine(code) : code);
}

// 2^(code - 127), or NaN, of the format e8m0.
__device__ __forceinline__ float e8m0_value(unsigned char code) {
  return code == 0xff ? NAN : ldexpf(1.0F, code - 127);
}

__device__ __forceinline__ unsigned short bf16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16(value));
}

// The pair of the group that begins at column `col` of row `row` of the source.
__device__ __forceinline__ void source_scales(
    const PackedLayout& layout,
    const SourceMatrix& from,
    std::size_t row,
    int col,
    unsigned short (&scales)[2]) {
  const auto* const bytes = static_cast<const unsigned char*>(from.scales);
  const std::size_t at =
      row * static_cast<std::size_t>(layout.cols / layout.group) +
      static_cast<std::size_t>(col / layout.group);
  switch (from.form) {
  case SourceForm::affine:
    scales[0] = static_cast<const unsigned short*>(from.scales)[at];
    scales[1] = static_cast<const unsigned short*>(from.biases)[at];
    return;
  case SourceForm::mxfp4: {
    const float scale = 0.5F * e8m0_value(bytes[at]);
    scales[0] = bf16_bits(scale);
    scales[1] = bf16_bits(-static_cast<float>(kMxfp4Offset) * scale);
    return;
  }
  case SourceForm::mxfp8:
    scales[0] = bf16_bits(e8m0_value(bytes[at]));
    return;
  case SourceForm::nvfp4:
    for (int half = 0; half < 2; ++half) {
      if (col + 16 * half < layout.cols) {
        const std::size_t own =
            row * static_cast<std::size_t>(layout.cols / 16);
        scales[half] = bf16_bits(
            e4m3_value(bytes[own + static_cast<std::size_t>(col / 16 + half)]));
      }
    }
    return;
  }
}

// One block of threads a block of the matrix: blockIdx is (column, row, index).
__global__ void __launch_bounds__(kThreads) pack_kernel(const PackArgs args) {
  extern __shared__ __align__(16) unsigned char block[];
  const auto& layout = args.layout;
  const int first_row = static_cast<int>(blockIdx.y) * kBlockRows;
  const int first_col = static_cast<int>(blockIdx.x) * kBlockCols;
  const auto cols = static_cast<std::size_t>(layout.cols);
  const std::size_t base = static_cast<std::size_t>(blockIdx.z) *
      static_cast<std::size_t>(layout.rows);
  const int n_bytes = layout.block_bytes();
  const int source_bits = args.from.bits == 0 ? layout.bits : args.from.bits;
  for (int i = static_cast<int>(threadIdx.x); i < n_bytes / 4; i += kThreads) {
    reinterpret_cast<unsigned*>(block)[i] = 0;
  }
  __syncthreads();
  // A thread's elements never share a byte with another's: it takes the pair
  // of columns whose nibbles are neighbours, j and j + 2.
  for (int i = static_cast<int>(threadIdx.x); i < kBlockRows * kBlockCols / 2;
       i += kThreads) {
    const int r = i / (kBlockCols / 2);
    const int c = i % (kBlockCols / 2);
    const int low = c / 4 * 8 + c % 4 / 2 * 4 + c % 2;
    for (int k = 0; k < 2; ++k) {
      const int col = low + 2 * k;
      if (first_row + r >= layout.rows || first_col + col >= layout.cols) {
        continue;
      }
      const std::size_t row = base + static_cast<std::size_t>(first_row + r);
      const std::size_t at =
          row * cols + static_cast<std::size_t>(first_col + col);
      const CodePlace place = code_place(layout.bits, r, col);
      if (layout.bits == 4) {
        const unsigned char code = source_code(args.from, source_bits, at);
        block[place.byte] =
            static_cast<unsigned char>(block[place.byte] | code << place.shift);
      } else if (layout.bits == 8) {
        block[place.byte] = source_code(args.from, source_bits, at);
      } else {
        *reinterpret_cast<unsigned short*>(block + place.byte) =
            static_cast<const unsigned short*>(args.from.weight)[at];
      }
    }
  }
  if (layout.group != 0) {
    const int groups = kBlockCols / layout.group;
    for (int i = static_cast<int>(threadIdx.x); i < kBlockRows * groups;
         i += kThreads) {
      const int r = i / groups;
      const int col = i % groups * layout.group;
      if (first_row + r >= layout.rows || first_col + col >= layout.cols) {
        continue;
      }
      unsigned short scales[2] = {};
      source_scales(
          layout,
          args.from,
          base + static_cast<std::size_t>(first_row + r),
          first_col + col,
          scales);
      auto* to = reinterpret_cast<unsigned short*>(
          block + scale_place(layout, r, col));
      to[0] = scales[0];
      to[1] = scales[1];
    }
  }
  __syncthreads();
  unsigned char* to = args.to +
      static_cast<std::size_t>(blockIdx.z) * layout.n_bytes() +
      static_cast<std::size_t>(blockIdx.y) * layout.row_bytes() +
      static_cast<std::size_t>(blockIdx.x) * static_cast<std::size_t>(n_bytes);
  for (int i = static_cast<int>(threadIdx.x); i < n_bytes / 16; i += kThreads) {
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(block)[i];
  }
}

// Eight neighbours of a row that are small floats.
__device__ __forceinline__ void eight_small(
    const PackedLayout& layout,
    const unsigned char* block,
    int row,
    int col,
    float (&out)[8]) {
  const CodePlace place = code_place(layout.bits, row, col);
  const int half = layout.form == CodeForm::e2m1 ? col % 32 / 16 : 0;
  const float scale = low_bf16(*reinterpret_cast<const unsigned short*>(
      block + scale_place(layout, row, col) + half * 2));
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (layout.form == CodeForm::e4m3) {
      out[j] = scale * e4m3_value(block[place.byte + j]);
    } else {
      const CodePlace own = code_place(4, row, col + j);
      const unsigned code = block[own.byte] >> own.shift & 15U;
      const int twice = static_cast<int>(mxfp4_as_affine(code)) - kMxfp4Offset;
      out[j] = scale * 0.5F * static_cast<float>(twice);
    }
  }
}

// Eight neighbours of a row, as floats.
__device__ __forceinline__ void eight_of(
    const PackedLayout& layout,
    const unsigned char* block,
    int row,
    int col,
    float (&out)[8]) {
  const CodePlace place = code_place(layout.bits, row, col);
  float scale = 1;
  float bias = 0;
  if (layout.group != 0) {
    const unsigned pair = *reinterpret_cast<const unsigned*>(
        block + scale_place(layout, row, col));
    const bool is_bf16 = layout.type == Float::bf16;
    scale = is_bf16 ? low_bf16(pair) : low_half(pair);
    bias = is_bf16 ? high_bf16(pair) : high_half(pair);
  }
  if (layout.bits == 4) {
    const unsigned word =
        *reinterpret_cast<const unsigned*>(block + place.byte);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int nibble = (j % 2) * 4 + j / 2;
      out[j] = scale * static_cast<float>(word >> (4 * nibble) & 15U) + bias;
    }
  } else if (layout.bits == 8) {
    const uint2 words = *reinterpret_cast<const uint2*>(block + place.byte);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const unsigned word = j < 4 ? words.x : words.y;
      out[j] = scale * static_cast<float>(word >> (8 * (j % 4)) & 255U) + bias;
    }
  } else {
    load_eight(block + place.byte, layout.type, 0, out);
  }
}

// A thread takes eight columns of a row; rows lie in grid.y and beyond.
__global__ void __launch_bounds__(kThreads)
    unpack_kernel(const UnpackArgs args, int count) {
  let_next_start();
  wait_for_previous();
  if (blockIdx.x == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < args.advance.count;
         i += kThreads) {
      ++args.advance.offsets[i];
    }
  }
  const auto& layout = args.layout;
  const int eights = layout.cols / 8;
  const auto total =
      static_cast<std::size_t>(count) * static_cast<std::size_t>(eights);
  for (std::size_t i =
           blockIdx.x * static_cast<std::size_t>(kThreads) + threadIdx.x;
       i < total;
       i += static_cast<std::size_t>(gridDim.x) * kThreads) {
    const auto out_row = static_cast<int>(i / static_cast<unsigned>(eights));
    const int col = static_cast<int>(i % static_cast<unsigned>(eights)) * 8;
    int row = out_row;
    if (args.ids != nullptr) {
      row = static_cast<int>(
          min(args.ids[out_row], static_cast<unsigned>(layout.rows - 1)));
    }
    const unsigned char* block = static_cast<const unsigned char*>(args.from) +
        static_cast<std::size_t>(row / kBlockRows) * layout.row_bytes() +
        static_cast<std::size_t>(col / kBlockCols) *
            static_cast<std::size_t>(layout.block_bytes());
    float v[8];
    if (layout.has_small_floats()) {
      eight_small(layout, block, row % kBlockRows, col % kBlockCols, v);
    } else {
      eight_of(layout, block, row % kBlockRows, col % kBlockCols, v);
    }
    const std::size_t at = static_cast<std::size_t>(out_row) *
            static_cast<std::size_t>(layout.cols) +
        static_cast<std::size_t>(col);
    if (args.type == Float::f32) {
      auto* to = static_cast<float4*>(args.to) + at / 4;
      to[0] = make_float4(v[0], v[1], v[2], v[3]);
      to[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else if (args.type == Float::bf16) {
      static_cast<uint4*>(args.to)[at / 8] = make_uint4(
          pack_bf16(v[0], v[1]),
          pack_bf16(v[2], v[3]),
          pack_bf16(v[4], v[5]),
          pack_bf16(v[6], v[7]));
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        static_cast<__half*>(args.to)[at + static_cast<std::size_t>(j)] =
            __float2half(v[j]);
      }
    }
  }
}

void start_unpack(const Launcher& launcher, const UnpackArgs& args, int count) {
  const auto total = static_cast<std::size_t>(count) *
      static_cast<std::size_t>(args.layout.cols / 8);
  const auto wanted = (total + kThreads - 1) / kThreads;
  const auto most = static_cast<std::size_t>(launcher.num_sms) * 16;
  if (total == 0) {
    return;
  }
  launch(
      launcher,
      unpack_name,
      unpack_kernel,
      dim3(static_cast<unsigned>(wanted < most ? wanted : most)),
      kThreads,
      0,
      args,
      count);
}

} // namespace

bool has_code() {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, unpack_kernel) == cudaSuccess) {
    return true;
  }
  cudaGetLastError();
  return false;
}

void pack(
    const Launcher& launcher,
    const PackedLayout& layout,
    int num_matrices,
    const SourceMatrix& from,
    void* to) {
  const PackArgs args{layout, from, static_cast<unsigned char*>(to)};
  launch(
      launcher,
      "pack",
      pack_kernel,
      dim3(
          static_cast<unsigned>(layout.col_blocks()),
          static_cast<unsigned>(layout.row_blocks()),
          static_cast<unsigned>(num_matrices)),
      kThreads,
      static_cast<std::size_t>(layout.block_bytes()),
      args);
}

void unpack(
    const Launcher& launcher,
    const PackedLayout& layout,
    const void* from,
    Float type,
    void* to) {
  start_unpack(launcher, {layout, from, nullptr, type, to, {}}, layout.rows);
}

void gather_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    const void* from,
    const std::uint32_t* ids,
    int count,
    Float type,
    void* to,
    Advance advance) {
  start_unpack(launcher, {layout, from, ids, type, to, advance}, count);
}

} // namespace qwen3_mlx::cuda
