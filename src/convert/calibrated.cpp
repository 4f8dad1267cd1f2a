// SPDX-License-Identifier: MIT
#include "convert/calibrated.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <utility>

#include "convert/recipe.h"
#include "convert/work.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

constexpr std::array<int, 6> widths{2, 3, 4, 5, 6, 8};

// What GPTQ's authors use; less, and rows that few inputs reach go astray.
constexpr double layer_damping = 0.01;
// A tied table of embeddings is the head and is looked up: errors of its rows
// count for themselves, too.
constexpr double tied_damping = 0.1;

/// One matrix, and what each width does to its outputs.
struct Candidate {
  std::string module;
  QuantFormat format;
  std::uint64_t n_elements = 0;
  int scale_bits = 0; ///< Of a scale, and of a bias.
  /// Error / energy of the outputs, by index into `widths`.
  std::array<double, widths.size()> errors{};
  std::size_t width_idx = 0;

  double gain() const {
    const auto bits = widths[width_idx + 1] - widths[width_idx];
    return (errors[width_idx] - errors[width_idx + 1]) /
        (static_cast<double>(bits) * static_cast<double>(n_elements));
  }
};

std::vector<float> diagonal_of(const mx::array& moment) {
  const auto cpu = mx::Device(mx::Device::cpu);
  auto diagonal =
      mx::contiguous(mx::diagonal(moment, 0, 0, 1, cpu), false, cpu);
  mx::eval(diagonal);
  return {diagonal.data<float>(), diagonal.data<float>() + diagonal.size()};
}

/// Errors on a sample of rows, each number's weighed by its input.
void measure(
    Candidate& candidate,
    const StoredMatrix& matrix,
    const std::vector<float>& costs,
    DType dtype) {
  constexpr std::uint64_t max_rows = 48;
  const auto columns = static_cast<std::size_t>(matrix.n_columns());
  const auto group_size = static_cast<std::size_t>(candidate.format.group_size);
  const auto n_rows = matrix.n_rows();
  const auto step = std::max<std::uint64_t>(1, n_rows / max_rows);
  std::vector<float> row(columns);
  std::vector<std::byte> scratch;
  double energy = 1e-30;
  for (std::uint64_t idx = 0; idx < n_rows; idx += step) {
    matrix.read_rows(idx, 1, row.data(), scratch);
    for (std::size_t at = 0; at < columns; at += group_size) {
      const auto values = std::span<const float>(row).subspan(at, group_size);
      const auto weights = std::span(costs).subspan(at, group_size);
      for (std::size_t number = 0; number < group_size; ++number) {
        energy += double{weights[number]} * values[number] * values[number];
      }
      for (std::size_t width = 0; width < widths.size(); ++width) {
        const auto group = search_group(values, weights, widths[width], dtype);
        candidate.errors[width] +=
            group_error(values, weights, widths[width], group);
      }
    }
  }
  for (auto& error : candidate.errors) {
    error /= energy;
  }
}

/// Gives bits to those that gain most by them, until the mean is reached.
void spend(std::vector<Candidate>& candidates, double target) {
  double budget = 0;
  for (auto& candidate : candidates) {
    const double overhead = 2.0 * candidate.scale_bits /
        static_cast<double>(candidate.format.group_size);
    budget += static_cast<double>(candidate.n_elements) *
        (target - overhead - widths.front());
  }
  if (budget < 0) {
    throw InvalidArgument(
        "--target-bits: too few; 2 bits and the scales of their groups take "
        "more");
  }
  const auto less = [&](std::size_t a, std::size_t b) {
    return candidates[a].gain() < candidates[b].gain();
  };
  std::priority_queue<std::size_t, std::vector<std::size_t>, decltype(less)>
      queue(less);
  for (std::size_t idx = 0; idx < candidates.size(); ++idx) {
    queue.push(idx);
  }
  while (!queue.empty()) {
    const auto idx = queue.top();
    queue.pop();
    auto& candidate = candidates[idx];
    const auto bits =
        widths[candidate.width_idx + 1] - widths[candidate.width_idx];
    const double price =
        static_cast<double>(bits) * static_cast<double>(candidate.n_elements);
    if (price > budget) {
      continue; // a smaller matrix may still fit
    }
    budget -= price;
    ++candidate.width_idx;
    if (candidate.width_idx + 1 < widths.size()) {
      queue.push(idx);
    }
  }
}

