// SPDX-License-Identifier: MIT
#include "weights/row_copy.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "formats/checked.h"
#include "formats/ggml_dequantize.h"
#include "mlx/types/half_types.h"
#include "qwen3_mlx/error.h"
#include "weights/ggml_blocks.h"

namespace qwen3_mlx {
namespace {

// Large enough that a read is worth its system call, small enough that the
// scratch of a thread stays in its cache level and threads share the work.
constexpr std::uint64_t chunk_bytes = std::uint64_t{1} << 20;

/// A part of one copy.
struct Chunk {
  const RowCopy* copy;
  std::uint64_t first_row;
  std::uint64_t n_rows;
  std::size_t stage;
};

std::vector<Chunk> cut(const std::vector<CopyStage>& stages) {
  std::vector<Chunk> chunks;
  for (std::size_t stage = 0; stage < stages.size(); ++stage) {
    for (const auto& copy : stages[stage].copies) {
      const auto step =
          std::max<std::uint64_t>(1, chunk_bytes / copy.row_bytes);
      for (std::uint64_t row = 0; row < copy.n_rows; row += step) {
        chunks.push_back(
            {&copy, row, std::min(step, copy.n_rows - row), stage});
      }
    }
  }
  return chunks;
}

template <typename From, typename To>
void convert(const std::byte* from, std::byte* to, std::uint64_t count) {
  for (std::uint64_t idx = 0; idx < count; ++idx) {
    From value;
    std::memcpy(&value, from + idx * sizeof(From), sizeof(From));
    const auto out = static_cast<To>(static_cast<float>(value));
    std::memcpy(to + idx * sizeof(To), &out, sizeof(To));
  }
}

template <typename From>
void convert_from(
    const std::byte* from,
    const RowTarget& target,
    std::byte* to,
    std::uint64_t count) {
  if (target.dtype == mx::float32) {
    convert<From, float>(from, to, count);
  } else if (target.dtype == mx::float16) {
    convert<From, mx::float16_t>(from, to, count);
  } else {
    convert<From, mx::bfloat16_t>(from, to, count);
  }
}

/// Where row `row` of the file belongs: rows of a head lie as (pair, half).
std::uint64_t target_row(const RowCopy& copy, std::uint64_t row) {
  if (copy.permuted_head_dim == 0) {
    return row;
  }
  const auto head_dim = static_cast<std::uint64_t>(copy.permuted_head_dim);
  const auto in_head = row % head_dim;
  const auto pair = in_head / 2;
  const auto half = in_head % 2;
  return row - in_head + half * (head_dim / 2) + pair;
}

/// One row of ggml blocks: the packed numbers, and per block a scale and bias.
void unpack_blocks(
    const RowCopy& copy,
    const std::byte* from,
    std::uint64_t to_row) {
  std::array<std::byte*, 3> to{};
  for (std::size_t idx = 0; idx < to.size(); ++idx) {
    to[idx] = copy.targets[idx].data + to_row * copy.targets[idx].row_bytes;
  }
  const auto block_bytes = ggml_block_bytes(copy.codec);
  const auto n_blocks = copy.row_bytes / block_bytes;
  const auto packed_bytes = copy.targets[0].row_bytes / n_blocks;
  for (std::uint64_t idx = 0; idx < n_blocks; ++idx) {
    const auto affine = unpack_ggml_block(
        copy.codec, from + idx * block_bytes, to[0] + idx * packed_bytes);
    const std::array<mx::float16_t, 2> pair = {affine.scale, affine.bias};
    for (std::size_t which = 0; which < pair.size(); ++which) {
      if (!std::isfinite(static_cast<float>(pair[which]))) {
        throw TensorError(
            copy.file->path(),
            printable(copy.tensor),
            "block " + std::to_string(idx) + " of a row has a scale of " +
                std::to_string(static_cast<float>(affine.scale)) +
                ", too large for float16 weights or not a number");
      }
      const auto& target = copy.targets[1 + which];
      convert_from<mx::float16_t>(
          reinterpret_cast<const std::byte*>(&pair[which]),
          target,
          to[1 + which] + idx * target.dtype.size(),
          1);
    }
  }
}

/// One row of MXFP4 blocks: the packed numbers, and per block an exponent.
void unpack_mxfp4(
    const RowCopy& copy,
    const std::byte* from,
    std::uint64_t to_row) {
  auto* packed = copy.targets[0].data + to_row * copy.targets[0].row_bytes;
  auto* scales = copy.targets[1].data + to_row * copy.targets[1].row_bytes;
  const auto block_bytes = ggml_block_bytes(copy.codec);
  for (std::uint64_t at = 0; at < copy.row_bytes; at += block_bytes) {
    *scales++ = from[at];
    repack_ggml_nibbles(from + at + 1, packed);
    packed += 16;
  }
}

/// One row of ggml blocks that MLX has no packing for.
void dequantize_row(
    const RowCopy& copy,
    const std::byte* from,
    std::byte* to,
    const RowTarget& target) {
  // A super-block at a time: its values stay in the first cache.
  constexpr std::size_t part = 256;
  std::array<float, part> values;
  const auto block = ggml_block(*copy.ggml_type);
  const auto itemsize = target.dtype.size();
  for (std::uint64_t done = 0; done < copy.row_elements;) {
    const auto count = static_cast<std::size_t>(
        std::min<std::uint64_t>(part, copy.row_elements - done));
    dequantize_ggml(*copy.ggml_type, from, count, values.data());
    convert_from<float>(
        reinterpret_cast<const std::byte*>(values.data()), target, to, count);
    from += count / block.n_elements * block.n_bytes;
    to += count * itemsize;
    done += count;
  }
}

/// SplitMix64, one number a counter, so that any row can be made alone.
std::uint64_t noise(std::uint64_t counter) {
  std::uint64_t z = counter * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

void fill_random(const RowCopy& copy, std::uint64_t row) {
  const auto& target = copy.targets[0];
  auto* to = target.data + row * target.row_bytes;
  const auto first = copy.seed + row * copy.row_elements;
  const auto itemsize = target.dtype.size();
  for (std::uint64_t idx = 0; idx < copy.row_elements; ++idx) {
    const auto bits = noise(first + idx);
    if (mx::issubdtype(target.dtype, mx::floating)) {
      const auto unit = static_cast<float>(bits >> 40) * 0x1p-23f - 1.0f;
      const float value = copy.random_center + copy.random_scale * unit;
      convert_from<float>(
          reinterpret_cast<const std::byte*>(&value),
          target,
          to + idx * itemsize,
          1);
    } else if (itemsize == 1) {
      // Scales of the fp modes: exponents near 1 in both of their formats.
      to[idx] = static_cast<std::byte>(copy.random_center);
    } else {
      const auto word = static_cast<std::uint32_t>(bits) & copy.random_mask;
      std::memcpy(to + idx * itemsize, &word, sizeof(word));
    }
  }
}

void decode_row(
    const RowCopy& copy,
    const std::byte* from,
    std::uint64_t to_row) {
  const auto& target = copy.targets[0];
  auto* to = target.data + to_row * target.row_bytes;
  switch (copy.codec) {
  case RowCodec::raw:
    std::memcpy(to, from, copy.row_bytes);
    break;
  case RowCodec::floats:
    if (copy.type == StoredType::f32) {
      convert_from<float>(from, target, to, copy.row_elements);
    } else if (copy.type == StoredType::f16) {
      convert_from<mx::float16_t>(from, target, to, copy.row_elements);
    } else {
      convert_from<mx::bfloat16_t>(from, target, to, copy.row_elements);
    }
    break;
  case RowCodec::q4_0:
  case RowCodec::q4_1:
  case RowCodec::q8_0:
    unpack_blocks(copy, from, to_row);
    break;
  case RowCodec::mxfp4:
    unpack_mxfp4(copy, from, to_row);
    break;
  case RowCodec::ggml:
    dequantize_row(copy, from, to, target);
    break;
  case RowCodec::imported:
  case RowCodec::random:
    break;
  }
}

void copy_imported(const Chunk& chunk) {
  const auto& copy = *chunk.copy;
  std::vector<float> values(
      static_cast<std::size_t>(chunk.n_rows * copy.row_elements));
  copy.rows->read_rows(
      copy.first_row + chunk.first_row, chunk.n_rows, values.data());
  const auto& target = copy.targets[0];
  for (std::uint64_t row = 0; row < chunk.n_rows; ++row) {
    convert_from<float>(
        reinterpret_cast<const std::byte*>(
            values.data() + row * copy.row_elements),
        target,
        target.data + (chunk.first_row + row) * target.row_bytes,
        copy.row_elements);
  }
}

void run_chunk(const Chunk& chunk, std::vector<std::byte>& scratch) {
  const auto& copy = *chunk.copy;
  if (copy.codec == RowCodec::random) {
    for (std::uint64_t row = 0; row < chunk.n_rows; ++row) {
      fill_random(copy, chunk.first_row + row);
    }
    return;
  }
  if (copy.codec == RowCodec::imported) {
    copy_imported(chunk);
    return;
  }
  const auto offset = copy.offset + chunk.first_row * copy.row_bytes;
  const auto n_bytes = static_cast<std::size_t>(chunk.n_rows * copy.row_bytes);
  const bool direct =
      copy.codec == RowCodec::raw && copy.permuted_head_dim == 0;
  if (!direct && scratch.size() < n_bytes) {
    scratch.resize(n_bytes);
  }
  auto* to = direct ? copy.targets[0].data + chunk.first_row * copy.row_bytes
                    : scratch.data();
  try {
    copy.file->read(offset, n_bytes, to);
  } catch (const FileError& error) {
    const auto prefix = error.path().string().size() + 2;
    throw TensorError(
        error.path(),
        printable(copy.tensor),
        "the file " + std::string(error.what()).substr(prefix));
  }
  for (std::uint64_t row = 0; !direct && row < chunk.n_rows; ++row) {
    decode_row(
        copy,
        scratch.data() + row * copy.row_bytes,
        target_row(copy, chunk.first_row + row));
  }
}

/// The work that the threads of one call share.
class Run {
 public:
  Run(const std::vector<CopyStage>& stages, std::size_t depth)
      : stages_(stages), depth_(depth), chunks_(cut(stages)),
        states_(stages.size()) {
    for (const auto& chunk : chunks_) {
      ++states_[chunk.stage].num_left;
    }
  }

  /// Takes chunks until none is left or one has failed anywhere.
  void work(const std::function<void(std::uint64_t)>& progress) {
    std::vector<std::byte> scratch;
    while (!failed_) {
      const auto idx = next_++;
      if (idx >= chunks_.size()) {
        return;
      }
      try {
        const auto& chunk = chunks_[idx];
        if (!begin(chunk.stage)) {
          return;
        }
        run_chunk(chunk, scratch);
        end_chunk(chunk.stage);
        const auto n_bytes = chunk.n_rows * chunk.copy->row_bytes;
        const auto done = done_bytes_ += n_bytes;
        if (progress) {
          progress(done);
        }
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) {
          error_ = std::current_exception();
        }
        failed_ = true;
        changed_.notify_all();
      }
    }
  }

  /// After all threads have ended.
  void rethrow() const {
    if (error_) {
      std::rethrow_exception(error_);
    }
  }

  std::size_t size() const {
    return chunks_.size();
  }

 private:
  struct StageState {
    std::size_t num_left = 0; // chunks
    bool is_beginning = false;
    bool has_begun = false;
    bool has_ended = false;
  };

  // Whether copies of a stage may run; not when something has failed.
  bool begin(std::size_t idx) {
    std::unique_lock lock(mutex_);
    StageState& state = states_[idx];
    changed_.wait(lock, [&] {
      return failed_ || state.has_begun ||
          (!state.is_beginning &&
           (idx < depth_ || states_[idx - depth_].has_ended));
    });
    if (failed_ || state.has_begun) {
      return !failed_;
    }
    state.is_beginning = true;
    if (stages_[idx].begin) {
      lock.unlock();
      stages_[idx].begin();
      lock.lock();
    }
    state.has_begun = true;
    changed_.notify_all();
    return true;
  }

  void end_chunk(std::size_t idx) {
    {
      const std::lock_guard lock(mutex_);
      if (--states_[idx].num_left > 0) {
        return;
      }
    }
    if (stages_[idx].end) {
      stages_[idx].end();
    }
    const std::lock_guard lock(mutex_);
    states_[idx].has_ended = true;
    changed_.notify_all();
  }

  const std::vector<CopyStage>& stages_;
  const std::size_t depth_;
  const std::vector<Chunk> chunks_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<std::uint64_t> done_bytes_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_ while threads run:
  std::vector<StageState> states_;
  std::exception_ptr error_;
};

/// Joins on every way out.
class Threads {
 public:
  ~Threads() {
    for (auto& thread : threads_) {
      thread.join();
    }
  }
  template <typename Work>
  void start(Work work) {
    threads_.emplace_back(std::move(work));
  }

