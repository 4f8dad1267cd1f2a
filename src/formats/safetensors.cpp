// SPDX-License-Identifier: MIT
#include "formats/safetensors.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <utility>

#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

namespace ondemand = simdjson::ondemand;

static_assert(
    std::endian::native == std::endian::little,
    "safetensors data is little-endian and read as it is");

// The limit of the reference implementation.
constexpr std::uint64_t max_header_bytes = 100'000'000;

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::uint64_t n_bits;
};

constexpr std::array dtype_rows = std::to_array<DTypeRow>({
    {DType::boolean, "BOOL", 8},    {DType::u8, "U8", 8},
    {DType::i8, "I8", 8},           {DType::f8_e5m2, "F8_E5M2", 8},
    {DType::f8_e4m3, "F8_E4M3", 8}, {DType::f8_e8m0, "F8_E8M0", 8},
    {DType::f4, "F4", 4},           {DType::f6_e2m3, "F6_E2M3", 6},
    {DType::f6_e3m2, "F6_E3M2", 6}, {DType::i16, "I16", 16},
    {DType::u16, "U16", 16},        {DType::f16, "F16", 16},
    {DType::bf16, "BF16", 16},      {DType::i32, "I32", 32},
    {DType::u32, "U32", 32},        {DType::f32, "F32", 32},
    {DType::c64, "C64", 64},        {DType::f64, "F64", 64},
    {DType::i64, "I64", 64},        {DType::u64, "U64", 64},
});

const DTypeRow& row_of(DType dtype) {
  return *std::find_if(
      dtype_rows.begin(), dtype_rows.end(), [&](const DTypeRow& row) {
        return row.dtype == dtype;
      });
}

std::optional<DType> find_dtype(std::string_view name) {
  for (const auto& row : dtype_rows) {
    if (row.name == name) {
      return row.dtype;
    }
  }
  return std::nullopt;
}

/// Bytes of a tensor; nothing where 64 bits do not hold the bits or where
/// packed elements end inside a byte.
std::optional<std::uint64_t>
byte_size(DType dtype, const std::vector<std::int64_t>& shape) {
  std::optional<std::uint64_t> n_bits = dtype_bits(dtype);
  for (const auto dim : shape) {
    n_bits = checked_mul(*n_bits, static_cast<std::uint64_t>(dim));
    if (!n_bits) {
      return std::nullopt;
    }
  }
  return *n_bits % 8 == 0 ? std::optional(*n_bits / 8) : std::nullopt;
}

/// Reads one header. simdjson's own exceptions mean that the text is no JSON.
class HeaderParser {
 public:
  HeaderParser(const std::filesystem::path& path, std::string& text)
      : path_(path), text_(text) {}

  void parse(
      std::vector<TensorInfo>& tensors,
      std::map<std::string, std::string>& metadata) {
    const auto n_bytes = text_.size();
    text_.resize(n_bytes + simdjson::SIMDJSON_PADDING, ' ');
    ondemand::document document;
    bool started = false; // before, a document has no location to ask for
    try {
      document = parser_.iterate(text_.data(), n_bytes, text_.size());
      started = true;
      for (auto field : document.get_object()) {
        const std::string name(std::string_view(field.unescaped_key()));
        if (name == "__metadata__") {
          read_metadata(field.value(), metadata);
        } else {
          tensors.push_back(read_tensor(name, field.value()));
        }
        if (tensors.size() > max_tensors) {
          throw FileError(
              path_,
              "has more than " + std::to_string(max_tensors) + " tensors");
        }
      }
      // At the end of the text there is no current location any more.
      const char* rest = nullptr;
      if (document.current_location().get(rest) == simdjson::SUCCESS) {
        throw FileError(path_, "has text after the header's JSON object");
      }
    } catch (const simdjson::simdjson_error& error) {
      const char* at = nullptr;
      const bool known = started &&
          document.current_location().get(at) == simdjson::SUCCESS &&
          at >= text_.data() && at <= text_.data() + n_bytes;
      throw FileError(
          path_,
          "the header is not valid JSON" +
              (known ? " near byte " + std::to_string(8 + (at - text_.data()))
                     : std::string()) +
              " (" + error.what() + "); fetch the file again");
    }
  }

