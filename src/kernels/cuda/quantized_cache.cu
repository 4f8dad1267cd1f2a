// SPDX-License-Identifier: MIT
#include "kernels/cuda/quantized_cache.h"

#include <algorithm>

#include "kernels/cuda/quantized_positions.cuh"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kPiecesPerLaunch = 32;

struct Pieces {
  QuantizedPiece at[kPiecesPerLaunch];
};

// One head of keys or of values.
template <class T>
struct HeadRows {
  std::uint8_t* codes;
  T* scales;
  T* biases;
  T* elements;

  __device__ __forceinline__ HeadRows(
      const QuantizedPiece& piece,
      const QuantizedCacheArgs& args,
      int head,
      bool of_values) {
    const auto& cache = piece.cache;
    const auto first = static_cast<std::size_t>(head) *
        static_cast<std::size_t>(cache.capacity);
    const auto dim = static_cast<std::size_t>(args.head_dim);
    const auto row = dim * static_cast<std::size_t>(args.kv.bits) / 8;
    const auto groups = dim / static_cast<std::size_t>(args.kv.group);
    codes = static_cast<std::uint8_t*>(of_values ? cache.values : cache.keys) +
        first * row;
    scales =
        static_cast<T*>(of_values ? cache.value_scales : cache.key_scales) +
        first * groups;
    biases =
        static_cast<T*>(of_values ? cache.value_biases : cache.key_biases) +
        first * groups;
    elements = static_cast<T*>(of_values ? piece.values : piece.keys) +
        static_cast<std::size_t>(head) *
            static_cast<std::size_t>(cache.offset + piece.length) * dim;
  }
};

// A thread has the dimensions of 32 bits of codes.
template <class T, int Bits>
__global__ void __launch_bounds__(kThreads) read_kernel(
    const QuantizedCacheArgs args,
    const __grid_constant__ Pieces pieces) {
  constexpr int kEach = 32 / Bits;
  let_next_start();
  wait_for_previous();
  const QuantizedPiece& piece = pieces.at[blockIdx.z];
  const int head = static_cast<int>(blockIdx.y) / 2;
  const HeadRows<T> rows(piece, args, head, blockIdx.y % 2 == 1);
  const auto words =
      static_cast<std::size_t>(piece.cache.offset * (args.head_dim / kEach));
  for (std::size_t i = blockIdx.x * kThreads + threadIdx.x; i < words;
       i += std::size_t{gridDim.x} * kThreads) {
    const unsigned word = reinterpret_cast<const unsigned*>(rows.codes)[i];
    const std::size_t group =
        i * kEach / static_cast<std::size_t>(args.kv.group);
    const float scale = to_float(rows.scales[group]);
    const float bias = to_float(rows.biases[group]);
    unsigned out[kEach / 2];
#pragma unroll
    for (int pair = 0; pair < kEach / 2; ++pair) {
      const auto value = [&](int idx) {
        const unsigned code = word >> (Bits * idx) & ((1U << Bits) - 1);
        return fmaf(scale, static_cast<float>(code), bias);
      };
      out[pair] = pack_two(T(), value(2 * pair), value(2 * pair + 1));
    }
    auto* const to = reinterpret_cast<unsigned*>(rows.elements + i * kEach);
    if constexpr (Bits == 8) {
      *reinterpret_cast<uint2*>(to) = make_uint2(out[0], out[1]);
    } else {
      *reinterpret_cast<uint4*>(to) =
          make_uint4(out[0], out[1], out[2], out[3]);
    }
  }
}

