// SPDX-License-Identifier: MIT
// The products of persistent_step.cu: a row with a packed matrix, 16 rows of it
// at a time as the first operand of tensor cores.
#pragma once

#include "kernels/cuda/block_codes.cuh"
#include "kernels/cuda/persistent_step.h"
#include "kernels/cuda/warpgroup.cuh"

namespace qwen3_mlx::cuda::persistent {

constexpr int kThreads = kStepWarps * 32;
constexpr int kMaxStages = 8;
// Cells that a warp fetches at once, if they are of one row of blocks.
constexpr int kChunkCells = 2;

template <int Bits, int Group>
struct Form {
  static constexpr int kGroups = kBlockCols / Group;
  static constexpr int kQuarters = 4 / kGroups; // of a group
  static constexpr int kCodeBytes = kBlockRows * kBlockCols / 8 * Bits;
  static constexpr int kBlockBytes = kCodeBytes + kGroups * 32;
  /// First the blocks of the first row, then of the second.
  static constexpr int kChunkBytes = 2 * kChunkCells * kBlockBytes;
};

// Who has left sums of a pair of rows: warps first to last, the first of them
// in `slot`, the others in their first one. Where rows are cut, the block's
// part.
struct PairSums {
  unsigned char first;
  unsigned char last;
  unsigned char slot;
  unsigned char part;
};

// Operands are whole numbers of 16 bits, with a scale for each group of columns
// that weights have a scale for: eight bits, signed, in one column of the
// second operand of tensor cores, and the lower eight in the next one. So codes
// need not become floats, and all sums of products are exact.
struct OperandGroup {
  float scale;
  float sum; // of the elements
};

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// A shape as one block of threads sees it.
struct OwnShape {
  StepShape shape;
  CellRange cells; // of the block
  int first_pair;
  int num_pairs;
  int pair_sums; // where its own begin among PairSums
  // What the shape would have to divide for.
  int col_blocks;
  int run_blocks;
  int matrix_pairs;
};

// A warp's cells of a shape.
struct alignas(16) WarpShare {
  int pair; // of the first one
  int col;
  int run; // cells up to the end of its run
  int count;
};

// The experts of the layer that is at work.
struct Chosen {
  int experts[kMaxStepChosen];
  float shares[kMaxStepChosen]; // of what they give
};

// What all warps of a block of threads know.
struct Shared {
  OwnShape shapes[kMaxStepShapes];
  WarpShare of_warp[kMaxStepShapes][kStepWarps];
  float squares[kStepWarps];
  Chosen chosen;
};

// A product's own part of shared memory, all of it free between phases.
struct ProductRoom {
  uint4* x; // eight columns each: high digits, low digits
  OperandGroup* groups;
  float* partial; // [kStepWarps][slots][kPairRows]

  __device__ __forceinline__ ProductRoom(char* room, int cols, int num_groups) {
    x = reinterpret_cast<uint4*>(room);
    groups = reinterpret_cast<OperandGroup*>(x + cols / 8);
    partial = reinterpret_cast<float*>(groups + num_groups);
  }

  // What lies behind the sums of such a product.
  __device__ __forceinline__ float* behind(const StepShape& shape) const {
    return partial + kStepWarps * shape.slots * kPairRows;
  }
};

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

// The cells of one warp, phase by phase: begun as early as its ring has room,
// for weights depend on nothing but, where there are experts, who was chosen.
template <int Bits, int Group, bool HasExperts>
class Fetcher {
 public:
  using F = Form<Bits, Group>;

  __device__ __forceinline__ Fetcher(
      const StepWeight* weights,
      int num_weights,
      const Shared& shared,
      char* ring,
      std::uint64_t* full,
      int num_stages,
      int warp,
      bool issues)
      : next_(weights), end_(weights + num_weights), shared_(shared),
        ring_(ring), full_(full), num_stages_(num_stages), free_(num_stages),
        warp_(warp), issues_(issues) {}

