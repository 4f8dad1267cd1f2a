// SPDX-License-Identifier: MIT
#include "server/request_reader.h"

#include <cctype>
#include <string>
#include <utility>

#include "server/api_error.h"

namespace qwen3_mlx::server {
namespace {

using Parser = http::request_parser<http::string_body>;
using std::chrono::steady_clock;

// Reads on until the parser has the header, or with `whole` the body as well.
// (Beast's own reads end by closing the socket where the time is over; nothing
// could be answered then.)
asio::awaitable<error_code> parse(
    ClientSocket& socket,
    Parser& parser,
    bool whole,
    ClientSocket::TimePoint deadline) {
  constexpr std::size_t most_at_once = std::size_t{64} << 10;
  auto& buffer = socket.buffer();
  parser.eager(whole);
  while (whole ? !parser.is_done() : !parser.is_header_done()) {
    error_code ec;
    if (buffer.size() > 0) {
      buffer.consume(parser.put(buffer.data(), ec));
      if (!ec) {
        continue;
      }
      if (ec != http::error::need_more) {
        co_return ec;
      }
    }
    ec = co_await socket.read_more(most_at_once, deadline);
    if (ec == asio::error::eof) {
      if (!parser.got_some()) {
        co_return http::error::end_of_stream;
      }
      co_return http::error::partial_message;
    }
    if (ec) {
      co_return ec;
    }
  }
  co_return error_code{};
}

// What went wrong while reading; nothing where nobody is there to be told.
std::optional<HttpResponse> refusal_of(const error_code& ec) {
  const error_code http_error = http::error::end_of_stream;
  if (ec == asio::error::timed_out) {
    return refuse(408, "the request took too long to arrive");
  }
  if (ec == http_error || ec.category() != http_error.category()) {
    return std::nullopt;
  }
  if (ec == http::error::header_limit) {
    return refuse(431, "the header is too long");
  }
  if (ec == http::error::buffer_overflow) {
    return refuse(431, "a chunk's header or the trailers are too long");
  }
  if (ec == http::error::body_limit) {
    return refuse(413, "the body is too long");
  }
  return refuse(400, "the request is not well-formed HTTP: " + ec.message());
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& letter : out) {
    letter =
        static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  return out;
}

void take_head(const Parser& parser, const Limits& limits, Incoming& incoming) {
  const auto& message = parser.get();
  auto& request = incoming.request;
  incoming.keep_alive = message.keep_alive();
  incoming.takes_chunks = message.version() >= 11;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  const auto question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string::npos) {
    request.query = target.substr(question + 1);
  }
  int num_hosts = 0;
  for (const auto& field : message) {
    auto name = lower_case(field.name_string());
    num_hosts += name == "host" ? 1 : 0;
    request.headers.emplace_back(std::move(name), field.value());
  }
  if (target.size() > limits.max_target_bytes) {
    incoming.refusal = refuse(414, "the address is too long");
  } else if (request.headers.size() > limits.max_headers) {
    incoming.refusal = refuse(431, "there are too many headers");
  } else if (!target.starts_with('/')) {
    incoming.refusal = refuse(400, "the address must begin with \"/\"");
  } else if (message.version() != 11 && message.version() != 10) {
    incoming.refusal = refuse(400, "only HTTP/1.0 and HTTP/1.1 are served");
  } else if (num_hosts > 1 || (num_hosts == 0 && message.version() == 11)) {
    incoming.refusal = refuse(400, "expected one Host header");
  } else if (
      !request.header("transfer-encoding").empty() && !parser.chunked()) {
    incoming.refusal =
        refuse(400, "the only transfer encoding served is \"chunked\"");
  } else if (
      !request.header("expect").empty() &&
      request.header("expect") != "100-continue") {
    incoming.refusal = refuse(417, "only 100-continue can be expected");
  }
  if (incoming.refusal) {
    incoming.keep_alive = false;
  }
}

} // namespace

HttpResponse refuse(int status, const std::string& why) {
  return error_response(ApiError(status, why));
}

asio::awaitable<std::optional<Incoming>>
read_request(ClientSocket& socket, const Limits& limits, const Admit& admit) {
  Incoming incoming;
  incoming.begun = steady_clock::now();
  auto& request = incoming.request;
  request.peer = socket.peer();
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(limits.max_header_bytes));
  parser.body_limit(limits.max_body_bytes);
  auto ec = co_await parse(
      socket, parser, /* whole */ false, incoming.begun + limits.header_time);
  if (ec) {
    incoming.refusal = refusal_of(ec);
    if (!incoming.refusal) {
      co_return std::nullopt;
    }
    co_return incoming;
  }
  take_head(parser, limits, incoming);
  const bool has_body =
      parser.chunked() || parser.content_length().value_or(0) > 0;
  if (!incoming.refusal) {
    incoming.refusal = admit(incoming);
  }
  if (incoming.refusal || !has_body) {
    // A body that is not read has no known end.
    incoming.keep_alive = incoming.keep_alive && !has_body;
    co_return incoming;
  }
  if (request.header("expect") == "100-continue" &&
      socket.buffer().size() == 0) {
    constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    const bool sent = co_await socket.write(go_on, {}, limits.write_time);
    if (!sent) {
      co_return std::nullopt;
    }
  }
  const auto length = parser.content_length().value_or(limits.max_body_bytes);
  const auto body_time =
      limits.body_time + milliseconds(length / (64 << 10) * 1000);
  ec = co_await parse(
      socket, parser, /* whole */ true, steady_clock::now() + body_time);
  if (ec) {
    incoming.keep_alive = false;
    incoming.refusal = refusal_of(ec);
    if (!incoming.refusal) {
      co_return std::nullopt;
    }
    co_return incoming;
  }
  request.body = std::move(parser.get().body());
  co_return incoming;
}

} // namespace qwen3_mlx::server
