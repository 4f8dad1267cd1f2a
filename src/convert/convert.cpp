// SPDX-License-Identifier: MIT
#include "qwen3_mlx/convert.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "convert/bit_rules.h"
#include "convert/calibrated.h"
#include "convert/gguf_side_files.h"
#include "convert/recipe.h"
#include "convert/side_files.h"
#include "convert/source.h"
#include "convert/staged_directory.h"
#include "convert/tensor_job.h"
#include "convert/work.h"
#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;

std::optional<DType> dtype_named(const std::string& name) {
  return name == "float32" ? std::optional(DType::f32)
      : name == "float16"  ? std::optional(DType::f16)
      : name == "bfloat16" ? std::optional(DType::bf16)
                           : std::nullopt;
}

std::string name_of(DType dtype) {
  return dtype == DType::f32 ? "float32"
      : dtype == DType::f16  ? "float16"
                             : "bfloat16";
}

/// "<module>.weight" -> "<module>"; empty for other names.
std::string module_of(const std::string& name) {
  constexpr std::string_view leaf = ".weight";
  return name.ends_with(leaf) ? name.substr(0, name.size() - leaf.size())
                              : std::string();
}

bool is_float(const StoredTensor& tensor) {
  return tensor.type == StoredType::f32 || tensor.type == StoredType::f16 ||
      tensor.type == StoredType::bf16;
}

/// All that can be quantized.
std::vector<std::string>
matrices_of(const Checkpoint& checkpoint, const ModelArgs& args) {
  std::vector<std::string> modules;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    auto module = module_of(name);
    const bool is_ignored = args.tie_word_embeddings && module == "lm_head";
    if (!module.empty() && tensor.shape.size() >= 2 && !is_ignored) {
      modules.push_back(std::move(module));
    }
  }
  return modules;
}

/// Decides what becomes of every tensor.
class Planner {
 public:
  Planner(
      const Checkpoint& checkpoint,
      const ModelArgs& args,
      const ConvertOptions& options)
      : checkpoint_(checkpoint), args_(args), options_(options),
        recipe_(options, args), given_(dtype_named(options.dtype)) {
    if (!options.dtype.empty() && !given_) {
      throw InvalidArgument(
          "expected float32, float16 or bfloat16, found \"" + options.dtype +
          "\"");
    }
    dtype_ = given_;
    if (!dtype_ && args.dtype) {
      dtype_ = dtype_named(*args.dtype);
    }
    if (!dtype_ && checkpoint.is_gguf()) {
      dtype_ = DType::f16; // of its scales, and of what it is dequantized to
    }
  }

  std::vector<TensorJob> plan() {
    for (const auto* entry : in_file_order()) {
      const auto& [name, tensor] = *entry;
      if (args_.tie_word_embeddings && name.starts_with("lm_head.")) {
        continue;
      }
      const auto module = module_of(name);
      if (!module.empty() && tensor.shape.size() >= 2) {
        add_matrix(module);
      } else if (is_part(name)) {
        continue;
      } else if (is_float(tensor)) {
        jobs_.push_back(
            TensorJob::cast(name, tensor, dtype_.value_or(own_dtype(tensor))));
      } else {
        jobs_.push_back(TensorJob::copy(name, tensor));
      }
    }
    return std::move(jobs_);
  }

  ConfigChanges config_changes() const {
    ConfigChanges changes;
    changes.format = options_.quantize;
    if (!changes.format && !packed_.empty()) {
      changes.format = most_common_format();
    }
    for (const auto& [module, format] : packed_) {
      if (format != *changes.format) {
        changes.modules[module] = format;
      }
    }
    if (dtype_) {
      changes.dtype = name_of(*dtype_);
    }
    return changes;
  }

  /// What a matrix becomes as floats, and its scales where it is packed.
  DType
  value_dtype(const std::string& module, const StoredMatrix& matrix) const {
    if (dtype_) {
      return *dtype_;
    }
    const auto* scales = checkpoint_.find(module + ".scales");
    return matrix.format().mode == QuantMode::affine && scales != nullptr
        ? own_dtype(*scales)
        : is_float(matrix.weight()) ? own_dtype(matrix.weight())
                                    : DType::bf16;
  }

 private:
  using Entry = std::pair<const std::string, StoredTensor>;

