// SPDX-License-Identifier: MIT
#include "server/connection.h"

#include <sys/socket.h>

#include <array>
#include <cctype>
#include <utility>

#include "server/api_error.h"

namespace qwen3_mlx::server {
namespace {

using engine::Clock;
using engine::RequestId;

double seconds_since(engine::TimePoint start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
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

/// A request that was read, or why it was not.
struct Incoming {
  HttpRequest request;
  std::optional<HttpResponse> refusal;
  const Api::Route* route = nullptr;
  bool keep_alive = false;
  bool takes_chunks = true; ///< HTTP/1.1.
};

HttpResponse refuse(int status, const std::string& why) {
  return error_response(ApiError(status, why));
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
      : stream_(std::move(socket)), hub_(hub) {
    error_code ec;
    peer_ = stream_.socket().remote_endpoint(ec).address().to_string();
    stream_.socket().set_option(tcp::no_delay(true), ec);
  }

  asio::awaitable<void> run() {
    while (!hub_.is_draining) {
      auto incoming = co_await read();
      if (!incoming) {
        break;
      }
      const bool stays = co_await respond(*incoming);
      if (!stays || !incoming->keep_alive) {
        break;
      }
    }
    error_code ec;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ec);
    co_await linger();
  }

 private:
  using Parser = http::request_parser<http::string_body>;

  // A close with unread bytes resets the connection, and the client may lose
  // the response: what it is still sending is read for a moment.
  asio::awaitable<void> linger() {
    error_code ec;
    std::array<char, 4096> scrap;
    stream_.expires_after(milliseconds(500));
    for (int reads = 0; reads < 64 && !ec; ++reads) {
      const auto space = asio::buffer(scrap);
      co_await stream_.async_read_some(space, into(ec));
    }
  }

  // Nothing: the client has gone, or sent nothing for too long.
  asio::awaitable<std::optional<Incoming>> read() {
    const auto& limits = hub_.options.limits;
    error_code ec;
    if (buffer_.size() == 0) {
      hub_.idle.insert(&stream_);
      stream_.expires_after(limits.idle_time);
      const auto space = buffer_.prepare(4096);
      const auto n = co_await stream_.async_read_some(space, into(ec));
      hub_.idle.erase(&stream_);
      if (ec) {
        co_return std::nullopt;
      }
      buffer_.commit(n);
    }
    Incoming incoming;
    begun_ = Clock::now();
    auto& request = incoming.request;
    request.id = request_id(++hub_.last_request);
    request.peer = peer_;
    Parser parser;
    parser.header_limit(static_cast<std::uint32_t>(limits.max_header_bytes));
    parser.body_limit(limits.max_body_bytes);
    stream_.expires_after(limits.header_time);
    co_await http::async_read_header(stream_, buffer_, parser, into(ec));
    if (ec == http::error::end_of_stream) {
      co_return std::nullopt;
    }
    if (ec) {
      incoming.refusal = refusal_of(ec);
      co_return incoming;
    }
    take_head(parser, incoming);
    const bool has_body =
        parser.chunked() || parser.content_length().value_or(0) > 0;
    if (!incoming.refusal) {
      incoming.refusal = check(incoming);
    }
    if (incoming.refusal) {
      // What follows is not read, so where it ends is not known.
      incoming.keep_alive = incoming.keep_alive && !has_body;
      co_return incoming;
    }
    if (has_body) {
      if (request.header("expect") == "100-continue" && buffer_.size() == 0) {
        constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        const bool sent = co_await send(go_on, {});
        if (!sent) {
          co_return std::nullopt;
        }
      }
      const auto length =
          parser.content_length().value_or(limits.max_body_bytes);
      stream_.expires_after(
          limits.body_time + milliseconds(length / (64 << 10) * 1000));
      co_await http::async_read(stream_, buffer_, parser, into(ec));
      if (ec) {
        incoming.keep_alive = false;
        incoming.refusal = refusal_of(ec);
        co_return incoming;
      }
      request.body = std::move(parser.get().body());
    }
    co_return incoming;
  }

  static HttpResponse refusal_of(const error_code& ec) {
    if (ec == beast::error::timeout) {
      return refuse(408, "the request took too long to arrive");
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

  void take_head(const Parser& parser, Incoming& incoming) {
    const auto& limits = hub_.options.limits;
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
      std::string name(field.name_string());
      for (char& letter : name) {
        letter =
            static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
      }
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
          key.value_or(0) > 0 ? "key " + std::to_string(*key) : peer_;
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
    log_unknown(incoming.request, reply.unknown_fields);
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

  void log_unknown(
      const HttpRequest& request,
      const std::vector<std::string>& fields) {
    for (const auto& name : fields) {
      // Names are the clients' invention.
      constexpr std::size_t most = 1000;
      constexpr std::size_t longest = 100;
      const auto field = name.substr(0, longest);
      if (hub_.fields_logged.size() < most &&
          hub_.fields_logged.insert(field).second) {
        hub_.log.write(
            LogLevel::warning,
            "unknown field ignored",
            {{"field", field}, {"request", request.id}});
      }
    }
  }

  asio::awaitable<bool> send(std::string_view head, std::string_view body) {
    const std::array buffers{
        asio::buffer(head.data(), head.size()),
        asio::buffer(body.data(), body.size())};
    error_code ec;
    stream_.expires_after(hub_.options.limits.write_time);
    co_await asio::async_write(stream_, buffers, into(ec));
    stream_.expires_never();
    co_return !ec;
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
    const bool sent = co_await send(head, body);
    note(incoming, sent ? response.status : 499, nullptr);
    co_return sent && !hub_.is_draining;
  }

  void add_headers(const Incoming& incoming, HttpResponse& response) const {
    response.headers.emplace_back("X-Request-Id", incoming.request.id);
    auto cors = hub_.gate.cors_headers(incoming.request);
    response.headers.insert(response.headers.end(), cors.begin(), cors.end());
  }

  // One line and the counts of a request that is over. 499: the client left.
  void note(const Incoming& incoming, int status, const Answer* answer) {
    const auto took = seconds_since(begun_);
    const std::string route =
        incoming.route != nullptr ? incoming.route->path : "other";
    ++hub_.metrics.requests[{route, status}];
    hub_.metrics.num_disconnects += status == 499 ? 1 : 0;
    const auto level = route == "/health" || route == "/metrics"
        ? LogLevel::debug
        : LogLevel::info;
    const auto ms = std::to_string(static_cast<long>(took * 1e3));
    const auto& request = incoming.request;
    if (answer == nullptr) {
      hub_.log.write(
          level,
          "request",
          {{"id", request.id},
           {"method", request.method},
           {"path", request.path.substr(0, 200)},
           {"status", std::to_string(status)},
           {"ms", ms}});
      return;
    }
    hub_.metrics.request.add(took);
    const auto& usage = answer->usage();
    hub_.log.write(
        level,
        "request",
        {{"id", request.id},
         {"method", request.method},
         {"path", request.path},
         {"status", std::to_string(status)},
         {"ms", ms},
         {"prompt_tokens", std::to_string(usage.num_prompt)},
         {"cached_tokens", std::to_string(usage.num_cached)},
         {"completion_tokens", std::to_string(usage.num_generated)}});
  }

  // Tells `inbox` when the client closes the connection while it waits.
  void watch(const std::shared_ptr<Inbox>& inbox) {
    stream_.socket().async_wait(
        tcp::socket::wait_read,
        [this, weak = std::weak_ptr(inbox)](error_code ec) {
          const auto waiting = weak.lock();
          if (ec || !waiting) {
            return;
          }
          char byte = 0;
          const auto n = recv(
              stream_.socket().native_handle(),
              &byte,
              1,
              MSG_PEEK | MSG_DONTWAIT);
          // More than nothing is a next request, sent early.
          if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) {
            waiting->is_gone = true;
            waiting->wake.cancel();
          }
        });
  }

  asio::awaitable<bool> answer(Incoming& incoming, Reply& reply) {
    const auto inbox = std::make_shared<Inbox>(stream_.get_executor());
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
    watch(inbox);
    const bool stays = co_await follow(incoming, *reply.answer, *inbox);
    error_code ec;
    stream_.socket().cancel(ec); // the watch
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
        measure(event, prompt, last_token);
        out += answer.take(prompt, event);
      }
      if (out.empty() || answer.failure()) {
        continue;
      }
      const bool sent = co_await send_piece(incoming, out, head_is_sent);
      inbox.is_gone = inbox.is_gone || !sent;
    }
    if (inbox.is_gone) {
      note(incoming, 499, &answer);
      co_return false;
    }
    if (!answer.streams() || (answer.failure() && !head_is_sent)) {
      auto response = answer.failure() ? *answer.failure() : answer.response();
      add_headers(incoming, response);
      const bool stays = incoming.keep_alive && !hub_.is_draining;
      const HeadOptions options{.keep_alive = stays};
      const auto head = head_of(response, options);
      const bool sent = co_await send(head, response.body);
      note(incoming, sent ? response.status : 499, &answer);
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
    note(incoming, sent ? status : 499, &answer);
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
      hub_.metrics.first_token.add(seconds_since(begun_));
    } else {
      hub_.metrics.between_tokens.add(
          std::chrono::duration<double>(now - last->second).count());
    }
    last_token[choice] = now;
  }

  beast::tcp_stream stream_;
  // Of a chunk's header and of trailers nothing else bounds the length.
  static constexpr std::size_t kMaxUnparsed = std::size_t{256} << 10;
  beast::flat_buffer buffer_{kMaxUnparsed};
  Hub& hub_;
  std::string peer_;
  engine::TimePoint begun_;
};

} // namespace

void Hub::deliver(engine::StepReport report) {
  if (report.stats.num_steps > metrics.engine.num_steps) {
    metrics.step.add(report.stats.step_seconds);
  }
  metrics.engine = report.stats;
  for (auto& event : report.events) {
    const auto place = waiting.find(event.request);
    if (place != waiting.end()) {
      place->second.inbox->events.emplace_back(
          place->second.prompt, std::move(event));
      place->second.inbox->wake.cancel();
    }
  }
}

void Hub::end_all() {
  for (auto& [id, place] : waiting) {
    place.inbox->events.emplace_back(
        place.prompt,
        engine::Event{
            .request = id,
            .finish = engine::Finish::shutdown,
            .error = "the server is shutting down"});
    place.inbox->wake.cancel();
  }
}

asio::awaitable<void> serve_connection(tcp::socket socket, Hub& hub) {
  Connection connection(std::move(socket), hub);
  co_await connection.run();
}

} // namespace qwen3_mlx::server
