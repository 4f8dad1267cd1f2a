// SPDX-License-Identifier: MIT
#include "testing/tiny_checkpoint.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <nlohmann/json.hpp>

static_assert(
    std::endian::native == std::endian::little,
    "safetensors is little endian");

namespace qwen3_mlx::testing {
namespace {

using Json = nlohmann::json;
// safetensors files list their tensors in the order of their bytes.
using OrderedJson = nlohmann::ordered_json;

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("cannot open " + path.string());
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file) {
    throw std::runtime_error("cannot write " + path.string());
  }
}

std::uint64_t fnv1a64(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const unsigned char byte : text) {
    hash = (hash ^ byte) * 0x100000001b3;
  }
  return hash;
}

// The finalizer of splitmix64.
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::size_t num_elements(const TinyTensor& tensor) {
  std::size_t count = 1;
  for (const auto length : tensor.shape) {
    count *= static_cast<std::size_t>(length);
  }
  return count;
}

void write_safetensors(
    const std::filesystem::path& path,
    const std::vector<const TinyTensor*>& tensors,
    std::uint64_t seed) {
  OrderedJson header = {{"__metadata__", {{"format", "pt"}}}};
  std::uint64_t offset = 0;
  for (const auto* tensor : tensors) {
    const auto end = offset + num_elements(*tensor) * sizeof(float);
    header[tensor->name] = {
        {"dtype", "F32"},
        {"shape", tensor->shape},
        {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');

  const std::uint64_t header_size = text.size();
  std::string bytes(sizeof header_size, '\0');
  std::memcpy(bytes.data(), &header_size, sizeof header_size);
  bytes += text;
  for (const auto* tensor : tensors) {
    const auto values = tiny_values(*tensor, seed);
    const auto n_bytes = values.size() * sizeof(float);
    bytes.resize(bytes.size() + n_bytes);
    std::memcpy(bytes.data() + bytes.size() - n_bytes, values.data(), n_bytes);
  }
  write_text(path, bytes);
}

// The one tensor of a golden's logits.safetensors.
std::vector<float> read_only_tensor(const std::filesystem::path& path) {
  const std::string bytes = read_text(path);
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  const std::size_t start = sizeof header_size + header_size;
  std::vector<float> values((bytes.size() - start) / sizeof(float));
  std::memcpy(
      values.data(), bytes.data() + start, values.size() * sizeof(float));
  return values;
}

std::string shard_name(int shard_idx, int num_shards) {
  char name[64];
  std::snprintf(
      name,
      sizeof name,
      "model-%05d-of-%05d.safetensors",
      shard_idx + 1,
      num_shards);
  return name;
}

} // namespace

std::vector<std::string> tiny_case_names(const std::filesystem::path& goldens) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(goldens)) {
    if (std::filesystem::exists(entry.path() / "case.json")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

TinyCase
load_tiny_case(const std::filesystem::path& goldens, std::string_view name) {
  const auto folder = goldens / name;
  const auto json = Json::parse(read_text(folder / "case.json"));
  TinyCase result;
  result.name = json.at("name");
  result.config = json.at("config").dump();
  result.seed = json.at("seed");
  result.num_shards = json.at("num_shards");
  for (const auto& row : json.at("tensors")) {
    result.tensors.push_back(
        {.name = row.at("name"),
         .shape = row.at("shape"),
         .center = row.at("center"),
         .scale = row.at("scale")});
  }
  result.checksum = std::stoull(
      json.at("checksum").get<std::string>(), nullptr, /* base */ 16);
  result.prompt_ids = json.at("prompt_ids").get<std::vector<std::uint32_t>>();
  result.greedy_ids = json.at("greedy_ids").get<std::vector<std::uint32_t>>();
  result.logits = read_only_tensor(folder / "logits.safetensors");
  return result;
}

std::vector<float> tiny_values(const TinyTensor& tensor, std::uint64_t seed) {
  const std::uint64_t state = fnv1a64(tensor.name) + seed * 0xd1342543de82ef95;
  std::vector<float> values(num_elements(tensor));
  for (std::size_t idx = 0; idx < values.size(); ++idx) {
    const std::uint64_t word = mix(state + (idx + 1) * 0x9e3779b97f4a7c15);
    const double u = static_cast<double>(word >> 40) * 0x1p-23 - 1.0;
    values[idx] = static_cast<float>(
        static_cast<double>(tensor.center) +
        static_cast<double>(tensor.scale) * u);
  }
  return values;
}

void write_tiny_checkpoint(
    const TinyCase& tiny_case,
    const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  write_text(folder / "config.json", tiny_case.config);

  const int num_shards = tiny_case.num_shards;
  Json weight_map = Json::object();
  std::uint64_t total_size = 0;
  for (int shard_idx = 0; shard_idx < num_shards; ++shard_idx) {
    const std::string file_name = num_shards == 1
        ? "model.safetensors"
        : shard_name(shard_idx, num_shards);
    // Every num_shards-th tensor: layers and even one module's tensors lie in
    // different files.
    std::vector<const TinyTensor*> own;
    for (auto idx = static_cast<std::size_t>(shard_idx);
         idx < tiny_case.tensors.size();
         idx += static_cast<std::size_t>(num_shards)) {
      const auto& tensor = tiny_case.tensors[idx];
      own.push_back(&tensor);
      weight_map[tensor.name] = file_name;
      total_size += num_elements(tensor) * sizeof(float);
    }
    write_safetensors(folder / file_name, own, tiny_case.seed);
  }
  if (num_shards > 1) {
    const Json index = {
        {"metadata", {{"total_size", total_size}}}, {"weight_map", weight_map}};
    write_text(folder / "model.safetensors.index.json", index.dump());
  }
}

std::uint64_t tiny_checksum(const TinyCase& tiny_case) {
  std::uint64_t sum = 0;
  std::uint64_t odd = 1;
  for (const auto& tensor : tiny_case.tensors) {
    for (const float value : tiny_values(tensor, tiny_case.seed)) {
      sum += std::bit_cast<std::uint32_t>(value) * odd;
      odd += 2;
    }
  }
  return sum;
}

} // namespace qwen3_mlx::testing
