// SPDX-License-Identifier: MIT
// All layers of a decode step of one sequence in one kernel.
//
// One block of threads a multiprocessor stays for the whole step, and goes
// through the phases: products with what is fused with them, and attention.
// What a launch for each phase cannot do: weights of later phases flow into a
// ring in shared memory while blocks wait for their input, read it, and attend.
//
// Blocks do not meet. Each 32 bits that one hands to others carry a number that
// says which phase of which step they belong to; who needs them reads until
// they do. That takes one way through the second cache, where a counter would
// take four (results, arrival, look, results). Rows of products that add to
// the residual stream are cut between blocks, so that each has the same share
// of the bytes; each block keeps the stream for itself, and adds up the parts,
// in their order.
#include <algorithm>

#include "kernels/cuda/persistent_attention.cuh"
#include "kernels/cuda/persistent_experts.cuh"
#include "kernels/cuda/persistent_products.cuh"
#include "kernels/cuda/persistent_step.h"

namespace qwen3_mlx::cuda {

namespace persistent {
namespace {

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// Which warps of this block have a share in its pair of that number.
__device__ __forceinline__ PairSums
sums_of_pair(const OwnShape& own, int pair) {
  const StepShape& shape = own.shape;
  const int col_blocks = shape.col_blocks();
  const int begin = (own.first_pair + pair) * col_blocks;
  PairSums sums{kStepWarps, 0, 0, 0};
#pragma unroll 1
  for (int w = 0; w < kStepWarps; ++w) {
    const CellRange cells = cells_of_warp(own.cells, w);
    if (cells.begin < cells.end && cells.begin < begin + col_blocks &&
        cells.end > begin) {
      if (sums.first == kStepWarps) {
        sums.first = static_cast<unsigned char>(w);
        sums.slot = static_cast<unsigned char>(
            own.first_pair + pair - cells.begin / col_blocks);
      }
      sums.last = static_cast<unsigned char>(w);
    }
  }
  if (shape.output == StepOutput::parts) {
    const int blocks = static_cast<int>(gridDim.x);
    const int block = static_cast<int>(blockIdx.x);
    const bool is_last =
        block_of_cell(shape, begin + col_blocks - 1, blocks) == block;
    sums.part = static_cast<unsigned char>(
        block - block_of_cell(shape, begin, blocks) + (is_last ? 0x80 : 0));
  }
  return sums;
}

#endif

template <int Bits, int Group, int D, bool HasExperts>
__global__ void __launch_bounds__(kThreads, 1) step_kernel(
    const PersistentStepArgs args,
    const int num_stages,
    const int room_bytes) {
#if defined(QWEN3_MLX_HAS_WARPGROUPS)
  using F = Form<Bits, Group>;
  extern __shared__ __align__(128) char shared_bytes[];
  // As bytes: these types have initializers.
  __shared__ __align__(16) char phase_bytes[2 * sizeof(StepPhase)];
  __shared__ __align__(16) char known_bytes[sizeof(Shared)];
  __shared__ __align__(16) char form_bytes[sizeof(StepAttention)];
  __shared__ __align__(16) char split_bytes[sizeof(Split)];
  auto* const phases = reinterpret_cast<StepPhase*>(phase_bytes);
  auto& shared = *reinterpret_cast<Shared*>(known_bytes);
  __shared__ std::uint64_t full[kStepWarps * kMaxStages];
  __shared__ float2 rotations[D / 2];
  constexpr int kPhaseChunks = sizeof(StepPhase) / 16;
  static_assert(sizeof(StepPhase) % 16 == 0);

  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int block = static_cast<int>(blockIdx.x);
  char* const ring = shared_bytes +
      static_cast<std::size_t>(warp * num_stages) * F::kChunkBytes;
  char* const room = shared_bytes +
      static_cast<std::size_t>(kStepWarps * num_stages) * F::kChunkBytes;
  auto* const stream = reinterpret_cast<float*>(room + room_bytes);
  auto* const weights =
      reinterpret_cast<StepWeight*>(stream + args.hidden_size);
  auto* const sequences =
      reinterpret_cast<DecodeSequence*>(weights + args.num_weights);
  auto* const pair_sums =
      reinterpret_cast<PairSums*>(sequences + args.num_layers);
  std::uint64_t* const my_full = full + warp * kMaxStages;

  const int position = *args.offset;

  const auto read_phase = [&](int idx) {
    if (tid < kPhaseChunks) {
      copy_async(
          reinterpret_cast<char*>(phases + idx % 2) + tid * 16,
          reinterpret_cast<const char*>(args.phases + idx) + tid * 16);
    }
    commit_copies();
  };
  if (lane == 0) {
    for (int stage = 0; stage < num_stages; ++stage) {
      init_barrier(my_full + stage, 1);
    }
    publish_barriers();
  }
  read_phase(0);
#pragma unroll 1
  for (int i = tid; i < args.num_weights; i += kThreads) {
    weights[i] = args.weights[i];
  }
#pragma unroll 1
  for (int i = tid; i < args.num_layers; i += kThreads) {
    sequences[i] = args.sequences[i];
  }
  if (tid < args.num_shapes) {
    OwnShape own{.shape = args.shapes[tid]};
    const int col_blocks = own.shape.col_blocks();
    own.cells = cells_of_block(own.shape, block, static_cast<int>(gridDim.x));
    own.first_pair = own.cells.begin / col_blocks;
    own.num_pairs = own.cells.begin == own.cells.end
        ? 0
        : (own.cells.end - 1) / col_blocks - own.first_pair + 1;
    own.pair_sums = args.first_pair_sums[tid];
    own.col_blocks = col_blocks;
    own.run_blocks = own.shape.run_blocks();
    own.matrix_pairs = own.shape.matrix_pairs();
    shared.shapes[tid] = own;
  }
  if (tid < D / 2) {
    const float angle =
        static_cast<float>(position) * (1.0F / args.attention.periods[tid]);
    float2 both;
    sincosf(angle, &both.x, &both.y);
    rotations[tid] = both;
  }
  if (tid == 0) {
    const StepAttention form = args.attention;
    *reinterpret_cast<StepAttention*>(form_bytes) = form;
    *reinterpret_cast<Split*>(split_bytes) = Split(form, position);
  }
  const unsigned num_steps = *args.num_steps;
  // Words begin as zeros, which are of no phase.
  const auto flag_of = [&](int idx) {
    return num_steps * static_cast<unsigned>(args.num_phases) +
        static_cast<unsigned>(idx) + 1;
  };
  wait_for_copies<0>();
  __syncthreads();
  if (tid < args.num_shapes * kStepWarps) {
    const OwnShape& own = shared.shapes[tid / kStepWarps];
    const CellRange cells = cells_of_warp(own.cells, tid % kStepWarps);
    const int pair = cells.begin / own.col_blocks;
    const int col = cells.begin % own.col_blocks;
    shared.of_warp[tid / kStepWarps][tid % kStepWarps] = {
        pair,
        col,
        own.run_blocks - col % own.run_blocks,
        cells.end - cells.begin};
  }
#pragma unroll 1
  for (int idx = 0; idx < args.num_shapes; ++idx) {
    const OwnShape& own = shared.shapes[idx];
    for (int pair = tid; pair < own.num_pairs; pair += kThreads) {
      pair_sums[own.pair_sums + pair] = sums_of_pair(own, pair);
    }
  }
  __syncthreads();
  Fetcher<Bits, Group, HasExperts> fetcher(
      weights,
      args.num_weights,
      shared,
      ring,
      my_full,
      num_stages,
      warp,
      lane == 0);
  fetcher.fill();

  int stage = 0;
  unsigned parity = 0;
#pragma unroll 1
  for (int idx = 0; idx < args.num_phases; ++idx) {
    const StepPhase& phase = phases[idx % 2];
    // The other place is free: all threads have left its phase behind.
    if (idx + 1 < args.num_phases) {
      read_phase(idx + 1);
    }
    const unsigned read_flag = flag_of(phase.read_phase);
    if (phase.is_attention) {
      attend<D>(
          phase,
          *reinterpret_cast<const StepAttention*>(form_bytes),
          sequences[phase.layer],
          *reinterpret_cast<const Split*>(split_bytes),
          rotations,
          read_flag,
          flag_of(idx),
          room);
    } else {
      const OwnShape& own = shared.shapes[phase.shape];
      const int cols = own.shape.cols;
      const ProductRoom product(
          room, cols * F::kOperandBytes, cols / kBlockCols * F::kGroups);
      if (phase.norm != nullptr) {
        if constexpr (HasExperts) {
          if (phase.router != nullptr) {
            fetch_router(args.routing, phase, product.behind(own.shape));
          }
        }
        // Also by blocks without a share: the stream goes on.
        read_stream<Bits, Group>(
            phase, cols, read_flag, stream, shared.squares, product);
        if constexpr (HasExperts) {
          if (phase.router != nullptr) {
            choose_experts<Bits, Group>(
                args.routing,
                product,
                product.behind(own.shape),
                flag_of(idx),
                shared.chosen);
            fetcher.let_pass(2);
          }
        }
      } else if (own.num_pairs > 0) {
        read_elements<Bits, Group, HasExperts>(
            phase, own, shared.chosen, read_flag, product);
      }
      multiply_cells<Bits, Group, HasExperts>(
          own,
          shared.of_warp[phase.shape][warp],
          product,
          ring,
          my_full,
          num_stages,
          stage,
          parity,
          fetcher);
      __syncthreads();
      finish_product(phase, own, pair_sums, product, flag_of(idx), args.logits);
    }
    wait_for_copies<0>();
    __syncthreads();
  }
  // All blocks have begun, for this one has read what each of them wrote.
  if (block == 0 && tid == 0) {
    *args.num_steps = num_steps + 1;
  }
#endif
}

template <int Bits, int Group, int D, bool HasExperts>
struct Instance {
  using F = Form<Bits, Group>;

