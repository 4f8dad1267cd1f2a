// SPDX-License-Identifier: MIT

#include "cli/terminal.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <system_error>

#include "base/file.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {

bool stdin_is_terminal() {
  return isatty(STDIN_FILENO) == 1;
}

bool stdout_is_terminal() {
  return isatty(STDOUT_FILENO) == 1;
}

bool stderr_is_terminal() {
  return isatty(STDERR_FILENO) == 1;
}

bool stdout_takes_style() {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  return stdout_is_terminal() && term != nullptr &&
      std::string_view(term) != "dumb" &&
      (no_color == nullptr || *no_color == '\0');
}

std::string fixed(double value, int decimals) {
  std::array<char, 64> text{};
  const int n =
      std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  // Only an absurd magnitude fills the buffer; its first digits will do.
  const auto length = static_cast<std::size_t>(n < 0 ? 0 : n);
  return {text.data(), std::min(length, text.size() - 1)};
}

std::string human_bytes(std::uint64_t n_bytes) {
  constexpr std::array<std::string_view, 5> units{
      "B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(n_bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  return fixed(value, unit == 0 ? 0 : 2) + " " + std::string(units[unit]);
}

std::string duration(double seconds) {
  const auto whole = std::llround(seconds);
  const auto two = [](std::int64_t value) {
    return (value < 10 ? "0" : "") + std::to_string(value);
  };
  const auto minutes = whole / 60;
  return minutes >= 60 ? std::to_string(minutes / 60) + ":" +
          two(minutes % 60) + ":" + two(whole % 60)
                       : std::to_string(minutes) + ":" + two(whole % 60);
}

namespace {

std::string
read_to_end(int file, const std::filesystem::path& path, std::uint64_t most) {
  std::string text;
  std::array<char, 1 << 16> chunk;
  for (;;) {
    const auto n = ::read(file, chunk.data(), chunk.size());
    if (n == 0) {
      return text;
    }
    if (n > 0) {
      text.append(chunk.data(), static_cast<std::size_t>(n));
    } else if (errno != EINTR) {
      throw FileError(
          path, "cannot read: " + std::generic_category().message(errno));
    }
    // A device may never end.
    if (text.size() > most) {
      throw FileError(path, "has more than " + human_bytes(most));
    }
  }
}

} // namespace

std::string read_stdin() {
  return read_to_end(STDIN_FILENO, "standard input", std::uint64_t{1} << 30);
}

std::string
read_text(const std::filesystem::path& path, std::uint64_t max_bytes) {
  if (path == "-") {
    return read_to_end(STDIN_FILENO, "standard input", max_bytes);
  }
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  // What is missing or has no bytes is told there.
  if (!std::filesystem::exists(status) ||
      std::filesystem::is_regular_file(status) ||
      std::filesystem::is_directory(status)) {
    return read_file(path, max_bytes);
  }
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    throw FileError(
        path, "cannot open: " + std::generic_category().message(errno));
  }
  try {
    auto text = read_to_end(file, path, max_bytes);
    ::close(file);
    return text;
  } catch (...) {
    ::close(file);
    throw;
  }
}

ProgressBar::ProgressBar(std::string label, Unit unit)
    : label_(std::move(label)), unit_(unit), enabled_(stderr_is_terminal()) {}

ProgressBar::~ProgressBar() {
  clear();
}

void ProgressBar::update(std::uint64_t done, std::uint64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!enabled_ || total == 0 || now < next_draw_) {
    return;
  }
  next_draw_ = now + std::chrono::milliseconds(100);
  constexpr int width = 30;
  const double fraction =
      static_cast<double>(done) / static_cast<double>(total);
  const int full = static_cast<int>(fraction * width);
  std::string bar = "\r" + label_ + " [";
  for (int cell = 0; cell < width; ++cell) {
    bar += cell < full ? '#' : ' ';
  }
  bar += "] ";
  bar += unit_ == Unit::bytes
      ? human_bytes(done) + " of " + human_bytes(total)
      : std::to_string(done) + " of " + std::to_string(total);
  const std::chrono::duration<double> time = now - begun_;
  if (unit_ == Unit::bytes && done > 0 && time.count() > 0.5) {
    const double rate = static_cast<double>(done) / time.count();
    bar += ", " + human_bytes(static_cast<std::uint64_t>(rate)) + "/s, " +
        duration(static_cast<double>(total - done) / rate) + " left";
  }
  std::cerr << bar << "\x1b[K" << std::flush;
  drawn_ = true;
}

void ProgressBar::clear() {
  if (drawn_) {
    std::cerr << "\r\x1b[K" << std::flush;
    drawn_ = false;
  }
}

} // namespace qwen3_mlx::cli
