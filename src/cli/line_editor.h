// SPDX-License-Identifier: MIT
// One line at a time from the user: with editing and history on a terminal,
// plainly read otherwise.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace qwen3_mlx::cli {

class LineEditor {
 public:
  /// `history_file` is read now and written by add_history(); empty: none.
  explicit LineEditor(std::filesystem::path history_file);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// The next line without its end, or nullopt at the end of input (Ctrl-D).
  /// Ctrl-C empties the line. The prompt is shown on a terminal only.
  std::optional<std::string> read_line(const std::string& prompt);

  /// Remembers `line` for this and later sessions.
  void add_history(const std::string& line);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_; // absent when input is not a terminal
};

/// $XDG_STATE_HOME/qwen3-mlx/history, else ~/.local/state/qwen3-mlx/history;
/// empty when there is no home.
std::filesystem::path default_history_file();

} // namespace qwen3_mlx::cli
