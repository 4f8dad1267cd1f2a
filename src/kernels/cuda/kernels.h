// SPDX-License-Identifier: MIT
// The kernels over raw device pointers.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_layout.h"

namespace qwen3_mlx::cuda {

/// MLX's modes of quantization, and the layouts that hold them.
enum class SourceForm : std::uint8_t {
  affine,
  mxfp4, ///< In affine codes of 8 bits, groups of 32, bfloat16.
  mxfp8, ///< CodeForm::e4m3
  nvfp4, ///< CodeForm::e2m1
};

/// A matrix as MLX holds it: codes in 32-bit words, scales and biases by row.
struct SourceMatrix {
  const void* weight = nullptr; ///< The elements if layout.is_plain().
  const void* scales = nullptr;
  const void* biases = nullptr;
  /// Of a code, at most as many as the layout's; 0: as many.
  int bits = 0;
  SourceForm form = SourceForm::affine;
};

/// Whether the kernels were compiled for the GPU at hand.
bool has_code();

/// Puts `num_matrices` matrices of one layout, after each other, into blocks.
void pack(
    const Launcher& launcher,
    const PackedLayout& layout,
    int num_matrices,
    const SourceMatrix& from,
    void* to);

/// The matrix as elements [rows, cols] of `type`.
void unpack(
    const Launcher& launcher,
    const PackedLayout& layout,
    const void* from,
    Float type,
    void* to);

/// Positions in the GPU's memory that a kernel adds one to.
struct Advance {
  int* offsets = nullptr;
  int count = 0;
};

/// What the kernel behind unpack() and gather_rows() takes first; a recorded
/// launch is given other ids through it.
struct UnpackArgs {
  PackedLayout layout;
  const void* from = nullptr;
  const std::uint32_t* ids = nullptr; ///< Rows; nullptr for all.
  Float type = Float::bf16;
  void* to = nullptr;
  Advance advance;
};
inline constexpr const char* unpack_name = "unpack";

/// Rows `ids` [count] as elements [count, cols] of `type`. Ids beyond the
/// matrix read its last row.
void gather_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    const void* from,
    const std::uint32_t* ids,
    int count,
    Float type,
    void* to,
    Advance advance = {});

/// y [n, rows] = x [n, cols] W^T and what is fused with it. The first argument
/// of all kernels that make products, which are named gemv_name.
struct GemvArgs {
  PackedLayout layout;
  const void* weight = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  Float type = Float::bf16;   ///< Of x, y, norm, bias and residual.
  int num_rows = 1;           ///< n
  const void* norm = nullptr; ///< x is normed first, with this weight.
  float norm_eps = 0;
  const void* bias = nullptr;     ///< [rows]
  const void* residual = nullptr; ///< [n, rows], added.
  /// y [n, rows / 2] = silu(first half) * second half.
  bool gated = false;
  /// Row i is multiplied with matrix experts[i] of a stack, and is row
  /// i / rows_per_x of x.
  const std::uint32_t* experts = nullptr;
  int num_experts = 0; ///< Of the stack, if it is one.
  int rows_per_x = 1;
};

inline constexpr const char* gemv_name = "gemv";

/// Rows that gemv() takes at once.
inline constexpr int kMaxGemvRows = 8;

/// Whether gemv() can gate rows of such a matrix: halves of whole blocks.
constexpr bool can_gate(const PackedLayout& layout) {
  return layout.rows % (2 * kBlockRows) == 0;
}

/// Whether a block's shared memory holds a row of such a product.
bool fits_gemv(const Launcher& launcher, const GemvArgs& args);

/// Any number of rows, eight at a time; made for at most that many.
void gemv(const Launcher& launcher, GemvArgs args);

/// Whether gemm() takes such matrices and activations on that GPU.
bool supports_gemm(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type);

/// What gemm() needs besides its arguments.
struct GemmNeeds {
  std::size_t workspace; ///< Floats.
  std::size_t counters;  ///< Zeros, and left so.
};
GemmNeeds gemm_needs(const Launcher& launcher, const GemvArgs& args);

/// The same for more rows, without norm and experts; each row's sum has one
/// order for a given number of rows.
void gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    float* workspace,
    unsigned* counters);

/// Rows, after each other, that one expert takes.
struct ExpertTile {
  unsigned expert;
  int first;
  int count;
};

/// Pairs of a row and an expert, sorted by expert (sort_by_expert()).
struct GroupedRows {
  const ExpertTile* tiles = nullptr;
  const int* num_tiles = nullptr;
  int tile_rows = 32;
  /// Row i of the product is row in_rows[i] / rows_per_x of x, and out_rows[i]
  /// of y; absent: i.
  const int* in_rows = nullptr;
  const int* out_rows = nullptr;
  int rows_per_x = 1;
};

/// Products of sorted rows with a stack of matrices; `args` without norm and
/// experts.
void grouped_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const GroupedRows& grouped);

/// Rows of a tile that suits so many pairs.
int expert_tile_rows(int num_pairs, int num_experts);
/// `wanted` rows of a tile, or fewer where shared memory is short.
int fitting_tile_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    int wanted);
/// Tiles that so many pairs may need.
int max_expert_tiles(int num_pairs, int num_experts, int tile_rows);

