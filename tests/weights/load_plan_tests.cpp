// SPDX-License-Identifier: MIT
#include "weights/load_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"
#include "weights/reading.h"

namespace qwen3_mlx {
namespace {

using testing::floats_of;
using ::testing::HasSubstr;
using testing::TempDir;

/// A checkpoint in the making: tensors with running numbers as contents.
class Files {
 public:
  Files&
  add(const std::string& name,
      std::vector<std::int64_t> shape,
      DType dtype = DType::f32) {
    std::size_t count = 1;
    for (const auto dim : shape) {
      count *= static_cast<std::size_t>(dim);
    }
    std::vector<std::byte> data(count * dtype_bits(dtype) / 8);
    for (std::size_t idx = 0; idx < count; ++idx) {
      // Small integers are the same in every float type.
      const float value = static_cast<float>(next_++ % 128);
      if (dtype == DType::f32) {
        std::memcpy(&data[idx * 4], &value, 4);
      } else if (dtype == DType::bf16) {
        const auto bits = static_cast<std::uint16_t>(
            std::bit_cast<std::uint32_t>(value) >> 16);
        std::memcpy(&data[idx * 2], &bits, 2);
      } else if (dtype == DType::f16) {
        const mx::float16_t half(value);
        std::memcpy(&data[idx * 2], &half, 2);
      } else {
        data[idx] = static_cast<std::byte>(next_);
      }
    }
    data_.push_back(std::move(data));
    tensors_.push_back({name, dtype, std::move(shape), {}});
    return *this;
  }

  /// mx::quantize of running values.
  Files& add_quantized(
      const std::string& module,
      mx::Shape shape,
      const QuantFormat& format) {
    double count = 1;
    for (const auto dim : shape) {
      count *= dim;
    }
    const auto values =
        mx::reshape(mx::sin(mx::arange(0.0, count, 1.0)), shape);
    auto parts = mx::quantize(
        values, format.group_size, format.bits, to_string(format.mode));
    mx::eval(parts);
    add_array(module + ".weight", parts[0], DType::u32);
    const bool affine = format.mode == QuantMode::affine;
    add_array(module + ".scales", parts[1], affine ? DType::f32 : DType::u8);
    if (affine) {
      add_array(module + ".biases", parts[2], DType::f32);
    }
    return *this;
  }

  void write(const std::filesystem::path& path) {
    for (std::size_t idx = 0; idx < tensors_.size(); ++idx) {
      tensors_[idx].data = data_[idx];
    }
    save_safetensors(path, tensors_);
  }

 private:
  void add_array(const std::string& name, mx::array array, DType dtype) {
    array = mx::contiguous(array);
    array.eval();
    const auto* bytes = array.data<std::byte>();
    data_.emplace_back(bytes, bytes + array.nbytes());
    tensors_.push_back(
        {name, dtype, {array.shape().begin(), array.shape().end()}, {}});
  }

  std::size_t next_ = 0;
  std::vector<TensorToSave> tensors_;
  std::vector<std::vector<std::byte>> data_;
};

ModelArgs make_args(const std::string& more = "") {
  return parse_model_args(Config::parse(
      "config.json",
      R"({"model_type":"qwen3","hidden_size":64,"num_hidden_layers":1,)"
      R"("intermediate_size":64,"num_attention_heads":4,"vocab_size":4)" +
          more + "}"));
}

/// A directory with one file of `files`, opened.
struct Fixture {
  explicit Fixture(
      Files files,
      const std::string& config = R"(,"torch_dtype":"float32")",
      PlanOptions options = {})
      : args(make_args(config)) {
    files.write(dir.path() / "model.safetensors");
    plan.emplace(Checkpoint::open(dir.path()), args, options);
  }

  Weights w() const {
    return plan->weights();
  }
  /// What read() complains about.
  std::string problems(int n_threads = 2) {
    try {
      plan->read(n_threads);
    } catch (const TensorError& error) {
      return error.what();
    }
    return "none";
  }

