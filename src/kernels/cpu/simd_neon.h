// SPDX-License-Identifier: MIT
// Sixteen lanes in four NEON registers, int8 dot products with the dotprod
// extension. Compiled twice: in namespace neon_i8mm two rows of activations
// meet weights by the matrix products of the i8mm extension. See
// simd_portable.h for what each operation means.
#pragma once

#include <arm_neon.h>

#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/types.h"

#ifdef __ARM_FEATURE_MATMUL_INT8
namespace qwen3_mlx::cpu::neon_i8mm {
#else
namespace qwen3_mlx::cpu::neon {
#endif

inline constexpr int kLanes = 16;
inline constexpr int kMaxRows = 4;
// 24 registers of sums, four weights and one broadcast.
inline constexpr int kMaxFloatRows = 6;
// Running sums (four registers each) that fit beside their factors.
inline constexpr int kSums = 6;

struct F32 {
  float32x4_t q[4];
};
struct I32 {
  int32x4_t q[4];
};

template <class Function>
inline F32 each(Function function) {
  return {{function(0), function(1), function(2), function(3)}};
}

inline F32 set1(float value) {
  return each([&](int) { return vdupq_n_f32(value); });
}
inline F32 load(const float* from) {
  return each([&](int idx) { return vld1q_f32(from + 4 * idx); });
}
inline F32 load_bf16(const void* from) {
  const auto* in = static_cast<const std::uint8_t*>(from);
  return each([&](int idx) {
    const uint16x4_t bits = vreinterpret_u16_u8(vld1_u8(in + 8 * idx));
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
  });
}
inline F32 load_f16(const void* from) {
  const auto* in = static_cast<const std::uint8_t*>(from);
  return each([&](int idx) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(in + 8 * idx)));
  });
}
inline F32 first_of_pairs(I32 a) {
  return each([&](int idx) {
    return vreinterpretq_f32_s32(vshlq_n_s32(a.q[idx], 16));
  });
}
inline F32 second_of_pairs(I32 a) {
  return each([&](int idx) {
    return vreinterpretq_f32_s32(vandq_s32(a.q[idx], vdupq_n_s32(-0x10000)));
  });
}
inline void store(float* to, F32 a) {
  for (int idx = 0; idx < 4; ++idx) {
    vst1q_f32(to + 4 * idx, a.q[idx]);
  }
}
inline void store_bf16(void* to, F32 a) {
  auto* out = static_cast<std::uint8_t*>(to);
  for (int idx = 0; idx < 4; ++idx) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a.q[idx]);
    const uint32x4_t high = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
    const uint32x4_t rounded =
        vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    const uint32x4_t nan = vorrq_u32(high, vdupq_n_u32(0x40));
    const uint32x4_t is_number = vceqq_f32(a.q[idx], a.q[idx]);
    vst1_u8(
        out + 8 * idx,
        vreinterpret_u8_u16(vmovn_u32(vbslq_u32(is_number, rounded, nan))));
  }
}
inline void store_f16(void* to, F32 a) {
  auto* out = static_cast<std::uint8_t*>(to);
  for (int idx = 0; idx < 4; ++idx) {
    vst1_u8(out + 8 * idx, vreinterpret_u8_f16(vcvt_f16_f32(a.q[idx])));
  }
}
inline F32 add(F32 a, F32 b) {
  return each([&](int idx) { return vaddq_f32(a.q[idx], b.q[idx]); });
}
inline F32 sub(F32 a, F32 b) {
  return each([&](int idx) { return vsubq_f32(a.q[idx], b.q[idx]); });
}
inline F32 mul(F32 a, F32 b) {
  return each([&](int idx) { return vmulq_f32(a.q[idx], b.q[idx]); });
}
inline F32 div(F32 a, F32 b) {
  return each([&](int idx) { return vdivq_f32(a.q[idx], b.q[idx]); });
}
inline F32 fma(F32 a, F32 b, F32 c) {
  return each([&](int idx) { return vfmaq_f32(c.q[idx], a.q[idx], b.q[idx]); });
}
inline void add_product(F32 a, F32 b, F32& sum) {
  sum = fma(a, b, sum);
}
inline F32 max(F32 a, F32 b) {
  return each([&](int idx) { return vmaxq_f32(a.q[idx], b.q[idx]); });
}
inline F32 min(F32 a, F32 b) {
  return each([&](int idx) { return vminq_f32(a.q[idx], b.q[idx]); });
}
inline F32 abs(F32 a) {
  return each([&](int idx) { return vabsq_f32(a.q[idx]); });
}
inline F32 zero_below(F32 x, float bound, F32 value) {
  return each([&](int idx) {
    return vreinterpretq_f32_u32(vandq_u32(
        vcgeq_f32(x.q[idx], vdupq_n_f32(bound)),
        vreinterpretq_u32_f32(value.q[idx])));
  });
}

