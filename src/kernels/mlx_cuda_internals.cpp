// SPDX-License-Identifier: MIT
#include "kernels/mlx_cuda_internals.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels/cuda/launch.h"
#include "mlx/allocator.h"
#include "mlx/backend/cuda/device.h"
#include "mlx/backend/cuda/utils.h"

namespace qwen3_mlx::cuda {

namespace {

// MLX commits what it has recorded when it likes, and each commit has a price:
// it is asked for only when something is recorded. The count is private, and
// naming a private member is allowed in an explicit instantiation alone.
template <auto Member>
struct NodeCount {
  friend int recorded_nodes(const mx::cu::CommandEncoder& encoder) {
    return encoder.*Member;
  }
};
int recorded_nodes(const mx::cu::CommandEncoder& encoder);
template struct NodeCount<&mx::cu::CommandEncoder::node_count_>;

// Sizes that differ little share buffers: four steps to a power of two.
std::size_t rounded(std::size_t n_bytes) {
  if (n_bytes <= 256) {
    return 256;
  }
  const std::size_t step = std::bit_floor(n_bytes - 1) / 4;
  return (n_bytes + step - 1) / step * step;
}

} // namespace

class DevicePool : public std::enable_shared_from_this<DevicePool> {
 public:
  DevicePool() = default;
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;
  ~DevicePool() {
    release_all();
    for (auto& [size, pages] : pinned_) {
      for (void* const data : pages) {
        cudaFreeHost(data);
      }
    }
  }

  mx::allocator::Data take(std::size_t n_bytes) {
    const std::size_t size = rounded(n_bytes);
    void* data = take_free(size);
    if (data == nullptr) {
      data = allocate_new(size);
    }
    int device = 0;
    check(cudaGetDevice(&device), "device");
    auto* buffer = new mx::cu::CudaBuffer{data, size, device};
    return {
        mx::allocator::Buffer(buffer),
        [pool = shared_from_this()](mx::allocator::Buffer dead) {
          auto* const its = static_cast<mx::cu::CudaBuffer*>(dead.ptr());
          // MLX moves what the host reads to managed memory.
          if (its->device < 0) {
            cudaFree(its->data);
          } else {
            pool->give_back(its->size, its->data);
          }
          delete its;
        }};
  }

  // Memory of the host that the GPU can write to. Little is asked for, so all
  // of it is kept.
  mx::allocator::Data take_pinned(std::size_t n_bytes) {
    const std::size_t size = std::bit_ceil(std::max<std::size_t>(n_bytes, 256));
    void* data = nullptr;
    {
      const std::lock_guard lock(mutex_);
      auto& free = pinned_[size];
      if (!free.empty()) {
        data = free.back();
        free.pop_back();
      }
    }
    if (data == nullptr) {
      check(cudaMallocHost(&data, size), "allocate pinned memory");
    }
    // MLX leaves where it is what belongs to no device.
    auto* buffer = new mx::cu::CudaBuffer{data, size, -1};
    return {
        mx::allocator::Buffer(buffer),
        [pool = shared_from_this()](mx::allocator::Buffer dead) {
          auto* const its = static_cast<mx::cu::CudaBuffer*>(dead.ptr());
          const std::lock_guard lock(pool->mutex_);
          pool->pinned_[its->size].push_back(its->data);
          delete its;
        }};
  }

 private:
  struct Buffers {
    std::vector<void*> free;
    std::uint64_t last_use = 0;
  };

  void* take_free(std::size_t size) {
    const std::lock_guard lock(mutex_);
    auto& buffers = buffers_[size];
    buffers.last_use = ++num_uses_;
    if (buffers.free.empty()) {
      return nullptr;
    }
    void* const data = buffers.free.back();
    buffers.free.pop_back();
    num_free_bytes_ -= size;
    return data;
  }

  void* allocate_new(std::size_t size) {
    void* data = nullptr;
    if (cudaMalloc(&data, size) == cudaSuccess) {
      return data;
    }
    cudaGetLastError();
    {
      const std::lock_guard lock(mutex_);
      release_all();
    }
    check(cudaMalloc(&data, size), "allocate");
    return data;
  }

  void give_back(std::size_t size, void* data) {
    const std::lock_guard lock(mutex_);
    buffers_[size].free.push_back(data);
    num_free_bytes_ += size;
    while (num_free_bytes_ > max_free_bytes()) {
      release_oldest();
    }
  }