  // Begins what the ring has room for.
  __device__ __forceinline__ void fill() {
#pragma unroll 1
    while (free_ > 0 && fetch()) {
    }
  }

  // The oldest stage has been read.
  __device__ __forceinline__ void release() {
    ++free_;
    fill();
  }

  // The experts of so many phases are known.
  __device__ __forceinline__ void let_pass(int num_phases) {
    may_pass_ = num_phases;
    fill();
  }

 private:
  // The next cells into the next stage, if there are any.
  __device__ __forceinline__ bool fetch() {
    if (left_ == 0) {
      advance();
      if (left_ == 0) {
        return false;
      }
    }
    const int count = min(min(kChunkCells, left_), run_);
    if (issues_) {
      const auto n_bytes = static_cast<unsigned>(count * F::kBlockBytes);
      char* const to = ring_ + stage_ * F::kChunkBytes;
      arrive_and_expect(full_ + stage_, 2 * n_bytes);
      copy_bulk(to, at_, n_bytes, full_ + stage_);
      copy_bulk(
          to + kChunkCells * F::kBlockBytes,
          at_ + second_,
          n_bytes,
          full_ + stage_);
    }
    --free_;
    stage_ = stage_ + 1 == num_stages_ ? 0 : stage_ + 1;
    left_ -= count;
    run_ -= count;
    at_ += count * F::kBlockBytes;
    if (run_ == 0) {
      next_run();
    }
    return true;
  }

  __device__ __forceinline__ void next_run() {
    if constexpr (HasExperts) {
      if (run_blocks_ != col_blocks_) { // experts beside each other
        col_ += run_blocks_;
        if (col_ == col_blocks_) {
          col_ = 0;
          ++pair_;
        }
        aim(pair_, col_);
        return;
      }
    }
    aim(++pair_, 0);
  }

  // At the block of columns `col`, where a run begins, of a pair of rows.
  __device__ __forceinline__ void aim(int pair, [[maybe_unused]] int col) {
    run_ = run_blocks_;
    const char* matrix = weight_;
    if constexpr (HasExperts) {
      if (expert_bytes_ != 0) {
        int slot = 0;
        if (is_gated_) {
          slot = pair / matrix_pairs_;
          pair -= slot * matrix_pairs_;
        } else {
          slot = col / run_blocks_;
        }
        if (slot < kMaxStepChosen) { // beyond its last cell a warp aims too
          matrix += expert_bytes_ *
              static_cast<std::size_t>(shared_.chosen.experts[slot]);
        }
      }
    }
    const auto row_bytes = static_cast<unsigned>(run_blocks_ * F::kBlockBytes);
    if (is_gated_) {
      at_ = matrix + static_cast<std::size_t>(pair) * row_bytes;
      second_ = static_cast<unsigned>(matrix_pairs_) * row_bytes;
    } else {
      at_ = matrix + static_cast<std::size_t>(2 * pair) * row_bytes;
      // An odd number of rows of blocks: the last one stands in for the next.
      second_ = 2 * pair + 1 < row_blocks_ ? row_bytes : 0;
    }
  }

  __device__ __forceinline__ void advance() {
    while (left_ == 0 && next_ != end_) {
      const OwnShape& own = shared_.shapes[next_->shape];
      if constexpr (HasExperts) {
        if (own.shape.is_chosen()) {
          if (may_pass_ == 0) {
            return;
          }
          --may_pass_;
        }
      }
      const StepWeight next = *next_++;
      const WarpShare share = shared_.of_warp[next.shape][warp_];
      left_ = share.count;
      if (left_ > 0) {
        weight_ = static_cast<const char*>(next.weight);
        row_blocks_ = own.shape.row_blocks();
        is_gated_ = own.shape.is_gated();
        run_blocks_ = own.run_blocks;
        matrix_pairs_ = own.matrix_pairs;
        pair_ = share.pair;
        const int before = run_blocks_ - share.run; // in the run
        if constexpr (HasExperts) {
          expert_bytes_ = own.shape.expert_bytes;
          col_blocks_ = own.col_blocks;
          col_ = share.col - before;
        }
        aim(pair_, col_);
        run_ = share.run;
        at_ += static_cast<unsigned>(before * F::kBlockBytes);
      }
    }
  }