  TempDir dir;
  ModelArgs args;
  std::optional<LoadPlan> plan;
};

/// 0, 1, 2 ... as Files counts, from `first`.
std::vector<float> counting(int first, int count) {
  std::vector<float> values;
  for (int idx = first; idx < first + count; ++idx) {
    values.push_back(static_cast<float>(idx % 128));
  }
  return values;
}

TEST(LoadPlan, FillsWhatWasTaken) {
  Fixture f(Files().add("a.weight", {3, 5}).add("a.bias", {3}));
  const auto matrix = f.w().sub("a").matrix(3, 5);
  const auto bias = f.w().sub("a").vector("bias", 3);
  EXPECT_TRUE(f.w().sub("a").has("bias"));
  EXPECT_FALSE(f.w().sub("a").has("scales"));
  EXPECT_EQ(f.plan->n_bytes(), 72u);
  std::uint64_t last = 0;
  f.plan->read(4, [&](std::uint64_t done, std::uint64_t total) {
    EXPECT_EQ(total, 72u);
    EXPECT_GE(done, last);
    last = done;
  });
  EXPECT_EQ(last, 72u);
  EXPECT_EQ(floats_of(matrix.weight), counting(0, 15));
  EXPECT_EQ(floats_of(bias), counting(15, 3));
}

TEST(LoadPlan, ConvertsToTheComputeType) {
  for (const auto stored : {DType::f32, DType::f16, DType::bf16}) {
    for (const auto dtype : {mx::float32, mx::float16, mx::bfloat16}) {
      Fixture f(Files().add("a.weight", {3, 5}, stored), "", {.dtype = dtype});
      const auto matrix = f.w().sub("a").matrix(3, 5);
      f.plan->read();
      EXPECT_EQ(matrix.weight.dtype(), dtype);
      EXPECT_EQ(floats_of(matrix.weight), counting(0, 15));
    }
  }
}

TEST(LoadPlan, ComputeTypeFollowsScalesThenConfig) {
  const auto dtype = [](Files files, const std::string& config) {
    return Fixture(std::move(files), config).w().dtype();
  };
  const std::string bf16 = R"(,"torch_dtype":"bfloat16")";
  const auto embedding = [](DType type) {
    return Files().add("model.embed_tokens.weight", {4, 64}, type);
  };
  EXPECT_EQ(dtype(embedding(DType::f32), bf16), mx::bfloat16);
  EXPECT_EQ(dtype(embedding(DType::f16), ""), mx::float16);
  EXPECT_EQ(
      dtype(Files().add("model.embed_tokens.scales", {4, 2}, DType::f16), bf16),
      mx::float16);
  EXPECT_THROW(dtype(embedding(DType::f32), R"(,"dtype":"int8")"), FieldError);
}

TEST(LoadPlan, MergesRowsOfChildren) {
  Fixture f(Files()
                .add("a.q.weight", {2, 3})
                .add("a.q.bias", {2})
                .add("a.k.weight", {1, 3})
                .add("a.k.bias", {1}));
  const std::array<std::string_view, 2> names = {"q", "k"};
  const auto merged = f.w().sub("a").merged(names, std::array{2, 1}, 3);
  const auto bias =
      f.w().sub("a").merged_vector(names, "bias", std::array{2, 1});
  f.plan->read();
  ASSERT_TRUE(merged);
  EXPECT_EQ(merged->weight.shape(), (mx::Shape{3, 3}));
  EXPECT_THAT(
      floats_of(merged->weight),
      ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 8, 9, 10));
  EXPECT_THAT(floats_of(bias), ::testing::ElementsAre(6, 7, 11));
}

TEST(LoadPlan, ExpertsOfEveryLayoutAreStackedAlike) {
  const std::string mlp = "model.layers.0.mlp.";
  Files single;
  for (int idx = 0; idx < 12; ++idx) { // out of order on purpose
    auto expert = mlp;
    expert.append("experts.").append(std::to_string((idx + 5) % 12));
    single.add(expert + ".gate_proj.weight", {2, 3});
    single.add(expert + ".up_proj.weight", {2, 3});
  }
  Files stacked;
  stacked.add(mlp + "switch_mlp.gate_proj.weight", {12, 2, 3});
  stacked.add(mlp + "switch_mlp.up_proj.weight", {12, 2, 3});
  Files fused;
  fused.add(mlp + "experts.gate_up_proj", {12, 4, 3});
  const std::array<std::string_view, 2> names = {"gate_proj", "up_proj"};
  const auto load = [&](Files files) {
    Fixture f(std::move(files));
    const auto w = f.w().sub("model").sub("layers", 0).sub("mlp.switch_mlp");
    const auto merged = w.merged_experts(names, 12, 2, 3);
    f.plan->read();
    EXPECT_EQ(merged->weight.shape(), (mx::Shape{12, 4, 3}));
    return floats_of(merged->weight);
  };
  EXPECT_EQ(load(fused), counting(0, 144));
  const auto from_single = load(single);
  EXPECT_EQ(from_single[0], static_cast<float>(7 * 12)); // expert 0 came 8th
  const auto from_stacked = load(stacked);
  EXPECT_EQ(from_stacked[6], 72.0f); // the first up row

  Fixture f(stacked);
  const auto w = f.w().sub("model").sub("layers", 0).sub("mlp.switch_mlp");
  const auto gate = w.sub("gate_proj").experts(12, 2, 3);
  const auto up = w.sub("up_proj").experts(12, 2, 3);
  f.plan->read();
  EXPECT_EQ(floats_of(gate.weight), counting(0, 72));
  EXPECT_EQ(floats_of(up.weight), counting(72, 72));
}

TEST(LoadPlan, EveryQuantizedFormatLoadsAsMlxPacksIt) {
  std::vector<QuantFormat> formats = {
      {QuantMode::mxfp4, 4, 32},
      {QuantMode::mxfp8, 8, 32},
      {QuantMode::nvfp4, 4, 16}};
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      formats.push_back({QuantMode::affine, bits, group});
    }
  }
  for (const auto& format : formats) {
    SCOPED_TRACE(describe(format));
    const auto config = R"(,"quantization":{"bits":)" +
        std::to_string(format.bits) + R"(,"group_size":)" +
        std::to_string(format.group_size) + R"(,"mode":")" +
        to_string(format.mode) + "\"}";
    Fixture f(
        Files()
            .add_quantized("a", {4, 256}, format)
            .add_quantized("b", {2, 256}, format)
            .add("plain.weight", {4, 256}),
        config);
    const auto merged = f.w().merged(
        std::array<std::string_view, 2>{"a", "b"}, std::array{4, 2}, 256);
    const auto plain = f.w().sub("plain").matrix(4, 256);
    f.plan->read();
    ASSERT_TRUE(merged);
    EXPECT_EQ(merged->format, format);
    EXPECT_FALSE(plain.format.is_quantized());
    EXPECT_EQ(merged->in_dim(), 256);
    const auto loaded = mx::dequantize(
        merged->weight,
        *merged->scales,
        merged->biases,
        format.group_size,
        format.bits,
        to_string(format.mode));
    const auto expected = [&](int rows) {
      const auto values =
          mx::reshape(mx::sin(mx::arange(0.0, rows * 256.0, 1.0)), {rows, 256});
      const auto parts = mx::quantize(
          values, format.group_size, format.bits, to_string(format.mode));
      return mx::dequantize(
          parts[0],
          parts[1],
          parts.size() > 2 ? std::optional(parts[2]) : std::nullopt,
          format.group_size,
          format.bits,
          to_string(format.mode));
    };
    EXPECT_TRUE(
        mx::array_equal(
            mx::astype(loaded, mx::float32),
            mx::astype(
                mx::concatenate({expected(4), expected(2)}, 0), mx::float32))
            .item<bool>());
  }
}

