// SPDX-License-Identifier: MIT
// What Runtime holds; for the operations.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/mlx_cuda_internals.h"

namespace qwen3_mlx::cuda {

struct Runtime {
  int device = 0;
  bool exact = false; ///< make_runtime()'s
  Launcher launcher;  ///< Without a stream: that is the operation's.
  std::shared_ptr<DevicePool> pool;

  /// Counters that are zero whenever no kernel runs, one array a stream: those
  /// of one stream run after each other.
  unsigned* counters_of(cudaStream_t stream, std::size_t count);

 private:
  struct Counters {
    mx::array memory;
    std::size_t count;
  };
  std::mutex mutex_;
  std::map<cudaStream_t, Counters> counters_;
};

} // namespace qwen3_mlx::cuda
