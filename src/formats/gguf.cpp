// SPDX-License-Identifier: MIT
#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <utility>
#include <variant>

#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "GGUF files are read in place as little-endian");

using Value = std::variant<
    std::uint64_t,
    std::int64_t,
    double,
    bool,
    std::string,
    std::vector<std::uint64_t>,
    std::vector<std::int64_t>,
    std::vector<double>,
    std::vector<bool>,
    std::vector<std::string>>;

/// Numbers of the metadata value types.
enum class ValueType : std::uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};

// A key is at most 2^16 - 1 bytes by the format's own rule. The others are far
// above what files hold: vocabularies have 2^18 entries, templates 2^14 bytes.
constexpr std::uint64_t max_key_bytes = 65'535;
constexpr std::uint64_t max_string_bytes = std::uint64_t{1} << 26;
constexpr std::uint64_t max_array_length = std::uint64_t{1} << 24;
constexpr std::uint64_t max_entries = 1'000'000;
// Alignments in use are 32 and at most a page.
constexpr std::uint64_t max_alignment = std::uint64_t{1} << 20;

/// Reads a file from the front through a small buffer, never past its end.
class Cursor {
 public:
  explicit Cursor(const File& file) : file_(file) {}

  std::uint64_t offset() const {
    return window_start_ + position_;
  }
  std::uint64_t remaining() const {
    return file_.size() - offset();
  }

  /// `what` names the thing being read in the error.
  void bytes(void* out, std::size_t n_bytes, std::string_view what) {
    if (n_bytes > remaining()) {
      throw FieldError(
          file_.path(),
          printable(what),
          "at byte " + std::to_string(offset()) + " expected " +
              std::to_string(n_bytes) + " more bytes, found " +
              std::to_string(remaining()) +
              "; the file is truncated, fetch it again");
    }
    auto* to = static_cast<char*>(out);
    while (n_bytes > 0) {
      if (position_ == window_.size()) {
        refill();
      }
      const auto count = std::min(n_bytes, window_.size() - position_);
      std::memcpy(to, window_.data() + position_, count);
      position_ += count;
      to += count;
      n_bytes -= count;
    }
  }

  template <typename T>
  T read(std::string_view what) {
    T value;
    bytes(&value, sizeof(T), what);
    return value;
  }

  std::string string(std::string_view what, std::uint64_t max_bytes) {
    const auto start = offset();
    const auto n_bytes = read<std::uint64_t>(what);
    if (n_bytes > max_bytes || n_bytes > remaining()) {
      throw FieldError(
          file_.path(),
          printable(what),
          "the string at byte " + std::to_string(start) + " has " +
              std::to_string(n_bytes) + " bytes, expected at most " +
              std::to_string(std::min(max_bytes, remaining())));
    }
    std::string out(static_cast<std::size_t>(n_bytes), '\0');
    bytes(out.data(), out.size(), what);
    return out;
  }

 private:
  void refill() {
    constexpr std::uint64_t window_bytes = 1 << 18;
    window_start_ += window_.size();
    position_ = 0;
    window_.resize(static_cast<std::size_t>(
        std::min(window_bytes, file_.size() - window_start_)));
    file_.read(window_start_, window_.size(), window_.data());
  }

  const File& file_;
  std::vector<char> window_;
  std::uint64_t window_start_ = 0;
  std::size_t position_ = 0;
};

/// Bytes one element takes at least; 0 for a type that does not exist.
std::uint64_t min_bytes(ValueType type) {
  switch (type) {
  case ValueType::uint8:
  case ValueType::int8:
  case ValueType::boolean:
    return 1;
  case ValueType::uint16:
  case ValueType::int16:
    return 2;
  case ValueType::uint32:
  case ValueType::int32:
  case ValueType::float32:
    return 4;
  case ValueType::string: // its length
  case ValueType::uint64:
  case ValueType::int64:
  case ValueType::float64:
    return 8;
  case ValueType::array:
    return 0; // arrays in arrays are unknown to ggml too
  }
  return 0;
}

