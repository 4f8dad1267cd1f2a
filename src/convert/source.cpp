// SPDX-License-Identifier: MIT
#include "convert/source.h"

#include <system_error>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

ConvertSource open_source(
    const std::filesystem::path& from,
    const std::filesystem::path& to) {
  std::error_code error;
  if (std::filesystem::equivalent(from, to, error)) {
    throw InvalidArgument(
        "the target " + to.string() + " is the checkpoint itself");
  }
  return {get_model_args(from), Checkpoint::open(from)};
}

} // namespace qwen3_mlx