  const StepWeight* next_;
  const StepWeight* end_;
  const Shared& shared_;
  char* ring_;
  std::uint64_t* full_;
  int num_stages_;
  int free_; // stages
  int stage_ = 0;
  int warp_;
  bool issues_;
  const char* weight_ = nullptr;
  const char* at_ = nullptr;
  unsigned second_ = 0;
  int run_blocks_ = 1;
  int run_ = 0; // blocks up to its end
  int matrix_pairs_ = 0;
  int row_blocks_ = 0;
  int pair_ = 0;
  int left_ = 0;
  bool is_gated_ = false;
  // Of experts.
  int may_pass_ = 0;
  std::size_t expert_bytes_ = 0;
  int col_blocks_ = 1;
  int col_ = 0; // where the run begins
};

__device__ __forceinline__ void spread(uint4 words, float (&v)[8]) {
  v[0] = low_bf16(words.x), v[1] = high_bf16(words.x);
  v[2] = low_bf16(words.y), v[3] = high_bf16(words.y);
  v[4] = low_bf16(words.z), v[5] = high_bf16(words.z);
  v[6] = low_bf16(words.w), v[7] = high_bf16(words.w);
}

constexpr float kMostOperand = 32512; // whose high digit is 127
// Added to a whole number below 2^22, it leaves it in the lowest bits.
constexpr float kWhole = 12582912;
constexpr unsigned kWholeBits = 0x4b400000U;

// Of the eight columns of a thread, the one whose digit is byte `i` of operand
// word `idx`: in the order in which codes are.
template <int Bits>
__device__ constexpr int operand_column(int idx, int i) {
  return Bits == 4 ? idx * 2 + i % 2 * 4 + i / 2 : idx * 4 + i;
}

// Puts eight operands into shared memory, and beside them what the group has in
// common.
template <int Bits, int Group>
__device__ __forceinline__ void put_operands(
    const ProductRoom& room,
    int chunk,
    bool exists,
    const float (&v)[8]) {
  float most = 0;
  float sum = 0;
#pragma unroll
  for (const float value : v) {
    most = fmaxf(most, fabsf(value));
    sum += value;
  }
#pragma unroll
  for (int offset = 1; offset < Group / 8; offset *= 2) {
    most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, offset));
    sum += __shfl_xor_sync(0xffffffffU, sum, offset);
  }
  // What is smaller than that is nothing, and has no reciprocal.
  const float factor = most > 1e-30F ? __fdividef(kMostOperand, most) : 0;
  unsigned low[8];
  unsigned high[8]; // in the second byte, rounded
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    low[j] = __float_as_uint(fmaf(v[j], factor, kWhole));
    high[j] = low[j] + 128;
  }
  const auto word = [](const unsigned(&from)[8], int idx, unsigned two) {
    const auto byte_of = [&](int i) {
      return from[operand_column<Bits>(idx, i)];
    };
    return __byte_perm(
        __byte_perm(byte_of(0), byte_of(1), two),
        __byte_perm(byte_of(2), byte_of(3), two),
        0x5410);
  };
  if (exists) {
    room.x[chunk] = make_uint4(
        word(high, 0, 0x51),
        word(high, 1, 0x51),
        word(low, 0, 0x40),
        word(low, 1, 0x40));
    if (chunk % (Group / 8) == 0) {
      room.groups[chunk / (Group / 8)] = {most / kMostOperand, sum};
    }
  }
}

