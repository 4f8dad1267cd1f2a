// SPDX-License-Identifier: MIT
// One kernel for all layers of a decode step of one sequence.
#pragma once

#include "kernels/cuda/step_program.h"

namespace qwen3_mlx::cuda {

/// What the kernel takes first; a recorded launch is given another place for
/// the logits through it. All pointers are to the GPU's memory.
struct PersistentStepArgs {
  const StepPhase* phases = nullptr;
  const StepShape* shapes = nullptr;
  const StepWeight* weights = nullptr;
  StepAttention attention;
  StepRouting routing;
  /// Of each shape, the first of its pairs of a block of threads.
  int first_pair_sums[kMaxStepShapes] = {};
  int num_phases = 0;
  int num_shapes = 0;
  int num_weights = 0;
  int num_layers = 0;
  int hidden_size = 0;
  /// Of the one sequence, layer by layer, and its positions held.
  const DecodeSequence* sequences = nullptr;
  const int* offset = nullptr;
  unsigned* num_steps = nullptr; ///< Run so far; the kernel counts.
  void* logits = nullptr;
};
inline constexpr const char* persistent_name = "persistent";

/// Whether the GPU and its shared memory suit the program.
bool supports_persistent_step(
    const Launcher& launcher,
    const StepProgram& program);

/// The program in the GPU's memory, of which `take` gives so many bytes;
/// without sequences, offset and logits.
PersistentStepArgs upload(
    const StepProgram& program,
    const std::function<void*(std::size_t)>& take);

/// Runs the program, whose parts `args` names.
void persistent_step(
    const Launcher& launcher,
    const StepProgram& program,
    const PersistentStepArgs& args);

} // namespace qwen3_mlx::cuda
