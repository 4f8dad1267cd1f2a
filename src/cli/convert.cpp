// SPDX-License-Identifier: MIT
// qwen3-mlx convert: quantizes, dequantizes or casts a checkpoint, or writes it
// as a GGUF file.

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/find_model.h"
#include "cli/numbers.h"
#include "cli/quant_options.h"
#include "cli/terminal.h"
#include "qwen3_mlx/convert.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* footer =
    "\nTensors go through memory in small pieces. The target appears under its "
    "name\nonly when it is complete.\n"
    "\nExamples:\n"
    "  qwen3-mlx convert --model Qwen3-4B --mlx-path Qwen3-4B-4bit -q\n"
    "  qwen3-mlx convert --model Qwen3-4B --mlx-path out -q --q-mode mxfp4\n"
    "  qwen3-mlx convert --model Qwen3-4B --mlx-path out -q --q-module "
    "'*.down_proj=6' --q-module '*.o_proj=8'\n"
    "  qwen3-mlx convert --model model.gguf --mlx-path out --dequantize\n"
    "  qwen3-mlx convert --model Qwen3-4B --mlx-path q4.gguf --to gguf "
    "--gguf-type q4_1";

struct ConvertCommand {
  std::string model;
  std::string mlx_path = "mlx_model";
  bool quantize = false;
  std::optional<int> q_bits;
  std::optional<int> q_group_size;
  std::string q_mode = "affine";
  std::string quant_predicate;
  std::vector<std::string> modules;
  std::string dtype;
  bool dequantize = false;
  bool force = false;
  int threads = 0;
  int max_shard_gb = 5;
  bool calibrate = false;
  std::string calibration_file;
  int calibration_tokens = 8192;
  double target_bits = 0;
  std::string to = "mlx";
  std::string gguf_type = "f16";
};

/// What was asked for, as the library has it.
using Convert = std::function<ConvertResult(const ConvertProgress&)>;

GgufType gguf_type_named(const std::string& name) {
  return name == "f32" ? GgufType::f32
      : name == "bf16" ? GgufType::bf16
      : name == "q8_0" ? GgufType::q8_0
      : name == "q4_0" ? GgufType::q4_0
      : name == "q4_1" ? GgufType::q4_1
                       : GgufType::f16;
}

MixedRecipe recipe_named(const std::string& name) {
  return name == "mixed_2_6" ? MixedRecipe::mixed_2_6
      : name == "mixed_3_4"  ? MixedRecipe::mixed_3_4
      : name == "mixed_3_6"  ? MixedRecipe::mixed_3_6
      : name == "mixed_4_6"  ? MixedRecipe::mixed_4_6
                             : MixedRecipe::none;
}

/// "PATTERN=none" or "PATTERN=BITS[,GROUP_SIZE[,MODE]]".
ModuleRule parse_rule(const std::string& text) {
  const auto wrong = [&] {
    return CLI::ValidationError(
        "--q-module",
        "expected PATTERN=BITS[,GROUP_SIZE[,MODE]] or PATTERN=none, found \"" +
            text + "\"");
  };
  const auto equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) {
    throw wrong();
  }
  ModuleRule rule{text.substr(0, equals), {}};
  const auto value = text.substr(equals + 1);
  if (value == "none") {
    return rule;
  }
  std::vector<std::string> words;
  std::istringstream parts(value);
  for (std::string word; std::getline(parts, word, ',');) {
    words.push_back(word);
  }
  const auto number = [&](std::size_t idx) -> std::optional<int> {
    if (idx >= words.size()) {
      return std::nullopt;
    }
    int result = 0;
    const auto& word = words[idx];
    const auto [end, error] =
        std::from_chars(word.data(), word.data() + word.size(), result);
    if (error != std::errc{} || end != word.data() + word.size() ||
        result < 1) {
      throw wrong();
    }
    return result;
  };
  const auto mode = quant_mode_named(words.size() > 2 ? words[2] : "affine");
  if (words.empty() || words.size() > 3 || !mode) {
    throw wrong();
  }
  rule.format = with_defaults(*mode, number(0), number(1));
  return rule;
}

