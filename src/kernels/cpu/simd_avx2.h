// SPDX-License-Identifier: MIT
// Sixteen lanes in two AVX2 registers. Compiled twice: in namespace avx2 with
// 16-bit multiply-adds for the int8 dot products, in namespace avxvnni with the
// instruction made for them. See simd_portable.h for the meanings.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/types.h"

#if defined(__AVXVNNI__)
namespace qwen3_mlx::cpu::avxvnni {
#else
namespace qwen3_mlx::cpu::avx2 {
#endif

inline constexpr int kLanes = 16;
inline constexpr int kMaxRows = 4;
// 10 registers of sums, a column of weights and a broadcast: of 12, GCC keeps
// one in memory, whose latency then bounds all.
inline constexpr int kMaxFloatRows = 5;
// Running sums (two registers each) that fit beside their factors.
inline constexpr int kSums = 6;

struct F32 {
  __m256 lo;
  __m256 hi;
};
struct I32 {
  __m256i lo;
  __m256i hi;
};

inline F32 set1(float value) {
  const __m256 v = _mm256_set1_ps(value);
  return {v, v};
}
inline F32 load(const float* from) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
inline __m128i load_8_halves(const void* from, int idx) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from) + idx);
}
inline __m256 widen_bf16(__m128i bits) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline F32 load_bf16(const void* from) {
  return {
      widen_bf16(load_8_halves(from, 0)), widen_bf16(load_8_halves(from, 1))};
}
inline F32 load_f16(const void* from) {
  return {
      _mm256_cvtph_ps(load_8_halves(from, 0)),
      _mm256_cvtph_ps(load_8_halves(from, 1))};
}
inline F32 first_of_pairs(I32 a) {
  return {
      _mm256_castsi256_ps(_mm256_slli_epi32(a.lo, 16)),
      _mm256_castsi256_ps(_mm256_slli_epi32(a.hi, 16))};
}
inline F32 second_of_pairs(I32 a) {
  const __m256i mask = _mm256_set1_epi32(-0x10000);
  return {
      _mm256_castsi256_ps(_mm256_and_si256(a.lo, mask)),
      _mm256_castsi256_ps(_mm256_and_si256(a.hi, mask))};
}
inline void store(float* to, F32 a) {
  _mm256_storeu_ps(to, a.lo);
  _mm256_storeu_ps(to + 8, a.hi);
}
inline __m256i round_bf16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd =
      _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))),
      16);
  const __m256i nan =
      _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(
      rounded, nan, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}
