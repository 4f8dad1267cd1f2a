// SPDX-License-Identifier: MIT
// llama.cpp's tensor names and row order, in Hugging Face's terms.
#pragma once

#include <cstdint>
#include <string>

#include "formats/gguf.h"

namespace qwen3_mlx {

class GgufNames {
 public:
  /// Throws FieldError where head counts, which the row order needs, are
  /// missing.
  explicit GgufNames(const GgufFile& file);

  /// "blk.0.attn_q.weight" -> "model.layers.0.self_attn.q_proj.weight"; a name
  /// that is not known stays.
  std::string canonical(const std::string& name) const;

  /// Head size where the rows of a tensor are permuted: queries and keys of
  /// architecture llama. Otherwise 0.
  std::int64_t permuted_head_dim(const GgufTensor& tensor) const;

 private:
  const GgufFile& file_;
  bool is_llama_ = false;
  std::int64_t n_heads_ = 1;
  std::int64_t n_kv_heads_ = 1;
};

/// The way back: "model.norm.weight" -> "output_norm.weight"; empty for what
/// has no name there.
std::string gguf_tensor_name(const std::string& canonical);

} // namespace qwen3_mlx
