// SPDX-License-Identifier: MIT
// Memory of the GPU, and how long work takes on it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/cuda/launch.h"

namespace qwen3_mlx::cuda::bench {

/// Runs work as a graph on the launcher's stream.
struct Timer {
  Launcher launcher;

  // Microseconds of one run of `work`, as a graph; the median of five.
  double operator()(const std::function<void()>& work, int repeats) const {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(
        cudaStreamBeginCapture(
            launcher.stream, cudaStreamCaptureModeThreadLocal),
        "capture");
    work();
    check(cudaStreamEndCapture(launcher.stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    cudaEvent_t begin;
    cudaEvent_t end;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    for (int i = 0; i < 3; ++i) {
      check(cudaGraphLaunch(exec, launcher.stream), "launch");
    }
    check(cudaStreamSynchronize(launcher.stream), "run");
    std::vector<double> times;
    for (int trial = 0; trial < 5; ++trial) {
      check(cudaEventRecord(begin, launcher.stream), "record");
      for (int i = 0; i < repeats; ++i) {
        check(cudaGraphLaunch(exec, launcher.stream), "launch");
      }
      check(cudaEventRecord(end, launcher.stream), "record");
      check(cudaEventSynchronize(end), "run");
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin, end), "time");
      times.push_back(double{milliseconds} * 1e3 / repeats);
    }
    std::sort(times.begin(), times.end());
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return times[times.size() / 2];
  }
};

/// Memory that lives as long as the program.
inline std::uint8_t* allocate(std::size_t n_bytes, bool random) {
  static std::vector<std::uint8_t> noise;
  if (noise.empty()) {
    // bfloat16 near 0.01, any code.
    std::uint32_t state = 1;
    noise.resize(std::size_t{1} << 24);
    for (std::size_t i = 0; i < noise.size(); i += 2) {
      state = state * 1664525 + 1013904223;
      noise[i] = static_cast<std::uint8_t>(state >> 24);
      noise[i + 1] = (state >> 16 & 1) != 0 ? 0x3c : 0xbc;
    }
  }
  void* data = nullptr;
  check(cudaMalloc(&data, n_bytes), "allocate");
  if (random) {
    auto* const bytes = static_cast<std::uint8_t*>(data);
    std::size_t filled = std::min(noise.size(), n_bytes);
    check(
        cudaMemcpy(bytes, noise.data(), filled, cudaMemcpyHostToDevice),
        "fill");
    while (filled < n_bytes) {
      const std::size_t more = std::min(filled, n_bytes - filled);
      check(
          cudaMemcpy(bytes + filled, bytes, more, cudaMemcpyDeviceToDevice),
          "fill");
      filled += more;
    }
  } else {
    check(cudaMemset(data, 0, n_bytes), "fill");
  }
  return static_cast<std::uint8_t*>(data);
}

/// GB/s, read and written bytes together.
inline double copy_rate(const Launcher& launcher, const Timer& time) {
  const std::size_t n_bytes = std::size_t{2} << 30;
  auto* from = allocate(n_bytes, true);
  auto* to = allocate(n_bytes, false);
  const double us = time(
      [&] {
        check(
            cudaMemcpyAsync(
                to, from, n_bytes, cudaMemcpyDeviceToDevice, launcher.stream),
            "copy");
      },
      3);
  cudaFree(from);
  cudaFree(to);
  return 2.0 * static_cast<double>(n_bytes) / us * 1e-3;
}

} // namespace qwen3_mlx::cuda::bench
