// SPDX-License-Identifier: MIT
#include "kernels/cpu/kv_blocks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/huge_pages.h"

namespace qwen3_mlx::cpu {

namespace {

// Blocks of a sequence that come first: 256 positions.
constexpr std::size_t kFirstChunkBlocks = 4;

struct Extent {
  std::size_t rows;
  std::size_t cols;
};

// to[col][row] = from[row][col]; strides are from row to row, in elements.
void transpose(
    const std::byte* from,
    std::size_t from_stride,
    std::byte* to,
    std::size_t to_stride,
    const Extent& extent,
    std::size_t element_size) {
  for (std::size_t row = 0; row < extent.rows; ++row) {
    for (std::size_t col = 0; col < extent.cols; ++col) {
      std::memcpy(
          to + (col * to_stride + row) * element_size,
          from + (row * from_stride + col) * element_size,
          element_size);
    }
  }
}

enum class Direction { save, load };

// Positions [first, first + count) of a block, and the row of dense arrays that
// is the first of them.
struct Run {
  std::size_t first;
  std::size_t count;
  std::size_t row;
};

void copy_bits(
    const std::byte* from,
    int from_shift,
    std::byte* to,
    int to_shift,
    int bits) {
  const unsigned mask = (1U << bits) - 1;
  const unsigned code = (std::to_integer<unsigned>(*from) >> from_shift) & mask;
  *to = (*to & static_cast<std::byte>(~(mask << to_shift))) |
      static_cast<std::byte>(code << to_shift);
}

// One position of a quantized head; place_of(dim) is where a code lies.
template <Direction direction, class PlaceOf>
void copy_position(
    const KvShape& shape,
    std::byte* head,
    int position,
    std::size_t row,
    const KvArrays& arrays,
    PlaceOf&& place_of) {
  std::byte* const codes = arrays.data +
      row * static_cast<std::size_t>(shape.head_dim * shape.bits / 8);
  for (int dim = 0; dim < shape.head_dim; ++dim) {
    const CodePlace place = place_of(dim);
    std::byte* const dense = codes + dim * shape.bits / 8;
    const int shift = dim * shape.bits % 8;
    if constexpr (direction == Direction::save) {
      copy_bits(head + place.byte, place.shift, dense, shift, shape.bits);
    } else {
      copy_bits(dense, shift, head + place.byte, place.shift, shape.bits);
    }
  }
  const std::size_t size = size_of(shape.type);
  const auto groups = static_cast<std::size_t>(shape.head_dim / shape.group);
  for (int dim = 0; dim < shape.head_dim; dim += shape.group) {
    std::byte* const scale =
        head + shape.scales_at() + shape.scale_index(dim, position) * size;
    const std::size_t at =
        (row * groups + static_cast<std::size_t>(dim / shape.group)) * size;
    for (const auto& [dense, packed] :
         {std::pair(arrays.scales + at, scale),
          std::pair(arrays.biases + at, scale + kKvBlockSize * size)}) {
      if constexpr (direction == Direction::save) {
        std::memcpy(dense, packed, size);
      } else {
        std::memcpy(packed, dense, size);
      }
    }
  }
}

template <Direction direction>
void copy_codes(
    const KvShape& shape,
    std::byte* block,
    int head,
    const Run& run,
    const KvArrays& keys,
    const KvArrays& values) {
  for (std::size_t idx = 0; idx < run.count; ++idx) {
    const auto position = static_cast<int>(run.first + idx);
    copy_position<direction>(
        shape,
        block + shape.keys_at(head),
        position,
        run.row + idx,
        keys,
        [&](int dim) { return shape.key_code(dim, position); });
    copy_position<direction>(
        shape,
        block + shape.values_at(head),
        position,
        run.row + idx,
        values,
        [&](int dim) { return shape.value_code(dim, position); });
  }
}

} // namespace

KvBlockPool::KvBlockPool(const KvShape& shape, int num_blocks)
    : shape_(shape), num_blocks_(num_blocks) {
  data_ = allocate_huge_pages(
      static_cast<std::size_t>(num_blocks) * shape.block_bytes());
}

void KvBlockPool::copy_block(int from, int to) const {
  std::memcpy(block(to), block(from), shape_.block_bytes());
}

void KvBlocks::reserve(int begin, int end) {
  const auto first = static_cast<std::size_t>(begin / kKvBlockSize);
  const auto wanted =
      static_cast<std::size_t>((end + kKvBlockSize - 1) / kKvBlockSize);
  for (auto& blocks : sequences_) {
    if (blocks.size() < std::min(first, wanted)) {
      blocks.resize(std::min(first, wanted));
      tables_.clear();
    }
    while (blocks.size() < wanted) {
      blocks.push_back(new_block());
      tables_.clear();
    }
  }
}

// The first blocks lie on small pages: a short text would leave the most of a
// huge one empty, in every layer.
KvBlocks::Block KvBlocks::new_block() {
  const std::size_t n_bytes = shape_.block_bytes();
  if (chunk_used_ == chunk_size_) {
    if (chunk_size_ == 0) {
      chunk_size_ = kFirstChunkBlocks * sequences_.size();
      chunk_.reset(new std::byte[chunk_size_ * n_bytes]);
    } else {
      chunk_size_ =
          std::max<std::size_t>(sequences_.size(), kHugePageBytes / n_bytes);
      chunk_ = allocate_huge_pages(chunk_size_ * n_bytes);
    }
    chunk_used_ = 0;
  }
  return {chunk_, chunk_.get() + chunk_used_++ * n_bytes};
}

void KvBlocks::set_to_zero() {
  for (const auto& blocks : sequences_) {
    for (const Block& block : blocks) {
      if (block) {
        std::memset(block.get(), 0, shape_.block_bytes());
      }
    }
  }
}

void KvBlocks::forget(int begin, int end) {
  const int first = (begin + kKvBlockSize - 1) / kKvBlockSize;
  for (auto& blocks : sequences_) {
    const int last =
        std::min(end / kKvBlockSize, static_cast<int>(blocks.size()));
    // Those further ahead went before.
    for (int idx = last - 1; idx >= first; --idx) {
      auto& block = blocks[static_cast<std::size_t>(idx)];
      if (!block) {
        break;
      }
      block.reset();
      tables_.clear();
    }
  }
}

const std::vector<std::shared_ptr<const BlockTable>>& KvBlocks::tables() {
  if (tables_.empty()) {
    for (const auto& blocks : sequences_) {
      auto table = std::make_shared<BlockTable>();
      for (const Block& block : blocks) {
        table->blocks.push_back(block.get());
      }
      table->owner = std::make_shared<std::vector<Block>>(blocks);
      tables_.push_back(std::move(table));
    }
  }
  return tables_;
}

// copy(block, head, first position in the block, count, row): `row` of a dense
// array seen as [rows, head_dim] is where the run begins.
template <class Copy>
void KvBlocks::for_each_run(int begin, int end, Copy&& copy) const {
  const int length = end - begin;
  for (int sequence = 0; sequence < batch(); ++sequence) {
    const auto& blocks = sequences_[static_cast<std::size_t>(sequence)];
    for (int head = 0; head < shape_.n_kv_heads; ++head) {
      const int row = (sequence * shape_.n_kv_heads + head) * length;
      for (int at = begin; at < end;) {
        const int first = at % kKvBlockSize;
        const int count = std::min(kKvBlockSize - first, end - at);
        copy(
            blocks[static_cast<std::size_t>(at / kKvBlockSize)].get(),
            head,
            static_cast<std::size_t>(first),
            static_cast<std::size_t>(count),
            static_cast<std::size_t>(row + at - begin));
        at += count;
      }
    }
  }
}

void KvBlocks::save(
    int begin,
    int end,
    const KvArrays& keys,
    const KvArrays& values) const {
  const auto dim = static_cast<std::size_t>(shape_.head_dim);
  const std::size_t size = size_of(shape_.type);
  for_each_run(
      begin,
      end,
      [&](std::byte* block,
          int head,
          std::size_t first,
          std::size_t count,
          std::size_t row) {
        if (shape_.is_quantized()) {
          copy_codes<Direction::save>(
              shape_, block, head, {first, count, row}, keys, values);
          return;
        }
        transpose(
            block + shape_.keys_at(head) + first * size,
            kKvBlockSize,
            keys.data + row * dim * size,
            dim,
            {dim, count},
            size);
        std::memcpy(
            values.data + row * dim * size,
            block + shape_.values_at(head) + first * dim * size,
            count * dim * size);
      });
}

void KvBlocks::load(
    int begin,
    int end,
    const KvArrays& keys,
    const KvArrays& values) {
  reserve(begin, end);
  const auto dim = static_cast<std::size_t>(shape_.head_dim);
  const std::size_t size = size_of(shape_.type);
  for_each_run(
      begin,
      end,
      [&](std::byte* block,
          int head,
          std::size_t first,
          std::size_t count,
          std::size_t row) {
        if (shape_.is_quantized()) {
          copy_codes<Direction::load>(
              shape_, block, head, {first, count, row}, keys, values);
          return;
        }
        transpose(
            keys.data + row * dim * size,
            dim,
            block + shape_.keys_at(head) + first * size,
            kKvBlockSize,
            {count, dim},
            size);
        std::memcpy(
            block + shape_.values_at(head) + first * dim * size,
            values.data + row * dim * size,
            count * dim * size);
      });
}

std::size_t KvBlocks::n_bytes() const {
  std::size_t count = 0;
  for (const auto& blocks : sequences_) {
    count += static_cast<std::size_t>(std::count_if(
        blocks.begin(), blocks.end(), [](const Block& b) { return b; }));
  }
  return count * shape_.block_bytes();
}

} // namespace qwen3_mlx::cpu
