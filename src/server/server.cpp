// SPDX-License-Identifier: MIT
#include "server/server.h"

#include <csignal>
#include <ctime>

#include "server/api_error.h"
#include "server/connection.h"

namespace qwen3_mlx::server {
namespace {

ServedModel describe(
    const Model& model,
    Tokenizer tokenizer,
    ChatTemplate chat_template,
    const engine::Engine& engine,
    const ServerOptions& options) {
  const auto format =
      find_tool_call_format(chat_template.source(/* with_tools */ true));
  ServedModel served{
      .name = options.model_name,
      .created = std::time(nullptr),
      .fingerprint = "qwen3-mlx-" + model.fingerprint(),
      .tokenizer = std::move(tokenizer),
      .chat_template = std::move(chat_template),
      .tool_format = format,
      .defaults = model.generation_config(),
      .stop_ids = model.eos_token_ids(),
      .vocab_size = model.args().vocab_size,
      .max_context = engine.max_context(),
      .max_text = engine.memory().num_blocks * engine.block_size(),
      .default_max_tokens = options.default_max_tokens,
      .request_time = options.request_time,
      .limits = options.limits};
  if (const auto eos = served.tokenizer.eos_id()) {
    served.stop_ids.push_back(*eos);
  }
  if (!options.chat_template_kwargs.empty()) {
    served.template_variables = parse_body(options.chat_template_kwargs);
  }
  const auto& memory = engine.memory();
  served.props = {
      {"model", served.name},
      {"model_type", model.args().model_type},
      {"max_context", served.max_context},
      {"vocab_size", served.vocab_size},
      {"device", model.device() == mx::Device::gpu ? "gpu" : "cpu"},
      {"paged", engine.shares_blocks()},
      {"kv_block_size", engine.block_size()},
      {"kv_blocks", memory.num_blocks},
      {"memory",
       {{"weights", memory.weights},
        {"workspace", memory.workspace},
        {"kv_cache", memory.cache}}},
      {"chat_template_is_default", served.chat_template.is_default()}};
  return served;
}

class Server {
 public:
  Server(
      Model model,
      Tokenizer tokenizer,
      ChatTemplate chat_template,
      const engine::EngineOptions& engine_options,
      const ServerOptions& options)
      : options_(options), log_(options.log_level), gate_(options),
        engine_(model, tokenizer, logging(engine_options)),
        served_(describe(
            model,
            std::move(tokenizer),
            std::move(chat_template),
            engine_,
            options)),
        api_(served_, engine_, metrics_, options_), acceptor_(io_),
        signals_(io_, SIGTERM, SIGINT), drained_(io_),
        hub_{io_, workers_, api_, gate_, engine_, metrics_, log_, options_} {}

  int run(const std::function<void(const std::string& url)>& on_listen) {
    const auto url = listen();
    log_start(url);
    engine_.start([this](engine::StepReport report) {
      asio::post(io_, [this, report = std::move(report)]() mutable {
        deliver(std::move(report));
      });
    });
    asio::co_spawn(io_, accept(), asio::detached);
    wait_for_signal();
    if (on_listen) {
      on_listen(url);
    }
    io_.run();
    engine_.stop();
    workers_.join();
    log_.write(LogLevel::info, "stopped");
    return exit_code_;
  }

 private:
  engine::EngineOptions logging(engine::EngineOptions options) const {
    options.notice = [this](const std::string& text) {
      log_.write(LogLevel::info, text);
    };
    return options;
  }

  std::string listen() {
    error_code ec;
    const auto address = asio::ip::make_address(
        options_.host == "localhost" ? "127.0.0.1" : options_.host, ec);
    if (ec) {
      throw InvalidArgument(
          "host: expected an IP address, found \"" + options_.host + "\"");
    }
    const tcp::endpoint endpoint(address, options_.port);
    try {
      acceptor_.open(endpoint.protocol());
      acceptor_.set_option(tcp::acceptor::reuse_address(true));
      acceptor_.bind(endpoint);
      acceptor_.listen();
    } catch (const boost::system::system_error& error) {
      throw Error(
          "cannot listen on " + options_.host + ":" +
          std::to_string(options_.port) + ": " + error.code().message());
    }
    const auto shown =
        address.is_v6() ? "[" + address.to_string() + "]" : address.to_string();
    return "http://" + shown + ":" +
        std::to_string(acceptor_.local_endpoint().port());
  }

