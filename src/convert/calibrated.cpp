// SPDX-License-Identifier: MIT
#include "convert/calibrated.h"

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "convert/work.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

// What GPTQ's authors use; less, and rows that few inputs reach go astray.
constexpr double layer_damping = 0.01;
// A tied table of embeddings is the head and is looked up: errors of its rows
// count for themselves, too.
constexpr double tied_damping = 0.1;

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
