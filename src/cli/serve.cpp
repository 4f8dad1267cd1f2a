// SPDX-License-Identifier: MIT
// qwen3-mlx serve: the HTTP server.

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <sstream>

#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/numbers.h"
#include "cli/random_options.h"
#include "cli/terminal.h"
#include "cli/text_model.h"
#include "qwen3_mlx/error.h"
#include "server/log.h"
#include "server/server.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* examples =
    "\nSettings of the model's authors (generation_config.json) hold where a "
    "request\n"
    "names none. An API key may also be in the variable QWEN3_MLX_API_KEY.\n"
    "\nExamples:\n"
    "  qwen3-mlx serve --model DIR\n"
    "  qwen3-mlx serve --model DIR --host 0.0.0.0 --api-key-file keys.txt\n"
    "  qwen3-mlx serve --model DIR --max-num-seqs 16 --max-memory 8G";

struct ServeCommand {
  ModelOptions model;
  RandomOptions random;
  TemplateOptions chat_template;
  server::ServerOptions server;
  engine::EngineOptions engine;
  std::string alias;
  std::vector<std::string> api_keys;
  std::filesystem::path api_key_file;
  std::string max_memory;
  std::string cache_bytes;
  std::string log_level = "info";
  double request_seconds = 0;
  double drain_seconds = 30;
  double ping_seconds = 15;
  std::size_t max_body_bytes = std::size_t{16} << 20;
};

/// "8G" -> bytes. Throws CLI::ValidationError.
std::size_t parse_bytes(const std::string& text, const std::string& option) {
  std::size_t end = 0;
  double number = -1;
  try {
    number = std::stod(text, &end);
  } catch (const std::exception&) { // told below
  }
  const auto unit = text.substr(end);
  const std::string units = "KMGT";
  double factor = 1;
  if (!unit.empty()) {
    const auto place =
        units.find(static_cast<char>(std::toupper(unit.front())));
    const bool is_known = place != std::string::npos &&
        (unit.size() == 1 || unit.substr(1) == "B" || unit.substr(1) == "iB");
    factor = is_known
        ? static_cast<double>(std::size_t{1} << (10 * (place + 1)))
        : -1;
  }
  if (!(number >= 0) || factor < 0 || number * factor > 1e15) {
    throw CLI::ValidationError(
        option, "expected bytes, as in 8G or 512M, found '" + text + "'");
  }
  return static_cast<std::size_t>(number * factor);
}

void add_network_options(CLI::App& command, ServeCommand& options) {
  const char* group = "Network";
  const auto add =
      [&](const char* names, auto& value, const char* type, const char* help) {
        return command.add_option(names, value, help)
            ->type_name(type)
            ->group(group)
            ->capture_default_str();
      };
  auto& server = options.server;
  add("--host", server.host, "ADDRESS", "Address to listen on");
  add("--port", server.port, "PORT", "Port to listen on; 0: any")
      ->transform(whole_number(0, 65535));
  add("--alias", options.alias, "NAME", "The model's name for clients");
  add("--api-key",
      options.api_keys,
      "KEY",
      "A key that clients must give; may be repeated")
      ->allow_extra_args(false);
  add("--api-key-file",
      options.api_key_file,
      "FILE",
      "Keys that clients must give, one a line");
  command
      .add_flag(
          "--allow-open",
          server.allow_open,
          "Serve other addresses than loopback without a key")
      ->group(group);
  add("--allowed-hosts",
      server.allowed_hosts,
      "NAME",
      "Further names by which clients may call this server")
      ->delimiter(',');
  add("--allowed-origins",
      server.allowed_origins,
      "ORIGIN",
      "Origins whose pages may use this server; *: all")
      ->delimiter(',');
  add("--max-connections",
      server.limits.max_connections,
      "N",
      "Most open connections")
      ->transform(whole_number(1));
  add("--max-body",
      options.max_body_bytes,
      "BYTES",
      "Most bytes of a request's body")
      ->transform(whole_number(1, std::uint64_t{1} << 40));
  add("--timeout",
      options.request_seconds,
      "SECONDS",
      "Most time of a request; 0: no limit")
      ->check(real_number(0, 1e9));
  add("--sse-ping-interval",
      options.ping_seconds,
      "SECONDS",
      "How often a silent stream gets a sign of life")
      ->check(real_number(0.05, 3600.0));
  add("--drain-time",
      options.drain_seconds,
      "SECONDS",
      "How long requests may go on after SIGTERM")
      ->check(real_number(0, 1e9));
  command.add_flag("!--no-page", server.page, "Do not serve the chat page")
      ->group(group);
}