 private:
  std::vector<std::thread> threads_;
};

} // namespace

RowCopy rows_of(const RowCopy& copy, std::uint64_t begin, std::uint64_t end) {
  RowCopy part = copy;
  part.offset += begin * copy.row_bytes;
  part.n_rows = end - begin;
  part.first_row += begin;
  part.seed += begin * copy.row_elements;
  for (auto& target : part.targets) {
    if (target.data != nullptr) {
      target.data += begin * target.row_bytes;
    }
  }
  return part;
}

void run_stages(
    const std::vector<CopyStage>& stages,
    std::size_t depth,
    int n_threads,
    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  std::uint64_t total = 0;
  for (const auto& stage : stages) {
    for (const auto& copy : stage.copies) {
      total += copy.n_bytes();
    }
  }
  Run run(stages, depth);
  const auto n_workers = std::min<std::size_t>(
      static_cast<std::size_t>(std::max(1, n_threads)), run.size());
  {
    Threads threads;
    for (std::size_t idx = 1; idx < n_workers; ++idx) {
      threads.start([&run] { run.work({}); });
    }
    std::function<void(std::uint64_t)> report;
    if (progress) {
      report = [&](std::uint64_t done) { progress(done, total); };
    }
    run.work(report);
  }
  run.rethrow();
  if (progress) {
    progress(total, total);
  }
}

void run_copies(
    const std::vector<RowCopy>& copies,
    int n_threads,
    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  run_stages({{copies, {}, {}}}, 1, n_threads, progress);
}

} // namespace qwen3_mlx