 private:
  void read_metadata(
      ondemand::value value,
      std::map<std::string, std::string>& metadata) const {
    if (value.type() != ondemand::json_type::object || has_metadata_) {
      throw FieldError(
          path_,
          "__metadata__",
          has_metadata_ ? "occurs twice" : "expected an object of strings");
    }
    has_metadata_ = true;
    for (auto field : value.get_object()) {
      const std::string key(std::string_view(field.unescaped_key()));
      ondemand::value item = field.value();
      if (item.type() != ondemand::json_type::string) {
        throw FieldError(
            path_, "__metadata__." + printable(key), "expected a string");
      }
      const std::string text(std::string_view(item.get_string()));
      if (!metadata.emplace(key, text).second) {
        throw FieldError(
            path_, "__metadata__." + printable(key), "occurs twice");
      }
    }
  }

  TensorInfo read_tensor(const std::string& name, ondemand::value value) const {
    const auto fail = [&](const std::string& reason) {
      throw TensorError(path_, printable(name), reason);
    };
    if (name.empty() || name.size() > max_tensor_name_bytes) {
      fail(
          "the name has " + std::to_string(name.size()) +
          " bytes, expected 1 to " + std::to_string(max_tensor_name_bytes));
    }
    if (value.type() != ondemand::json_type::object) {
      fail("expected an object with dtype, shape and data_offsets");
    }
    std::optional<DType> dtype;
    std::optional<std::vector<std::uint64_t>> shape;
    std::optional<std::vector<std::uint64_t>> offsets;
    for (auto field : value.get_object()) {
      const std::string key(std::string_view(field.unescaped_key()));
      ondemand::value item = field.value();
      if (key == "dtype" && !dtype) {
        dtype = read_dtype(name, item);
      } else if (key == "shape" && !shape) {
        shape = read_numbers(name, key, max_tensor_rank, item);
      } else if (key == "data_offsets" && !offsets) {
        offsets = read_numbers(name, key, 2, item);
      } else {
        const bool twice =
            key == "dtype" || key == "shape" || key == "data_offsets";
        fail(
            "key \"" + printable(key) + "\" " +
            (twice ? "occurs twice" : "is unknown"));
      }
    }
    if (!dtype || !shape || !offsets) {
      fail(
          std::string(
              !dtype       ? "dtype"
                  : !shape ? "shape"
                           : "data_offsets") +
          " is missing");
    }
    TensorInfo tensor;
    tensor.name = name;
    tensor.dtype = *dtype;
    for (const auto dim : *shape) {
      if (dim > static_cast<std::uint64_t>(max_tensor_dim)) {
        fail(
            "shape holds " + std::to_string(dim) + ", expected at most " +
            std::to_string(max_tensor_dim));
      }
      tensor.shape.push_back(static_cast<std::int64_t>(dim));
    }
    if (offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
      fail("data_offsets are not two numbers, begin and end");
    }
    tensor.offset = (*offsets)[0];
    tensor.n_bytes = (*offsets)[1] - (*offsets)[0];
    const auto expected = byte_size(tensor.dtype, tensor.shape);
    if (!expected || *expected != tensor.n_bytes) {
      fail(
          "data_offsets span " + std::to_string(tensor.n_bytes) +
          " bytes, expected " +
          (expected ? std::to_string(*expected)
                    : std::string("a whole number below 2^61")) +
          " for " + std::string(dtype_name(tensor.dtype)) + " " +
          to_string(tensor.shape));
    }
    return tensor;
  }

  DType read_dtype(const std::string& name, ondemand::value value) const {
    std::optional<DType> dtype;
    std::string text = "no string";
    if (value.type() == ondemand::json_type::string) {
      text = std::string(std::string_view(value.get_string()));
      dtype = find_dtype(text);
    }
    if (!dtype) {
      throw TensorError(
          path_,
          printable(name),
          "dtype is " + printable(text) +
              ", expected one of the format's, as BF16 or U32");
    }
    return *dtype;
  }

