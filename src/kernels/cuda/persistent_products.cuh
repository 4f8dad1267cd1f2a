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

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// A shape as one block of threads sees it.
struct OwnShape {
  StepShape shape;
  CellRange cells; // of the block
  int first_pair;
  int num_pairs;
  int pair_sums; // where its own begin among PairSums
};

// The experts of the layer that is at work.
struct Chosen {
  int experts[kMaxStepChosen];
  float shares[kMaxStepChosen]; // of what they give
};

// What all warps of a block of threads know.
struct Shared {
  OwnShape shapes[kMaxStepShapes];
  CellRange of_warp[kMaxStepShapes][kStepWarps];
  float squares[kStepWarps];
  Chosen chosen;
};

// A product's own part of shared memory, all of it free between phases.
struct ProductRoom {
  __half* x;
  float* group_sums;
  float* partial; // [kStepWarps][slots][kPairRows]

  __device__ __forceinline__ ProductRoom(char* room, int cols, int groups) {
    x = reinterpret_cast<__half*>(room);
    group_sums = reinterpret_cast<float*>(x + cols);
    partial = group_sums + groups;
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
      const StepShape& shape = shared_.shapes[next_->shape].shape;
      if constexpr (HasExperts) {
        if (shape.is_chosen()) {
          if (may_pass_ == 0) {
            return;
          }
          --may_pass_;
        }
      }
      const StepWeight next = *next_++;
      const CellRange cells = shared_.of_warp[next.shape][warp_];
      left_ = cells.end - cells.begin;
      if (left_ > 0) {
        weight_ = static_cast<const char*>(next.weight);
        row_blocks_ = shape.row_blocks();
        is_gated_ = shape.is_gated();
        run_blocks_ = shape.run_blocks();
        matrix_pairs_ = shape.matrix_pairs();
        const int col_blocks = shape.col_blocks();
        pair_ = cells.begin / col_blocks;
        int col = cells.begin - pair_ * col_blocks;
        if constexpr (HasExperts) {
          expert_bytes_ = shape.expert_bytes;
          col_blocks_ = col_blocks;
          col_ = col / run_blocks_ * run_blocks_;
          aim(pair_, col_);
          col -= col_;
        } else {
          aim(pair_, 0);
        }
        run_ -= col;
        at_ += static_cast<unsigned>(col * F::kBlockBytes);
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

// Operands are float16, which holds what is normed, and all that bfloat16 does
// of what is not, as long as it is scaled: what comes out of attention and of
// SwiGLU lies in [2^-18, 2^21], or does not matter beside what does.
constexpr float kScaled = 1.0F / 64;

// Puts eight operands into shared memory and the sums of groups beside them.
template <int Group>
__device__ __forceinline__ void put_operands(
    const ProductRoom& room,
    int chunk,
    bool exists,
    const float (&v)[8]) {
  unsigned pairs[4];
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const __half2 pair = __floats2half2_rn(v[2 * j], v[2 * j + 1]);
    pairs[j] = *reinterpret_cast<const unsigned*>(&pair);
    // Rounded as they are: what codes have too much must cancel.
    sum += low_half(pairs[j]) + high_half(pairs[j]);
  }
#pragma unroll
  for (int offset = 1; offset < Group / 8; offset *= 2) {
    sum += __shfl_xor_sync(0xffffffffU, sum, offset);
  }
  if (exists) {
    reinterpret_cast<uint4*>(room.x)[chunk] =
        make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    if (chunk % (Group / 8) == 0) {
      room.group_sums[chunk / (Group / 8)] = sum;
    }
  }
}

// What a product without a norm reads, as operands: two elements a word. Those
// of experts are multiplied with their shares.
template <int Group, bool HasExperts>
__device__ __forceinline__ void read_elements(
    const StepPhase& phase,
    const StepShape& shape,
    [[maybe_unused]] const Chosen& chosen,
    unsigned flag,
    const ProductRoom& room) {
  constexpr int kAtOnce = 3; // chunks of eight a thread
  const int tid = static_cast<int>(threadIdx.x);
  const int chunks = shape.cols / 8;
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
          float factor = kScaled;
          if constexpr (HasExperts) {
            if (shape.is_chosen()) {
              factor *=
                  chosen.shares[chunk / (shape.run_blocks() * kBlockCols / 8)];
            }
          }
#pragma unroll
          for (float& value : v) {
            value *= factor;
          }
        }
        put_operands<Group>(room, chunk, chunk < chunks, v);
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
template <int Group>
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
    put_operands<Group>(room, chunk, chunk < chunks, v);
  }
  __syncthreads();
}