  /// So that disks read forward.
  std::vector<const Entry*> in_file_order() const {
    std::vector<const Entry*> entries;
    for (const auto& entry : checkpoint_.tensors()) {
      entries.push_back(&entry);
    }
    std::stable_sort(
        entries.begin(), entries.end(), [](const Entry* a, const Entry* b) {
          const auto& left = a->second.pieces.front();
          const auto& right = b->second.pieces.front();
          return std::pair(left.file->path(), left.offset) <
              std::pair(right.file->path(), right.offset);
        });
    return entries;
  }

  static DType own_dtype(const StoredTensor& tensor) {
    return is_float(tensor) ? *safetensors_dtype(tensor.type) : DType::f16;
  }

  /// Scales and biases of a packed matrix, which are added with it.
  bool is_part(const std::string& name) const {
    for (const std::string_view leaf : {".scales", ".biases"}) {
      if (name.ends_with(leaf)) {
        const auto module = name.substr(0, name.size() - leaf.size());
        return checkpoint_.find(module + ".weight") != nullptr;
      }
    }
    return false;
  }

  void add_matrix(const std::string& module) {
    StoredMatrix matrix(checkpoint_, args_.quantization, module);
    const auto target = recipe_.format(module, matrix.shape().back());
    const auto dtype = value_dtype(module, matrix);
    const auto stored = matrix.format();
    const auto exact = exact_format(matrix.weight());
    if (target.is_quantized() && target != stored) {
      packed_[module] = target;
      jobs_.push_back(TensorJob::quantize(
          module, std::move(matrix), dtype, quantizer(target, dtype), target));
    } else if (stored.is_quantized() && !options_.dequantize) {
      packed_[module] = stored;
      keep_packed(module, matrix);
    } else if (exact.is_quantized() && !options_.dequantize) {
      packed_[module] = exact;
      jobs_.push_back(TensorJob::repack(module, std::move(matrix), dtype));
    } else {
      jobs_.push_back(TensorJob::dequantize(module, std::move(matrix), dtype));
    }
  }

  void keep_packed(const std::string& module, const StoredMatrix& matrix) {
    jobs_.push_back(TensorJob::copy(module + ".weight", matrix.weight()));
    jobs_.back().count_parameters(matrix.n_rows() * matrix.n_columns());
    for (const auto* leaf : {".scales", ".biases"}) {
      const auto* tensor = checkpoint_.find(module + leaf);
      if (tensor == nullptr) {
        continue;
      }
      jobs_.push_back(
          given_ && is_float(*tensor)
              ? TensorJob::cast(module + leaf, *tensor, *given_)
              : TensorJob::copy(module + leaf, *tensor));
      jobs_.back().count_parameters(0);
    }
  }

  std::shared_ptr<const Quantizer>
  quantizer(const QuantFormat& format, DType dtype) {
    for (const auto& [known_format, known_dtype, known] : quantizers_) {
      if (known_format == format && known_dtype == dtype) {
        return known;
      }
    }
    auto made = std::make_shared<const Quantizer>(format, dtype);
    quantizers_.push_back({format, dtype, made});
    return made;
  }

  QuantFormat most_common_format() const {
    QuantFormat best;
    std::ptrdiff_t most = 0;
    for (const auto& each : packed_) {
      const auto count =
          std::count_if(packed_.begin(), packed_.end(), [&](const auto& other) {
            return other.second == each.second;
          });
      if (count > most) {
        most = count;
        best = each.second;
      }
    }
    return best;
  }

  struct Known {
    QuantFormat format;
    DType dtype;
    std::shared_ptr<const Quantizer> quantizer;
  };

  const Checkpoint& checkpoint_;
  const ModelArgs& args_;
  const ConvertOptions& options_;
  Recipe recipe_;
  std::optional<DType> given_; ///< By the options.
  std::optional<DType> dtype_; ///< Nothing: tensors keep theirs.
  std::vector<Known> quantizers_;
  std::map<std::string, QuantFormat> packed_;
  std::vector<TensorJob> jobs_;
};

/// The files of the output, and where each tensor lies in them.
class Shards {
 public:
  Shards(std::vector<TensorJob>& jobs, std::uint64_t max_bytes) {
    std::uint64_t size = 0;
    for (auto& job : jobs) {
      std::uint64_t n_bytes = 0;
      for (const auto& output : job.outputs()) {
        n_bytes += output.spec.n_bytes();
      }
      if (shards_.empty() || size + n_bytes > max_bytes) {
        shards_.emplace_back();
        size = 0;
      }
      size += n_bytes;
      total_bytes_ += n_bytes;
      n_parameters_ += job.n_parameters();
      for (auto& output : job.outputs()) {
        shards_.back().push_back(&output);
      }
    }
  }

