// SPDX-License-Identifier: MIT
#include "weights/import_packed.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "weights/import_checks.h"
#include "weights/import_module.h"
#include "weights/row_source.h"
#include "weights/stored_rows.h"

namespace qwen3_mlx {
namespace {

using Words = std::vector<std::uint32_t>;

/// Number `idx` of a stream of `bits` each that crosses words; `stride` words
/// lie between one word of the stream and the next.
std::uint32_t number_at(
    const std::uint32_t* words,
    std::size_t idx,
    std::size_t bits,
    std::size_t stride) {
  const auto first = idx * bits;
  const auto* from = words + first / 32 * stride;
  const auto shift = first % 32;
  auto value = std::uint64_t{from[0]} >> shift;
  if (shift + bits > 32) {
    value |= std::uint64_t{from[stride]} << (32 - shift);
  }
  return static_cast<std::uint32_t>(value) & ((1u << bits) - 1u);
}

/// Of output `idx` in a row of AWQ's words.
std::uint32_t awq_number(const std::uint32_t* row, std::size_t idx) {
  // Nibble n of a word holds output 0 2 4 6 1 3 5 7 of its eight.
  constexpr std::array<unsigned, 8> nibble = {0, 4, 1, 5, 2, 6, 3, 7};
  return row[idx / 8] >> (4 * nibble[idx % 8]) & 15u;
}

/// The parts of a matrix, under their names in the file.
struct Parts {
  StoredTensor weight;
  StoredTensor scales;
  std::optional<StoredTensor> zeros;
  std::optional<StoredTensor> group_idx;
};

struct Sizes {
  std::size_t n_experts = 1;
  std::size_t out = 0;
  std::size_t in = 0;
  std::size_t n_groups = 0;
};

class PackedRows final : public RowSource {
 public:
  PackedRows(
      const ForeignQuantization& quantization,
      Parts parts,
      const Sizes& sizes)
      : quantization_(quantization), parts_(std::move(parts)), sizes_(sizes) {}

  void read_rows(std::uint64_t first, std::uint64_t count, float* out)
      const override {
    while (count > 0) {
      const auto expert = static_cast<std::size_t>(first) / sizes_.out;
      const auto row = static_cast<std::size_t>(first) % sizes_.out;
      const auto n = std::min<std::size_t>(
          static_cast<std::size_t>(count), sizes_.out - row);
      const auto loaded = load(expert);
      for (std::size_t idx = 0; idx < n; ++idx) {
        unpack(*loaded, row + idx, out);
        out += sizes_.in;
      }
      give_back(n);
      first += n;
      count -= n;
    }
  }

 private:
  /// All of one expert: rows of the result are columns of most layouts.
  struct Loaded {
    std::size_t expert = 0;
    Words weight;
    Words zeros;
    std::vector<float> scales;
    std::vector<std::uint32_t> groups; ///< Of each input.
  };

  std::shared_ptr<const Loaded> load(std::size_t expert) const {
    const std::lock_guard lock(mutex_);
    if (!loaded_ || loaded_->expert != expert) {
      auto loaded = std::make_shared<Loaded>();
      loaded->expert = expert;
      loaded->weight = read_words(parts_.weight, expert);
      if (parts_.zeros) {
        loaded->zeros = read_words(*parts_.zeros, expert);
      }
      const auto bytes = read_expert(parts_.scales, expert);
      loaded->scales.resize(sizes_.n_groups * sizes_.out);
      widen(
          parts_.scales,
          bytes.data(),
          loaded->scales.size(),
          loaded->scales.data());
      loaded->groups = read_groups(expert);
      loaded_ = std::move(loaded);
      rows_left_ = sizes_.out;
    }
    return loaded_;
  }

  /// Rows are mostly read once each: then the memory is free again.
  void give_back(std::size_t n_rows) const {
    const std::lock_guard lock(mutex_);
    rows_left_ -= std::min(rows_left_, n_rows);
    if (rows_left_ == 0) {
      loaded_ = nullptr;
    }
  }

  std::vector<std::byte>
  read_expert(const StoredTensor& tensor, std::size_t expert) const {
    std::vector<std::byte> bytes(
        static_cast<std::size_t>(tensor.n_bytes()) / sizes_.n_experts);
    read_stored_rows(tensor, sizes_.n_experts, expert, 1, bytes.data());
    return bytes;
  }

  Words read_words(const StoredTensor& tensor, std::size_t expert) const {
    const auto bytes = read_expert(tensor, expert);
    Words words(bytes.size() / sizeof(std::uint32_t));
    std::memcpy(words.data(), bytes.data(), words.size() * sizeof(words[0]));
    return words;
  }

