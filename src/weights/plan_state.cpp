// SPDX-License-Identifier: MIT
#include "weights/plan_state.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <thread>
#include <utility>

#include "base/release_memory.h"
#include "formats/checked.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cuda/runtime.h"
#include "mlx/allocator.h"
#include "mlx/memory.h"
#include "qwen3_mlx/error.h"
#include "weights/plan_module.h"
#include "weights/upload_plan.h"

namespace qwen3_mlx {
namespace {

RowCodec block_codec(StoredType type) {
  return type == StoredType::q4_0 ? RowCodec::q4_0
      : type == StoredType::q4_1  ? RowCodec::q4_1
      : type == StoredType::q8_0  ? RowCodec::q8_0
                                  : RowCodec::mxfp4;
}

RowTarget target_of(mx::array& array) {
  const auto n_rows = array.ndim() < 2
      ? array.size()
      : array.size() / static_cast<std::size_t>(array.shape(-1));
  return {array.data<std::byte>(), array.nbytes() / n_rows, array.dtype()};
}

std::uint64_t row_count(const std::vector<std::int64_t>& shape) {
  std::uint64_t count = 1;
  for (std::size_t idx = 0; idx + 1 < shape.size(); ++idx) {
    count *= static_cast<std::uint64_t>(shape[idx]);
  }
  return count;
}

constexpr std::uint64_t more_than_any_machine = std::uint64_t{1} << 46;

/// Nothing where there is not that much memory.
std::optional<mx::allocator::Data> try_malloc(std::uint64_t n_bytes) {
  if (n_bytes > more_than_any_machine) {
    return std::nullopt; // some allocators end the process over it
  }
  try {
    auto data = mx::allocator::malloc(static_cast<std::size_t>(n_bytes));
    auto buffer = data.buffer();
    if (n_bytes == 0 || buffer.raw_ptr() != nullptr) {
      return data;
    }
  } catch (const std::exception&) {
    // As Metal and CUDA have it.
  }
  return std::nullopt;
}

} // namespace

PlanState::PlanState(
    Checkpoint checkpoint,
    const ModelArgs& args,
    PlanOptions options)
    : checkpoint_(std::move(checkpoint)), quantization_(args.quantization),
      options_(options), tied_(args.tie_word_embeddings) {
  dtype_ = default_dtype(args);
}

PlanState::PlanState(
    std::uint64_t seed,
    const ModelArgs& args,
    PlanOptions options)
    : quantization_(args.quantization), options_(options),
      tied_(args.tie_word_embeddings), seed_(seed) {
  dtype_ = default_dtype(args);
}

mx::Dtype PlanState::default_dtype(const ModelArgs& args) const {
  if (options_.widen) {
    return mx::float32;
  }
  if (options_.dtype) {
    return *options_.dtype;
  }
  if (checkpoint_ && checkpoint_->is_gguf()) {
    return mx::float16;
  }
  // Conversions often keep the original's "bfloat16" in config.json beside
  // float16 scales; what the products compute in follows the scales.
  const std::string embedding = "model.embed_tokens";
  if (checkpoint_) {
    const auto* scales = checkpoint_->find(embedding + ".scales");
    if (scales != nullptr && is_float(scales->type)) {
      return to_dtype(scales->type);
    }
  }
  if (args.dtype) {
    if (*args.dtype == "float32") {
      return mx::float32;
    }
    if (*args.dtype == "float16") {
      return mx::float16;
    }
    if (*args.dtype == "bfloat16") {
      return mx::bfloat16;
    }
    args.config.fail(
        args.config.has("torch_dtype") ? "torch_dtype" : "dtype",
        "expected bfloat16, float16 or float32, found \"" + *args.dtype + "\"");
  }
  if (checkpoint_) {
    for (const auto* name :
         {"model.embed_tokens.weight", "model.norm.weight"}) {
      const auto* tensor = checkpoint_->find(name);
      if (tensor != nullptr && is_float(tensor->type)) {
        return to_dtype(tensor->type);
      }
    }
  }
  return mx::bfloat16;
}

mx::Dtype PlanState::scale_dtype(StoredType type) const {
  if (!is_float(type)) {
    return mx::uint8;
  }
  // float32 holds every scale. Else they stay as stored unless asked for: a
  // float16 scale as bfloat16 would change the weights.
  if (options_.widen || options_.dtype || dtype_ == mx::float32) {
    return dtype_;
  }
  return to_dtype(type);
}

bool PlanState::has(std::string_view name) const {
  return checkpoint_ && checkpoint_->find(name) != nullptr;
}

void PlanState::missing(const std::string& name) {
  problems_.push_back({checkpoint_->path(), name, "is missing"});
}

void PlanState::problem(const StoredTensor& tensor, const std::string& reason) {
  problems_.push_back({tensor.path(), printable(tensor.source_name), reason});
}

bool PlanState::check_shape(
    const StoredTensor& tensor,
    const std::vector<std::int64_t>& expected) {
  if (tensor.shape == expected) {
    return true;
  }
  problem(
      tensor,
      "has shape " + to_string(tensor.shape) + ", expected " +
          to_string(expected));
  return false;
}

mx::array PlanState::allocate(mx::Shape shape, mx::Dtype dtype, bool reserved) {
  std::optional<std::uint64_t> n_bytes = dtype.size();
  for (const auto dim : shape) {
    n_bytes = n_bytes ? checked_mul(*n_bytes, static_cast<std::uint64_t>(dim))
                      : std::nullopt;
  }
  if (reserved && n_bytes && *n_bytes <= more_than_any_machine) {
    return arrays_.emplace_back(cuda::reserved_array(shape, dtype));
  }
  if (auto data = n_bytes ? try_malloc(*n_bytes) : std::nullopt) {
    return arrays_.emplace_back(std::move(*data), std::move(shape), dtype);
  }
  // The cause, where config.json has sizes that the tensors do not have.
  report();
  throw Error(
      "cannot allocate " +
      (n_bytes ? std::to_string(*n_bytes) : "more than 2^64") +
      " bytes for weights");
}

// The piece-wise copy of rows whose bytes lie after each other in each piece.
void PlanState::copy_rows(
    const StoredTensor& tensor,
    const RowRange& range,
    RowCodec codec,
    std::array<RowTarget, 3> targets) {
  const bool is_vector = tensor.shape.size() == 1;
  const auto n_rows = is_vector ? static_cast<std::uint64_t>(tensor.shape[0])
                                : row_count(tensor.shape);
  const auto row_bytes = tensor.n_bytes() / n_rows;
  const auto rows_per_piece = n_rows / tensor.pieces.size();
  auto first = range.first;
  auto target_row = range.target_row;
  const auto end = range.first + range.count;
  while (first < end) {
    const auto& piece = tensor.pieces[first / rows_per_piece];
    const auto in_piece = first % rows_per_piece;
    RowCopy copy;
    copy.tensor = tensor.source_name;
    copy.file = piece.file;
    copy.offset = piece.offset + in_piece * row_bytes;
    copy.n_rows = std::min(end - first, rows_per_piece - in_piece);
    copy.row_elements =
        is_vector ? 1 : static_cast<std::uint64_t>(tensor.shape.back());
    copy.row_bytes = row_bytes;
    copy.codec = codec;
    copy.type = tensor.type;
    copy.ggml_type = tensor.ggml_type;
    copy.rows = tensor.rows;
    copy.first_row = first;
    copy.permuted_head_dim = tensor.permuted_head_dim;
    copy.targets = targets;
    for (auto& target : copy.targets) {
      if (target.data != nullptr) {
        target.data += target_row * target.row_bytes;
      }
    }
    first += copy.n_rows;
    target_row += copy.n_rows;
    copies_.push_back(std::move(copy));
  }
}

void PlanState::fill_random(const mx::array& array, float scale, float center) {
  auto filled = array;
  const auto target = target_of(filled);
  RowCopy copy;
  copy.n_rows = filled.nbytes() / target.row_bytes;
  copy.row_elements = target.row_bytes / filled.itemsize();
  copy.row_bytes = target.row_bytes;
  copy.codec = RowCodec::random;
  copy.targets[0] = target;
  copy.random_scale = scale;
  copy.random_center = center;
  copy.seed = seed_;
  seed_ += filled.size();
  copies_.push_back(std::move(copy));
}

mx::array PlanState::take_vector(
    std::span<const std::string> names,
    std::span<const int> sizes) {
  int sum = 0;
  for (const int size : sizes) {
    sum += size;
  }
  // What is wrong is known before there must be memory for it.
  std::vector<const StoredTensor*> tensors;
  for (std::size_t idx = 0; checkpoint_ && idx < names.size(); ++idx) {
    tensors.push_back(check_vector(names[idx], sizes[idx]));
  }
  auto out = allocate({sum}, dtype_);
  if (!checkpoint_) {
    const bool is_norm = names.front().ends_with("norm.weight");
    fill_random(out, 0.1f, is_norm ? 1.0f : 0.0f);
    return out;
  }
  std::uint64_t target_row = 0;
  for (std::size_t idx = 0; idx < names.size(); ++idx) {
    const auto count = static_cast<std::uint64_t>(sizes[idx]);
    if (const auto* tensor = tensors[idx]) {
      const auto codec =
          to_dtype(tensor->type) == dtype_ ? RowCodec::raw : RowCodec::floats;
      copy_rows(*tensor, {0, count, target_row}, codec, {target_of(out)});
    }
    target_row += count;
  }
  return out;
}

const StoredTensor* PlanState::check_vector(const std::string& name, int size) {
  const auto* tensor = checkpoint_->find(name);
  if (tensor == nullptr) {
    missing(name);
    return nullptr;
  }
  taken_.insert(name);
  if (!is_float(tensor->type)) {
    problem(
        *tensor,
        "is stored as " + tensor->type_name + ", expected F32, F16 or BF16");
    return nullptr;
  }
  return check_shape(*tensor, {size}) ? tensor : nullptr;
}

Matrix PlanState::allocate_matrix(
    const std::function<mx::Shape(int)>& shape,
    const QuantFormat& format,
    mx::Dtype scale_dtype,
    int in,
    bool reserved) {
  const bool packed = format.is_quantized();
  Matrix matrix{
      allocate(
          shape(
              packed ? static_cast<int>(std::int64_t{in} * format.bits / 32)
                     : in),
          packed ? mx::uint32 : dtype_,
          reserved),
      std::nullopt,
      std::nullopt,
      format};
  if (packed) {
    const auto groups = shape(in / format.group_size);
    matrix.scales = allocate(groups, scale_dtype, reserved);
    if (format.mode == QuantMode::affine) {
      matrix.biases = allocate(groups, scale_dtype, reserved);
    }
  }
  return matrix;
}

std::optional<Matrix> PlanState::take_matrix(
    std::span<const ModulePart> parts,
    int in,
    int n_experts) {
  std::vector<Module> modules;
  for (const auto& part : parts) {
    modules.push_back(resolve(part.module, in));
    if (parts.size() > 1 && !modules.front().merges_with(modules.back())) {
      return std::nullopt;
    }
  }
  int rows = 0; // of one expert
  for (const auto& part : parts) {
    rows += part.out;
  }
  const auto shape = [&](int last) {
    return n_experts > 0 ? mx::Shape{n_experts, rows, last}
                         : mx::Shape{rows, last};
  };
  // As above: before there must be memory for it.
  std::vector<bool> valid;
  for (std::size_t idx = 0; checkpoint_ && idx < parts.size(); ++idx) {
    valid.push_back(check_module(parts[idx], modules[idx], in, n_experts));
  }
  const auto format = modules.front().format;
  const bool packed = format.is_quantized() && modules.front().usable;
  const auto first_array = arrays_.size();
  const auto make = [&](bool reserved) {
    return allocate_matrix(
        shape,
        packed ? format : QuantFormat{},
        modules.front().scale_dtype,
        in,
        reserved);
  };
  // What goes through uploads needs no memory of the host.
  auto matrix = make(options_.blocks != nullptr);
  if (options_.blocks && !cuda::layout_of(matrix)) {
    arrays_.erase(
        arrays_.begin() + static_cast<std::ptrdiff_t>(first_array),
        arrays_.end());
    matrix = make(/* reserved */ false);
  }
  if (!checkpoint_) {
    fill_random_matrix(matrix, in);
    return tiled(std::move(matrix), first_array);
  }
  std::uint64_t begin = 0;
  for (std::size_t idx = 0; idx < parts.size(); ++idx) {
    const auto out = static_cast<std::uint64_t>(parts[idx].out);
    if (valid[idx]) {
      std::vector<RowRange> ranges;
      if (parts.size() == 1) {
        ranges.push_back(
            {0, out * static_cast<std::uint64_t>(std::max(1, n_experts)), 0});
      }
      for (int expert = 0; parts.size() > 1 && expert < std::max(1, n_experts);
           ++expert) {
        const auto e = static_cast<std::uint64_t>(expert);
        ranges.push_back(
            {e * out, out, e * static_cast<std::uint64_t>(rows) + begin});
      }
      copy_module(modules[idx], matrix, ranges);
    }
    begin += out;
  }
  if (std::find(valid.begin(), valid.end(), false) != valid.end()) {
    return matrix; // read() will throw
  }
  return tiled(std::move(matrix), first_array);
}

Matrix PlanState::tiled(Matrix matrix, std::size_t first_array) {
  if (!options_.tiles && !options_.blocks) {
    return matrix;
  }
  auto out = options_.tiles ? cpu::make_tiled(matrix, options_.tiles)
                            : cuda::make_blocks(matrix, options_.blocks);
  if (!out) {
    return matrix;
  }
  // The arrays go when their contents have moved, one matrix after another:
  // memory that is not yet filled costs nothing.
  arrays_.erase(
      arrays_.begin() + static_cast<std::ptrdiff_t>(first_array),
      arrays_.end());
  tilings_.push_back({std::move(matrix), *out, copies_.size()});
  return *out;
}

void PlanState::fill_random_matrix(const Matrix& matrix, int in) {
  // Products of unit rows stay near one: the noise is that of 1 / sqrt(in).
  const float spread = 1.7f / std::sqrt(static_cast<float>(in));
  const auto& format = matrix.format;
  fill_random(matrix.weight, spread, 0.0f);
  if (format.mode == QuantMode::mxfp8) {
    // Bytes without E4M3's largest exponents, which include NaN: below 2.
    copies_.back().random_mask = 0xBFBFBFBF;
  }
  if (format.mode == QuantMode::affine) {
    const auto half = static_cast<float>((1 << format.bits) - 1) / 2.0f;
    fill_random(*matrix.scales, 0.0f, spread / half);
    fill_random(*matrix.biases, 0.0f, -spread);
  } else if (format.is_quantized()) {
    // Bytes: 2^-6 or 2^-4 as E8M0, or 2^-4 as E4M3, near `spread` for common
    // sizes.
    fill_random(
        *matrix.scales,
        0.0f,
        format.mode == QuantMode::nvfp4       ? float{0x18}
            : format.mode == QuantMode::mxfp8 ? 123.0f
                                              : 121.0f);
  }
}

void PlanState::copy_module(
    const Module& module,
    const Matrix& matrix,
    std::span<const RowRange> ranges) {
  auto weight = matrix.weight;
  const auto& stored = *module.weight;
  for (const auto& range : ranges) {
    if (block_format(stored.type)) {
      auto scales = *matrix.scales;
      std::array targets{target_of(weight), target_of(scales), RowTarget{}};
      if (matrix.biases) {
        auto biases = *matrix.biases;
        targets[2] = target_of(biases);
      }
      copy_rows(stored, range, block_codec(stored.type), targets);
      continue;
    }
    if (stored.type == StoredType::ggml ||
        stored.type == StoredType::imported) {
      const auto codec =
          stored.type == StoredType::ggml ? RowCodec::ggml : RowCodec::imported;
      copy_rows(stored, range, codec, {target_of(weight)});
      continue;
    }
    const auto copy = [&](const StoredTensor& tensor, mx::array array) {
      const bool same =
          !is_float(tensor.type) || to_dtype(tensor.type) == array.dtype();
      copy_rows(
          tensor,
          range,
          same ? RowCodec::raw : RowCodec::floats,
          {target_of(array)});
    };
    copy(stored, weight);
    if (matrix.scales) {
      copy(*module.scales, *matrix.scales);
    }
    if (matrix.biases) {
      copy(*module.biases, *matrix.biases);
    }
  }
}

std::uint64_t PlanState::n_bytes() const {
  std::uint64_t sum = 0;
  for (const auto& copy : copies_) {
    sum += copy.n_bytes();
  }
  return sum;
}

void PlanState::note_left_over() {
  if (!checkpoint_) {
    return;
  }
  for (const auto& [name, tensor] : checkpoint_->tensors()) {
    const bool ignored = tied_ && name.starts_with("lm_head.");
    if (!taken_.contains(name) && !ignored) {
      problem(tensor, "is left over: this model has no such tensor");
    }
  }
}

void PlanState::report() const {
  if (problems_.empty()) {
    return;
  }
  // A tensor that several heads share is asked for by each.
  std::vector<const Problem*> problems;
  std::set<std::pair<std::string_view, std::string_view>> known;
  for (const auto& each : problems_) {
    if (known.insert({each.tensor, each.reason}).second) {
      problems.push_back(&each);
    }
  }
  constexpr std::size_t max_listed = 20;
  const auto& first = *problems.front();
  std::string reason = first.reason;
  if (problems.size() > 1) {
    reason += "; and " + std::to_string(problems.size() - 1) + " more:";
    for (std::size_t idx = 1; idx < std::min(problems.size(), max_listed);
         ++idx) {
      reason += "\n  " + problems[idx]->tensor + ": " + problems[idx]->reason;
    }
    if (problems.size() > max_listed) {
      reason += "\n  and " + std::to_string(problems.size() - max_listed) +
          " that are not listed";
    }
  }
  throw TensorError(first.path, first.tensor, reason);
}

void PlanState::read(int n_threads, const LoadProgress& progress) {
  note_left_over();
  report();
  if (n_threads <= 0) {
    n_threads = static_cast<int>(std::thread::hardware_concurrency());
  }
  if (options_.blocks) {
    read_uploaded(n_threads, progress);
  } else {
    read_tiled(n_threads, progress);
  }
  tilings_.clear();
  copies_.clear();
  arrays_.clear();
}

void PlanState::read_tiled(int n_threads, const LoadProgress& progress) {
  const auto total = n_bytes();
  std::uint64_t done = 0;
  std::size_t begin = 0;
  const auto copy_until = [&](std::size_t end) {
    const auto at = [&](std::size_t idx) {
      return std::make_move_iterator(
          copies_.begin() + static_cast<std::ptrdiff_t>(idx));
    };
    const std::vector<RowCopy> part(at(begin), at(end));
    run_copies(part, n_threads, [&](std::uint64_t n, std::uint64_t) {
      if (progress) {
        progress(done + n, total);
      }
    });
    for (const auto& copy : part) {
      done += copy.n_bytes();
    }
    begin = end;
  };
  // What was read is freed as soon as it is tiled, and goes back to the system
  // before much of it has gathered.
  constexpr std::uint64_t max_freed_bytes = std::uint64_t{16} << 20;
  std::uint64_t released = 0;
  for (auto& [source, tiled, end_copy] : tilings_) {
    copy_until(end_copy);
    cpu::fill_tiles(source, tiled);
    source = tiled;
    if (done - released >= max_freed_bytes) {
      mx::clear_cache();
      release_freed_memory();
      released = done;
    }
  }
  copy_until(copies_.size());
}

void PlanState::read_uploaded(int n_threads, const LoadProgress& progress) {
  std::vector<UploadPlan> plans;
  CopyStage others; // straight into their final memory
  std::size_t slot_bytes = 0;
  std::size_t begin = 0;
  for (const auto& [source, packed, end] : tilings_) {
    UploadPlan plan(source, packed);
    for (; begin < end; ++begin) {
      if (!plan.take(copies_[begin])) {
        others.copies.push_back(std::move(copies_[begin]));
      }
    }
    slot_bytes = std::max(slot_bytes, plan.least_slot_bytes());
    plans.push_back(std::move(plan));
  }
  std::move(
      copies_.begin() + static_cast<std::ptrdiff_t>(begin),
      copies_.end(),
      std::back_inserter(others.copies));
  if (plans.empty()) {
    run_copies(others.copies, n_threads, progress);
    return;
  }
  cuda::Uploads uploads(
      options_.blocks, std::max(slot_bytes, upload_slot_bytes));
  std::vector<CopyStage> stages;
  for (const auto& plan : plans) {
    plan.add_stages(uploads, std::max(slot_bytes, upload_slot_bytes), stages);
  }
  // Last: a stage's slot follows from its place.
  if (!others.copies.empty()) {
    stages.push_back(std::move(others));
  }
  run_stages(stages, cuda::Uploads::kNumSlots, n_threads, progress);
  uploads.finish();
}

} // namespace qwen3_mlx
