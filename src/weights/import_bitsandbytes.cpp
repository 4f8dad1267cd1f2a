// SPDX-License-Identifier: MIT
#include "weights/import_bitsandbytes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "weights/import_checks.h"
#include "weights/import_module.h"
#include "weights/row_source.h"
#include "weights/stored_rows.h"

namespace qwen3_mlx {
namespace {

constexpr std::uint64_t max_state_bytes = 1 << 16;
constexpr std::uint64_t n_values = 16;
constexpr std::uint64_t n_nested_values = 256;

/// What "quant_state" says of a matrix.
struct State {
  std::uint64_t n_rows = 0; ///< Of one expert, as all that follows.
  std::uint64_t n_columns = 0;
  std::uint64_t block_size = 0;
  std::uint64_t nested_block_size = 0; ///< 0: scales are not packed.

  bool operator==(const State&) const = default;

  std::uint64_t n_bytes() const {
    return (n_rows * n_columns + 1) / 2;
  }
  std::uint64_t n_blocks() const {
    return (n_rows * n_columns + block_size - 1) / block_size;
  }
  std::uint64_t n_nested_blocks() const {
    return (n_blocks() + nested_block_size - 1) / nested_block_size;
  }
};

struct Parts {
  StoredTensor weight;
  StoredTensor absmax;
  StoredTensor quant_map;
  std::optional<StoredTensor> nested_absmax;
  std::optional<StoredTensor> nested_quant_map;
};

class BitsandbytesRows final : public RowSource {
 public:
  /// `offsets`: "nested_offset" of each expert.
  BitsandbytesRows(Parts parts, const State& state, std::vector<float> offsets)
      : parts_(std::move(parts)), state_(state), offsets_(std::move(offsets)) {}

  void read_rows(std::uint64_t first, std::uint64_t count, float* out)
      const override {
    while (count > 0) {
      const auto row = first % state_.n_rows;
      const auto n = std::min(count, state_.n_rows - row);
      read_numbers(
          first / state_.n_rows,
          row * state_.n_columns,
          (row + n) * state_.n_columns,
          out);
      out += n * state_.n_columns;
      first += n;
      count -= n;
    }
  }

 private:
  /// Numbers [begin, end) of an expert.
  void read_numbers(
      std::uint64_t expert,
      std::uint64_t begin,
      std::uint64_t end,
      float* out) const {
    const auto first_byte = begin / 2;
    std::vector<std::byte> bytes((end + 1) / 2 - first_byte);
    read_stored_rows(
        parts_.weight,
        offsets_.size() * state_.n_bytes(),
        expert * state_.n_bytes() + first_byte,
        bytes.size(),
        bytes.data());
    const auto values = read_floats(parts_.quant_map, n_values, expert, 0);
    const auto first_block = begin / state_.block_size;
    const auto scales = read_scales(
        expert, first_block, (end + state_.block_size - 1) / state_.block_size);
    auto idx = begin;
    for (std::size_t block = 0; block < scales.size(); ++block) {
      std::array<float, n_values> scaled;
      for (std::size_t code = 0; code < n_values; ++code) {
        scaled[code] = values[code] * scales[block];
      }
      const auto stop =
          std::min(end, (first_block + block + 1) * state_.block_size);
      for (; idx < stop; ++idx) {
        const auto pair =
            static_cast<std::uint8_t>(bytes[idx / 2 - first_byte]);
        *out++ = scaled[idx % 2 == 0 ? pair >> 4 : pair & 15];
      }
    }
  }