// Eight operands as the numbers they are.
template <int Bits>
__device__ __forceinline__ void
get_operands(uint4 words, float scale, float (&v)[8]) {
#pragma unroll
  for (int idx = 0; idx < 2; ++idx) {
    const auto high = static_cast<int>(idx == 0 ? words.x : words.y);
    const auto low = static_cast<int>(idx == 0 ? words.z : words.w);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto digit = [&](int word) { return word << (24 - 8 * i) >> 24; };
      v[operand_column<Bits>(idx, i)] =
          scale * static_cast<float>(digit(high) * 256 + digit(low));
    }
  }
}

// What a product without a norm reads, as operands: two elements a word. Those
// of experts are multiplied with their shares.
template <int Bits, int Group, bool HasExperts>
__device__ __forceinline__ void read_elements(
    const StepPhase& phase,
    const OwnShape& own,
    [[maybe_unused]] const Chosen& chosen,
    unsigned flag,
    const ProductRoom& room) {
  constexpr int kAtOnce = 3; // chunks of eight a thread
  const int tid = static_cast<int>(threadIdx.x);
  const int chunks = own.shape.cols / 8;
  const int padded = (chunks + 31) / 32 * 32;
#pragma unroll 1
  for (int first = tid; first < padded; first += kAtOnce * kThreads) {
    ulonglong2 words[kAtOnce][2];
    read_until<is_of>(flag, [&] {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int chunk = first + j * kThreads;
        if (chunk < chunks) {
          words[j][0] = get_words(phase.in + chunk * 4);
          words[j][1] = get_words(phase.in + chunk * 4 + 2);
        }
      }
      const FlaggedWord* missing = nullptr;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int chunk = first + j * kThreads;
        if (chunk < chunks) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (!both_are_of(words[j][i], flag)) {
              missing = phase.in + chunk * 4 + i * 2 +
                  (is_of(words[j][i].x, flag) ? 1 : 0);
            }
          }
        }
      }
      return missing;
    });
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int chunk = first + j * kThreads;
      if (chunk < padded) {
        float v[8] = {};
        if (chunk < chunks) {
          spread(
              make_uint4(
                  data_of(words[j][0].x),
                  data_of(words[j][0].y),
                  data_of(words[j][1].x),
                  data_of(words[j][1].y)),
              v);
          if constexpr (HasExperts) {
            if (own.shape.is_chosen()) {
              const float share =
                  chosen.shares[chunk / (own.run_blocks * (kBlockCols / 8))];
#pragma unroll
              for (float& value : v) {
                value *= share;
              }
            }
          }
        }
        put_operands<Bits, Group>(room, chunk, chunk < chunks, v);
      }
    }
  }
  __syncthreads();
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

// Adds the parts `first` and, if it exists, the next one to eight elements.
__device__ __forceinline__ void add_two_parts(
    const StepPhase& phase,
    int first,
    int chunk,
    bool exists,
    unsigned flag,
    float (&v)[8]) {
  const FlaggedWord* const from =
      phase.in + (first * phase.part_length + chunk * 8) / 2;
  const bool has[2] = {exists, exists && first + 1 < phase.num_parts};
  ulonglong2 words[2][2] = {};
  read_until<part_is_of>(flag, [&] {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      if (has[part]) {
        words[part][0] = get_words(from + part * phase.part_length / 2);
        words[part][1] = get_words(from + part * phase.part_length / 2 + 2);
      }
    }
    const FlaggedWord* missing = nullptr;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const ulonglong2 both = words[part][i];
        if (has[part] &&
            !(part_is_of(both.x, flag) && part_is_of(both.y, flag))) {
          missing = from + part * phase.part_length / 2 + i * 2 +
              (part_is_of(both.x, flag) ? 1 : 0);
        }
      }
    }
    return missing;
  });
#pragma unroll
  for (int part = 0; part < 2; ++part) { // what does not exist is zero
    add_part(words[part][0].x, v[0], v[1]);
    add_part(words[part][0].y, v[2], v[3]);
    add_part(words[part][1].x, v[4], v[5]);
    add_part(words[part][1].y, v[6], v[7]);
  }
}

