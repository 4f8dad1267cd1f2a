// SPDX-License-Identifier: MIT
// A step in one kernel beside the same step as a chain of kernels, each of
// which is tested against float64.
#include "kernels/cuda/persistent_step.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/device_data.h"
#include "kernels/cuda/step_launches.h"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kCapacity = 1200;

// A model with random weights and half-filled caches in the GPU's memory.
class DeviceModel {
 public:
  DeviceModel(const Launcher& launcher, const StepModel& model)
      : model_(model), launcher_(launcher), rng_(7) {
    const int count = std::max(1, model.experts);
    for (int i = 0; i < model.layers; ++i) {
      at_.layers.push_back(
          {matrix(model.qkv_rows(), model.hidden),
           matrix(model.hidden, model.heads * model.head_dim),
           matrix(2 * model.intermediate, model.hidden, count),
           matrix(model.hidden, model.intermediate, count),
           model.experts > 0 ? router() : nullptr});
      const std::size_t size = static_cast<std::size_t>(model.kv_heads) *
          kCapacity * static_cast<std::size_t>(model.head_dim);
      sequences_.push_back({numbers(size, 1), numbers(size, 1), kCapacity, 0});
    }
    at_.lm_head = matrix(model.vocab, model.hidden);
    at_.norm = numbers(static_cast<std::size_t>(model.hidden), 0.1F, 1);
    at_.head_norm = numbers(static_cast<std::size_t>(model.head_dim), 0.1F, 1);
    at_.bias = numbers(static_cast<std::size_t>(model.qkv_rows()), 0.3F);
    at_.periods = reinterpret_cast<const float*>(
        keep(bytes_of(rope_periods(model.head_dim))));
    at_.qkv = room(2 * model.qkv_rows());
    at_.attended = room(2 * model.heads * model.head_dim);
    const int rows = std::max(1, model.chosen);
    at_.gated = room(2 * model.intermediate * rows);
    at_.router_logits = room(2 * model.experts);
    at_.chosen = reinterpret_cast<std::uint32_t*>(room(4 * rows));
    at_.shares = reinterpret_cast<float*>(room(4 * rows));
    at_.parts = room(2 * model.hidden * rows);
    at_.logits = room(2 * model.vocab);
    at_.workspace = reinterpret_cast<float*>(room(1 << 20));
    at_.counters =
        reinterpret_cast<unsigned*>(keep(std::vector<std::uint8_t>(4096)));
    embedding_ = Numbers::random(
                     rng_, Float::bf16, static_cast<std::size_t>(model.hidden))
                     .bytes;
    at_.stream = keep(embedding_);
  }

  const StepPlaces& places() const {
    return at_;
  }
  std::vector<StepLaunch> launches() const {
    return launches_of(model_, at_);
  }
  const std::vector<DecodeSequence>& sequences() const {
    return sequences_;
  }

  // The chain, whose stream is written in place.
  std::vector<double> run_chain(int position) {
    check(
        cudaMemcpy(
            at_.stream,
            embedding_.data(),
            embedding_.size(),
            cudaMemcpyHostToDevice),
        "embedding");
    std::size_t layer = 0;
    for (const auto& each : launches()) {
      if (const auto* const product = std::get_if<GemvArgs>(&each)) {
        gemv(launcher_, *product);
      } else if (const auto* const router = std::get_if<RouteArgs>(&each)) {
        route(launcher_, *router, 1);
      } else if (const auto* const sum = std::get_if<WeightedSumArgs>(&each)) {
        weighted_sum(launcher_, *sum, 1);
      } else {
        DecodeSequence sequence = sequences_[layer++];
        sequence.offset = position;
        decode_attention(
            launcher_,
            std::get<AttentionLaunch>(each).args,
            std::span<const DecodeSequence>(&sequence, 1));
      }
    }
    auto logits = read_logits();
    check(
        cudaMemcpy(
            at_.stream,
            embedding_.data(),
            embedding_.size(),
            cudaMemcpyHostToDevice),
        "embedding");
    return logits;
  }