  /// Of blocks [first, end) of an expert.
  std::vector<float> read_scales(
      std::uint64_t expert,
      std::uint64_t first,
      std::uint64_t end) const {
    if (!parts_.nested_absmax) {
      return read_floats(
          parts_.absmax, state_.n_blocks(), expert, first, end - first);
    }
    std::vector<std::byte> codes(end - first);
    read_stored_rows(
        parts_.absmax,
        offsets_.size() * state_.n_blocks(),
        expert * state_.n_blocks() + first,
        codes.size(),
        codes.data());
    const auto size = state_.nested_block_size;
    const auto values =
        read_floats(*parts_.nested_quant_map, n_nested_values, expert, 0);
    const auto nested = read_floats(
        *parts_.nested_absmax,
        state_.n_nested_blocks(),
        expert,
        first / size,
        (end + size - 1) / size - first / size);
    std::vector<float> scales(codes.size());
    for (std::size_t idx = 0; idx < scales.size(); ++idx) {
      const float product = values[static_cast<std::uint8_t>(codes[idx])] *
          nested[(first + idx) / size - first / size];
      scales[idx] = product + offsets_[expert];
    }
    return scales;
  }

  /// Numbers [first, first + count) of an expert's `each`; 0: all of them.
  std::vector<float> read_floats(
      const StoredTensor& tensor,
      std::uint64_t each,
      std::uint64_t expert,
      std::uint64_t first,
      std::uint64_t count = 0) const {
    std::vector<float> floats(count == 0 ? each : count);
    read_stored_rows(
        tensor,
        offsets_.size() * each,
        expert * each + first,
        floats.size(),
        reinterpret_cast<std::byte*>(floats.data()));
    return floats;
  }

  Parts parts_;
  State state_;
  std::vector<float> offsets_;
};

/// Reads what the parts of one module say and checks them against each other.
class Module {
 public:
  Module(
      const std::filesystem::path& path,
      const ForeignQuantization& quantization,
      TensorMap& tensors,
      std::string name)
      : quantization_(quantization), module_(path, tensors, std::move(name)) {}

  void import() {
    read_states(
        module_.take(".weight.quant_state." + quantization_.state_name));
    Parts parts;
    parts.weight = module_.take(".weight");
    expect_bytes(parts.weight);
    parts.quant_map = take("quant_map", "F32", n_values);
    if (state_.nested_block_size > 0) {
      parts.absmax = take("absmax", "U8", state_.n_blocks());
      parts.nested_quant_map = take("nested_quant_map", "F32", n_nested_values);
      parts.nested_absmax =
          take("nested_absmax", "F32", state_.n_nested_blocks());
    } else {
      parts.absmax = take("absmax", "F32", state_.n_blocks());
    }
    std::vector<std::int64_t> shape = {
        static_cast<std::int64_t>(state_.n_rows),
        static_cast<std::int64_t>(state_.n_columns)};
    if (is_stacked_) {
      shape.insert(shape.begin(), n_experts());
    }
    auto weight = parts.weight;
    module_.add_rows(
        std::move(weight),
        std::move(shape),
        std::make_shared<const BitsandbytesRows>(
            std::move(parts), state_, std::move(offsets_)));
  }

 private:
  /// Each expert has a text of its own; all but its offset must be the same.
  void read_states(const StoredTensor& texts) {
    expect_type(texts, "U8");
    is_stacked_ = texts.shape.size() == 2;
    if (!is_stacked_ && texts.shape.size() != 1) {
      fail(texts, "has shape " + to_string(texts.shape) + ", expected a text");
    }
    for (const auto& piece : texts.pieces) {
      if (piece.n_bytes > max_state_bytes) {
        fail(
            texts,
            "has " + std::to_string(piece.n_bytes) + " bytes, expected " +
                std::to_string(max_state_bytes) + " at most");
      }
      std::string text(static_cast<std::size_t>(piece.n_bytes), '\0');
      piece.file->read(
          piece.offset, text.size(), reinterpret_cast<std::byte*>(text.data()));
      State state;
      try {
        state = parse(Config::parse(piece.file->path(), text));
      } catch (const FileError& error) {
        const auto prefix = error.path().string().size() + 2;
        fail(texts, std::string(error.what()).substr(prefix));
      }
      if (offsets_.size() > 1 && state != state_) {
        fail(
            texts,
            "expert " + std::to_string(offsets_.size() - 1) +
                " is packed in another way than the first");
      }
      state_ = state;
    }
  }

