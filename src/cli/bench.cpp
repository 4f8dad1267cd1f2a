// SPDX-License-Identifier: MIT
// qwen3-mlx bench: speed and memory of a checkpoint, or of random weights of
// its shape. Options and trials are mlx_lm.benchmark's.

#include <mlx/memory.h>

#include <iostream>
#include <memory>
#include <utility>

#include "cli/bench_trial.h"
#include "cli/cache_options.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/model_options.h"
#include "cli/numbers.h"
#include "cli/random_options.h"
#include "cli/system_info.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/text_model.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* examples =
    "\nOne warm-up and then --num-trials runs of random token ids; the prompt\n"
    "time is that of the first token. With --random no weights are needed:\n"
    "--model is then a folder with a config.json, or that file.\n"
    "\nExamples:\n"
    "  qwen3-mlx bench --model DIR -p 512 -g 128\n"
    "  qwen3-mlx bench --model config.json --random --q-bits 4 --json";

struct BenchCommand {
  ModelOptions model;
  RandomOptions random;
  KvOptions kv;
  BenchShape shape;
  int num_trials = 5;
  bool json = false;
};

Json to_json(const BenchTrial& trial) {
  return {
      {"prompt_tps", trial.prompt_tps},
      {"generation_tps", trial.generation_tps},
      {"time_to_first_token_seconds", trial.time_to_first_token},
      {"peak_memory_bytes", trial.peak_memory_bytes}};
}

void add_row(Table& table, const std::string& name, const BenchTrial& trial) {
  table.add(
      {name,
       fixed(trial.prompt_tps, 2),
       fixed(trial.generation_tps, 2),
       fixed(trial.time_to_first_token * 1e3, 1),
       fixed(static_cast<double>(trial.peak_memory_bytes) / 1e9, 3)});
}

void print_json(
    const BenchCommand& options,
    const Model& model,
    std::size_t weight_bytes,
    const std::vector<BenchTrial>& trials) {
  Json object{
      {"model", options.model.name},
      {"model_type", model.args().model_type},
      {"random", options.random.random},
      {"device", model.device() == mx::Device::cpu ? "cpu" : "gpu"},
      {"kernels", options.model.kernels},
      {"prompt_tokens", options.shape.prompt_tokens},
      {"generation_tokens", options.shape.generation_tokens},
      {"batch_size", options.shape.batch_size},
      {"kv_bits", options.kv.kv_bits.value_or(0)},
      {"weight_bytes", weight_bytes},
      {"max_resident_bytes", max_resident_bytes()},
      {"trials", Json::array()},
      {"average", to_json(average(trials))}};
  for (const auto& trial : trials) {
    object["trials"].push_back(to_json(trial));
  }
  std::cout << object.dump() << '\n';
}

void print_table(
    const BenchCommand& options,
    const Model& model,
    std::size_t weight_bytes,
    const std::vector<BenchTrial>& trials) {
  std::cout << options.model.name << ": " << model.args().model_type
            << (options.random.random ? ", random weights" : "") << ", "
            << human_bytes(weight_bytes) << " of weights, "
            << (model.device() == mx::Device::cpu ? "cpu" : "gpu") << ", "
            << options.model.kernels << " kernels\n"
            << "prompt_tokens=" << options.shape.prompt_tokens
            << ", generation_tokens=" << options.shape.generation_tokens
            << ", batch_size=" << options.shape.batch_size << "\n\n";
  Table table(
      {{"trial"},
       {"prompt tokens/s", Align::right},
       {"generation tokens/s", Align::right},
       {"first token ms", Align::right},
       {"MLX peak memory GB", Align::right}});
  for (std::size_t index = 0; index < trials.size(); ++index) {
    add_row(table, std::to_string(index + 1), trials[index]);
  }
  add_row(table, "average", average(trials));
  table.print(std::cout);
  std::cout << "\nMost memory of the process: "
            << human_bytes(max_resident_bytes()) << '\n';
}

void run(const BenchCommand& options, Exit& exit) {
  const auto model = load_or_make(options.model, options.random);
  const std::size_t weight_bytes = mx::get_active_memory();
  const InterruptScope interrupt;
  const auto cancelled = [&interrupt] { return interrupt.requested(); };

  ProgressBar bar("Trial", ProgressBar::Unit::count);
  std::vector<BenchTrial> trials;
  run_trial(model, options.shape, cancelled); // warm-up
  for (int trial = 0; trial < options.num_trials && !cancelled(); ++trial) {
    bar.update(
        static_cast<std::uint64_t>(trial),
        static_cast<std::uint64_t>(options.num_trials));
    trials.push_back(run_trial(model, options.shape, cancelled));
  }
  bar.clear();
  if (cancelled()) {
    exit.code = Exit::interrupted;
    return;
  }
  if (options.json) {
    print_json(options, model, weight_bytes, trials);
  } else {
    print_table(options, model, weight_bytes, trials);
  }
}

} // namespace

void add_bench(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<BenchCommand>();
  auto* command = app.add_subcommand(
      "bench", "Measure speed and memory of a model or of its shape");
  add_model_options(*command, options->model);
  add_random_options(*command, options->random);

  const char* trial = "Trials";
  const auto add_count = [&](const char* names, int& value, const char* help) {
    command->add_option(names, value, help)
        ->capture_default_str()
        ->type_name("N")
        ->transform(whole_number(1))
        ->group(trial);
  };
  add_count(
      "-p,--prompt-tokens",
      options->shape.prompt_tokens,
      "Length of the prompt");
  add_count(
      "-g,--generation-tokens",
      options->shape.generation_tokens,
      "Tokens to generate");
  add_count(
      "-b,--batch-size", options->shape.batch_size, "Sequences at a time");
  add_count("-n,--num-trials", options->num_trials, "Runs to average");
  add_count(
      "--prefill-step-size",
      options->shape.prefill_step_size,
      "Prompt tokens read at once");
  add_kv_options(*command, options->kv);
  command->add_flag("--json", options->json, "Print one JSON object")
      ->group("Output");
  command->footer(examples);
  command->callback([options, &exit] {
    options->shape.cache = cache_options(options->kv);
    find_model(options->model);
    run(*options, exit);
  });
}

} // namespace qwen3_mlx::cli
