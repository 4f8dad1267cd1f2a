// SPDX-License-Identifier: MIT
#include "weights/checkpoint.h"

#include <algorithm>
#include <set>
#include <utility>

#include "formats/checked.h"
#include "formats/ggml_dequantize.h"
#include "formats/gguf_parts.h"
#include "formats/safetensors.h"
#include "qwen3_mlx/config.h"
#include "qwen3_mlx/error.h"
#include "weights/foreign_quantization.h"
#include "weights/gguf_names.h"
#include "weights/tensor_names.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view index_name = "model.safetensors.index.json";
constexpr std::string_view single_name = "model.safetensors";

StoredType stored_type(DType dtype) {
  switch (dtype) {
  case DType::f32:
    return StoredType::f32;
  case DType::f16:
    return StoredType::f16;
  case DType::bf16:
    return StoredType::bf16;
  case DType::u32:
    return StoredType::u32;
  case DType::u8:
  // Scales of the fp modes, which some writers give their own type.
  case DType::f8_e4m3:
  case DType::f8_e8m0:
    return StoredType::u8;
  default:
    return StoredType::other;
  }
}

StoredType stored_type(GgmlType type) {
  switch (type) {
  case GgmlType::f32:
    return StoredType::f32;
  case GgmlType::f16:
    return StoredType::f16;
  case GgmlType::bf16:
    return StoredType::bf16;
  case GgmlType::q4_0:
    return StoredType::q4_0;
  case GgmlType::q4_1:
    return StoredType::q4_1;
  case GgmlType::q8_0:
    return StoredType::q8_0;
  case GgmlType::mxfp4:
    return StoredType::mxfp4;
  default:
    return can_dequantize(type) ? StoredType::ggml : StoredType::other;
  }
}

bool is_inside(const fs::path& directory, const fs::path& path) {
  const auto [in_directory, in_path] = std::mismatch(
      directory.begin(), directory.end(), path.begin(), path.end());
  static_cast<void>(in_path);
  return in_directory == directory.end();
}

/// Where Hugging Face's cache keeps the files that snapshots link to:
/// ".../models--org--name/snapshots/<revision>" ->
/// ".../models--org--name/blobs"
std::optional<fs::path> blobs_of_snapshot(const fs::path& directory) {
  const auto snapshots = directory.parent_path();
  const auto repository = snapshots.parent_path();
  const bool is_cache = snapshots.filename() == "snapshots" &&
      repository.filename().string().starts_with("models--");
  return is_cache ? std::optional(repository / "blobs") : std::nullopt;
}

/// The names must be plain: nothing of a path, and a safetensors file.
void check_shard_name(
    const fs::path& index,
    const std::string& tensor,
    const std::string& name) {
  const bool plain =
      name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
      name.ends_with(".safetensors") && name.size() <= 255;
  if (!plain) {
    throw FieldError(
        index,
        "weight_map." + printable(tensor),
        "expected the plain name of a .safetensors file, found \"" +
            printable(name) + "\"");
  }
}

/// What a directory holds, still under the names of the files.
class Directory {
 public:
  explicit Directory(fs::path path) : path_(std::move(path)) {}

  std::vector<NamedTensor> read() {
    const auto index = path_ / index_name;
    if (fs::exists(index)) {
      read_shards(index);
    } else if (fs::exists(fs::symlink_status(path_ / single_name))) {
      read_file(std::string(single_name));
    } else {
      throw FileError(
          path_,
          "holds neither " + std::string(single_name) + " nor " +
              std::string(index_name));
    }
    return std::move(tensors_);
  }

 private:
  void read_file(const std::string& name) {
    SafetensorsFile container(checkpoint_file(path_, name));
    const auto file = std::make_shared<const File>(container.release_file());
    for (const auto& info : container.tensors()) {
      StoredTensor tensor;
      tensor.source_name = info.name;
      tensor.type = stored_type(info.dtype);
      tensor.type_name = dtype_name(info.dtype);
      tensor.shape = info.shape;
      tensor.pieces.push_back({file, info.offset, info.n_bytes});
      tensors_.push_back({name, std::move(tensor)});
    }
  }

