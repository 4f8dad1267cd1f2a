// SPDX-License-Identifier: MIT
// qwen3-mlx perplexity: how well a model predicts a text.
//
// As mlx_lm.perplexity: the text is cut into sequences of one length, each read
// on its own from an empty cache; every token but a sequence's first counts.

#include <mlx/mlx.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <limits>
#include <memory>
#include <random>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/model_options.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* examples =
    "\nExample:\n"
    "  qwen3-mlx perplexity --model DIR wiki.test.raw --num-samples 32";

struct PerplexityCommand {
  ModelOptions model;
  std::string text_file;
  int sequence_length = 512;
  int batch_size = 8;
  int num_samples = -1;
  std::uint64_t seed = 123;
  bool json = false;
};

/// Negative log-likelihoods, summed without losing small ones in a long text.
struct Losses {
  std::size_t count = 0;
  double sum = 0;
  double sum_of_squares = 0;

  void add(double loss) {
    ++count;
    sum += loss;
    sum_of_squares += loss * loss;
  }
  double mean() const {
    return sum / static_cast<double>(count);
  }
  double standard_error() const {
    const auto n = static_cast<double>(count);
    const double variance =
        n < 2 ? 0 : std::max(0.0, (sum_of_squares - sum * sum / n) / (n - 1));
    return std::sqrt(variance / n);
  }
};

/// tokens [B, L] uint32 -> negative log-likelihoods [B, L - 1] float32.
mx::array losses_of(const Model& model, const mx::array& tokens) {
  const int B = tokens.shape(0);
  const int L = tokens.shape(1);
  const auto inputs = mx::slice(tokens, {0, 0}, {B, L - 1});
  const auto targets = mx::slice(tokens, {0, 1}, {B, L});
  std::vector<KVCache> cache = model.make_cache();
  const auto logits = mx::astype(model(inputs, cache), mx::float32);
  const auto chosen =
      mx::take_along_axis(logits, mx::expand_dims(targets, -1), -1);
  return mx::logsumexp(logits, -1) - mx::squeeze(chosen, -1);
}

std::vector<std::uint32_t> read_tokens(const PerplexityCommand& options) {
  const auto tokenizer = load_tokenizer(options.model.model);
  const auto text = read_text(options.text_file);
  return tokenizer.encode(text, /* add_special_tokens */ true);
}

/// Where the sequences begin, in random order: with --num-samples they are a
/// sample of the whole text.
std::vector<std::size_t>
sequence_starts(std::size_t n_tokens, const PerplexityCommand& options) {
  const auto length = static_cast<std::size_t>(options.sequence_length);
  std::vector<std::size_t> starts;
  for (std::size_t at = 0; at + length <= n_tokens; at += length) {
    starts.push_back(at);
  }
  if (starts.empty()) {
    throw InvalidArgument(
        "the text has " + std::to_string(n_tokens) +
        " tokens, less than one sequence; use a smaller --sequence-length");
  }
  if (options.num_samples > 0 &&
      starts.size() > static_cast<std::size_t>(options.num_samples)) {
    std::mt19937_64 random(options.seed);
    // Not std::shuffle: its result differs between standard libraries.
    for (std::size_t left = starts.size(); left > 1; --left) {
      std::swap(starts[left - 1], starts[random() % left]);
    }
    starts.resize(static_cast<std::size_t>(options.num_samples));
  }
  return starts;
}

void run(const PerplexityCommand& options, Exit& exit) {
  const auto ids = read_tokens(options);
  const auto starts = sequence_starts(ids.size(), options);
  const auto model = load_with_progress(options.model);
  check_vocabulary(ids, model, options.model.model);

  const InterruptScope interrupt;
  ProgressBar bar("Reading", ProgressBar::Unit::count);
  Losses losses;
  const auto begin = std::chrono::steady_clock::now();
  const auto batch_size = static_cast<std::size_t>(options.batch_size);
  for (std::size_t done = 0; done < starts.size();) {
    const auto B = std::min(batch_size, starts.size() - done);
    std::vector<std::uint32_t> batch;
    for (std::size_t row = 0; row < B; ++row) {
      const auto first =
          ids.begin() + static_cast<std::ptrdiff_t>(starts[done + row]);
      batch.insert(batch.end(), first, first + options.sequence_length);
    }
    auto result = losses_of(
        model,
        mx::array(
            batch.begin(),
            {static_cast<int>(B), options.sequence_length},
            mx::uint32));
    mx::eval(result);
    const float* values = result.data<float>();
    std::for_each(values, values + result.size(), [&losses](float loss) {
      losses.add(loss);
    });
    done += B;
    bar.update(done, starts.size());
    if (interrupt.requested()) {
      exit.code = Exit::interrupted;
      break;
    }
  }
  bar.clear();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
          .count();

  const double perplexity = std::exp(losses.mean());
  // First order: d exp(m) = exp(m) dm.
  const double error = perplexity * losses.standard_error();
  const double speed = static_cast<double>(losses.count) / seconds;
  if (options.json) {
    std::cout << Json{
                     {"perplexity", perplexity},
                     {"standard_error", error},
                     {"tokens", losses.count},
                     {"sequence_length", options.sequence_length},
                     {"seconds", seconds},
                     {"tokens_per_second", speed},
                     {"peak_memory_bytes", mx::get_peak_memory()}}
                     .dump()
              << '\n';
    return;
  }
  std::cout << "Perplexity: " << fixed(perplexity, 3) << " +- "
            << fixed(error, 3) << "\nTokens: " << losses.count << " in "
            << fixed(seconds, 2) << " s, " << fixed(speed, 1)
            << " tokens-per-sec\nPeak memory: "
            << fixed(static_cast<double>(mx::get_peak_memory()) / 1e9, 3)
            << " GB\n";
}

} // namespace

void add_perplexity(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<PerplexityCommand>();
  auto* command = app.add_subcommand(
      "perplexity", "Measure how well a model predicts a text");
  add_model_options(*command, options->model);
  const char* group = "Text";
  command
      ->add_option(
          "file,-f,--file,--data-path",
          options->text_file,
          "A text file; - reads standard input")
      ->required()
      ->type_name("FILE")
      ->group(group);
  command
      ->add_option(
          "--sequence-length,-c,--ctx-size",
          options->sequence_length,
          "Tokens read together")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(2, 1 << 24))
      ->group(group);
  command
      ->add_option(
          "--batch-size,-b", options->batch_size, "Sequences read at once")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1))
      ->group(group);
  command
      ->add_option(
          "--num-samples",
          options->num_samples,
          "Only this many sequences, chosen at random; -1: all")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(-1).description(""))
      ->check(CLI::Validator(
          [](const std::string& text) {
            return std::string(
                text == "0" ? "expected at least 1, or -1 for all, found '0'"
                            : "");
          },
          ""))
      ->group(group);
  command->add_option("--seed", options->seed, "Of that choice")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(0, std::numeric_limits<std::uint64_t>::max()))
      ->group(group);
  command->add_flag("--json", options->json, "Print one JSON object")
      ->group("Output");
  command->footer(examples);
  command->callback([options, &exit] {
    find_model(options->model);
    run(*options, exit);
  });
}

} // namespace qwen3_mlx::cli
