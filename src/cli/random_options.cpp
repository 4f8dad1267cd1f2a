// SPDX-License-Identifier: MIT
#include "cli/random_options.h"

#include <vector>

#include "cli/numbers.h"

namespace qwen3_mlx::cli {
namespace {

QuantMode mode_named(const std::string& name) {
  for (const auto mode :
       {QuantMode::affine,
        QuantMode::mxfp4,
        QuantMode::mxfp8,
        QuantMode::nvfp4}) {
    if (name == to_string(mode)) {
      return mode;
    }
  }
  return QuantMode::none;
}

ModelArgs
args_of(const std::filesystem::path& path, const RandomOptions& options) {
  auto args = path.extension() == ".json" ? parse_model_args(Config::load(path))
                                          : get_model_args(path);
  if (options.q_bits.has_value()) {
    const QuantFormat format{
        mode_named(options.q_mode), *options.q_bits, options.q_group_size};
    if (!is_supported(format)) {
      throw CLI::ValidationError(
          "--q-bits", "MLX has no format '" + describe(format) + "'");
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
          "Quantize them (default: as the config says)")
      ->type_name("BITS")
      ->transform(whole_number(1))
      ->needs("--random")
      ->group(group);
  command.add_option("--q-group-size", options.q_group_size, "In groups of")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1))
      ->needs("--q-bits")
      ->group(group);
  command.add_option("--q-mode", options.q_mode, "How")
      ->capture_default_str()
      ->type_name("MODE")
      ->check(CLI::IsMember(
          std::vector<std::string>{"affine", "mxfp4", "mxfp8", "nvfp4"}))
      ->needs("--q-bits")
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
