// SPDX-License-Identifier: MIT
#include "base/release_memory.h"

#include <cstdlib> // defines __GLIBC__

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace qwen3_mlx {

void release_freed_memory() {
#if defined(__GLIBC__)
  malloc_trim(/* pad */ 0);
#endif
}

} // namespace qwen3_mlx
