// SPDX-License-Identifier: MIT
// Kernels over single rows. Included once by each isa_*.cpp, inside the
// namespace of its vector type. They call no std templates: an inline function
// compiled here for one instruction set must not be linked in for another.

inline F32 load_any(const void* from, Float type, std::size_t index) {
  const auto* bytes = static_cast<const std::byte*>(from);
  switch (type) {
  case Float::f32:
    return load(reinterpret_cast<const float*>(bytes + 4 * index));
  case Float::f16:
    return load_f16(bytes + 2 * index);
  case Float::bf16:
    break;
  }
  return load_bf16(bytes + 2 * index);
}

inline void store_any(void* to, Float type, std::size_t index, F32 value) {
  auto* bytes = static_cast<std::byte*>(to);
  switch (type) {
  case Float::f32:
    return store(reinterpret_cast<float*>(bytes + 4 * index), value);
  case Float::f16:
    return store_f16(bytes + 2 * index, value);
  case Float::bf16:
    return store_bf16(bytes + 2 * index, value);
  }
}

// The first `count` (< 16) elements, zeros in the other lanes.
inline F32
load_part(const void* from, Float type, std::size_t index, int count) {
  float part[kLanes] = {};
  for (int lane = 0; lane < count; ++lane) {
    part[lane] = load_float(from, type, index + static_cast<std::size_t>(lane));
  }
  return load(part);
}

inline void
store_part(void* to, Float type, std::size_t index, int count, F32 value) {
  float part[kLanes];
  store(part, value);
  for (int lane = 0; lane < count; ++lane) {
    store_float(to, type, index + static_cast<std::size_t>(lane), part[lane]);
  }
}

inline int padded(int count) {
  return static_cast<int>(round_up(static_cast<std::size_t>(count), 64));
}

void load_row(const void* from, Float type, int count, float* to) {
  int idx = 0;
  for (; idx + kLanes <= count; idx += kLanes) {
    store(to + idx, load_any(from, type, static_cast<std::size_t>(idx)));
  }
  if (idx < count) {
    store(
        to + idx,
        load_part(from, type, static_cast<std::size_t>(idx), count - idx));
    idx += kLanes;
  }
  for (; idx < padded(count); idx += kLanes) {
    store(to + idx, set1(0));
  }
}

void store_row(const float* from, int count, void* to, Float type) {
  int idx = 0;
  for (; idx + kLanes <= count; idx += kLanes) {
    store_any(to, type, static_cast<std::size_t>(idx), load(from + idx));
  }
  for (; idx < count; ++idx) {
    store_float(to, type, static_cast<std::size_t>(idx), from[idx]);
  }
}

void rms_norm(
    float* x,
    int count,
    const void* weight,
    Float weight_type,
    float eps) {
  F32 squares = set1(0);
  const int end = static_cast<int>(round_up(
      static_cast<std::size_t>(count), static_cast<std::size_t>(kLanes)));
  for (int idx = 0; idx < end; idx += kLanes) {
    const F32 v = load(x + idx);
    squares = fma(v, v, squares);
  }
  const float mean = sum(squares) / static_cast<float>(count);
  const F32 inverse = set1(1.0F / __builtin_sqrtf(mean + eps));
  for (int idx = 0; idx < end; idx += kLanes) {
    const auto at = static_cast<std::size_t>(idx);
    F32 v = mul(load(x + idx), inverse);
    if (weight != nullptr) {
      v =
          mul(v,
              idx + kLanes <= count
                  ? load_any(weight, weight_type, at)
                  : load_part(weight, weight_type, at, count - idx));
    }
    store(x + idx, v);
  }
}

// A group is fine when its largest element exceeds this multiple of the row's
// root mean square. Of the default model's groups of 32, 13 % are; they cut the
// share of greedy tokens that int8 turns from 3 % to 1.5 %.
inline constexpr float kFineRatio = 5.0F;

// Codes of one group: round(x * inverse), whose sum is returned.
inline std::int32_t
round_group(const float* x, int group, F32 inverse, std::int8_t* codes) {
  I32 total = set1_i(0);
  for (int idx = 0; idx < group; idx += kLanes) {
    const I32 rounded = round_to_int(mul(load(x + idx), inverse));
    total = add_i(total, rounded);
    store_i8(codes + idx, rounded);
  }
  return sum_i(total);
}

