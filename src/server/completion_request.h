// SPDX-License-Identifier: MIT
// From the JSON of /v1/chat/completions and /v1/completions to requests for the
// engine, every field checked.
#pragma once

#include <string>
#include <vector>

#include "engine/request.h"
#include "qwen3_mlx/chat_parser.h"
#include "server/json.h"
#include "server/served_model.h"

namespace qwen3_mlx::server {

struct StreamOptions {
  bool stream = false;
  bool include_usage = false;
};

/// A request as the engine takes it (without ids), one for each prompt, and
/// what its answer needs to know.
struct CompletionRequest {
  std::vector<engine::Request> prompts;
  StreamOptions stream;
  bool logprobs = false;
  int top_logprobs = 0;
  ChatParserOptions parser; ///< Of chat answers.
  std::vector<std::string> unknown_fields;
};

/// Throw ApiError naming the field.
CompletionRequest
parse_chat_request(const Json& body, const ServedModel& model);
CompletionRequest
parse_text_request(const Json& body, const ServedModel& model);

/// The prompt that a chat request renders to, and whether the model's text
/// begins inside its reasoning.
struct RenderedChat {
  std::string prompt;
  ChatParserOptions parser;
  bool has_tools = false;
};
class Fields;
RenderedChat render_chat(Fields& fields, const ServedModel& model);

} // namespace qwen3_mlx::server
