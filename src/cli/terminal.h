// SPDX-License-Identifier: MIT
// What the terminal can do, progress bars on it, and numbers for people.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

namespace qwen3_mlx::cli {

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();

/// Whether text on stdout may be styled: it is a terminal, TERM is not "dumb"
/// and NO_COLOR is unset (https://no-color.org).
bool stdout_takes_style();

inline constexpr const char* dim_on = "\x1b[2m";
inline constexpr const char* dim_off = "\x1b[22m";

/// 1536 -> "1.50 KiB".
std::string human_bytes(std::uint64_t n_bytes);

/// `value` with `decimals` digits after the point.
std::string fixed(double value, int decimals);

/// "2:05", "1:02:05".
std::string duration(double seconds);

/// The whole of standard input, byte for byte. Throws Error when it cannot be
/// read or is longer than a text may be (1 GiB).
std::string read_stdin();

/// The whole of a file, which may be a pipe, as of <(command), or a device; "-"
/// is standard input. Throws Error, or FileError where it has more than
/// `max_bytes`.
std::string read_text(
    const std::filesystem::path& path,
    std::uint64_t max_bytes = std::uint64_t{1} << 30);

/// One line on stderr that shows how far a job is, of bytes with the rate and
/// the time that is left; nothing when stderr is not
/// a terminal. The line is removed at the end.
class ProgressBar {
 public:
  enum class Unit { bytes, count };

  ProgressBar(std::string label, Unit unit);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Draws at most ten times a second.
  void update(std::uint64_t done, std::uint64_t total);
  void clear();

 private:
  std::string label_;
  Unit unit_;
  bool enabled_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point begun_ =
      std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point next_draw_{};
};

} // namespace qwen3_mlx::cli
