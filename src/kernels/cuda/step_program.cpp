// SPDX-License-Identifier: MIT
#include "kernels/cuda/step_program.h"

#include <algorithm>
#include <map>
#include <span>
#include <tuple>
#include <unordered_map>

namespace qwen3_mlx::cuda {

namespace {

class Translation {
 public:
  Translation(
      const void* logits,
      int num_blocks,
      const std::function<void*(std::size_t)>& take)
      : logits_(logits), take_(take) {
    program_.num_blocks = num_blocks;
  }

  // Adds what the first of these launches begins; the number of launches that
  // were taken, 0 for none.
  std::size_t add(std::span<const StepLaunch> launches) {
    if (const auto* const attention =
            std::get_if<AttentionLaunch>(&launches.front())) {
      return add(*attention) ? 1 : 0;
    }
    if (const auto layer = SparseLayer::at(launches)) {
      return add(*layer) ? SparseLayer::kLaunches : 0;
    }
    const auto* const product = std::get_if<GemvArgs>(&launches.front());
    return product != nullptr && add(*product) ? 1 : 0;
  }

  std::optional<StepProgram> finish() {
    const auto& phases = program_.phases;
    if (program_.num_layers == 0 || phases.back().is_attention ||
        phases.back().out != nullptr || num_logits_ != 1) {
      return std::nullopt;
    }
    return std::move(program_);
  }

 private:
  // What is kept apart from words of as many of a product.
  static constexpr int kAttention = -1;

  // What lies at an address of the recording.
  struct Value {
    StepOutput kind;
    int phase;
    const FlaggedWord* words;
  };

  // Experts of one token: who chooses them, their matrices, and their sum.
  struct SparseLayer {
    static constexpr std::size_t kLaunches = 5;
    GemvArgs router;
    RouteArgs route;
    GemvArgs gate_up;
    GemvArgs down;
    WeightedSumArgs sum;

    static std::optional<SparseLayer> at(std::span<const StepLaunch> launches) {
      if (launches.size() < kLaunches ||
          !std::holds_alternative<RouteArgs>(launches[1])) {
        return std::nullopt;
      }
      const auto* const router = std::get_if<GemvArgs>(&launches[0]);
      const auto* const gate_up = std::get_if<GemvArgs>(&launches[2]);
      const auto* const down = std::get_if<GemvArgs>(&launches[3]);
      const auto* const sum = std::get_if<WeightedSumArgs>(&launches[4]);
      if (router == nullptr || gate_up == nullptr || down == nullptr ||
          sum == nullptr) {
        return std::nullopt;
      }
      return SparseLayer{
          *router, std::get<RouteArgs>(launches[1]), *gate_up, *down, *sum};
    }

    // Whether each takes what the one before it gives.
    bool is_one_token() const {
      const int k = route.k;
      return route.logits == router.y && gate_up.experts == route.experts &&
          down.experts == route.experts && down.x == gate_up.y &&
          sum.parts == down.y && sum.weights == route.weights &&
          router.num_rows == 1 && gate_up.num_rows == k &&
          gate_up.rows_per_x == k && down.num_rows == k &&
          down.rows_per_x == 1 && sum.k == k && gate_up.x == router.x &&
          gate_up.norm == router.norm && gate_up.norm_eps == router.norm_eps &&
          gate_up.gated && gate_up.bias == nullptr && down.norm == nullptr &&
          down.bias == nullptr && down.residual == nullptr && !down.gated;
    }
  };

  bool add(const GemvArgs& args) {
    if (args.num_rows != 1 || args.experts != nullptr || !takes(args)) {
      return false;
    }
    StepPhase phase;
    phase.weight = args.weight;
    phase.bias = args.bias;
    if (args.norm != nullptr ? !read_stream(args, phase)
                             : !read(args.x, StepOutput::gated, phase)) {
      return false;
    }
    StepShape shape{args.layout.rows, args.layout.cols};
    shape.output = args.gated      ? StepOutput::gated
        : args.residual != nullptr ? StepOutput::parts
        : args.y == logits_        ? StepOutput::logits
                                   : StepOutput::plain;
    num_logits_ += shape.output == StepOutput::logits ? 1 : 0;
    if (shape.output == StepOutput::parts && args.bias != nullptr) {
      return false;
    }
    return add_product(shape, args.residual, args.y, phase);
  }

