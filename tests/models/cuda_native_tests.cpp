// SPDX-License-Identifier: MIT
// The CUDA kernels inside whole models: logits beside those of MLX's own
// operations on the same GPU and the same random weights.
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "kernels/cuda/runtime.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx {
namespace {

ModelArgs shape_of(const std::string& type, const std::string& more) {
  const auto path =
      std::filesystem::path(testing::TempDir()) / ("cuda_" + type + ".json");
  std::ofstream(path) << R"({"model_type": ")" << type << R"(",
    "hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 512,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
    "vocab_size": 1000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16")"
                      << more << "}";
  return parse_model_args(Config::load(path));
}

mx::array ids(std::vector<int> values) {
  const int n = static_cast<int>(values.size());
  return mx::array(values.begin(), {n}, mx::uint32);
}

double relative_error(const mx::array& a, const mx::array& b) {
  const mx::StreamOrDevice cpu = mx::Device(mx::Device::cpu);
  const auto x = mx::astype(a, mx::float32, cpu);
  const auto y = mx::astype(b, mx::float32, cpu);
  const auto norm = [&](const mx::array& v) {
    return mx::sqrt(mx::sum(mx::square(v, cpu), cpu), cpu);
  };
  auto error = mx::divide(norm(mx::subtract(x, y, cpu)), norm(y), cpu);
  return static_cast<double>(error.item<float>());
}

class CudaNativeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto reason = cuda::why_unavailable()) {
      GTEST_SKIP() << *reason;
    }
  }

  static Model make(
      const ModelArgs& args,
      mx::Device device,
      Kernels kernels,
      bool exact = false) {
    LoadOptions options;
    options.device = device;
    options.kernels = kernels;
    options.exact = device == mx::Device::cpu || exact;
    return make_random_model(args, 7, options);
  }

  // Prompts of three lengths, then steps of all of them together.
  static std::vector<mx::array>
  run(const Model& model, const CacheOptions& options) {
    std::vector<mx::array> logits;
    std::vector<std::vector<KVCache>> caches;
    for (const int length : {40, 1, 300}) {
      caches.push_back(model.make_cache(options));
      std::vector<int> prompt;
      for (int i = 0; i < length; ++i) {
        prompt.push_back((i * 37 + length) % 1000);
      }
      const Segment segment{.cache = caches.back(), .length = length};
      logits.push_back(model.forward({ids(prompt), {segment}}));
    }
    for (int step = 0; step < 5; ++step) {
      std::vector<Segment> segments;
      std::vector<int> tokens;
      for (auto& cache : caches) {
        segments.push_back({.cache = cache, .length = 1});
        tokens.push_back((step * 11 + static_cast<int>(tokens.size())) % 1000);
      }
      logits.push_back(model.forward({ids(tokens), segments}));
    }
    // Pieces of several prompts in one step, beside one new token.
    std::vector<Segment> pieces;
    std::vector<int> tokens;
    for (std::size_t idx = 0; idx < caches.size(); ++idx) {
      const int length = std::array{90, 1, 17}[idx];
      pieces.push_back({.cache = caches[idx], .length = length});
      for (int i = 0; i < length; ++i) {
        tokens.push_back((i * 13 + length) % 1000);
      }
    }
    logits.push_back(model.forward({ids(tokens), pieces}));
    // A copy goes its own way, and the first is none the wiser.
    std::vector<KVCache> copy;
    for (const auto& cache : caches[0]) {
      copy.push_back(cache.copy());
    }
    const auto once = [&](std::vector<KVCache>& cache, int token) {
      return model.forward({ids({token}), {{.cache = cache, .length = 1}}});
    };
    logits.push_back(once(caches[0], 5));
    logits.push_back(once(copy, 6));
    logits.push_back(once(caches[0], 7));
    logits.push_back(once(copy, 8));
    for (auto& cache : caches[0]) {
      cache.trim(2);
    }
    logits.push_back(once(caches[0], 9));
    logits.push_back(
        model.forward({ids({1, 2, 3}), {{.cache = caches[0], .length = 3}}}));
    logits.push_back(once(caches[0], 9));
    for (auto& each : logits) {
      each.eval();
    }
    return logits;
  }

  // The CPU's kernels sum in float32, MLX's on the GPU partly in bfloat16: what
  // is asked for is to be as near to the former as the latter are.
  static void compare(const ModelArgs& args, const CacheOptions& options = {}) {
    const auto logits = [&](mx::Device::DeviceType device, Kernels kernels) {
      return run(make(args, mx::Device(device), kernels), options);
    };
    const auto native = logits(mx::Device::gpu, Kernels::native);
    const auto stock = logits(mx::Device::gpu, Kernels::stock);
    const auto exact = logits(mx::Device::cpu, Kernels::native);
    ASSERT_EQ(native.size(), exact.size());
    double of_native = 0;
    double of_stock = 0;
    for (std::size_t i = 0; i < native.size(); ++i) {
      const double error = relative_error(native[i], exact[i]);
      of_native += error;
      of_stock += relative_error(stock[i], exact[i]);
    }
    EXPECT_LE(of_native, 1.1 * of_stock);
    std::printf(
        "mean error %.4f, of stock kernels %.4f\n",
        of_native / static_cast<double>(native.size()),
        of_stock / static_cast<double>(native.size()));
  }

  // The logits behind a prompt that is read in pieces, each beside a piece of
  // another text where `others` says so; then behind two more tokens.
  static std::vector<mx::array> read_in_pieces(
      const Model& model,
      const std::vector<int>& pieces,
      bool others) {
    std::vector<mx::array> logits;
    auto cache = model.make_cache();
    auto other = model.make_cache();
    int position = 0;
    const auto step = [&](int length, int other_length) {
      std::vector<int> tokens;
      std::vector<Segment> segments;
      if (others) {
        segments.push_back({.cache = other, .length = other_length});
        for (int i = 0; i < other_length; ++i) {
          tokens.push_back((i * 19 + position) % 1000);
        }
      }
      segments.push_back({.cache = cache, .length = length});
      for (int i = 0; i < length; ++i) {
        tokens.push_back(position++ * 37 % 1000);
      }
      const int last = static_cast<int>(tokens.size()) - 1;
      logits.push_back(
          model.forward({ids(tokens), segments, std::vector<int>{last}}));
      logits.back().eval();
    };
    for (const int length : pieces) {
      step(length, 70);
    }
    logits.erase(logits.begin(), logits.end() - 1);
    step(1, 1);
    step(1, 9);
    return logits;
  }

  static void expect_same_bits(const ModelArgs& args) {
    const auto model = make(
        args,
        mx::Device(mx::Device::gpu),
        Kernels::native,
        /* exact */ true);
    const auto expected = read_in_pieces(model, {1100}, /* others */ false);
    for (const bool others : {false, true}) {
      for (const auto& pieces : std::vector<std::vector<int>>{
               {1100}, {1, 1099}, {64, 500, 1, 535}}) {
        const auto got = read_in_pieces(model, pieces, others);
        ASSERT_EQ(got.size(), expected.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          EXPECT_TRUE(mx::array_equal(got[i], expected[i]).item<bool>())
              << pieces.size() << " pieces, step " << i << ", others "
              << others;
        }
      }
    }
  }

  static void quantize(ModelArgs& args, int bits, int group) {
    args.quantization = QuantizationConfig{
        .format = {QuantMode::affine, bits, group}, .modules = {}};
  }
};

