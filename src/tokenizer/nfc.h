// SPDX-License-Identifier: MIT
// Unicode normalization form C, as Python `tokenizers` computes it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qwen3_mlx {

/// The NFC form of `text`, which must be valid UTF-8; nullopt when it is in
/// that form already, which is the fast and usual case.
std::optional<std::string> to_nfc(std::string_view text);

} // namespace qwen3_mlx
