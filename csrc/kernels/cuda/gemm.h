// What the matrix products int4_gemm, half_gemm and float_gemm share: the problem without its
// weights, and how the work is cut. Host code only; the loop is gemm.cuh.
#pragma once

#include <cstdint>
#include <string>

namespace tgv::cuda {

// y[m, n] = f(x[m, k] W[n, k]^T + bias). "Element" is the op's own kind of number: f16, bf16, f32.
struct GemmProblem {
  int64_t m = 0, n = 0, k = 0;  // rows of x (tokens), rows of W, columns of both

  void* y = nullptr;           // [m, n] f32, or elements
  bool y_is_element = false;   // only with 16-bit elements
  const void* x = nullptr;     // [m, k] elements
  const void* bias = nullptr;  // [n] elements; may be null
  bool gelu = false;           // f = tanh-GELU, otherwise the identity

  // Scratch, 16-byte aligned. Its first gemm_counter_bytes must be 0 before the first launch that
  // uses it; every launch leaves them 0. Not to be shared by launches that may overlap.
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
};

inline constexpr int kGemmRows = 128;  // rows of W in a tile
inline constexpr int kGemmWarps = 8;
inline constexpr int kGemmThreads = kGemmWarps * 32;
inline constexpr int kGemmMinSegmentSteps = 8;  // of a tile's columns, see GemmWork
inline constexpr int kGemmMaxSegments = 8;

// The work of one launch. A tile of y (kGemmRows rows of W x tokens_per_tile) takes `steps` steps
// along k, cut into segments; a unit is one segment of one tile. Every segment is summed from zero
// and the sums are added in ascending order, and where segments end depends on k alone: so a row of
// y depends neither on the other rows nor on how the blocks share the units.
struct GemmWork {
  int tokens_per_tile = 0, token_tiles = 0;
  int tiles = 0;
  int steps = 0, steps_per_segment = 0, segments = 0;
  int units = 0;   // tiles * segments; block b takes the b-th of `blocks` equal ranges
  int blocks = 0;  // at most `units`
  int slots = 0;   // tiles that can be shared by several blocks at once
};

// InvalidArgument for more units than an int counts: terabytes of y.
GemmWork gemm_work(int64_t m, int64_t n, int tokens_per_tile, int64_t steps, int64_t blocks);

// Counters of the shared tiles, one for each warp, and behind them their segments' sums.
int64_t gemm_counter_bytes(const GemmWork& work);
int64_t gemm_workspace_bytes(const GemmWork& work);

// What is wrong with the problem, its weights aside: empty, or one sentence.
std::string gemm_why_not(const GemmProblem& p);
std::string gemm_workspace_why_not(const GemmProblem& p, const GemmWork& work);
std::string gemm_shared_why_not(int64_t needed, int64_t shared_bytes_per_block);

}  // namespace tgv::cuda