  std::vector<std::uint32_t> read_groups(std::size_t expert) const {
    if (parts_.group_idx) {
      auto groups = read_words(*parts_.group_idx, expert);
      for (const auto group : groups) {
        if (group >= sizes_.n_groups) {
          throw TensorError(
              parts_.group_idx->path(),
              printable(parts_.group_idx->source_name),
              "holds " + std::to_string(static_cast<std::int32_t>(group)) +
                  ", expected a group below " +
                  std::to_string(sizes_.n_groups));
        }
      }
      return groups;
    }
    const auto size = quantization_.group_size > 0
        ? static_cast<std::size_t>(quantization_.group_size)
        : sizes_.in;
    std::vector<std::uint32_t> groups(sizes_.in);
    for (std::size_t idx = 0; idx < groups.size(); ++idx) {
      groups[idx] = static_cast<std::uint32_t>(idx / size);
    }
    return groups;
  }

  void unpack(const Loaded& loaded, std::size_t row, float* out) const {
    const auto bits = static_cast<std::size_t>(quantization_.bits);
    const auto method = quantization_.method;
    const auto out_words = sizes_.out * bits / 32;
    const auto in_words = (sizes_.in * bits + 31) / 32;
    for (std::size_t idx = 0; idx < sizes_.in; ++idx) {
      const std::size_t group = loaded.groups[idx];
      std::uint32_t q = 0;
      std::uint32_t zero = 0;
      std::size_t scale_at = group * sizes_.out + row;
      if (method == ForeignMethod::awq) {
        q = awq_number(loaded.weight.data() + idx * out_words, row);
        zero = awq_number(loaded.zeros.data() + group * out_words, row);
      } else if (method == ForeignMethod::gptq) {
        q = number_at(loaded.weight.data() + row, idx, bits, sizes_.out);
        zero =
            number_at(loaded.zeros.data() + group * out_words, row, bits, 1) +
            static_cast<std::uint32_t>(quantization_.zero_offset);
      } else {
        q = number_at(loaded.weight.data() + row * in_words, idx, bits, 1);
        zero = loaded.zeros.empty()
            ? 1u << (bits - 1)
            : number_at(
                  loaded.zeros.data() + group, row, bits, sizes_.n_groups);
        scale_at = row * sizes_.n_groups + group;
      }
      const auto difference =
          static_cast<std::int32_t>(q) - static_cast<std::int32_t>(zero);
      out[idx] = static_cast<float>(difference) * loaded.scales[scale_at];
    }
  }

  ForeignQuantization quantization_;
  Parts parts_;
  Sizes sizes_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Loaded> loaded_; // guarded by mutex_
  mutable std::size_t rows_left_ = 0;            // guarded by mutex_
};

/// Reads the parts of one module out of the map and checks them.
class Module {
 public:
  Module(
      const std::filesystem::path& path,
      const ForeignQuantization& quantization,
      TensorMap& tensors,
      std::string name)
      : quantization_(quantization), module_(path, tensors, std::move(name)) {}

  void import() {
    const bool compressed =
        quantization_.method == ForeignMethod::pack_quantized;
    Parts parts;
    parts.weight = module_.take(compressed ? ".weight_packed" : ".qweight");
    parts.scales = module_.take(compressed ? ".weight_scale" : ".scales");
    expect_words(parts.weight);
    if (!is_readable(parts.scales)) {
      fail(
          parts.scales,
          "is stored as " + parts.scales.type_name + ", expected a float type");
    }
    if (!compressed) {
      parts.zeros = module_.take(".qzeros");
    } else if (!quantization_.symmetric) {
      parts.zeros = module_.take(".weight_zero_point");
    }
    parts.group_idx = module_.find(compressed ? ".weight_g_idx" : ".g_idx");
    const auto sizes =
        compressed ? compressed_sizes(parts) : column_sizes(parts);
    const auto group_size = static_cast<std::size_t>(quantization_.group_size);
    if (group_size > 0 && sizes.in % group_size != 0) {
      fail(
          parts.weight,
          "has " + std::to_string(sizes.in) +
              " inputs, expected whole groups of " +
              std::to_string(group_size));
    }
    check(parts, sizes);
    auto packed = parts.weight;
    module_.add_rows(
        std::move(packed),
        with_experts(
            static_cast<std::int64_t>(sizes.out),
            static_cast<std::int64_t>(sizes.in)),
        std::make_shared<const PackedRows>(
            quantization_, std::move(parts), sizes));
  }

 private:
  void expect_words(const StoredTensor& tensor) {
    expect_type(tensor, "I32");
    if (tensor.shape.size() != 2 && tensor.shape.size() != 3) {
      fail(
          tensor,
          "has shape " + to_string(tensor.shape) + ", expected a matrix");
    }
    for (const auto dim : tensor.shape) {
      if (dim == 0) {
        fail(
            tensor,
            "has shape " + to_string(tensor.shape) + ", which is empty");
      }
    }
    experts_ = tensor.shape.size() == 3 ? tensor.shape[0] : 0;
  }