TEST(LoadPlan, OverridesDecideByEitherName) {
  const QuantFormat four{QuantMode::affine, 4, 64};
  const QuantFormat eight{QuantMode::affine, 8, 32};
  Fixture f(
      Files()
          .add_quantized("model.a", {2, 64}, four)
          .add_quantized("model.b", {2, 64}, eight)
          .add_quantized("model.language_model.c", {2, 64}, eight),
      R"(,"quantization":{"bits":4,"group_size":64,)"
      R"("model.b":{"bits":8,"group_size":32},)"
      R"("model.language_model.c":{"bits":8,"group_size":32}})");
  const auto w = f.w().sub("model");
  EXPECT_FALSE(w.merged(
      std::array<std::string_view, 2>{"a", "b"}, std::array{2, 2}, 64));
  EXPECT_EQ(w.sub("a").matrix(2, 64).format, four);
  EXPECT_EQ(w.sub("b").matrix(2, 64).format, eight);
  EXPECT_EQ(w.sub("c").matrix(2, 64).format, eight);
  f.plan->read();
}

TEST(LoadPlan, WidensScalesAndBiases) {
  const QuantFormat format{QuantMode::affine, 4, 64};
  Fixture f(
      Files().add_quantized("a", {2, 64}, format),
      R"(,"torch_dtype":"bfloat16","quantization":{"bits":4,"group_size":64})",
      {.dtype = std::nullopt, .widen = true});
  const auto matrix = f.w().sub("a").matrix(2, 64);
  f.plan->read();
  EXPECT_EQ(matrix.scales->dtype(), mx::float32);
  EXPECT_EQ(f.w().dtype(), mx::float32);
}

