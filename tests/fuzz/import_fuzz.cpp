// SPDX-License-Identifier: MIT
// A checkpoint of AWQ, GPTQ, FP8, compressed-tensors or bitsandbytes: the first
// byte picks one of the configs, the rest is model.safetensors. Refused by an
// Error, or every row of what was imported can be read.
//
// IMPORT_FUZZ_FORMAT=NAME holds on to one config, whatever the first byte; at
// the end each config's runs, and those that got as far as rows, are printed.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/fuzz_file.h"
#include "qwen3_mlx/error.h"
#include "weights/checkpoint.h"
#include "weights/stored_rows.h"

extern "C" std::size_t
LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

struct Format {
  std::string_view name;
  std::string_view config;
};

constexpr std::array<Format, 13> formats{{
    {"fp8-block", R"({"quant_method":"fp8","weight_block_size":[4,4]})"},
    {"fp8", R"({"quant_method":"fp8"})"},
    {"awq", R"({"quant_method":"awq","bits":4,"group_size":8})"},
    {"gptq-4", R"({"quant_method":"gptq","bits":4,"group_size":8})"},
    {"gptq-3-v2", R"({"quant_method":"gptq","bits":3,"group_size":-1,
        "checkpoint_format":"gptq_v2"})"},
    {"pack-quantized-4",
     R"({"quant_method":"compressed-tensors","format":"pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":4,"group_size":8,
        "strategy":"group"}}}})"},
    {"pack-quantized-8",
     R"({"quant_method":"compressed-tensors","format":"pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":8,"strategy":"channel",
        "symmetric":false}}}})"},
    {"float-quantized",
     R"({"quant_method":"compressed-tensors","format":"float-quantized",
        "config_groups":{"g":{"weights":{"num_bits":8,"type":"float",
        "strategy":"channel"}}}})"},
    {"gptq-2", R"({"quant_method":"gptq","bits":2,"group_size":4})"},
    {"nvfp4-pack-quantized",
     R"({"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":4,"type":"float",
        "strategy":"tensor_group","group_size":16}}}})"},
    {"mxfp4-pack-quantized",
     R"({"quant_method":"compressed-tensors","format":"mxfp4-pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":4,"type":"float",
        "strategy":"group","group_size":32}}}})"},
    {"bitsandbytes-nf4", R"({"quant_method":"bitsandbytes","load_in_4bit":true,
        "bnb_4bit_quant_type":"nf4"})"},
    {"bitsandbytes-fp4", R"({"quant_method":"bitsandbytes","load_in_4bit":true,
        "bnb_4bit_quant_type":"fp4"})"},
}};

// What a fuzzer can claim without holding it is not worth its time.
constexpr std::uint64_t max_elements = 1 << 16;

std::optional<std::size_t> pinned_format() {
  const char* name = std::getenv("IMPORT_FUZZ_FORMAT");
  if (name == nullptr) {
    return std::nullopt;
  }
  const auto* found =
      std::find_if(formats.begin(), formats.end(), [&](const Format& format) {
        return format.name == name;
      });
  if (found == formats.end()) {
    std::fprintf(stderr, "IMPORT_FUZZ_FORMAT: no %s; known:", name);
    for (const auto& format : formats) {
      std::fprintf(stderr, " %s", std::string(format.name).c_str());
    }
    std::fprintf(stderr, "\n");
    std::exit(1);
  }
  return static_cast<std::size_t>(found - formats.begin());
}

/// What one process does: its file, and how far its runs got.
class Target {
 public:
  Target() : file_("model.safetensors"), pinned_(pinned_format()) {}
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  ~Target() {
    for (std::size_t idx = 0; idx < formats.size(); ++idx) {
      if (n_runs_[idx] > 0) {
        std::fprintf(
            stderr,
            "format %s: %zu runs, of %zu rows were read\n",
            std::string(formats[idx].name).c_str(),
            n_runs_[idx],
            n_read_[idx]);
      }
    }
  }