  std::vector<std::uint64_t> read_numbers(
      const std::string& name,
      const std::string& key,
      std::size_t max_count,
      ondemand::value value) const {
    std::vector<std::uint64_t> numbers;
    bool valid = value.type() == ondemand::json_type::array;
    if (valid) {
      for (auto item : value.get_array()) {
        std::uint64_t number = 0;
        valid = numbers.size() < max_count &&
            item.get_uint64().get(number) == simdjson::SUCCESS;
        if (!valid) {
          break;
        }
        numbers.push_back(number);
      }
    }
    if (!valid) {
      throw TensorError(
          path_,
          printable(name),
          key + " is not a list of at most " + std::to_string(max_count) +
              " whole numbers from 0 to 2^64 - 1");
    }
    return numbers;
  }

  const std::filesystem::path& path_;
  std::string& text_;
  ondemand::parser parser_;
  mutable bool has_metadata_ = false;
};

/// Checks that the tensors, in the order of their bytes, tile `data_bytes`.
void check_tiling(
    const std::filesystem::path& path,
    const std::vector<TensorInfo>& tensors,
    std::uint64_t data_bytes) {
  std::uint64_t end = 0;
  for (const auto& tensor : tensors) {
    if (tensor.offset != end) {
      throw TensorError(
          path,
          printable(tensor.name),
          "starts at data byte " + std::to_string(tensor.offset) +
              ", expected " + std::to_string(end) +
              ": tensors must follow each other without gap or overlap");
    }
    // n_bytes was offset difference, so this sum cannot wrap.
    end = tensor.offset + tensor.n_bytes;
    if (end > data_bytes) {
      throw TensorError(
          path,
          printable(tensor.name),
          "ends at data byte " + std::to_string(end) + ", but the file holds " +
              std::to_string(data_bytes) + "; it is truncated, fetch it again");
    }
  }
  if (end != data_bytes) {
    throw FileError(
        path,
        "has " + std::to_string(data_bytes - end) +
            " bytes after the last tensor, expected none");
  }
}

} // namespace

std::string_view dtype_name(DType dtype) {
  return row_of(dtype).name;
}

std::uint64_t dtype_bits(DType dtype) {
  return row_of(dtype).n_bits;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path) {
  std::uint64_t header_bytes = 0;
  if (file_.size() < sizeof(header_bytes)) {
    throw FileError(
        path,
        "has " + std::to_string(file_.size()) +
            " bytes, expected a header length of 8 first");
  }
  file_.read(0, sizeof(header_bytes), &header_bytes);
  const auto rest = file_.size() - sizeof(header_bytes);
  if (header_bytes > max_header_bytes || header_bytes > rest) {
    throw FileError(
        path,
        "the header claims " + std::to_string(header_bytes) +
            " bytes, expected at most " +
            std::to_string(std::min(max_header_bytes, rest)));
  }
  std::string text(static_cast<std::size_t>(header_bytes), '\0');
  file_.read(sizeof(header_bytes), text.size(), text.data());
  if (text.empty() || text.front() != '{') {
    throw FileError(path, "the header does not start with '{' at byte 8");
  }
  HeaderParser(path, text).parse(tensors_, metadata_);
  std::sort(
      tensors_.begin(),
      tensors_.end(),
      [](const TensorInfo& a, const TensorInfo& b) {
        return std::pair(a.offset, a.n_bytes) < std::pair(b.offset, b.n_bytes);
      });
  check_tiling(path, tensors_, rest - header_bytes);
  for (std::size_t idx = 0; idx < tensors_.size(); ++idx) {
    auto& tensor = tensors_[idx];
    tensor.offset += sizeof(header_bytes) + header_bytes;
    if (!tensor_idx_.emplace(tensor.name, idx).second) {
      throw TensorError(path, printable(tensor.name), "occurs twice");
    }
  }
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = tensor_idx_.find(std::string(name));
  return found == tensor_idx_.end() ? nullptr : &tensors_[found->second];
}

} // namespace qwen3_mlx
