// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cpu/isa.h"
#include "kernels/cpu_testing.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cpu {
namespace {

using testing::decode;
using testing::encode;
using testing::random_floats;
using testing::relative_error;

std::vector<float> padded_copy(const std::vector<float>& values) {
  std::vector<float> copy(round_up(values.size(), 64));
  std::copy(values.begin(), values.end(), copy.begin());
  return copy;
}

TEST(CpuIsa, NamesWhatThereIs) {
  EXPECT_EQ(available_kernels().back()->name, "portable");
  EXPECT_EQ(&find_kernels("portable"), available_kernels().back());
  EXPECT_THROW(find_kernels("mmx"), InvalidArgument);
}

TEST(CpuRows, LoadAndStoreEveryTypeAndTail) {
  for (const KernelTable* kernels : available_kernels()) {
    for (const Float type : {Float::f32, Float::f16, Float::bf16}) {
      for (const int count : {1, 15, 16, 17, 63, 64, 65}) {
        const auto n = static_cast<std::size_t>(count);
        const auto bytes = encode(random_floats(n, 71), type);
        std::vector<float> row(round_up(n, 64), 9.0F);
        kernels->load_row(bytes.data(), type, count, row.data());
        const auto expected = decode(bytes.data(), type, n);
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), row.begin()));
        for (std::size_t idx = n; idx < row.size(); ++idx) {
          EXPECT_EQ(row[idx], 0);
        }
        const auto values = random_floats(n, 73);
        std::vector<std::byte> stored(n * size_of(type) + 1, std::byte{7});
        kernels->store_row(values.data(), count, stored.data(), type);
        EXPECT_EQ(stored.back(), std::byte{7});
        stored.pop_back();
        EXPECT_EQ(stored, encode(values, type)) << kernels->name;
      }
    }
  }
}

TEST(CpuRows, StoresSpecialValues) {
  std::vector<float> values(16, 0.0F);
  const float inf = std::numeric_limits<float>::infinity();
  const float special[] = {
      inf,
      -inf,
      65519.0F,
      65520.0F,
      1e-8F,
      0x1p-25F,
      -0.0F,
      3.0e38F,
      0x1p-14F,
      0x1.ffcp-15F};
  std::copy(std::begin(special), std::end(special), values.begin());
  for (const KernelTable* kernels : available_kernels()) {
    for (const Float type : {Float::f16, Float::bf16}) {
      std::vector<std::byte> stored(32);
      kernels->store_row(values.data(), 16, stored.data(), type);
      EXPECT_EQ(stored, encode(values, type)) << kernels->name;
      std::vector<float> nan(16, std::nanf(""));
      kernels->store_row(nan.data(), 16, stored.data(), type);
      EXPECT_TRUE(std::isnan(load_float(stored.data(), type, 3)));
    }
  }
}

// Each set gives the bits of the portable one.
template <class Function>
void expect_same_everywhere(Function&& function) {
  const auto expected = function(*available_kernels().back());
  for (const KernelTable* kernels : available_kernels()) {
    EXPECT_EQ(function(*kernels), expected) << kernels->name;
  }
}

TEST(CpuRows, RmsNormAgreesWithItsDefinition) {
  for (const int count : {1, 16, 60, 64, 1000}) {
    const auto n = static_cast<std::size_t>(count);
    const auto x = random_floats(n, 79);
    const auto weight = encode(random_floats(n, 83), Float::bf16);
    double squares = 0;
    for (const float value : x) {
      squares += double(value) * value;
    }
    std::vector<double> expected;
    for (std::size_t idx = 0; idx < n; ++idx) {
      expected.push_back(
          x[idx] / std::sqrt(squares / count + 1e-5) *
          load_float(weight.data(), Float::bf16, idx));
    }
    expect_same_everywhere([&](const KernelTable& kernels) {
      auto row = padded_copy(x);
      kernels.rms_norm(row.data(), count, weight.data(), Float::bf16, 1e-5F);
      row.resize(n);
      EXPECT_LE(relative_error(row, expected), 1e-6) << kernels.name;
      return row;
    });
  }
}

TEST(CpuRows, ArgMaxTakesTheFirstOfTheLargest) {
  for (const int count : {1, 15, 17, 1000, 1040, 40000}) {
    auto values = random_floats(static_cast<std::size_t>(count), 67);
    const auto largest = std::max_element(values.begin(), values.end());
    auto expected = static_cast<std::uint32_t>(largest - values.begin());
    if (count == 40000) {
      values[31000] = values[12345] = 100;
      values[12346] = std::nanf("");
      expected = 12345;
    }
    for (const Float type : {Float::f32, Float::f16, Float::bf16}) {
      if (type != Float::f32 && count != 40000) {
        continue; // rounding makes equals
      }
      const auto stored = encode(values, type);
      expect_same_everywhere([&](const KernelTable& kernels) {
        const auto found = kernels.arg_max(stored.data(), type, count);
        EXPECT_EQ(found, expected) << kernels.name << " " << count;
        return found;
      });
    }
  }
}