/// The feedback of each moment, computed once for the modules that share it.
class Feedbacks {
 public:
  std::shared_ptr<const ErrorFeedback>
  get(const std::string& module, const mx::array& moment) {
    auto& feedback = by_moment_[moment.id()];
    if (feedback == nullptr) {
      const bool is_tied = module == "model.embed_tokens";
      feedback = std::make_shared<const ErrorFeedback>(
          moment, is_tied ? tied_damping : layer_damping);
    }
    return feedback;
  }

 private:
  std::map<std::uintptr_t, std::shared_ptr<const ErrorFeedback>> by_moment_;
};

} // namespace

void check_calibration(const ConvertOptions& options) {
  if (!options.quantize || options.quantize->mode != QuantMode::affine) {
    throw InvalidArgument("calibration needs affine quantization");
  }
  const auto& calibration = *options.calibration;
  if (calibration.sequence_length < 2 || calibration.max_tokens < 2) {
    throw InvalidArgument("calibration needs sequences of 2 tokens or more");
  }
  if (calibration.target_bits && options.recipe != MixedRecipe::none) {
    throw InvalidArgument(
        "a mixed recipe and --target-bits both say how many bits a matrix "
        "gets; use one");
  }
}

std::vector<ModuleRule> allocate_bits(
    const Checkpoint& checkpoint,
    const ModelArgs& args,
    const ConvertOptions& options,
    const DTypeOf& dtype_of,
    CalibrationRun& run) {
  const Recipe recipe(options, args);
  std::vector<Candidate> candidates;
  const auto add = [&](const InputMoments& moments) {
    for (const auto& [module, moment] : moments) {
      if (checkpoint.find(module + ".weight") == nullptr) {
        continue;
      }
      const StoredMatrix matrix(checkpoint, args.quantization, module);
      const auto format = recipe.format(module, matrix.shape().back());
      if (format != *options.quantize) {
        continue; // someone said what it gets
      }
      Candidate candidate{
          .module = module,
          .format = format,
          .n_elements = matrix.n_rows() * matrix.n_columns()};
      const auto dtype = dtype_of(module, matrix);
      candidate.scale_bits = static_cast<int>(dtype_bits(dtype));
      measure(candidate, matrix, diagonal_of(moment), dtype);
      candidates.push_back(std::move(candidate));
    }
  };
  for (int layer = 0; layer < run.n_layers(); ++layer) {
    add(run.next_layer());
  }
  add(run.head());
  run.rewind();

  spend(candidates, *options.calibration->target_bits);
  std::vector<ModuleRule> rules;
  for (auto& candidate : candidates) {
    candidate.format.bits = widths[candidate.width_idx];
    rules.push_back({candidate.module, candidate.format});
  }
  return rules;
}

void run_calibrated(
    std::vector<TensorJob>& jobs,
    CalibrationRun& run,
    int n_threads,
    const ConvertProgress& progress) {
  std::map<std::string, TensorJob*> waiting;
  std::vector<const TensorJob*> others;
  std::uint64_t total = 0;
  std::uint64_t before = 0;
  for (auto& job : jobs) {
    total += job.source().n_bytes();
    if (job.quantized_module().empty()) {
      others.push_back(&job);
    } else {
      waiting[job.quantized_module()] = &job;
    }
  }
  const auto run_jobs = [&](const std::vector<const TensorJob*>& part) {
    Work<TensorJob>(part, [&](std::uint64_t done, std::uint64_t) {
      if (progress) {
        progress(before + done, total);
      }
    }).run(n_threads);
    for (const auto* job : part) {
      before += job->source().n_bytes();
    }
  };
  const auto run_moments = [&](const InputMoments& moments) {
    Feedbacks feedbacks;
    std::vector<TensorJob*> ready;
    for (const auto& [module, moment] : moments) {
      const auto found = waiting.find(module);
      if (found != waiting.end()) {
        found->second->calibrate(feedbacks.get(module, moment));
        ready.push_back(found->second);
        waiting.erase(found);
      }
    }
    run_jobs({ready.begin(), ready.end()});
    for (auto* job : ready) {
      job->calibrate(nullptr); // its memory
    }
  };
  for (int layer = 0; layer < run.n_layers(); ++layer) {
    run_moments(run.next_layer());
  }
  run_moments(run.head());
  for (const auto& [module, job] : waiting) {
    others.push_back(job);
  }
  run_jobs(others);
}

} // namespace qwen3_mlx
