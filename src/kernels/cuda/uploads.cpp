// SPDX-License-Identifier: MIT
#include "kernels/cuda/uploads.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/runtime_state.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

SourceForm source_form(QuantMode mode) {
  switch (mode) {
  case QuantMode::mxfp4:
    return SourceForm::mxfp4;
  case QuantMode::mxfp8:
    return SourceForm::mxfp8;
  case QuantMode::nvfp4:
    return SourceForm::nvfp4;
  case QuantMode::affine:
  case QuantMode::none:
    break;
  }
  return SourceForm::affine;
}

} // namespace

mx::array reserved_array(const mx::Shape& shape, mx::Dtype dtype) {
  std::size_t n_bytes = mx::size_of(dtype);
  for (const auto size : shape) {
    n_bytes *= static_cast<std::size_t>(size);
  }
  n_bytes = std::max<std::size_t>(n_bytes, 1);
  void* const at = mmap(
      nullptr,
      n_bytes,
      PROT_NONE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
      -1,
      0);
  if (at == MAP_FAILED) {
    throw Error(
        "cannot reserve " + std::to_string(n_bytes) + " bytes of addresses");
  }
  return host_array(
      at, n_bytes, shape, dtype, [at, n_bytes] { munmap(at, n_bytes); });
}

struct Uploads::State {
  struct Slot {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
    cudaEvent_t copied = nullptr;
  };

  std::shared_ptr<Runtime> runtime;
  cudaStream_t stream = nullptr;
  void* host = nullptr;
  void* device = nullptr;
  std::array<Slot, kNumSlots> slots;
  std::mutex mutex; // what is started for one slot is not parted by others

  explicit State(std::shared_ptr<Runtime> of) : runtime(std::move(of)) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void open(std::size_t slot_bytes) {
    use_device();
    check(
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
        "stream of uploads");
    check(
        cudaMallocHost(&host, slot_bytes * kNumSlots),
        "pinned memory of uploads");
    check(cudaMalloc(&device, slot_bytes * kNumSlots), "memory of uploads");
    for (std::size_t idx = 0; idx < slots.size(); ++idx) {
      slots[idx].host = static_cast<std::byte*>(host) + idx * slot_bytes;
      slots[idx].device = static_cast<std::byte*>(device) + idx * slot_bytes;
      check(
          cudaEventCreateWithFlags(&slots[idx].copied, cudaEventDisableTiming),
          "event of uploads");
    }
  }

  ~State() {
    if (stream != nullptr) {
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    }
    for (const Slot& slot : slots) {
      if (slot.copied != nullptr) {
        cudaEventDestroy(slot.copied);
      }
    }
    cudaFreeHost(host);
    cudaFree(device);
    cudaGetLastError();
  }

  void use_device() const {
    check(cudaSetDevice(runtime->device), "device");
  }
};

Uploads::Uploads(std::shared_ptr<Runtime> runtime, std::size_t slot_bytes)
    : state_(std::make_unique<State>(std::move(runtime))) {
  state_->open((slot_bytes + 255) / 256 * 256);
}

Uploads::~Uploads() = default;

std::byte* Uploads::slot(int idx) const {
  return state_->slots[static_cast<std::size_t>(idx)].host;
}

void Uploads::wait_for(int idx) {
  state_->use_device();
  check(
      cudaEventSynchronize(state_->slots[static_cast<std::size_t>(idx)].copied),
      "upload");
}

void Uploads::start(int idx, const UploadedRows& rows) {
  const Blocks& blocks = *rows.packed->blocks;
  PackedLayout layout = blocks.layout;
  layout.rows = static_cast<int>(rows.count);
  const auto& slot = state_->slots[static_cast<std::size_t>(idx)];
  const auto format = rows.source->format;
  const auto part = [&](std::size_t which, bool exists) {
    return exists ? slot.device + rows.begin[which] : nullptr;
  };
  state_->use_device();
  const std::lock_guard lock(state_->mutex);
  check(
      cudaMemcpyAsync(
          slot.device,
          slot.host,
          rows.n_bytes,
          cudaMemcpyHostToDevice,
          state_->stream),
      "upload");
  check(cudaEventRecord(slot.copied, state_->stream), "upload");
  Launcher launcher = state_->runtime->launcher;
  launcher.stream = state_->stream;
  launcher.overlap = false;
  pack(
      launcher,
      layout,
      1,
      {.weight = part(0, true),
       .scales = part(1, rows.source->scales.has_value()),
       .biases = part(2, rows.source->biases.has_value()),
       .bits = format.is_quantized() ? format.bits : 0,
       .form = source_form(format.mode)},
      static_cast<std::byte*>(device_pointer(rows.packed->weight)) +
          rows.first / kBlockRows * layout.row_bytes());
}

void Uploads::finish() {
  state_->use_device();
  check(cudaStreamSynchronize(state_->stream), "upload");
}

} // namespace qwen3_mlx::cuda
