// SPDX-License-Identifier: MIT
// Runs the program as a user does, and makes a small checkpoint to run it on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "testing/tiny_chat_model.h"

namespace qwen3_mlx::testing {

struct ProgramResult {
  int code = -1; ///< Exit status; 128 + the signal that ended it.
  std::string out;
  std::string err;
};

/// Runs `program` with `arguments` and all of `input` on its standard input,
/// until it ends.
ProgramResult run_program(
    const std::filesystem::path& program,
    const std::vector<std::string>& arguments,
    const std::string& input = {});

/// qwen3-mlx itself.
ProgramResult run_cli(
    const std::vector<std::string>& arguments,
    const std::string& input = {});

/// qwen3-mlx on a terminal of its own, as a person has it.
class TerminalSession {
 public:
  /// History goes to a folder `state`.
  TerminalSession(
      const std::vector<std::string>& arguments,
      const std::filesystem::path& state);
  ~TerminalSession();
  TerminalSession(const TerminalSession&) = delete;
  TerminalSession& operator=(const TerminalSession&) = delete;

  /// Types `keys`.
  void type(const std::string& keys);
  /// Waits until `text` was shown after what the last call waited for, at most
  /// half a minute. Returns whether it was.
  bool wait_for(const std::string& text);
  /// Waits for the end; the exit status.
  int wait();

  const std::string& shown() const {
    return shown_;
  }

 private:
  bool read_some();

  int terminal_ = -1;
  int process_ = -1;
  std::string shown_;
  std::size_t seen_ = 0;
};

} // namespace qwen3_mlx::testing
