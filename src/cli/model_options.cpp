// SPDX-License-Identifier: MIT

#include "cli/model_options.h"

#include <mlx/mlx.h>

#include <variant>
#include <vector>

#include "cli/find_model.h"
#include "cli/numbers.h"
#include "cli/terminal.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* group = "Model";

CLI::IsMember one_of(std::vector<std::string> words) {
  return CLI::IsMember(std::move(words));
}

/// Empty where `device` is to be had.
std::string missing_device(const std::string& device) {
  return device == "gpu" && !mx::is_available(mx::Device::gpu)
      ? "this machine has no GPU that this build can use; use --device cpu"
      : "";
}

mx::Dtype dtype_named(const std::string& name) {
  if (name == "float32") {
    return mx::float32;
  }
  return name == "float16" ? mx::float16 : mx::bfloat16;
}

} // namespace

CLI::Option* add_model_option(CLI::App& command, std::filesystem::path& model) {
  return command
      .add_option(
          "--model",
          model,
          "Folder of a Hugging Face or MLX checkpoint, a .gguf file, or what "
          "`qwen3-mlx pull` takes: org/name or a short name")
      ->required()
      ->type_name("PATH|REPO")
      ->envname("QWEN3_MLX_MODEL")
      ->group(group);
}

void add_model_options(CLI::App& command, ModelOptions& options) {
  add_model_option(command, options.model);
  command
      .add_option(
          "--device", options.device, "Where to run (default: the GPU if any)")
      ->type_name("DEVICE")
      ->check(one_of({"cpu", "gpu"}))
      ->check(CLI::Validator(missing_device, ""))
      ->group(group);
  command
      .add_option(
          "--kernels",
          options.kernels,
          "native: this program's own; stock: MLX's")
      ->capture_default_str()
      ->type_name("KIND")
      ->check(one_of({"native", "stock"}))
      ->group(group);
  command
      .add_option(
          "--dtype",
          options.dtype,
          "Compute type (default: what the checkpoint says)")
      ->type_name("TYPE")
      ->check(one_of({"float32", "float16", "bfloat16"}))
      ->group(group);
  command
      .add_flag(
          "--exact,!--no-exact",
          options.exact,
          "Kernels on the CPU keep activations in float32; without it they "
          "are rounded to int8 for quantized weights, which is faster. On an "
          "NVIDIA GPU a text never depends on others in its batch, at a "
          "fraction of the speed")
      ->group(group);
  command
      .add_option(
          "--threads,-t",
          options.threads,
          "Threads of the CPU kernels (default: the physical cores)")
      ->type_name("N")
      ->transform(whole_number(1, 1024))
      ->group(group);
}

void find_model(ModelOptions& options) {
  options.name = options.model.string();
  options.model = find_model(options.model);
}

LoadOptions load_options(const ModelOptions& options) {
  LoadOptions load;
  if (!options.device.empty()) {
    load.device =
        mx::Device(options.device == "cpu" ? mx::Device::cpu : mx::Device::gpu);
  }
  if (!options.dtype.empty()) {
    load.dtype = dtype_named(options.dtype);
  }
  load.kernels = options.kernels == "stock" ? Kernels::stock : Kernels::native;
  load.exact = options.exact;
  load.threads = options.threads;
  return load;
}

namespace {

// Keeps a model's memory from being paged out while it runs on Metal. It is a
// setting of the whole process, so the program makes it, not the library.
void wire_memory(const mx::Device& device) {
  if (device == mx::Device::cpu || !mx::metal::is_available()) {
    return;
  }
  const auto& info = mx::device_info(device);
  const auto size = info.find("max_recommended_working_set_size");
  if (size != info.end()) {
    // Some of it is left to the rest of the system.
    mx::set_wired_limit(std::get<std::size_t>(size->second) / 10 * 9);
  }
}

} // namespace

Model load_with_progress(const ModelOptions& options) {
  auto load = load_options(options);
  wire_memory(load.device.value_or(mx::default_device()));
  ProgressBar bar("Loading", ProgressBar::Unit::bytes);
  load.progress = [&bar](std::uint64_t done, std::uint64_t total) {
    bar.update(done, total);
  };
  return load_model(options.model, load);
}

} // namespace qwen3_mlx::cli
