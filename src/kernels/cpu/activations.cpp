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

constexpr std::size_t kUnit = 4; // bytes: see RowForm

// Puts `num_units` units of each row one after the other.
void spread_units(
    const std::byte* const* rows,
    std::size_t num_rows,
    std::size_t from,
    std::size_t num_units,
    std::byte* out) {
  for (std::size_t m = 0; m < num_rows; ++m) {
    const std::byte* const source = rows[m] + from;
    for (std::size_t unit = 0; unit < num_units; ++unit) {
      std::memcpy(
          out + (unit * num_rows + m) * kUnit, source + unit * kUnit, kUnit);
    }
  }
}

std::size_t padded(int cols) {
  return round_up(static_cast<std::size_t>(cols), 64);
}

std::size_t num_units(RowForm form, int cols) {
  return form == RowForm::bf16_pairs ? padded(cols) / 2 : padded(cols);
}

// Bytes of a block of rows.
std::size_t bytes_of_block(RowForm form, int cols, int group, int num_rows) {
  return form == RowForm::int8
      ? QuantizedLayout{cols, group, num_rows}.n_bytes()
      : static_cast<std::size_t>(num_rows) * num_units(form, cols) * kUnit;
}

// Makes one block of several of one row.
void interleave(
    RowForm form,
    const std::byte* const* rows,
    const QuantizedLayout& layout,
    std::byte* to) {
  const auto count = static_cast<std::size_t>(layout.num_rows);
  if (form != RowForm::int8) {
    spread_units(rows, count, 0, num_units(form, layout.cols), to);
    return;
  }
  const QuantizedLayout one{layout.cols, layout.group};
  spread_units(
      rows, count, 0, static_cast<std::size_t>(layout.cols) / kUnit, to);
  spread_units(
      rows,
      count,
      one.scales_at(),
      3 * layout.num_groups(),
      to + layout.scales_at());
  merge_fine_groups(rows, layout, to);
}

RowForm form_for(const Context& context, const PackedLayout& w) {
  if (w.codes != Codes::plain && !context.exact) {
    return RowForm::int8;
  }
  const bool in_pairs =
      context.kernels.has_bf16_pairs && !context.exact && w.type == Float::bf16;
  return in_pairs ? RowForm::bf16_pairs : RowForm::f32;
}

// Makes a block of float32 rows, which it may overwrite.
void make_block(
    const KernelTable& kernels,
    RowForm form,
    float* const* rows,
    const QuantizedLayout& layout,
    std::byte* to) {
  if (form == RowForm::int8) {
    kernels.quantize_rows(rows, layout, to);
    return;
  }
  std::array<const std::byte*, kMostBlockRows> bytes;
  for (std::size_t m = 0; m < static_cast<std::size_t>(layout.num_rows); ++m) {
    if (form == RowForm::bf16_pairs) {
      kernels.store_row(
          rows[m], static_cast<int>(padded(layout.cols)), rows[m], Float::bf16);
    }
    bytes[m] = reinterpret_cast<const std::byte*>(rows[m]);
  }
  interleave(form, bytes.data(), layout, to);
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
    : form_(form_for(context, w)), cols_(w.cols), group_(w.group),
      max_block_rows_(
          form_ == RowForm::int8 ? context.kernels.max_block_rows
                                 : context.kernels.max_float_rows) {
  const KernelTable& kernels = context.kernels;
  const std::size_t stride = padded(w.cols);
  block_rows_ = use == Use::together ? balanced(num_rows, max_block_rows_) : 1;
  const int most = std::max(1, block_rows_);
  const int num_blocks = (num_rows + most - 1) / most;
  const std::size_t block_bytes =
      bytes_of_block(form_, w.cols, w.group, block_rows_);
  data_ = make_scratch<std::byte>(
      static_cast<std::size_t>(num_blocks) * block_bytes);
  for (int block = 0; block < num_blocks; ++block) {
    blocks_.push_back(
        data_.get() + static_cast<std::size_t>(block) * block_bytes);
  }
  context.pool.parallel_for(num_blocks, [&](int block) {
    const int count = rows_of(block, block_rows_, num_rows);
    const auto floats =
        make_scratch<float>(static_cast<std::size_t>(count) * stride);
    std::array<float*, kMostBlockRows> rows;
    for (int m = 0; m < count; ++m) {
      const auto idx = static_cast<std::size_t>(m);
      const auto row = static_cast<std::size_t>(block * block_rows_ + m);
      rows[idx] = floats.get() + idx * stride;
      kernels.load_row(x.row(row), x.type, w.cols, rows[idx]);
      if (norm) {
        kernels.rms_norm(
            rows[idx], w.cols, norm->weight.data, norm->weight.type, norm->eps);
      }
    }
    make_block(
        kernels,
        form_,
        rows.data(),
        {w.cols, w.group, count},
        data_.get() + static_cast<std::size_t>(block) * block_bytes);
  });
}

void Activations::bind(MatmulJob& job) const {
  job.form = form_;
  job.blocks = blocks_.data();
  job.block_rows = block_rows_;
}

void Activations::Gathered::bind(MatmulJob& job) const {
  job.form = form_;
  job.blocks = blocks_.data();
  job.block_rows = block_rows_;
}

Activations::Gathered Activations::gather(const std::vector<int>& rows) const {
  Gathered gathered;
  gathered.form_ = form_;
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
      bytes_of_block(form_, cols_, group_, block_rows);
  gathered.data_ = make_scratch<std::byte>(
      static_cast<std::size_t>(num_blocks) * block_bytes);
  for (int block = 0; block < num_blocks; ++block) {
    std::byte* const to =
        gathered.data_.get() + static_cast<std::size_t>(block) * block_bytes;
    interleave(
        form_,
        singles.data() + block * block_rows,
        {cols_, group_, rows_of(block, block_rows, num_rows)},
        to);
    gathered.blocks_.push_back(to);
  }
  return gathered;
}

} // namespace qwen3_mlx::cpu
