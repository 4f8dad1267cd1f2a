// SPDX-License-Identifier: MIT

#include "program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

#include "testing/temp_dir.h"

namespace qwen3_mlx::testing {
namespace {

std::string read_whole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Replaces this process, which must be a child.
[[noreturn]] void execute(
    const std::filesystem::path& program,
    const std::vector<std::string>& arguments) {
  std::vector<std::string> words{program.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (auto& word : words) {
    pointers.push_back(word.data());
  }
  pointers.push_back(nullptr);
  execv(program.c_str(), pointers.data());
  _exit(127);
}

int exit_status(int process) {
  int status = 0;
  if (waitpid(process, &status, 0) != process) {
    throw std::runtime_error("cannot wait for the program");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void redirect(const std::filesystem::path& path, int flags, int target) {
  const int file = open(path.c_str(), flags, 0600);
  if (file < 0 || dup2(file, target) < 0) {
    _exit(126);
  }
}

} // namespace

ProgramResult run_program(
    const std::filesystem::path& program,
    const std::vector<std::string>& arguments,
    const std::string& input) {
  // Files rather than pipes: nothing can fill up and block.
  const TempDir folder;
  const auto in = folder.write("in", input);
  const auto out = folder.path() / "out";
  const auto err = folder.path() / "err";
  const int process = fork();
  if (process == 0) {
    redirect(in, O_RDONLY, STDIN_FILENO);
    redirect(out, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    redirect(err, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    execute(program, arguments);
  }
  const int code = exit_status(process);
  return {code, read_whole(out), read_whole(err)};
}

ProgramResult
run_cli(const std::vector<std::string>& arguments, const std::string& input) {
  return run_program(QWEN3_MLX_PROGRAM, arguments, input);
}

TerminalSession::TerminalSession(
    const std::vector<std::string>& arguments,
    const std::filesystem::path& state)
    : terminal_(posix_openpt(O_RDWR | O_NOCTTY)) {
  if (terminal_ < 0 || grantpt(terminal_) != 0 || unlockpt(terminal_) != 0) {
    throw std::runtime_error("cannot open a pseudo-terminal");
  }
  const std::string name = ptsname(terminal_);
  process_ = fork();
  if (process_ == 0) {
    // A session of its own, with this terminal as the one that sends signals.
    setsid();
    const int slave = open(name.c_str(), O_RDWR);
    if (slave < 0) {
      _exit(126);
    }
    ioctl(slave, TIOCSCTTY, 0);
    for (const int target : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      dup2(slave, target);
    }
    setenv("TERM", "xterm", 1);
    setenv("XDG_STATE_HOME", state.c_str(), 1);
    unsetenv("NO_COLOR");
    execute(QWEN3_MLX_PROGRAM, arguments);
  }
}

TerminalSession::~TerminalSession() {
  if (process_ > 0) {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  close(terminal_);
}

void TerminalSession::type(const std::string& keys) {
  if (write(terminal_, keys.data(), keys.size()) !=
      static_cast<ssize_t>(keys.size())) {
    throw std::runtime_error("cannot type");
  }
}

/// False at the end, or when nothing came for a while.
bool TerminalSession::read_some() {
  pollfd ready{.fd = terminal_, .events = POLLIN, .revents = 0};
  if (poll(&ready, 1, /* timeout_ms */ 30'000) <= 0) {
    return false;
  }
  char bytes[4096];
  const auto n_bytes = read(terminal_, bytes, sizeof bytes);
  if (n_bytes <= 0) {
    return false;
  }
  shown_.append(bytes, static_cast<std::size_t>(n_bytes));
  return true;
}

bool TerminalSession::wait_for(const std::string& text) {
  const auto limit =
      std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (;;) {
    const auto at = shown_.find(text, seen_);
    if (at != std::string::npos) {
      seen_ = at + text.size();
      return true;
    }
    if (std::chrono::steady_clock::now() > limit || !read_some()) {
      return false;
    }
  }
}

int TerminalSession::wait() {
  const auto limit =
      std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (read_some()) {
  }
  // A program that waits for ever fails its test instead of stopping them all.
  siginfo_t ended{};
  while (waitid(
             P_PID,
             static_cast<id_t>(process_),
             &ended,
             WEXITED | WNOHANG | WNOWAIT) == 0 &&
         ended.si_pid == 0) {
    if (std::chrono::steady_clock::now() > limit) {
      kill(process_, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const int code = exit_status(process_);
  process_ = -1;
  return code;
}

} // namespace qwen3_mlx::testing
