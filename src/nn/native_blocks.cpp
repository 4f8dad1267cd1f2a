// SPDX-License-Identifier: MIT
#include "nn/native_blocks.h"

#include "kernels/cpu/views.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace qwen3_mlx {

void NativeBlocks::wait() const {
  if (last) {
    mx::eval(*last);
  }
}

std::vector<mx::array> NativeBlocks::pending() const {
  return last ? std::vector{*last} : std::vector<mx::array>{};
}

KeyValues NativeBlocks::read(int begin, int end) const {
  wait();
  const auto& shape = blocks->shape();
  const auto empty = [&] {
    return mx::zeros(
        {blocks->batch(), shape.n_kv_heads, end - begin, shape.head_dim},
        cpu::dtype_of(shape.type));
  };
  auto keys = empty();
  auto values = empty();
  mx::eval(keys, values);
  blocks->save(
      begin, end, {keys.data<std::byte>()}, {values.data<std::byte>()});
  return {keys, values};
}

void NativeBlocks::write(int begin, const KeyValues& held) const {
  auto keys = mx::contiguous(held.keys);
  auto values = mx::contiguous(held.values);
  mx::eval(keys, values);
  blocks->load(
      begin,
      begin + keys.shape(2),
      {keys.data<std::byte>()},
      {values.data<std::byte>()});
}

NativeBlocks make_blocks(
    cpu::KvShape shape,
    int batch,
    const std::optional<mx::array>& held) {
  if (held) {
    shape.type = cpu::float_type(held->dtype()).value();
  }
  return {std::make_shared<cpu::KvBlocks>(shape, batch), std::nullopt};
}

} // namespace qwen3_mlx
