// SPDX-License-Identifier: MIT
// A client's socket: reads and writes with limits of time, keeps what the
// client sent early, and notices when it leaves while its answer is computed.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/network.h"
#include "server/options.h"

namespace qwen3_mlx::server {

/// Used by one coroutine, on the network's thread.
class ClientSocket {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// Most bytes in buffer(). Of a chunk's header, of trailers and of what is
  /// sent before the last request is answered nothing else bounds the length.
  static constexpr std::size_t kMaxUnparsed = std::size_t{256} << 10;

  explicit ClientSocket(tcp::socket socket);

  /// The client's address.
  const std::string& peer() const {
    return peer_;
  }
  asio::any_io_executor executor() {
    return socket_.get_executor();
  }
  /// What was read and not yet consumed.
  beast::flat_buffer& buffer() {
    return buffer_;
  }

  /// Reads what comes next, up to `most` bytes, into buffer(). At `deadline`
  /// the error is timed_out, and the socket can still be written to.
  asio::awaitable<error_code> read_more(std::size_t most, TimePoint deadline);

  /// Writes all of both, or tells by false that the client has left or takes
  /// too long, after which the socket is closed.
  asio::awaitable<bool>
  write(std::string_view head, std::string_view body, milliseconds limit);

  /// Calls `on_gone`, once at most, when the client closes the connection, even
  /// behind bytes of a next request, or sends more than kMaxUnparsed of them.
  /// Until end_watch() is through there must be no read_more().
  void watch(std::function<void()> on_gone);
  asio::awaitable<void> end_watch();

  /// Ends a read that waits.
  void cancel();

  /// Tells the client that nothing more comes, and reads for a moment what it
  /// is still sending: a close with unread bytes resets the connection, by
  /// which the client may lose the response.
  asio::awaitable<void> close();

 private:
  struct Watch;

  void watch_more();

  tcp::socket socket_;
  beast::flat_buffer buffer_{kMaxUnparsed};
  std::string peer_;
  std::shared_ptr<Watch> watch_;
};

} // namespace qwen3_mlx::server