TEST(CpuRows, QuantizedRowsHoldTheirSums) {
  for (const int group : {16, 32, 64, 128}) {
    const QuantizedLayout layout{512, group};
    auto x = random_floats(512, 89);
    std::fill_n(x.begin(), 128, 0.0F); // whole groups of zeros
    x[300] = 40.0F;                    // stands out: its group is fine
    expect_same_everywhere([&](const KernelTable& kernels) {
      std::vector<std::byte> row(layout.n_bytes());
      const float* const from = x.data();
      kernels.quantize_rows(&from, layout, row.data());
      const auto groups = layout.num_groups();
      const std::byte* const scales = row.data() + layout.scales_at();
      std::int32_t num_fine;
      std::memcpy(
          &num_fine, row.data() + layout.num_fine_at(), sizeof(num_fine));
      FineGroup fine;
      std::memcpy(&fine, row.data() + layout.fine_groups_at(), sizeof(fine));
      EXPECT_EQ(num_fine, 1) << group;
      EXPECT_EQ(fine.group, 300 / group);
      EXPECT_EQ(fine.row, 0);
      for (std::size_t g = 0; g < groups; ++g) {
        const float scale = load_float(scales, Float::f32, g);
        const bool is_fine = g == std::size_t(fine.group);
        double sum = 0;
        int second_sum = 0;
        for (std::size_t idx = 0; idx < std::size_t(group); ++idx) {
          const auto at = g * std::size_t(group) + idx;
          const auto code_at = [&](std::size_t place) {
            return int{
                static_cast<std::int8_t>(std::to_integer<int>(row[place]))};
          };
          const int second =
              is_fine ? code_at(layout.second_codes_at() + idx) : 0;
          const double value = scale * (code_at(at) + second / 254.0);
          EXPECT_NEAR(value, x[at], (is_fine ? 0.003 : 0.5001) * scale);
          sum += value;
          second_sum += second;
        }
        EXPECT_NEAR(
            load_float(scales, Float::f32, groups + g), sum, 1e-4 * scale);
        if (is_fine) {
          EXPECT_EQ(fine.code_sum, second_sum);
          EXPECT_FLOAT_EQ(fine.scale, scale / 254);
        }
      }
      return row;
    });
  }
}

// A block of several rows holds what blocks of one row do.
TEST(CpuRows, RowsQuantizedTogetherAreAsAlone) {
  const int cols = 192;
  const int group = 64;
  auto x = random_floats(3 * cols, 91);
  x[70] = 40.0F;       // row 0, group 1
  x[192 + 10] = 40.0F; // row 1, group 0
  x[192 + 71] = 40.0F; // row 1, group 1
  const QuantizedLayout together{cols, group, 3};
  const QuantizedLayout one{cols, group};
  expect_same_everywhere([&](const KernelTable& kernels) {
    const float* const rows[] = {
        x.data(), x.data() + cols, x.data() + 2 * cols};
    std::vector<std::byte> block(together.n_bytes());
    kernels.quantize_rows(rows, together, block.data());
    std::vector<FineGroup> fine(3);
    std::memcpy(
        fine.data(),
        block.data() + together.fine_groups_at(),
        3 * sizeof(FineGroup));
    EXPECT_EQ(fine[0].group, 0);
    EXPECT_EQ(fine[0].row, 1);
    EXPECT_EQ(fine[1].group, 1);
    EXPECT_EQ(fine[1].row, 0);
    EXPECT_EQ(fine[2].row, 1);
    for (std::size_t row = 0; row < 3; ++row) {
      std::vector<std::byte> alone(one.n_bytes());
      kernels.quantize_rows(&rows[row], one, alone.data());
      for (std::size_t col = 0; col < cols; ++col) {
        EXPECT_EQ(block[(col / 4 * 3 + row) * 4 + col % 4], alone[col]);
      }
      for (std::size_t part = 0; part < 3 * one.num_groups(); ++part) {
        EXPECT_EQ(
            std::memcmp(
                block.data() + together.scales_at() + 4 * (part * 3 + row),
                alone.data() + one.scales_at() + 4 * part,
                4),
            0);
      }
    }
    return block;
  });
}

TEST(CpuRows, SwigluSoftmaxAndRotate) {
  const auto gate = random_floats(100, 97, 20.0F);
  const auto up = random_floats(100, 101);
  std::vector<double> expected;
  for (std::size_t idx = 0; idx < 100; ++idx) {
    expected.push_back(
        gate[idx] / (1 + std::exp(-double(gate[idx]))) * up[idx]);
  }
  expect_same_everywhere([&](const KernelTable& kernels) {
    std::vector<float> out(128);
    kernels.swiglu(
        padded_copy(gate).data(), padded_copy(up).data(), 100, out.data());
    out.resize(100);
    EXPECT_LE(relative_error(out, expected), 1e-6) << kernels.name;
    return out;
  });

  double total = 0;
  for (const float value : gate) {
    total += std::exp(double(value));
  }
  std::vector<double> probabilities;
  for (const float value : gate) {
    probabilities.push_back(std::exp(double(value)) / total);
  }
  expect_same_everywhere([&](const KernelTable& kernels) {
    auto row = padded_copy(gate);
    kernels.softmax(row.data(), 100);
    row.resize(100);
    EXPECT_LE(relative_error(row, probabilities), 1e-5) << kernels.name;
    return row;
  });

  for (const int rotary_dim : {8, 32, 40, 128}) {
    const auto head = random_floats(128, 103);
    const auto angles = random_floats(64, 107);
    std::vector<float> cosines;
    std::vector<float> sines;
    for (const float angle : angles) {
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
    std::vector<double> rotated(head.begin(), head.end());
    const auto half = std::size_t(rotary_dim / 2);
    for (std::size_t idx = 0; idx < half; ++idx) {
      const double a = head[idx];
      const double b = head[half + idx];
      rotated[idx] = a * cosines[idx] - b * sines[idx];
      rotated[half + idx] = a * sines[idx] + b * cosines[idx];
    }
    expect_same_everywhere([&](const KernelTable& kernels) {
      auto row = head;
      kernels.rotate(row.data(), rotary_dim, cosines.data(), sines.data());
      EXPECT_LE(relative_error(row, rotated), 1e-6) << kernels.name;
      return row;
    });
  }
}

} // namespace
} // namespace qwen3_mlx::cpu
