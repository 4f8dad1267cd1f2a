// SPDX-License-Identifier: MIT
#include "kernels/cpu/activations.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace qwen3_mlx::cpu {

namespace {

// Rows of each block, so that no block is much smaller than others.
int balanced(int num_rows, int most) {
  const int num_blocks = std::max(1, (num_rows + most - 1) / most);
  return (num_rows + num_blocks - 1) / num_blocks;
}

// Puts the fine groups of rows into a block, in its order.
void merge_fine_groups(
    const std::byte* const* rows,
    const QuantizedLayout& layout,
    std::byte* to) {
  const QuantizedLayout one{layout.cols, layout.group};
  const auto group_cols = static_cast<std::size_t>(layout.group);
  struct Rest { // of one row's fine groups
    const std::byte* next;
    const std::byte* end;
    const std::byte* codes;
  };
  std::array<Rest, kMostBlockRows> rests;
  std::int32_t total = 0;
  for (int row = 0; row < layout.num_rows; ++row) {
    std::int32_t count;
    std::memcpy(&count, rows[row] + one.num_fine_at(), sizeof(count));
    const std::byte* const first = rows[row] + one.fine_groups_at();
    rests[static_cast<std::size_t>(row)] = {
        first,
        first + static_cast<std::size_t>(count) * sizeof(FineGroup),
        rows[row] + one.second_codes_at()};
    total += count;
  }
  std::memcpy(to + layout.num_fine_at(), &total, sizeof(total));
  std::byte* groups = to + layout.fine_groups_at();
  std::byte* codes = to + layout.second_codes_at();
  for (std::int32_t group = 0; total > 0; ++group) {
    for (std::int32_t row = 0; row < layout.num_rows; ++row) {
      Rest& rest = rests[static_cast<std::size_t>(row)];
      FineGroup fine;
      if (rest.next == rest.end) {
        continue;
      }
      std::memcpy(&fine, rest.next, sizeof(fine));
      if (fine.group != group) {
        continue;
      }
      fine.row = row;
      std::memcpy(groups, &fine, sizeof(fine));
      std::memcpy(codes, rest.codes, group_cols);
      rest.next += sizeof(fine);
      rest.codes += group_cols;
      groups += sizeof(fine);
      codes += group_cols;
      --total;
    }
  }
}

// Makes one block of several of one row.
void interleave(
    const std::byte* const* rows,
    const QuantizedLayout& layout,
    std::byte* to) {
  constexpr std::size_t kSize = 4; // of four codes, a scale or a sum
  const QuantizedLayout one{layout.cols, layout.group};
  const auto count = static_cast<std::size_t>(layout.num_rows);
  const auto spread =
      [&](std::size_t num_parts, std::size_t from, std::byte* out) {
        for (std::size_t m = 0; m < count; ++m) {
          const std::byte* const source = rows[m] + from;
          for (std::size_t part = 0; part < num_parts; ++part) {
            std::memcpy(
                out + (part * count + m) * kSize, source + part * kSize, kSize);
          }
        }
      };
  spread(static_cast<std::size_t>(layout.cols) / kSize, 0, to);
  spread(3 * layout.num_groups(), one.scales_at(), to + layout.scales_at());
  merge_fine_groups(rows, layout, to);
}

// The rows of one block, of which the last may hold fewer.
int rows_of(int block, int block_rows, int num_rows) {
  return std::min(block_rows, num_rows - block * block_rows);
}

} // namespace

