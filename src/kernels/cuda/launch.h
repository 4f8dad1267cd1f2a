// SPDX-License-Identifier: MIT
// Starting a kernel on a stream. Knows CUDA and nothing of MLX, so that kernels
// can be tested and timed alone.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "qwen3_mlx/device_error.h"

namespace qwen3_mlx::cuda {

/// Throws DeviceError naming `what` and CUDA's reason unless `status` is
/// success.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    cudaGetLastError(); // the sticky ones stay; others must not reach MLX
    throw DeviceError(what, cudaGetErrorString(status));
  }
}

/// The kernels of a stream that is captured, by their names.
using RecordedNodes = std::vector<std::pair<std::string, cudaGraphNode_t>>;

/// Where kernels run, and what the machine has.
struct Launcher {
  cudaStream_t stream = nullptr;
  int num_sms = 1;
  int shared_bytes = 0; ///< That a block may have.
  /// Whether a kernel may start before the one ahead of it has ended.
  bool overlap = false;
  bool has_warpgroups = false; ///< has_warpgroup_code()
  /// Set when the stream is captured: launches are noted there.
  RecordedNodes* recorded = nullptr;
};

/// The node that a launch on a captured stream has become.
inline cudaGraphNode_t newest_node(cudaStream_t stream, const char* what) {
  cudaStreamCaptureStatus status{};
  const cudaGraphNode_t* nodes = nullptr;
  std::size_t count = 0;
#if CUDART_VERSION >= 13000
  check(
      cudaStreamGetCaptureInfo(
          stream, &status, nullptr, nullptr, &nodes, nullptr, &count),
      what);
#else
  check(
      cudaStreamGetCaptureInfo_v2(
          stream, &status, nullptr, nullptr, &nodes, &count),
      what);
#endif
  if (count != 1) {
    throw DeviceError(what, "was not captured");
  }
  return nodes[0];
}

/// How a kernel begins beside others.
enum class Start {
  in_order, ///< Where launches overlap, before the one ahead has ended.
  together, ///< All blocks of threads at once, for they wait for each other.
};

/// Starts `kernel`; throws DeviceError when it cannot. `cluster` blocks,
/// neighbours in the grid, can read each other's shared memory.
template <class... Args>
void launch_clusters(
    Start start,
    int cluster,
    const Launcher& launcher,
    const char* name,
    void (*kernel)(Args...),
    dim3 grid,
    int block,
    std::size_t shared_bytes,
    Args... args) {
  // 48 KiB are a kernel's without asking, fixed ones included.
  constexpr std::size_t kMostFixed = 16 * 1024;
  if (shared_bytes + kMostFixed > 48 * 1024) {
    check(
        cudaFuncSetAttribute(
            reinterpret_cast<const void*>(kernel),
            cudaFuncAttributeMaxDynamicSharedMemorySize,
            static_cast<int>(shared_bytes)),
        name);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = launcher.stream;
  cudaLaunchAttribute attributes[2]{};
  config.attrs = attributes;
  if (start == Start::together) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  } else if (launcher.overlap) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, args...), name);
  if (launcher.recorded != nullptr) {
    launcher.recorded->emplace_back(name, newest_node(launcher.stream, name));
  }
}

template <class... Args>
void launch_as(
    Start start,
    const Launcher& launcher,
    const char* name,
    void (*kernel)(Args...),
    dim3 grid,
    int block,
    std::size_t shared_bytes,
    Args... args) {
  launch_clusters(
      start,
      /* cluster */ 1,
      launcher,
      name,
      kernel,
      grid,
      block,
      shared_bytes,
      args...);
}

template <class... Args>
void launch(
    const Launcher& launcher,
    const char* name,
    void (*kernel)(Args...),
    dim3 grid,
    int block,
    std::size_t shared_bytes,
    Args... args) {
  launch_as(
      Start::in_order,
      launcher,
      name,
      kernel,
      grid,
      block,
      shared_bytes,
      args...);
}

} // namespace qwen3_mlx::cuda
