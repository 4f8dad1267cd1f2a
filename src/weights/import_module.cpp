// SPDX-License-Identifier: MIT
#include "weights/import_module.h"

#include <utility>

#include "weights/import_checks.h"

namespace qwen3_mlx {

ImportModule::ImportModule(
    const std::filesystem::path& path,
    TensorMap& tensors,
    std::string name)
    : path_(path), tensors_(tensors), name_(std::move(name)) {}

std::optional<StoredTensor> ImportModule::find(const std::string& leaf) {
  auto part = tensors_.extract(name_ + leaf);
  return part.empty() ? std::nullopt : std::optional(std::move(part.mapped()));
}

StoredTensor ImportModule::take(const std::string& leaf) {
  auto tensor = find(leaf);
  if (!tensor) {
    throw TensorError(path_, printable(name_ + leaf), "is missing");
  }
  return std::move(*tensor);
}

void ImportModule::add(const std::string& leaf, StoredTensor tensor) {
  const auto [place, added] =
      tensors_.try_emplace(name_ + leaf, std::move(tensor));
  if (!added) {
    fail(place->second, "is there beside a packed matrix of the same name");
  }
}

void ImportModule::add_rows(
    StoredTensor packed,
    std::vector<std::int64_t> shape,
    std::shared_ptr<const RowSource> rows) {
  packed.type = StoredType::imported;
  packed.shape = std::move(shape);
  packed.rows = std::move(rows);
  add(".weight", std::move(packed));
}

} // namespace qwen3_mlx