  static std::size_t room_bytes(const StepProgram& program) {
    std::size_t most = attention_bytes<D>();
    for (const auto& shape : program.shapes) {
      const auto cols = static_cast<std::size_t>(shape.cols);
      std::size_t needed = cols * F::kOperandBytes +
          cols / kBlockCols * F::kGroups * sizeof(OperandGroup) +
          sizeof(float) *
              static_cast<std::size_t>(kStepWarps * shape.slots * kPairRows);
      if (HasExperts && shape.is_chosen() && shape.is_gated()) {
        needed += router_bytes(program.routing);
      }
      most = std::max(most, needed);
    }
    return (most + 127) / 128 * 128;
  }

  // The room, the residual stream, weights, sequences, and PairSums.
  static std::size_t needed_bytes(const StepProgram& program) {
    return room_bytes(program) +
        static_cast<std::size_t>(program.hidden_size) * sizeof(float) +
        program.weights.size() * sizeof(StepWeight) +
        static_cast<std::size_t>(program.num_layers) * sizeof(DecodeSequence) +
        static_cast<std::size_t>(program.num_pair_sums) * sizeof(PairSums);
  }

  static int stages(const Launcher& launcher, const StepProgram& program) {
    // What the kernel declares, and a little that the system keeps.
    constexpr std::size_t kFixed = 2 * sizeof(StepPhase) +
        sizeof(std::uint64_t) * kStepWarps * kMaxStages + 3584;
    const std::size_t needed = needed_bytes(program) + kFixed;
    const auto limit = static_cast<std::size_t>(launcher.shared_bytes);
    return needed >= limit
        ? 0
        : std::min(
              kMaxStages,
              static_cast<int>(
                  (limit - needed) / (kStepWarps * F::kChunkBytes)));
  }

