// SPDX-License-Identifier: MIT
#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/activations.h"
#include "kernels/cpu/packed_matrix.h"

namespace qwen3_mlx::cpu {

namespace {

// Rows a thread takes at a time: enough to hide the cost of taking them.
constexpr int kRowsPerChunk = 4;
// Fewest bytes of weights a thread takes at a time: a microsecond or two of
// reading, above the cost of claiming, so fine that threads end together.
constexpr std::size_t kLeastBytesPerChunk = 32 * 1024;
// Most bytes of weights a thread takes at a time when many rows meet them: they
// stay in the L2 cache, beside activations, while panel after panel of rows
// passes.
constexpr std::size_t kMostBytesPerPanelChunk = 256 * 1024;

template <class Function>
void for_each_row(const Context& context, int num_rows, Function&& function) {
  const int num_chunks = (num_rows + kRowsPerChunk - 1) / kRowsPerChunk;
  context.pool.parallel_for(num_chunks, [&](int chunk) {
    const int end = std::min(num_rows, (chunk + 1) * kRowsPerChunk);
    for (int row = chunk * kRowsPerChunk; row < end; ++row) {
      function(row);
    }
  });
}

// Number of tiles that a job's outputs come from.
int output_tiles(const MatmulJob& job) {
  return job.up_tile_offset != 0 ? job.up_tile_offset : job.layout.num_tiles();
}

// Ends of the runs of tiles that threads claim one after another. Each round
// shares out half of what is left, so that threads read long runs, which memory
// likes, and yet end together.
std::vector<int> chunk_ends(const Context& context, const MatmulJob& job) {
  const std::size_t tile_bytes =
      job.layout.tile_bytes() * (job.up_tile_offset != 0 ? 2 : 1);
  const int tiles = output_tiles(job);
  // Float sums are taken of two tiles together.
  const int together =
      job.form == RowForm::int8 || job.up_tile_offset != 0 ? 1 : 2;
  const int least = std::max(
      together,
      static_cast<int>(
          kLeastBytesPerChunk / std::max<std::size_t>(tile_bytes, 1)));
  const int most = job.num_rows <= kPanelRows
      ? tiles
      : std::max(
            together,
            static_cast<int>(
                kMostBytesPerPanelChunk /
                std::max<std::size_t>(tile_bytes, 1)));
  const int threads = context.pool.size();
  std::vector<int> ends;
  for (int done = 0; done < tiles;) {
    const int share = std::max(least, (tiles - done) / (2 * threads));
    const int step =
        std::max(together, std::min(most, share) / together * together);
    for (int thread = 0; thread < threads && done < tiles; ++thread) {
      done = std::min(tiles, done + step);
      ends.push_back(done);
    }
  }
  return ends;
}

void run(const Context& context, const MatmulJob& job) {
  if (job.num_rows == 0) {
    return;
  }
  const std::vector<int> ends = chunk_ends(context, job);
  context.pool.parallel_for(static_cast<int>(ends.size()), [&](int chunk_idx) {
    const auto chunk = static_cast<std::size_t>(chunk_idx);
    context.kernels.matmul_tiles(
        job, chunk == 0 ? 0 : ends[chunk - 1], ends[chunk]);
  });
}

bool fits_gated_tiles(const PackedLayout& layout) {
  return layout.rows % (2 * kTileRows) == 0;
}

} // namespace

void linear(
    const Context& context,
    const Rows& x,
    int num_rows,
    const PackedView& w,
    const LinearOptions& options,
    const MutableRows& out) {
  const auto count = static_cast<std::size_t>(num_rows);
  const Activations activations(
      context, x, num_rows, w.layout, Activations::Use::together, options.norm);
  MatmulJob job{.layout = w.layout, .weights = w.data, .num_rows = num_rows};
  activations.bind(job);
  if (options.bias) {
    job.bias = options.bias->data;
    job.bias_type = options.bias->type;
  }
  std::vector<const void*> residual;
  if (options.residual) {
    for (std::size_t row = 0; row < count; ++row) {
      residual.push_back(options.residual->row(row));
    }
    job.residual = residual.data();
    job.residual_type = options.residual->type;
  }
  std::vector<void*> rows(count);
  if (options.gated && !fits_gated_tiles(w.layout)) {
    // Gate and up share a tile: take them apart afterwards.
    const int half = w.layout.rows / 2;
    const auto stride = static_cast<std::size_t>(w.layout.rows);
    const auto sums = make_scratch<float>(count * stride);
    for (std::size_t row = 0; row < count; ++row) {
      rows[row] = sums.get() + row * stride;
    }
    job.out = rows.data();
    run(context, job);
    const std::size_t padded = round_up(static_cast<std::size_t>(half), 64);
    for_each_row(context, num_rows, [&](int row_idx) {
      const auto row = static_cast<std::size_t>(row_idx);
      const auto parts = make_scratch<float>(2 * padded);
      const float* const from = sums.get() + row * stride;
      context.kernels.load_row(from, Float::f32, half, parts.get());
      context.kernels.load_row(
          from + half, Float::f32, half, parts.get() + padded);
      context.kernels.swiglu(
          parts.get(), parts.get() + padded, half, parts.get());
      context.kernels.store_row(parts.get(), half, out.row(row), out.type);
    });
    return;
  }
  for (std::size_t row = 0; row < count; ++row) {
    rows[row] = out.row(row);
  }
  job.out = rows.data();
  job.out_type = out.type;
  job.up_tile_offset = options.gated ? w.layout.rows / 2 / kTileRows : 0;
  run(context, job);
}

namespace {

// The (token, slot) pairs of each expert in use, and where its job begins.
struct ExpertGroup {
  int expert;
  std::vector<int> pairs;
};

std::vector<ExpertGroup>
group_by_expert(const std::uint32_t* experts, int num_pairs, int num_experts) {
  std::vector<std::vector<int>> pairs(static_cast<std::size_t>(num_experts));
  for (int pair = 0; pair < num_pairs; ++pair) {
    const auto last = static_cast<std::uint32_t>(num_experts - 1);
    pairs[std::min(experts[pair], last)].push_back(pair);
  }
  std::vector<ExpertGroup> groups;
  for (int expert = 0; expert < num_experts; ++expert) {
    auto& of_expert = pairs[static_cast<std::size_t>(expert)];
    if (!of_expert.empty()) {
      groups.push_back({expert, std::move(of_expert)});
    }
  }
  // The heaviest first, so that threads end together.
  std::stable_sort(
      groups.begin(), groups.end(), [](const auto& a, const auto& b) {
        return a.pairs.size() > b.pairs.size();
      });
  return groups;
}

// One product per expert, all of them shared out tile by tile. Row `pair` of
// `out` gets the product of row `row_of(pair)` of `x`.
template <class RowOf>
void grouped_product(
    const Context& context,
    const Activations& x,
    const std::vector<ExpertGroup>& groups,
    const PackedView& w,
    int up_tile_offset,
    const MutableRows& out,
    RowOf&& row_of) {
  struct Part {
    MatmulJob job;
    Activations::Gathered rows;
    std::vector<void*> out;
  };
  std::vector<Part> parts(groups.size());
  struct Unit {
    std::size_t part;
    int first_tile;
    int last_tile;
  };
  std::vector<Unit> units;
  context.pool.parallel_for(static_cast<int>(groups.size()), [&](int group) {
    const auto idx = static_cast<std::size_t>(group);
    Part& part = parts[idx];
    std::vector<int> rows;
    for (const int pair : groups[idx].pairs) {
      rows.push_back(row_of(pair));
      part.out.push_back(out.row(static_cast<std::size_t>(pair)));
    }
    part.rows = x.gather(rows);
    part.rows.bind(part.job);
    part.job.layout = w.layout;
    part.job.weights = w.data +
        static_cast<std::size_t>(groups[idx].expert) * w.layout.n_bytes();
    part.job.num_rows = static_cast<int>(rows.size());
    part.job.out = part.out.data();
    part.job.out_type = out.type;
    part.job.up_tile_offset = up_tile_offset;
  });
  for (std::size_t idx = 0; idx < groups.size(); ++idx) {
    const Part& part = parts[idx];
    const int tiles = output_tiles(part.job);
    const int step = std::max(1, tiles / (2 * context.pool.size()));
    for (int tile = 0; tile < tiles; tile += step) {
      units.push_back({idx, tile, std::min(tiles, tile + step)});
    }
  }
  context.pool.parallel_for(static_cast<int>(units.size()), [&](int chunk) {
    const Unit& unit = units[static_cast<std::size_t>(chunk)];
    context.kernels.matmul_tiles(
        parts[unit.part].job, unit.first_tile, unit.last_tile);
  });
}

} // namespace

void experts_mlp(
    const Context& context,
    const Rows& x,
    int num_tokens,
    int top_k,
    const std::uint32_t* experts,
    const ExpertsView& w,
    const MutableRows& out,
    const std::optional<RmsNorm>& norm) {
  const int num_pairs = num_tokens * top_k;
  const auto groups = group_by_expert(experts, num_pairs, w.num_experts);
  const PackedLayout& gate_up = w.gate_up.layout;
  const bool fused = !w.up && fits_gated_tiles(gate_up);
  const int inner = w.up ? gate_up.rows : gate_up.rows / 2;
  const auto stride =
      round_up(static_cast<std::size_t>(fused ? inner : 2 * inner), 64);
  const Scratch<float> hidden(
      context.scratch, static_cast<std::size_t>(num_pairs) * stride);
  const MutableRows hidden_rows{hidden.get(), Float::f32, stride};
  {
    const Activations activations(
        context, x, num_tokens, gate_up, Activations::Use::apart, norm);
    grouped_product(
        context,
        activations,
        groups,
        w.gate_up,
        fused ? inner / kTileRows : 0,
        hidden_rows,
        [&](int pair) { return pair / top_k; });
  }
  if (w.up) {
    const Activations activations(
        context, x, num_tokens, w.up->layout, Activations::Use::apart, norm);
    grouped_product(
        context,
        activations,
        groups,
        *w.up,
        /* up_tile_offset */ 0,
        {hidden.get() + inner, Float::f32, stride},
        [&](int pair) { return pair / top_k; });
  }
  if (!fused) {
    const auto padded = round_up(static_cast<std::size_t>(inner), 64);
    for_each_row(context, num_pairs, [&](int pair) {
      auto* const row =
          static_cast<float*>(hidden_rows.row(static_cast<std::size_t>(pair)));
      const auto parts = make_scratch<float>(2 * padded);
      context.kernels.load_row(row, Float::f32, inner, parts.get());
      context.kernels.load_row(
          row + inner, Float::f32, inner, parts.get() + padded);
      context.kernels.swiglu(
          parts.get(), parts.get() + padded, inner, parts.get());
      context.kernels.store_row(parts.get(), inner, row, Float::f32);
    });
  }
  const Activations activations(
      context,
      Rows{hidden.get(), Float::f32, stride},
      num_pairs,
      w.down.layout,
      Activations::Use::apart);
  grouped_product(context, activations, groups, w.down, 0, out, [](int pair) {
    return pair;
  });
}

void route(
    const Context& context,
    const Rows& logits,
    int num_tokens,
    const RouteOptions& options,
    std::uint32_t* experts,
    float* weights) {
  const auto count = static_cast<std::size_t>(options.num_experts);
  const auto top_k = static_cast<std::size_t>(options.top_k);
  for_each_row(context, num_tokens, [&](int token_idx) {
    const auto token = static_cast<std::size_t>(token_idx);
    const auto row = make_scratch<float>(round_up(count, 64));
    context.kernels.load_row(
        logits.row(token), logits.type, options.num_experts, row.get());
    context.kernels.softmax(row.get(), options.num_experts);
    std::uint32_t* const chosen = experts + token * top_k;
    float* const share = weights + token * top_k;
    float total = 0;
    for (std::size_t slot = 0; slot < top_k; ++slot) {
      const auto* const best = std::max_element(row.get(), row.get() + count);
      chosen[slot] = static_cast<std::uint32_t>(best - row.get());
      share[slot] = *best;
      total += *best;
      row[chosen[slot]] = -1; // below every probability: not taken again
    }
    for (std::size_t slot = 0; options.normalize && slot < top_k; ++slot) {
      share[slot] /= total;
    }
  });
}

void combine_experts(
    const Context& context,
    const Rows& y,
    const float* weights,
    int num_tokens,
    int top_k,
    int size,
    const std::optional<Rows>& addend,
    const MutableRows& out) {
  const auto padded = round_up(static_cast<std::size_t>(size), 64);
  for_each_row(context, num_tokens, [&](int token_idx) {
    const auto token = static_cast<std::size_t>(token_idx);
    const auto buffers = make_scratch<float>(2 * padded);
    float* const total = buffers.get();
    float* const part = total + padded;
    std::fill_n(total, padded, 0.0F);
    for (int slot = 0; slot < top_k; ++slot) {
      const std::size_t pair = token * static_cast<std::size_t>(top_k) +
          static_cast<std::size_t>(slot);
      context.kernels.load_row(y.row(pair), y.type, size, part);
      context.kernels.add_scaled(part, weights[pair], size, total);
    }
    if (addend) {
      context.kernels.load_row(addend->row(token), addend->type, size, part);
      context.kernels.add_scaled(part, 1.0F, size, total);
    }
    context.kernels.store_row(total, size, out.row(token), out.type);
  });
}

void embedding(
    const Context& context,
    const std::uint32_t* tokens,
    int num_tokens,
    const PackedView& w,
    const MutableRows& out) {
  for_each_row(context, num_tokens, [&](int token_idx) {
    const auto token = static_cast<std::size_t>(token_idx);
    const auto row =
        make_scratch<float>(static_cast<std::size_t>(w.layout.cols));
    unpack_row(w.layout, w.data, static_cast<int>(tokens[token]), row.get());
    context.kernels.store_row(
        row.get(), w.layout.cols, out.row(token), out.type);
  });
}

} // namespace qwen3_mlx::cpu
