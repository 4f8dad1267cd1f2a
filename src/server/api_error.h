// SPDX-License-Identifier: MIT
// What a client did wrong, in the terms of OpenAI's API, and the one place that
// maps every exception to a response.
#pragma once

#include <exception>
#include <optional>
#include <string>

#include "qwen3_mlx/error.h"
#include "server/http.h"
#include "server/json.h"

namespace qwen3_mlx::server {

class ApiError : public Error {
 public:
  ApiError(
      int status,
      std::string message,
      std::string param = {},
      std::string code = {});

  int status() const noexcept {
    return status_;
  }
  const std::string& param() const noexcept {
    return param_;
  }
  const std::string& code() const noexcept {
    return code_;
  }

 private:
  int status_;
  std::string param_;
  std::string code_;
};

/// {"error": {"message", "type", "param", "code"}}
Json error_json(
    int status,
    const std::string& message,
    const std::string& param = {},
    const std::string& code = {});

HttpResponse error_response(const ApiError& error);

/// Of whatever was thrown while a request was handled: what the client can
/// cure is 4xx and says how, the rest is 500.
HttpResponse error_response(const std::exception& error);

} // namespace qwen3_mlx::server
