// SPDX-License-Identifier: MIT
#include "cli/pull_progress.h"

#include <algorithm>
#include <iostream>

#include "cli/terminal.h"

namespace qwen3_mlx::cli {
namespace {

constexpr std::size_t name_width = 36;
constexpr int bar_width = 24;

/// As wide as all others; what is too long loses its beginning, since the end
/// of a shard's name tells it from the others.
std::string fitted(std::string name) {
  if (name.size() > name_width) {
    name = "..." + name.substr(name.size() - name_width + 3);
  }
  name.resize(name_width, ' ');
  return name;
}

std::string bar(std::uint64_t done, std::uint64_t total) {
  const double fraction =
      total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
  const int full = std::min(static_cast<int>(fraction * bar_width), bar_width);
  std::string text = " [";
  for (int cell = 0; cell < bar_width; ++cell) {
    text += cell < full ? '#' : ' ';
  }
  return text + "] " + human_bytes(done) + " of " + human_bytes(total);
}

} // namespace

PullDisplay::PullDisplay() : on_terminal_(stderr_is_terminal()) {}

PullDisplay::~PullDisplay() {
  clear();
}

void PullDisplay::update(const std::vector<hub::FileProgress>& files) {
  if (on_terminal_) {
    const auto now = Clock::now();
    if (now >= next_draw_) {
      next_draw_ = now + std::chrono::milliseconds(150);
      draw(files);
    }
    return;
  }
  for (const auto& file : files) {
    if (file.done == file.total && reported_.insert(file.name).second) {
      std::cerr << file.name << ' ' << human_bytes(file.total) << " ("
                << reported_.size() << " of " << files.size() << ")\n";
    }
  }
}

void PullDisplay::draw(const std::vector<hub::FileProgress>& files) {
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  for (const auto& file : files) {
    done += file.done;
    total += file.total;
  }
  if (begun_ == Clock::time_point{}) {
    begun_ = Clock::now();
    done_at_begin_ = done;
  }
  clear();
  std::string lines;
  for (const auto& file : files) {
    if (file.done > 0 && file.done < file.total) {
      lines += fitted(file.name) + bar(file.done, file.total) + "\n";
      ++n_lines_;
    }
  }
  lines += total_line(done, total) + "\n";
  ++n_lines_;
  std::cerr << lines << std::flush;
}

std::string
PullDisplay::total_line(std::uint64_t done, std::uint64_t total) const {
  auto line = fitted("all files") + bar(done, total);
  const std::chrono::duration<double> time = Clock::now() - begun_;
  if (time.count() > 0.5 && done > done_at_begin_) {
    const double rate =
        static_cast<double>(done - done_at_begin_) / time.count();
    line += ", " + human_bytes(static_cast<std::uint64_t>(rate)) + "/s, " +
        duration(static_cast<double>(total - done) / rate) + " left";
  }
  return line;
}

void PullDisplay::clear() {
  if (n_lines_ > 0) {
    // To the first of the lines, and away with all below.
    std::cerr << "\x1b[" << n_lines_ << "A\r\x1b[J" << std::flush;
    n_lines_ = 0;
  }
}

} // namespace qwen3_mlx::cli
