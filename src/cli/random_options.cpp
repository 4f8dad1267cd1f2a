// SPDX-License-Identifier: MIT
#include "cli/random_options.h"

#include <vector>

#include "cli/numbers.h"
#include "cli/quant_options.h"

namespace qwen3_mlx::cli {
namespace {

ModelArgs
args_of(const std::filesystem::path& path, const RandomOptions& options) {
  auto args = path.extension() == ".json" ? parse_model_args(Config::load(path))
                                          : get_model_args(path);
  if (options.q_bits || options.q_group_size || options.q_mode) {
    const auto format = with_defaults(
        quant_mode_named(options.q_mode.value_or("affine"))
            .value_or(QuantMode::affine),
        options.q_bits,
        options.q_group_size);
    if (!is_supported(format)) {
      const auto usual = with_defaults(format.mode, std::nullopt, std::nullopt);
      throw CLI::ValidationError(
          "--q-bits, --q-group-size",
          "MLX has no format '" + describe(format) + "'; without them it is '" +
              describe(usual) + "'");
    }
    args.quantization = QuantizationConfig{.format = format, .modules = {}};
  }
  return args;
}

} // namespace

void add_random_options(CLI::App& command, RandomOptions& options) {
  const char* group = "Random weights";
  command
      .add_flag(
          "--random",
          options.random,
          "Random weights of the shape in the config")
      ->group(group);
  command
      .add_option(
          "--q-bits",
          options.q_bits,
          "Quantize them (default: as the config says; with --q-mode or "
          "--q-group-size 4, mxfp8: 8)")
      ->type_name("BITS")
      ->transform(whole_number(1))
      ->needs("--random")
      ->group(group);
  command
      .add_option(
          "--q-group-size",
          options.q_group_size,
          "In groups of (default: 64; mxfp4, mxfp8: 32; nvfp4: 16)")
      ->type_name("N")
      ->transform(whole_number(1))
      ->needs("--random")
      ->group(group);
  command.add_option("--q-mode", options.q_mode, "How (default: affine)")
      ->type_name("MODE")
      ->check(CLI::IsMember(
          std::vector<std::string>{"affine", "mxfp4", "mxfp8", "nvfp4"}))
      ->needs("--random")
      ->group(group);
}

Model load_or_make(const ModelOptions& model, const RandomOptions& options) {
  return options.random ? make_random_model(
                              args_of(model.model, options),
                              /* seed */ 0,
                              load_options(model))
                        : load_with_progress(model);
}

} // namespace qwen3_mlx::cli
