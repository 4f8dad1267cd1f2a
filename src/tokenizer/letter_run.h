// SPDX-License-Identifier: MIT
// Counting ASCII letters 16 bytes at a time, with what every x86-64 and every
// arm64 has.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace qwen3_mlx {

inline bool is_ascii_letter(char value) {
  return static_cast<std::uint8_t>((value | 0x20) - 'a') < 26;
}

/// Position of the first byte from `pos` on that is not an ASCII letter, or
/// `end`.
inline std::size_t
skip_ascii_letters(const char* text, std::size_t pos, std::size_t end) {
#if defined(__SSE2__)
  while (pos + 16 <= end) {
    const __m128i bytes =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + pos));
    const __m128i lower = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
    // Moves a..z to the lowest 26 signed values: one comparison.
    const __m128i shifted =
        _mm_sub_epi8(lower, _mm_set1_epi8(static_cast<char>('a' + 128)));
    const __m128i letters =
        _mm_cmplt_epi8(shifted, _mm_set1_epi8(static_cast<char>(-128 + 26)));
    const auto others =
        static_cast<std::uint32_t>(_mm_movemask_epi8(letters)) ^ 0xFFFFu;
    if (others != 0) {
      return pos + static_cast<std::size_t>(std::countr_zero(others));
    }
    pos += 16;
  }
#elif defined(__ARM_NEON) && defined(__aarch64__)
  while (pos + 16 <= end) {
    const uint8x16_t bytes =
        vld1q_u8(reinterpret_cast<const std::uint8_t*>(text + pos));
    const uint8x16_t lower = vorrq_u8(bytes, vdupq_n_u8(0x20));
    const uint8x16_t others =
        vcgeq_u8(vsubq_u8(lower, vdupq_n_u8('a')), vdupq_n_u8(26));
    // Four bits a byte: there is no movemask.
    const std::uint64_t mask = vget_lane_u64(
        vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(others), 4)), 0);
    if (mask != 0) {
      return pos + static_cast<std::size_t>(std::countr_zero(mask)) / 4;
    }
    pos += 16;
  }
#endif
  while (pos < end && is_ascii_letter(text[pos])) {
    ++pos;
  }
  return pos;
}

} // namespace qwen3_mlx
