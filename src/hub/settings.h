// SPDX-License-Identifier: MIT
// Where the hub is and how it is spoken to, from the environment variables of
// huggingface_hub.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>

namespace qwen3_mlx::hub {

struct Settings {
  std::string endpoint = "https://huggingface.co"; ///< Without "/" at its end.
  std::filesystem::path cache; ///< Holds "models--org--name" folders.
  std::string token;           ///< Empty: none.
  bool offline = false;        ///< The cache only.
  std::chrono::milliseconds connect_timeout{10'000};
  /// A transfer that brings nothing for this long counts as lost.
  std::chrono::milliseconds stall_timeout{30'000};
  int n_connections = 4; ///< Files at a time.
  /// Failures in a row without a byte of progress that are tried again.
  int max_retries = 5;
  std::chrono::milliseconds first_delay{1'000}; ///< Doubles each time.
  /// The longest a server may ask to wait (Retry-After), in all.
  std::chrono::seconds max_wait{300};
};

/// The value of an environment variable, or null.
using Environment = std::function<const char*(const char* name)>;

/// Reads HF_ENDPOINT, HF_HUB_CACHE (HUGGINGFACE_HUB_CACHE), HF_HOME,
/// XDG_CACHE_HOME and HOME, HF_TOKEN (HUGGING_FACE_HUB_TOKEN) or the file at
/// HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE
/// (TRANSFORMERS_OFFLINE), HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (in
/// seconds), and for tests QWEN3_MLX_HUB_DELAY_MS, the first delay. Throws
/// InvalidArgument naming a variable whose value cannot be.
Settings settings_from(const Environment& environment);

} // namespace qwen3_mlx::hub