  void log_start(const std::string& url) {
    const auto& memory = engine_.memory();
    const auto mib = [](std::size_t n_bytes) {
      return std::to_string(n_bytes >> 20);
    };
    log_.write(
        LogLevel::info,
        "memory plan",
        {{"weights_mib", mib(memory.weights)},
         {"workspace_mib", mib(memory.workspace)},
         {"kv_cache_mib", mib(memory.cache)},
         {"kv_blocks", std::to_string(memory.num_blocks)},
         {"kv_tokens",
          std::to_string(memory.num_blocks * engine_.block_size())},
         {"paged", engine_.shares_blocks() ? "yes" : "no"}});
    log_.write(
        LogLevel::info,
        "listening",
        {{"address", url},
         {"model", options_.model_name},
         {"device", served_.props["device"].get<std::string>()},
         {"max_context", std::to_string(engine_.max_context())},
         {"api_keys", std::to_string(options_.api_keys.size())}});
  }

  asio::awaitable<void> accept() {
    while (!hub_.is_draining) {
      error_code ec;
      tcp::socket socket(io_);
      co_await acceptor_.async_accept(socket, into(ec));
      if (hub_.is_draining) {
        co_return;
      }
      if (ec) { // as when there are too many open files
        asio::steady_timer pause(io_, milliseconds(50));
        co_await pause.async_wait(into(ec));
        continue;
      }
      if (metrics_.num_connections >= options_.limits.max_connections) {
        ++metrics_.num_connections_refused;
        continue; // closed
      }
      ++metrics_.num_connections;
      asio::co_spawn(
          io_,
          serve_connection(std::move(socket), hub_),
          [this](std::exception_ptr failure) { end_connection(failure); });
    }
  }

  void end_connection(const std::exception_ptr& failure) {
    --metrics_.num_connections;
    try {
      if (failure) {
        std::rethrow_exception(failure);
      }
    } catch (const std::exception& error) {
      log_.write(LogLevel::error, "connection failed", {{"why", error.what()}});
    }
    if (hub_.is_draining && metrics_.num_connections == 0) {
      drained_.cancel();
    }
  }

  void deliver(engine::StepReport report) {
    hub_.deliver(std::move(report));
    if (!engine_.is_healthy() && !hub_.is_draining) {
      log_.write(LogLevel::error, "the engine gave up; the server ends");
      exit_code_ = 1;
      begin_drain();
    }
  }

  void wait_for_signal() {
    signals_.async_wait([this](error_code ec, int signal) {
      if (ec) {
        return;
      }
      if (hub_.is_draining) {
        log_.write(LogLevel::warning, "second signal: stopping at once");
        io_.stop();
        return;
      }
      log_.write(
          LogLevel::info,
          "draining",
          {{"signal", std::to_string(signal)},
           {"active", std::to_string(metrics_.num_active)}});
      begin_drain();
      wait_for_signal();
    });
  }

  void begin_drain() {
    hub_.is_draining = true;
    asio::co_spawn(io_, drain(), asio::detached);
  }

  // No new requests; those under way may end, then are ended.
  asio::awaitable<void> drain() {
    error_code ec;
    acceptor_.close(ec);
    for (auto* socket : hub_.idle) {
      socket->cancel();
    }
    co_await wait_until_drained(options_.limits.drain_time);
    engine_.stop();
    hub_.end_all(); // the engine may be in the middle of a long step
    co_await wait_until_drained(seconds(3));
    io_.stop();
  }

  asio::awaitable<void> wait_until_drained(milliseconds limit) {
    error_code ec;
    drained_.expires_after(limit);
    if (metrics_.num_connections > 0) {
      co_await drained_.async_wait(into(ec));
    }
  }

  ServerOptions options_;
  Log log_;
  Gate gate_;
  asio::io_context io_{1};
  asio::thread_pool workers_{2};
  Metrics metrics_;
  engine::Engine engine_;
  ServedModel served_;
  Api api_;
  tcp::acceptor acceptor_;
  asio::signal_set signals_;
  asio::steady_timer drained_;
  Hub hub_;
  int exit_code_ = 0;
};

} // namespace

int serve(
    Model model,
    Tokenizer tokenizer,
    ChatTemplate chat_template,
    const engine::EngineOptions& engine_options,
    const ServerOptions& options,
    const std::function<void(const std::string& url)>& on_listen) {
  Server server(
      std::move(model),
      std::move(tokenizer),
      std::move(chat_template),
      engine_options,
      options);
  return server.run(on_listen);
}

} // namespace qwen3_mlx::server