/// Throws CLI::ValidationError for options that would have no effect.
void check_options(const CLI::App& app, const ConvertCommand& command) {
  struct Row {
    const char* option;
    const char* cure;
  };
  constexpr auto not_for_gguf = std::to_array<Row>({
      {"--quantize", "say how with --gguf-type q8_0, q4_0 or q4_1"},
      {"--dequantize", "use --gguf-type f16, bf16 or f32"},
      {"--dtype", "use --gguf-type f16, bf16 or f32"},
      {"--max-shard-gb", "it writes one file: leave the option out"},
  });
  if (command.to == "gguf") {
    for (const auto& [option, cure] : not_for_gguf) {
      if (app.count(option) > 0) {
        throw CLI::ValidationError(
            option, std::string("has no effect with --to gguf; ") + cure);
      }
    }
  } else if (app.count("--gguf-type") > 0) {
    throw CLI::ValidationError(
        "--gguf-type",
        "has no effect without --to gguf; for MLX use --quantize with --q-bits "
        "and --q-mode");
  }
  if (app.count("--calibrate-tokens") > 0 && !command.calibrate &&
      command.target_bits == 0) {
    throw CLI::ValidationError(
        "--calibrate-tokens",
        "has no effect without --calibrate or --target-bits; give one of them");
  }
}

Convert to_gguf(const ConvertCommand& command) {
  const GgufOptions options{
      .type = gguf_type_named(command.gguf_type),
      .force = command.force,
      .n_threads = command.threads};
  return [&command, options](const ConvertProgress& progress) {
    return convert_to_gguf(command.model, command.mlx_path, options, progress);
  };
}

Convert to_mlx(const ConvertCommand& command) {
  ConvertOptions options;
  if (command.quantize) {
    options.quantize = with_defaults(
        quant_mode_named(command.q_mode).value_or(QuantMode::affine),
        command.q_bits,
        command.q_group_size);
  }
  options.recipe = recipe_named(command.quant_predicate);
  for (const auto& text : command.modules) {
    options.rules.push_back(parse_rule(text));
  }
  if (command.calibrate || command.target_bits > 0) {
    auto& calibration = options.calibration.emplace();
    calibration.max_tokens = command.calibration_tokens;
    calibration.sequence_length =
        std::min(calibration.sequence_length, calibration.max_tokens);
    if (!command.calibration_file.empty()) {
      calibration.text = read_file(command.calibration_file);
    }
    if (command.target_bits > 0) {
      calibration.target_bits = command.target_bits;
    }
  }
  options.dequantize = command.dequantize;
  options.dtype = command.dtype;
  options.force = command.force;
  options.n_threads = command.threads;
  options.max_shard_bytes = static_cast<std::uint64_t>(command.max_shard_gb)
      << 30;
  return [&command, options](const ConvertProgress& progress) {
    return convert_checkpoint(
        command.model, command.mlx_path, options, progress);
  };
}

void run(const ConvertCommand& command) {
  const auto convert =
      command.to == "gguf" ? to_gguf(command) : to_mlx(command);
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t n_bytes = 0;
  ConvertResult result;
  {
    ProgressBar bar("Converting", ProgressBar::Unit::bytes);
    result = convert([&](std::uint64_t done, std::uint64_t total) {
      n_bytes = total;
      bar.update(done, total);
    });
  }
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  std::cerr << "Wrote " << human_bytes(result.n_bytes) << " in "
            << result.n_shards << (result.n_shards == 1 ? " file" : " files")
            << " to " << command.mlx_path << ": "
            << fixed(result.bits_per_weight(), 3) << " bits per weight, "
            << fixed(seconds.count(), 1) << " s, "
            << human_bytes(static_cast<std::uint64_t>(
                   static_cast<double>(n_bytes) /
                   std::max(seconds.count(), 1e-3)))
            << "/s read.\n";
}

} // namespace