  std::vector<std::int64_t> with_experts(std::int64_t a, std::int64_t b) const {
    return experts_ > 0 ? std::vector<std::int64_t>{experts_, a, b}
                        : std::vector<std::int64_t>{a, b};
  }

  std::size_t groups(std::size_t in) const {
    const auto size = static_cast<std::size_t>(quantization_.group_size);
    return size == 0 ? 1 : (in + size - 1) / size;
  }

  Sizes finish(std::size_t out, std::size_t in) const {
    return {
        static_cast<std::size_t>(std::max<std::int64_t>(1, experts_)),
        out,
        in,
        groups(in)};
  }

  Sizes column_sizes(const Parts& parts) const {
    const auto rank = parts.weight.shape.size();
    const auto rows = static_cast<std::size_t>(parts.weight.shape[rank - 2]);
    const auto columns = static_cast<std::size_t>(parts.weight.shape[rank - 1]);
    const auto bits = static_cast<std::size_t>(quantization_.bits);
    if (quantization_.method == ForeignMethod::awq) {
      return finish(columns * 8, rows);
    }
    if (rows * 32 % bits != 0 || columns * bits % 32 != 0) {
      fail(
          parts.weight,
          "has shape " + to_string(parts.weight.shape) +
              ", which is no whole number of " + std::to_string(bits) +
              "-bit weights");
    }
    return finish(columns, rows * 32 / bits);
  }

  /// The size of the input is told by a tensor: a row's last word may be only
  /// partly used.
  Sizes compressed_sizes(const Parts& parts) {
    const auto shape = module_.take(".weight_shape");
    const auto rank = parts.weight.shape.size();
    const auto n_numbers =
        static_cast<std::size_t>(2 * std::max<std::int64_t>(1, experts_));
    const auto expected = experts_ > 0 ? std::vector<std::int64_t>{experts_, 2}
                                       : std::vector<std::int64_t>{2};
    if (shape.type_name != "I64" || shape.shape != expected) {
      fail(
          shape,
          "is " + shape.type_name + " " + to_string(shape.shape) +
              ", expected I64 " + to_string(expected));
    }
    std::vector<std::int64_t> numbers(n_numbers);
    read_stored_rows(
        shape,
        n_numbers / 2,
        0,
        n_numbers / 2,
        reinterpret_cast<std::byte*>(numbers.data()));
    const auto out = parts.weight.shape[rank - 2];
    const auto words = parts.weight.shape[rank - 1];
    const auto per_word = 32 / quantization_.bits;
    for (std::size_t idx = 0; idx < n_numbers; idx += 2) {
      const auto in = numbers[idx + 1];
      const bool fits = numbers[idx] == out && in == numbers[1] && in > 0 &&
          in <= words * per_word && in > (words - 1) * per_word;
      if (!fits) {
        fail(
            shape,
            "says [" + std::to_string(numbers[idx]) + ", " +
                std::to_string(in) + "], which does not go with packed " +
                to_string(parts.weight.shape));
      }
    }
    return finish(
        static_cast<std::size_t>(out), static_cast<std::size_t>(numbers[1]));
  }

  void check(const Parts& parts, const Sizes& sizes) const {
    const auto out = static_cast<std::int64_t>(sizes.out);
    const auto n_groups = static_cast<std::int64_t>(sizes.n_groups);
    const auto out_words = out * quantization_.bits / 32;
    const bool compressed =
        quantization_.method == ForeignMethod::pack_quantized;
    expect_shape(
        parts.scales,
        compressed ? with_experts(out, n_groups) : with_experts(n_groups, out));
    if (parts.zeros) {
      expect_type(*parts.zeros, "I32");
      if (out * quantization_.bits % 32 != 0) {
        fail(*parts.zeros, "cannot hold " + std::to_string(out) + " numbers");
      }
      expect_shape(
          *parts.zeros,
          compressed ? with_experts(out_words, n_groups)
                     : with_experts(n_groups, out_words));
    }
    if (parts.group_idx) {
      const auto in = static_cast<std::int64_t>(sizes.in);
      expect_type(*parts.group_idx, "I32");
      expect_shape(
          *parts.group_idx,
          experts_ > 0 ? std::vector<std::int64_t>{experts_, in}
                       : std::vector<std::int64_t>{in});
    }
  }

  const ForeignQuantization& quantization_;
  ImportModule module_;
  std::int64_t experts_ = 0; ///< 0: the matrix is not stacked.
};

} // namespace

void import_packed(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors) {
  const std::string_view leaf =
      quantization.method == ForeignMethod::pack_quantized ? ".weight_packed"
                                                           : ".qweight";
  for (auto& module : modules_with(path, quantization, tensors, leaf)) {
    Module(path, quantization, tensors, std::move(module)).import();
  }
}

} // namespace qwen3_mlx
