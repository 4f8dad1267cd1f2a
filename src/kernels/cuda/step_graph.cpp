// SPDX-License-Identifier: MIT
#include "kernels/cuda/step_graph.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "kernels/cuda/persistent_step.h"
#include "kernels/cuda/primitive.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

constexpr int kMinSplits = 4;
// Of attention's heads and of the tiles of products.
constexpr std::size_t kNumCounters = std::size_t{1} << 17;

class Stream {
 public:
  Stream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const {
    return stream_;
  }

 private:
  cudaStream_t stream_ = nullptr;
};

// A captured graph, made executable.
class Executable {
 public:
  Executable() = default;
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;
  ~Executable() {
    if (exec_ != nullptr) {
      cudaGraphExecDestroy(exec_);
    }
    if (graph_ != nullptr) {
      cudaGraphDestroy(graph_);
    }
  }

  template <class Work>
  void capture(cudaStream_t stream, const Work& work) {
    check(
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed),
        "capture");
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph_);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph_), "capture");
    check(cudaGraphInstantiate(&exec_, graph_, 0), "instantiate");
  }
  cudaGraphExec_t get() const {
    return exec_;
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

// A recorded launch whose first argument is an Args that changes, and which has
// so many others.
template <class Args, std::size_t Others = 1>
class Patch {
 public:
  explicit Patch(cudaGraphNode_t node) : node_(node) {
    check(cudaGraphKernelNodeGetParams(node, &params_), "node");
    args_ = *static_cast<const Args*>(params_.kernelParams[0]);
  }

  const Args& args() const {
    return args_;
  }
  void apply(cudaGraphExec_t exec, const Args& args) {
    args_ = args;
    std::array<void*, 1 + Others> arguments;
    std::copy_n(params_.kernelParams, arguments.size(), arguments.begin());
    arguments[0] = &args_;
    cudaKernelNodeParams params = params_;
    params.kernelParams = arguments.data();
    check(cudaGraphExecKernelNodeSetParams(exec, node_, &params), "node");
  }

 private:
  cudaGraphNode_t node_;
  cudaKernelNodeParams params_{};
  Args args_;
};

// The memory of a recording: an array's bytes are another's once the last
// operation that reads it has been recorded.
class Arena {
 public:
  explicit Arena(std::shared_ptr<DevicePool> pool) : pool_(std::move(pool)) {}

  void* take(std::size_t n_bytes) {
    auto& free = free_[n_bytes];
    if (!free.empty()) {
      void* const memory = free.back();
      free.pop_back();
      return memory;
    }
    memory_.push_back(allocate_bytes(pool_, n_bytes));
    return device_pointer(memory_.back());
  }
  void give_back(void* memory, std::size_t n_bytes) {
    free_[n_bytes].push_back(memory);
  }

 private:
  std::shared_ptr<DevicePool> pool_;
  std::vector<mx::array> memory_;
  std::map<std::size_t, std::vector<void*>> free_;
};

// The operations that `logits` is made of, in an order in which they can run.
class Walk {
 public:
  Walk(const mx::array& tokens, const mx::array& logits) : tokens_(tokens) {
    visit(logits);
  }
  /// Empty when some operation is not of this project.
  const std::vector<mx::array>& steps() const {
    return steps_;
  }
  /// The array that stands for the tokens.
  bool is_tokens(const mx::array& array) const {
    return array.id() == tokens_.id() ||
        (contiguous_ && array.id() == contiguous_->id());
  }
  bool is_recordable() const {
    return is_recordable_;
  }

 private:
  void visit(const mx::array& array) {
    if (!is_recordable_ || is_tokens(array) ||
        array.status() != mx::array::Status::unscheduled ||
        !seen_.emplace(array.id(), true).second) {
      return;
    }
    if (!array.has_primitive()) {
      is_recordable_ = false;
      return;
    }
    auto* const op = dynamic_cast<CudaPrimitive*>(&array.primitive());
    const auto& inputs = array.inputs();
    if (op == nullptr) {
      // dense() may have asked MLX to see to the tokens.
      const bool is_copy = inputs.size() == 1 && is_tokens(inputs[0]) &&
          std::string(array.primitive().name()) == "Contiguous";
      is_recordable_ = is_copy;
      contiguous_ = array;
      return;
    }
    const auto count = op->num_lasting_inputs(inputs.size());
    for (std::size_t idx = 0; idx < count; ++idx) {
      visit(inputs[idx]);
    }
    steps_.push_back(array);
  }

  mx::array tokens_;
  std::optional<mx::array> contiguous_;
  std::unordered_map<std::uintptr_t, bool> seen_;
  std::vector<mx::array> steps_;
  bool is_recordable_ = true;
};

class Recorded final : public StepGraph,
                       public std::enable_shared_from_this<Recorded> {
 public:
  Recorded(
      const Walk& walk,
      const mx::array& logits,
      const StepForm& form,
      std::shared_ptr<Runtime> runtime)
      : form_(form), runtime_(std::move(runtime)), arena_(runtime_->pool),
        lasting_(runtime_->pool), shape_(logits.shape()),
        dtype_(logits.dtype()) {
    const auto n = static_cast<std::size_t>(form.num_sequences);
    num_layers_ = count_layers(walk);
    table_ = static_cast<DecodeSequence*>(
        arena_.take(num_layers_ * n * sizeof(DecodeSequence)));
    offsets_ = static_cast<int*>(arena_.take(n * sizeof(int)));
    counters_ =
        static_cast<unsigned*>(arena_.take(kNumCounters * sizeof(unsigned)));
    check(
        cudaMemset(counters_, 0, kNumCounters * sizeof(unsigned)), "counters");
    record(walk, logits);
  }

  mx::array replay(const mx::array& tokens, StepCaches caches) override;

  mx::Dtype dtype() const override {
    return dtype_;
  }
  mx::array make_array(const mx::Shape& shape, mx::Dtype dtype) const override {
    return new_array(runtime_->pool, shape, dtype);
  }

  void allocate_output(mx::array& out) const {
    allocate(runtime_->pool, out);
  }

  // Launches the graph on the stream, with these tokens and this output.
  void
  run(mx::Stream of,
      const std::uint32_t* tokens,
      void* logits,
      const StepCaches& caches) {
    const cudaStream_t stream = stream_behind(of);
    update_table(of, stream, caches);
    if (tokens != ids_->args().ids) {
      UnpackArgs args = ids_->args();
      args.ids = tokens;
      ids_->apply(executable_->get(), args);
    }
    if (logits != logits_) {
      if (persistent_) {
        PersistentStepArgs args = persistent_->args();
        args.logits = logits;
        persistent_->apply(executable_->get(), args);
      }
      for (auto& output : outputs_) {
        GemvArgs args = output.args();
        args.y = static_cast<char*>(logits) +
            (static_cast<char*>(args.y) - static_cast<char*>(logits_));
        output.apply(executable_->get(), args);
      }
      logits_ = logits;
    }
    check(cudaGraphLaunch(executable_->get(), stream), "step");
    for (int& offset : at_offsets_) {
      ++offset;
    }
  }

 private:
  class Recording;

  static std::size_t count_layers(const Walk& walk) {
    return static_cast<std::size_t>(
        std::ranges::count_if(walk.steps(), [](const mx::array& array) {
          return std::string(array.primitive().name()) == "CudaDecodeAttention";
        }));
  }

  void record(const Walk& walk, const mx::array& logits);
  std::optional<StepProgram> make_program(const RecordedNodes& nodes);
  void record_persistent(const StepProgram& program);
  void
  update_table(mx::Stream of, cudaStream_t stream, const StepCaches& caches);
  template <class T>
  void
  send(mx::Stream of, cudaStream_t stream, const std::vector<T>& values, T* to)
      const;

  StepForm form_;
  std::shared_ptr<Runtime> runtime_;
  Arena arena_;
  Arena lasting_;                    // what serves one purpose only
  std::vector<mx::array> constants_; // weights, kept alive
  mx::Shape shape_;
  mx::Dtype dtype_;
  std::size_t num_layers_ = 0;
  DecodeSequence* table_ = nullptr; // [num_layers, num_sequences], on the GPU
  int* offsets_ = nullptr; // of the step before: the first kernel adds 1
  unsigned* counters_ = nullptr;
  std::vector<DecodeSequence> at_table_; // what the GPU has
  std::vector<int> at_offsets_;
  std::unique_ptr<Executable> executable_;
  std::optional<Patch<UnpackArgs>> ids_;
  // Who writes logits: one or the other.
  std::vector<Patch<GemvArgs>> outputs_;
  std::optional<Patch<PersistentStepArgs, 2>> persistent_;
  void* logits_ = nullptr;
};

class Recorded::Recording final : public Operands {
 public:
  Recording(Recorded& to, const Walk& walk, cudaStream_t stream)
      : to_(to), walk_(walk) {
    launcher_ = to.runtime_->launcher;
    launcher_.stream = stream;
    launcher_.recorded = &nodes;
  }

  Launcher launcher() override {
    return launcher_;
  }
  void* input(const mx::array& array) override {
    if (walk_.is_tokens(array)) {
      return to_.offsets_; // any address: each run has its own
    }
    if (const auto found = places_.find(array.id()); found != places_.end()) {
      return found->second;
    }
    to_.constants_.push_back(array);
    return device_pointer(array);
  }
  void* output(mx::array& array) override {
    void* const memory = to_.arena_.take(array.nbytes());
    places_[array.id()] = memory;
    return memory;
  }
  void* temporary(std::size_t n_bytes) override {
    void* const memory = to_.arena_.take(n_bytes);
    temporaries_.emplace_back(memory, n_bytes);
    return memory;
  }
  unsigned* counters(std::size_t count) override {
    if (count > kNumCounters) {
      throw Error("CUDA: a recorded step is too large");
    }
    return to_.counters_;
  }
  const DecodeTable* next_layer() override {
    const auto n = static_cast<std::size_t>(to_.form_.num_sequences);
    table_ = {
        to_.table_ + layer_++ * n,
        to_.offsets_,
        to_.form_.num_sequences,
        to_.form_.max_splits};
    return &table_;
  }
  Advance advance() override {
    return {to_.offsets_, to_.form_.num_sequences};
  }

  void end_of_operation() {
    for (const auto& [memory, n_bytes] : temporaries_) {
      to_.arena_.give_back(memory, n_bytes);
    }
    temporaries_.clear();
  }
  void* place_of(const mx::array& array) const {
    return places_.at(array.id());
  }
  void drop(const mx::array& array) {
    to_.arena_.give_back(places_.at(array.id()), array.nbytes());
  }

  RecordedNodes nodes;

 private:
  Recorded& to_;
  const Walk& walk_;
  Launcher launcher_;
  std::unordered_map<std::uintptr_t, void*> places_;
  std::vector<std::pair<void*, std::size_t>> temporaries_;
  std::size_t layer_ = 0;
  DecodeTable table_;
};

void Recorded::record(const Walk& walk, const mx::array& logits) {
  const auto& steps = walk.steps();
  std::unordered_map<std::uintptr_t, std::size_t> last_use;
  for (std::size_t idx = 0; idx < steps.size(); ++idx) {
    last_use[steps[idx].id()] = steps.size();
    for (const auto& input : steps[idx].inputs()) {
      if (const auto found = last_use.find(input.id());
          found != last_use.end()) {
        found->second = idx;
      }
    }
  }
  last_use[logits.id()] = steps.size();

  const Stream stream;
  Recording recording(*this, walk, stream.get());
  executable_ = std::make_unique<Executable>();
  executable_->capture(stream.get(), [&] {
    for (std::size_t idx = 0; idx < steps.size(); ++idx) {
      mx::array out = steps[idx];
      static_cast<CudaPrimitive&>(out.primitive())
          .run(recording, out.inputs(), out);
      recording.end_of_operation();
      for (const auto& earlier : out.inputs()) {
        const auto found = last_use.find(earlier.id());
        if (found != last_use.end() && found->second == idx) {
          recording.drop(earlier);
          last_use.erase(found); // it may be an input twice
        }
      }
    }
  });

  logits_ = recording.place_of(logits);
  const auto* const begin = static_cast<char*>(logits_);
  const auto* const end = begin + logits.nbytes();
  for (const auto& [name, node] : recording.nodes) {
    if (name == unpack_name) {
      Patch<UnpackArgs> patch(node);
      if (patch.args().advance.count > 0) {
        ids_ = std::move(patch);
      }
    } else if (name == gemv_name) {
      Patch<GemvArgs> patch(node);
      const auto* const y = static_cast<const char*>(patch.args().y);
      if (y >= begin && y < end) {
        outputs_.push_back(std::move(patch));
      }
    }
  }
  if (!ids_ || outputs_.empty()) {
    throw Error("CUDA: a recorded step has no tokens or no logits");
  }
  if (const auto program = make_program(recording.nodes)) {
    record_persistent(*program);
  }
}

// Layers hold the periods of their rotations each for itself, most often the
// same ones: what the first layer has, if that is so.
class SharedPeriods {
 public:
  const float* operator()(const float* periods, int head_dim) {
    std::vector<float> values(static_cast<std::size_t>(head_dim / 2));
    check(
        cudaMemcpy(
            values.data(),
            periods,
            values.size() * sizeof(float),
            cudaMemcpyDefault),
        "periods");
    if (first_ == nullptr) {
      first_ = periods;
      values_ = values;
    }
    return values == values_ ? first_ : periods;
  }

 private:
  const float* first_ = nullptr;
  std::vector<float> values_;
};

// The recorded launches as phases of one kernel, where it can do all of them.
std::optional<StepProgram> Recorded::make_program(const RecordedNodes& nodes) {
  if (form_.num_sequences != 1 || !runtime_->launcher.has_warpgroups) {
    return std::nullopt;
  }
  std::vector<StepLaunch> launches;
  SharedPeriods shared_periods;
  for (const auto& [name, node] : nodes) {
    if (name == gemv_name) {
      launches.emplace_back(Patch<GemvArgs>(node).args());
    } else if (name == attention_name) {
      DecodeAttentionArgs args = Patch<DecodeAttentionArgs>(node).args();
      args.periods = shared_periods(args.periods, args.head_dim);
      launches.emplace_back(AttentionLaunch{args});
    } else if (name == route_name) {
      launches.emplace_back(Patch<RouteArgs, 0>(node).args());
    } else if (name == weighted_sum_name) {
      launches.emplace_back(Patch<WeightedSumArgs, 0>(node).args());
    } else if (name != unpack_name || &nodes.front().second != &node) {
      return std::nullopt;
    }
  }
  const auto program = StepProgram::make(
      launches, logits_, runtime_->launcher.num_sms, [&](std::size_t n_bytes) {
        void* const memory = lasting_.take(n_bytes);
        check(cudaMemset(memory, 0, n_bytes), "words");
        return memory;
      });
  return program && supports_persistent_step(runtime_->launcher, *program)
      ? program
      : std::nullopt;
}

void Recorded::record_persistent(const StepProgram& program) {
  PersistentStepArgs args = upload(
      program, [&](std::size_t n_bytes) { return lasting_.take(n_bytes); });
  args.sequences = table_;
  args.offset = offsets_;
  args.logits = logits_;
  const UnpackArgs ids = ids_->args();
  const Stream stream;
  RecordedNodes nodes;
  Launcher launcher = runtime_->launcher;
  launcher.stream = stream.get();
  launcher.recorded = &nodes;
  auto executable = std::make_unique<Executable>();
  executable->capture(stream.get(), [&] {
    gather_rows(
        launcher,
        ids.layout,
        ids.from,
        ids.ids,
        1,
        ids.type,
        ids.to,
        ids.advance);
    persistent_step(launcher, program, args);
  });
  ids_.emplace(nodes.at(0).second);
  persistent_.emplace(nodes.at(1).second);
  outputs_.clear();
  executable_ = std::move(executable);
}

// From pinned memory: a copy from elsewhere waits for all that runs.
template <class T>
void Recorded::send(
    mx::Stream of,
    cudaStream_t stream,
    const std::vector<T>& values,
    T* to) const {
  const auto bytes = std::as_bytes(std::span(values));
  const auto staged = pinned_copy(runtime_->pool, bytes);
  check(
      cudaMemcpyAsync(
          to,
          device_pointer(staged),
          bytes.size(),
          cudaMemcpyHostToDevice,
          stream),
      "step's table");
  keep_until_done(of, staged);
}

void Recorded::update_table(
    mx::Stream of,
    cudaStream_t stream,
    const StepCaches& caches) {
  const auto n = static_cast<std::size_t>(form_.num_sequences);
  std::vector<DecodeSequence> table;
  table.reserve(num_layers_ * n);
  for (const auto& segment : caches.segments) {
    append_sequences(
        segment.keys,
        segment.values,
        segment.scales,
        /* offset, which is read elsewhere */ 0,
        table);
  }
  if (table.size() != num_layers_ * n || caches.offsets.size() != n) {
    throw Error("CUDA: a step's caches are not those of the recorded one");
  }
  if (table != at_table_) {
    send(of, stream, table, table_);
    at_table_ = std::move(table);
  }
  // What the kernels read is one more.
  std::vector<int> before = caches.offsets;
  for (int& offset : before) {
    --offset;
  }
  if (before != at_offsets_) {
    send(of, stream, before, offsets_);
    at_offsets_ = std::move(before);
  }
}

class StepPrimitive final : public mx::UnaryPrimitive {
 public:
  StepPrimitive(std::shared_ptr<Recorded> graph, StepCaches caches)
      : UnaryPrimitive(mx::default_stream(mx::Device::gpu)),
        graph_(std::move(graph)),
        caches_(std::make_shared<StepCaches>(std::move(caches))) {}

  void eval_cpu(const std::vector<mx::array>&, mx::array&) override {
    throw InvalidArgument("a kernel of the GPU was asked to run on the CPU");
  }

  // tokens, then whatever must have run before
  void eval_gpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    graph_->allocate_output(out);
    graph_->run(
        stream(),
        static_cast<const std::uint32_t*>(device_pointer(inputs[0])),
        device_pointer(out),
        *caches_);
    keep_until_done(stream(), caches_);
    caches_.reset();
  }

  const char* name() const override {
    return "CudaStep";
  }

 private:
  std::shared_ptr<Recorded> graph_;
  std::shared_ptr<StepCaches> caches_;
};

