// SPDX-License-Identifier: MIT
// write_tiny_chat_model FOLDER: the tiny chat model, for tests in Python.
#include <filesystem>
#include <iostream>

#include "testing/tiny_chat_model.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: write_tiny_chat_model FOLDER\n";
    return 2;
  }
  std::filesystem::create_directories(argv[1]);
  qwen3_mlx::testing::write_tiny_chat_model(argv[1]);
  return 0;
}