  // Of the sizes of which some are free, what was asked for the longest ago.
  // Locked by the caller, as below.
  void release_oldest() {
    auto oldest = buffers_.end();
    for (auto it = buffers_.begin(); it != buffers_.end(); ++it) {
      if (!it->second.free.empty() &&
          (oldest == buffers_.end() ||
           it->second.last_use < oldest->second.last_use)) {
        oldest = it;
      }
    }
    release(oldest->first, oldest->second);
  }

  void release(std::size_t size, Buffers& buffers) {
    for (void* const data : buffers.free) {
      cudaFree(data);
    }
    num_free_bytes_ -= size * buffers.free.size();
    buffers.free.clear();
  }

  void release_all() {
    for (auto& [size, buffers] : buffers_) {
      release(size, buffers);
    }
  }

  // MLX, which asks for memory too, knows nothing of what is free here.
  std::size_t max_free_bytes() {
    if (max_free_bytes_ == 0) {
      std::size_t free = 0;
      std::size_t total = 0;
      if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
        cudaGetLastError();
      }
      max_free_bytes_ = std::max<std::size_t>(total / 8, 1);
    }
    return max_free_bytes_;
  }

  std::mutex mutex_;
  // By their size; and the rest by mutex_.
  std::map<std::size_t, Buffers> buffers_;
  std::map<std::size_t, std::vector<void*>> pinned_;
  std::uint64_t num_uses_ = 0;
  std::size_t num_free_bytes_ = 0;
  std::size_t max_free_bytes_ = 0;
};

std::shared_ptr<DevicePool> make_device_pool() {
  return std::make_shared<DevicePool>();
}

void allocate(const std::shared_ptr<DevicePool>& pool, mx::array& out) {
  out.set_data(pool->take(out.nbytes()));
}

void allocate_for_host(
    const std::shared_ptr<DevicePool>& pool,
    mx::array& out) {
  out.set_data(pool->take_pinned(out.nbytes()));
}

mx::array pinned_copy(
    const std::shared_ptr<DevicePool>& pool,
    std::span<const std::byte> of) {
  mx::array copy(
      pool->take_pinned(of.size()),
      mx::Shape{static_cast<int>(of.size())},
      mx::uint8);
  std::ranges::copy(of, static_cast<std::byte*>(device_pointer(copy)));
  return copy;
}

mx::array host_array(
    void* data,
    std::size_t n_bytes,
    const mx::Shape& shape,
    mx::Dtype dtype,
    std::function<void()> release) {
  // MLX leaves where it is what belongs to no device.
  auto* buffer = new mx::cu::CudaBuffer{data, n_bytes, -1};
  return mx::array(
      mx::allocator::Data{
          mx::allocator::Buffer(buffer),
          [release = std::move(release)](mx::allocator::Buffer dead) {
            release();
            delete static_cast<mx::cu::CudaBuffer*>(dead.ptr());
          }},
      shape,
      dtype);
}

mx::array new_array(
    const std::shared_ptr<DevicePool>& pool,
    const mx::Shape& shape,
    mx::Dtype dtype) {
  std::size_t n_bytes = mx::size_of(dtype);
  for (const auto size : shape) {
    n_bytes *= static_cast<std::size_t>(size);
  }
  return mx::array(pool->take(n_bytes), shape, dtype);
}

mx::array
allocate_bytes(const std::shared_ptr<DevicePool>& pool, std::size_t n_bytes) {
  // In one dimension of 4 bytes: a dimension is an int.
  const auto n_words = (n_bytes + 3) / 4;
  return mx::array(
      pool->take(4 * n_words),
      mx::Shape{static_cast<int>(n_words)},
      mx::uint32);
}

void* device_pointer(const mx::array& array) {
  return const_cast<char*>(mx::gpu_ptr<char>(array));
}

cudaStream_t stream_behind(mx::Stream stream) {
  auto& encoder = mx::cu::get_command_encoder(stream);
  if (recorded_nodes(encoder) > 0) {
    encoder.commit();
  }
  return encoder.stream();
}

void keep_until_done(mx::Stream stream, const mx::array& array) {
  mx::cu::get_command_encoder(stream).add_temporary(array);
}

void keep_until_done(mx::Stream stream, std::shared_ptr<const void> anything) {
  mx::cu::get_command_encoder(stream).add_completed_handler(
      [kept = std::move(anything)]() mutable { kept.reset(); });
}

} // namespace qwen3_mlx::cuda
