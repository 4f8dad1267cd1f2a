// SPDX-License-Identifier: MIT
// One decode step's attention: norm, rotation, append and the look at the
// cache, one new position of each sequence.
//
// Blocks of threads are (split of the positions, key head, sequence). Warps
// meet in shared memory, splits in a workspace, where the last one to arrive
// adds all up in order. How positions are split depends on the sequence's own
// length and on whether there are few or many sequences, and so does every sum.
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

// Positions that a split is to have: more of them where heads of sequences are
// half as many as multiprocessors, so that fewer splits meet.
int min_split_of(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    std::size_t count) {
  constexpr int kWideSplit = 256;
  const auto heads = static_cast<int>(count) * args.num_kv_heads;
  return args.kv.is_quantized() || 2 * heads < launcher.num_sms ? kMinSplit
                                                                : kWideSplit;
}

// What at most `splits` splits of kMinSplit positions or more come to. Beyond
// half of the most, splits have more positions already.
int wider(int splits, int min_split) {
  return splits > kMaxSplits / 2
      ? splits
      : (splits * kMinSplit + min_split - 1) / min_split;
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
  DecodeAttentionArgs with_split = args;
  with_split.min_split = min_split_of(launcher, args, sequences.size());
  start(
      launcher,
      with_split,
      {.given = sequences,
       .max_splits =
           wider(most_splits(args, sequences), with_split.min_split)});
}

void decode_attention(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeTable& table) {
  DecodeAttentionArgs with_split = args;
  with_split.min_split =
      min_split_of(launcher, args, static_cast<std::size_t>(table.count));
  start(
      launcher,
      with_split,
      {.table = &table,
       .max_splits = wider(table.max_splits, with_split.min_split)});
}

} // namespace qwen3_mlx::cuda
