// SPDX-License-Identifier: MIT
// qwen3-mlx info: what a checkpoint is, read from its headers alone.

#include <iostream>
#include <map>
#include <memory>

#include "cli/commands.h"
#include "cli/find_model.h"
#include "cli/model_options.h"
#include "cli/system_info.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/text_model.h"
#include "qwen3_mlx/model_args.h"
#include "weights/checkpoint.h"
#include "weights/stored_format.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* examples =
    "\nExamples:\n"
    "  qwen3-mlx info --model DIR             # shape, sizes, quantization\n"
    "  qwen3-mlx info --model DIR --tensors   # and each tensor\n"
    "  qwen3-mlx info --system                # this machine";

struct InfoCommand {
  std::filesystem::path model;
  bool tensors = false;
  bool system = false;
  bool json = false;
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const auto size : shape) {
    text += (text.size() == 1 ? "" : ", ") + std::to_string(size);
  }
  return text + "]";
}

/// How the checkpoint stores a tensor, in words.
std::string format_name(
    const Checkpoint& checkpoint,
    const ModelArgs& args,
    const std::string& name) {
  const auto& tensor = checkpoint.tensors().at(name);
  const auto format = stored_format(checkpoint, args.quantization, name);
  // A GGUF's types have names of their own.
  return tensor.type == StoredType::u32 && format.is_quantized()
      ? describe(format)
      : tensor.type_name;
}

/// Elements of a tensor: of a packed matrix, those it stands for.
std::uint64_t num_parameters(
    const Checkpoint& checkpoint,
    const ModelArgs& args,
    const std::string& name) {
  const auto& tensor = checkpoint.tensors().at(name);
  std::uint64_t n = 1;
  for (const auto size : tensor.shape) {
    n *= static_cast<std::uint64_t>(size);
  }
  const auto format = stored_format(checkpoint, args.quantization, name);
  return tensor.type == StoredType::u32 && format.is_quantized()
      ? n * 32 / static_cast<std::uint64_t>(format.bits)
      : n;
}

struct FormatSum {
  std::size_t n_tensors = 0;
  std::uint64_t n_parameters = 0;
  std::uint64_t n_bytes = 0;

  void add(std::uint64_t parameters, std::uint64_t bytes) {
    ++n_tensors;
    n_parameters += parameters;
    n_bytes += bytes;
  }
};

/// Sums by format; scales and biases count to their matrix.
std::map<std::string, FormatSum>
sum_formats(const Checkpoint& checkpoint, const ModelArgs& args) {
  std::map<std::string, FormatSum> sums;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const bool is_part = name.ends_with(".scales") || name.ends_with(".biases");
    const auto weight = std::string(module_of(name)) + ".weight";
    if (is_part && checkpoint.find(weight) != nullptr) {
      sums[format_name(checkpoint, args, weight)].n_bytes += tensor.n_bytes();
    } else {
      sums[format_name(checkpoint, args, name)].add(
          num_parameters(checkpoint, args, name), tensor.n_bytes());
    }
  }
  return sums;
}

std::string rope_name(RopeType type) {
  switch (type) {
  case RopeType::linear:
    return "linear";
  case RopeType::dynamic:
    return "dynamic";
  case RopeType::yarn:
    return "yarn";
  case RopeType::llama3:
    return "llama3";
  case RopeType::none:
    break;
  }
  return "default";
}

/// The fields that say what the model is, in the config's own words.
Json config_json(const ModelArgs& args) {
  Json config{
      {"model_type", args.model_type},
      {"hidden_size", args.hidden_size},
      {"num_hidden_layers", args.num_hidden_layers},
      {"intermediate_size", args.intermediate_size},
      {"num_attention_heads", args.num_attention_heads},
      {"num_key_value_heads", args.num_key_value_heads},
      {"head_dim", args.head_dim},
      {"vocab_size", args.vocab_size},
      {"max_position_embeddings", args.max_position_embeddings},
      {"rms_norm_eps", args.rms_norm_eps},
      {"rope_theta", args.rope_theta},
      {"rope_type", rope_name(args.rope_scaling.type)},
      {"tie_word_embeddings", args.tie_word_embeddings},
      {"eos_token_id", args.eos_token_ids}};
  if (args.rope_scaling.type != RopeType::none) {
    config["rope_factor"] = args.rope_scaling.factor;
  }
  if (args.num_experts > 0) {
    config["num_experts"] = args.num_experts;
    config["num_experts_per_tok"] = args.num_experts_per_tok;
    config["moe_intermediate_size"] = args.moe_intermediate_size;
  }
  if (args.sliding_window.has_value()) {
    config["sliding_window"] = *args.sliding_window;
  }
  config["dtype"] = args.dtype.has_value() ? Json(*args.dtype) : Json(nullptr);
  config["quantization"] = args.quantization.has_value()
      ? Json(describe(args.quantization->format))
      : Json(nullptr);
  return config;
}

