// SPDX-License-Identifier: MIT
#include "weights/import_fp8.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "base/half.h"
#include "weights/import_checks.h"
#include "weights/row_source.h"
#include "weights/stored_rows.h"

namespace qwen3_mlx {
namespace {

class Fp8Rows final : public RowSource {
 public:
  /// `block_rows` and `block_columns` numbers share a scale.
  Fp8Rows(
      StoredTensor weight,
      StoredTensor scales,
      std::uint64_t block_rows,
      std::uint64_t block_columns)
      : weight_(std::move(weight)), scales_(std::move(scales)),
        n_rows_(rows_of(weight_.shape)),
        n_columns_(static_cast<std::uint64_t>(weight_.shape.back())),
        // Experts are stacked: blocks begin anew in each.
        rows_each_(static_cast<std::uint64_t>(
            weight_.shape[weight_.shape.size() - 2])),
        block_rows_(block_rows), block_columns_(block_columns) {}

  void read_rows(std::uint64_t first, std::uint64_t count, float* out)
      const override {
    const auto columns = static_cast<std::size_t>(n_columns_);
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * columns);
    read_stored_rows(weight_, n_rows_, first, count, bytes.data());
    const auto n_scales = static_cast<std::size_t>(
        (n_columns_ + block_columns_ - 1) / block_columns_);
    std::vector<float> scales(n_scales);
    std::vector<std::byte> scratch;
    auto known = UINT64_MAX;
    for (std::uint64_t row = 0; row < count; ++row) {
      const auto scale_row = row_of_scales(first + row);
      if (scale_row != known) {
        read_scales(scale_row, scales, scratch);
        known = scale_row;
      }
      const auto* from = bytes.data() + row * n_columns_;
      auto* to = out + row * n_columns_;
      for (std::size_t block = 0; block < n_scales; ++block) {
        const auto begin = block * static_cast<std::size_t>(block_columns_);
        const auto end =
            std::min(columns, begin + static_cast<std::size_t>(block_columns_));
        for (auto idx = begin; idx < end; ++idx) {
          to[idx] =
              values_[static_cast<std::uint8_t>(from[idx])] * scales[block];
        }
      }
    }
  }

 private:
  static std::array<float, 256> make_values() {
    std::array<float, 256> values;
    for (std::size_t bits = 0; bits < values.size(); ++bits) {
      values[bits] = f8_e4m3_to_float(static_cast<std::uint8_t>(bits));
    }
    return values;
  }

  std::uint64_t row_of_scales(std::uint64_t row) const {
    const auto blocks_each = (rows_each_ + block_rows_ - 1) / block_rows_;
    return row / rows_each_ * blocks_each + row % rows_each_ / block_rows_;
  }

  void read_scales(
      std::uint64_t row,
      std::vector<float>& scales,
      std::vector<std::byte>& scratch) const {
    const auto n_rows = element_count() / scales.size();
    scratch.resize(static_cast<std::size_t>(scales_.n_bytes() / n_rows));
    read_stored_rows(scales_, n_rows, row, 1, scratch.data());
    widen(scales_, scratch.data(), scales.size(), scales.data());
  }

  std::uint64_t element_count() const {
    std::uint64_t count = 1;
    for (const auto dim : scales_.shape) {
      count *= static_cast<std::uint64_t>(dim);
    }
    return count;
  }

  StoredTensor weight_;
  StoredTensor scales_;
  std::uint64_t n_rows_;
  std::uint64_t n_columns_;
  std::uint64_t rows_each_;
  std::uint64_t block_rows_;
  std::uint64_t block_columns_;
  std::array<float, 256> values_ = make_values();
};

std::int64_t blocks(std::int64_t size, std::int64_t block) {
  return (size + block - 1) / block;
}

} // namespace

void import_fp8(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors) {
  constexpr std::string_view leaf = ".weight";
  const bool has_blocks = quantization.block_rows > 0;
  const std::string suffix =
      quantization.method == ForeignMethod::fp8 && has_blocks ? "_scale_inv"
                                                              : "_scale";
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with(leaf) && tensor.type_name == "F8_E4M3") {
      names.push_back(name);
    }
  }
  if (names.empty()) {
    throw FileError(
        path,
        "config.json says " + quantization.name +
            ", but no weight is stored as F8_E4M3");
  }
  for (const auto& name : names) {
    auto& weight = tensors.find(name)->second;
    const auto scales = tensors.find(name + suffix);
    if (scales == tensors.end()) {
      throw TensorError(path, name + suffix, "is missing");
    }
    const auto rank = weight.shape.size();
    if (rank < 2 || rows_of(weight.shape) == 0 || weight.shape.back() == 0) {
      fail(
          weight,
          "has shape " + to_string(weight.shape) + ", expected a matrix");
    }
    const auto& found = scales->second;
    if (!is_readable(found)) {
      fail(
          found, "is stored as " + found.type_name + ", expected a float type");
    }
    const auto rows = weight.shape[rank - 2];
    const auto columns = weight.shape[rank - 1];
    auto block_rows = rows;
    auto block_columns = columns;
    auto expected = weight.shape;
    if (has_blocks) {
      block_rows = quantization.block_rows;
      block_columns = quantization.block_columns;
      expected[rank - 2] = blocks(rows, block_rows);
      expected[rank - 1] = blocks(columns, block_columns);
    } else if (found.shape.size() == rank && found.shape[rank - 2] == rows) {
      block_rows = 1; // a scale for each row
      expected[rank - 1] = 1;
    } else {
      // One scale, which some writers give a dimension.
      expected.resize(rank - 2);
      while (expected.size() < found.shape.size()) {
        expected.push_back(1);
      }
    }
    if (found.shape != expected) {
      fail(
          found,
          "has shape " + to_string(found.shape) + ", expected " +
              to_string(expected) + " for a weight " + to_string(weight.shape));
    }
    StoredTensor imported = weight;
    imported.type = StoredType::imported;
    imported.rows = std::make_shared<const Fp8Rows>(
        weight,
        found,
        static_cast<std::uint64_t>(block_rows),
        static_cast<std::uint64_t>(block_columns));
    weight = std::move(imported);
    tensors.erase(scales);
    // Of activations: what they are quantized to elsewhere.
    for (const auto* other : {".input_scale", ".input_global_scale"}) {
      tensors.erase(name.substr(0, name.size() - leaf.size()) + other);
    }
  }
}

} // namespace qwen3_mlx
