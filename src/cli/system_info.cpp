// SPDX-License-Identifier: MIT

#include "cli/system_info.h"

#include <mlx/mlx.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <variant>

#include "base/thread_pool.h"
#include "cli/terminal.h"
#include "kernels/cpu/isa.h"
#include "kernels/cuda/runtime.h"

namespace qwen3_mlx::cli {

nlohmann::ordered_json system_info() {
  nlohmann::ordered_json info{
      {"qwen3-mlx", QWEN3_MLX_VERSION}, {"mlx", mlx::core::version()}};
  struct utsname name {};
  if (uname(&name) == 0) {
    info["system"] = std::string(name.sysname) + " " + name.release;
    info["machine"] = name.machine;
  }
  info["cores"] = std::thread::hardware_concurrency();
  info["physical_cores"] = physical_core_count();
  // Best first; QWEN3_MLX_ISA picks another.
  info["cpu_kernels"] = cpu::select_kernels().name;
  auto available = nlohmann::ordered_json::array();
  for (const cpu::KernelTable* table : cpu::available_kernels()) {
    available.push_back(table->name);
  }
  info["cpu_kernels_available"] = std::move(available);
  const auto reason = cuda::why_unavailable();
  info["cuda_kernels"] = reason ? "not used: " + *reason : "used";
  if (!reason) {
    info["cuda_kernels_leave_to_mlx"] = cuda::what_falls_back();
  }
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_size = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page_size > 0) {
    info["memory"] = human_bytes(
        static_cast<std::uint64_t>(pages) *
        static_cast<std::uint64_t>(page_size));
  }
  const bool has_gpu = mlx::core::is_available(mlx::core::Device::gpu);
  info["gpu"] = has_gpu;
  info["default_device"] =
      mlx::core::default_device() == mlx::core::Device::gpu ? "gpu" : "cpu";
  if (has_gpu) {
    const mlx::core::Device gpu = mlx::core::Device::gpu;
    for (const auto& entry : mlx::core::device_info(gpu)) {
      std::visit(
          [&](const auto& value) { info["gpu_" + entry.first] = value; },
          entry.second);
    }
  }
  return info;
}

std::uint64_t max_resident_bytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<std::uint64_t>(usage.ru_maxrss);
#else
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024; // in KiB there
#endif
}

} // namespace qwen3_mlx::cli