[[noreturn]] void bad_value_type(
    const Cursor& in,
    const std::filesystem::path& path,
    const std::string& key,
    ValueType type) {
  throw FieldError(
      path,
      printable(key),
      "value type " + std::to_string(static_cast<std::uint32_t>(type)) +
          " before byte " + std::to_string(in.offset()) +
          " is unknown, expected 0 to 12 and no array in an array");
}

bool read_bool(
    Cursor& in,
    const std::filesystem::path& path,
    const std::string& key) {
  const auto byte = in.read<std::uint8_t>(key);
  if (byte > 1) {
    throw FieldError(
        path,
        printable(key),
        "expected a boolean 0 or 1, found " + std::to_string(byte));
  }
  return byte == 1;
}

std::uint64_t read_uint(Cursor& in, ValueType type, std::string_view key) {
  switch (type) {
  case ValueType::uint8:
    return in.read<std::uint8_t>(key);
  case ValueType::uint16:
    return in.read<std::uint16_t>(key);
  case ValueType::uint32:
    return in.read<std::uint32_t>(key);
  default:
    return in.read<std::uint64_t>(key);
  }
}

std::int64_t read_int(Cursor& in, ValueType type, std::string_view key) {
  switch (type) {
  case ValueType::int8:
    return in.read<std::int8_t>(key);
  case ValueType::int16:
    return in.read<std::int16_t>(key);
  case ValueType::int32:
    return in.read<std::int32_t>(key);
  default:
    return in.read<std::int64_t>(key);
  }
}

double read_float(Cursor& in, ValueType type, std::string_view key) {
  return type == ValueType::float32 ? double{in.read<float>(key)}
                                    : in.read<double>(key);
}

/// Calls `read` for one value, or for each of an array's.
template <typename T, typename Read>
Value read_values(std::optional<std::uint64_t> length, const Read& read) {
  if (!length) {
    return Value(std::in_place_type<T>, read());
  }
  // Grows as bytes are really found, so that a forged length costs nothing.
  std::vector<T> values;
  for (std::uint64_t idx = 0; idx < *length; ++idx) {
    values.push_back(read());
  }
  return values;
}

Value read_value(
    Cursor& in,
    const std::filesystem::path& path,
    const std::string& key) {
  auto type = in.read<ValueType>(key);
  std::optional<std::uint64_t> length;
  if (type == ValueType::array) {
    type = in.read<ValueType>(key);
    length = in.read<std::uint64_t>(key);
    const auto each = min_bytes(type);
    if (each == 0) {
      bad_value_type(in, path, key, type);
    }
    if (*length > max_array_length || *length > in.remaining() / each) {
      throw FieldError(
          path,
          printable(key),
          "array before byte " + std::to_string(in.offset()) + " claims " +
              std::to_string(*length) + " values, expected at most " +
              std::to_string(
                  std::min(max_array_length, in.remaining() / each)));
    }
  }
  switch (type) {
  case ValueType::uint8:
  case ValueType::uint16:
  case ValueType::uint32:
  case ValueType::uint64:
    return read_values<std::uint64_t>(
        length, [&] { return read_uint(in, type, key); });
  case ValueType::int8:
  case ValueType::int16:
  case ValueType::int32:
  case ValueType::int64:
    return read_values<std::int64_t>(
        length, [&] { return read_int(in, type, key); });
  case ValueType::float32:
  case ValueType::float64:
    return read_values<double>(
        length, [&] { return read_float(in, type, key); });
  case ValueType::boolean:
    return read_values<bool>(length, [&] { return read_bool(in, path, key); });
  case ValueType::string:
    return read_values<std::string>(
        length, [&] { return in.string(key, max_string_bytes); });
  case ValueType::array:
    break;
  }
  bad_value_type(in, path, key, type);
}

