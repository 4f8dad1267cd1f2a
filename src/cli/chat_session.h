// SPDX-License-Identifier: MIT
// A conversation over many turns on one cache.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "cli/answer.h"
#include "cli/text_model.h"

namespace qwen3_mlx::cli {

/// Each turn renders the whole conversation by the template, keeps the part of
/// it that the cache already holds, and reads only the rest.
class ChatSession {
 public:
  using TextSink = std::function<void(std::string_view text, bool is_thinking)>;

  ChatSession(
      Model model,
      Tokenizer tokenizer,
      PromptRenderer renderer,
      const CacheOptions& cache_options);

  /// Empty: no system message.
  void set_system_prompt(std::string text);
  const std::string& system_prompt() const {
    return system_prompt_;
  }
  /// Forgets all turns; the system message stays.
  void clear();

  /// Says `text` to the model and keeps its answer, or what there is of it when
  /// it is cancelled. A turn that fails leaves the conversation as it was.
  Answer
  ask(const std::string& text,
      const SamplingParams& params,
      const GenerateOptions& options,
      const TextSink& sink);

  /// Writes or reads the conversation as JSON, {"messages": [...]}. Throws
  /// FileError.
  void save(const std::filesystem::path& path) const;
  void load(const std::filesystem::path& path);

  std::size_t num_messages() const {
    return turns_.size();
  }

 private:
  Json messages() const;

  Model model_;
  Tokenizer tokenizer_;
  PromptRenderer renderer_;
  HeldCache held_;
  std::string system_prompt_;
  Json turns_ = Json::array();
};

} // namespace qwen3_mlx::cli
