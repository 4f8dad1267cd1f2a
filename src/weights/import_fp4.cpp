// SPDX-License-Identifier: MIT
#include "weights/import_fp4.h"

#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/half.h"
#include "weights/import_checks.h"
#include "weights/import_module.h"
#include "weights/row_source.h"
#include "weights/stored_rows.h"

namespace qwen3_mlx {
namespace {

/// The parts of a matrix under their names in the file.
struct Fp4Parts {
  StoredTensor packed;
  StoredTensor scales;
  StoredTensor global_scale;
};

class Nvfp4Rows final : public RowSource {
 public:
  Nvfp4Rows(Fp4Parts parts, std::size_t group_size)
      : parts_(std::move(parts)), group_size_(group_size),
        n_rows_(rows_of(parts_.packed.shape)),
        rows_each_(static_cast<std::uint64_t>(
            parts_.packed.shape[parts_.packed.shape.size() - 2])),
        n_groups_(static_cast<std::size_t>(parts_.scales.shape.back())) {}

  void read_rows(std::uint64_t first, std::uint64_t count, float* out)
      const override {
    const auto packed_bytes = n_groups_ * group_size_ / 2;
    std::vector<std::byte> packed(
        static_cast<std::size_t>(count) * packed_bytes);
    read_stored_rows(parts_.packed, n_rows_, first, count, packed.data());
    std::vector<std::byte> scales(static_cast<std::size_t>(count) * n_groups_);
    read_stored_rows(parts_.scales, n_rows_, first, count, scales.data());
    const auto* from = packed.data();
    const auto* scale_at = scales.data();
    auto known = UINT64_MAX;
    float global = 1;
    for (std::uint64_t row = first; row < first + count; ++row) {
      if (const auto expert = row / rows_each_; expert != known) {
        global = read_global(expert);
        known = expert;
      }
      for (std::size_t group = 0; group < n_groups_; ++group) {
        const float scale =
            f8_e4m3_to_float(static_cast<std::uint8_t>(*scale_at++)) / global;
        for (std::size_t idx = 0; idx < group_size_; idx += 2) {
          const auto pair = static_cast<std::uint8_t>(*from++);
          *out++ = fp4_values[pair & 15] * scale;
          *out++ = fp4_values[pair >> 4] * scale;
        }
      }
    }
  }

 private:
  float read_global(std::uint64_t expert) const {
    const auto& tensor = parts_.global_scale;
    std::array<std::byte, sizeof(float)> bytes{};
    read_stored_rows(tensor, n_rows_ / rows_each_, expert, 1, bytes.data());
    float value = 0;
    std::memcpy(&value, bytes.data(), sizeof(value));
    if (!std::isfinite(value) || value <= 0) {
      fail(tensor, "holds " + std::to_string(value) + ", expected above 0");
    }
    return value;
  }

  Fp4Parts parts_;
  std::size_t group_size_;
  std::uint64_t n_rows_;
  std::uint64_t rows_each_; ///< Of an expert, where experts are stacked.
  std::size_t n_groups_;    ///< Of a row.
};

/// Takes the parts of one module out of the map and checks them.
class Fp4Module {
 public:
  Fp4Module(
      const std::filesystem::path& path,
      const ForeignQuantization& quantization,
      TensorMap& tensors,
      std::string name)
      : quantization_(quantization), module_(path, tensors, std::move(name)) {}

  void import() {
    const bool is_nvfp4 =
        quantization_.method == ForeignMethod::nvfp4_pack_quantized;
    Fp4Parts parts;
    parts.packed = module_.take(".weight_packed");
    parts.scales = module_.take(".weight_scale");
    check(parts, is_nvfp4 ? "F8_E4M3" : "U8");
    if (is_nvfp4) {
      parts.global_scale = module_.take(".weight_global_scale");
      check_global(parts);
      // Of activations: what they are quantized to elsewhere.
      module_.find(".input_global_scale");
      auto packed = parts.packed;
      auto shape = packed.shape;
      shape.back() *= 2;
      module_.add_rows(
          std::move(packed),
          std::move(shape),
          std::make_shared<const Nvfp4Rows>(
              std::move(parts),
              static_cast<std::size_t>(quantization_.group_size)));
    } else {
      parts.packed.type = StoredType::u32;
      parts.packed.type_name = "U32";
      parts.packed.shape.back() /= 4;
      module_.add(".weight", std::move(parts.packed));
      module_.add(".scales", std::move(parts.scales));
    }
  }

 private:
  void check(const Fp4Parts& parts, const char* scale_type) const {
    expect_type(parts.packed, "U8");
    auto shape = parts.packed.shape;
    const auto group_bytes = quantization_.group_size / 2;
    const bool is_matrix = (shape.size() == 2 || shape.size() == 3) &&
        rows_of(shape) > 0 && shape.back() > 0 &&
        shape.back() % group_bytes == 0;
    if (!is_matrix) {
      fail(
          parts.packed,
          "has shape " + to_string(shape) +
              ", expected a matrix whose rows are whole groups of " +
              std::to_string(group_bytes) + " bytes");
    }
    expect_type(parts.scales, scale_type);
    shape.back() /= group_bytes;
    expect_shape(parts.scales, shape);
  }

  static void check_global(const Fp4Parts& parts) {
    expect_type(parts.global_scale, "F32");
    const auto& shape = parts.packed.shape;
    expect_shape(
        parts.global_scale,
        shape.size() == 3 ? std::vector<std::int64_t>{shape.front(), 1}
                          : std::vector<std::int64_t>{1});
  }

  const ForeignQuantization& quantization_;
  ImportModule module_;
};

} // namespace

void import_fp4(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors) {
  for (auto& module :
       modules_with(path, quantization, tensors, ".weight_packed")) {
    Fp4Module(path, quantization, tensors, std::move(module)).import();
  }
}

} // namespace qwen3_mlx