void add_engine_options(CLI::App& command, ServeCommand& options) {
  const char* group = "Engine";
  const auto add =
      [&](const char* names, auto& value, const char* type, const char* help) {
        return command.add_option(names, value, help)
            ->type_name(type)
            ->group(group)
            ->capture_default_str();
      };
  auto& engine = options.engine;
  add("--max-num-seqs,--parallel,--decode-concurrency",
      engine.max_running,
      "N",
      "Most texts in one batch")
      ->transform(whole_number(1, 4096));
  add("--max-queue", engine.max_waiting, "N", "Most texts in line for a place")
      ->transform(whole_number(0));
  add("--ctx-size,-c,--max-model-len",
      engine.max_context,
      "N",
      "Most tokens of a text; 0: what the model was made for")
      ->transform(whole_number(0));
  add("--prefill-step-size,-b,--batch-size",
      engine.max_step_tokens,
      "N",
      "Prompt tokens read in one step, beside the texts that go on; 0: 512, or "
      "2,048 on a GPU")
      ->transform(whole_number(0));
  add("--max-tokens,-n",
      options.server.default_max_tokens,
      "N",
      "Most tokens where a request names no limit; 0: as the context allows")
      ->transform(whole_number(0));
  add("--max-memory",
      options.max_memory,
      "BYTES",
      "Of weights, caches and workspace, as in 8G (default: weights and 80 % "
      "of what is free then)");
  add("--prompt-cache-bytes,--prefix-cache-bytes",
      options.cache_bytes,
      "BYTES",
      "Of keys and values kept for later prompts (default: all that is "
      "unused)");
  add("--prompt-cache-file,--prefix-cache-file",
      engine.prefix_file,
      "FILE",
      "Keep them there from one run to the next");
  add("--kv-bits",
      engine.kv.kv_bits,
      "BITS",
      "Quantize keys and values to this size")
      ->check(CLI::IsMember(std::vector<int>{4, 8}))
      ->transform(whole_number(1).description(""));
  add("--kv-group-size", engine.kv.kv_group_size, "N", "With --kv-bits")
      ->needs("--kv-bits")
      ->check(CLI::IsMember(std::vector<int>{32, 64, 128}))
      ->transform(whole_number(1).description(""));
  command
      .add_flag(
          "--prefix-cache,!--no-prefix-cache",
          engine.prefix_cache,
          "Prompts that begin alike share what was computed (default)")
      ->group(group);
}

void add_template_options(CLI::App& command, ServeCommand& options) {
  const char* group = "Prompt";
  command
      .add_option(
          "--chat-template-file",
          options.chat_template.file,
          "Use this Jinja template")
      ->type_name("FILE")
      ->group(group);
  command
      .add_flag(
          "--use-default-chat-template",
          options.chat_template.use_default,
          "Use ChatML, whatever the model has")
      ->excludes("--chat-template-file")
      ->group(group);
  command
      .add_option(
          "--chat-template-kwargs,--chat-template-args",
          options.server.chat_template_kwargs,
          "Variables of the template, a JSON object")
      ->type_name("JSON")
      ->group(group);
  command.add_option("--log-level", options.log_level, "What is logged")
      ->capture_default_str()
      ->type_name("LEVEL")
      ->check(CLI::IsMember({"error", "warning", "info", "debug"}))
      ->group("Log");
}

std::chrono::milliseconds to_ms(double seconds) {
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(std::min(seconds, 1e9) * 1e3));
}

