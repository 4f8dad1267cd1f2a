// SPDX-License-Identifier: MIT
// A client's socket and the reading of requests, over loopback: slow clients
// and those that leave.
#include "server/client_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/read.hpp>

#include "server/json.h"
#include "server/request_reader.h"

namespace qwen3_mlx::server {
namespace {

using std::chrono::steady_clock;

// Both ends of a connection, the client's with blocking calls that the system
// takes without waiting.
class ClientSocketTest : public ::testing::Test {
 protected:
  ClientSocketTest() {
    tcp::acceptor acceptor(io_, {asio::ip::address_v4::loopback(), 0});
    client_.connect(acceptor.local_endpoint());
    socket_.emplace(acceptor.accept());
  }

  template <typename T>
  T run(asio::awaitable<T> work) {
    std::optional<T> result;
    std::exception_ptr failure;
    asio::co_spawn(
        io_, std::move(work), [&](const std::exception_ptr& thrown, T value) {
          failure = thrown;
          result = std::move(value);
        });
    io_.restart();
    while (!result && !failure && io_.run_one_for(seconds(10)) > 0) {
    }
    if (failure) {
      std::rethrow_exception(failure);
    }
    if (!result) {
      throw std::runtime_error("the work does not end");
    }
    return std::move(*result);
  }
  bool end_watch() {
    return run([](ClientSocket& socket) -> asio::awaitable<bool> {
      co_await socket.end_watch();
      co_return true;
    }(*socket_));
  }
  void go_on() {
    io_.restart();
    io_.run_for(milliseconds(50));
  }
  void say(std::string_view text) {
    asio::write(client_, asio::buffer(text.data(), text.size()));
  }
  std::string hear(std::size_t n) {
    std::string text(n, '\0');
    asio::read(client_, asio::buffer(text));
    return text;
  }
  std::string early() {
    const auto data = socket_->buffer().data();
    return {static_cast<const char*>(data.data()), data.size()};
  }
  std::optional<Incoming> read(const Limits& limits) {
    const Admit admit = [](Incoming&) { return std::nullopt; };
    return run(read_request(*socket_, limits, admit));
  }
  // A status of 0: there is no refusal.
  int refused(const Limits& limits) {
    const auto incoming = read(limits);
    EXPECT_TRUE(incoming);
    if (!incoming || !incoming->refusal) {
      return 0;
    }
    EXPECT_FALSE(incoming->keep_alive);
    const auto error = Json::parse(incoming->refusal->body).at("error");
    EXPECT_EQ(error.at("type"), "invalid_request_error");
    return incoming->refusal->status;
  }