  bool add(const SparseLayer& layer) {
    const int k = layer.route.k;
    const auto& router = layer.router.layout;
    StepRouting routing{
        .num_experts = layer.route.num_experts,
        .num_chosen = k,
        .normalize = layer.route.normalize,
        .router = router};
    if (!takes(layer.gate_up) || !takes(layer.down) || !layer.is_one_token() ||
        layer.router.norm == nullptr || layer.router.bias != nullptr ||
        layer.router.type != Float::bf16 || router.type != Float::bf16 ||
        router.cols % kBlockCols != 0 || router.rows != routing.num_experts ||
        routing.num_experts > kMaxStepExperts || k > kMaxStepChosen ||
        k > routing.num_experts || router.row_blocks() > program_.num_blocks) {
      return false;
    }
    if (program_.routing.num_experts == 0) {
      routing.words = static_cast<FlaggedWord*>(take_(
          sizeof(FlaggedWord) * static_cast<std::size_t>(routing.num_experts)));
      program_.routing = routing;
    }
    routing.words = program_.routing.words;
    if (routing != program_.routing) {
      return false;
    }

    StepPhase gate_up;
    gate_up.weight = layer.gate_up.weight;
    gate_up.router = layer.router.weight;
    if (!read_stream(layer.gate_up, gate_up)) {
      return false;
    }
    const auto shape_of = [&](const PackedLayout& layout) {
      return StepShape{
          .rows = layout.rows,
          .cols = layout.cols,
          .num_chosen = k,
          .expert_bytes = layout.n_bytes()};
    };
    StepShape shape = shape_of(layer.gate_up.layout);
    shape.rows *= k;
    shape.output = StepOutput::gated;
    if (!add_product(shape, nullptr, layer.gate_up.y, gate_up)) {
      return false;
    }
    StepPhase down;
    down.weight = layer.down.weight;
    if (!read(layer.down.x, StepOutput::gated, down)) {
      return false;
    }
    shape = shape_of(layer.down.layout);
    shape.cols *= k;
    shape.output = StepOutput::parts;
    return add_product(shape, layer.sum.residual, layer.sum.out, down);
  }

  // The phase with that product, which adds to `residual` if it has parts.
  bool add_product(
      StepShape shape,
      const void* residual,
      const void* y,
      StepPhase& phase) {
    set_shares(shape);
    // Numbers of parts and slots are bytes of PairSums.
    if (shape.num_parts > 127 || shape.slots > 255) {
      return false;
    }
    const auto found = std::ranges::find(program_.shapes, shape);
    phase.shape = static_cast<int>(found - program_.shapes.begin());
    if (found == program_.shapes.end()) {
      if (phase.shape == kMaxStepShapes) {
        return false;
      }
      program_.shapes.push_back(shape);
      program_.first_pair_sums[static_cast<std::size_t>(phase.shape)] =
          program_.num_pair_sums;
      program_.num_pair_sums +=
          (shape.num_pairs() + program_.num_blocks - 1) / program_.num_blocks +
          2; // rows that are cut
    }
    switch (shape.output) {
    case StepOutput::plain:
    case StepOutput::gated:
      phase.out = write(
          y,
          shape.output,
          shape.is_gated() ? shape.rows / 4 : shape.part_length());
      break;
    case StepOutput::parts:
      if (residual != stream_ || parts_ != 0) {
        return false;
      }
      phase.out = write(
          y,
          shape.output,
          shape.part_length() * shape.num_parts / 2,
          shape.cols);
      stream_ = y;
      parts_ = shape.num_parts;
      break;
    case StepOutput::logits:
      break;
    }
    program_.weights.push_back({phase.weight, phase.shape});
    program_.phases.push_back(phase);
    return true;
  }

  bool add(const AttentionLaunch& launch) {
    const auto& args = launch.args;
    const int group = args.num_heads / args.num_kv_heads;
    StepPhase phase;
    StepAttention common{
        .num_heads = args.num_heads,
        .num_kv_heads = args.num_kv_heads,
        .head_dim = args.head_dim,
        .window = args.window,
        .scale = args.scale,
        .periods = args.periods};
    if (program_.num_layers == 0) {
      common.workspace = static_cast<FlaggedWord*>(take_(
          sizeof(FlaggedWord) *
          static_cast<std::size_t>(
              kMaxStepSplits * args.num_heads * (args.head_dim + 2))));
      program_.attention = common;
    }
    common.workspace = program_.attention.workspace;
    if (args.type != Float::bf16 || args.kv.is_quantized() ||
        group > kBlockRows || args.num_kv_heads > program_.num_blocks ||
        common != program_.attention ||
        !read(args.qkv, StepOutput::plain, phase)) {
      return false;
    }
    phase.is_attention = true;
    phase.layer = program_.num_layers++;
    phase.q_norm = args.q_norm;
    phase.k_norm = args.k_norm;
    phase.norm_eps = args.norm_eps;
    // As what is gated: two elements a word.
    phase.out = write(
        args.out,
        StepOutput::gated,
        args.num_heads * args.head_dim / 2,
        kAttention);
    program_.phases.push_back(phase);
    return true;
  }

