// SPDX-License-Identifier: MIT
#include "weights/upload_plan.h"

#include <algorithm>
#include <numeric>

namespace qwen3_mlx {

UploadPlan::UploadPlan(const Matrix& source, const Matrix& packed)
    : source_(&source), packed_(&packed) {
  const auto describe = [](mx::array array) {
    const auto n_rows =
        array.size() / static_cast<std::size_t>(array.shape(-1));
    return Part{
        array.data<std::byte>(), array.nbytes() / n_rows, array.nbytes()};
  };
  parts_[0] = describe(source.weight);
  n_rows_ = parts_[0].n_bytes / parts_[0].row_bytes;
  if (source.scales) {
    parts_[1] = describe(*source.scales);
  }
  if (source.biases) {
    parts_[2] = describe(*source.biases);
  }
}

std::optional<std::size_t> UploadPlan::part_at(const std::byte* data) const {
  for (std::size_t idx = 0; idx < parts_.size(); ++idx) {
    const Part& part = parts_[idx];
    if (data != nullptr && data >= part.data &&
        data < part.data + part.n_bytes) {
      return idx;
    }
  }
  return std::nullopt;
}

bool UploadPlan::take(RowCopy& copy) {
  const auto* const to = copy.targets[0].data;
  const auto part = part_at(to);
  if (!part) {
    return false;
  }
  const auto row = static_cast<std::uint64_t>(to - parts_[*part].data) /
      parts_[*part].row_bytes;
  if (copy.permuted_head_dim > 0) {
    step_ = std::lcm(step_, static_cast<std::uint64_t>(copy.permuted_head_dim));
  }
  copies_.push_back({std::move(copy), row});
  return true;
}

std::array<std::size_t, 4> UploadPlan::places(std::uint64_t n_rows) const {
  std::array<std::size_t, 4> begin{};
  for (std::size_t idx = 0; idx < parts_.size(); ++idx) {
    const std::size_t n_bytes = n_rows * parts_[idx].row_bytes;
    begin[idx + 1] = begin[idx] + (n_bytes + 255) / 256 * 256;
  }
  return begin;
}

std::size_t UploadPlan::least_slot_bytes() const {
  return places(step_)[3];
}

void UploadPlan::add_stages(
    cuda::Uploads& uploads,
    std::size_t slot_bytes,
    std::vector<CopyStage>& stages) const {
  const auto row_bytes =
      parts_[0].row_bytes + parts_[1].row_bytes + parts_[2].row_bytes;
  // Room for what places() rounds up.
  const auto fitting = (slot_bytes - std::min<std::size_t>(slot_bytes, 768)) /
      row_bytes / step_ * step_;
  const auto rows_each = std::max<std::uint64_t>(step_, fitting);
  for (std::uint64_t first = 0; first < n_rows_; first += rows_each) {
    const auto count = std::min(rows_each, n_rows_ - first);
    const auto begin = places(count);
    const int slot = static_cast<int>(stages.size() % cuda::Uploads::kNumSlots);
    CopyStage stage;
    for (const auto& [copy, row] : copies_) {
      const auto from = std::max(first, row);
      const auto to = std::min(first + count, row + copy.n_rows);
      if (from >= to) {
        continue;
      }
      auto part = rows_of(copy, from - row, to - row);
      for (auto& target : part.targets) {
        if (const auto idx = part_at(target.data)) {
          target.data = uploads.slot(slot) + begin[*idx] +
              (from - first) * target.row_bytes;
        }
      }
      stage.copies.push_back(std::move(part));
    }
    stage.begin = [&uploads, slot] { uploads.wait_for(slot); };
    stage.end = [&uploads,
                 slot,
                 rows = cuda::UploadedRows{
                     source_,
                     packed_,
                     first,
                     count,
                     {begin[0], begin[1], begin[2]},
                     begin[3]}] { uploads.start(slot, rows); };
    stages.push_back(std::move(stage));
  }
}

} // namespace qwen3_mlx