  static void start(
      const Launcher& launcher,
      const StepProgram& program,
      const PersistentStepArgs& args) {
    const int num_stages = stages(launcher, program);
    launch_as(
        Start::together,
        launcher,
        persistent_name,
        step_kernel<Bits, Group, D, HasExperts>,
        dim3(static_cast<unsigned>(program.num_blocks)),
        kThreads,
        static_cast<std::size_t>(kStepWarps * num_stages) * F::kChunkBytes +
            needed_bytes(program),
        args,
        num_stages,
        static_cast<int>(room_bytes(program)));
  }
};

// Calls `with` for the instance that the program needs, if there is one.
template <class With>
bool with_instance(const StepProgram& program, const With& with) {
  const auto with_dim = [&]<int Bits, int Group, int D>() {
    if (program.routing.num_experts == 0) {
      with.template operator()<Instance<Bits, Group, D, false>>();
      return true;
    }
    if constexpr (Bits != 16) {
      with.template operator()<Instance<Bits, Group, D, true>>();
      return true;
    }
    return false;
  };
  const auto with_group = [&]<int Bits, int Group>() {
    switch (program.attention.head_dim) {
    case 64:
      return with_dim.template operator()<Bits, Group, 64>();
    case 128:
      return with_dim.template operator()<Bits, Group, 128>();
    default:
      return false;
    }
  };
  if (program.bits == 4 && program.group == 64) {
    return with_group.template operator()<4, 64>();
  }
  if (program.bits == 4 && program.group == 32) {
    return with_group.template operator()<4, 32>();
  }
  if (program.bits == 8 && program.group == 64) {
    return with_group.template operator()<8, 64>();
  }
  if (program.bits == 16) {
    return with_group.template operator()<16, 0>();
  }
  return false;
}

} // namespace
} // namespace persistent

bool supports_persistent_step(
    const Launcher& launcher,
    const StepProgram& program) {
  // Elements of larger matrices keep the memory busy in either way, and a
  // launch for each phase reads them 3 % faster.
  constexpr int kMostPlainHidden = 1024;
  if (program.bits == 16 && program.hidden_size > kMostPlainHidden) {
    return false;
  }
  bool supports = false;
  return launcher.has_warpgroups &&
      persistent::with_instance(
             program,
             [&]<class Instance>() {
               supports = Instance::stages(launcher, program) >= 2;
             }) &&
      supports;
}

PersistentStepArgs upload(
    const StepProgram& program,
    const std::function<void*(std::size_t)>& take) {
  const auto put = [&]<class T>(const std::vector<T>& values) {
    const std::size_t n_bytes = values.size() * sizeof(T);
    void* const to = take(n_bytes);
    check(
        cudaMemcpy(to, values.data(), n_bytes, cudaMemcpyHostToDevice),
        "phases");
    return static_cast<const T*>(to);
  };
  PersistentStepArgs args{
      .phases = put(program.phases),
      .shapes = put(program.shapes),
      .weights = put(program.weights),
      .attention = program.attention,
      .routing = program.routing,
      .num_phases = static_cast<int>(program.phases.size()),
      .num_shapes = static_cast<int>(program.shapes.size()),
      .num_weights = static_cast<int>(program.weights.size()),
      .num_layers = program.num_layers,
      .hidden_size = program.hidden_size,
      .num_steps = static_cast<unsigned*>(take(sizeof(unsigned)))};
  check(cudaMemset(args.num_steps, 0, sizeof(unsigned)), "phases");
  std::ranges::copy(program.first_pair_sums, args.first_pair_sums);
  return args;
}

void persistent_step(
    const Launcher& launcher,
    const StepProgram& program,
    const PersistentStepArgs& args) {
  persistent::with_instance(program, [&]<class Instance>() {
    Instance::start(launcher, program, args);
  });
}

} // namespace qwen3_mlx::cuda
