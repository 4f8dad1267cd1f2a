// SPDX-License-Identifier: MIT
// How far a download is, on stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "hub/pull.h"

namespace qwen3_mlx::cli {

/// On a terminal one line for each file under way and one for all, with rate
/// and time left, drawn anew a few times a second; elsewhere a line for each
/// file that is done.
class PullDisplay {
 public:
  PullDisplay();
  ~PullDisplay();
  PullDisplay(const PullDisplay&) = delete;
  PullDisplay& operator=(const PullDisplay&) = delete;

  void update(const std::vector<hub::FileProgress>& files);

 private:
  using Clock = std::chrono::steady_clock;

  void draw(const std::vector<hub::FileProgress>& files);
  void clear();
  std::string total_line(std::uint64_t done, std::uint64_t total) const;

  bool on_terminal_;
  std::set<std::string> reported_;
  Clock::time_point begun_{};
  std::uint64_t done_at_begin_ = 0;
  Clock::time_point next_draw_{};
  int n_lines_ = 0;
};

} // namespace qwen3_mlx::cli
