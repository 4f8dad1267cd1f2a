// SPDX-License-Identifier: MIT
// Any bytes as model.safetensors.index.json beside one shard, "a.safetensors"
// with a tensor "t": refused by an Error, or that tensor and no other.
#include <cstdlib>

#include "fuzz/fuzz_file.h"
#include "qwen3_mlx/error.h"
#include "testing/file_builders.h"
#include "weights/checkpoint.h"

namespace {

/// The index and the shard beside it.
struct Shards {
  Shards() : index("model.safetensors.index.json") {
    index.directory().write(
        "a.safetensors",
        qwen3_mlx::testing::safetensors_bytes(
            R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1));
  }
  qwen3_mlx::testing::FuzzFile index;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  static Shards shards;
  const auto path = shards.index.write(data, n);
  try {
    const auto checkpoint = qwen3_mlx::Checkpoint::open(path.parent_path());
    if (checkpoint.tensors().size() != 1 || !checkpoint.find("t")) {
      std::abort();
    }
  } catch (const qwen3_mlx::Error&) {
  }
  return 0;
}
