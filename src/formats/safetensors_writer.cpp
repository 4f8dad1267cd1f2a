// SPDX-License-Identifier: MIT
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "formats/checked.h"
#include "formats/safetensors.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

void save_safetensors(
    const std::filesystem::path& path,
    std::span<const TensorToSave> tensors,
    const std::map<std::string, std::string>& metadata) {
  // Wide elements first, so that every tensor is aligned to its element.
  std::vector<const TensorToSave*> order;
  for (const auto& tensor : tensors) {
    order.push_back(&tensor);
  }
  std::stable_sort(
      order.begin(),
      order.end(),
      [](const TensorToSave* a, const TensorToSave* b) {
        return dtype_bits(a->dtype) > dtype_bits(b->dtype);
      });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    header["__metadata__"] = metadata;
  }
  std::set<std::string_view> names = {"__metadata__"};
  std::uint64_t offset = 0;
  for (const auto* tensor : order) {
    if (!names.insert(tensor->name).second) {
      throw TensorError(path, printable(tensor->name), "occurs twice");
    }
    std::uint64_t n_bits = dtype_bits(tensor->dtype);
    for (const auto dim : tensor->shape) {
      n_bits *= static_cast<std::uint64_t>(dim);
    }
    if (n_bits != tensor->data.size() * 8) {
      throw TensorError(
          path,
          printable(tensor->name),
          "has " + std::to_string(tensor->data.size()) + " bytes, expected " +
              std::to_string(n_bits / 8) + " for " +
              std::string(dtype_name(tensor->dtype)) + " " +
              to_string(tensor->shape));
    }
    const auto end = offset + tensor->data.size();
    header.push_back(
        {tensor->name,
         {{"dtype", dtype_name(tensor->dtype)},
          {"shape", tensor->shape},
          {"data_offsets", {offset, end}}}});
    offset = end;
  }
  auto text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' '); // data starts aligned
  const std::uint64_t n_bytes = text.size();

  AtomicFile file(path);
  file.write(&n_bytes, sizeof(n_bytes));
  file.write(text);
  for (const auto* tensor : order) {
    file.write(tensor->data.data(), tensor->data.size());
  }
  file.commit();
}

} // namespace qwen3_mlx
