// SPDX-License-Identifier: MIT
#include "server/client_socket.h"

#include <algorithm>
#include <array>
#include <utility>

namespace qwen3_mlx::server {
namespace {

// Calls `expire` at a time, unless it is destroyed before.
class Deadline {
 public:
  Deadline(
      const asio::any_io_executor& executor,
      ClientSocket::TimePoint when,
      std::function<void()> expire)
      : state_(std::make_shared<State>(State{std::move(expire)})),
        timer_(executor, when) {
    timer_.async_wait([weak = std::weak_ptr(state_)](error_code ec) {
      // A timer that has run out calls this even when it is gone since.
      const auto state = weak.lock();
      if (!ec && state) {
        state->has_passed = true;
        state->expire();
      }
    });
  }

  bool has_passed() const {
    return state_->has_passed;
  }

 private:
  struct State {
    std::function<void()> expire;
    bool has_passed = false;
  };
  std::shared_ptr<State> state_;
  asio::steady_timer timer_;
};

} // namespace

struct ClientSocket::Watch {
  Watch(const asio::any_io_executor& executor, std::function<void()> tell)
      : on_gone(std::move(tell)), ended(executor, TimePoint::max()) {}

  std::function<void()> on_gone;
  asio::steady_timer ended; ///< Cancelled when end_watch() need not wait.
  bool is_reading = false;
  bool is_ending = false;
};

ClientSocket::ClientSocket(tcp::socket socket) : socket_(std::move(socket)) {
  error_code ec;
  peer_ = socket_.remote_endpoint(ec).address().to_string();
  socket_.set_option(tcp::no_delay(true), ec);
}

asio::awaitable<error_code>
ClientSocket::read_more(std::size_t most, TimePoint deadline) {
  const auto room = std::min(most, buffer_.max_size() - buffer_.size());
  if (room == 0) {
    co_return http::error::buffer_overflow;
  }
  const Deadline limit(executor(), deadline, [this] { cancel(); });
  error_code ec;
  const auto space = buffer_.prepare(room);
  const auto n = co_await socket_.async_read_some(space, into(ec));
  buffer_.commit(n);
  if (ec == asio::error::operation_aborted && limit.has_passed()) {
    ec = asio::error::timed_out;
  }
  co_return ec;
}

asio::awaitable<bool> ClientSocket::write(
    std::string_view head,
    std::string_view body,
    milliseconds limit) {
  const std::array buffers{
      asio::buffer(head.data(), head.size()),
      asio::buffer(body.data(), body.size())};
  error_code ec;
  // Closed and not cancelled: a write is several, and the time may be over
  // between two of them.
  const Deadline deadline(
      executor(), std::chrono::steady_clock::now() + limit, [this] {
        error_code ignored;
        socket_.close(ignored);
      });
  co_await asio::async_write(socket_, buffers, into(ec));
  co_return !ec;
}

void ClientSocket::watch(std::function<void()> on_gone) {
  watch_ = std::make_shared<Watch>(executor(), std::move(on_gone));
  watch_more();
}

// An end of the stream shows only behind all that was sent before it, which is
// read as the beginning of a next request. Were it left unread, the client's
// system would keep the end to itself until there is room again.
void ClientSocket::watch_more() {
  const auto room = buffer_.max_size() - buffer_.size();
  if (room == 0) {
    watch_->on_gone();
    return;
  }
  watch_->is_reading = true;
  const auto space = buffer_.prepare(std::min<std::size_t>(4096, room));
  socket_.async_read_some(
      space,
      [this, weak = std::weak_ptr(watch_)](error_code ec, std::size_t n) {
        const auto watch = weak.lock();
        if (!watch) {
          return; // and this is gone as well
        }
        watch->is_reading = false;
        buffer_.commit(n);
        if (watch->is_ending) {
          watch->ended.cancel();
        } else if (ec) {
          watch->on_gone();
        } else {
          watch_more();
        }
      });
}

asio::awaitable<void> ClientSocket::end_watch() {
  const auto watch = std::exchange(watch_, nullptr);
  if (!watch) {
    co_return;
  }
  watch->is_ending = true;
  cancel();
  while (watch->is_reading) { // it still writes to the buffer
    error_code ec;
    co_await watch->ended.async_wait(into(ec));
  }
}

void ClientSocket::cancel() {
  error_code ec;
  socket_.cancel(ec);
}

asio::awaitable<void> ClientSocket::close() {
  error_code ec;
  socket_.shutdown(tcp::socket::shutdown_send, ec);
  const auto until = std::chrono::steady_clock::now() + milliseconds(500);
  const Deadline deadline(executor(), until, [this] { cancel(); });
  std::array<char, 4096> scrap;
  for (int reads = 0; reads < 64 && !ec && !deadline.has_passed(); ++reads) {
    const auto space = asio::buffer(scrap);
    co_await socket_.async_read_some(space, into(ec));
  }
}

} // namespace qwen3_mlx::server