TEST_F(CudaNativeTest, DenseInFourBits) {
  auto args = shape_of("qwen3", "");
  quantize(args, 4, 64);
  compare(args);
}

TEST_F(CudaNativeTest, DenseInEightBits) {
  auto args = shape_of("qwen3", "");
  quantize(args, 8, 32);
  compare(args);
}

TEST_F(CudaNativeTest, DenseInOtherFormats) {
  for (const int bits : {2, 3, 5, 6}) {
    auto args = shape_of("qwen3", "");
    quantize(args, bits, 64);
    compare(args);
  }
  for (const QuantFormat& format :
       {QuantFormat{QuantMode::affine, 8, 128},
        QuantFormat{QuantMode::mxfp4, 4, 32},
        QuantFormat{QuantMode::mxfp8, 8, 32},
        QuantFormat{QuantMode::nvfp4, 4, 16}}) {
    auto args = shape_of("qwen3", "");
    args.quantization = QuantizationConfig{.format = format, .modules = {}};
    std::printf("%s: ", to_string(format.mode));
    compare(args);
  }
}

TEST_F(CudaNativeTest, OtherHeads) {
  for (const int head_dim : {96, 256}) {
    auto args = shape_of("qwen3", "");
    args.head_dim = head_dim;
    quantize(args, 4, 64);
    compare(args);
    for (const int group : {32, 128}) {
      if (head_dim % group == 0) {
        CacheOptions options;
        options.kv_bits = 8;
        options.kv_group_size = group;
        compare(args, options);
      }
    }
  }
}

