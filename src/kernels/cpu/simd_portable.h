// SPDX-License-Identifier: MIT
// Sixteen lanes in plain C++: the meaning of every vector operation. The other
// simd_*.h give the same names the same results, to the bit.
#pragma once

#include <cmath>

#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/types.h"

namespace qwen3_mlx::cpu::portable {

inline constexpr int kLanes = 16;
/// Activation rows that share one pass over a tile.
inline constexpr int kMaxRows = 4;
/// The same where sums are floats.
inline constexpr int kMaxFloatRows = 4;
/// Running sums that the registers may hold at a time.
inline constexpr int kSums = 4;

struct F32 {
  float lane[kLanes];
};
struct I32 {
  std::int32_t lane[kLanes];
};

template <class Function>
inline F32 each(Function function) {
  F32 out;
  for (int idx = 0; idx < kLanes; ++idx) {
    out.lane[idx] = function(idx);
  }
  return out;
}

inline F32 set1(float value) {
  return each([&](int) { return value; });
}
inline F32 load(const float* from) {
  return each([&](int idx) { return from[idx]; });
}
inline F32 load_bf16(const void* from) {
  return each([&](int idx) {
    return load_float(from, Float::bf16, static_cast<std::size_t>(idx));
  });
}
inline F32 load_f16(const void* from) {
  return each([&](int idx) {
    return load_float(from, Float::f16, static_cast<std::size_t>(idx));
  });
}
/// Columns 2n and 2n + 1 of 16 rows from pairs of bfloat16.
inline F32 first_of_pairs(I32 a) {
  return each([&](int idx) {
    return bits_to_float(static_cast<std::uint32_t>(a.lane[idx]) << 16);
  });
}
inline F32 second_of_pairs(I32 a) {
  return each([&](int idx) {
    return bits_to_float(static_cast<std::uint32_t>(a.lane[idx]) & 0xffff0000U);
  });
}
inline void store(float* to, F32 a) {
  for (int idx = 0; idx < kLanes; ++idx) {
    to[idx] = a.lane[idx];
  }
}
inline void store_bf16(void* to, F32 a) {
  for (int idx = 0; idx < kLanes; ++idx) {
    store_float(to, Float::bf16, static_cast<std::size_t>(idx), a.lane[idx]);
  }
}
inline void store_f16(void* to, F32 a) {
  for (int idx = 0; idx < kLanes; ++idx) {
    store_float(to, Float::f16, static_cast<std::size_t>(idx), a.lane[idx]);
  }
}
inline F32 add(F32 a, F32 b) {
  return each([&](int idx) { return a.lane[idx] + b.lane[idx]; });
}
inline F32 sub(F32 a, F32 b) {
  return each([&](int idx) { return a.lane[idx] - b.lane[idx]; });
}
inline F32 mul(F32 a, F32 b) {
  return each([&](int idx) { return a.lane[idx] * b.lane[idx]; });
}
inline F32 div(F32 a, F32 b) {
  return each([&](int idx) { return a.lane[idx] / b.lane[idx]; });
}
/// a * b + c, rounded once.
inline F32 fma(F32 a, F32 b, F32 c) {
  return each([&](int idx) {
    return __builtin_fmaf(a.lane[idx], b.lane[idx], c.lane[idx]);
  });
}
/// sum = fma(a, b, sum), where the sums of a loop keep their registers.
inline void add_product(F32 a, F32 b, F32& sum) {
  sum = fma(a, b, sum);
}
inline F32 max(F32 a, F32 b) {
  return each([&](int idx) {
    return a.lane[idx] > b.lane[idx] ? a.lane[idx] : b.lane[idx];
  });
}
inline F32 min(F32 a, F32 b) {
  return each([&](int idx) {
    return a.lane[idx] < b.lane[idx] ? a.lane[idx] : b.lane[idx];
  });
}
inline F32 abs(F32 a) {
  return each([&](int idx) { return __builtin_fabsf(a.lane[idx]); });
}
/// value where x >= bound, else zero.
inline F32 zero_below(F32 x, float bound, F32 value) {
  return each(
      [&](int idx) { return x.lane[idx] >= bound ? value.lane[idx] : 0.0F; });
}

/// Lane pairs 8 apart, then 4, 2 and 1 apart: the one order of every sum.
inline float sum(F32 a) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    for (int idx = 0; idx < step; ++idx) {
      a.lane[idx] += a.lane[idx + step];
    }
  }
  return a.lane[0];
}
inline float max_lane(F32 a) {
  float best = a.lane[0];
  for (int idx = 1; idx < kLanes; ++idx) {
    best = best > a.lane[idx] ? best : a.lane[idx];
  }
  return best;
}

