// SPDX-License-Identifier: MIT
// Serves one tokenizer over standard input and output to
// scripts/parity_tokenizer.py and the benchmark script.
//
//   tokenizer_pipe PATH        serves
//   tokenizer_pipe load PATH   prints milliseconds to load: wall, CPU time
//
// All numbers are little-endian uint32. A request is: operation, flags, count,
// then `count` items of a length and that many bytes (encode) or ids (decode).
// The answer has the items the same way round. Operations: 0 encode (flags: 1
// add special tokens, 2 special tokens are plain text), 1 decode (flags: 1 skip
// special tokens), 2 decode id by id, with StreamingDetokenizer, 3 time: encode
// all texts `flags` times on one thread, answer one item with the nanoseconds
// of the fastest round (low word, high word), 4 the same on all cores.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"

namespace {

using Ids = std::vector<std::uint32_t>;

template <typename T>
bool read_values(T* values, std::size_t count) {
  return std::fread(values, sizeof(T), count, stdin) == count;
}

template <typename Items>
bool read_items(Items& items) {
  for (auto& item : items) {
    std::uint32_t size = 0;
    if (!read_values(&size, 1)) {
      return false;
    }
    item.resize(size);
    if (!read_values(item.data(), size)) {
      return false;
    }
  }
  return true;
}

template <typename Items>
void write_items(const Items& items) {
  for (const auto& item : items) {
    const auto size = static_cast<std::uint32_t>(item.size());
    std::fwrite(&size, sizeof(size), 1, stdout);
    std::fwrite(item.data(), sizeof(item[0]), item.size(), stdout);
  }
  std::fflush(stdout);
}

std::string decode(
    const qwen3_mlx::Tokenizer& tokenizer,
    const Ids& ids,
    bool skip_special,
    bool streaming) {
  if (!streaming) {
    return tokenizer.decode(ids, skip_special);
  }
  qwen3_mlx::StreamingDetokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const auto id : ids) {
    text += detokenizer.add(id);
  }
  return text + detokenizer.finish();
}

std::vector<Ids> time_encode(
    const qwen3_mlx::Tokenizer& tokenizer,
    const std::vector<std::string>& texts,
    std::uint32_t rounds,
    bool all_cores) {
  auto best = std::numeric_limits<std::int64_t>::max();
  for (std::uint32_t round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    const auto ids =
        tokenizer.encode_batch(texts, {}, /* num_threads */ all_cores ? 0 : 1);
    const auto time = std::chrono::steady_clock::now() - start;
    best = std::min<std::int64_t>(best, std::chrono::nanoseconds(time).count());
  }
  const auto value = static_cast<std::uint64_t>(best);
  return {
      {static_cast<std::uint32_t>(value),
       static_cast<std::uint32_t>(value >> 32)}};
}

void print_load(const char* path) {
  const auto start = std::chrono::steady_clock::now();
  const auto cpu_start = std::clock();
  const auto tokenizer = qwen3_mlx::load_tokenizer(path);
  const auto cpu_time = std::clock() - cpu_start;
  const std::chrono::duration<double, std::milli> time =
      std::chrono::steady_clock::now() - start;
  std::printf(
      "%.3f %.3f\n",
      time.count(),
      1e3 * static_cast<double>(cpu_time) / CLOCKS_PER_SEC);
}

void serve(const qwen3_mlx::Tokenizer& tokenizer) {
  struct {
    std::uint32_t operation, flags, count;
  } request{};
  while (read_values(&request, 1)) {
    if (request.operation == 1 || request.operation == 2) {
      std::vector<Ids> items(request.count);
      if (!read_items(items)) {
        return;
      }
      std::vector<std::string> texts;
      texts.reserve(items.size());
      for (const Ids& ids : items) {
        texts.push_back(decode(
            tokenizer, ids, (request.flags & 1) != 0, request.operation == 2));
      }
      write_items(texts);
      continue;
    }
    std::vector<std::string> texts(request.count);
    if (!read_items(texts)) {
      return;
    }
    if (request.operation == 0) {
      write_items(tokenizer.encode_batch(
          texts,
          {.add_special_tokens = (request.flags & 1) != 0,
           .parse_special = (request.flags & 2) == 0}));
    } else {
      write_items(
          time_encode(tokenizer, texts, request.flags, request.operation == 4));
    }
  }
}

} // namespace

int main(int argc, char** argv) {
  const bool load_only = argc == 3 && std::string_view(argv[1]) == "load";
  if (argc != 2 && !load_only) {
    std::fprintf(stderr, "usage: tokenizer_pipe [load] PATH\n");
    return 2;
  }
  try {
    if (load_only) {
      print_load(argv[2]);
    } else {
      serve(qwen3_mlx::load_tokenizer(argv[1]));
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