inline float32x4_t sum_to_4(F32 a) {
  return vaddq_f32(vaddq_f32(a.q[0], a.q[2]), vaddq_f32(a.q[1], a.q[3]));
}
inline float sum(F32 a) {
  const float32x4_t four = sum_to_4(a);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float max_lane(F32 a) {
  return vmaxvq_f32(
      vmaxq_f32(vmaxq_f32(a.q[0], a.q[1]), vmaxq_f32(a.q[2], a.q[3])));
}

inline I32 set1_i(std::int32_t value) {
  const int32x4_t v = vdupq_n_s32(value);
  return {{v, v, v, v}};
}
inline I32 load_i(const void* from) {
  const auto* in = static_cast<const std::uint8_t*>(from);
  I32 out;
  for (int idx = 0; idx < 4; ++idx) {
    out.q[idx] = vreinterpretq_s32_u8(vld1q_u8(in + 16 * idx));
  }
  return out;
}
inline F32 to_float(I32 a) {
  return each([&](int idx) { return vcvtq_f32_s32(a.q[idx]); });
}
inline I32 round_to_int(F32 a) {
  I32 out;
  for (int idx = 0; idx < 4; ++idx) {
    out.q[idx] = vcvtnq_s32_f32(a.q[idx]);
  }
  return out;
}
inline I32 add_i(I32 a, I32 b) {
  for (int idx = 0; idx < 4; ++idx) {
    a.q[idx] = vaddq_s32(a.q[idx], b.q[idx]);
  }
  return a;
}
inline std::int32_t sum_i(I32 a) {
  return vaddvq_s32(
      vaddq_s32(vaddq_s32(a.q[0], a.q[1]), vaddq_s32(a.q[2], a.q[3])));
}
inline void store_i8(std::int8_t* to, I32 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.q[0]), vmovn_s32(a.q[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.q[2]), vmovn_s32(a.q[3]));
  vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
inline F32 pow2(I32 n) {
  return each([&](int idx) {
    return vreinterpretq_f32_s32(
        vshlq_n_s32(vaddq_s32(n.q[idx], vdupq_n_s32(127)), 23));
  });
}
inline int32x4_t shift_and(int32x4_t a, int shift, std::int32_t mask) {
  const uint32x4_t shifted =
      vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-shift));
  return vandq_s32(vreinterpretq_s32_u32(shifted), vdupq_n_s32(mask));
}
inline F32 bits_as_float(I32 a, int shift, std::int32_t mask) {
  return each(
      [&](int idx) { return vcvtq_f32_s32(shift_and(a.q[idx], shift, mask)); });
}
inline F32 lookup16(const float* entries, I32 a, int shift) {
  return each([&](int idx) {
    alignas(16) std::int32_t at[4];
    vst1q_s32(at, shift_and(a.q[idx], shift, 15));
    const float values[4] = {
        entries[at[0]], entries[at[1]], entries[at[2]], entries[at[3]]};
    return vld1q_f32(values);
  });
}

// The instruction multiplies signed bytes: whole bytes go in 128 too small.
template <Codes codes>
inline constexpr int kCodeOffset = codes == Codes::u8 ? -128 : 0;

inline int8x16_t broadcast_4(const std::int8_t* x) {
  std::int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

template <Codes codes, int num_rows>
inline void
lane_dots(const std::byte* block, int group, const std::int8_t* x, I32* acc) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(block);
  if constexpr (codes == Codes::u8) {
    for (int col = 0; col < group; col += 4) {
      for (int idx = 0; idx < 4; ++idx) {
        const int8x16_t w = vreinterpretq_s8_u8(
            veorq_u8(vld1q_u8(bytes + 16 * col + 16 * idx), vdupq_n_u8(0x80)));
        for (int m = 0; m < num_rows; ++m) {
          acc[m].q[idx] = vdotq_s32(acc[m].q[idx], w, broadcast_4(x + 4 * m));
        }
      }
      x += 4 * num_rows;
    }
    return;
  }
  const int8x16_t values = vld1q_s8(kFp4Values);
  for (int col = 0; col < group; col += 8) {
    for (int idx = 0; idx < 4; ++idx) {
      const uint8x16_t both = vld1q_u8(bytes + 8 * col + 16 * idx);
      const uint8x16_t low_codes = vandq_u8(both, vdupq_n_u8(15));
      const uint8x16_t high_codes = vshrq_n_u8(both, 4);
      int8x16_t low = vreinterpretq_s8_u8(low_codes);
      int8x16_t high = vreinterpretq_s8_u8(high_codes);
      if constexpr (codes == Codes::fp4) {
        low = vqtbl1q_s8(values, low_codes);
        high = vqtbl1q_s8(values, high_codes);
      }
      for (int m = 0; m < num_rows; ++m) {
        acc[m].q[idx] = vdotq_s32(acc[m].q[idx], low, broadcast_4(x + 4 * m));
        acc[m].q[idx] =
            vdotq_s32(acc[m].q[idx], high, broadcast_4(x + 4 * (num_rows + m)));
      }
    }
    x += 8 * num_rows;
  }
}