std::string_view type_name(const Value& value) {
  static constexpr std::array<std::string_view, 10> names = {
      "an unsigned integer",
      "an integer",
      "a float",
      "a boolean",
      "a string",
      "an array of unsigned integers",
      "an array of integers",
      "an array of floats",
      "an array of booleans",
      "an array of strings"};
  return names[value.index()];
}

struct TypeRow {
  GgmlType type;
  GgmlBlock block;
};

constexpr std::array type_rows = std::to_array<TypeRow>({
    {GgmlType::f32, {"F32", 1, 4}},
    {GgmlType::f16, {"F16", 1, 2}},
    {GgmlType::q4_0, {"Q4_0", 32, 18}},
    {GgmlType::q4_1, {"Q4_1", 32, 20}},
    {GgmlType::q5_0, {"Q5_0", 32, 22}},
    {GgmlType::q5_1, {"Q5_1", 32, 24}},
    {GgmlType::q8_0, {"Q8_0", 32, 34}},
    {GgmlType::q8_1, {"Q8_1", 32, 40}},
    {GgmlType::q2_k, {"Q2_K", 256, 84}},
    {GgmlType::q3_k, {"Q3_K", 256, 110}},
    {GgmlType::q4_k, {"Q4_K", 256, 144}},
    {GgmlType::q5_k, {"Q5_K", 256, 176}},
    {GgmlType::q6_k, {"Q6_K", 256, 210}},
    {GgmlType::q8_k, {"Q8_K", 256, 292}},
    {GgmlType::iq2_xxs, {"IQ2_XXS", 256, 66}},
    {GgmlType::iq2_xs, {"IQ2_XS", 256, 74}},
    {GgmlType::iq3_xxs, {"IQ3_XXS", 256, 98}},
    {GgmlType::iq1_s, {"IQ1_S", 256, 50}},
    {GgmlType::iq4_nl, {"IQ4_NL", 32, 18}},
    {GgmlType::iq3_s, {"IQ3_S", 256, 110}},
    {GgmlType::iq2_s, {"IQ2_S", 256, 82}},
    {GgmlType::iq4_xs, {"IQ4_XS", 256, 136}},
    {GgmlType::i8, {"I8", 1, 1}},
    {GgmlType::i16, {"I16", 1, 2}},
    {GgmlType::i32, {"I32", 1, 4}},
    {GgmlType::i64, {"I64", 1, 8}},
    {GgmlType::f64, {"F64", 1, 8}},
    {GgmlType::iq1_m, {"IQ1_M", 256, 56}},
    {GgmlType::bf16, {"BF16", 1, 2}},
    {GgmlType::tq1_0, {"TQ1_0", 256, 54}},
    {GgmlType::tq2_0, {"TQ2_0", 256, 66}},
    {GgmlType::mxfp4, {"MXFP4", 32, 17}},
    {GgmlType::nvfp4, {"NVFP4", 64, 36}},
    {GgmlType::q1_0, {"Q1_0", 128, 18}},
});

const GgmlBlock* find_block(GgmlType type) {
  for (const auto& row : type_rows) {
    if (row.type == type) {
      return &row.block;
    }
  }
  return nullptr;
}

void check_name(const std::filesystem::path& path, const std::string& name) {
  if (name.empty() || !is_valid_utf8(name)) {
    throw TensorError(
        path, printable(name), "the name is empty or not valid UTF-8");
  }
}