  std::vector<double> read_logits() const {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(model_.vocab) * 2);
    check(cudaDeviceSynchronize(), "run");
    check(
        cudaMemcpy(
            bytes.data(), at_.logits, bytes.size(), cudaMemcpyDeviceToHost),
        "logits");
    return decode_all(Float::bf16, bytes);
  }

  std::uint8_t* keep(const std::vector<std::uint8_t>& bytes) {
    memory_.push_back(std::make_unique<DeviceArray<std::uint8_t>>(bytes));
    return memory_.back()->get();
  }
  std::uint8_t* room(int n_bytes) {
    memory_.push_back(std::make_unique<DeviceArray<std::uint8_t>>(
        static_cast<std::size_t>(n_bytes)));
    return memory_.back()->get();
  }

  template <class T>
  static std::vector<std::uint8_t> bytes_of(const std::vector<T>& values) {
    const auto* const begin =
        reinterpret_cast<const std::uint8_t*>(values.data());
    return {begin, begin + values.size() * sizeof(T)};
  }

 private:
  const void* matrix(int rows, int cols, int count = 1) {
    packed_.push_back(std::make_unique<PackedOnDevice>(
        launcher_,
        RandomMatrix(rng_, model_.layout(rows, cols), count),
        count));
    return packed_.back()->get();
  }
  // Rows are multiples of one, to the bit, so that logits are far enough from
  // each other for the chain, which rounds them to bfloat16, to choose alike.
  const void* router() {
    RandomMatrix m(rng_, model_.router_layout());
    const auto rows = static_cast<std::size_t>(model_.experts);
    std::vector<float> factors(rows);
    std::iota(factors.begin(), factors.end(), 1.0F); // whole, of eight bits
    std::ranges::shuffle(factors, rng_);
    const auto repeat = [&](std::vector<std::uint8_t>& bytes) {
      const std::size_t n_bytes = bytes.size() / rows;
      for (std::size_t r = rows; r-- > 0;) { // the first one last
        std::copy_n(
            bytes.begin(),
            n_bytes,
            bytes.begin() + static_cast<std::ptrdiff_t>(r * n_bytes));
      }
    };
    const auto repeat_scaled = [&](std::vector<std::uint8_t>& bytes) {
      repeat(bytes);
      const std::size_t n_bytes = bytes.size() / rows;
      for (std::size_t i = 0; i < bytes.size(); i += 2) {
        auto* const at = bytes.data() + i;
        at[0] &= 0x80U; // a power of two
        const auto value = static_cast<float>(decode(Float::bf16, at));
        encode(Float::bf16, factors[i / n_bytes] / 64 * value, at);
      }
    };
    if (m.layout.is_plain()) {
      repeat_scaled(m.weight);
    } else {
      repeat(m.weight);
      repeat_scaled(m.scales);
      repeat_scaled(m.biases);
    }
    packed_.push_back(std::make_unique<PackedOnDevice>(launcher_, m));
    return packed_.back()->get();
  }
  std::uint8_t* numbers(std::size_t size, float spread, float center = 0) {
    return keep(Numbers::random(rng_, Float::bf16, size, spread, center).bytes);
  }

  StepModel model_;
  Launcher launcher_;
  std::mt19937 rng_;
  std::vector<std::unique_ptr<PackedOnDevice>> packed_;
  std::vector<std::unique_ptr<DeviceArray<std::uint8_t>>> memory_;
  std::vector<DecodeSequence> sequences_;
  std::vector<std::uint8_t> embedding_;
  StepPlaces at_;
};

class PersistentStepTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
    if (!launcher_.has_warpgroups) {
      GTEST_SKIP() << "not compute capability 9.0";
    }
  }

  void compare(const StepModel& model) {
    SCOPED_TRACE(
        "hidden " + std::to_string(model.hidden) + ", heads " +
        std::to_string(model.heads) + " of " + std::to_string(model.head_dim) +
        ", " + std::to_string(model.bits) + " bits, group " +
        std::to_string(model.group) + ", " + std::to_string(model.chosen) +
        " of " + std::to_string(model.experts) + " experts");
    DeviceModel device(launcher_, model);
    const auto program = StepProgram::make(
        device.launches(),
        device.places().logits,
        launcher_.num_sms,
        [&](std::size_t n) {
          return device.keep(std::vector<std::uint8_t>(n));
        });
    ASSERT_TRUE(program);
    ASSERT_TRUE(supports_persistent_step(launcher_, *program));
    PersistentStepArgs args = upload(*program, [&](std::size_t n) {
      return device.room(static_cast<int>(n));
    });
    args.sequences = reinterpret_cast<const DecodeSequence*>(
        device.keep(DeviceModel::bytes_of(device.sequences())));
    args.logits = device.places().logits;
    for (const int position : {0, 1, 15, 16, 63, 64, 200, 511, 1199}) {
      args.offset = reinterpret_cast<const int*>(
          device.keep(DeviceModel::bytes_of(std::vector<int>{position})));
      const auto expected = device.run_chain(position);
      persistent_step(launcher_, *program, args);
      const auto got = device.read_logits();
      // The chain rounds the stream to bfloat16 after each addition, which the
      // kernel does not: cuda_models_tests tell who is nearer to float32.
      const double error = relative_error(got, expected);
      EXPECT_LE(error, 2e-2) << "position " << position;
      greatest_ = std::max(greatest_, error);
      persistent_step(launcher_, *program, args);
      EXPECT_EQ(device.read_logits(), got) << "position " << position;
    }
    std::printf("greatest relative difference %.2e\n", greatest_);
  }

  Launcher launcher_;
  double greatest_ = 0;
};

TEST_F(PersistentStepTest, IsTheChain) {
  compare({});
}

TEST_F(PersistentStepTest, HandlesFormats) {
  compare({.group = 32});
  compare({.bits = 8});
  compare({.head_dim = 128, .group = 32});
  compare({.head_dim = 128, .bits = 8});
  compare({.bits = 16, .group = 0});
  compare({.head_dim = 128, .bits = 16, .group = 0});
}

TEST_F(PersistentStepTest, HandlesShapes) {
  compare({.hidden = 896, .intermediate = 4864, .heads = 14, .has_bias = true});
  compare(
      {.hidden = 1024,
       .intermediate = 3072,
       .heads = 16,
       .kv_heads = 8,
       .head_dim = 128,
       .vocab = 8008});
  compare(
      {.hidden = 4096,
       .layers = 1,
       .intermediate = 12288,
       .heads = 32,
       .kv_heads = 8,
       .head_dim = 128});
  compare(
      {.hidden = 5120,
       .layers = 1,
       .intermediate = 1024,
       .heads = 8,
       .kv_heads = 8});
}

TEST_F(PersistentStepTest, HandlesExperts) {
  const StepModel small{.intermediate = 128, .experts = 8, .chosen = 2};
  compare(small);
  for (const int router_bits : {4, 16}) {
    StepModel other = small;
    other.router_bits = router_bits;
    other.normalize = false;
    compare(other);
  }
  compare(
      {.hidden = 896,
       .intermediate = 384,
       .head_dim = 128,
       .group = 32,
       .experts = 60,
       .chosen = 4});
  compare(
      {.hidden = 2048,
       .intermediate = 768,
       .heads = 32,
       .kv_heads = 4,
       .head_dim = 128,
       .experts = 128,
       .chosen = 8});
  compare(
      {.hidden = 512,
       .intermediate = 128,
       .bits = 8,
       .experts = 100,
       .chosen = 16,
       .router_bits = 16});
}

} // namespace
} // namespace qwen3_mlx::cuda
