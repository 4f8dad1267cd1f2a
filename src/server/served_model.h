// SPDX-License-Identifier: MIT
// What the handlers know of the model: its texts and defaults, never its
// arrays. Constant, so that any thread may read it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "qwen3_mlx/chat_parser.h"
#include "qwen3_mlx/chat_template.h"
#include "qwen3_mlx/generation_config.h"
#include "qwen3_mlx/tokenizer.h"
#include "server/json.h"
#include "server/options.h"

namespace qwen3_mlx::server {

struct ServedModel {
  std::string name;
  std::int64_t created = 0; ///< Unix time at which it was loaded.
  std::string fingerprint;
  Tokenizer tokenizer;
  ChatTemplate chat_template;
  ToolCallFormat tool_format = ToolCallFormat::none;
  GenerationConfig defaults;
  std::vector<std::uint32_t> stop_ids;
  int vocab_size = 0;
  int max_context = 0;
  int max_text = 0; ///< Tokens that the key/value memory holds.
  Json template_variables = Json::object();
  int default_max_tokens = 0;
  milliseconds request_time{0};
  Limits limits;
  Json props = Json::object(); ///< What /props shows besides.
};

} // namespace qwen3_mlx::server