void print_fields(const Json& fields) {
  Table table({{""}, {""}});
  constexpr std::size_t max_width = 80;
  for (const auto& [key, value] : fields.items()) {
    if (value.is_array() && value.dump().size() > max_width) {
      std::string name = key; // of the first row alone
      for (const auto& each : value) {
        table.add(
            {name, each.is_string() ? each.get<std::string>() : each.dump()});
        name.clear();
      }
    } else if (!value.is_null()) {
      table.add(
          {key, value.is_string() ? value.get<std::string>() : value.dump()});
    }
  }
  table.print(std::cout);
}

/// Keys and values of one position, in 2 bytes an element.
std::uint64_t kv_bytes_per_token(const ModelArgs& args) {
  return 2ULL * 2ULL * static_cast<std::uint64_t>(args.num_hidden_layers) *
      static_cast<std::uint64_t>(args.num_key_value_heads) *
      static_cast<std::uint64_t>(args.head_dim);
}

std::string in_millions(std::uint64_t n) {
  return fixed(static_cast<double>(n) / 1e6, 1) + " M";
}

void print_model(
    const InfoCommand& options,
    const ModelArgs& args,
    const Checkpoint& checkpoint) {
  std::cout << options.model.string() << "\n\n";
  print_fields(config_json(args));

  std::cout << '\n';
  Table sizes(
      {{"format"},
       {"tensors", Align::right},
       {"parameters", Align::right},
       {"size", Align::right},
       {"bits each", Align::right}});
  FormatSum total;
  const auto add = [&sizes](const std::string& name, const FormatSum& sum) {
    sizes.add(
        {name,
         std::to_string(sum.n_tensors),
         in_millions(sum.n_parameters),
         human_bytes(sum.n_bytes),
         fixed(
             8.0 * static_cast<double>(sum.n_bytes) /
                 static_cast<double>(
                     std::max<std::uint64_t>(sum.n_parameters, 1)),
             2)});
  };
  for (const auto& [name, sum] : sum_formats(checkpoint, args)) {
    add(name, sum);
    total.n_tensors += sum.n_tensors;
    total.n_parameters += sum.n_parameters;
    total.n_bytes += sum.n_bytes;
  }
  add("total", total);
  sizes.print(std::cout);
  std::cout << "\nKeys and values: " << human_bytes(kv_bytes_per_token(args))
            << " a token in 16 bits\n";

  if (options.tensors) {
    std::cout << '\n';
    Table tensors({{"tensor"}, {"shape"}, {"format"}, {"size", Align::right}});
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      tensors.add(
          {name,
           shape_text(tensor.shape),
           format_name(checkpoint, args, name),
           human_bytes(tensor.n_bytes())});
    }
    tensors.print(std::cout);
  }
}

Json model_json(
    const InfoCommand& options,
    const ModelArgs& args,
    const Checkpoint& checkpoint) {
  Json object{
      {"model", options.model.string()},
      {"config", config_json(args)},
      {"formats", Json::object()},
      {"kv_bytes_per_token", kv_bytes_per_token(args)}};
  for (const auto& [name, sum] : sum_formats(checkpoint, args)) {
    object["formats"][name] = {
        {"tensors", sum.n_tensors},
        {"parameters", sum.n_parameters},
        {"bytes", sum.n_bytes}};
  }
  if (options.tensors) {
    object["tensors"] = Json::array();
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      object["tensors"].push_back(
          {{"name", name},
           {"shape", tensor.shape},
           {"format", format_name(checkpoint, args, name)},
           {"bytes", tensor.n_bytes()}});
    }
  }
  return object;
}

void run(const InfoCommand& options) {
  if (options.model.empty() && !options.system) {
    throw CLI::RequiredError("--model or --system");
  }
  Json object = Json::object();
  if (options.system) {
    object["system"] = system_info();
    if (!options.json) {
      print_fields(object["system"]);
    }
  }
  if (!options.model.empty()) {
    const auto args = get_model_args(options.model);
    const auto checkpoint = Checkpoint::open(options.model);
    if (options.json) {
      object.update(model_json(options, args, checkpoint));
    } else {
      std::cout << (options.system ? "\n" : "");
      print_model(options, args, checkpoint);
    }
  }
  if (options.json) {
    std::cout << object.dump(2, ' ', false, Json::error_handler_t::replace)
              << '\n';
  }
}

} // namespace

void add_info(CLI::App& app, Exit&) {
  auto options = std::make_shared<InfoCommand>();
  auto* command = app.add_subcommand(
      "info", "Show a model's config, sizes and quantization");
  add_model_option(*command, options->model)->required(false);
  command->add_flag("--tensors", options->tensors, "List every tensor")
      ->group("Output");
  command
      ->add_flag(
          "--system", options->system, "Show MLX, the device and its memory")
      ->group("Output");
  command->add_flag("--json", options->json, "Print one JSON object")
      ->group("Output");
  command->footer(examples);
  command->callback([options] {
    if (!options->model.empty()) {
      options->model = find_model(options->model);
    }
    run(*options);
  });
}

} // namespace qwen3_mlx::cli