// The residual stream, brought up to date and normed, as operands.
template <int Bits, int Group>
__device__ __forceinline__ void read_stream(
    const StepPhase& phase,
    int cols,
    unsigned flag,
    float* stream,
    float* squares_of, // [kStepWarps]
    const ProductRoom& room) {
  const int tid = static_cast<int>(threadIdx.x);
  const int chunks = cols / 8;
  const int padded = (chunks + 31) / 32 * 32;
  const auto* const norm = static_cast<const uint4*>(phase.norm);
  uint4 norm_words = tid < chunks ? norm[tid] : make_uint4(0, 0, 0, 0);
  float squares = 0;
#pragma unroll 1
  for (int chunk = tid; chunk < padded; chunk += kThreads) {
    const bool exists = chunk < chunks;
    float v[8] = {};
    auto* const own = reinterpret_cast<float4*>(stream + chunk * 8);
    if (exists) {
      if (phase.embedding != nullptr) {
        spread(static_cast<const uint4*>(phase.embedding)[chunk], v);
      } else {
        const float4 a = own[0];
        const float4 b = own[1];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
      }
    }
#pragma unroll 1
    for (int part = 0; part < phase.num_parts; part += 2) {
      add_two_parts(phase, part, chunk, exists, flag, v);
    }
    if (exists) {
      own[0] = make_float4(v[0], v[1], v[2], v[3]);
      own[1] = make_float4(v[4], v[5], v[6], v[7]);
#pragma unroll
      for (const float value : v) {
        squares += value * value;
      }
    }
  }
  squares = warp_sum(squares);
  if (tid % 32 == 0) {
    squares_of[tid / 32] = squares;
  }
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) {
    sum += squares_of[w];
  }
  const float factor = rsqrtf(sum / static_cast<float>(cols) + phase.norm_eps);
#pragma unroll 1
  for (int chunk = tid; chunk < padded; chunk += kThreads) {
    float v[8] = {};
    if (chunk < chunks) {
      if (chunk != tid) {
        norm_words = norm[chunk];
      }
      spread(norm_words, v);
      const auto* const own =
          reinterpret_cast<const float4*>(stream + chunk * 8);
      const float4 a = own[0];
      const float4 b = own[1];
      v[0] *= factor * a.x, v[1] *= factor * a.y;
      v[2] *= factor * a.z, v[3] *= factor * a.w;
      v[4] *= factor * b.x, v[5] *= factor * b.y;
      v[6] *= factor * b.z, v[7] *= factor * b.w;
    }
    put_operands<Bits, Group>(room, chunk, chunk < chunks, v);
  }
  __syncthreads();
}

// The sums of a pair of rows.
struct PairSum {
  float first = 0;
  float second = 0;
};

// What a thread holds of a block, and its codes of one quarter as two words of
// operands.
template <int Bits>
struct CodeWords {
  uint4 words[Bits / 4];

  __device__ __forceinline__ CodeWords(const char* block, unsigned lane) {
#pragma unroll
    for (int i = 0; i < Bits / 4; ++i) {
      words[i] = reinterpret_cast<const uint4*>(block + i * 512)[lane];
    }
  }
  __device__ __forceinline__ uint2 operands(int quarter) const {
    if constexpr (Bits == 4) {
      const unsigned word = word_of(words[0], quarter);
      return {word & 0x0f0f0f0fU, word >> 4 & 0x0f0f0f0fU};
    } else {
      const uint4& four = words[quarter / 2];
      return quarter % 2 == 0 ? uint2{four.x, four.y} : uint2{four.z, four.w};
    }
  }
};

