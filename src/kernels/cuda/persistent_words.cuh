// SPDX-License-Identifier: MIT
// How blocks of threads of persistent_step.cu hand words to each other.
#pragma once

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/step_program.h"

namespace qwen3_mlx::cuda::persistent {

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// Words that another block of threads writes: their 64 bits are written and
// read as one, so that nothing else needs to be ordered.
__device__ __forceinline__ void
put_word(FlaggedWord* to, unsigned data, unsigned flag) {
  const FlaggedWord word = static_cast<FlaggedWord>(flag) << 32 | data;
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word)
               : "memory");
}

__device__ __forceinline__ FlaggedWord get_word(const FlaggedWord* from) {
  FlaggedWord word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];"
               : "=l"(word)
               : "l"(from)
               : "memory");
  return word;
}

__device__ __forceinline__ ulonglong2 get_words(const FlaggedWord* from) {
  ulonglong2 words;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(words.x), "=l"(words.y)
               : "l"(from)
               : "memory");
  return words;
}

__device__ __forceinline__ unsigned data_of(FlaggedWord word) {
  return static_cast<unsigned>(word);
}

__device__ __forceinline__ float float_of(FlaggedWord word) {
  return __uint_as_float(data_of(word));
}

__device__ __forceinline__ bool is_of(FlaggedWord word, unsigned flag) {
  return static_cast<unsigned>(word >> 32) == flag;
}

__device__ __forceinline__ bool both_are_of(ulonglong2 words, unsigned flag) {
  return is_of(words.x, flag) && is_of(words.y, flag);
}

// Calls `read` until it returns nullptr instead of a word that is not there
// yet. All lanes take part. One lane of a warp looks out for the word it
// misses: the reads of all, again and again, would take the second cache's time
// from the weights.
template <bool (*IsOf)(FlaggedWord, unsigned), class Read>
__device__ __forceinline__ void read_until(unsigned flag, const Read& read) {
  while (true) {
    const FlaggedWord* const missing = read();
    const unsigned lanes = __ballot_sync(0xffffffffU, missing != nullptr);
    if (lanes == 0) {
      return;
    }
    if (static_cast<int>(threadIdx.x) % 32 ==
        __ffs(static_cast<int>(lanes)) - 1) {
      while (!IsOf(get_word(missing), flag)) {
      }
    }
    __syncwarp();
  }
}

// Parts of the residual stream: two floats a word, of which the last 8 bits are
// left out for 16 bits that tell the phase. Each such word is written in each
// step, so that what it held before is never 65,536 phases old.
__device__ __forceinline__ void
put_part(FlaggedWord* to, float a, float b, unsigned flag) {
  const auto round = [](float value) { // to nearest
    return (__float_as_uint(value) + 0x80U) >> 8;
  };
  const FlaggedWord word = static_cast<FlaggedWord>(round(a)) |
      static_cast<FlaggedWord>(round(b)) << 24 |
      static_cast<FlaggedWord>(flag & 0xffffU) << 48;
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word)
               : "memory");
}

__device__ __forceinline__ bool part_is_of(FlaggedWord word, unsigned flag) {
  return static_cast<unsigned>(word >> 48) == (flag & 0xffffU);
}

__device__ __forceinline__ void add_part(FlaggedWord word, float& a, float& b) {
  a += __uint_as_float(static_cast<unsigned>(word) << 8);
  b += __uint_as_float(static_cast<unsigned>(word >> 24) << 8);
}

#endif

} // namespace qwen3_mlx::cuda::persistent