  asio::io_context io_;
  tcp::socket client_{io_};
  std::optional<ClientSocket> socket_;
};

Limits brief() {
  Limits limits;
  limits.header_time = milliseconds(30);
  limits.body_time = milliseconds(30);
  limits.max_body_bytes = 1000;
  return limits;
}

TEST_F(ClientSocketTest, CanBeWrittenToAfterAReadThatTookTooLong) {
  const auto ec =
      run(socket_->read_more(10, steady_clock::now() + milliseconds(10)));
  EXPECT_EQ(ec, asio::error::timed_out);
  EXPECT_TRUE(run(socket_->write("head", "body", seconds(1))));
  EXPECT_EQ(hear(8), "headbody");
}

TEST_F(ClientSocketTest, EndsAWriteThatNobodyReads) {
  const std::string much(std::size_t{64} << 20, 'a');
  EXPECT_FALSE(run(socket_->write({}, much, milliseconds(20))));
}

TEST_F(ClientSocketTest, ReadsNoMoreThanTheBufferHolds) {
  const std::string much(ClientSocket::kMaxUnparsed, 'a');
  socket_->buffer().commit(asio::buffer_copy(
      socket_->buffer().prepare(much.size()), asio::buffer(much)));
  EXPECT_EQ(
      run(socket_->read_more(10, steady_clock::now() + seconds(1))),
      http::error::buffer_overflow);
}

TEST_F(ClientSocketTest, TellsOfAClientThatLeaves) {
  int told = 0;
  socket_->watch([&] { ++told; });
  go_on();
  EXPECT_EQ(told, 0);
  client_.close();
  go_on();
  EXPECT_EQ(told, 1);
  EXPECT_TRUE(end_watch());
}

TEST_F(ClientSocketTest, TellsOfAClientThatLeavesBehindAnEarlyRequest) {
  int told = 0;
  socket_->watch([&] { ++told; });
  say("GET /health");
  go_on();
  EXPECT_EQ(told, 0);
  say(" HTTP/1.1\r\n");
  go_on();
  EXPECT_EQ(told, 0);
  client_.close();
  go_on();
  EXPECT_EQ(told, 1);
}

TEST_F(ClientSocketTest, KeepsWhatCameEarly) {
  int told = 0;
  socket_->watch([&] { ++told; });
  say("GET /health HTTP/1.1\r\n");
  go_on();
  EXPECT_TRUE(end_watch());
  EXPECT_EQ(early(), "GET /health HTTP/1.1\r\n");
  say("Host: localhost\r\n\r\n");
  const auto incoming = read(brief());
  ASSERT_TRUE(incoming);
  EXPECT_FALSE(incoming->refusal);
  EXPECT_EQ(incoming->request.path, "/health");
  EXPECT_EQ(told, 0);
}

TEST_F(ClientSocketTest, TakesSoMuchAheadAndNoMore) {
  int told = 0;
  socket_->watch([&] { ++told; });
  const std::string much(ClientSocket::kMaxUnparsed - 1, 'a');
  asio::async_write(client_, asio::buffer(much), asio::detached);
  go_on();
  EXPECT_EQ(told, 0);
  say("a");
  go_on();
  EXPECT_EQ(told, 1);
  EXPECT_TRUE(end_watch());
  EXPECT_EQ(early().size(), ClientSocket::kMaxUnparsed);
}

TEST_F(ClientSocketTest, AWatchMayBeGoneBeforeItIsTold) {
  socket_->watch([] { FAIL(); });
  client_.close();
  socket_.reset();
  go_on();
}

TEST_F(ClientSocketTest, AnswersASlowHeaderWith408) {
  say("GET /health HTT");
  EXPECT_EQ(refused(brief()), 408);
}

TEST_F(ClientSocketTest, AnswersASlowBodyWith408) {
  say("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n"
      "{");
  EXPECT_EQ(refused(brief()), 408);
}

TEST_F(ClientSocketTest, AnswersASlowChunkWith408) {
  say("POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
      "Transfer-Encoding: chunked\r\n\r\n2\r\n{");
  EXPECT_EQ(refused(brief()), 408);
}

TEST_F(ClientSocketTest, SaysNothingToAClientThatHasLeft) {
  client_.close();
  EXPECT_FALSE(read(brief()));
}

TEST_F(ClientSocketTest, RefusesARequestThatIsCutShort) {
  say("GET /health HTT");
  client_.shutdown(tcp::socket::shutdown_send);
  EXPECT_EQ(refused(brief()), 400);
}

TEST_F(ClientSocketTest, RefusesABodyOverTheLimit) {
  say("POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
      "Content-Length: 1001\r\n\r\n");
  EXPECT_EQ(refused(brief()), 413);
}

TEST_F(ClientSocketTest, ReadsAChunkedBody) {
  say("POST /a?b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
      "\r\n3\r\n{\"a\r\n3\r\n\":1\r\n1\r\n}\r\n0\r\n\r\nGET");
  const auto incoming = read(brief());
  ASSERT_TRUE(incoming);
  EXPECT_FALSE(incoming->refusal);
  EXPECT_TRUE(incoming->keep_alive);
  EXPECT_EQ(incoming->request.path, "/a");
  EXPECT_EQ(incoming->request.query, "b");
  EXPECT_EQ(incoming->request.body, "{\"a\":1}");
  EXPECT_EQ(early(), "GET");
}

} // namespace
} // namespace qwen3_mlx::server