mx::array Recorded::replay(const mx::array& tokens, StepCaches caches) {
  std::vector<mx::array> inputs{dense(
      tokens.dtype() == mx::uint32 ? tokens : mx::astype(tokens, mx::uint32))};
  const auto add = [&](const mx::array& array) {
    if (array.status() == mx::array::Status::unscheduled) {
      inputs.push_back(array);
    }
  };
  for (const auto& segment : caches.segments) {
    add(segment.keys);
    add(segment.values);
    std::ranges::for_each(segment.scales, add);
  }
  std::ranges::for_each(caches.after, add);
  caches.after.clear();
  return {
      shape_,
      dtype_,
      std::make_shared<StepPrimitive>(shared_from_this(), std::move(caches)),
      std::move(inputs)};
}

} // namespace

int step_splits(int length) {
  return std::max(
      kMinSplits,
      static_cast<int>(
          std::bit_ceil(static_cast<unsigned>(splits_of(length)))));
}

std::shared_ptr<StepGraph> StepGraph::record(
    const mx::array& tokens,
    const mx::array& logits,
    const StepForm& form) {
  const Walk walk(tokens, logits);
  if (!walk.is_recordable() || walk.steps().empty()) {
    return nullptr;
  }
  const auto& last =
      static_cast<CudaPrimitive&>(walk.steps().back().primitive());
  return std::make_shared<Recorded>(walk, logits, form, last.runtime());
}

} // namespace qwen3_mlx::cuda