  void run(const std::uint8_t* data, std::size_t n) {
    const auto idx = pinned_.value_or(data[0] % formats.size());
    if (idx != written_) {
      file_.directory().write(
          "config.json",
          R"({"quantization_config":)" + std::string(formats[idx].config) +
              "}");
      written_ = idx;
    }
    ++n_runs_[idx];
    const auto path = file_.write(data + 1, n - 1);
    try {
      if (read_all(qwen3_mlx::Checkpoint::open(path.parent_path())) > 0) {
        ++n_read_[idx];
        if (read_inputs_.size() < max_read_inputs) {
          read_inputs_.emplace_back(data, data + n);
        }
      }
    } catch (const qwen3_mlx::Error&) {
    }
  }

  /// The first inputs of which rows were read.
  const std::vector<std::vector<std::uint8_t>>& read_inputs() const {
    return read_inputs_;
  }

 private:
  static constexpr std::size_t max_read_inputs = 256;

  static std::size_t read_all(const qwen3_mlx::Checkpoint& checkpoint) {
    std::size_t n_read = 0;
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      std::uint64_t n_elements = 1;
      for (const auto dim : tensor.shape) {
        n_elements *= static_cast<std::uint64_t>(dim);
      }
      if (n_elements > max_elements) {
        continue;
      }
      if (tensor.shape.empty() || n_elements == 0) {
        continue;
      }
      const auto n_rows =
          n_elements / static_cast<std::uint64_t>(tensor.shape.back());
      if (tensor.rows == nullptr) {
        std::vector<std::byte> bytes(tensor.n_bytes());
        qwen3_mlx::read_stored_rows(tensor, n_rows, 0, n_rows, bytes.data());
        n_read += name.ends_with(".scales") ? 1 : 0; // imported, still packed
        continue;
      }
      std::vector<float> values(n_elements);
      tensor.rows->read_rows(0, n_rows, values.data());
      ++n_read;
    }
    return n_read;
  }

  qwen3_mlx::testing::FuzzFile file_;
  std::optional<std::size_t> pinned_;
  std::size_t written_ = formats.size();
  std::array<std::size_t, formats.size()> n_runs_{};
  std::array<std::size_t, formats.size()> n_read_{};
  std::vector<std::vector<std::uint8_t>> read_inputs_;
};

Target& target() {
  static Target only;
  return only;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  if (n > 0) {
    target().run(data, n);
  }
  return 0;
}

/// Mostly a change of the header or of the data alone, after which lengths are
/// still true: so what reads tensors gets to see it. Every fourth begins with
/// an input that was read to its last row.
extern "C" std::size_t LLVMFuzzerCustomMutator(
    std::uint8_t* data,
    std::size_t size,
    std::size_t max_size,
    unsigned int seed) {
  constexpr std::size_t header_at = 1 + sizeof(std::uint64_t);
  std::minstd_rand random(seed);
  const auto& read_inputs = target().read_inputs();
  if (seed % 8 <= 1 && !read_inputs.empty()) {
    const auto& input = read_inputs[random() % read_inputs.size()];
    if (input.size() <= max_size) {
      std::copy(input.begin(), input.end(), data);
      size = input.size();
    }
  }
  std::uint64_t header_size = 0;
  if (size > header_at) {
    std::memcpy(&header_size, data + 1, sizeof(header_size));
  }
  if (seed % 8 == 7 || header_size == 0 || header_size > size - header_at) {
    return LLVMFuzzerMutate(data, size, max_size);
  }
  auto* header = data + header_at;
  const auto data_at = header_at + header_size;
  if (seed % 8 <= 3 && data_at < size) {
    LLVMFuzzerMutate(data + data_at, size - data_at, size - data_at);
    return size;
  }
  if (seed % 8 <= 5) { // another digit of a shape or an offset
    std::vector<std::size_t> digits;
    for (std::size_t idx = 0; idx < header_size; ++idx) {
      if (header[idx] >= '0' && header[idx] <= '9') {
        digits.push_back(idx);
      }
    }
    if (!digits.empty()) {
      header[digits[random() % digits.size()]] =
          static_cast<std::uint8_t>('0' + random() % 10);
      return size;
    }
  }
  const std::vector<std::uint8_t> rest(data + data_at, data + size);
  header_size =
      LLVMFuzzerMutate(header, header_size, max_size - header_at - rest.size());
  std::memcpy(data + 1, &header_size, sizeof(header_size));
  std::copy(rest.begin(), rest.end(), header + header_size);
  return header_at + header_size + rest.size();
}
