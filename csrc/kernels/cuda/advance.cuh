// What      The end of a decode step on the device: every row's token becomes its next input, so
//           that the captured step can be replayed without the host.
//
// Math      advance.h.
//
// Tensors   AdvanceParams (advance.h).
//
// Threads   One block; a thread takes every 256th row, all of it: rows share nothing but the number
//           of the step, which everybody has read before it grows.
//
// Traffic   Some hundred bytes a row.
//
// Limits    advance_why_not (advance.h).
//
// Numerics  None: numbers are copied and counted.
//
// Oracle    The same on the host, csrc/tests/cuda_advance_test.cc.
#pragma once

#include "kernels/cuda/advance.h"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

__device__ __forceinline__ bool is_end(const AdvanceRow& row, int id) {
  for (int i = 0; i < row.ends; ++i) {
    if (row.end_ids[i] == id) return true;
  }
  return false;
}

__device__ __forceinline__ void end_row(const AdvanceParams& p, int row) {
  p.ids[row] = 0;  // any that there is
  p.positions[row] = -1;
  p.lengths[row] = 0;
  p.logit_rows[row] = -1;
}

__device__ __forceinline__ void advance_row(const AdvanceParams& p, int row, int id) {
  SamplingSettings& s = p.settings[row];
  if (s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f) {
    p.history[s.history_end++] = id;
  }
  if (--p.state[row].banned_left <= 0) s.banned_end = s.banned_begin;
  ++p.counters[row];
  p.ids[row] = id;
  ++p.positions[row];
  ++p.lengths[row];
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) advance_rows(const AdvanceParams p) {
  wait_for_previous();
  const int step = p.steps[0];
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.x); row < p.rows; row += kThreads) {
    const bool draws = p.logit_rows[row] >= 0;
    const int id = draws ? p.drawn[row] : -1;
    int32_t* const answer = p.answers + int64_t{2 * step} * p.rows + row;
    answer[0] = id;
    reinterpret_cast<float*>(answer)[p.rows] = p.logprobs[row];
    if (!draws) continue;
    if (id < 0 || --p.state[row].left <= 0 || is_end(p.state[row], id)) {
      end_row(p, row);
    } else {
      advance_row(p, row, id);
    }
  }
  if (threadIdx.x == 0) p.steps[0] = step + 1;
}

}  // namespace tgv::cuda