  bool takes(const GemvArgs& args) {
    const auto& layout = args.layout;
    if (program_.phases.empty()) {
      program_.bits = layout.bits;
      program_.group = layout.group;
      program_.hidden_size = layout.cols;
    }
    return args.type == Float::bf16 && layout.type == Float::bf16 &&
        !layout.has_small_floats() && layout.bits == program_.bits &&
        layout.group == program_.group && layout.cols % kBlockCols == 0 &&
        layout.rows % kBlockRows == 0 && (!args.gated || can_gate(layout));
  }

  // How it is shared out.
  void set_shares(StepShape& shape) const {
    if (shape.output == StepOutput::parts) {
      for (int pair = 0; pair < shape.num_pairs(); ++pair) {
        const int first = pair * shape.col_blocks();
        const auto block = [&](int cell) {
          return block_of_cell(shape, cell, program_.num_blocks);
        };
        shape.num_parts = std::max(
            shape.num_parts,
            block(first + shape.col_blocks() - 1) - block(first) + 1);
      }
    }
    int most = 0;
    for (int block = 0; block < program_.num_blocks; ++block) {
      const CellRange cells = cells_of_block(shape, block, program_.num_blocks);
      most = std::max(most, cells.end - cells.begin);
    }
    shape.slots = (most + kStepWarps - 1) / kStepWarps / shape.col_blocks() + 2;
  }

  // The residual stream with what the phase before has to add to it.
  bool read_stream(const GemvArgs& args, StepPhase& phase) {
    if (args.layout.cols != program_.hidden_size) {
      return false;
    }
    phase.norm = args.norm;
    phase.norm_eps = args.norm_eps;
    if (program_.phases.empty()) {
      stream_ = args.x;
      phase.embedding = args.x;
      return true;
    }
    if (args.x != stream_) {
      return false;
    }
    if (parts_ > 0) {
      if (!read(args.x, StepOutput::parts, phase)) {
        return false;
      }
      phase.num_parts = parts_;
      phase.part_length =
          program_
              .shapes[static_cast<std::size_t>(
                  program_.phases[static_cast<std::size_t>(phase.read_phase)]
                      .shape)]
              .part_length();
      parts_ = 0;
    }
    return true;
  }

  bool read(const void* x, StepOutput kind, StepPhase& phase) const {
    const auto found = values_.find(x);
    if (found == values_.end() || found->second.kind != kind) {
      return false;
    }
    phase.in = found->second.words;
    phase.read_phase = found->second.phase;
    return true;
  }

  FlaggedWord* write(const void* y, StepOutput kind, int count, int of = 0) {
    auto* const to = words(static_cast<int>(kind), count, of);
    values_[y] = {kind, static_cast<int>(program_.phases.size()), to};
    return to;
  }

  // Phases of other layers use the same words: whoever writes has read what
  // nobody could give before the last reader had read.
  FlaggedWord* words(int kind, int count, int of) {
    auto& at = words_[{kind, count, of}];
    if (at == nullptr) {
      at = static_cast<FlaggedWord*>(
          take_(static_cast<std::size_t>(count) * sizeof(FlaggedWord)));
    }
    return at;
  }

  const void* logits_;
  const std::function<void*(std::size_t)>& take_;
  std::unordered_map<const void*, Value> values_;
  std::map<std::tuple<int, int, int>, FlaggedWord*> words_;
  const void* stream_ = nullptr;
  int parts_ = 0; // not yet added to the stream
  int num_logits_ = 0;
  StepProgram program_;
};

// Each block of threads must have a share in some product of each layer whose
// output all others wait for, so that none is overtaken by a layer.
int blocks_for(const std::vector<StepLaunch>& launches, int max_blocks) {
  int blocks = 0;
  for (const auto& launch : launches) {
    if (const auto* const args = std::get_if<GemvArgs>(&launch);
        args != nullptr && args->gated) {
      const int pairs = args->layout.row_blocks() / 2 * args->num_rows;
      blocks = blocks == 0 ? pairs : std::min(blocks, pairs);
    }
  }
  return std::min(blocks, max_blocks);
}

} // namespace

std::optional<StepProgram> StepProgram::make(
    const std::vector<StepLaunch>& launches,
    const void* logits,
    int max_blocks,
    const std::function<void*(std::size_t)>& take) {
  const int blocks = blocks_for(launches, max_blocks);
  if (blocks == 0) {
    return std::nullopt;
  }
  Translation translation(logits, blocks, take);
  for (std::span<const StepLaunch> left(launches); !left.empty();) {
    const std::size_t taken = translation.add(left);
    if (taken == 0) {
      return std::nullopt;
    }
    left = left.subspan(taken);
  }
  return translation.finish();
}

} // namespace qwen3_mlx::cuda