// Codes of what round_group() left of each element.
inline std::int32_t round_rest_of_group(
    const float* x,
    int group,
    F32 inverse,
    std::int8_t* codes) {
  I32 total = set1_i(0);
  for (int idx = 0; idx < group; idx += kLanes) {
    const F32 steps = mul(load(x + idx), inverse);
    const I32 rest = round_to_int(
        mul(sub(steps, to_float(round_to_int(steps))),
            set1(static_cast<float>(kFineSteps))));
    total = add_i(total, rest);
    store_i8(codes + idx, rest);
  }
  return sum_i(total);
}

void quantize_rows(
    const float* const* x,
    const QuantizedLayout& layout,
    std::byte* to) {
  const auto num_rows = static_cast<std::size_t>(layout.num_rows);
  const auto group_cols = static_cast<std::size_t>(layout.group);
  auto* codes = reinterpret_cast<std::int8_t*>(to);
  auto* scales = reinterpret_cast<float*>(to + layout.scales_at());
  float* sums = scales + layout.num_scales();
  auto* code_sums = reinterpret_cast<std::int32_t*>(sums + layout.num_scales());
  auto* fine = reinterpret_cast<FineGroup*>(to + layout.fine_groups_at());
  auto* second_codes =
      reinterpret_cast<std::int8_t*>(to + layout.second_codes_at());
  std::int32_t num_fine = 0;
  float fine_above[kMostBlockRows];
  for (std::size_t row = 0; row < num_rows; ++row) {
    F32 squares = set1(0);
    for (int idx = 0; idx < layout.cols; idx += kLanes) {
      const F32 v = load(x[row] + idx);
      squares = fma(v, v, squares);
    }
    fine_above[row] = kFineRatio *
        __builtin_sqrtf(sum(squares) / static_cast<float>(layout.cols));
  }
  for (std::size_t group = 0; group < layout.num_groups(); ++group) {
    const std::size_t begin = group * group_cols;
    for (std::size_t row = 0; row < num_rows; ++row) {
      const float* const from = x[row] + begin;
      F32 largest = set1(0);
      for (int idx = 0; idx < layout.group; idx += kLanes) {
        largest = max(largest, abs(load(from + idx)));
      }
      const float most = max_lane(largest);
      const F32 inverse = set1(most > 0 ? 127.0F / most : 0.0F);
      std::int8_t row_codes[kMostGroupCols];
      const std::int32_t code_sum =
          round_group(from, layout.group, inverse, row_codes);
      for (std::size_t col = 0; col < group_cols; col += 4) {
        std::memcpy(
            codes + (begin + col) * num_rows + 4 * row, row_codes + col, 4);
      }
      // The bias meets the sum of what the dot product sees, not that of the
      // true activations: their rounding errors then cancel.
      const float scale = most / 127.0F;
      float scaled_sum = scale * static_cast<float>(code_sum);
      if (most > fine_above[row]) {
        const float fine_scale = scale / static_cast<float>(kFineSteps);
        const std::int32_t second_sum =
            round_rest_of_group(from, layout.group, inverse, second_codes);
        scaled_sum = __builtin_fmaf(
            fine_scale, static_cast<float>(second_sum), scaled_sum);
        fine[num_fine++] = {
            static_cast<std::int32_t>(group),
            static_cast<std::int32_t>(row),
            second_sum,
            fine_scale};
        second_codes += group_cols;
      }
      const std::size_t at = group * num_rows + row;
      scales[at] = scale;
      sums[at] = scaled_sum;
      code_sums[at] = code_sum;
    }
  }
  std::memcpy(to + layout.num_fine_at(), &num_fine, sizeof(num_fine));
}

// The end of the range that is farther from zero is met exactly, and so is zero
// where the range holds it.
void quantize_affine(
    const float* x,
    int count,
    int bits,
    std::uint8_t* codes,
    float* scale,
    float* bias) {
  F32 highs = load(x);
  F32 lows = highs;
  for (int idx = kLanes; idx < count; idx += kLanes) {
    highs = max(highs, load(x + idx));
    lows = min(lows, load(x + idx));
  }
  const float high = max_lane(highs);
  const float low = 0.0F - max_lane(sub(set1(0), lows));
  const bool low_is_edge = __builtin_fabsf(low) > __builtin_fabsf(high);
  const auto last = static_cast<float>((1 << bits) - 1);
  const float width = (high - low) / last;
  const float step = width > 1e-7F ? width : 1e-7F;
  const float edge = low_is_edge ? low : high;
  *scale = low_is_edge ? step : -step;
  *bias = 0;
  const float steps_to_edge = __builtin_rintf(edge / *scale);
  if (steps_to_edge != 0) {
    *scale = edge / steps_to_edge;
    *bias = edge;
  }
  for (int idx = 0; idx < count; idx += kLanes) {
    const F32 steps = div(sub(load(x + idx), set1(*bias)), set1(*scale));
    const F32 inside = min(max(steps, set1(0)), set1(last));
    std::int8_t bytes[kLanes]; // which store_i8 wants signed
    store_i8(bytes, add_i(round_to_int(inside), set1_i(-128)));
    for (int lane = 0; lane < kLanes; ++lane) {
      codes[idx + lane] = static_cast<std::uint8_t>(bytes[lane] + 128);
    }
  }
}

