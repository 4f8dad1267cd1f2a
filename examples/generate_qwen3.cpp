// SPDX-License-Identifier: MIT
// Basic generation: a text is continued by 50 tokens at temperature 0.7.
//
//   generate_qwen3 DIR|FILE.gguf [PROMPT]

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <mlx/mlx.h>

#include <qwen3_mlx/generate.h>
#include <qwen3_mlx/model.h>
#include <qwen3_mlx/tokenizer.h>

namespace {

constexpr float temperature = 0.7F;
constexpr int max_tokens = 50;

void generate(const std::string& path, const std::string& text) {
  const auto tokenizer = qwen3_mlx::load_tokenizer(path);
  const auto model = qwen3_mlx::load_model(path);

  // The prompt as an array of shape [1, L].
  const auto ids = tokenizer.encode(text, /* add_special_tokens */ true);
  const int length = static_cast<int>(ids.size());
  const mlx::core::array prompt(ids.begin(), {1, length}, mlx::core::uint32);

  // Each ++ gives a token; the next one is computed meanwhile. The detokenizer
  // hands out whole characters, even where one spans several tokens.
  std::vector<qwen3_mlx::KVCache> cache;
  qwen3_mlx::Generate tokens(model, cache, temperature, prompt);
  qwen3_mlx::StreamingDetokenizer detokenizer(tokenizer);
  int n_tokens = 0;
  std::cout << text;
  for (const auto id : tokens) {
    std::cout << detokenizer.add(id) << std::flush;
    if (++n_tokens == max_tokens) {
      break;
    }
  }
  std::cout << detokenizer.finish() << "\n\nGenerated " << n_tokens
            << " tokens\n";
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::cerr << "usage: generate_qwen3 MODEL [PROMPT]\n";
    return 2;
  }
  try {
    generate(argv[1], argc > 2 ? argv[2] : "Hello, how are you?");
  } catch (const std::exception& error) {
    std::cerr << "generate_qwen3: " << error.what() << '\n';
    return 1;
  }
}
