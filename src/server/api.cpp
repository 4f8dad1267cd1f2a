// SPDX-License-Identifier: MIT
#include "server/api.h"

#include <algorithm>

#include "base/utf8.h"
#include "server/api_error.h"
#include "server/assets.h"
#include "server/fields.h"

namespace qwen3_mlx::server {
namespace {

HttpResponse json_response(const Json& json, int status = 200) {
  HttpResponse response;
  response.status = status;
  response.body = to_text(json);
  return response;
}

Json model_json(const ServedModel& model) {
  return {
      {"id", model.name},
      {"object", "model"},
      {"created", model.created},
      {"owned_by", "qwen3-mlx"},
      {"max_model_len", model.max_context}};
}

void check_json(const HttpRequest& request) {
  const auto type = request.header("content-type");
  if (!type.empty() && !type.starts_with("application/json")) {
    throw ApiError(415, "the body must be application/json");
  }
}

// The document with this model's vocabulary.
std::string openapi_of(const ServedModel& model) {
  auto document = Json::parse(find_asset("/openapi.json")->content);
  document["components"]["schemas"]["TokenId"]["maximum"] =
      model.vocab_size - 1;
  return to_text(document);
}

} // namespace

Api::Api(
    const ServedModel& model,
    const engine::Engine& engine,
    const Metrics& metrics,
    const ServerOptions& options)
    : model_(model), engine_(engine), metrics_(metrics),
      stall_time_(options.stall_time), openapi_(openapi_of(model)) {
  constexpr bool open = true;
  constexpr bool heavy = true;
  routes_ = {
      {"POST", "/v1/chat/completions", !open, heavy, &Api::chat_completions},
      {"POST", "/v1/completions", !open, heavy, &Api::completions},
      {"GET", "/v1/models", !open, !heavy, &Api::models},
      {"GET", "/v1/models/", !open, !heavy, &Api::one_model},
      {"GET", "/health", open, !heavy, &Api::health},
      {"GET", "/metrics", !open, !heavy, &Api::show_metrics},
      {"POST", "/tokenize", !open, heavy, &Api::tokenize},
      {"POST", "/detokenize", !open, heavy, &Api::detokenize},
      {"POST", "/apply-template", !open, heavy, &Api::apply_template},
      {"GET", "/props", !open, !heavy, &Api::props},
      {"GET", "/openapi.json", !open, !heavy, &Api::openapi},
  };
  if (options.page) {
    for (const auto& file : assets()) {
      if (file.path != "/openapi.json") {
        routes_.push_back(
            {"GET", std::string(file.path), open, !heavy, &Api::asset});
      }
    }
  }
}

const Api::Route* Api::find(
    const std::string& method,
    const std::string& path,
    std::string& allowed) const {
  // HEAD is GET without the body.
  const std::string& wanted = method == "HEAD" ? "GET" : method;
  for (const auto& route : routes_) {
    const bool takes_rest = route.path.size() > 1 && route.path.back() == '/';
    const bool matches = takes_rest
        ? path.size() > route.path.size() && path.starts_with(route.path)
        : path == route.path;
    if (matches && route.method == wanted) {
      return &route;
    }
    if (matches) {
      allowed += (allowed.empty() ? "" : ", ") + route.method;
    }
  }
  return nullptr;
}

Reply Api::chat_completions(const HttpRequest& request) const {
  check_json(request);
  auto parsed = parse_chat_request(parse_body(request.body), model_);
  auto answer = make_chat_answer(model_, parsed, request.id);
  return {
      .answer = std::move(answer),
      .requests = std::move(parsed.prompts),
      .unknown_fields = std::move(parsed.unknown_fields)};
}

Reply Api::completions(const HttpRequest& request) const {
  check_json(request);
  auto parsed = parse_text_request(parse_body(request.body), model_);
  auto answer = make_text_answer(model_, parsed, request.id);
  return {
      .answer = std::move(answer),
      .requests = std::move(parsed.prompts),
      .unknown_fields = std::move(parsed.unknown_fields)};
}

Reply Api::models(const HttpRequest&) const {
  return {json_response(
      {{"object", "list"}, {"data", Json::array({model_json(model_)})}})};
}

Reply Api::one_model(const HttpRequest& request) const {
  // Names may hold a slash, escaped or not.
  auto name = request.path.substr(std::string("/v1/models/").size());
  for (std::size_t at = 0; (at = name.find("%2", at)) != std::string::npos;) {
    const bool is_slash =
        name.compare(at, 3, "%2F") == 0 || name.compare(at, 3, "%2f") == 0;
    name.replace(at, is_slash ? 3 : 2, is_slash ? "/" : "%2");
    at += is_slash ? 1 : 2;
  }
  if (name != model_.name) {
    throw ApiError(
        404,
        "\"" + name + "\" is not served here; \"" + model_.name + "\" is",
        "model",
        "model_not_found");
  }
  return {json_response(model_json(model_))};
}

Reply Api::health(const HttpRequest&) const {
  const auto busy_since = engine_.busy_since();
  const bool stalls =
      busy_since && engine::Clock::now() - *busy_since > stall_time_;
  const bool healthy = engine_.is_healthy() && !stalls;
  const char* status = healthy ? "ok" : stalls ? "stalled" : "unavailable";
  return {json_response({{"status", status}}, healthy ? 200 : 503)};
}

Reply Api::show_metrics(const HttpRequest&) const {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = metrics_.text();
  return {std::move(response)};
}

Reply Api::tokenize(const HttpRequest& request) const {
  check_json(request);
  const auto body = parse_body(request.body);
  Fields fields(body);
  const auto content = fields.string("content");
  if (!content) {
    fields.fail("content", "is missing");
  }
  EncodeOptions options;
  options.add_special_tokens = fields.boolean("add_special").value_or(false);
  options.parse_special = fields.boolean("parse_special").value_or(true);
  const auto ids = model_.tokenizer.encode(*content, options);
  Json json;
  if (fields.boolean("with_pieces").value_or(false)) {
    json["tokens"] = Json::array();
    for (const auto id : ids) {
      json["tokens"].push_back(
          {{"id", id}, {"piece", token_text(model_.tokenizer, id)}});
    }
  } else {
    json["tokens"] = ids;
  }
  json["count"] = ids.size();
  return {.response = json_response(json), .unknown_fields = fields.unknown()};
}

Reply Api::detokenize(const HttpRequest& request) const {
  check_json(request);
  const auto body = parse_body(request.body);
  Fields fields(body);
  const auto* tokens = fields.array("tokens");
  if (tokens == nullptr) {
    fields.fail("tokens", "is missing");
  }
  std::vector<std::uint32_t> ids;
  for (const auto& token : *tokens) {
    if (!token.is_number_unsigned() ||
        token.get<std::uint64_t>() >= model_.tokenizer.id_limit()) {
      fields.fail(
          "tokens",
          "expected ids below " + std::to_string(model_.tokenizer.id_limit()) +
              ", found " + to_text(token));
    }
    ids.push_back(token.get<std::uint32_t>());
  }
  return {
      .response = json_response({{"content", model_.tokenizer.decode(ids)}}),
      .unknown_fields = fields.unknown()};
}

Reply Api::apply_template(const HttpRequest& request) const {
  check_json(request);
  const auto body = parse_body(request.body);
  Fields fields(body);
  const auto chat = render_chat(fields, model_);
  return {json_response(
      {{"prompt", chat.prompt},
       {"count", model_.tokenizer.encode(chat.prompt).size()}})};
}

Reply Api::props(const HttpRequest&) const {
  auto json = model_.props;
  json["chat_template"] = model_.chat_template.source();
  return {json_response(json)};
}

Reply Api::openapi(const HttpRequest&) const {
  HttpResponse response;
  response.body = openapi_;
  return {std::move(response)};
}

Reply Api::asset(const HttpRequest& request) const {
  const auto* file = find_asset(request.path);
  HttpResponse response;
  response.content_type = std::string(file->content_type) + "; charset=utf-8";
  response.body = file->content;
  response.headers = {
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; img-src "
       "'self' data:; connect-src 'self'; base-uri 'none'; form-action "
       "'none'; frame-ancestors 'none'"},
      {"Referrer-Policy", "no-referrer"},
      {"Cache-Control", "no-cache"}};
  return {std::move(response)};
}

} // namespace qwen3_mlx::server
