// SPDX-License-Identifier: MIT
// Sixteen lanes in one AVX-512 register, int8 dot products with VNNI. Compiled
// twice: in namespace avx512bf16 also with dot products of bfloat16 pairs, of
// which attention makes use. See simd_portable.h for what each operation means.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/types.h"

#ifdef __AVX512BF16__
#define QWEN3_MLX_BF16_DOTS
namespace qwen3_mlx::cpu::avx512bf16 {
#else
namespace qwen3_mlx::cpu::avx512 {
#endif

inline constexpr int kLanes = 16;
// 12 float and 12 integer sums, unpacked weights, masks and scales: within 32
// registers.
inline constexpr int kMaxRows = 12;
// 24 sums, of two tiles, which share what is read of activations.
inline constexpr int kMaxFloatRows = 12;
// Running sums that fit the registers beside their factors.
inline constexpr int kSums = 24;

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};

inline F32 set1(float value) {
  return {_mm512_set1_ps(value)};
}
inline F32 load(const float* from) {
  return {_mm512_loadu_ps(from)};
}
inline F32 load_bf16(const void* from) {
  const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(from));
  return {
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline F32 load_f16(const void* from) {
  return {
      _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(from)))};
}
inline F32 first_of_pairs(I32 a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))};
}
inline F32 second_of_pairs(I32 a) {
  return {
      _mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(-0x10000)))};
}
inline void store(float* to, F32 a) {
  _mm512_storeu_ps(to, a.v);
}
inline void store_bf16(void* to, F32 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd =
      _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))),
      16);
  const __m512i nan =
      _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  _mm256_storeu_si256(
      static_cast<__m256i*>(to),
      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, is_nan, nan)));
}
inline void store_f16(void* to, F32 a) {
  _mm256_storeu_si256(
      static_cast<__m256i*>(to),
      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 add(F32 a, F32 b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline F32 sub(F32 a, F32 b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline F32 mul(F32 a, F32 b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline F32 div(F32 a, F32 b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline F32 fma(F32 a, F32 b, F32 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// As assembler: GCC 12 moves sums about, and to memory, around intrinsics.
inline void add_product(F32 a, F32 b, F32& sum) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
}
inline F32 max(F32 a, F32 b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline F32 min(F32 a, F32 b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline F32 abs(F32 a) {
  return {_mm512_abs_ps(a.v)};
}
inline F32 zero_below(F32 x, float bound, F32 value) {
  return {_mm512_maskz_mov_ps(
      _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_GE_OQ), value.v)};
}

inline __m128 sum_to_4(__m512 a) {
  const __m256 high = _mm512_extractf32x8_ps(a, 1);
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), high);
  return _mm_add_ps(
      _mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
inline float sum(F32 a) {
  const __m128 four = sum_to_4(a.v);
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(F32 a) {
  return _mm512_reduce_max_ps(a.v);
}

inline I32 set1_i(std::int32_t value) {
  return {_mm512_set1_epi32(value)};
}
inline I32 load_i(const void* from) {
  return {_mm512_loadu_si512(from)};
}
inline F32 to_float(I32 a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
inline I32 round_to_int(F32 a) {
  return {_mm512_cvtps_epi32(a.v)};
}
inline I32 add_i(I32 a, I32 b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
inline std::int32_t sum_i(I32 a) {
  return _mm512_reduce_add_epi32(a.v);
}
inline void store_i8(std::int8_t* to, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(a.v));
}
inline F32 pow2(I32 n) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
inline F32 bits_as_float(I32 a, int shift, std::int32_t mask) {
  return {_mm512_cvtepi32_ps(_mm512_and_si512(
      _mm512_srl_epi32(a.v, _mm_cvtsi32_si128(shift)),
      _mm512_set1_epi32(mask)))};
}
inline F32 lookup16(const float* entries, I32 a, int shift) {
  // The permutation reads the low 4 bits of each index.
  return {_mm512_permutexvar_ps(
      _mm512_srl_epi32(a.v, _mm_cvtsi32_si128(shift)),
      _mm512_loadu_ps(entries))};
}

template <Codes codes>
inline constexpr int kCodeOffset = codes == Codes::fp4 ? kFp4Offset : 0;

inline __m512i broadcast_4(const std::int8_t* x) {
  std::int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm512_set1_epi32(four);
}

// Adds the products of weights of 4 columns with all rows.
template <int num_rows>
QWEN3_MLX_INLINE const std::int8_t*
add_dots(__m512i weights, const std::int8_t* x, I32* acc) {
  for (int m = 0; m < num_rows; ++m) {
    acc[m].v = _mm512_dpbusd_epi32(acc[m].v, weights, broadcast_4(x + 4 * m));
  }
  return x + 4 * num_rows;
}

// Of 64 bytes of codes. All of one half of the nibbles, then all of the other:
// between two sums into the same register lie the other rows'.
template <Codes codes, int num_rows>
QWEN3_MLX_INLINE const std::int8_t*
code_dots(const std::byte* at, const std::int8_t* x, I32* acc) {
  const __m512i both = _mm512_loadu_si512(at);
  if constexpr (codes == Codes::u8) {
    return add_dots<num_rows>(both, x, acc);
  }
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i low = _mm512_and_si512(both, nibble);
  __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
  if constexpr (codes == Codes::fp4) {
    const __m512i values = _mm512_broadcast_i32x4(_mm_setr_epi8(
        12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    low = _mm512_shuffle_epi8(values, low);
    high = _mm512_shuffle_epi8(values, high);
  }
  return add_dots<num_rows>(high, add_dots<num_rows>(low, x, acc), acc);
}

// One row has no others to fill the time between two sums into one register,
// and nobody to share unpacked codes with: its nibbles have sums of their own,
// and the high ones stay where they are, sixteenfold.
struct NibbleSums {
  __m512i low[2];
  __m512i high[2];
};
QWEN3_MLX_INLINE void add_nibble_dots(
    const std::byte* at,
    const std::int8_t* x,
    __m512i& low,
    __m512i& high) {
  const __m512i both = _mm512_loadu_si512(at);
  const __m512i low_codes = _mm512_and_si512(both, _mm512_set1_epi8(15));
  const __m512i high_codes = _mm512_and_si512(both, _mm512_set1_epi8(-16));
  low = _mm512_dpbusd_epi32(low, low_codes, broadcast_4(x));
  high = _mm512_dpbusd_epi32(high, high_codes, broadcast_4(x + 4));
}
QWEN3_MLX_INLINE __m512i nibble_dots_of_one_row(
    const std::byte* block,
    int group,
    const std::int8_t* x,
    __m512i acc) {
  const __m512i zero = _mm512_setzero_si512();
  NibbleSums sums{{acc, zero}, {zero, zero}};
  const std::byte* const end = block + group * 8;
  for (; block + 256 <= end; block += 256, x += 32) {
    add_nibble_dots(block, x, sums.low[0], sums.high[0]);
    add_nibble_dots(block + 64, x + 8, sums.low[1], sums.high[1]);
    add_nibble_dots(block + 128, x + 16, sums.low[0], sums.high[0]);
    add_nibble_dots(block + 192, x + 24, sums.low[1], sums.high[1]);
  }
  for (; block < end; block += 64, x += 8) {
    add_nibble_dots(block, x, sums.low[0], sums.high[0]);
  }
  return _mm512_add_epi32(
      _mm512_add_epi32(sums.low[0], sums.low[1]),
      _mm512_srai_epi32(_mm512_add_epi32(sums.high[0], sums.high[1]), 4));
}

template <Codes codes, int num_rows>
QWEN3_MLX_INLINE void
block_dots(const std::byte* block, int group, const std::int8_t* x, I32* acc) {
  if constexpr (codes == Codes::u4 && num_rows == 1) {
    acc->v = nibble_dots_of_one_row(block, group, x, acc->v);
    return;
  }
  const std::byte* const end = block + group * (codes == Codes::u8 ? 16 : 8);
  // Four at a time without a loop: around a loop's end GCC copies every sum.
  for (; block + 256 <= end; block += 256) {
    x = code_dots<codes, num_rows>(block, x, acc);
    x = code_dots<codes, num_rows>(block + 64, x, acc);
    x = code_dots<codes, num_rows>(block + 128, x, acc);
    x = code_dots<codes, num_rows>(block + 192, x, acc);
  }
  for (; block < end; block += 64) {
    x = code_dots<codes, num_rows>(block, x, acc);
  }
}

#ifdef QWEN3_MLX_BF16_DOTS
inline void store_i(void* to, I32 a) {
  _mm512_storeu_si512(to, a.v);
}
// 16 elements of each as pairs, the first of them in the lower half of a lane.
inline I32 pair_up(const std::byte* first, const std::byte* second) {
  const auto load_16 = [](const std::byte* from) {
    return _mm512_castsi256_si512(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  };
  const __m512i order = _mm512_or_si512(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
      _mm512_slli_epi32(
          _mm512_set_epi32(
              47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32),
          16));
  return {_mm512_permutex2var_epi16(load_16(first), order, load_16(second))};
}
// c + a.first * b.first + a.second * b.second
inline F32 dot_pairs(I32 a, I32 b, F32 c) {
  __m512 sum = c.v;
  // As assembler: GCC 12 and clang differ in the type of the intrinsic's pairs.
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a.v), "v"(b.v));
  return {sum};
}
// Rounds 32 elements to bfloat16, side by side. `to` may be `from`.
inline void round_to_pairs(const float* from, void* to) {
  const __m512 low = _mm512_loadu_ps(from);
  const __m512 high = _mm512_loadu_ps(from + 16);
  __m512i pairs;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(pairs) : "v"(high), "v"(low));
  _mm512_storeu_si512(to, pairs);
}
// Finite values as bfloat16 has them.
inline F32 round_as_bf16(F32 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd =
      _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum =
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return {
      _mm512_castsi512_ps(_mm512_and_si512(sum, _mm512_set1_epi32(-0x10000)))};
}
#endif

} // namespace qwen3_mlx::cpu::avx512 or avx512bf16