#ifdef __ARM_FEATURE_MATMUL_INT8
// Codes of 8 columns of four weight rows: rows 0 and 1, rows 2 and 3.
struct RowPairs {
  int8x16_t first;
  int8x16_t second;
};
inline RowPairs pair_rows(int8x16_t cols_0_to_3, int8x16_t cols_4_to_7) {
  const int32x4_t low = vreinterpretq_s32_s8(cols_0_to_3);
  const int32x4_t high = vreinterpretq_s32_s8(cols_4_to_7);
  return {
      vreinterpretq_s8_s32(vzip1q_s32(low, high)),
      vreinterpretq_s8_s32(vzip2q_s32(low, high))};
}

// Codes of 8 columns of weight rows [4 * idx, 4 * idx + 4), where a block's
// codes of these columns begin at `bytes`.
template <Codes codes>
inline RowPairs load_row_pairs(const std::uint8_t* bytes, int idx) {
  if constexpr (codes == Codes::u8) {
    const uint8x16_t flip = vdupq_n_u8(0x80);
    return pair_rows(
        vreinterpretq_s8_u8(veorq_u8(vld1q_u8(bytes + 16 * idx), flip)),
        vreinterpretq_s8_u8(veorq_u8(vld1q_u8(bytes + 64 + 16 * idx), flip)));
  }
  const uint8x16_t both = vld1q_u8(bytes + 16 * idx);
  const uint8x16_t low = vandq_u8(both, vdupq_n_u8(15));
  const uint8x16_t high = vshrq_n_u8(both, 4);
  if constexpr (codes == Codes::fp4) {
    const int8x16_t values = vld1q_s8(kFp4Values);
    return pair_rows(vqtbl1q_s8(values, low), vqtbl1q_s8(values, high));
  }
  return pair_rows(vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high));
}

// Sums of two rows of activations at a time: of weight rows 2 i and 2 i + 1
// with both, [w0 x0, w0 x1, w1 x0, w1 x1].
template <Codes codes, int num_rows>
inline void
pair_dots(const std::byte* block, int group, const std::int8_t* x, I32* acc) {
  int32x4_t sums[num_rows / 2][8];
  for (int pair = 0; pair < num_rows / 2; ++pair) {
    for (int idx = 0; idx < 4; ++idx) {
      const int32x4_t even = acc[2 * pair].q[idx];
      const int32x4_t odd = acc[2 * pair + 1].q[idx];
      sums[pair][2 * idx] = vzip1q_s32(even, odd);
      sums[pair][2 * idx + 1] = vzip2q_s32(even, odd);
    }
  }
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(block);
  for (int col = 0; col < group; col += 8) {
    int8x16_t rows[num_rows / 2];
    for (int pair = 0; pair < num_rows / 2; ++pair) {
      const int32x2_t low =
          vreinterpret_s32_s8(vld1_s8(x + 8 * pair)); // columns 0 to 3
      const int32x2_t high =
          vreinterpret_s32_s8(vld1_s8(x + 4 * num_rows + 8 * pair));
      rows[pair] = vreinterpretq_s8_s32(
          vcombine_s32(vzip1_s32(low, high), vzip2_s32(low, high)));
    }
    for (int idx = 0; idx < 4; ++idx) {
      const RowPairs weights = load_row_pairs<codes>(bytes, idx);
      for (int pair = 0; pair < num_rows / 2; ++pair) {
        int32x4_t* const of_pair = sums[pair] + 2 * idx;
        of_pair[0] = vmmlaq_s32(of_pair[0], weights.first, rows[pair]);
        of_pair[1] = vmmlaq_s32(of_pair[1], weights.second, rows[pair]);
      }
    }
    bytes += codes == Codes::u8 ? 128 : 64;
    x += 8 * num_rows;
  }
  for (int pair = 0; pair < num_rows / 2; ++pair) {
    for (int idx = 0; idx < 4; ++idx) {
      const int32x4_t first = sums[pair][2 * idx];
      const int32x4_t second = sums[pair][2 * idx + 1];
      acc[2 * pair].q[idx] = vuzp1q_s32(first, second);
      acc[2 * pair + 1].q[idx] = vuzp2q_s32(first, second);
    }
  }
}
#endif

template <Codes codes, int num_rows>
inline void
block_dots(const std::byte* block, int group, const std::int8_t* x, I32* acc) {
#ifdef __ARM_FEATURE_MATMUL_INT8
  if constexpr (num_rows % 2 == 0) { // else the last has no partner
    return pair_dots<codes, num_rows>(block, group, x, acc);
  }
#endif
  lane_dots<codes, num_rows>(block, group, x, acc);
}

} // namespace qwen3_mlx::cpu::neon or neon_i8mm