// c = before + codes [16, 32] x digits [32, 8]
__device__ __forceinline__ void multiply_codes(
    unsigned (&c)[4],
    uint2 low,
    uint2 high,
    uint2 digits,
    const unsigned (&before)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(low.x),
        "r"(high.x),
        "r"(low.y),
        "r"(high.y),
        "r"(digits.x),
        "r"(digits.y),
        "r"(before[0]),
        "r"(before[1]),
        "r"(before[2]),
        "r"(before[3]));
}

// Adds neighbouring cells: their blocks, operands, groups of these. Several at
// once, so that one's products hide the time of another's.
template <int Bits, int Group, int Cells>
__device__ __forceinline__ void add_cells(
    const char* first,
    const char* second,
    const uint4* x,
    const OperandGroup* groups,
    PairSum& sum) {
  using F = Form<Bits, Group>;
  const unsigned lane = threadIdx.x % 32;
  const unsigned g = lane / 4;
  // Whole numbers, that much too large: the lowest bits of floats.
  unsigned zeros[4] = {kWholeBits, kWholeBits, kWholeBits, kWholeBits};
  unsigned c[Cells * F::kGroups][4];
  // Even columns of the second operand are high digits, odd ones low.
  const auto* const digits =
      reinterpret_cast<const uint2*>(x) + lane % 4 * 2 + g % 2;
#pragma unroll
  for (int cell = 0; cell < Cells; ++cell) {
    const CodeWords<Bits> low(first + cell * F::kBlockBytes, lane);
    const CodeWords<Bits> high(second + cell * F::kBlockBytes, lane);
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      auto& to = c[cell * F::kGroups + quarter / F::kQuarters];
      multiply_codes(
          to,
          low.operands(quarter),
          high.operands(quarter),
          digits[(cell * 4 + quarter) * 8],
          quarter % F::kQuarters == 0 ? zeros : to);
    }
  }
#pragma unroll
  for (int at = 0; at < Cells * F::kGroups; ++at) {
    const unsigned scales = static_cast<unsigned>(
                                at / F::kGroups * F::kBlockBytes +
                                F::kCodeBytes + at % F::kGroups * 32) +
        g * 4;
    const unsigned of_first =
        *reinterpret_cast<const unsigned*>(first + scales);
    const unsigned of_second =
        *reinterpret_cast<const unsigned*>(second + scales);
    const OperandGroup group = groups[at];
    const auto whole = [](unsigned high, unsigned low) {
      return fmaf(
          __uint_as_float(high) - kWhole, 256, __uint_as_float(low) - kWhole);
    };
    sum.first = fmaf(
        low_bf16(of_first) * group.scale, whole(c[at][0], c[at][1]), sum.first);
    sum.first = fmaf(high_bf16(of_first), group.sum, sum.first);
    sum.second = fmaf(
        low_bf16(of_second) * group.scale,
        whole(c[at][2], c[at][3]),
        sum.second);
    sum.second = fmaf(high_bf16(of_second), group.sum, sum.second);
  }
}

// A warp's cells out of its ring into partial sums.
template <int Bits, int Group, bool HasExperts>
__device__ __forceinline__ void multiply_cells(
    const OwnShape& own,
    const WarpShare& share,
    const ProductRoom& room,
    char* ring,
    std::uint64_t* full,
    int num_stages,
    int& stage,
    unsigned& parity,
    Fetcher<Bits, Group, HasExperts>& fetcher) {
  using F = Form<Bits, Group>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int col_blocks = own.col_blocks;
  const int run_blocks = own.run_blocks;
  int col = share.col;
  int run = share.run;
  int left = share.count;
  float* to = room.partial + warp * own.shape.slots * kPairRows + lane / 4;
  PairSum sum;
  if (left == 0 && lane % 4 == 0) { // others may add what is here
    to[0] = 0;
    to[kBlockRows] = 0;
  }
#pragma unroll 1
  while (left > 0) {
    const int count = min(min(kChunkCells, left), run);
    wait_for(full + stage, parity);
    const char* const blocks = ring + stage * F::kChunkBytes;
    const char* const second = blocks + kChunkCells * F::kBlockBytes;
    const uint4* const x = room.x + col * (kBlockCols / 8);
    const OperandGroup* const groups = room.groups + col * F::kGroups;
    if (count == kChunkCells) {
      add_cells<Bits, Group, kChunkCells>(blocks, second, x, groups, sum);
    } else {
      add_cells<Bits, Group, 1>(blocks, second, x, groups, sum);
    }
    __syncwarp();
    fetcher.release();
    if (++stage == num_stages) {
      stage = 0;
      parity ^= 1U;
    }
    left -= count;
    col += count;
    run -= count;
    if (run == 0) {
      run = run_blocks;
    }
    if (col == col_blocks || left == 0) {
      if (lane % 4 == 0) {
        to[0] = sum.first;
        to[kBlockRows] = sum.second;
      }
      to += kPairRows;
      sum = {};
      col = 0;
    }
  }
}

