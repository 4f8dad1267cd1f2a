// SPDX-License-Identifier: MIT
#include "kernels/cpu/views.h"

#include <cstring>

namespace qwen3_mlx::cpu {

RowsOf::RowsOf(const mx::array& x)
    : data_(x.data<std::byte>()), type_(float_type(x.dtype()).value()),
      count_(static_cast<int>(x.size()) / x.shape(-1)),
      cols_(static_cast<std::size_t>(x.shape(-1))) {
  if (x.flags().row_contiguous) {
    stride_ = cols_;
  } else if (x.ndim() == 2 && x.strides()[1] == 1 && x.strides()[0] > 0) {
    stride_ = static_cast<std::size_t>(x.strides()[0]);
  } else {
    shape_ = x.shape();
    strides_ = x.strides();
  }
}

Rows RowsOf::get() {
  if (stride_ != 0) {
    return {data_, type_, stride_};
  }
  const std::size_t size = size_of(type_);
  const auto total = static_cast<std::size_t>(count_) * cols_;
  copy_ = std::shared_ptr<std::byte[]>(new std::byte[total * size]);
  for (std::size_t idx = 0; idx < total; ++idx) {
    std::size_t rest = idx;
    std::int64_t at = 0;
    for (std::size_t dim = shape_.size(); dim-- > 0;) {
      const auto extent = static_cast<std::size_t>(shape_[dim]);
      at += static_cast<std::int64_t>(rest % extent) * strides_[dim];
      rest /= extent;
    }
    std::memcpy(
        copy_.get() + idx * size,
        data_ + at * static_cast<std::int64_t>(size),
        size);
  }
  return {copy_.get(), type_, cols_};
}

} // namespace qwen3_mlx::cpu
