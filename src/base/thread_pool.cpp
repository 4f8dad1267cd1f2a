// SPDX-License-Identifier: MIT
#include "base/thread_pool.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "qwen3_mlx/error.h"

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace qwen3_mlx {

namespace {

// About 50 microseconds of waiting: longer than the gap between two kernels of
// one decode step, far shorter than a scheduler's time slice.
constexpr int spins_before_sleep = 4000;
// A waiting thread offers its core to others this often.
constexpr int spins_before_yield = 256;

// The ticket between two jobs: no chunk can be claimed.
constexpr std::uint64_t closed = 0xffffffffU;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Returns true when it is time to sleep.
bool spin(int& spins) {
  pause();
  if (++spins % spins_before_yield == 0) {
    std::this_thread::yield();
  }
  return spins >= spins_before_sleep;
}

#if defined(__linux__)
int read_topology(int cpu, const char* name) {
  std::ifstream file(
      "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/" +
      name);
  int value = -1;
  file >> value;
  return file ? value : -1;
}
#endif

} // namespace

int physical_core_count() {
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    std::set<std::pair<int, int>> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) {
        continue;
      }
      const int core = read_topology(cpu, "core_id");
      const int package = read_topology(cpu, "physical_package_id");
      // Without a topology every hardware thread counts as a core.
      cores.insert(core < 0 ? std::pair(-1, cpu) : std::pair(package, core));
    }
    if (!cores.empty()) {
      return static_cast<int>(cores.size());
    }
  }
#elif defined(__APPLE__)
  int count = 0;
  std::size_t size = sizeof(count);
  // Level 0 holds the fast cores; the others would be waited for.
  if (sysctlbyname("hw.perflevel0.physicalcpu", &count, &size, nullptr, 0) ==
          0 &&
      count > 0) {
    return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int num_threads) {
  const int size = num_threads < 1 ? physical_core_count() : num_threads;
  workers_.reserve(static_cast<std::size_t>(size - 1));
  try {
    for (int worker = 1; worker < size; ++worker) {
      workers_.emplace_back([this] { worker_loop(); });
    }
  } catch (const std::system_error& error) {
    stop();
    throw Error(
        "cannot start " + std::to_string(size) + " threads: " + error.what() +
        "; give fewer with --threads");
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stop_.store(true);
  {
    std::lock_guard lock(mutex_);
    ticket_.store((std::uint64_t{generation_} + 1) << 32 | closed);
  }
  job_posted_.notify_all();
  for (std::thread& worker : workers_) {
    worker.join();
  }
}

void ThreadPool::run(int num_chunks, Task task, void* context) {
  std::unique_lock job(job_mutex_, std::defer_lock);
  if (workers_.empty() || num_chunks <= 1 || !job.try_lock()) {
    for (int chunk = 0; chunk < num_chunks; ++chunk) {
      task(context, chunk);
    }
    return;
  }
  // Close the ticket before the fields change. The fields' release stores keep
  // that order for a late thread that reads them.
  ticket_.store(std::uint64_t{generation_} << 32 | closed);
  num_chunks_.store(num_chunks, std::memory_order_release);
  task_.store(task, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  num_done_.store(0, std::memory_order_release);
  failed_.store(false, std::memory_order_release);
  ++generation_;
  ticket_.store(std::uint64_t{generation_} << 32);
  if (num_asleep_.load() > 0) {
    // The lock orders this after a worker's last look at the ticket.
    { std::lock_guard lock(mutex_); }
    job_posted_.notify_all();
  }
  work(generation_);
  wait_until_done(num_chunks);
  if (failed_.load()) {
    std::exception_ptr failure;
    {
      std::lock_guard lock(mutex_);
      failure = std::exchange(first_failure_, nullptr);
    }
    job.unlock();
    std::rethrow_exception(failure);
  }
}

void ThreadPool::work(std::uint32_t generation) {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (static_cast<std::uint32_t>(ticket >> 32) == generation) {
    const auto chunk = static_cast<std::uint32_t>(ticket);
    const int num_chunks = num_chunks_.load(std::memory_order_acquire);
    const Task task = task_.load(std::memory_order_acquire);
    void* const context = context_.load(std::memory_order_acquire);
    if (chunk >= static_cast<std::uint32_t>(num_chunks)) {
      return;
    }
    if (!ticket_.compare_exchange_weak(
            ticket,
            ticket + 1,
            std::memory_order_acq_rel,
            std::memory_order_acquire)) {
      continue;
    }
    if (!failed_.load(std::memory_order_acquire)) {
      try {
        task(context, static_cast<int>(chunk));
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!first_failure_) {
          first_failure_ = std::current_exception();
        }
        failed_.store(true);
      }
    }
    if (num_done_.fetch_add(1) + 1 == num_chunks && caller_asleep_.load()) {
      { std::lock_guard lock(mutex_); }
      job_done_.notify_one();
    }
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker_loop() {
  std::uint32_t seen = 0;
  while (true) {
    wait_for_job(seen);
    // The ticket first: who has seen the last one, which no other follows, then
    // sees the order to stop, too.
    seen = static_cast<std::uint32_t>(ticket_.load() >> 32);
    if (stop_.load()) {
      return;
    }
    work(seen);
  }
}

void ThreadPool::wait_for_job(std::uint32_t seen) {
  const auto posted = [&] {
    return static_cast<std::uint32_t>(ticket_.load() >> 32) != seen;
  };
  int spins = 0;
  while (!posted()) {
    if (spin(spins)) {
      std::unique_lock lock(mutex_);
      num_asleep_.fetch_add(1);
      job_posted_.wait(lock, posted);
      num_asleep_.fetch_sub(1);
    }
  }
}

void ThreadPool::wait_until_done(int num_chunks) {
  const auto done = [&] { return num_done_.load() == num_chunks; };
  int spins = 0;
  while (!done()) {
    if (spin(spins)) {
      std::unique_lock lock(mutex_);
      caller_asleep_.store(true);
      job_done_.wait(lock, done);
      caller_asleep_.store(false);
    }
  }
}

} // namespace qwen3_mlx
