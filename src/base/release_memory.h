// SPDX-License-Identifier: MIT
#pragma once

namespace qwen3_mlx {

/// Gives freed memory back to the system. glibc keeps what lies between other
/// blocks, so that large buffers which lived for a moment would count until the
/// end. Takes about a millisecond; without effect elsewhere.
void release_freed_memory();

} // namespace qwen3_mlx