TEST(LoadPlan, ListsMissingAndLeftOverAtOnce) {
  Fixture f(Files()
                .add("a.weight", {3, 5})
                .add("b.weight", {1, 1})
                .add("c.bias", {7})
                .add("x.self_attn.rotary_emb.inv_freq", {2}));
  f.w().sub("a").matrix(4, 5);
  f.w().sub("gone").matrix(2, 2);
  f.w().sub("lost").vector("bias", 2);
  const auto problems = f.problems();
  EXPECT_THAT(
      problems,
      HasSubstr("tensor a.weight: has shape [3, 5], expected [4, 5]"));
  EXPECT_THAT(problems, HasSubstr("gone.weight: is missing"));
  EXPECT_THAT(problems, HasSubstr("lost.bias: is missing"));
  EXPECT_THAT(problems, HasSubstr("b.weight: is left over"));
  EXPECT_THAT(problems, HasSubstr("c.bias: is left over"));
  EXPECT_THAT(problems, HasSubstr("and 4 more"));
  EXPECT_THAT(problems, HasSubstr("model.safetensors"));
}

TEST(LoadPlan, ListsAProblemOnceAndNotWithoutEnd) {
  Fixture f(Files().add("a.weight", {3, 5}));
  f.w().sub("a").matrix(4, 5);
  for (int n = 0; n < 3; ++n) {
    f.w().sub("q_norm").vector("weight", 2);
  }
  const auto few = f.problems();
  EXPECT_THAT(few, HasSubstr("and 1 more"));
  EXPECT_EQ(few.find("q_norm"), few.rfind("q_norm"));
  for (int n = 0; n < 30; ++n) {
    f.w().sub("gone" + std::to_string(n)).vector("weight", 2);
  }
  const auto many = f.problems();
  EXPECT_THAT(many, HasSubstr("and 31 more"));
  EXPECT_THAT(many, HasSubstr("gone17."));
  EXPECT_THAT(many, Not(HasSubstr("gone18.")));
  EXPECT_THAT(many, HasSubstr("and 12 that are not listed"));
}

TEST(LoadPlan, SizesThatNoMemoryHoldsAreReportedAsWrongShapes) {
  constexpr int huge = std::numeric_limits<int>::max();
  Fixture f(Files().add("a.weight", {3, 5}));
  try {
    f.w().sub("a").matrix(huge, huge);
    FAIL();
  } catch (const TensorError& error) {
    EXPECT_EQ(error.tensor(), "a.weight");
    EXPECT_THAT(error.what(), HasSubstr("has shape [3, 5], expected"));
  }
}

TEST(LoadPlan, ATiedHeadIsIgnored) {
  Fixture tied(
      Files().add("lm_head.weight", {2, 2}), R"(,"tie_word_embeddings":true)");
  EXPECT_EQ(tied.problems(), "none");
  Fixture untied(Files().add("lm_head.weight", {2, 2}));
  EXPECT_THAT(untied.problems(), HasSubstr("lm_head.weight: is left over"));
}

struct Malformed {
  std::string name;
  std::string config;
  std::function<void(Files&)> fill;
  std::string problem;
};

std::ostream& operator<<(std::ostream& out, const Malformed& malformed) {
  return out << malformed.name;
}

class MalformedModule : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedModule, IsNamedWithExpectedAndFound) {
  Files files;
  GetParam().fill(files);
  Fixture f(files, GetParam().config);
  f.w().sub("a").matrix(2, 64);
  const auto problems = f.problems();
  EXPECT_THAT(problems, HasSubstr("model.safetensors"));
  EXPECT_THAT(problems, HasSubstr(GetParam().problem));
}