  void read_shards(const fs::path& index) {
    const auto map = Config::load(index).sub("weight_map");
    std::map<std::string, std::string> shard_of;
    std::set<std::string> shards;
    for (const auto& tensor : map.keys()) {
      const auto name = map.get_string(tensor);
      check_shard_name(index, tensor, name);
      shard_of[tensor] = name;
      shards.insert(name);
    }
    if (shards.empty()) {
      throw FieldError(index, "weight_map", "is empty");
    }
    for (const auto& name : shards) {
      read_file(name);
    }
    // Both ways: nothing absent, nothing unlisted, nothing in another shard.
    std::vector<std::string> problems;
    for (const auto& [shard, tensor] : tensors_) {
      const auto listed = shard_of.find(tensor.source_name);
      if (listed == shard_of.end() || listed->second != shard) {
        problems.push_back(
            printable(tensor.source_name) + " lies in " + shard +
            (listed == shard_of.end()
                 ? ", not in the index"
                 : ", in the index it is in " + listed->second));
      }
      if (listed != shard_of.end() && listed->second == shard) {
        shard_of.erase(listed);
      }
    }
    for (const auto& [tensor, shard] : shard_of) {
      problems.push_back(
          printable(tensor) + " is in the index for " + shard +
          ", which does not hold it");
    }
    if (!problems.empty()) {
      std::string all;
      for (const auto& problem : problems) {
        all += (all.empty() ? "" : "; ") + problem;
      }
      throw FieldError(index, "weight_map", all);
    }
  }

  fs::path path_;
  std::vector<NamedTensor> tensors_;
};

/// The tensors of one file under their canonical names.
void add_gguf_tensors(
    const std::shared_ptr<const GgufFile>& container,
    const GgufNames& names,
    std::map<std::string, StoredTensor, std::less<>>& tensors) {
  // The pieces share the file whose header was checked.
  const std::shared_ptr<const File> file(container, &container->file());
  for (const auto& info : container->tensors()) {
    if (info.name == "rope_freqs.weight") {
      continue; // config_from_gguf reads it as rope_scaling
    }
    StoredTensor tensor;
    tensor.source_name = info.name;
    tensor.type = stored_type(info.type);
    tensor.type_name = ggml_block(info.type).name;
    if (can_dequantize(info.type)) {
      tensor.ggml_type = info.type;
    }
    tensor.shape = info.shape;
    if (info.name.ends_with("ffn_gate_inp_shexp.weight") &&
        info.shape.size() == 1) {
      tensor.shape.insert(tensor.shape.begin(), 1); // a matrix of one row
    }
    tensor.pieces.push_back({file, info.offset, info.n_bytes});
    tensor.permuted_head_dim = names.permuted_head_dim(info);
    const auto name = names.canonical(info.name);
    if (!tensors.try_emplace(name, std::move(tensor)).second) {
      throw TensorError(
          container->path(),
          printable(info.name),
          "means " + name + ", which is there");
    }
  }
}

} // namespace

fs::path checkpoint_file(const fs::path& directory, const std::string& name) {
  const auto path = directory / name;
  std::error_code error;
  const auto real = fs::canonical(path, error);
  if (error) {
    throw FileError(path, "cannot open: " + error.message());
  }
  const auto real_directory = fs::canonical(directory);
  const auto blobs = blobs_of_snapshot(real_directory);
  if (!is_inside(real_directory, real) && !(blobs && is_inside(*blobs, real))) {
    throw FileError(
        path,
        "is a link to " + real.string() +
            ", outside the checkpoint; put the file itself there");
  }
  return path;
}

std::uint64_t StoredTensor::n_bytes() const {
  std::uint64_t sum = 0;
  for (const auto& piece : pieces) {
    sum += piece.n_bytes;
  }
  return sum;
}

Checkpoint Checkpoint::open(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  if (fs::is_directory(path)) {
    checkpoint.tensors_ = canonical_tensors(path, Directory(path).read());
    if (const auto config = path / "config.json"; fs::exists(config)) {
      if (const auto foreign =
              parse_foreign_quantization(Config::load(config))) {
        import_foreign(path, *foreign, checkpoint.tensors_);
      }
    }
    return checkpoint;
  }
  const GgufParts parts(path);
  checkpoint.is_gguf_ = true;
  const GgufNames names(parts.first());
  for (const auto& container : parts.files()) {
    add_gguf_tensors(container, names, checkpoint.tensors_);
  }
  return checkpoint;
}

const StoredTensor* Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

} // namespace qwen3_mlx