// Adds up what the warps left, in their order, and hands on the output.
__device__ __forceinline__ void finish_product(
    const StepPhase& phase,
    const OwnShape& own,
    const PairSums* pair_sums,
    const ProductRoom& room,
    unsigned flag,
    void* logits) {
  const int tid = static_cast<int>(threadIdx.x);
  const StepShape& shape = own.shape;
  const bool is_gated = shape.is_gated();
  const int per_pair = is_gated ? kBlockRows : kPairRows;
  const int rows = is_gated ? shape.rows / 2 : shape.rows;
  const int total = own.num_pairs * per_pair;
  const auto* const bias = static_cast<const __nv_bfloat16*>(phase.bias);
#pragma unroll 1
  for (int i = tid; i < (total + 31) / 32 * 32; i += kThreads) {
    const bool exists = i < total;
    const int pair = exists ? is_gated ? i / kBlockRows : i / kPairRows : 0;
    const int row = i % per_pair;
    const int at = (own.first_pair + pair) * per_pair + row;
    const PairSums from = pair_sums[own.pair_sums + pair];
    const int next = shape.slots * kPairRows; // the next warp's
    const float* sums = room.partial + from.first * next + row;
    float value = sums[from.slot * kPairRows];
    float up = is_gated ? sums[from.slot * kPairRows + kBlockRows] : 0;
#pragma unroll 2
    for (int w = from.first + 1; w <= from.last; ++w) {
      sums += next;
      value += sums[0];
      if (is_gated) {
        up += sums[kBlockRows];
      }
    }
    const bool is_row = exists && at < rows;
    if (bias != nullptr && is_row) {
      value += __bfloat162float(bias[at]);
      if (is_gated) {
        up += __bfloat162float(bias[rows + at]);
      }
    }
    switch (shape.output) {
    case StepOutput::plain:
      if (is_row) {
        put_word(phase.out + at, __float_as_uint(value), flag);
      }
      break;
    case StepOutput::logits:
      if (is_row) {
        static_cast<__nv_bfloat16*>(logits)[at] = __float2bfloat16(value);
      }
      break;
    case StepOutput::gated: {
      value = value / (1.0F + __expf(-value)) * up;
      const float other = __shfl_down_sync(0xffffffffU, value, 1);
      if (is_row && at % 2 == 0) {
        put_word(phase.out + at / 2, pack_bf16(value, other), flag);
      }
      break;
    }
    case StepOutput::parts: {
      const float other = __shfl_down_sync(0xffffffffU, value, 1);
      if (exists && at % 2 == 0) {
        const int length = shape.part_length() / 2;
        FlaggedWord* const to = phase.out + at / 2;
        int part = from.part & 0x7f;
        put_part(to + part * length, value, other, flag);
        if ((from.part & 0x80) != 0) { // the last block of the row
          while (++part < shape.num_parts) {
            put_part(to + part * length, 0, 0, flag);
          }
        }
      }
      break;
    }
    }
  }
}

#endif

} // namespace qwen3_mlx::cuda::persistent
