// SPDX-License-Identifier: MIT
#include "kernels/cuda/warpgroup_map.h"

#include <algorithm>
#include <string>

namespace qwen3_mlx::cuda {
namespace {

using EncodeTensorMap = CUresult (*)(
    CUtensorMap*,
    CUtensorMapDataType,
    cuuint32_t,
    void*,
    const cuuint64_t*,
    const cuuint64_t*,
    const cuuint32_t*,
    const cuuint32_t*,
    CUtensorMapInterleave,
    CUtensorMapSwizzle,
    CUtensorMapL2promotion,
    CUtensorMapFloatOOBfill);

// The driver's function, which is found at run time.
EncodeTensorMap encode_tensor_map() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(
        cudaGetDriverEntryPointByVersion(
            "cuTensorMapEncodeTiled",
            &function,
            12000,
            cudaEnableDefault,
            &result),
        "tensor map");
    if (function == nullptr || result != cudaDriverEntryPointSuccess) {
      throw Error("CUDA: the driver knows no tensor maps");
    }
    return reinterpret_cast<EncodeTensorMap>(function);
  }();
  return found;
}

} // namespace

CUtensorMap map_of(const GemvArgs& args, int row_blocks) {
  const auto& layout = args.layout;
  const auto halves = static_cast<cuuint32_t>(args.gated ? 2 : 1);
  const auto rows = static_cast<cuuint64_t>(layout.row_blocks()) / halves;
  const cuuint64_t shape[] = {
      layout.row_bytes() / 8,
      halves,
      rows,
      static_cast<cuuint64_t>(std::max(1, args.num_experts))};
  const cuuint64_t strides[] = {
      rows * layout.row_bytes(), layout.row_bytes(), layout.n_bytes()};
  const cuuint32_t box[] = {
      static_cast<cuuint32_t>(layout.block_bytes() / 8),
      halves,
      static_cast<cuuint32_t>(row_blocks) / halves,
      1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult status = encode_tensor_map()(
      &map,
      CU_TENSOR_MAP_DATA_TYPE_INT64,
      4,
      const_cast<void*>(args.weight),
      shape,
      strides,
      box,
      steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw Error(
        "CUDA: a tensor map was refused: " +
        std::to_string(static_cast<int>(status)));
  }
  return map;
}

} // namespace qwen3_mlx::cuda
