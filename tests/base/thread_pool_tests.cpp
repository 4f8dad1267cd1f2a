// SPDX-License-Identifier: MIT
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace qwen3_mlx {
namespace {

TEST(ThreadPool, RunsEachChunkOnce) {
  for (const int num_threads : {1, 2, 3, 8}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.size(), num_threads);
    for (const int num_chunks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(num_chunks));
      pool.parallel_for(num_chunks, [&](int chunk) {
        runs[static_cast<std::size_t>(chunk)].fetch_add(1);
      });
      for (const auto& count : runs) {
        EXPECT_EQ(count.load(), 1);
      }
    }
  }
}

TEST(ThreadPool, ManySmallJobsKeepTheirOwnChunks) {
  ThreadPool pool(4);
  for (int job = 0; job < 20000; ++job) {
    std::atomic<int> sum{0};
    const int num_chunks = 2 + job % 5;
    pool.parallel_for(num_chunks, [&](int chunk) { sum += chunk + job; });
    ASSERT_EQ(sum.load(), num_chunks * (num_chunks - 1) / 2 + num_chunks * job);
  }
}

TEST(ThreadPool, WakesAfterSleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> count{0};
    pool.parallel_for(64, [&](int) { ++count; });
    EXPECT_EQ(count.load(), 64);
  }
}

TEST(ThreadPool, CallerSleepsWhileALongChunkRuns) {
  ThreadPool pool(2);
  std::atomic<int> count{0};
  pool.parallel_for(2, [&](int chunk) {
    std::this_thread::sleep_for(std::chrono::milliseconds(chunk * 30 + 1));
    ++count;
  });
  EXPECT_EQ(count.load(), 2);
}

TEST(ThreadPool, EndsWhileThreadsAreLateForAJob) {
  for (int round = 0; round < 2000; ++round) {
    ThreadPool pool(4);
    std::atomic<int> count{0};
    pool.parallel_for(2, [&](int) { ++count; });
    ASSERT_EQ(count.load(), 2);
  }
}

TEST(ThreadPool, ThrowsAChunksException) {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    EXPECT_THROW(
        pool.parallel_for(
            100,
            [&](int chunk) {
              if (chunk % 10 == 3) {
                throw std::runtime_error("chunk");
              }
            }),
        std::runtime_error);
    std::atomic<int> count{0};
    pool.parallel_for(10, [&](int) { ++count; });
    EXPECT_EQ(count.load(), 10);
  }
}

TEST(ThreadPool, NestedAndConcurrentCallsRunInline) {
  ThreadPool pool(3);
  std::atomic<int> count{0};
  pool.parallel_for(
      4, [&](int) { pool.parallel_for(5, [&](int) { ++count; }); });
  EXPECT_EQ(count.load(), 20);
  const auto many = [&] {
    for (int job = 0; job < 500; ++job) {
      pool.parallel_for(3, [&](int) { ++count; });
    }
  };
  std::thread other(many);
  many();
  other.join();
  EXPECT_EQ(count.load(), 20 + 2 * 500 * 3);
}

TEST(ThreadPool, CountsAtLeastOneCore) {
  EXPECT_GE(physical_core_count(), 1);
  EXPECT_GE(ThreadPool().size(), 1);
}

} // namespace
} // namespace qwen3_mlx