std::vector<Malformed> malformed_modules() {
  const std::string four = R"(,"quantization":{"bits":4,"group_size":64})";
  const QuantFormat affine{QuantMode::affine, 4, 64};
  return {
      {"ScalesWithoutConfig",
       "",
       [=](Files& files) {
         files.add_quantized("a", {2, 64}, affine);
       },
       "a.weight: is stored as U32, expected F32, F16 or BF16; config.json "
       "lacks \"quantization\""},
      {"Float8",
       "",
       [](Files& files) {
         files.add("a.weight", {2, 64}, DType::f8_e4m3);
       },
       "a.weight: is stored as F8_E4M3"},
      {"OtherBits",
       R"(,"quantization":{"bits":8,"group_size":64})",
       [=](Files& files) {
         files.add_quantized("a", {2, 64}, affine);
       },
       "a.weight: has shape [2, 8], expected [2, 16]"},
      {"OtherGroups",
       R"(,"quantization":{"bits":4,"group_size":32})",
       [=](Files& files) {
         files.add_quantized("a", {2, 64}, affine);
       },
       "a.scales: has shape [2, 1], expected [2, 2]"},
      {"NoBiases",
       four,
       [](Files& files) {
         files.add_quantized("a", {2, 64}, {QuantMode::mxfp4, 4, 32});
       },
       "a.biases: is missing"},
      {"ListedButPlain",
       R"(,"quantization":{"bits":4,"group_size":64,"a":{"bits":4}})",
       [](Files& files) {
         files.add("a.weight", {2, 64});
       },
       "a.weight: is stored as F32, expected U32 for the configured"},
      {"FalseButPacked",
       R"(,"quantization":{"bits":4,"group_size":64,"a":false})",
       [=](Files& files) {
         files.add_quantized("a", {2, 64}, affine);
       },
       "a.scales: is left over"},
      {"GroupAboveInput",
       R"(,"quantization":{"bits":4,"group_size":128})",
       [=](Files& files) {
         files.add_quantized("a", {2, 64}, affine);
       },
       "multiple of the group size 128"},
      {"ScalesOfFpModesAreFloat",
       R"(,"quantization":{"bits":4,"group_size":32,"mode":"mxfp4"})",
       [](Files& files) {
         files.add_quantized("a", {2, 64}, {QuantMode::affine, 4, 32});
       },
       "a.scales: is stored as F32, expected U8"},
      {"Rank3",
       "",
       [](Files& files) {
         files.add("a.weight", {1, 2, 64});
       },
       "has shape [1, 2, 64], expected [2, 64]"},
  };
}

INSTANTIATE_TEST_SUITE_P(
    LoadPlan,
    MalformedModule,
    ::testing::ValuesIn(malformed_modules()),
    [](const ::testing::TestParamInfo<Malformed>& each) {
      return each.param.name;
    });

TEST(LoadPlan, TruncationAfterOpeningNamesTheTensor) {
  const auto truncated_to = [](std::uintmax_t removed) {
    Fixture f(Files().add("a.weight", {300, 5}).add("b.weight", {2, 5}));
    f.w().sub("a").matrix(300, 5);
    f.w().sub("b").matrix(2, 5);
    const auto path = f.dir.path() / "model.safetensors";
    std::filesystem::resize_file(
        path, std::filesystem::file_size(path) - removed);
    return f.problems(/* n_threads */ 1); // of several, either may be first
  };
  EXPECT_THAT(truncated_to(1), HasSubstr("tensor b.weight: the file ends at"));
  EXPECT_THAT(truncated_to(44), HasSubstr("a.weight: the file ends at byte"));
  EXPECT_EQ(truncated_to(0), "none");
}

TEST(LoadPlan, ThrowingProgressStopsTheLoad) {
  Fixture f(Files().add("a.weight", {3, 5}));
  f.w().sub("a").matrix(3, 5);
  EXPECT_THROW(
      f.plan->read(
          2,
          [](std::uint64_t, std::uint64_t) {
            throw InvalidArgument("cancelled");
          }),
      InvalidArgument);
}

TEST(LoadPlan, RandomPlansFollowTheConfig) {
  auto args = make_args(R"(,"quantization":{"bits":4,"group_size":32})");
  auto plan = LoadPlan::random(args, /* seed */ 3);
  const auto w = plan.weights();
  const auto packed = w.sub("a").matrix(8, 64);
  const auto norm = w.sub("input_layernorm").vector("weight", 64);
  plan.read();
  EXPECT_EQ(packed.format, (QuantFormat{QuantMode::affine, 4, 32}));
  for (const auto value : floats_of(norm)) {
    EXPECT_NEAR(value, 1.0f, 0.11f);
  }
  const auto values = mx::astype(
      mx::dequantize(packed.weight, *packed.scales, packed.biases, 32, 4),
      mx::float32);
  EXPECT_NEAR(mx::mean(values).item<float>(), 0.0f, 0.05f);
  EXPECT_LT(mx::max(mx::abs(values)).item<float>(), 0.3f);
}

TEST(LoadPlan, RandomCodesOfMxfp8AreNumbers) {
  auto args =
      make_args(R"(,"quantization":{"bits":8,"group_size":32,"mode":"mxfp8"})");
  auto plan = LoadPlan::random(args, /* seed */ 3);
  const auto packed = plan.weights().sub("a").matrix(256, 64);
  plan.read();
  const auto values = mx::astype(
      mx::dequantize(
          packed.weight, *packed.scales, std::nullopt, 32, 8, "mxfp8"),
      mx::float32);
  EXPECT_LT(mx::max(mx::abs(values)).item<float>(), 0.13f);
}

} // namespace
} // namespace qwen3_mlx