  /// Appends the offset of the scales to `offsets_`.
  State parse(const Config& config) {
    const auto type = config.get_string("quant_type");
    if (!quantization_.state_name.ends_with("__" + type)) {
      config.fail("quant_type", "does not go with the tensor's name");
    }
    State state;
    state.block_size = block_size(config, "blocksize");
    const auto shape = config.get_ints("shape", 1, max_tensor_dim);
    if (shape.size() != 2) {
      config.fail(
          "shape",
          "expected two numbers, found " + std::to_string(shape.size()));
    }
    state.n_rows = static_cast<std::uint64_t>(shape[0]);
    state.n_columns = static_cast<std::uint64_t>(shape[1]);
    const bool nested = config.has("nested_blocksize");
    if (nested) {
      state.nested_block_size = block_size(config, "nested_blocksize");
    }
    const double offset = nested ? config.get_float("nested_offset") : 0;
    if (std::abs(offset) > std::numeric_limits<float>::max()) {
      config.fail("nested_offset", "is not within float32");
    }
    offsets_.push_back(static_cast<float>(offset));
    return state;
  }

  static std::uint64_t block_size(const Config& config, const char* key) {
    return static_cast<std::uint64_t>(config.get_int(key, 1, 1 << 20));
  }

  std::int64_t n_experts() const {
    return static_cast<std::int64_t>(offsets_.size());
  }

  StoredTensor
  take(const std::string& leaf, const char* type, std::uint64_t count) {
    auto tensor = module_.take(".weight." + leaf);
    expect_type(tensor, type);
    expect_stacked(tensor, {static_cast<std::int64_t>(count)});
    return tensor;
  }

  /// bytes / 2 where numbers are bytes; another "quant_storage" holds the same
  /// bytes as fewer, wider numbers.
  void expect_bytes(const StoredTensor& tensor) const {
    const auto each = tensor.n_bytes() / offsets_.size();
    const std::size_t rank = is_stacked_ ? 3 : 2;
    if (each != state_.n_bytes() || tensor.shape.size() != rank) {
      fail(
          tensor,
          "holds " + std::to_string(each) + " bytes as " +
              to_string(tensor.shape) + ", expected [" +
              std::to_string(state_.n_bytes()) + ", 1] for a matrix " +
              to_string(
                  {static_cast<std::int64_t>(state_.n_rows),
                   static_cast<std::int64_t>(state_.n_columns)}) +
              " of 4 bits");
    }
    expect_pieces(tensor);
  }

  void expect_stacked(
      const StoredTensor& tensor,
      std::vector<std::int64_t> shape) const {
    if (is_stacked_) {
      shape.insert(shape.begin(), n_experts());
    }
    expect_shape(tensor, shape);
    expect_pieces(tensor);
  }

  /// Parts of as many experts as there are texts.
  void expect_pieces(const StoredTensor& tensor) const {
    if (tensor.pieces.size() != offsets_.size()) {
      fail(
          tensor,
          "is there for " + std::to_string(tensor.pieces.size()) +
              " matrices, expected " + std::to_string(offsets_.size()));
    }
  }

  const ForeignQuantization& quantization_;
  ImportModule module_;
  bool is_stacked_ = false;
  State state_;
  std::vector<float> offsets_;
};

} // namespace

void import_bitsandbytes(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors) {
  // Any of the parts tells of a packed matrix, so that none is read as plain.
  std::set<std::string> modules;
  for (const auto& [name, tensor] : tensors) {
    constexpr std::string_view infix = ".weight.";
    constexpr std::string_view suffix = ".weight";
    if (const auto at = name.rfind(infix); at != std::string::npos) {
      modules.insert(name.substr(0, at));
    } else if (name.ends_with(suffix) && tensor.type_name == "U8") {
      modules.insert(name.substr(0, name.size() - suffix.size()));
    }
  }
  if (modules.empty()) {
    throw FileError(
        path,
        "config.json says " + quantization.name +
            ", but no weight has a \"quant_state\"");
  }
  for (const auto& module : modules) {
    Module(path, quantization, tensors, module).import();
  }
}

} // namespace qwen3_mlx
