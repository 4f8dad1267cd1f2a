// SPDX-License-Identifier: MIT
// Copies in stages: each begins once, behind the one `depth` ahead, and ends
// once, when all of its rows are there; parts of copies give the same rows.
#include "weights/row_copy.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

// Random rows, as a model without files has them.
RowCopy random_rows(std::vector<float>& to, std::uint64_t row_elements) {
  RowCopy copy;
  copy.n_rows = to.size() / row_elements;
  copy.row_elements = row_elements;
  copy.row_bytes = row_elements * sizeof(float);
  copy.codec = RowCodec::random;
  copy.targets[0] = {
      reinterpret_cast<std::byte*>(to.data()), copy.row_bytes, mx::float32};
  copy.random_scale = 1;
  copy.seed = 5;
  return copy;
}

TEST(RowCopyTest, PartsGiveTheSameRows) {
  std::vector<float> whole(1000 * 64);
  std::vector<float> in_parts(whole.size());
  run_copies({random_rows(whole, 64)}, 2, {});
  const auto copy = random_rows(in_parts, 64);
  run_copies(
      {rows_of(copy, 300, 1000), rows_of(copy, 0, 1), rows_of(copy, 1, 300)},
      2,
      {});
  EXPECT_EQ(whole, in_parts);
}

TEST(RowCopyTest, StagesFollowEachOther) {
  constexpr std::size_t n_stages = 40;
  constexpr std::size_t depth = 3;
  // Large enough for several chunks a stage.
  std::vector<std::vector<float>> rows(n_stages);
  std::vector<std::atomic<int>> begun(n_stages);
  std::vector<std::atomic<int>> ended(n_stages);
  std::vector<CopyStage> stages;
  std::atomic<bool> in_order = true;
  for (std::size_t idx = 0; idx < n_stages; ++idx) {
    rows[idx].resize(std::size_t{1} << 19);
    CopyStage stage{{random_rows(rows[idx], 1024)}, {}, {}};
    stage.begin = [&, idx] {
      ++begun[idx];
      in_order = in_order && (idx < depth || ended[idx - depth] == 1);
    };
    stage.end = [&, idx] {
      // The last row is there.
      in_order = in_order && begun[idx] == 1 && rows[idx].back() != 0;
      ++ended[idx];
    };
    stages.push_back(std::move(stage));
  }
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  run_stages(stages, depth, 4, [&](std::uint64_t n, std::uint64_t of) {
    done = n;
    total = of;
  });
  EXPECT_TRUE(in_order);
  EXPECT_EQ(total, n_stages << 21U);
  EXPECT_EQ(done, total);
  for (std::size_t idx = 0; idx < n_stages; ++idx) {
    EXPECT_EQ(begun[idx], 1) << idx;
    EXPECT_EQ(ended[idx], 1) << idx;
  }
}

TEST(RowCopyTest, WhatFailsInAStageEndsAll) {
  for (const std::size_t bad : {0U, 5U, 9U}) {
    for (const bool at_end : {false, true}) {
      std::vector<float> rows(4096);
      std::vector<CopyStage> stages(10);
      for (auto& stage : stages) {
        stage.copies = {random_rows(rows, 4096)};
      }
      auto& fails = at_end ? stages[bad].end : stages[bad].begin;
      fails = [] { throw Error("no memory"); };
      EXPECT_THROW(run_stages(stages, 1, 4, {}), Error) << bad;
    }
  }
}

} // namespace
} // namespace qwen3_mlx
