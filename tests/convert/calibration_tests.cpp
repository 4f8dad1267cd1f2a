// SPDX-License-Identifier: MIT
// Quantizing by a text, end to end on a tiny model; on a real one it is
// measured by benchmarks/quality/compare_calibration.py.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/safetensors.h"
#include "qwen3_mlx/convert.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"
#include "testing/tiny_chat_model.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;

class CalibrationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    mx::set_default_device(mx::Device::cpu);
    fs::create_directory(source());
    testing::write_tiny_chat_model(source());
    for (int line = 0; line < 40; ++line) {
      text_ += "hello, this is line " + std::to_string(line * line) + ".\n";
    }
  }

  fs::path source() const {
    return folder_.path() / "source";
  }

  ConvertOptions options(int bits, bool calibrated = true) const {
    ConvertOptions options{
        .quantize = QuantFormat{QuantMode::affine, bits, 32}};
    if (calibrated) {
      options.calibration =
          CalibrationOptions{.text = text_, .sequence_length = 64};
    }
    return options;
  }

  fs::path convert(const std::string& name, const ConvertOptions& options) {
    const auto target = folder_.path() / name;
    convert_checkpoint(source(), target, options);
    return target;
  }

  std::vector<float> logits(const fs::path& path) const {
    const auto model = load_model(path, testing::stock_float32());
    auto ids = load_tokenizer(path).encode(text_, false);
    ids.resize(64);
    auto cache = model.make_cache();
    return testing::values_of(model(testing::as_batch(ids), cache));
  }

  static double
  mean_square(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double sum = 0;
    for (std::size_t idx = 0; idx < a.size(); ++idx) {
      sum += (double{a[idx]} - b[idx]) * (double{a[idx]} - b[idx]);
    }
    return sum / static_cast<double>(a.size());
  }

  /// Of the quantized matrices of layers and head, with scales and biases.
  static double bits_per_weight(const fs::path& path) {
    const SafetensorsFile file(path / "model.safetensors");
    double bits = 0;
    double n_weights = 0;
    for (const auto& tensor : file.tensors()) {
      const auto module = tensor.name.substr(0, tensor.name.rfind('.'));
      if (file.find(module + ".scales") == nullptr ||
          module == "model.embed_tokens") {
        continue;
      }
      bits += 8 * static_cast<double>(tensor.n_bytes);
      if (tensor.name.ends_with(".scales")) {
        double n_groups = 1;
        for (const auto dim : tensor.shape) {
          n_groups *= static_cast<double>(dim);
        }
        n_weights += 32 * n_groups;
      }
    }
    return bits / n_weights;
  }

  TempDir folder_;
  std::string text_;
};

TEST_F(CalibrationTest, LogitsAreNearerThanThoseRoundedToNearest) {
  const auto exact = logits(source());
  for (const int bits : {3, 4}) {
    const auto width = std::to_string(bits);
    const auto nearest =
        mean_square(logits(convert("n" + width, options(bits, false))), exact);
    const auto ours =
        mean_square(logits(convert("c" + width, options(bits))), exact);
    EXPECT_LT(ours, 0.8 * nearest) << bits << " bits";
  }
}

TEST_F(CalibrationTest, BitsPerWeightAreThoseAskedForAtMost) {
  const auto exact = logits(source());
  double last = 1e30;
  // Scales and biases of float32 are 2 bits a weight in groups of 32.
  for (const double target : {4.5, 6.0, 8.5}) {
    auto own = options(4);
    own.calibration->target_bits = target;
    const auto path = convert("t" + std::to_string(target), own);
    const auto found = bits_per_weight(path);
    EXPECT_LE(found, target);
    EXPECT_GT(found, target - 0.75);
    const auto error = mean_square(logits(path), exact);
    EXPECT_LT(error, last) << target;
    last = error;
  }
}

TEST_F(CalibrationTest, WhatOneRuleSaysIsKept) {
  auto own = options(4);
  own.calibration->target_bits = 4.5;
  own.rules.push_back({"*.o_proj", QuantFormat{QuantMode::affine, 8, 32}});
  const auto path = convert("rule", own);
  const SafetensorsFile file(path / "model.safetensors");
  const auto* weight = file.find("model.layers.0.self_attn.o_proj.weight");
  const auto* scales = file.find("model.layers.0.self_attn.o_proj.scales");
  ASSERT_NE(weight, nullptr);
  ASSERT_NE(scales, nullptr);
  EXPECT_EQ(weight->shape.back(), scales->shape.back() * 32 * 8 / 32);
}

void expect_refused(
    const fs::path& from,
    const ConvertOptions& options,
    const std::string& reason) {
  try {
    convert_checkpoint(from, from.parent_path() / "refused", options);
    ADD_FAILURE() << "accepted: " << reason;
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr(reason));
  }
  EXPECT_FALSE(fs::exists(from.parent_path() / "refused"));
}

TEST_F(CalibrationTest, WhatCannotBeIsRefused) {
  auto own = options(4);
  own.calibration->target_bits = 2.0;
  expect_refused(source(), own, "--target-bits");
  own = options(4);
  own.calibration->text = "hello";
  expect_refused(source(), own, "tokens, expected at least 64");
  own = options(4);
  own.quantize = QuantFormat{QuantMode::mxfp4, 4, 32};
  expect_refused(source(), own, "affine");
  own = options(4);
  own.calibration->sequence_length = 0;
  expect_refused(source(), own, "sequences");
}

// A tokenizer may know more tokens than the model has rows for.
TEST_F(CalibrationTest, TokensOutsideOfTheModelAreRefused) {
  auto own = options(4);
  own.calibration->text = text_ + "<|wide|>" + text_;
  const auto path = source() / "tokenizer.json";
  std::ifstream in(path);
  std::string json{std::istreambuf_iterator<char>(in), {}};
  const std::string end = R"("added_tokens":[)";
  const auto at = json.find(end);
  ASSERT_NE(at, std::string::npos);
  json.insert(
      at + end.size(),
      R"({"content":"<|wide|>","id":100000,"lstrip":false,"normalized":false,)"
      R"("rstrip":false,"single_word":false,"special":true},)");
  std::ofstream(path) << json;
  expect_refused(source(), own, "100000");
}

} // namespace
} // namespace qwen3_mlx
