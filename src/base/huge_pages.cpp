// SPDX-License-Identifier: MIT
#include "base/huge_pages.h"

#include <cstdint>
#include <cstdlib>
#include <string>

#include "qwen3_mlx/error.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qwen3_mlx {

void advise_huge_pages(void* data, std::size_t n_bytes) {
#if defined(__linux__)
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::size_t before =
      (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  if (n_bytes < before + kHugePageBytes) {
    return;
  }
  const std::size_t whole =
      (n_bytes - before) / kHugePageBytes * kHugePageBytes;
  // A system without huge pages refuses: then small ones serve.
  static_cast<void>(
      madvise(static_cast<std::byte*>(data) + before, whole, MADV_HUGEPAGE));
#else
  static_cast<void>(data);
  static_cast<void>(n_bytes);
#endif
}

std::shared_ptr<std::byte[]> allocate_huge_pages(std::size_t n_bytes) {
  const std::size_t rounded =
      (n_bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* const data = std::aligned_alloc(kHugePageBytes, rounded);
  if (data == nullptr) {
    throw Error("cannot allocate " + std::to_string(rounded) + " bytes");
  }
  advise_huge_pages(data, rounded);
  return {static_cast<std::byte*>(data), [](std::byte* memory) {
            std::free(memory);
          }};
}

} // namespace qwen3_mlx
