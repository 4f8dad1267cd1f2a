// SPDX-License-Identifier: MIT
#include "convert/bit_rules.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "base/thread_pool.h"
#include "convert/bit_allocation.h"
#include "convert/calibrated_quantizer.h"
#include "convert/damage_meter.h"
#include "convert/recipe.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

/// A matrix that gets as many bits as pay.
struct Choice {
  std::string module;
  StoredMatrix matrix;
  QuantFormat format;
  DType dtype; ///< Of its scales.
  int layer;   ///< The first that feels it: see DamageMeter::damage().
  std::vector<float> costs; ///< Of a squared error, by column.
};

/// For rows [first, first + count), each number's error weighed by its input.
std::array<double, bit_widths.size()> output_errors(const Choice& choice) {
  constexpr std::uint64_t max_rows = 48;
  const auto columns = static_cast<std::size_t>(choice.matrix.n_columns());
  const auto group_size = static_cast<std::size_t>(choice.format.group_size);
  const auto n_rows = choice.matrix.n_rows();
  const auto step = std::max<std::uint64_t>(1, n_rows / max_rows);
  std::array<double, bit_widths.size()> errors{};
  std::vector<float> row(columns);
  std::vector<std::byte> scratch;
  for (std::uint64_t idx = 0; idx < n_rows; idx += step) {
    choice.matrix.read_rows(idx, 1, row.data(), scratch);
    for (std::size_t at = 0; at < columns; at += group_size) {
      const auto values = std::span<const float>(row).subspan(at, group_size);
      const auto costs = std::span(choice.costs).subspan(at, group_size);
      for (std::size_t width = 0; width < bit_widths.size(); ++width) {
        const auto bits = bit_widths[width];
        const auto grid = search_group(values, costs, bits, choice.dtype);
        errors[width] += group_error(values, costs, bits, grid);
      }
    }
  }
  return errors;
}

/// All of a matrix's numbers as `bits` bits hold them, or, with 0, exact.
mx::array numbers(const Choice& choice, int bits, ThreadPool& pool) {
  constexpr std::uint64_t rows_per_chunk = 16;
  const auto columns = static_cast<std::size_t>(choice.matrix.n_columns());
  const auto group_size = static_cast<std::size_t>(choice.format.group_size);
  const auto n_rows = choice.matrix.n_rows();
  mx::Shape shape;
  for (const auto dim : choice.matrix.shape()) {
    shape.push_back(static_cast<int>(dim));
  }
  auto out = mx::zeros(shape, mx::float32, mx::Device(mx::Device::cpu));
  mx::eval(out);
  auto* const data = out.data<float>();
  const auto n_chunks = (n_rows + rows_per_chunk - 1) / rows_per_chunk;
  pool.parallel_for(static_cast<int>(n_chunks), [&](int chunk) {
    std::vector<std::byte> scratch;
    const auto first = static_cast<std::uint64_t>(chunk) * rows_per_chunk;
    const auto count = std::min(rows_per_chunk, n_rows - first);
    auto* const rows = data + first * columns;
    choice.matrix.read_rows(first, count, rows, scratch);
    for (std::size_t at = 0; bits > 0 && at < count * columns;
         at += group_size) {
      const std::span<float> values(rows + at, group_size);
      round_to_group(
          values,
          std::span(choice.costs).subspan(at % columns, group_size),
          bits,
          choice.dtype);
    }
  });
  return out;
}

std::vector<float> vector_of(mx::array array) {
  array = mx::contiguous(array, false, mx::Device(mx::Device::cpu));
  mx::eval(array);
  return {array.data<float>(), array.data<float>() + array.size()};
}

std::vector<Choice> choices_of(
    const Checkpoint& checkpoint,
    const ModelArgs& args,
    const ConvertOptions& options,
    const DTypeOf& dtype_of,
    CalibrationRun& run) {
  const Recipe recipe(options, args);
  std::vector<Choice> choices;
  const auto add = [&](const InputMoments& energies, int layer) {
    for (const auto& [module, energy] : energies) {
      if (checkpoint.find(module + ".weight") == nullptr) {
        continue;
      }
      StoredMatrix matrix(checkpoint, args.quantization, module);
      const auto format = recipe.format(module, matrix.shape().back());
      if (format != *options.quantize) {
        continue; // someone said what it gets
      }
      const auto dtype = dtype_of(module, matrix);
      const bool is_table = module == "model.embed_tokens";
      choices.push_back(
          {module,
           std::move(matrix),
           format,
           dtype,
           is_table ? 0 : layer,
           vector_of(energy)});
    }
  };
  for (int layer = 0; layer < run.n_layers(); ++layer) {
    add(run.next_layer(MomentKind::diagonal), layer);
  }
  add(run.head(MomentKind::diagonal), run.n_layers());
  run.rewind();
  return choices;
}

