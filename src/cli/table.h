// SPDX-License-Identifier: MIT
// Tables of text for people.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace qwen3_mlx::cli {

enum class Align { left, right };

/// Rows of cells, printed with every column as wide as its widest cell.
class Table {
 public:
  /// Without headers (all empty) no head is printed.
  struct Column {
    std::string header;
    Align align = Align::left;
  };

  explicit Table(std::vector<Column> columns);

  /// One cell per column. Cells are ASCII: width is counted in bytes.
  void add(std::vector<std::string> cells);

  void print(std::ostream& out) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

} // namespace qwen3_mlx::cli
