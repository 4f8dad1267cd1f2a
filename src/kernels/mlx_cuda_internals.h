// SPDX-License-Identifier: MIT
// The one place, on CUDA, that knows MLX's insides: its stream and the memory
// behind an array. Built against exactly the version that
// cmake/Dependencies.cmake names; with another one these kernels are left out.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "mlx/array.h"
#include "mlx/stream.h"

namespace qwen3_mlx::cuda {
namespace mx = mlx::core;

/// Memory of the GPU that is used again: MLX's public allocator gives managed
/// memory. Buffers go back when their arrays have died, which MLX lets happen
/// only after the work that uses them.
class DevicePool;

std::shared_ptr<DevicePool> make_device_pool();

/// Gives `out`, whose shape and dtype are set, memory of its own.
void allocate(const std::shared_ptr<DevicePool>& pool, mx::array& out);

/// The same in pinned memory of the host, which the GPU can write to: to read
/// such an array is to wait for it and no more.
void allocate_for_host(const std::shared_ptr<DevicePool>& pool, mx::array& out);

/// As much of the host's memory, pinned: what is copied from it is not waited
/// for.
mx::array pinned_copy(
    const std::shared_ptr<DevicePool>& pool,
    std::span<const std::byte> of);

/// An evaluated array in memory of the host, which `release` gives back.
mx::array host_array(
    void* data,
    std::size_t n_bytes,
    const mx::Shape& shape,
    mx::Dtype dtype,
    std::function<void()> release);

/// An evaluated array that has not been written.
mx::array new_array(
    const std::shared_ptr<DevicePool>& pool,
    const mx::Shape& shape,
    mx::Dtype dtype);

/// An evaluated array of at least that many bytes.
mx::array
allocate_bytes(const std::shared_ptr<DevicePool>& pool, std::size_t n_bytes);

/// Where the elements of an array lie on the GPU.
void* device_pointer(const mx::array& array);

/// Hands what MLX has recorded for the stream to CUDA, so that a kernel
/// launched on the stream that is returned runs behind it.
cudaStream_t stream_behind(mx::Stream stream);

/// Keeps the memory of an array until what was launched so far has run.
void keep_until_done(mx::Stream stream, const mx::array& array);
/// The same for anything.
void keep_until_done(mx::Stream stream, std::shared_ptr<const void> anything);

} // namespace qwen3_mlx::cuda
