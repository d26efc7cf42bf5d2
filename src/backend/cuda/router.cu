// Router: a warp a token (as backend/cpu/kernels/router.cpp has it). Sums over tokens are taken in
// double in two stages, whose parts depend on the numbers of tokens and segments alone.
#include <algorithm>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/grid.h"
#include "backend/cuda/router_token.cuh"

namespace moesaic::cuda {
namespace {

constexpr int kBlock = 128;
constexpr int kWarps = kBlock / kWarp;

struct RouteShared {
  BlockScratch<double> scratch;
};

// inverse (T): of the sum of the regular scores; parts (blocks, 2): of sums.
template <int N>
__global__ void __launch_bounds__(kBlock, blocks_with(N))
    route_tokens(RouteRow row, RouteRows rows, std::int64_t tokens, float* inverse, double* parts) {
  auto& s = shared<RouteShared>();
  GroupRank* const groups = reinterpret_cast<GroupRank*>(&s + 1) + warp_index() * row.groups;
  double squares = 0.0;
  double entropy = 0.0;
  for (std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index(); t < tokens;
       t += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    Token<N> token(row, rows, t);
    if (row.candidates > 0) {
      token.keep_candidates();
    }
    token.finish_logits();
    const float lse = log_sum_exp(token.lanes, token.roles, token.logits);
    token.score(lse);
    const float total = regular_sum(token.lanes, token.roles, token.scores);
    const float own_inverse = 1.0F / (total + kTinyScore);
    entropy += token.entropy(own_inverse);
    if (lane_index() == 0) {
      squares += static_cast<double>(lse) * static_cast<double>(lse);
      inverse[t] = own_inverse;
    }
    if (row.top_groups < row.groups) {
      token.keep_top_groups(groups);
    }
    token.choose(total);
    token.write();
  }
  squares = block_sum(squares, s.scratch);
  entropy = block_sum(entropy, s.scratch);
  if (threadIdx.x == 0) {
    parts[2 * static_cast<std::int64_t>(blockIdx.x)] = squares;
    parts[2 * static_cast<std::int64_t>(blockIdx.x) + 1] = entropy;
  }
}

struct ShareCut {
  std::int64_t tokens, segments;
  int experts, tiles;          // of 32 experts
  std::int64_t chunk, chunks;  // tokens of a part, and parts
};

struct ShareShared {
  double sums[kWarps][kWarp];
};

// parts (chunks, S, E): the shares of each segment's tokens, for 32 experts and one chunk of
// tokens.
__global__ void __launch_bounds__(kBlock)
    sum_shares(ShareCut cut, RouteRows rows, const float* inverse, double* parts) {
  auto& s = shared<ShareShared>();
  const std::int64_t part = blockIdx.x / cut.tiles;
  const int e = static_cast<int>(blockIdx.x % cut.tiles) * kWarp + lane_index();
  const std::int64_t segment = part % cut.segments;
  const std::int64_t begin = part / cut.segments * cut.chunk;
  const std::int64_t end = begin + cut.chunk < cut.tokens ? begin + cut.chunk : cut.tokens;
  const bool regular = e < cut.experts && rows.state[e] == kRegularExpert;
  double sum = 0.0;
#pragma unroll 4
  for (std::int64_t t = begin + warp_index(); t < end; t += kWarps) {
    const bool own = rows.segment == nullptr || rows.segment[t] == segment;
    if (own && regular) {
      sum += static_cast<double>(rows.scores[t * cut.experts + e] * inverse[t]);
    }
  }
  s.sums[warp_index()][lane_index()] = sum;
  __syncthreads();
  if (warp_index() == 0 && e < cut.experts) {
    for (int warp = 1; warp < kWarps; ++warp) {
      sum += s.sums[warp][lane_index()];
    }
    parts[part * cut.experts + e] = sum;
  }
}

// `count` sums in double of `parts` parts each, as a float and what its rounding left.
struct SumParts {
  const double* from;  // (parts, count)
  std::int64_t parts, count;
  float* to;  // (2, count)
};

constexpr int kColumns = 32;
constexpr int kFinishWarps = 8;

struct FinishShared {
  double sums[kFinishWarps][kColumns];
};

// Block 0 has the sums over tokens, the others the shares.
__global__ void __launch_bounds__(kFinishWarps* kColumns)
    finish_sums(SumParts sums, SumParts shares) {
  auto& s = shared<FinishShared>();
  const bool of_sums = blockIdx.x == 0;
  const SumParts own{of_sums ? sums.from : shares.from, of_sums ? sums.parts : shares.parts,
                     of_sums ? sums.count : shares.count, of_sums ? sums.to : shares.to};
  const std::int64_t first = blockIdx.x == 0 ? 0 : blockIdx.x - 1;
  const std::int64_t i = first * kColumns + lane_index();
  double sum = 0.0;
  for (std::int64_t part = warp_index(); i < own.count && part < own.parts; part += kFinishWarps) {
    sum += own.from[part * own.count + i];
  }
  s.sums[warp_index()][lane_index()] = sum;
  __syncthreads();
  if (warp_index() == 0 && i < own.count) {
    for (int warp = 1; warp < kFinishWarps; ++warp) {
      sum += s.sums[warp][lane_index()];
    }
    const auto rounded = static_cast<float>(sum);
    own.to[i] = rounded;
    own.to[own.count + i] = static_cast<float>(sum - static_cast<double>(rounded));
  }
}

ShareCut share_cut(std::int64_t tokens, std::int64_t segments, std::int64_t experts) {
  constexpr std::int64_t kLeastChunk = 64;
  const std::int64_t most = std::max<std::int64_t>(1, 512 / std::max<std::int64_t>(1, segments));
  const std::int64_t chunk = std::max(kLeastChunk, ceil_div(tokens, most));
  return {.tokens = tokens,
          .segments = segments,
          .experts = static_cast<int>(experts),
          .tiles = static_cast<int>(ceil_div(experts, kWarp)),
          .chunk = chunk,
          .chunks = ceil_div(tokens, chunk)};
}

}  // namespace

void CudaBackend::route(const RouteOptions& options, const RouteTensors& tensors) {
  const std::int64_t tokens = tensors.logits.dim(0);
  const std::int64_t experts = tensors.logits.dim(1);
  const RouteRow row = row_of(options, experts);
  const RouteRows rows = rows_of(tensors);
  constexpr std::int64_t kMostBlocks = 4096;
  const std::int64_t blocks = std::min(kMostBlocks, ceil_div(tokens, kWarps));
  const ShareCut cut = share_cut(tokens, tensors.shares.dim(1), experts);
  const std::int64_t shares = cut.segments * experts;
  const Tensor inverse = empty(DType::kF32, {tokens});
  const Tensor sum_parts = empty(DType::kF64, {blocks, 2});
  const Tensor share_parts = empty(DType::kF64, {cut.chunks, shares});
  const std::size_t ranks = row.top_groups < row.groups
                                ? sizeof(GroupRank) * kWarps * static_cast<std::size_t>(row.groups)
                                : 0;
  with_lanes_of(experts, [&](auto n) {
    launch(stream(), route_tokens<decltype(n)::value>, grid_of(blocks), kBlock,
           sizeof(RouteShared) + ranks, row, rows, tokens, device<float>(inverse),
           device<double>(sum_parts));
  });
  launch(stream(), sum_shares, grid_of(cut.chunks * cut.segments * cut.tiles), kBlock,
         sizeof(ShareShared), cut, rows, device<float>(inverse), device<double>(share_parts));
  const SumParts sums{device<double>(sum_parts), blocks, 2, device<float>(tensors.sums)};
  const SumParts of_shares{device<double>(share_parts), cut.chunks, shares,
                           device<float>(tensors.shares)};
  launch(stream(), finish_sums, grid_of(1 + ceil_div(shares, kColumns)), kFinishWarps * kColumns,
         sizeof(FinishShared), sums, of_shares);
}

}  // namespace moesaic::cuda