/// Reads one row of the tensor table; `offset` is still relative to the data.
GgufTensor read_tensor(Cursor& in, const std::filesystem::path& path) {
  GgufTensor tensor;
  tensor.name = in.string("a tensor's name", max_tensor_name_bytes);
  check_name(path, tensor.name);
  const auto fail = [&](const std::string& reason) {
    throw TensorError(path, printable(tensor.name), reason);
  };
  const auto what = "tensor " + printable(tensor.name);
  const auto rank = in.read<std::uint32_t>(what);
  if (rank < 1 || rank > max_tensor_rank) {
    fail(
        "has " + std::to_string(rank) + " dimensions, expected 1 to " +
        std::to_string(max_tensor_rank));
  }
  std::uint64_t n_elements = 1;
  for (std::uint32_t idx = 0; idx < rank; ++idx) {
    const auto dim = in.read<std::uint64_t>(what);
    const auto product = checked_mul(n_elements, dim);
    if (dim < 1 || dim > static_cast<std::uint64_t>(max_tensor_dim) ||
        !product) {
      fail(
          "dimension " + std::to_string(idx) + " is " + std::to_string(dim) +
          ", expected 1 to " + std::to_string(max_tensor_dim) +
          " and fewer than 2^64 elements in all");
    }
    n_elements = *product;
    tensor.shape.push_back(static_cast<std::int64_t>(dim));
  }
  tensor.type = in.read<GgmlType>(what);
  const auto* block = find_block(tensor.type);
  if (block == nullptr) {
    fail(
        "type " + std::to_string(static_cast<std::uint32_t>(tensor.type)) +
        " is not one that ggml has; the file is damaged or newer than this "
        "reader");
    return tensor; // not reached: fail() throws
  }
  // shape is still innermost first here: blocks never span rows.
  if (tensor.shape.front() % block->n_elements != 0) {
    fail(
        "has rows of " + std::to_string(tensor.shape.front()) +
        " elements, expected a multiple of " +
        std::to_string(block->n_elements) + " for type " +
        std::string(block->name));
  }
  const auto n_bytes =
      checked_mul(n_elements / block->n_elements, block->n_bytes);
  if (!n_bytes) {
    fail("shape " + to_string(tensor.shape) + " overflows 64 bits of bytes");
  }
  tensor.n_bytes = *n_bytes;
  tensor.offset = in.read<std::uint64_t>(what);
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  return tensor;
}

/// Makes the offsets absolute and checks that each tensor lies aligned in the
/// file and on no other's bytes.
void place_tensors(
    std::vector<GgufTensor>& tensors,
    std::uint64_t data_start,
    std::uint64_t alignment,
    const File& file) {
  std::vector<const GgufTensor*> by_offset;
  for (auto& tensor : tensors) {
    if (tensor.offset % alignment != 0) {
      throw TensorError(
          file.path(),
          printable(tensor.name),
          "offset " + std::to_string(tensor.offset) +
              " is not a multiple of general.alignment " +
              std::to_string(alignment));
    }
    const auto start = checked_add(data_start, tensor.offset);
    const auto end = start ? checked_add(*start, tensor.n_bytes) : std::nullopt;
    if (!end || *end > file.size()) {
      throw TensorError(
          file.path(),
          printable(tensor.name),
          std::to_string(tensor.n_bytes) + " bytes at data offset " +
              std::to_string(tensor.offset) + " end past the file's " +
              std::to_string(file.size()) +
              " bytes; it is truncated or damaged, fetch it again");
    }
    tensor.offset = *start;
    by_offset.push_back(&tensor);
  }
  std::sort(
      by_offset.begin(),
      by_offset.end(),
      [](const GgufTensor* a, const GgufTensor* b) {
        return a->offset < b->offset;
      });
  for (std::size_t idx = 1; idx < by_offset.size(); ++idx) {
    const auto& before = *by_offset[idx - 1];
    const auto& tensor = *by_offset[idx];
    if (before.offset + before.n_bytes > tensor.offset) {
      throw TensorError(
          file.path(),
          printable(tensor.name),
          "starts at byte " + std::to_string(tensor.offset) +
              ", inside tensor " + printable(before.name));
    }
  }
}

} // namespace

GgmlBlock ggml_block(GgmlType type) {
  const auto* block = find_block(type);
  return block != nullptr ? *block : GgmlBlock{"unknown", 1, 1};
}

struct GgufFile::Header {
  explicit Header(const std::filesystem::path& path) : file(path) {}

  void read();