// The sums of a pair of rows.
struct PairSum {
  float first = 0;
  float second = 0;
};

// Adds neighbouring cells: their blocks, operands, sums of groups. Several at
// once, so that one's products hide the time of another's.
template <int Bits, int Group, int Cells>
__device__ __forceinline__ void add_cells(
    const char* first,
    const char* second,
    const __half* x,
    const float* group_sums,
    PairSum& sum) {
  using F = Form<Bits, Group>;
  constexpr float kOffset = 1024;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  float c[Cells * F::kGroups][4] = {};
  float d[Cells * F::kGroups][4] = {};
#pragma unroll
  for (int cell = 0; cell < Cells; ++cell) {
    const Codes<Bits, true> low(first + cell * F::kBlockBytes, lane);
    const Codes<Bits, true> high(second + cell * F::kBlockBytes, lane);
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int at = cell * F::kGroups + quarter / F::kQuarters;
      const uint4 b = *reinterpret_cast<const uint4*>(
          x + cell * kBlockCols + quarter * 32 + lane % 4 * 8);
      unsigned a0[4];
      unsigned a1[4];
      low.operands(quarter, a0);
      high.operands(quarter, a1);
      multiply_add_half(c[at], a0[0], a1[0], a0[1], a1[1], b.x, b.y);
      multiply_add_half(d[at], a0[2], a1[2], a0[3], a1[3], b.z, b.w);
    }
  }
#pragma unroll
  for (int at = 0; at < Cells * F::kGroups; ++at) {
    const int scales = at / F::kGroups * F::kBlockBytes + F::kCodeBytes +
        at % F::kGroups * 32 + g * 4;
    const unsigned of_first =
        *reinterpret_cast<const unsigned*>(first + scales);
    const unsigned of_second =
        *reinterpret_cast<const unsigned*>(second + scales);
    const float x_sum = group_sums[at];
    const float too_much = -kOffset * x_sum;
    sum.first =
        fmaf(low_bf16(of_first), c[at][0] + d[at][0] + too_much, sum.first);
    sum.first = fmaf(high_bf16(of_first), x_sum, sum.first);
    sum.second =
        fmaf(low_bf16(of_second), c[at][2] + d[at][2] + too_much, sum.second);
    sum.second = fmaf(high_bf16(of_second), x_sum, sum.second);
  }
}

// A warp's cells out of its ring into partial sums.
template <int Bits, int Group, bool HasExperts>
__device__ __forceinline__ void multiply_cells(
    const StepShape& shape,
    CellRange cells,
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
  const int col_blocks = shape.col_blocks();
  const int run_blocks = HasExperts ? shape.run_blocks() : col_blocks;
  int col = cells.begin % col_blocks;
  int run = run_blocks - (HasExperts ? col % run_blocks : col);
  int left = cells.end - cells.begin;
  float* to = room.partial + warp * shape.slots * kPairRows + lane / 4;
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
    const __half* const x = room.x + col * kBlockCols;
    const float* const group_sums = room.group_sums + col * F::kGroups;
    if (count == kChunkCells) {
      add_cells<Bits, Group, kChunkCells>(blocks, second, x, group_sums, sum);
    } else {
      add_cells<Bits, Group, 1>(blocks, second, x, group_sums, sum);
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
    if (phase.norm == nullptr) {
      value *= 1 / kScaled;
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