inline void store_bf16(void* to, F32 a) {
  const __m256i packed =
      _mm256_packus_epi32(round_bf16(a.lo), round_bf16(a.hi));
  _mm256_storeu_si256(
      static_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline void store_f16(void* to, F32 a) {
  auto* out = static_cast<__m128i*>(to);
  _mm_storeu_si128(out, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(out + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 add(F32 a, F32 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
inline F32 sub(F32 a, F32 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
inline F32 mul(F32 a, F32 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
inline F32 div(F32 a, F32 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
inline F32 fma(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// As assembler: GCC 12 moves sums about, and to memory, around intrinsics.
inline void add_product(F32 a, F32 b, F32& sum) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum.lo) : "x"(a.lo), "x"(b.lo));
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum.hi) : "x"(a.hi), "x"(b.hi));
}
inline F32 max(F32 a, F32 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
inline F32 min(F32 a, F32 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
inline F32 abs(F32 a) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline F32 zero_below(F32 x, float bound, F32 value) {
  const __m256 b = _mm256_set1_ps(bound);
  return {
      _mm256_and_ps(_mm256_cmp_ps(x.lo, b, _CMP_GE_OQ), value.lo),
      _mm256_and_ps(_mm256_cmp_ps(x.hi, b, _CMP_GE_OQ), value.hi)};
}

inline float sum(F32 a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(
      _mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(F32 a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(
      _mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline I32 set1_i(std::int32_t value) {
  const __m256i v = _mm256_set1_epi32(value);
  return {v, v};
}
inline I32 load_i(const void* from) {
  const auto* in = static_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(in), _mm256_loadu_si256(in + 1)};
}
inline F32 to_float(I32 a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
inline I32 round_to_int(F32 a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
inline I32 add_i(I32 a, I32 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
inline std::int32_t sum_i(I32 a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  const __m128i four = _mm_add_epi32(
      _mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline void store_i8(std::int8_t* to, I32 a) {
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packs_epi16(
          _mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline __m256 pow2_8(__m256i n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline F32 pow2(I32 n) {
  return {pow2_8(n.lo), pow2_8(n.hi)};
}
inline __m256i shift_right(__m256i a, int shift) {
  return _mm256_srl_epi32(a, _mm_cvtsi32_si128(shift));
}
inline F32 bits_as_float(I32 a, int shift, std::int32_t mask) {
  const __m256i m = _mm256_set1_epi32(mask);
  return {
      _mm256_cvtepi32_ps(_mm256_and_si256(shift_right(a.lo, shift), m)),
      _mm256_cvtepi32_ps(_mm256_and_si256(shift_right(a.hi, shift), m))};
}
inline __m256 lookup16_8(const float* entries, __m256i idx) {
  // The permutation reads 3 bits; the fourth becomes the blend's sign bit.
  return _mm256_blendv_ps(
      _mm256_permutevar8x32_ps(_mm256_loadu_ps(entries), idx),
      _mm256_permutevar8x32_ps(_mm256_loadu_ps(entries + 8), idx),
      _mm256_castsi256_ps(_mm256_slli_epi32(idx, 28)));
}
inline F32 lookup16(const float* entries, I32 a, int shift) {
  return {
      lookup16_8(entries, shift_right(a.lo, shift)),
      lookup16_8(entries, shift_right(a.hi, shift))};
}

template <Codes codes>
inline constexpr int kCodeOffset = codes == Codes::fp4 ? kFp4Offset : 0;

inline __m256i broadcast_4(const std::int8_t* x) {
  std::int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm256_set1_epi32(four);
}
inline __m256i load_32(const std::byte* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// Adds the dot products of 4 unsigned codes and 4 signed activations a lane.
#if defined(__AVXVNNI__)
inline __m256i dot_low(__m256i acc, __m256i low, __m256i x) {
  return _mm256_dpbusd_avx_epi32(acc, low, x);
}
inline __m256i
dot_pair(__m256i acc, __m256i a, __m256i b, __m256i xa, __m256i xb) {
  return dot_low(dot_low(acc, a, xa), b, xb);
}
inline __m256i dot_u8(__m256i acc, __m256i w, __m256i x) {
  return dot_low(acc, w, x);
}
#else
// Codes up to 24: four products are at most 4 * 24 * 127 < 2^15.
inline __m256i
dot_pair(__m256i acc, __m256i a, __m256i b, __m256i xa, __m256i xb) {
  const __m256i words = _mm256_add_epi16(
      _mm256_maddubs_epi16(a, xa), _mm256_maddubs_epi16(b, xb));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
}
// Whole bytes would overflow 16 bits, so the nibbles go apart.
inline __m256i dot_u8(__m256i acc, __m256i w, __m256i x) {
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(w, nibble), x);
  const __m256i high = _mm256_maddubs_epi16(
      _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble), x);
  return _mm256_add_epi32(
      acc,
      _mm256_add_epi32(
          _mm256_madd_epi16(low, _mm256_set1_epi16(1)),
          _mm256_madd_epi16(high, _mm256_set1_epi16(16))));
}
#endif

template <Codes codes, int num_rows>
inline void half_dots(
    const std::byte* block,
    int group,
    const std::int8_t* x,
    __m256i* acc) {
  if constexpr (codes == Codes::u8) {
    for (int col = 0; col < group; col += 4) {
      const __m256i w = load_32(block + 16 * col);
      for (int m = 0; m < num_rows; ++m) {
        acc[m] = dot_u8(acc[m], w, broadcast_4(x + 4 * m));
      }
      x += 4 * num_rows;
    }
    return;
  }
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i values = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  for (int col = 0; col < group; col += 8) {
    const __m256i both = load_32(block + 8 * col);
    __m256i low = _mm256_and_si256(both, nibble);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
    if constexpr (codes == Codes::fp4) {
      low = _mm256_shuffle_epi8(values, low);
      high = _mm256_shuffle_epi8(values, high);
    }
    for (int m = 0; m < num_rows; ++m) {
      acc[m] = dot_pair(
          acc[m],
          low,
          high,
          broadcast_4(x + 4 * m),
          broadcast_4(x + 4 * (num_rows + m)));
    }
    x += 8 * num_rows;
  }
}

template <Codes codes, int num_rows>
inline void
block_dots(const std::byte* block, int group, const std::int8_t* x, I32* acc) {
  __m256i half[num_rows];
  for (int m = 0; m < num_rows; ++m) {
    half[m] = acc[m].lo;
  }
  half_dots<codes, num_rows>(block, group, x, half);
  for (int m = 0; m < num_rows; ++m) {
    acc[m].lo = half[m];
    half[m] = acc[m].hi;
  }
  half_dots<codes, num_rows>(block + 32, group, x, half);
  for (int m = 0; m < num_rows; ++m) {
    acc[m].hi = half[m];
  }
}

} // namespace avx2 or avxvnni