std::vector<std::string> read_keys(const ServeCommand& options) {
  auto keys = options.api_keys;
  if (const char* key = std::getenv("QWEN3_MLX_API_KEY")) {
    keys.emplace_back(key);
  }
  if (!options.api_key_file.empty()) {
    std::istringstream lines(read_text(options.api_key_file, 1 << 20));
    for (std::string line; std::getline(lines, line);) {
      if (line.ends_with('\r')) {
        line.pop_back();
      }
      if (!line.empty()) {
        keys.push_back(line);
      }
    }
    if (keys.empty()) {
      throw FileError(options.api_key_file, "holds no API key");
    }
  }
  return keys;
}

server::LogLevel level_named(const std::string& name) {
  using server::LogLevel;
  return name == "error"  ? LogLevel::error
      : name == "warning" ? LogLevel::warning
      : name == "debug"   ? LogLevel::debug
                          : LogLevel::info;
}

std::string model_name(const std::filesystem::path& path) {
  const auto clean = std::filesystem::absolute(path).lexically_normal();
  const auto name = clean.has_filename() ? clean : clean.parent_path();
  return name.extension() == ".gguf" ? name.stem().string()
                                     : name.filename().string();
}

// What an operator may not have meant, in the form of all that follows.
void log_notices(
    const ServeCommand& options,
    const ModelArgs& args,
    const ChatTemplate& chat_template) {
  using server::LogLevel;
  const server::Log log(options.server.log_level);
  const int asked = options.engine.max_context;
  if (asked > args.max_position_embeddings) {
    log.write(
        LogLevel::warning,
        "the context is lowered to what the model was made for",
        {{"ctx_size", std::to_string(asked)},
         {"max_context", std::to_string(args.max_position_embeddings)}});
  }
  if (chat_template.is_default() && !options.chat_template.use_default) {
    log.write(
        LogLevel::warning, "the model has no chat template; ChatML is used");
  }
}

void run(ServeCommand options, Exit& exit) {
  auto& server = options.server;
  server.api_keys = read_keys(options);
  server.log_level = level_named(options.log_level);
  server.model_name =
      options.alias.empty() ? model_name(options.model.model) : options.alias;
  server.limits.max_body_bytes = options.max_body_bytes;
  server.limits.drain_time = to_ms(options.drain_seconds);
  server.limits.ping_interval = to_ms(options.ping_seconds);
  server.request_time = to_ms(options.request_seconds);
  auto& engine = options.engine;
  if (!options.max_memory.empty()) {
    engine.memory.max_bytes = parse_bytes(options.max_memory, "--max-memory");
  }
  if (!options.cache_bytes.empty()) {
    engine.memory.max_cache_bytes =
        parse_bytes(options.cache_bytes, "--prompt-cache-bytes");
  }

  engine.arithmetic = "version " QWEN3_MLX_VERSION ", kernels " +
      options.model.kernels + (options.model.exact ? ", exact" : "") + "\n";

  find_model(options.model);
  const auto tokenizer = find_tokenizer(options.model.model);
  if (!tokenizer) {
    throw FileError(options.model.model, "has no tokenizer to serve with");
  }
  auto chat_template = options.chat_template.use_default
      ? ChatTemplate::chatml()
      : load_chat_template(
            options.chat_template.file.empty() ? options.model.model
                                               : options.chat_template.file);
  auto model = load_or_make(options.model, options.random);
  log_notices(options, model.args(), chat_template);
  exit.code = serve(
      std::move(model), *tokenizer, std::move(chat_template), engine, server);
}

} // namespace

void add_serve(CLI::App& app, Exit& exit) {
  auto* sub = app.add_subcommand(
      "serve", "Serve the model over HTTP, in OpenAI's terms");
  auto options = std::make_shared<ServeCommand>();
  add_model_options(*sub, options->model);
  add_random_options(*sub, options->random);
  add_network_options(*sub, *options);
  add_engine_options(*sub, *options);
  add_template_options(*sub, *options);
  sub->footer(examples);
  sub->callback([options, &exit] { run(*options, exit); });
}

} // namespace qwen3_mlx::cli
