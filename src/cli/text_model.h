// SPDX-License-Identifier: MIT
// The text side of a checkpoint: its tokenizer and its chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "qwen3_mlx/chat_template.h"
#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx::cli {

using Json = nlohmann::ordered_json;

/// Where the chat template comes from.
struct TemplateOptions {
  std::filesystem::path file; // instead of the checkpoint's, when not empty
  bool use_default = false;   // ChatML instead of the checkpoint's
  std::string config;         // JSON object of further template variables
};

/// A conversation's text for the model. `messages` is a JSON array as in
/// OpenAI's chat format.
class PromptRenderer {
 public:
  /// Reads and checks the template. Throws CLI::ValidationError when
  /// `options.config` is no JSON object, and what load_chat_template throws.
  PromptRenderer(
      const std::filesystem::path& model,
      const TemplateOptions& options);

  /// Whether neither the options nor the checkpoint name a template, so that
  /// ChatML stands in.
  bool is_fallback() const {
    return is_fallback_;
  }

  /// Ends where the assistant's answer begins.
  std::string render(const Json& messages) const;
  /// render() up to the end of the last message's content, and from its
  /// beginning on. Throws Error when the template drops that content.
  std::string render_before_end(const Json& messages) const;
  std::string render_from_content(const Json& messages) const;

 private:
  /// The rendered text before and after the last message's content.
  struct Around {
    std::string before;
    std::string after;
  };

  std::string render(const Json& messages, bool add_generation_prompt) const;
  Around render_around(Json messages, bool add_generation_prompt) const;

  ChatTemplate template_;
  Json variables_;
  bool is_fallback_ = false;
};

/// Tells on stderr when ChatML stands in for a template.
void warn_of_fallback(const PromptRenderer& renderer);

/// The user's message, after a system message when there is one.
Json make_messages(const std::string& system_prompt, const std::string& user);

/// The tokenizer, or nothing when the checkpoint has none.
std::optional<Tokenizer> find_tokenizer(const std::filesystem::path& model);

/// "1,2 3" -> {1, 2, 3}. Throws CLI::ValidationError naming `option`.
std::vector<std::uint32_t>
parse_ids(std::string_view text, const std::string& option);

} // namespace qwen3_mlx::cli
