// SPDX-License-Identifier: MIT
// The tiny chat model as handlers see it.
#pragma once

#include "server/served_model.h"
#include "testing/temp_dir.h"
#include "testing/tiny_chat_model.h"

namespace qwen3_mlx::server::testing {

inline ServedModel served_tiny() {
  const qwen3_mlx::testing::TempDir folder;
  qwen3_mlx::testing::write_tiny_chat_model(folder.path());
  return {
      .name = "tiny",
      .created = 1,
      .fingerprint = "tiny-1",
      .tokenizer = load_tokenizer(folder.path()),
      .chat_template = load_chat_template(folder.path()),
      .tool_format = ToolCallFormat::hermes_json,
      .stop_ids = {264},
      .vocab_size = 272,
      .max_context = 4096,
      .max_text = 4096};
}

} // namespace qwen3_mlx::server::testing