void add_convert(CLI::App& app, Exit&) {
  auto options = std::make_shared<ConvertCommand>();
  CLI::App* command = app.add_subcommand(
      "convert", "Quantize, dequantize or cast a checkpoint");
  command->add_option("--model,--hf-path", options->model)
      ->description(
          "Folder of a checkpoint, a .gguf file, or what `qwen3-mlx pull` "
          "takes")
      ->required()
      ->type_name("PATH|REPO");
  command->add_option("--mlx-path,-o", options->mlx_path)
      ->description("Folder to write, or with --to gguf the file")
      ->capture_default_str()
      ->type_name("PATH");
  auto* quantize = command->add_flag("-q,--quantize", options->quantize)
                       ->description("Quantize the matrices");
  command->add_option("--q-bits", options->q_bits)
      ->description("Bits per weight (default: 4; mxfp8: 8)")
      ->type_name("N")
      ->transform(whole_number(1))
      ->needs(quantize);
  command->add_option("--q-group-size", options->q_group_size)
      ->description(
          "Weights that share a scale (default: 64; mxfp4, mxfp8: "
          "32; nvfp4: 16)")
      ->type_name("N")
      ->transform(whole_number(1))
      ->needs(quantize);
  command->add_option("--q-mode", options->q_mode)
      ->description("affine, mxfp4, mxfp8 or nvfp4")
      ->capture_default_str()
      ->type_name("MODE")
      ->check(CLI::IsMember({"affine", "mxfp4", "mxfp8", "nvfp4"}))
      ->needs(quantize);
  command->add_option("--quant-predicate", options->quant_predicate)
      ->description("Mixed bits: mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6")
      ->type_name("RECIPE")
      ->check(
          CLI::IsMember({"mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"}))
      ->needs(quantize);
  command->add_option("--q-module", options->modules)
      ->description(
          "What modules get that match PATTERN, in which * stands for any "
          "characters: PATTERN=BITS[,GROUP_SIZE[,MODE]] or PATTERN=none; may "
          "be repeated, the last that matches decides")
      ->type_name("RULE")
      ->allow_extra_args(false)
      ->needs(quantize);
  command
      ->add_option_function<std::string>(
          "--calibrate",
          [options](const std::string& file) {
            options->calibrate = true;
            options->calibration_file = file;
          })
      ->description(
          "Quantize by what the matrices meet on a text: FILE, or without one "
          "a small built-in text. Takes the model's size in memory")
      ->expected(0, 1)
      ->default_str("")
      ->type_name("FILE")
      ->needs(quantize);
  command->add_option("--calibrate-tokens", options->calibration_tokens)
      ->description("Tokens of the calibration text that are read, at most")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(16, 1 << 24))
      ->needs(quantize);
  command->add_option("--target-bits", options->target_bits)
      ->description(
          "Bits per weight on average, scales included: calibration gives each "
          "matrix 2 to 8")
      ->type_name("X")
      ->check(real_number(2.1, 9.0))
      ->needs(quantize);
  command->add_option("--dtype", options->dtype)
      ->description("Type of the floats (default: what config.json says)")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"float16", "bfloat16", "float32"}));
  command->add_flag("-d,--dequantize", options->dequantize)
      ->description("Turn all matrices into floats")
      ->excludes(quantize);
  command->add_flag("--force", options->force)
      ->description("Replace what is at the target");
  command->add_option("--threads,-t", options->threads)
      ->description("Threads (default: the physical cores)")
      ->type_name("N")
      ->transform(whole_number(1, 1024));
  command->add_option("--max-shard-gb", options->max_shard_gb)
      ->description("Largest file, in GiB")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1, 1 << 20));
  command->add_option("--to", options->to)
      ->description("mlx, or gguf for llama.cpp")
      ->capture_default_str()
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"mlx", "gguf"}));
  command->add_option("--gguf-type", options->gguf_type)
      ->description("With --to gguf: f32, f16, bf16, q8_0, q4_0 or q4_1")
      ->capture_default_str()
      ->type_name("TYPE")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"}));
  command->footer(footer);
  command->callback([options, command] {
    check_options(*command, *options);
    options->model = find_model(options->model).string();
    run(*options);
  });
}

} // namespace qwen3_mlx::cli