inline I32 set1_i(std::int32_t value) {
  I32 out;
  for (std::int32_t& lane : out.lane) {
    lane = value;
  }
  return out;
}
inline I32 load_i(const void* from) {
  I32 out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}
inline F32 to_float(I32 a) {
  return each([&](int idx) { return static_cast<float>(a.lane[idx]); });
}
/// Nearest integer, ties to even.
inline I32 round_to_int(F32 a) {
  I32 out;
  for (int idx = 0; idx < kLanes; ++idx) {
    out.lane[idx] = static_cast<std::int32_t>(__builtin_rintf(a.lane[idx]));
  }
  return out;
}
inline I32 add_i(I32 a, I32 b) {
  for (int idx = 0; idx < kLanes; ++idx) {
    a.lane[idx] += b.lane[idx];
  }
  return a;
}
inline std::int32_t sum_i(I32 a) {
  std::int32_t total = 0;
  for (const std::int32_t lane : a.lane) {
    total += lane;
  }
  return total;
}
/// The low bytes of the lanes, which hold -128..127.
inline void store_i8(std::int8_t* to, I32 a) {
  for (int idx = 0; idx < kLanes; ++idx) {
    to[idx] = static_cast<std::int8_t>(a.lane[idx]);
  }
}
/// 2^n for n in -126..127.
inline F32 pow2(I32 n) {
  return each([&](int idx) {
    return bits_to_float(static_cast<std::uint32_t>(n.lane[idx] + 127) << 23);
  });
}
/// (a >> shift) & mask as float.
inline F32 bits_as_float(I32 a, int shift, std::int32_t mask) {
  return each([&](int idx) {
    return static_cast<float>((a.lane[idx] >> shift) & mask);
  });
}
/// table[(a >> shift) & 15].
inline F32 lookup16(const float* entries, I32 a, int shift) {
  return each([&](int idx) { return entries[(a.lane[idx] >> shift) & 15]; });
}

/// What block_dots counts each code as more than its value.
template <Codes codes>
inline constexpr int kCodeOffset = 0;

/// acc[m] lane r += sum over the block's columns of row r's code times x[m].
/// `x` points at the int8 activations of the block's first columns, four of
/// each row after the other.
template <Codes codes, int num_rows>
inline void
block_dots(const std::byte* block, int group, const std::int8_t* x, I32* acc) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(block);
  for (int col = 0; col < group; ++col) {
    for (int row = 0; row < kLanes; ++row) {
      int code;
      if constexpr (codes == Codes::u8) {
        code = bytes[col / 4 * 64 + row * 4 + col % 4];
      } else {
        const int byte = bytes[col / 8 * 64 + row * 4 + col % 4];
        code = col % 8 < 4 ? byte & 15 : byte >> 4;
        if constexpr (codes == Codes::fp4) {
          const std::int8_t value = kFp4Values[code];
          code = value;
        }
      }
      for (int m = 0; m < num_rows; ++m) {
        acc[m].lane[row] += code * x[(col / 4 * num_rows + m) * 4 + col % 4];
      }
    }
  }
}

} // namespace qwen3_mlx::cpu::portable
