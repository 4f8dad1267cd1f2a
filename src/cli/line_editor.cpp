// SPDX-License-Identifier: MIT
// Line editing by libedit through its own interface (histedit.h), not the one
// that imitates readline.

#include "cli/line_editor.h"

#include <histedit.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <system_error>

#include "cli/terminal.h"

namespace qwen3_mlx::cli {

struct LineEditor::Impl {
  EditLine* edit = nullptr;
  History* history = nullptr;
  std::filesystem::path history_file;
  std::string prompt;

  ~Impl() {
    if (history != nullptr) {
      history_end(history);
    }
    if (edit != nullptr) {
      el_end(edit);
    }
  }
};

namespace {

constexpr int max_history_lines = 1000;

char* current_prompt(EditLine* edit) {
  void* prompt = nullptr;
  el_get(edit, EL_CLIENTDATA, &prompt);
  // libedit asks for a non-const pointer but only reads through it.
  return static_cast<std::string*>(prompt)->data();
}

} // namespace

LineEditor::LineEditor(std::filesystem::path history_file) {
  if (!stdin_is_terminal() || !stdout_is_terminal()) {
    return;
  }
  auto impl = std::make_unique<Impl>();
  impl->history_file = std::move(history_file);
  impl->edit = el_init("qwen3-mlx", stdin, stdout, stderr);
  impl->history = history_init();
  if (impl->edit == nullptr || impl->history == nullptr) {
    return; // an unusable terminal: read plainly
  }
  HistEvent event;
  history(impl->history, &event, H_SETSIZE, max_history_lines);
  history(impl->history, &event, H_SETUNIQUE, 1);
  if (!impl->history_file.empty()) {
    history(impl->history, &event, H_LOAD, impl->history_file.c_str());
  }
  EditLine* edit = impl->edit;
  el_set(edit, EL_CLIENTDATA, &impl->prompt);
  el_set(edit, EL_PROMPT, current_prompt);
  el_set(edit, EL_EDITOR, "emacs");
  el_set(edit, EL_HIST, ::history, impl->history);
  // Ctrl-C is a key while a line is edited (the terminal sends no SIGINT) and
  // an interrupt while an answer runs.
  el_set(edit, EL_SETTY, "-d", "-isig", nullptr);
  el_set(edit, EL_BIND, "^C", "em-kill-line", nullptr);
  el_set(edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  el_source(edit, nullptr); // the user's ~/.editrc
  impl_ = std::move(impl);
}

LineEditor::~LineEditor() = default;

std::optional<std::string> LineEditor::read_line(const std::string& prompt) {
  if (impl_ == nullptr) {
    std::string line;
    if (!std::getline(std::cin, line)) {
      return std::nullopt;
    }
    return line;
  }
  impl_->prompt = prompt;
  // libedit would show the prompt first, and a Ctrl-D that comes before the
  // terminal is in its hands would be lost.
  el_set(impl_->edit, EL_PREP_TERM, 1);
  int n_chars = 0;
  const char* text = el_gets(impl_->edit, &n_chars);
  if (text == nullptr || n_chars <= 0) {
    std::cout << '\n';
    return std::nullopt;
  }
  std::string line = text;
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) {
    line.pop_back();
  }
  return line;
}

void LineEditor::add_history(const std::string& line) {
  if (impl_ == nullptr || line.empty()) {
    return;
  }
  HistEvent event;
  history(impl_->history, &event, H_ENTER, line.c_str());
  if (impl_->history_file.empty()) {
    return;
  }
  // A history that cannot be written is no reason to stop a conversation.
  std::error_code ignored;
  std::filesystem::create_directories(
      impl_->history_file.parent_path(), ignored);
  const mode_t previous = umask(S_IRWXG | S_IRWXO); // conversations are private
  history(impl_->history, &event, H_SAVE, impl_->history_file.c_str());
  umask(previous);
}

std::filesystem::path default_history_file() {
  if (const char* state = std::getenv("XDG_STATE_HOME");
      state != nullptr && *state == '/') {
    return std::filesystem::path(state) / "qwen3-mlx" / "history";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return std::filesystem::path(home) / ".local" / "state" / "qwen3-mlx" /
        "history";
  }
  return {};
}

} // namespace qwen3_mlx::cli
