// SPDX-License-Identifier: MIT
// One decode step's attention: norm, rotation, append and the look at the
// cache, one new position of each sequence.
//
// Blocks of threads are (split of the positions, key head, sequence). Warps
// meet in shared memory, splits in a workspace, where the last one to arrive
// adds all up in order. How positions are split depends on the sequence's own
// length alone, and so does every sum.
#include <algorithm>

#include "kernels/cuda/decode_launch.h"

namespace qwen3_mlx::cuda {
namespace {

int most_splits(
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences) {
  int most = 1;
  for (const auto& sequence : sequences) {
    int length = sequence.offset + 1;
    if (args.window > 0) {
      length = std::min(length, args.window);
    }
    most = std::max(most, splits_of(length));
  }
  return most;
}

void start(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences) {
  if (args.kv.is_quantized()) {
    start_quantized_decode(launcher, args, sequences);
  } else {
    start_plain_decode(launcher, args, sequences);
  }
}

bool shares_heads(int num_heads, int num_kv_heads, int most) {
  return num_kv_heads > 0 && num_heads % num_kv_heads == 0 &&
      num_heads / num_kv_heads <= most;
}

} // namespace

bool supports_decode(
    Float type,
    int num_heads,
    int num_kv_heads,
    int head_dim,
    const KvForm& kv) {
  const int most = kv.is_quantized() ? kQuantizedHeads : kPlainHeads;
  return type != Float::f32 && is_supported_head(head_dim) &&
      shares_heads(num_heads, num_kv_heads, most) && is_supported(kv, head_dim);
}

int splits_of(int length) {
  const int size = split_size(length);
  return (length + size - 1) / size;
}

std::size_t
decode_workspace(const DecodeAttentionArgs& args, int count, int max_splits) {
  return static_cast<std::size_t>(count) *
      static_cast<std::size_t>(args.num_heads) *
      static_cast<std::size_t>(max_splits) *
      static_cast<std::size_t>(args.head_dim + 4);
}

std::size_t decode_workspace(
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences) {
  return decode_workspace(
      args, static_cast<int>(sequences.size()), most_splits(args, sequences));
}

void decode_attention(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences) {
  start(
      launcher,
      args,
      {.given = sequences, .max_splits = most_splits(args, sequences)});
}

void decode_attention(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeTable& table) {
  start(launcher, args, {.table = &table, .max_splits = table.max_splits});
}

} // namespace qwen3_mlx::cuda
