// SPDX-License-Identifier: MIT
// A chat in ChatML with a prompt string of its own: each turn the whole
// conversation is given to the model, which answers at temperature 0.6 until
// it says <|im_end|> or <|endoftext|>. "clear" forgets, "quit" ends.
//
//   chat_qwen3 DIR|FILE.gguf
//
// `qwen3-mlx chat` does more: the model's own template, and a cache that keeps
// the conversation from turn to turn.

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include <mlx/mlx.h>

#include <qwen3_mlx/generate.h>
#include <qwen3_mlx/model.h>
#include <qwen3_mlx/tokenizer.h>

namespace {

constexpr float temperature = 0.6F;
constexpr int max_tokens = 256;
// Qwen's <|endoftext|> and <|im_end|>. Another model's own ids end its answers
// too: Generate knows them.
constexpr std::array<std::uint32_t, 2> stop_ids{151643, 151645};
constexpr std::string_view system_message =
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";

struct Chat {
  qwen3_mlx::Tokenizer tokenizer;
  qwen3_mlx::Model model;
  std::string conversation{system_message};

  std::string answer() const {
    const auto ids = tokenizer.encode(conversation);
    const int length = static_cast<int>(ids.size());
    const mlx::core::array prompt(ids.begin(), {1, length}, mlx::core::uint32);

    std::vector<qwen3_mlx::KVCache> cache;
    qwen3_mlx::Generate tokens(model, cache, temperature, prompt);
    qwen3_mlx::StreamingDetokenizer detokenizer(tokenizer);
    std::string text;
    const auto show = [&text](const std::string& piece) {
      text += piece;
      std::cout << piece << std::flush;
    };
    int n_tokens = 0;
    for (const auto id : tokens) {
      const bool ends =
          std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
      if (ends) {
        break;
      }
      show(detokenizer.add(id));
      if (++n_tokens == max_tokens) {
        break;
      }
    }
    show(detokenizer.finish());
    return text;
  }
};

void run(const std::string& path) {
  Chat chat{qwen3_mlx::load_tokenizer(path), qwen3_mlx::load_model(path)};
  std::cout << "Type a message; \"clear\" forgets, \"quit\" ends.\n";
  for (std::string line;
       std::cout << "You: " << std::flush, std::getline(std::cin, line);) {
    if (line == "quit" || line == "exit") {
      break;
    }
    if (line == "clear") {
      chat.conversation = system_message;
      continue;
    }
    if (line.empty()) {
      continue;
    }
    chat.conversation +=
        "<|im_start|>user\n" + line + "<|im_end|>\n<|im_start|>assistant\n";
    std::cout << "Assistant: ";
    chat.conversation += chat.answer() + "<|im_end|>\n";
    std::cout << "\n";
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: chat_qwen3 MODEL\n";
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const std::exception& error) {
    std::cerr << "chat_qwen3: " << error.what() << '\n';
    return 1;
  }
}
