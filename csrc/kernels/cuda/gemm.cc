#include "kernels/cuda/gemm.h"

#include <algorithm>

#include "base/errors.h"

namespace tgv::cuda {

namespace {
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
}  // namespace

GemmWork gemm_work(int64_t m, int64_t n, int tokens_per_tile, int64_t steps, int64_t blocks) {
  const int64_t token_tiles = ceil_div(m, tokens_per_tile);
  const int64_t tiles = ceil_div(n, kGemmRows) * token_tiles;
  const int64_t per_segment =
      std::max<int64_t>(kGemmMinSegmentSteps, ceil_div(steps, kGemmMaxSegments));
  const int64_t segments = ceil_div(steps, per_segment);
  if (std::max(tiles * segments, steps) > INT32_MAX) {
    throw InvalidArgument(concat("M=", m, ", N=", n, " and ", steps, " steps are too many"));
  }
  GemmWork w;
  w.tokens_per_tile = tokens_per_tile;
  w.token_tiles = static_cast<int>(token_tiles);
  w.tiles = static_cast<int>(tiles);
  w.steps = static_cast<int>(steps);
  w.steps_per_segment = static_cast<int>(per_segment);
  w.segments = static_cast<int>(segments);
  w.units = w.tiles * w.segments;
  w.blocks = static_cast<int>(std::clamp<int64_t>(blocks, 1, w.units));
  // A block can leave one tile unfinished, the last one none; with one segment no tile is shared.
  w.slots = w.segments == 1 ? 0 : std::min(w.tiles, w.blocks - 1);
  return w;
}

int64_t gemm_counter_bytes(const GemmWork& work) {
  return ceil_div(int64_t{work.slots} * kGemmWarps * 4, 128) * 128;
}

int64_t gemm_workspace_bytes(const GemmWork& work) {
  return gemm_counter_bytes(work) +
         int64_t{work.slots} * work.segments * kGemmRows * work.tokens_per_tile * 4;
}

std::string gemm_why_not(const GemmProblem& p) {
  if (p.m < 1 || p.n < 1 || p.k < 1) {
    return concat("M=", p.m, ", N=", p.n, ", K=", p.k, ", expected all >= 1");
  }
  if (!p.y || !p.x) return "y or x is null";
  return "";
}

std::string gemm_workspace_why_not(const GemmProblem& p, const GemmWork& work) {
  const int64_t needed = gemm_workspace_bytes(work);
  if (p.workspace_bytes < needed || (needed && !p.workspace)) {
    return concat("the workspace has ", p.workspace ? p.workspace_bytes : 0, " bytes, ",
                  work.blocks, " blocks need ", needed);
  }
  if (reinterpret_cast<uintptr_t>(p.workspace) % 16) return "workspace is not 16-byte aligned";
  return "";
}

std::string gemm_shared_why_not(int64_t needed, int64_t shared_bytes_per_block) {
  if (needed <= shared_bytes_per_block) return "";
  return concat("a tile needs ", needed, " bytes of shared memory, a block has ",
                shared_bytes_per_block);
}

}  // namespace tgv::cuda
