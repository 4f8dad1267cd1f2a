// SPDX-License-Identifier: MIT
#include "server/http.h"

#include <charconv>

namespace qwen3_mlx::server {

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) {
      return value;
    }
  }
  return {};
}

std::string_view reason_phrase(int status) {
  switch (status) {
  case 200:
    return "OK";
  case 204:
    return "No Content";
  case 400:
    return "Bad Request";
  case 401:
    return "Unauthorized";
  case 403:
    return "Forbidden";
  case 404:
    return "Not Found";
  case 405:
    return "Method Not Allowed";
  case 408:
    return "Request Timeout";
  case 413:
    return "Content Too Large";
  case 414:
    return "URI Too Long";
  case 415:
    return "Unsupported Media Type";
  case 417:
    return "Expectation Failed";
  case 431:
    return "Request Header Fields Too Large";
  case 503:
    return "Service Unavailable";
  case 504:
    return "Gateway Timeout";
  default:
    return status < 500 ? "Error" : "Internal Server Error";
  }
}

std::string head_of(const HttpResponse& response, const HeadOptions& options) {
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " " +
      std::string(reason_phrase(response.status)) + "\r\n";
  const auto add = [&head](std::string_view name, std::string_view value) {
    head.append(name).append(": ").append(value).append("\r\n");
  };
  if (response.status != 204) {
    add("Content-Type", response.content_type);
    if (options.chunked) {
      add("Transfer-Encoding", "chunked");
    } else {
      add("Content-Length", std::to_string(response.body.size()));
    }
  }
  add("Connection", options.keep_alive ? "keep-alive" : "close");
  add("X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : response.headers) {
    add(name, value);
  }
  return head + "\r\n";
}

std::string chunk_of(std::string_view data) {
  char digits[17];
  const auto end =
      std::to_chars(digits, digits + sizeof digits, data.size(), 16).ptr;
  return std::string(digits, end) + "\r\n" + std::string(data) + "\r\n";
}

} // namespace qwen3_mlx::server