Activations::Activations(
    const Context& context,
    const Rows& x,
    int num_rows,
    const PackedLayout& w,
    Use use,
    const std::optional<RmsNorm>& norm)
    : layout_{w.cols, w.group},
      max_block_rows_(context.kernels.max_block_rows) {
  const KernelTable& kernels = context.kernels;
  const std::size_t padded = round_up(static_cast<std::size_t>(w.cols), 64);
  const auto prepare = [&](int row, float* to) {
    kernels.load_row(x.row(static_cast<std::size_t>(row)), x.type, w.cols, to);
    if (norm) {
      kernels.rms_norm(
          to, w.cols, norm->weight.data, norm->weight.type, norm->eps);
    }
  };
  if (context.exact || w.codes == Codes::plain) {
    data_ = make_scratch<std::byte>(
        static_cast<std::size_t>(num_rows) * padded * sizeof(float));
    auto* const floats = reinterpret_cast<float*>(data_.get());
    for (int row = 0; row < num_rows; ++row) {
      floats_.push_back(floats + static_cast<std::size_t>(row) * padded);
    }
    context.pool.parallel_for(num_rows, [&](int row) {
      prepare(row, floats + static_cast<std::size_t>(row) * padded);
    });
    return;
  }
  block_rows_ = use == Use::together ? balanced(num_rows, max_block_rows_) : 1;
  const int num_blocks =
      (num_rows + std::max(1, block_rows_) - 1) / std::max(1, block_rows_);
  const std::size_t block_bytes =
      QuantizedLayout{w.cols, w.group, block_rows_}.n_bytes();
  data_ = make_scratch<std::byte>(
      static_cast<std::size_t>(num_blocks) * block_bytes);
  for (int block = 0; block < num_blocks; ++block) {
    blocks_.push_back(
        data_.get() + static_cast<std::size_t>(block) * block_bytes);
  }
  context.pool.parallel_for(num_blocks, [&](int block) {
    const int count = rows_of(block, block_rows_, num_rows);
    std::byte* const to =
        data_.get() + static_cast<std::size_t>(block) * block_bytes;
    const auto floats =
        make_scratch<float>(static_cast<std::size_t>(count) * padded);
    std::array<const float*, kMostBlockRows> rows;
    for (int m = 0; m < count; ++m) {
      const auto idx = static_cast<std::size_t>(m);
      prepare(block * block_rows_ + m, floats.get() + idx * padded);
      rows[idx] = floats.get() + idx * padded;
    }
    kernels.quantize_rows(rows.data(), {w.cols, w.group, count}, to);
  });
}

void Activations::bind(MatmulJob& job) const {
  job.quantized = blocks_.empty() ? nullptr : blocks_.data();
  job.block_rows = block_rows_;
  job.floats = floats_.empty() ? nullptr : floats_.data();
}

void Activations::Gathered::bind(MatmulJob& job) const {
  job.quantized = blocks_.empty() ? nullptr : blocks_.data();
  job.block_rows = block_rows_;
  job.floats = floats_.empty() ? nullptr : floats_.data();
}

Activations::Gathered Activations::gather(const std::vector<int>& rows) const {
  Gathered gathered;
  if (blocks_.empty()) {
    gathered.floats_.reserve(rows.size());
    for (const int row : rows) {
      gathered.floats_.push_back(floats_[static_cast<std::size_t>(row)]);
    }
    return gathered;
  }
  std::vector<const std::byte*> singles;
  singles.reserve(rows.size());
  for (const int row : rows) {
    singles.push_back(blocks_[static_cast<std::size_t>(row)]);
  }
  const int num_rows = static_cast<int>(rows.size());
  gathered.block_rows_ = balanced(num_rows, max_block_rows_);
  if (gathered.block_rows_ == 1) {
    gathered.blocks_ = std::move(singles);
    return gathered;
  }
  const int block_rows = gathered.block_rows_;
  const int num_blocks = (num_rows + block_rows - 1) / block_rows;
  const std::size_t block_bytes =
      QuantizedLayout{layout_.cols, layout_.group, block_rows}.n_bytes();
  gathered.data_ = make_scratch<std::byte>(
      static_cast<std::size_t>(num_blocks) * block_bytes);
  for (int block = 0; block < num_blocks; ++block) {
    std::byte* const to =
        gathered.data_.get() + static_cast<std::size_t>(block) * block_bytes;
    interleave(
        singles.data() + block * block_rows,
        {layout_.cols, layout_.group, rows_of(block, block_rows, num_rows)},
        to);
    gathered.blocks_.push_back(to);
  }
  return gathered;
}

} // namespace qwen3_mlx::cpu
