// SPDX-License-Identifier: MIT
#include "server/api_error.h"

#include <new>

#include "engine/request.h"

namespace qwen3_mlx::server {
namespace {

const char* type_of(int status) {
  switch (status) {
  case 401:
    return "authentication_error";
  case 403:
    return "permission_error";
  case 404:
    return "not_found_error";
  case 503:
    return "unavailable_error";
  case 504:
    return "timeout_error";
  default:
    return status < 500 ? "invalid_request_error" : "server_error";
  }
}

} // namespace

ApiError::ApiError(
    int status,
    std::string message,
    std::string param,
    std::string code)
    : Error(message), status_(status), param_(std::move(param)),
      code_(std::move(code)) {}

Json error_json(
    int status,
    const std::string& message,
    const std::string& param,
    const std::string& code) {
  Json error{{"message", message}, {"type", type_of(status)}};
  error["param"] = param.empty() ? Json(nullptr) : Json(param);
  error["code"] = code.empty() ? Json(nullptr) : Json(code);
  return {{"error", error}};
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status();
  response.body = to_text(
      error_json(error.status(), error.what(), error.param(), error.code()));
  if (error.status() == 503) {
    response.headers.emplace_back("Retry-After", "1");
  } else if (error.status() == 401) {
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
  }
  return response;
}

HttpResponse error_response(const std::exception& error) {
  if (const auto* api = dynamic_cast<const ApiError*>(&error)) {
    return error_response(*api);
  }
  if (dynamic_cast<const engine::QueueFull*>(&error) != nullptr) {
    return error_response(ApiError(503, error.what(), {}, "queue_full"));
  }
  if (dynamic_cast<const engine::EngineStopped*>(&error) != nullptr) {
    return error_response(ApiError(503, error.what(), {}, "shutting_down"));
  }
  if (dynamic_cast<const TemplateError*>(&error) != nullptr) {
    return error_response(ApiError(
        400,
        "the model's chat template refuses this conversation: " +
            std::string(error.what()),
        "messages"));
  }
  // "prompt: ...": the library's messages begin with the field.
  if (dynamic_cast<const InvalidArgument*>(&error) != nullptr) {
    const std::string message = error.what();
    const auto colon = message.find(": ");
    const auto field = message.substr(0, colon);
    const bool is_field =
        colon != std::string::npos && field.find(' ') == std::string::npos;
    return error_response(ApiError(400, message, is_field ? field : ""));
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return error_response(ApiError(503, "out of memory; try again later"));
  }
  return error_response(ApiError(500, error.what()));
}

} // namespace qwen3_mlx::server
