// SPDX-License-Identifier: MIT
// Running a conversion's jobs on all cores in pieces of bounded memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "qwen3_mlx/convert.h"

namespace qwen3_mlx {

/// Jobs, cut into pieces for all threads. A Job has source() with n_bytes() and
/// n_rows(), rows_per_chunk(), a type Scratch for a thread's memory, and
/// run(first, count, scratch), which reads rows and writes what they become.
template <class Job>
class Work {
 public:
  Work(const std::vector<Job>& jobs, const ConvertProgress& progress)
      : progress_(progress) {
    for (const auto& job : jobs) {
      add(job);
    }
  }
  Work(const std::vector<const Job*>& jobs, const ConvertProgress& progress)
      : progress_(progress) {
    for (const auto* job : jobs) {
      add(*job);
    }
  }

  void run(int n_threads) {
    ThreadPool pool(n_threads);
    pool.parallel_for(static_cast<int>(chunks_.size()), [&](int idx) {
      const auto& chunk = chunks_[static_cast<std::size_t>(idx)];
      auto scratch = take_scratch();
      chunk.job->run(chunk.first, chunk.count, *scratch);
      const std::lock_guard lock(mutex_);
      free_.push_back(std::move(scratch));
      done_ += chunk.job->source().n_bytes() / chunk.job->source().n_rows() *
          chunk.count;
      if (progress_) {
        progress_(done_, total_);
      }
    });
  }

 private:
  void add(const Job& job) {
    total_ += job.source().n_bytes();
    const auto step = job.rows_per_chunk();
    for (std::uint64_t row = 0; row < job.source().n_rows(); row += step) {
      chunks_.push_back(
          {&job, row, std::min(step, job.source().n_rows() - row)});
    }
  }

  struct Chunk {
    const Job* job;
    std::uint64_t first;
    std::uint64_t count;
  };

  std::unique_ptr<typename Job::Scratch> take_scratch() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
      return std::make_unique<typename Job::Scratch>();
    }
    auto scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }

  std::vector<Chunk> chunks_;
  const ConvertProgress& progress_;
  std::uint64_t total_ = 0;
  std::mutex mutex_;
  std::uint64_t done_ = 0; // guarded by mutex_
  std::vector<std::unique_ptr<typename Job::Scratch>>
      free_; // guarded by mutex_
};

} // namespace qwen3_mlx