/// Pairs in the order of their experts, and in their own where those are equal:
/// `sorted` [num_pairs], tiles, and their number.
void sort_by_expert(
    const Launcher& launcher,
    const std::uint32_t* experts,
    int num_pairs,
    int num_experts,
    int tile_rows,
    int* sorted,
    ExpertTile* tiles,
    int* num_tiles);

/// out [n, cols] = x, normed with that weight.
void rms_norm(
    const Launcher& launcher,
    const void* x,
    const void* weight,
    float eps,
    Float type,
    int n,
    int cols,
    void* out);

/// How a cache keeps keys and values: as elements, or in codes with a scale
/// and a bias for each group of a head's dimensions.
struct KvForm {
  int bits = 0; ///< 0: elements.
  int group = 0;

  bool is_quantized() const {
    return bits != 0;
  }
};

/// Capacities of quantized caches are multiples of that.
inline constexpr int kQuantizedCapacity = 16;

/// Whether the kernels of attention know heads of so many dimensions.
constexpr bool is_supported_head(int head_dim) {
  return head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

/// Whether the kernels know that form, for such heads.
constexpr bool is_supported(const KvForm& kv, int head_dim) {
  return kv.bits == 0 ||
      ((kv.bits == 4 || kv.bits == 8) &&
       (kv.group == 32 || kv.group == 64 || kv.group == 128) &&
       head_dim % kv.group == 0);
}

/// One sequence of a decode step.
struct DecodeSequence {
  void* keys = nullptr; ///< [num_kv_heads, capacity, head_dim]
  void* values = nullptr;
  int capacity = 0;
  int offset = 0; ///< Positions held before this one.
  /// Of codes: [num_kv_heads, capacity, head_dim / group].
  void* key_scales = nullptr;
  void* key_biases = nullptr;
  void* value_scales = nullptr;
  void* value_biases = nullptr;

  bool operator==(const DecodeSequence&) const = default;
};

/// The sequences of a step in the GPU's memory, for launches that are recorded
/// once and run again.
struct DecodeTable {
  const DecodeSequence* sequences = nullptr; ///< Their offsets are not read.
  const int* offsets = nullptr;
  int count = 0;
  int max_splits = 1; ///< At least splits_of() of each sequence.
};

/// Parts in which a sequence of so many positions is looked at.
int splits_of(int length);

struct DecodeAttentionArgs {
  const void* qkv = nullptr; ///< [n, (num_heads + 2 num_kv_heads) head_dim]
  void* out = nullptr;       ///< [n, num_heads * head_dim]
  Float type = Float::bf16;  ///< bf16 or f16; of keys and values too.
  int num_heads = 1;
  int num_kv_heads = 1;
  int head_dim = 128;
  float scale = 1;
  int window = 0; ///< 0: none.
  const void* q_norm = nullptr;
  const void* k_norm = nullptr;
  float norm_eps = 0;
  const float* periods = nullptr; ///< [head_dim / 2]
  float* workspace = nullptr;     ///< decode_workspace() floats.
  unsigned* counters = nullptr;   ///< n * num_kv_heads zeros, and left so.
  KvForm kv;
  int min_split = 0; ///< Positions of a split; set by decode_attention().
};

/// Of launches whose first argument are DecodeAttentionArgs.
inline constexpr const char* attention_name = "attention";

bool supports_decode(
    Float type,
    int num_heads,
    int num_kv_heads,
    int head_dim,
    const KvForm& kv = {});

/// Floats of workspace for those sequences.
std::size_t decode_workspace(
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences);

std::size_t
decode_workspace(const DecodeAttentionArgs& args, int count, int max_splits);

/// Norms and rotates a new query and key of each sequence, appends key and
/// value, and attends.
void decode_attention(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences);
void decode_attention(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeTable& table);

/// What the kernel behind route() takes first.
struct RouteArgs {
  const void* logits = nullptr; ///< [n, num_experts]
  Float type = Float::bf16;
  int num_experts = 0;
  int k = 0;
  bool normalize = false;
  std::uint32_t* experts = nullptr; ///< [n, k]
  float* weights = nullptr;         ///< [n, k]
};
inline constexpr const char* route_name = "route";

/// The k most probable of `num_experts` experts for each row of logits, in
/// descending order, with their softmax over all, divided by its sum over the k
/// if `normalize`.
void route(const Launcher& launcher, const RouteArgs& args, int n);

/// What the kernel behind weighted_sum() takes first.
struct WeightedSumArgs {
  const void* residual = nullptr; ///< [n, cols]
  const void* parts = nullptr;    ///< [n, k, cols]
  const float* weights = nullptr; ///< [n, k]
  Float type = Float::bf16;
  int k = 0;
  int cols = 0;
  void* out = nullptr; ///< [n, cols]
};
inline constexpr const char* weighted_sum_name = "weighted_sum";

/// out = residual + sum over k of weights * parts
void weighted_sum(const Launcher& launcher, const WeightedSumArgs& args, int n);

} // namespace qwen3_mlx::cuda
