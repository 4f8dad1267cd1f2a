// SPDX-License-Identifier: MIT
#include "qwen3_mlx/model.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>

#include "kernels/cpu/tiles.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "models/registry.h"
#include "nn/decode_replay.h"
#include "qwen3_mlx/error.h"
#include "weights/load_plan.h"
#include "weights/stored_format.h"

namespace qwen3_mlx {

struct Model::State {
  std::filesystem::path path;
  ModelArgs args;
  GenerationConfig generation_config;
  mx::Device device;
  std::vector<TensorSummary> tensors;
  std::string fingerprint;
  std::unique_ptr<ModelImpl> impl;
  // With the CUDA kernels.
  std::unique_ptr<DecodeReplay> replay;
  std::shared_ptr<cuda::Runtime> cuda;
};

namespace {

// Makes `device` MLX's default for a scope. The default is shared by all
// threads, so it is left alone where it is right already.
class DeviceScope {
 public:
  explicit DeviceScope(mx::Device device) {
    if (mx::default_device() != device) {
      context_.emplace(device);
    }
  }

 private:
  std::optional<mx::StreamContext> context_;
};

// FNV-1a, 64 bits: a name for a model, not a protection.
class Fingerprint {
 public:
  void add(std::string_view bytes) {
    for (const char byte : bytes) {
      hash_ = (hash_ ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
    }
  }
  std::string str() const {
    char digits[17];
    std::snprintf(
        digits,
        sizeof digits,
        "%016llx",
        static_cast<unsigned long long>(hash_));
    return digits;
  }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

std::vector<TensorSummary>
summarize(const Checkpoint& checkpoint, const ModelArgs& args) {
  std::vector<TensorSummary> table;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    table.push_back(
        {name,
         tensor.type_name,
         tensor.shape,
         tensor.n_bytes(),
         stored_format(checkpoint, args.quantization, name)});
  }
  return table;
}

// Some bytes from the middle of a tensor: models trained further from one base
// differ in nothing else.
std::string sample_of(const StoredTensor& tensor) {
  constexpr std::uint64_t max_bytes = 64;
  const auto& piece = tensor.pieces.front();
  std::string sample(
      static_cast<std::size_t>(std::min(max_bytes, piece.n_bytes)), '\0');
  piece.file->read(
      piece.offset + (piece.n_bytes - sample.size()) / 2,
      sample.size(),
      sample.data());
  return sample;
}

std::string
fingerprint_of(const ModelArgs& args, const Checkpoint& checkpoint) {
  Fingerprint fingerprint;
  fingerprint.add(args.config.dump());
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    fingerprint.add(name);
    fingerprint.add(tensor.type_name);
    fingerprint.add(std::to_string(tensor.n_bytes()));
    fingerprint.add(sample_of(tensor));
  }
  return fingerprint.str();
}

const Architecture&
architecture_of(const ModelArgs& args, const std::filesystem::path& path) {
  try {
    return find_architecture(args.model_type);
  } catch (const InvalidArgument& error) {
    throw FieldError(path, "model_type", error.what());
  }
}

void require(bool condition, const std::string& message) {
  if (!condition) {
    throw InvalidArgument(message);
  }
}

// Kernels read the embedding's row of each id. Ids that are in memory already,
// as a prompt's are, are looked at; those still to be computed come from a
// sampler, whose range is the vocabulary.
void check_ids(const mx::array& tokens, const ModelArgs& args) {
  require(
      tokens.dtype() == mx::uint32 || tokens.dtype() == mx::int32,
      "tokens: expected uint32 or int32");
  if (mx::default_device() != mx::Device::cpu || !tokens.is_available() ||
      !tokens.flags().row_contiguous) {
    return;
  }
  // A negative id is a large one.
  const auto* const begin = static_cast<const std::uint32_t*>(
      static_cast<const void*>(tokens.data<std::byte>()));
  const auto* const end = begin + tokens.size();
  const auto vocab_size = static_cast<std::uint32_t>(args.vocab_size);
  const auto* const bad =
      std::find_if(begin, end, [&](auto id) { return id >= vocab_size; });
  require(
      bad == end,
      "tokens: id " + std::to_string(bad == end ? 0 : *bad) +
          " is outside the vocabulary of " + std::to_string(vocab_size));
}

void check(const StepInput& step, const ModelArgs& args) {
  require(
      step.tokens.ndim() == 1,
      "tokens: expected an array [T], found " +
          std::to_string(step.tokens.ndim()) + " dimensions");
  check_ids(step.tokens, args);
  std::int64_t n_tokens = 0;
  for (const auto& segment : step.segments) {
    require(
        segment.cache.size() ==
            static_cast<std::size_t>(args.num_hidden_layers),
        "segment: expected a cache for each of " +
            std::to_string(args.num_hidden_layers) + " layers, found " +
            std::to_string(segment.cache.size()));
    require(
        segment.length >= 1 && segment.batch >= 1,
        "segment: expected a length and a batch of at least 1, found " +
            std::to_string(segment.length) + " and " +
            std::to_string(segment.batch));
    n_tokens += std::int64_t{segment.length} * segment.batch;
  }
  require(
      n_tokens == step.tokens.shape(0) && n_tokens > 0,
      "tokens: expected the " + std::to_string(n_tokens) +
          " tokens of the segments, found " +
          std::to_string(step.tokens.shape(0)));
  if (step.logits_rows) {
    for (const int row : *step.logits_rows) {
      require(
          row >= 0 && row < n_tokens,
          "logits_rows: row " + std::to_string(row) + " is outside " +
              std::to_string(n_tokens) + " tokens");
    }
  }
}

} // namespace

Model::Model(std::shared_ptr<const State> state) : state_(std::move(state)) {}

const ModelArgs& Model::args() const {
  return state_->args;
}

const GenerationConfig& Model::generation_config() const {
  return state_->generation_config;
}

const std::vector<std::uint32_t>& Model::eos_token_ids() const {
  return state_->generation_config.eos_token_ids;
}

mx::Device Model::device() const {
  return state_->device;
}

const std::filesystem::path& Model::path() const {
  return state_->path;
}

const std::vector<TensorSummary>& Model::tensors() const {
  return state_->tensors;
}

const std::string& Model::fingerprint() const {
  return state_->fingerprint;
}

const ModelImpl& Model::impl() const {
  return *state_->impl;
}

std::vector<KVCache> Model::make_cache(const CacheOptions& options) const {
  std::vector<KVCache> cache;
  cache.reserve(static_cast<std::size_t>(args().num_hidden_layers));
  for (int layer = 0; layer < args().num_hidden_layers; ++layer) {
    cache.emplace_back(options);
  }
  return cache;
}

mx::array Model::forward(const StepInput& step) const {
  const DeviceScope scope(state_->device);
  check(step, args());
  if (state_->replay) {
    return state_->replay->forward(
        step, [this](const StepInput& input) { return impl().forward(input); });
  }
  return state_->impl->forward(step);
}

MostLikely Model::most_likely(const mx::array& logits) const {
  if (state_->cuda) {
    if (auto found = cuda::most_likely_op(logits, state_->cuda)) {
      return *found;
    }
  }
  return qwen3_mlx::most_likely(logits);
}

bool Model::replays_decode_steps() const {
  return state_->replay && state_->replay->replays();
}

mx::array
Model::operator()(const mx::array& tokens, std::vector<KVCache>& cache) const {
  require(
      tokens.ndim() == 2,
      "tokens: expected an array [B, L], found " +
          std::to_string(tokens.ndim()) + " dimensions");
  if (cache.empty()) {
    cache = make_cache();
  }
  const int B = tokens.shape(0);
  const int L = tokens.shape(1);
  const DeviceScope scope(state_->device);
  check_ids(tokens, args());
  const Segment segment{.cache = cache, .length = L, .batch = B};
  const auto logits = forward({mx::reshape(tokens, {B * L}), {segment}});
  return mx::reshape(logits, {B, L, logits.shape(-1)});
}

namespace {

// Builds the model of `args` on `plan` and fills it.
std::unique_ptr<ModelImpl>
build(const ModelArgs& args, LoadPlan plan, const LoadOptions& options) {
  const auto& architecture = architecture_of(args, args.config.path());
  auto impl = architecture.make_model(args, plan.weights());
  plan.read(/* n_threads */ 0, options.progress);
  return impl;
}

mx::Device device_of(const LoadOptions& options) {
  return options.device.value_or(mx::default_device());
}

PlanOptions plan_options(const LoadOptions& options) {
  PlanOptions plan{.dtype = options.dtype};
  if (device_of(options) == mx::Device::cpu) {
    plan.widen = options.kernels == Kernels::stock;
    if (!plan.widen) {
      plan.tiles =
          std::make_shared<cpu::Runtime>(options.threads, options.exact);
    }
  } else if (options.kernels == Kernels::native && !cuda::why_unavailable()) {
    plan.blocks = cuda::make_runtime(options.exact);
  }
  return plan;
}

std::unique_ptr<DecodeReplay>
make_replay(const ModelArgs& args, const PlanOptions& plan) {
  return plan.blocks && !cuda::is_exact(*plan.blocks)
      ? std::make_unique<DecodeReplay>(args)
      : nullptr;
}

} // namespace

Model load_model(
    const std::filesystem::path& path,
    const LoadOptions& options) {
  auto args = get_model_args(path);
  architecture_of(args, args.config.path()); // before any tensor is looked at
  auto checkpoint = Checkpoint::open(path);
  auto tensors = summarize(checkpoint, args);
  auto fingerprint = fingerprint_of(args, checkpoint);

  const DeviceScope scope(device_of(options));
  const auto plan_of_options = plan_options(options);
  auto replay = make_replay(args, plan_of_options);
  LoadPlan plan(std::move(checkpoint), args, plan_of_options);
  auto impl = build(args, std::move(plan), options);
  auto generation_config = load_generation_config(path, args);
  return Model(std::make_shared<Model::State>(Model::State{
      path,
      std::move(args),
      std::move(generation_config),
      device_of(options),
      std::move(tensors),
      std::move(fingerprint),
      std::move(impl),
      std::move(replay),
      plan_of_options.blocks}));
}

Model make_random_model(
    const ModelArgs& args,
    std::uint64_t seed,
    const LoadOptions& options) {
  const DeviceScope scope(device_of(options));
  const auto plan_of_options = plan_options(options);
  auto replay = make_replay(args, plan_of_options);
  auto impl =
      build(args, LoadPlan::random(args, seed, plan_of_options), options);
  GenerationConfig generation_config;
  generation_config.eos_token_ids = args.eos_token_ids;
  return Model(std::make_shared<Model::State>(Model::State{
      "random",
      args,
      std::move(generation_config),
      device_of(options),
      {},
      fingerprint_of(args, {}) + "-" + std::to_string(seed),
      std::move(impl),
      std::move(replay),
      plan_of_options.blocks}));
}

Model load_model_of_type(
    std::string_view model_type,
    const std::filesystem::path& path,
    const LoadOptions& options) {
  const auto args = get_model_args(path);
  if (args.model_type != model_type) {
    throw FieldError(
        args.config.path(),
        "model_type",
        "expected \"" + std::string(model_type) + "\", found \"" +
            args.model_type + "\"; use load_model(), which picks by it");
  }
  return load_model(path, options);
}

} // namespace qwen3_mlx
