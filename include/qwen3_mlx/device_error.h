// SPDX-License-Identifier: MIT
// What a GPU reports.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

/// CUDA could not do something: what() is "CUDA: <operation>: <reason>".
/// An operation that fails while it runs is noticed later, and then
/// operation() may name one behind it; with the environment's
/// CUDA_LAUNCH_BLOCKING=1 it does not.
class DeviceError : public Error {
 public:
  DeviceError(std::string operation, std::string_view reason)
      : Error("CUDA: " + operation + ": " + std::string(reason)),
        operation_(std::move(operation)) {}

  const std::string& operation() const noexcept {
    return operation_;
  }

 private:
  std::string operation_;
};

} // namespace qwen3_mlx
