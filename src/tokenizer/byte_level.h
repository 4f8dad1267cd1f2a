// SPDX-License-Identifier: MIT
// GPT-2's printable alphabet for bytes: vocabulary files write the byte 0x20 as
// U+0120. Printable Latin-1 stands for itself, the others follow from U+0100.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qwen3_mlx {

/// Appends the bytes that `token` spells in the alphabet to `out`. False, and
/// `out` as it was, when a character is not of the alphabet.
bool append_spelled_bytes(std::string_view token, std::string& out);

/// `bytes` spelled in the alphabet.
std::string spell_bytes(std::string_view bytes);

} // namespace qwen3_mlx
