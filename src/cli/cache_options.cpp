// SPDX-License-Identifier: MIT

#include "cli/cache_options.h"

#include <string>
#include <vector>

#include "cli/numbers.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* group = "Key/value cache";

} // namespace

void add_kv_options(CLI::App& command, KvOptions& options) {
  command
      .add_option(
          "--max-kv-size,-c,--ctx-size",
          options.max_kv_size,
          "Keep the first 4 and the last tokens up to this many")
      ->type_name("TOKENS")
      ->transform(whole_number(1))
      ->group(group);
  auto* bits = command
                   .add_option(
                       "--kv-bits",
                       options.kv_bits,
                       "Quantize keys and values to this size")
                   ->type_name("BITS")
                   ->check(CLI::IsMember(std::vector<int>{4, 8}))
                   ->transform(whole_number(1).description(""))
                   ->group(group);
  command
      .add_option(
          "--kv-group-size", options.kv_group_size, "Values that share a scale")
      ->capture_default_str()
      ->type_name("N")
      ->needs(bits)
      ->check(CLI::IsMember(std::vector<int>{32, 64, 128}))
      ->transform(whole_number(1).description(""))
      ->group(group);
  command
      .add_option(
          "--quantized-kv-start",
          options.quantized_kv_start,
          "Quantize from this many tokens on")
      ->capture_default_str()
      ->type_name("TOKENS")
      ->needs(bits)
      ->transform(whole_number(0))
      ->group(group);
}

CacheOptions cache_options(const KvOptions& options) {
  if (options.kv_bits.has_value() && options.max_kv_size.has_value()) {
    throw CLI::ValidationError(
        "--kv-bits", "a cache with --max-kv-size cannot be quantized");
  }
  CacheOptions cache;
  cache.max_kv_size = options.max_kv_size;
  cache.kv_bits = options.kv_bits;
  cache.kv_group_size = options.kv_group_size;
  cache.quantized_kv_start = options.quantized_kv_start;
  return cache;
}

} // namespace qwen3_mlx::cli