// e^x to about 1 ulp for x in [-87, 88]; below that 0, above it e^88.
inline F32 exp(F32 x) {
  const F32 bounded = max(min(x, set1(88.0F)), set1(-87.0F));
  const I32 n = round_to_int(mul(bounded, set1(1.44269504F)));
  const F32 whole = to_float(n);
  // ln 2 in two parts, so that the remainder is exact.
  F32 r = fma(whole, set1(-0.693145752F), bounded);
  r = fma(whole, set1(-1.42860677e-6F), r);
  F32 p = set1(1.0F / 720);
  p = fma(p, r, set1(1.0F / 120));
  p = fma(p, r, set1(1.0F / 24));
  p = fma(p, r, set1(1.0F / 6));
  p = fma(p, r, set1(0.5F));
  p = fma(p, r, set1(1.0F));
  p = fma(p, r, set1(1.0F));
  return zero_below(x, -87.0F, mul(p, pow2(n)));
}

inline F32 silu(F32 x) {
  return div(x, add(set1(1), exp(sub(set1(0), x))));
}

void swiglu(const float* gate, const float* up, int count, float* out) {
  for (int idx = 0; idx < padded(count); idx += kLanes) {
    store(out + idx, mul(silu(load(gate + idx)), load(up + idx)));
  }
}

void add_scaled(const float* from, float scale, int count, float* to) {
  for (int idx = 0; idx < padded(count); idx += kLanes) {
    store(to + idx, fma(load(from + idx), set1(scale), load(to + idx)));
  }
}

void rotate(
    float* head,
    int rotary_dim,
    const float* cosines,
    const float* sines) {
  const int half = rotary_dim / 2;
  int idx = 0;
  for (; idx + kLanes <= half; idx += kLanes) {
    const F32 a = load(head + idx);
    const F32 b = load(head + half + idx);
    const F32 c = load(cosines + idx);
    const F32 s = load(sines + idx);
    store(head + idx, fma(a, c, sub(set1(0), mul(b, s))));
    store(head + half + idx, fma(a, s, mul(b, c)));
  }
  for (; idx < half; ++idx) {
    const float a = head[idx];
    const float b = head[half + idx];
    head[idx] = __builtin_fmaf(a, cosines[idx], 0.0F - b * sines[idx]);
    head[half + idx] = __builtin_fmaf(a, sines[idx], b * cosines[idx]);
  }
}

std::uint32_t arg_max(const void* values, Float type, int count) {
  // A run is looked at one by one only if something in it beats what came
  // before, which is rare.
  constexpr int kRun = 1024;
  float best = -__builtin_inff();
  int winner = 0;
  for (int begin = 0; begin < count; begin += kRun) {
    const int end = count - begin < kRun ? count : begin + kRun;
    F32 largest = set1(best);
    int idx = begin;
    for (; idx + kLanes <= end; idx += kLanes) {
      // NaN gives the second operand, or (NEON) a NaN, which is looked into.
      largest =
          max(load_any(values, type, static_cast<std::size_t>(idx)), largest);
    }
    if (idx == end && max_lane(largest) <= best) {
      continue;
    }
    for (idx = begin; idx < end; ++idx) {
      const float value =
          load_float(values, type, static_cast<std::size_t>(idx));
      if (value > best) {
        best = value;
        winner = idx;
      }
    }
  }
  return static_cast<std::uint32_t>(winner);
}

void softmax(float* logits, int count) {
  for (int idx = count; idx < padded(count); ++idx) {
    logits[idx] = -__builtin_inff();
  }
  F32 largest = load(logits);
  for (int idx = kLanes; idx < padded(count); idx += kLanes) {
    largest = max(largest, load(logits + idx));
  }
  const F32 most = set1(max_lane(largest));
  F32 total = set1(0);
  for (int idx = 0; idx < padded(count); idx += kLanes) {
    const F32 e = exp(sub(load(logits + idx), most));
    total = add(total, e);
    store(logits + idx, e);
  }
  const F32 inverse = set1(1.0F / sum(total));
  for (int idx = 0; idx < padded(count); idx += kLanes) {
    store(logits + idx, mul(load(logits + idx), inverse));
  }
}