  /// Creates the files with their headers, and the index.
  void create(StagedDirectory& directory) {
    std::vector<SafetensorsLayout> layouts;
    std::uint64_t needed = 0;
    for (std::size_t idx = 0; idx < shards_.size(); ++idx) {
      std::vector<TensorSpec> specs;
      for (const auto* output : shards_[idx]) {
        specs.push_back(output->spec);
      }
      layouts.push_back(layout_safetensors(
          directory.target() / name(idx), specs, {{"format", "mlx"}}));
      needed += layouts.back().file_size;
    }
    if (const auto free = directory.free_bytes(); free < needed) {
      throw FileError(
          directory.target(),
          "needs " + std::to_string(needed) + " bytes, the disk has " +
              std::to_string(free) + " left");
    }
    nlohmann::json map = nlohmann::json::object();
    for (std::size_t idx = 0; idx < shards_.size(); ++idx) {
      auto& file = directory.create(name(idx));
      file.write(0, layouts[idx].head.data(), layouts[idx].head.size());
      for (std::size_t at = 0; at < shards_[idx].size(); ++at) {
        shards_[idx][at]->file = &file;
        shards_[idx][at]->offset = layouts[idx].offsets[at];
        map[shards_[idx][at]->spec.name] = name(idx);
      }
    }
    const nlohmann::json index = {
        {"metadata",
         {{"total_size", total_bytes_}, {"total_parameters", n_parameters_}}},
        {"weight_map", map}};
    directory.write_file("model.safetensors.index.json", index.dump(4) + "\n");
  }

  std::size_t size() const {
    return shards_.size();
  }
  std::uint64_t n_bytes() const {
    return total_bytes_;
  }
  std::uint64_t n_parameters() const {
    return n_parameters_;
  }

 private:
  std::string name(std::size_t idx) const {
    if (shards_.size() == 1) {
      return "model.safetensors";
    }
    const auto five = [](std::size_t number) {
      const auto digits = std::to_string(number);
      return std::string(5 - std::min<std::size_t>(5, digits.size()), '0') +
          digits;
    };
    return "model-" + five(idx + 1) + "-of-" + five(shards_.size()) +
        ".safetensors";
  }

  std::vector<std::vector<OutputTensor*>> shards_;
  std::uint64_t total_bytes_ = 0;
  std::uint64_t n_parameters_ = 0;
};

} // namespace

ConvertResult convert_checkpoint(
    const fs::path& from,
    const fs::path& to,
    const ConvertOptions& options,
    const ConvertProgress& progress) {
  const auto [args, checkpoint] = open_source(from, to);
  check_rules(
      options.rules, matrices_of(checkpoint, args), args.tie_word_embeddings);
  auto wanted = options;
  std::optional<CalibrationRun> calibration;
  if (wanted.calibration) {
    check_calibration(wanted);
    calibration.emplace(from, *wanted.calibration);
  }
  if (calibration && wanted.calibration->target_bits) {
    // The user's own rules come last, and decide.
    const Planner planner(checkpoint, args, wanted);
    auto rules = bit_rules(
        checkpoint,
        args,
        wanted,
        [&](const auto& module, const auto& matrix) {
          return planner.value_dtype(module, matrix);
        },
        *calibration);
    rules.insert(rules.end(), wanted.rules.begin(), wanted.rules.end());
    wanted.rules = std::move(rules);
  }
  Planner planner(checkpoint, args, wanted);
  auto jobs = planner.plan();
  Shards shards(jobs, std::max<std::uint64_t>(1, wanted.max_shard_bytes));

  StagedDirectory directory(to, wanted.force);
  shards.create(directory);
  directory.write_file(
      "config.json", changed_config(args, planner.config_changes()));
  if (checkpoint.is_gguf()) {
    write_gguf_side_files(GgufFile(from), args, directory);
  } else {
    copy_side_files(from, directory);
  }
  if (calibration) {
    run_calibrated(jobs, *calibration, wanted.n_threads, progress);
  } else {
    Work<TensorJob>(jobs, progress).run(wanted.n_threads);
  }
  directory.publish();
  return {
      shards.n_parameters(), shards.n_bytes(), static_cast<int>(shards.size())};
}

} // namespace qwen3_mlx