TEST_F(CudaNativeTest, DensePlain) {
  compare(shape_of("qwen3", ""));
}

TEST_F(CudaNativeTest, DenseWithBiases) {
  auto args = shape_of("qwen2", "");
  quantize(args, 4, 64);
  compare(args);
}

TEST_F(CudaNativeTest, QuantizedCaches) {
  auto args = shape_of("qwen3", "");
  quantize(args, 4, 64);
  for (const int bits : {8, 4}) {
    CacheOptions options;
    options.kv_bits = bits;
    compare(args, options);
  }
}

// The steps after the first two are recorded ones: none may be left out.
TEST_F(CudaNativeTest, QuantizedCachesInManySteps) {
  const auto args = shape_of("qwen3", "");
  CacheOptions options;
  options.kv_bits = 8;
  const auto logits = [&](mx::Device::DeviceType device) {
    const auto model = make(args, mx::Device(device), Kernels::native);
    auto cache = model.make_cache(options);
    std::vector<mx::array> all;
    // Across the places where caches grow.
    for (int step = 0; step < 600; ++step) {
      all.push_back(model.forward(
          {ids({step * 37 % 1000}), {{.cache = cache, .length = 1}}}));
      all.back().eval();
    }
    return all;
  };
  const auto got = logits(mx::Device::gpu);
  const auto expected = logits(mx::Device::cpu);
  for (const std::size_t step : {0UL, 3UL, 255UL, 256UL, 257UL, 400UL, 599UL}) {
    EXPECT_LE(relative_error(got[step], expected[step]), 0.25) << step;
  }
}

TEST_F(CudaNativeTest, ExactIsTheSameInAnyCompany) {
  auto args = shape_of("qwen3", "");
  expect_same_bits(args);
  quantize(args, 4, 64);
  expect_same_bits(args);
  auto sparse = shape_of(
      "qwen3_moe",
      R"(, "num_experts": 8, "num_experts_per_tok": 2,
      "moe_intermediate_size": 128, "decoder_sparse_step": 1,
      "mlp_only_layers": [], "norm_topk_prob": true)");
  quantize(sparse, 4, 64);
  expect_same_bits(sparse);
}

TEST_F(CudaNativeTest, SparseInFourBits) {
  auto args = shape_of(
      "qwen3_moe",
      R"(, "num_experts": 8, "num_experts_per_tok": 2,
      "moe_intermediate_size": 128, "decoder_sparse_step": 1,
      "mlp_only_layers": [], "norm_topk_prob": true)");
  quantize(args, 4, 64);
  compare(args);
}

} // namespace
} // namespace qwen3_mlx
