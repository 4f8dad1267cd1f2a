// SPDX-License-Identifier: MIT
// Stands in for the CUDA kernels where the library was built without them: no
// matrix is ever put into blocks, so nothing else is ever called.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/step_graph.h"
#include "kernels/cuda/uploads.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

[[noreturn]] void fail() {
  throw Error("this build has no CUDA kernels");
}

} // namespace

std::optional<std::string> why_unavailable() {
  return "built without them";
}

std::vector<std::string> what_falls_back() {
  return {};
}

std::shared_ptr<Runtime> make_runtime(bool) {
  fail();
}

bool is_exact(const Runtime&) {
  fail();
}

std::optional<PackedLayout> layout_of(const Matrix&) {
  return std::nullopt;
}

std::optional<Matrix>
make_blocks(const Matrix&, const std::shared_ptr<Runtime>&) {
  return std::nullopt;
}

mx::array reserved_array(const mx::Shape&, mx::Dtype) {
  fail();
}

struct Uploads::State {};

Uploads::Uploads(std::shared_ptr<Runtime>, std::size_t) {
  fail();
}

Uploads::~Uploads() = default;

std::byte* Uploads::slot(int) const {
  fail();
}

void Uploads::wait_for(int) {
  fail();
}

void Uploads::start(int, const UploadedRows&) {
  fail();
}

void Uploads::finish() {
  fail();
}

bool takes_rows(const mx::array&, const Matrix&, bool) {
  return false;
}

mx::array linear_op(const mx::array&, const Matrix&, const FusedLinear&) {
  fail();
}

mx::array embedding_op(const mx::array&, const Matrix&, mx::Dtype) {
  fail();
}

Matrix unpacked(const Matrix&, mx::Dtype) {
  fail();
}

Matrix packed_rows(const Matrix&, int, int) {
  fail();
}

bool takes_experts(const Matrix&, const Matrix*, const Matrix&) {
  return false;
}

mx::array sparse_op(
    const mx::array&,
    const mx::array&,
    const PackedExperts&,
    const SparseForm&) {
  fail();
}

bool takes_attention(
    const mx::array&,
    const AttentionForm&,
    bool,
    const Runtime&) {
  return false;
}

std::optional<MostLikely>
most_likely_op(const mx::array&, const std::shared_ptr<Runtime>&) {
  fail();
}

mx::array fresh_array(const Runtime&, const mx::Shape&, mx::Dtype) {
  fail();
}

int step_splits(int) {
  return 1;
}

std::shared_ptr<StepGraph>
StepGraph::record(const mx::array&, const mx::array&, const StepForm&) {
  return nullptr;
}

mx::array attention_op(
    const mx::array&,
    const AttentionForm&,
    const mx::array&,
    const std::vector<CacheSegment>&,
    const std::shared_ptr<Runtime>&) {
  fail();
}

} // namespace qwen3_mlx::cuda