/// Damages that are measured, of one matrix or of all.
class Measurement {
 public:
  Measurement(
      const std::vector<Choice>& choices,
      const CalibrationRun& run,
      int n_threads)
      : choices_(choices), meter_(run.model(), run.tokens()), pool_(n_threads) {
    for (std::size_t idx = 0; idx < choices.size(); ++idx) {
      by_module_[choices[idx].module] = idx;
    }
  }

  double of_one(std::size_t which, int bits) {
    return meter_.damage(choices_[which].layer, [&](const std::string& module) {
      return weights(
          module, [&](std::size_t idx) { return idx == which ? bits : 0; });
    });
  }

  double of_all(const BitAllocation& allocation) {
    return meter_.damage(0, [&](const std::string& module) {
      return weights(
          module, [&](std::size_t idx) { return bit_widths[allocation[idx]]; });
    });
  }

 private:
  /// bits_of(choice): 0 for exact.
  template <class BitsOf>
  std::optional<mx::array>
  weights(const std::string& module, const BitsOf& bits_of) {
    const auto found = by_module_.find(module);
    if (found == by_module_.end()) {
      return std::nullopt;
    }
    const auto bits = bits_of(found->second);
    if (bits == 0 && !sibling_changes(module, bits_of)) {
      return std::nullopt;
    }
    return numbers(choices_[found->second], bits, pool_);
  }

  /// The two stacks of experts are given together.
  template <class BitsOf>
  bool sibling_changes(const std::string& module, const BitsOf& bits_of) const {
    constexpr std::string_view gate = "switch_mlp.gate_proj";
    constexpr std::string_view up = "switch_mlp.up_proj";
    const bool is_gate = module.ends_with(gate);
    if (!is_gate && !module.ends_with(up)) {
      return false;
    }
    const auto stem =
        module.substr(0, module.size() - (is_gate ? gate : up).size());
    const auto found = by_module_.find(stem + std::string(is_gate ? up : gate));
    return found != by_module_.end() && bits_of(found->second) != 0;
  }

  const std::vector<Choice>& choices_;
  std::map<std::string, std::size_t> by_module_;
  DamageMeter meter_;
  ThreadPool pool_;
};

} // namespace

std::vector<ModuleRule> bit_rules(
    const Checkpoint& checkpoint,
    const ModelArgs& args,
    const ConvertOptions& options,
    const DTypeOf& dtype_of,
    CalibrationRun& run) {
  const auto choices = choices_of(checkpoint, args, options, dtype_of, run);
  if (choices.empty()) {
    return {};
  }
  std::vector<BitCandidate> candidates;
  candidates.reserve(choices.size());
  for (const auto& choice : choices) {
    candidates.push_back(
        {.n_elements = choice.matrix.n_rows() * choice.matrix.n_columns(),
         .overhead = 2.0 * static_cast<double>(dtype_bits(choice.dtype)) /
             static_cast<double>(choice.format.group_size)});
  }
  const double target = *options.calibration->target_bits;
  const auto uniform = widest_uniform(candidates, target);
  if (!uniform) {
    throw InvalidArgument(
        "--target-bits: too few; 2 bits and the scales of their groups take "
        "more");
  }
  Measurement measurement(choices, run, options.n_threads);
  for (std::size_t idx = 0; idx < choices.size(); ++idx) {
    const double damage = measurement.of_one(idx, bit_widths[*uniform]);
    const auto errors = output_errors(choices[idx]);
    for (std::size_t width = 0; width < errors.size(); ++width) {
      candidates[idx].damages[width] =
          damage * errors[width] / std::max(errors[*uniform], 1e-30);
    }
  }
  std::set<BitAllocation> allocations;
  for (std::size_t least = 0; least <= *uniform; ++least) {
    allocations.insert(allocate_bits(candidates, target, least));
  }
  BitAllocation best = *allocations.begin();
  if (allocations.size() > 1) {
    double least_damage = std::numeric_limits<double>::infinity();
    for (const auto& allocation : allocations) {
      const double damage = measurement.of_all(allocation);
      if (damage < least_damage) {
        least_damage = damage;
        best = allocation;
      }
    }
  }
  std::vector<ModuleRule> rules;
  for (std::size_t idx = 0; idx < choices.size(); ++idx) {
    auto format = choices[idx].format;
    format.bits = bit_widths[best[idx]];
    rules.push_back({choices[idx].module, format});
  }
  return rules;
}

} // namespace qwen3_mlx