// A warp takes a head's keys or values of a position at a time.
template <class T, int Bits, int Group>
__global__ void __launch_bounds__(kThreads) quantize_kernel(
    const QuantizedCacheArgs args,
    const __grid_constant__ Pieces pieces) {
  constexpr int kEach = Group / 32;
  let_next_start();
  wait_for_previous();
  const QuantizedPiece& piece = pieces.at[blockIdx.y];
  const int idx = static_cast<int>(blockIdx.x);
  if (idx >= piece.length) {
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto position = static_cast<std::size_t>(piece.cache.offset + idx);
  const int groups = args.head_dim / Group;
  for (int i = warp; i < 2 * args.num_kv_heads; i += kWarps) {
    const HeadRows<T> rows(piece, args, i / 2, i % 2 == 1);
    for (int g = 0; g < groups; ++g) {
      const auto at = position * static_cast<std::size_t>(groups) +
          static_cast<std::size_t>(g);
      T* const elements = rows.elements + at * Group;
      const QuantizedGroup<Bits, Group> group(elements, lane);
      group.store(rows.codes + at * (Group * Bits / 8), lane);
      T scale;
      T bias;
      from_float(group.scale, scale);
      from_float(group.bias, bias);
      if (lane == 0) {
        rows.scales[at] = scale;
        rows.biases[at] = bias;
      }
      // A lane changes what only it has read.
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        from_float(
            fmaf(
                to_float(scale),
                static_cast<float>(group.code[j]),
                to_float(bias)),
            elements[lane * kEach + j]);
      }
    }
  }
}

// Calls `work` with some pieces at a time, their number, and the most
// positions that `count` finds in one of them.
template <class Count, class Work>
void in_launches(
    std::span<const QuantizedPiece> pieces,
    const Count& count,
    const Work& work) {
  while (!pieces.empty()) {
    const auto n = std::min<std::size_t>(kPiecesPerLaunch, pieces.size());
    Pieces some{};
    std::copy_n(pieces.begin(), n, some.at);
    pieces = pieces.subspan(n);
    int most = 0;
    for (std::size_t idx = 0; idx < n; ++idx) {
      most = std::max(most, count(some.at[idx]));
    }
    if (most > 0) {
      work(some, static_cast<unsigned>(n), most);
    }
  }
}

template <class T>
void read_as(
    const Launcher& launcher,
    const QuantizedCacheArgs& args,
    std::span<const QuantizedPiece> pieces) {
  const auto held = [](const QuantizedPiece& piece) {
    return piece.cache.offset;
  };
  in_launches(pieces, held, [&](const Pieces& some, unsigned n, int most) {
    constexpr int kWordsEach = 8; // of a thread
    const int words = most * args.head_dim * args.kv.bits / 32;
    const int blocks =
        (words + kThreads * kWordsEach - 1) / (kThreads * kWordsEach);
    launch(
        launcher,
        "read held positions",
        args.kv.bits == 8 ? read_kernel<T, 8> : read_kernel<T, 4>,
        dim3(
            static_cast<unsigned>(blocks),
            static_cast<unsigned>(2 * args.num_kv_heads),
            n),
        kThreads,
        0,
        args,
        some);
  });
}

template <class T>
void quantize_as(
    const Launcher& launcher,
    const QuantizedCacheArgs& args,
    std::span<const QuantizedPiece> pieces) {
  const auto is_new = [](const QuantizedPiece& piece) { return piece.length; };
  const auto kernel_of = [&]<int Bits>(std::integral_constant<int, Bits>) {
    return args.kv.group == 32 ? quantize_kernel<T, Bits, 32>
        : args.kv.group == 64  ? quantize_kernel<T, Bits, 64>
                               : quantize_kernel<T, Bits, 128>;
  };
  auto* const kernel = args.kv.bits == 8
      ? kernel_of(std::integral_constant<int, 8>())
      : kernel_of(std::integral_constant<int, 4>());
  in_launches(pieces, is_new, [&](const Pieces& some, unsigned n, int most) {
    launch(
        launcher,
        "quantize positions",
        kernel,
        dim3(static_cast<unsigned>(most), n),
        kThreads,
        0,
        args,
        some);
  });
}

} // namespace

void read_held(
    const Launcher& launcher,
    const QuantizedCacheArgs& args,
    std::span<const QuantizedPiece> pieces) {
  if (args.type == Float::f16) {
    read_as<__half>(launcher, args, pieces);
  } else {
    read_as<__nv_bfloat16>(launcher, args, pieces);
  }
}

void quantize_new(
    const Launcher& launcher,
    const QuantizedCacheArgs& args,
    std::span<const QuantizedPiece> pieces) {
  if (args.type == Float::f16) {
    quantize_as<__half>(launcher, args, pieces);
  } else {
    quantize_as<__nv_bfloat16>(launcher, args, pieces);
  }
}

} // namespace qwen3_mlx::cuda
