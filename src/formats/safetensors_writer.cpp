// SPDX-License-Identifier: MIT
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "formats/checked.h"
#include "formats/safetensors.h"
#include "formats/safetensors_layout.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

std::uint64_t TensorSpec::n_bytes() const {
  std::uint64_t n_bits = dtype_bits(dtype);
  for (const auto dim : shape) {
    n_bits *= static_cast<std::uint64_t>(dim);
  }
  return n_bits / 8;
}

SafetensorsLayout layout_safetensors(
    const std::filesystem::path& path,
    std::span<const TensorSpec> tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(
      order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return dtype_bits(tensors[a].dtype) > dtype_bits(tensors[b].dtype);
      });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    header["__metadata__"] = metadata;
  }
  SafetensorsLayout layout;
  layout.offsets.resize(tensors.size());
  std::set<std::string_view> names = {"__metadata__"};
  std::uint64_t offset = 0;
  for (const auto idx : order) {
    const auto& tensor = tensors[idx];
    if (!names.insert(tensor.name).second) {
      throw TensorError(path, printable(tensor.name), "occurs twice");
    }
    const auto end = offset + tensor.n_bytes();
    header.push_back(
        {tensor.name,
         {{"dtype", dtype_name(tensor.dtype)},
          {"shape", tensor.shape},
          {"data_offsets", {offset, end}}}});
    layout.offsets[idx] = offset;
    offset = end;
  }
  auto text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' '); // data starts aligned
  const std::uint64_t n_bytes = text.size();
  layout.head.assign(reinterpret_cast<const char*>(&n_bytes), sizeof(n_bytes));
  layout.head += text;
  for (auto& each : layout.offsets) {
    each += layout.head.size();
  }
  layout.file_size = layout.head.size() + offset;
  return layout;
}

void save_safetensors(
    const std::filesystem::path& path,
    std::span<const TensorToSave> tensors,
    const std::map<std::string, std::string>& metadata,
    AtomicFile::Access access) {
  std::vector<TensorSpec> specs;
  for (const auto& tensor : tensors) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  const auto layout = layout_safetensors(path, specs, metadata);
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return layout.offsets[a] < layout.offsets[b];
  });
  for (std::size_t idx = 0; idx < tensors.size(); ++idx) {
    const auto& tensor = tensors[idx];
    if (tensor.data.size() != specs[idx].n_bytes()) {
      throw TensorError(
          path,
          printable(tensor.name),
          "has " + std::to_string(tensor.data.size()) + " bytes, expected " +
              std::to_string(specs[idx].n_bytes()) + " for " +
              std::string(dtype_name(tensor.dtype)) + " " +
              to_string(tensor.shape));
    }
  }

  AtomicFile file(path, access);
  file.write(layout.head);
  for (const auto idx : order) {
    file.write(tensors[idx].data.data(), tensors[idx].data.size());
  }
  file.commit();
}

} // namespace qwen3_mlx
