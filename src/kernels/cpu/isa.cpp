// SPDX-License-Identifier: MIT
#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "kernels/cpu/isa_tables.h"
#include "qwen3_mlx/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace qwen3_mlx::cpu {

namespace {

#if defined(__x86_64__)
// Compilers before GCC 13 and clang 15 have no name for AVX-VNNI, clang 14 none
// for F16C: leaf 7, subleaf 1, bit 4 of EAX (5: bfloat16 in AVX-512), and leaf
// 1, bit 29 of ECX.
bool has_leaf_7_1(unsigned bit) {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
      (eax & (1U << bit)) != 0;
}
bool has_avx_vnni() {
  return has_leaf_7_1(4);
}
bool has_avx512_bf16() {
  return has_leaf_7_1(5);
}

bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1U << 29)) != 0;
}

// The compiler's checks include that the system saves the wide registers.
void append_native(std::vector<const KernelTable*>& tables) {
  const bool has_avx2 = __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && has_f16c();
  if (has_avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    if (has_avx512_bf16()) {
      tables.push_back(&avx512bf16::table);
    }
    tables.push_back(&avx512::table);
  }
  if (has_avx2 && has_avx_vnni()) {
    tables.push_back(&avxvnni::table);
  }
  if (has_avx2) {
    tables.push_back(&avx2::table);
  }
}
#elif defined(__aarch64__)
bool has_i8mm() {
#if defined(__linux__)
  constexpr unsigned long kHwcap2I8mm = 1UL << 13;
  return (getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0;
#elif defined(__APPLE__)
  int value = 0;
  std::size_t size = sizeof(value);
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &size, nullptr, 0) ==
      0 &&
      value != 0;
#else
  return false;
#endif
}

void append_native(std::vector<const KernelTable*>& tables) {
#if defined(__linux__)
  constexpr unsigned long kHwcapDotProduct = 1UL << 20;
  if ((getauxval(AT_HWCAP) & kHwcapDotProduct) == 0) {
    return;
  }
#endif
  if (has_i8mm()) {
    tables.push_back(&neon_i8mm::table);
  }
  // All processors that run macOS on arm64 have it.
  tables.push_back(&neon::table);
}
#else
void append_native(std::vector<const KernelTable*>&) {}
#endif

} // namespace

std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables;
  append_native(tables);
  tables.push_back(&portable::table);
  return tables;
}

const KernelTable& find_kernels(std::string_view name) {
  std::string known;
  for (const KernelTable* table : available_kernels()) {
    if (table->name == name) {
      return *table;
    }
    known += known.empty() ? "" : ", ";
    known += table->name;
  }
  throw InvalidArgument(
      "instruction set \"" + std::string(name) +
      "\" is not available on this machine; there are: " + known);
}

const KernelTable& select_kernels() {
  const char* const wanted = std::getenv("QWEN3_MLX_ISA");
  return wanted != nullptr && *wanted != '\0' ? find_kernels(wanted)
                                              : *available_kernels().front();
}

} // namespace qwen3_mlx::cpu