  const Value* find(std::string_view key) const {
    const auto found = metadata.find(std::string(key));
    return found == metadata.end() ? nullptr : &found->second;
  }
  [[noreturn]] void wrong_type(
      std::string_view key,
      std::string_view expected,
      const Value& value) const {
    throw FieldError(
        file.path(),
        printable(key),
        "expected " + std::string(expected) + ", found " +
            std::string(type_name(value)));
  }

  File file;
  std::uint32_t version = 0;
  std::vector<std::string> keys;
  std::unordered_map<std::string, Value> metadata;
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string, std::size_t> tensor_idx;

 private:
  std::uint64_t alignment() const;
};

void GgufFile::Header::read() {
  const auto& path = file.path();
  Cursor in(file);
  std::array<char, 4> magic{};
  in.bytes(magic.data(), magic.size(), "the magic bytes");
  if (std::string_view(magic.data(), magic.size()) != "GGUF") {
    throw FileError(
        path, "does not start with \"GGUF\", so it is no GGUF file");
  }
  version = in.read<std::uint32_t>("the version");
  if (version != 2 && version != 3) {
    const bool swapped = version != 0 && (version & 0xFFFF) == 0;
    throw FieldError(
        path,
        "version",
        swapped ? "the file is big-endian; convert it to little-endian"
                : "expected 2 or 3, found " + std::to_string(version));
  }
  const auto n_tensors = in.read<std::uint64_t>("the tensor count");
  const auto n_entries = in.read<std::uint64_t>("the metadata count");
  // A tensor takes at least 32 bytes of header, an entry 13.
  if (n_tensors > std::min(max_tensors, in.remaining() / 32)) {
    throw FieldError(
        path,
        "tensor_count",
        std::to_string(n_tensors) + " do not fit, expected at most " +
            std::to_string(std::min(max_tensors, in.remaining() / 32)));
  }
  if (n_entries > std::min(max_entries, in.remaining() / 13)) {
    throw FieldError(
        path,
        "metadata_kv_count",
        std::to_string(n_entries) + " do not fit, expected at most " +
            std::to_string(std::min(max_entries, in.remaining() / 13)));
  }
  for (std::uint64_t idx = 0; idx < n_entries; ++idx) {
    auto key = in.string("a metadata key", max_key_bytes);
    if (key.empty() || !is_valid_utf8(key)) {
      throw FieldError(
          path,
          "metadata key " + std::to_string(idx),
          "is empty or not valid UTF-8 (\"" + printable(key) + "\")");
    }
    auto value = read_value(in, path, key);
    if (!metadata.emplace(key, std::move(value)).second) {
      throw FieldError(path, printable(key), "occurs twice");
    }
    keys.push_back(std::move(key));
  }
  if (const auto* value = find("split.count")) {
    const auto* count = std::get_if<std::uint64_t>(value);
    if (count == nullptr || *count > 1) {
      throw FieldError(
          path,
          "split.count",
          "the model is split over several files, which is not supported; "
          "merge them with \"llama-gguf-split --merge\"");
    }
  }
  for (std::uint64_t idx = 0; idx < n_tensors; ++idx) {
    auto tensor = read_tensor(in, path);
    if (!tensor_idx.emplace(tensor.name, tensors.size()).second) {
      throw TensorError(path, printable(tensor.name), "occurs twice");
    }
    tensors.push_back(std::move(tensor));
  }
  const auto align = alignment();
  const auto data_start = (in.offset() + align - 1) / align * align;
  place_tensors(tensors, data_start, align, file);
}

std::uint64_t GgufFile::Header::alignment() const {
  const auto* value = find("general.alignment");
  if (value == nullptr) {
    return 32;
  }
  const auto* align = std::get_if<std::uint64_t>(value);
  if (align == nullptr) {
    wrong_type("general.alignment", "an unsigned integer", *value);
  }
  if (!std::has_single_bit(*align) || *align > max_alignment) {
    throw FieldError(
        file.path(),
        "general.alignment",
        "expected a power of two up to " + std::to_string(max_alignment) +
            ", found " + std::to_string(*align));
  }
  return *align;
}

