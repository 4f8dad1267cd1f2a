// SPDX-License-Identifier: MIT
#include "engine/memory_plan.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include <mlx/mlx.h>
#include <unistd.h>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

// "MemAvailable:   123 kB" of /proc/meminfo, where there is one.
std::optional<std::size_t> linux_available() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  std::size_t kilobytes = 0;
  std::string unit;
  while (file >> name >> kilobytes) {
    std::getline(file, unit);
    if (name == "MemAvailable:") {
      return kilobytes * 1024;
    }
  }
  return std::nullopt;
}

std::optional<std::size_t> number_in(const char* path) {
  std::ifstream file(path);
  std::size_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

// What a container's limit leaves.
std::optional<std::size_t> container_available() {
  const auto limit = number_in("/sys/fs/cgroup/memory.max");
  const auto used = number_in("/sys/fs/cgroup/memory.current");
  if (!limit || !used) {
    return std::nullopt;
  }
  return *limit > *used ? *limit - *used : 0;
}

std::size_t host_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
      static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
}

// Activations of a step: the widest layer's inputs and outputs, float32, twice
// over for what lives at once, and the logits with what sampling makes of them;
// logits of a second step where it begins before they are done with.
std::size_t workspace_bytes(const ModelArgs& args, const StepLimits& limits) {
  const auto wide = [](int n) { return static_cast<std::size_t>(n); };
  const auto rows = wide(limits.max_step_tokens) + wide(limits.max_running);
  const auto num_heads =
      wide(args.num_attention_heads) + 2 * wide(args.num_key_value_heads);
  const auto width = 3 * wide(args.hidden_size) +
      3 * wide(args.intermediate_size) + num_heads * wide(args.head_dim);
  const auto logits = wide(limits.max_running) * wide(args.vocab_size);
  const std::size_t copies = limits.goes_ahead ? 5 : 4;
  return sizeof(float) * (2 * rows * width + copies * logits);
}

std::string in_mib(std::size_t n_bytes) {
  return std::to_string(n_bytes >> 20) + " MiB";
}

} // namespace

std::size_t free_memory(const Model& model) {
  const mx::Device device = model.device();
  if (device == mx::Device::gpu) {
    const auto& info = mx::device_info(device);
    const auto total = info.find("memory_size");
    if (total != info.end() &&
        std::holds_alternative<std::size_t>(total->second)) {
      const auto size = std::get<std::size_t>(total->second);
      return size - std::min(size, mx::get_active_memory());
    }
  }
  const auto available = linux_available().value_or(host_memory() / 2);
  return std::min(available, container_available().value_or(available));
}

MemoryPlan plan_memory(
    const Model& model,
    const KvLayout& layout,
    const StepLimits& limits,
    const MemoryOptions& options) {
  MemoryPlan plan;
  for (const auto& tensor : model.tensors()) {
    plan.weights += tensor.n_bytes;
  }
  plan.workspace = workspace_bytes(model.args(), limits);
  const auto budget = options.max_bytes.value_or(
      plan.weights +
      static_cast<std::size_t>(
          static_cast<double>(free_memory(model)) * options.share_of_free));
  const auto fixed = plan.weights + plan.workspace;
  const auto for_blocks = budget > fixed ? budget - fixed : 0;
  // More than every place at its longest is of no use, but to the prefix cache.
  const auto useful = 2 * static_cast<std::size_t>(limits.max_running) *
      static_cast<std::size_t>(limits.max_context / layout.block_size + 2);
  const auto most = static_cast<std::size_t>(
      std::numeric_limits<int>::max() / layout.block_size);
  const auto num_blocks =
      std::min({for_blocks / layout.block_bytes, useful, most});
  if (num_blocks < 2) {
    throw Error(
        "memory: " + in_mib(budget) + " allowed; weights take " +
        in_mib(plan.weights) + ", a step " + in_mib(plan.workspace) +
        ", and two blocks of keys and values " +
        in_mib(2 * layout.block_bytes) +
        "; raise --max-memory or lower --max-num-seqs");
  }
  plan.num_blocks = static_cast<int>(num_blocks);
  plan.cache = num_blocks * layout.block_bytes;
  const auto cached = options.max_cache_bytes
      ? std::min(*options.max_cache_bytes / layout.block_bytes, num_blocks)
      : num_blocks;
  plan.max_cached_blocks = static_cast<int>(cached);
  return plan;
}

} // namespace qwen3_mlx::engine
