// SPDX-License-Identifier: MIT
// A fixed set of threads that run the chunks of one job after another. Chunks
// are claimed one by one and counted when done, so a thread that is late (its
// core was taken by a neighbour) costs its share and blocks nobody.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace qwen3_mlx {

/// Number of physical cores this process may run on, at least 1: hardware
/// threads of one core count once, cores outside the affinity mask do not.
int physical_core_count();

/// Threads for data-parallel loops. The caller of parallel_for() works too, so
/// a pool of size n starts n - 1 threads. Objects are neither copied nor moved.
class ThreadPool {
 public:
  /// Starts the threads. `num_threads` < 1 means physical_core_count().
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Threads that work on a job, the caller's among them.
  int size() const {
    return static_cast<int>(workers_.size()) + 1;
  }

  /// Calls `function(chunk)` once for each chunk in [0, num_chunks), in any
  /// order and on any thread, and returns when all are done. The first
  /// exception thrown by a chunk is thrown here; chunks not yet begun are then
  /// dropped. A call from inside a chunk, or while another thread has a job
  /// running, does its chunks on the calling thread.
  template <class Function>
  void parallel_for(int num_chunks, Function&& function) {
    using Callable = std::remove_reference_t<Function>;
    run(
        num_chunks,
        [](void* context, int chunk) {
          (*static_cast<Callable*>(context))(chunk);
        },
        const_cast<void*>(static_cast<const void*>(std::addressof(function))));
  }

 private:
  using Task = void (*)(void* context, int chunk);

  void run(int num_chunks, Task task, void* context);
  void work(std::uint32_t generation);
  void stop();
  void worker_loop();
  void wait_for_job(std::uint32_t seen);
  void wait_until_done(int num_chunks);

  // Generation of the job in the upper half, next chunk in the lower one. A
  // chunk is claimed by compare-exchange on both, so that a late thread cannot
  // claim from a job it has not read.
  std::atomic<std::uint64_t> ticket_{0};
  std::atomic<int> num_done_{0};
  std::atomic<int> num_chunks_{0};
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<bool> failed_{false};
  std::atomic<bool> stop_{false};
  std::atomic<int> num_asleep_{0};
  std::atomic<bool> caller_asleep_{false};
  std::uint32_t generation_ = 0;     // guarded by job_mutex_
  std::exception_ptr first_failure_; // guarded by mutex_
  std::mutex job_mutex_;             // held while a job runs
  std::mutex mutex_;                 // guards sleeping and first_failure_
  std::condition_variable job_posted_;
  std::condition_variable job_done_;
  std::vector<std::thread> workers_;
};

} // namespace qwen3_mlx