GgufFile::GgufFile(const std::filesystem::path& path) {
  auto header = std::make_unique<Header>(path);
  header->read();
  header_ = std::move(header);
}

GgufFile::~GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;

const File& GgufFile::file() const {
  return header_->file;
}

const std::filesystem::path& GgufFile::path() const {
  return header_->file.path();
}

std::uint32_t GgufFile::version() const {
  return header_->version;
}

const std::vector<GgufTensor>& GgufFile::tensors() const {
  return header_->tensors;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = header_->tensor_idx.find(std::string(name));
  return found == header_->tensor_idx.end() ? nullptr
                                            : &header_->tensors[found->second];
}

const std::vector<std::string>& GgufFile::keys() const {
  return header_->keys;
}

bool GgufFile::has(std::string_view key) const {
  return header_->find(key) != nullptr;
}

std::optional<std::uint64_t> GgufFile::get_uint(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* number = std::get_if<std::uint64_t>(value)) {
    return *number;
  }
  const auto* number = std::get_if<std::int64_t>(value);
  if (number == nullptr || *number < 0) {
    header_->wrong_type(key, "an integer of 0 or more", *value);
  }
  return static_cast<std::uint64_t>(*number);
}

std::optional<std::int64_t> GgufFile::get_int(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* number = std::get_if<std::int64_t>(value)) {
    return *number;
  }
  const auto* number = std::get_if<std::uint64_t>(value);
  if (number == nullptr || !std::in_range<std::int64_t>(*number)) {
    header_->wrong_type(key, "an integer below 2^63", *value);
  }
  return static_cast<std::int64_t>(*number);
}

std::optional<double> GgufFile::get_float(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* number = std::get_if<double>(value)) {
    return *number;
  }
  if (const auto* number = std::get_if<std::uint64_t>(value)) {
    return static_cast<double>(*number);
  }
  const auto* number = std::get_if<std::int64_t>(value);
  if (number == nullptr) {
    header_->wrong_type(key, "a number", *value);
  }
  return static_cast<double>(*number);
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* boolean = std::get_if<bool>(value);
  if (boolean == nullptr) {
    header_->wrong_type(key, "a boolean", *value);
  }
  return *boolean;
}

std::optional<std::string> GgufFile::get_string(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* text = std::get_if<std::string>(value);
  if (text == nullptr) {
    header_->wrong_type(key, "a string", *value);
  }
  return *text;
}

const std::vector<std::string>*
GgufFile::get_strings(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return nullptr;
  }
  const auto* strings = std::get_if<std::vector<std::string>>(value);
  if (strings == nullptr) {
    header_->wrong_type(key, "an array of strings", *value);
  }
  return strings;
}

std::optional<std::vector<std::int64_t>>
GgufFile::get_ints(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* ints = std::get_if<std::vector<std::int64_t>>(value)) {
    return *ints;
  }
  const auto* uints = std::get_if<std::vector<std::uint64_t>>(value);
  if (uints == nullptr) {
    header_->wrong_type(key, "an array of integers", *value);
  }
  std::vector<std::int64_t> ints;
  ints.reserve(uints->size());
  for (const auto number : *uints) {
    if (!std::in_range<std::int64_t>(number)) {
      header_->wrong_type(key, "an array of integers below 2^63", *value);
    }
    ints.push_back(static_cast<std::int64_t>(number));
  }
  return ints;
}

std::optional<std::vector<double>>
GgufFile::get_floats(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* floats = std::get_if<std::vector<double>>(value);
  if (floats == nullptr) {
    header_->wrong_type(key, "an array of floats", *value);
  }
  return *floats;
}

bool is_gguf(const std::filesystem::path& path) {
  const File file(path);
  if (file.size() < 4) {
    return false;
  }
  std::array<char, 4> magic{};
  file.read(0, magic.size(), magic.data());
  return std::string_view(magic.data(), magic.size()) == "GGUF";
}

} // namespace qwen3_mlx
