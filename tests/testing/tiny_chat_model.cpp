// SPDX-License-Identifier: MIT
#include "testing/tiny_chat_model.h"

#include <fstream>

#include "testing/tiny_checkpoint.h"
#include "tokenizer/tiny_tokenizer.h"

namespace qwen3_mlx::testing {
namespace {

// ChatML with Qwen3's switch for thinking.
constexpr const char* chat_template =
    "{%- for message in messages -%}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n"
    "{%- if enable_thinking -%}<think>\n{%- endif -%}{%- endif -%}";

} // namespace

void write_tiny_chat_model(const std::filesystem::path& folder) {
  constexpr std::int64_t vocab_size = 272;
  auto tiny = load_tiny_case(
      std::filesystem::path(QWEN3_MLX_TEST_DATA) / "parity", "qwen3-default");
  auto config = Json::parse(tiny.config);
  config["vocab_size"] = vocab_size;
  config["max_position_embeddings"] = 4096;
  tiny.config = config.dump();
  for (auto& tensor : tiny.tensors) {
    if (tensor.name == "model.embed_tokens.weight" ||
        tensor.name == "lm_head.weight") {
      tensor.shape.front() = vocab_size;
    }
  }
  write_tiny_checkpoint(tiny, folder);

  auto tokenizer = tiny_tokenizer_json();
  tokenizer["added_tokens"].push_back(added_token_json(263, "<|im_start|>"));
  tokenizer["added_tokens"].push_back(added_token_json(264, "<|im_end|>"));
  std::ofstream(folder / "tokenizer.json") << tokenizer.dump();
  std::ofstream(folder / "chat_template.jinja") << chat_template;
}

} // namespace qwen3_mlx::testing
