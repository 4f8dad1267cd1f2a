// SPDX-License-Identifier: MIT
#include "kernels/cuda/runtime.h"

#include <algorithm>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/runtime_state.h"
#include "kernels/cuda/warpgroup_gemm.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/version.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

std::optional<Float> float_of(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? std::optional(Float::bf16)
      : dtype == mx::float16   ? std::optional(Float::f16)
                               : std::nullopt;
}

} // namespace

std::optional<std::string> why_unavailable() {
  if (!mx::cu::is_available()) {
    return "MLX sees no NVIDIA GPU";
  }
  if (const std::string version = mx::version();
      version != QWEN3_MLX_BUILT_FOR_MLX) {
    return "built for MLX " QWEN3_MLX_BUILT_FOR_MLX ", running with " + version;
  }
  int major = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) !=
      cudaSuccess) {
    cudaGetLastError();
    return "the GPU does not answer";
  }
  if (major < 8) {
    return "needs compute capability 8.0";
  }
  if (!has_code()) {
    return "built for other GPUs than this one";
  }
  return std::nullopt;
}

std::vector<std::string> what_falls_back() {
  return {
      "matrices of affine groups other than 32, 64 and 128, or of columns that "
      "8 does not divide: there is no layout for them",
      "experts in mxfp8 and nvfp4: products with these are made for few rows",
      "attention in float32, to heads of dimensions other than 64, 96, 128 and "
      "256, or of more than 16 query heads a key head (8 with a quantized "
      "cache): no kernel was made for them",
      "a quantized cache whose first positions are plain (quantized_kv_start), "
      "and one that rotates: kernels know one form a cache",
      "one long prompt alone: MLX's attention is faster there"};
}

std::shared_ptr<Runtime> make_runtime(bool exact) {
  if (const auto reason = why_unavailable()) {
    throw Error("CUDA kernels: " + *reason);
  }
  auto runtime = std::make_shared<Runtime>();
  runtime->exact = exact;
  int major = 0;
  check(cudaGetDevice(&runtime->device), "device");
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, runtime->device), "device");
    return value;
  };
  major = attribute(cudaDevAttrComputeCapabilityMajor);
  runtime->launcher = {
      .stream = nullptr,
      .num_sms = attribute(cudaDevAttrMultiProcessorCount),
      .shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
      .overlap = major >= 9,
      .has_warpgroups = major == 9 && has_warpgroup_code()};
  runtime->pool = make_device_pool();
  return runtime;
}

bool is_exact(const Runtime& runtime) {
  return runtime.exact;
}

unsigned* Runtime::counters_of(cudaStream_t stream, std::size_t count) {
  constexpr std::size_t min_count = 4096;
  const std::lock_guard lock(mutex_);
  auto found = counters_.find(stream);
  if (found == counters_.end() || found->second.count < count) {
    const auto size = std::max(min_count, 2 * count);
    auto memory = allocate_bytes(pool, size * sizeof(unsigned));
    check(
        cudaMemsetAsync(
            device_pointer(memory), 0, size * sizeof(unsigned), stream),
        "counters");
    if (found != counters_.end()) {
      // What runs still counts in the old ones.
      check(cudaStreamSynchronize(stream), "counters");
      counters_.erase(found);
    }
    found = counters_.emplace(stream, Counters{std::move(memory), size}).first;
  }
  return static_cast<unsigned*>(device_pointer(found->second.memory));
}

std::optional<PackedLayout> layout_of(const Matrix& source) {
  const auto& format = source.format;
  PackedLayout layout{.rows = source.out_dim(), .cols = source.in_dim()};
  if (layout.rows < 1 || layout.cols < 8 || layout.cols % 8 != 0) {
    return std::nullopt;
  }
  if (source.weight.ndim() == 3 && layout.rows % kBlockRows != 0) {
    return std::nullopt; // stacks are read as one tall matrix too
  }
  if (!format.is_quantized()) {
    const auto type = float_of(source.weight.dtype());
    if (!type) {
      return std::nullopt;
    }
    layout.type = *type;
    return layout;
  }
  if (format.mode != QuantMode::affine) {
    // Products with small floats are made for few rows alone: stacks of
    // experts, which are given many, stay as MLX has them.
    const bool small = format.mode != QuantMode::mxfp4;
    if (small && source.weight.ndim() == 3) {
      return std::nullopt;
    }
    layout.bits = format.mode == QuantMode::nvfp4 ? 4 : 8;
    layout.group = 32; // with nvfp4 two groups
    layout.type = Float::bf16;
    layout.form = !small                  ? CodeForm::affine
        : format.mode == QuantMode::nvfp4 ? CodeForm::e2m1
                                          : CodeForm::e4m3;
    return layout;
  }
  // Narrow codes are put into wider ones, which changes no number.
  const bool known = format.bits >= 2 && format.bits <= 8 && format.bits != 7 &&
      (format.group_size == 32 || format.group_size == 64 ||
       format.group_size == 128);
  if (!known) {
    return std::nullopt;
  }
  const auto type = float_of(source.scales->dtype());
  if (!type) {
    return std::nullopt;
  }
  layout.bits = format.bits <= 4 ? 4 : 8;
  layout.group = format.group_size;
  layout.type = *type;
  return layout;
}

std::optional<Matrix>
make_blocks(const Matrix& source, const std::shared_ptr<Runtime>& runtime) {
  const auto layout = layout_of(source);
  if (!layout) {
    return std::nullopt;
  }
  const int num_matrices =
      source.weight.ndim() == 3 ? source.weight.shape(0) : 0;
  const int count = std::max(1, num_matrices);
  mx::array weight(
      mx::Shape{
          count * layout->row_blocks(), static_cast<int>(layout->row_bytes())},
      mx::uint8,
      nullptr,
      {});
  allocate(runtime->pool, weight);
  weight.set_status(mx::array::Status::available);
  return Matrix{
      weight,
      std::nullopt,
      std::nullopt,
      source.format,
      nullptr,
      std::make_shared<Blocks>(Blocks{*layout, num_matrices, runtime})};
}

} // namespace qwen3_mlx::cuda
