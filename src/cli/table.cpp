// SPDX-License-Identifier: MIT

#include "cli/table.h"

#include <algorithm>
#include <cassert>
#include <ostream>

namespace qwen3_mlx::cli {

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::add(std::vector<std::string> cells) {
  assert(cells.size() == columns_.size());
  rows_.push_back(std::move(cells));
}

void Table::print(std::ostream& out) const {
  std::vector<std::size_t> widths;
  bool has_header = false;
  for (const auto& column : columns_) {
    widths.push_back(column.header.size());
    has_header = has_header || !column.header.empty();
  }
  for (const auto& row : rows_) {
    for (std::size_t column = 0; column < row.size(); ++column) {
      widths[column] = std::max(widths[column], row[column].size());
    }
  }

  const auto print_row = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t column = 0; column < cells.size(); ++column) {
      const std::string padding(widths[column] - cells[column].size(), ' ');
      const bool right = columns_[column].align == Align::right;
      line += column == 0 ? "" : "  ";
      line += right ? padding + cells[column] : cells[column] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  };

  if (has_header) {
    std::vector<std::string> headers;
    std::vector<std::string> rules;
    for (std::size_t column = 0; column < columns_.size(); ++column) {
      headers.push_back(columns_[column].header);
      rules.emplace_back(widths[column], '-');
    }
    print_row(headers);
    print_row(rules);
  }
  for (const auto& row : rows_) {
    print_row(row);
  }
}

} // namespace qwen3_mlx::cli
