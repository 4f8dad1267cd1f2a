// SPDX-License-Identifier: MIT
#include "server/connection.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "server/api_error.h"
#include "server/request_reader.h"

namespace qwen3_mlx::server {
namespace {

using engine::Clock;
using engine::RequestId;

double seconds_between(engine::TimePoint from, engine::TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

std::string request_id(std::uint64_t number) {
  // Unlike those of other runs, and no secret.
  static const std::uint64_t run = random_seed();
  char digits[33];
  std::snprintf(
      digits,
      sizeof digits,
      "%08x%08x",
      static_cast<unsigned>(run & 0xffffffffU),
      static_cast<unsigned>(number));
  return digits;
}

// The requests that a connection waits for. However that ends, the engine tells
// no connection that is gone, and computes nothing that nobody wants.
class Waiting {
 public:
  Waiting(Hub& hub, const Answer& answer) : hub_(hub), answer_(answer) {
    ++hub_.metrics.num_active;
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting() {
    end();
    --hub_.metrics.num_active;
  }

  std::vector<RequestId>& ids() {
    return ids_;
  }
  void end() {
    for (const auto id : std::exchange(ids_, {})) {
      hub_.waiting.erase(id);
      if (!answer_.done()) {
        hub_.engine.cancel(id);
      }
    }
  }

 private:
  Hub& hub_;
  const Answer& answer_;
  std::vector<RequestId> ids_;
};

class Connection {
 public:
  Connection(tcp::socket socket, Hub& hub)
      : socket_(std::move(socket)), hub_(hub) {}

  asio::awaitable<void> run() {
    const Admit admit = [this](Incoming& head) { return check(head); };
    while (!hub_.is_draining) {
      const bool has_begun = co_await wait_for_request();
      if (!has_begun) {
        break;
      }
      auto incoming =
          co_await read_request(socket_, hub_.options.limits, admit);
      if (!incoming) {
        break;
      }
      incoming->request.id = request_id(++hub_.last_request);
      const bool stays = co_await respond(*incoming);
      if (!stays || !incoming->keep_alive) {
        break;
      }
    }
    co_await socket_.close();
  }

 private:
  // Whether bytes of a request are there, before the client left or was silent
  // for too long.
  asio::awaitable<bool> wait_for_request() {
    if (socket_.buffer().size() > 0) {
      co_return true;
    }
    const auto until = Clock::now() + hub_.options.limits.idle_time;
    hub_.idle.insert(&socket_);
    const auto ec = co_await socket_.read_more(4096, until);
    hub_.idle.erase(&socket_);
    co_return !ec;
  }

  // Who asks and for what, before the body is read.
  std::optional<HttpResponse> check(Incoming& incoming) const {
    auto& request = incoming.request;
    try {
      hub_.gate.check_origin(request);
      if (request.method == "OPTIONS") {
        HttpResponse preflight;
        preflight.status = 204;
        return preflight;
      }
      std::string allowed;
      incoming.route = hub_.api.find(request.method, request.path, allowed);
      const bool is_public =
          incoming.route != nullptr && incoming.route->is_public;
      const auto key = hub_.gate.find_key(request);
      if (!is_public && !key) {
        throw ApiError(
            401,
            "an API key is needed: \"Authorization: Bearer KEY\"",
            {},
            "invalid_api_key");
      }
      request.user =
          key.value_or(0) > 0 ? "key " + std::to_string(*key) : request.peer;
      if (incoming.route == nullptr && !allowed.empty()) {
        auto response = refuse(405, "this path takes " + allowed + " only");
        response.headers.emplace_back("Allow", allowed);
        return response;
      }
      if (incoming.route == nullptr) {
        throw ApiError(
            404,
            "there is no " + request.path.substr(0, 100) +
                "; /openapi.json lists what there is");
      }
      if (hub_.is_draining && !is_public) {
        throw engine::EngineStopped("the server is shutting down");
      }
    } catch (const std::exception& error) {
      return error_response(error);
    }
    return std::nullopt;
  }

  // Whether the connection can go on.
  asio::awaitable<bool> respond(Incoming& incoming) {
    Reply reply;
    if (incoming.refusal) {
      reply.response = std::move(*incoming.refusal);
    } else if (incoming.route->is_heavy) {
      reply = co_await on_worker(incoming);
    } else {
      reply = call(incoming);
    }
    hub_.log_unknown(incoming.request, reply.unknown_fields);
    bool stays = false;
    if (reply.answer) {
      stays = co_await answer(incoming, reply);
    } else {
      stays = co_await send_whole(incoming, reply.response);
    }
    co_return stays;
  }

  Reply call(const Incoming& incoming) const {
    try {
      return hub_.api.handle(*incoming.route, incoming.request);
    } catch (const std::exception& error) {
      return {error_response(error)};
    }
  }

  // Long prompts take their time to be rendered and tokenized: meanwhile this
  // thread serves others.
  asio::awaitable<Reply> on_worker(const Incoming& incoming) {
    Reply reply;
    bool is_done = false;
    asio::steady_timer done(hub_.io, asio::steady_timer::time_point::max());
    asio::post(hub_.workers, [&] {
      reply = call(incoming);
      asio::post(hub_.io, [&] {
        is_done = true;
        done.cancel();
      });
    });
    while (!is_done) { // what is captured must outlive the work
      error_code ec;
      co_await done.async_wait(into(ec));
    }
    co_return reply;
  }

  asio::awaitable<bool> send(std::string_view head, std::string_view body) {
    return socket_.write(head, body, hub_.options.limits.write_time);
  }

  asio::awaitable<bool>
  send_whole(const Incoming& incoming, HttpResponse& response) {
    add_headers(incoming, response);
    const auto head = head_of(
        response, {.keep_alive = incoming.keep_alive && !hub_.is_draining});
    std::string_view body = response.body;
    if (incoming.request.method == "HEAD") {
      body = {};
    }
    // Who was too slow before is not waited for again.
    const auto limit = response.status == 408
        ? std::min<milliseconds>(hub_.options.limits.write_time, seconds(2))
        : hub_.options.limits.write_time;
    const bool sent = co_await socket_.write(head, body, limit);
    hub_.note(incoming, sent ? response.status : 499, nullptr);
    co_return sent && !hub_.is_draining;
  }

  void add_headers(const Incoming& incoming, HttpResponse& response) const {
    response.headers.emplace_back("X-Request-Id", incoming.request.id);
    auto cors = hub_.gate.cors_headers(incoming.request);
    response.headers.insert(response.headers.end(), cors.begin(), cors.end());
  }

  asio::awaitable<bool> answer(Incoming& incoming, Reply& reply) {
    const auto inbox = std::make_shared<Inbox>(socket_.executor());
    Waiting waiting(hub_, *reply.answer);
    auto& ids = waiting.ids();
    std::optional<HttpResponse> refusal;
    try {
      check_fits(reply.requests);
      for (auto& request : reply.requests) {
        const auto id = ++hub_.last_request;
        request.id = id;
        request.user = incoming.request.user;
        hub_.waiting[id] = {inbox.get(), static_cast<int>(ids.size())};
        ids.push_back(id);
        hub_.engine.submit(std::move(request));
      }
    } catch (const std::exception& error) {
      refusal = error_response(error);
    }
    if (refusal) {
      waiting.end();
      co_return co_await send_whole(incoming, *refusal);
    }
    socket_.watch([inbox] {
      inbox->is_gone = true;
      inbox->wake.cancel();
    });
    const bool stays = co_await follow(incoming, *reply.answer, *inbox);
    co_await socket_.end_watch();
    co_return stays;
  }

  // A request that can never be in line is not to be tried again.
  void check_fits(const std::vector<engine::Request>& requests) const {
    std::int64_t num_texts = 0;
    for (const auto& request : requests) {
      num_texts += request.num_choices;
    }
    const auto most = hub_.engine.max_outstanding();
    if (num_texts > most) {
      throw ApiError(
          400,
          "the request asks for " + std::to_string(num_texts) +
              " texts; this server takes " + std::to_string(most) +
              " at once, prompts times n");
    }
  }

  // Passes on what the engine tells until all is said.
  asio::awaitable<bool>
  follow(const Incoming& incoming, Answer& answer, Inbox& inbox) {
    bool head_is_sent = false;
    std::unordered_map<int, engine::TimePoint> last_token; // by choice
    while (!answer.done() && !answer.failure() && !inbox.is_gone) {
      std::string out;
      if (inbox.events.empty()) {
        error_code ec;
        inbox.wake.expires_after(hub_.options.limits.ping_interval);
        co_await inbox.wake.async_wait(into(ec));
        if (ec || !answer.streams()) {
          continue; // woken, or nothing to be kept open
        }
        out = sse_ping();
      }
      for (const auto& [prompt, event] : std::exchange(inbox.events, {})) {
        measure(incoming, event, prompt, last_token);
        out += answer.take(prompt, event);
      }
      if (out.empty() || answer.failure()) {
        continue;
      }
      const bool sent = co_await send_piece(incoming, out, head_is_sent);
      inbox.is_gone = inbox.is_gone || !sent;
    }
    if (inbox.is_gone) {
      hub_.note(incoming, 499, &answer);
      co_return false;
    }
    if (!answer.streams() || (answer.failure() && !head_is_sent)) {
      auto response = answer.failure() ? *answer.failure() : answer.response();
      add_headers(incoming, response);
      const bool stays = incoming.keep_alive && !hub_.is_draining;
      const HeadOptions options{.keep_alive = stays};
      const auto head = head_of(response, options);
      const bool sent = co_await send(head, response.body);
      hub_.note(incoming, sent ? response.status : 499, &answer);
      co_return sent&& stays;
    }
    std::string end = answer.failure() ? "data: " : answer.last_chunks();
    if (answer.failure()) {
      end += answer.failure()->body + "\n\n";
    }
    bool sent = co_await send_piece(incoming, end, head_is_sent);
    if (sent && incoming.takes_chunks) {
      sent = co_await send("0\r\n\r\n", {});
    }
    const int status = answer.failure() ? answer.failure()->status : 200;
    hub_.note(incoming, sent ? status : 499, &answer);
    co_return sent&& incoming.takes_chunks;
  }

  asio::awaitable<bool> send_piece(
      const Incoming& incoming,
      const std::string& piece,
      bool& head_is_sent) {
    std::string head;
    if (!head_is_sent) {
      head_is_sent = true;
      HttpResponse response;
      response.content_type = "text/event-stream";
      response.headers = {
          {"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
      add_headers(incoming, response);
      head = head_of(
          response,
          {.keep_alive = incoming.keep_alive && incoming.takes_chunks,
           .chunked = true});
      if (!incoming.takes_chunks) { // the end of the connection is the end
        const std::string chunked = "Transfer-Encoding: chunked\r\n";
        head.erase(head.find(chunked), chunked.size());
      }
    }
    // A temporary inside the co_await expression is destroyed twice by GCC 12
    // where it is one of two cases.
    std::string data = piece;
    if (incoming.takes_chunks) {
      data = chunk_of(piece);
    }
    co_return co_await send(head, data);
  }

  void measure(
      const Incoming& incoming,
      const engine::Event& event,
      int prompt,
      std::unordered_map<int, engine::TimePoint>& last_token) {
    if (event.tokens.empty()) {
      return;
    }
    const auto now = Clock::now();
    const int choice = prompt * hub_.options.limits.max_choices + event.choice;
    const auto last = last_token.find(choice);
    if (last == last_token.end()) {
      hub_.metrics.first_token.add(seconds_between(incoming.begun, now));
    } else {
      hub_.metrics.between_tokens.add(seconds_between(last->second, now));
    }
    last_token[choice] = now;
  }

  ClientSocket socket_;
  Hub& hub_;
};

} // namespace

asio::awaitable<void> serve_connection(tcp::socket socket, Hub& hub) {
  Connection connection(std::move(socket), hub);
  co_await connection.run();
}

} // namespace qwen3_mlx::server
