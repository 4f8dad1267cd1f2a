// SPDX-License-Identifier: MIT
// Reading GGUF containers (versions 2 and 3, little-endian): typed metadata and
// a table of tensors. Every length, count, offset and type of the file is
// checked before it is used; tensor data is never touched here.
// Source: the format's description in the ggml repository, docs/gguf.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace qwen3_mlx {

/// Storage types of ggml tensors, with the numbers the file uses. The ones that
/// ggml has withdrawn (4, 5, 31-33, 36-38) are absent: they are refused.
enum class GgmlType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
};

/// How a type is stored: rows are cut into blocks of `n_elements`, each of
/// `n_bytes`.
struct GgmlBlock {
  std::string_view name; ///< As ggml prints it, "Q4_0".
  std::uint32_t n_elements;
  std::uint32_t n_bytes;
};

GgmlBlock ggml_block(GgmlType type);

/// One tensor of the file.
struct GgufTensor {
  std::string name;
  GgmlType type;
  /// Outermost dimension first (the file has it the other way round), so a
  /// matrix is [out, in].
  std::vector<std::int64_t> shape;
  std::uint64_t offset;  ///< Of the first byte, from the start of the file.
  std::uint64_t n_bytes; ///< All of them lie inside the file.
};

/// An open GGUF file. Metadata getters return nothing for an absent key and
/// throw FieldError for a value of another type, except that integers of every
/// width serve where they fit. A part of a split model is a file like another;
/// GgufParts finds its other parts.
class GgufFile {
 public:
  /// Reads and checks the whole header. Throws FileError, FieldError (metadata)
  /// or TensorError (tensor table), which name the place and the bytes.
  explicit GgufFile(const std::filesystem::path& path);
  ~GgufFile();
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;

  const File& file() const;
  const std::filesystem::path& path() const;
  std::uint32_t version() const;

  /// In the order of the file.
  const std::vector<GgufTensor>& tensors() const;
  /// nullptr when there is none of that name.
  const GgufTensor* find(std::string_view name) const;

  /// All metadata keys, in the order of the file.
  const std::vector<std::string>& keys() const;
  bool has(std::string_view key) const;
  std::optional<std::uint64_t> get_uint(std::string_view key) const;
  std::optional<std::int64_t> get_int(std::string_view key) const;
  /// Of any float or integer type.
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;
  /// The bytes as they are; nothing promises that they are valid UTF-8.
  std::optional<std::string> get_string(std::string_view key) const;
  /// Arrays. The pointers live as long as this object; nullptr when absent.
  const std::vector<std::string>* get_strings(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> get_ints(std::string_view key) const;
  std::optional<std::vector<double>> get_floats(std::string_view key) const;

 private:
  struct Header;
  std::unique_ptr<const Header> header_;
};

/// True when the file starts with GGUF's magic bytes.
bool is_gguf(const std::filesystem::path& path);

} // namespace qwen3_mlx
