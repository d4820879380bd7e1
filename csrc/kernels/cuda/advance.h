// From the tokens of a decode step to the inputs of the next one, on the device: the problem and
// when the kernel can take it. Host code only; the kernel is advance.cuh.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/sampling.h"

namespace tgv::cuda {

inline constexpr int kAdvanceMostEnds = 8;

// What ends a sequence, and what changes on its way; in device memory, counted down by the kernel.
struct AdvanceRow {
  int32_t left = 0;         // tokens that it may still get
  int32_t banned_left = 0;  // the first of them, to which SamplingSettings::banned_ids apply
  int32_t ends = 0;         // of end_ids
  int32_t end_ids[kAdvanceMostEnds] = {};
};

// Of every row that draws (logit_rows[r] >= 0): its token goes to row steps[0] of the answers and
// becomes the row's next input, one position on; the random counter and the length grow by one, and
// where penalties look at it the history does, too. After its last token (none left, an end id, or
// -1: nothing could be drawn) a row is nobody's: no position, no length, no draw. Rows that do not
// draw answer -1 and stay as they are. steps[0] grows by one.
struct AdvanceParams {
  int32_t rows = 0;        // B
  int32_t most_steps = 0;  // rows of the answers; steps[0] is less

  const int32_t* drawn = nullptr;   // [B] of the step
  const float* logprobs = nullptr;  // [B]

  int32_t* ids = nullptr;                // [B] the next step's
  int32_t* positions = nullptr;          // [B]
  int32_t* lengths = nullptr;            // [B]
  SamplingSettings* settings = nullptr;  // [B]
  int64_t* counters = nullptr;           // [B] SamplingParams::positions
  int32_t* logit_rows = nullptr;         // [B]
  int32_t* history = nullptr;            // with room behind each part for what is still drawn
  AdvanceRow* state = nullptr;           // [B]

  int32_t* answers = nullptr;  // [most_steps, 2, B]: ids, and the bits of their log-probabilities
  int32_t* steps = nullptr;    // [1] done since the host looked
};

inline constexpr int kAdvanceThreads = 256;

// Empty if the kernel can take the problem, otherwise the reason.
std::string advance_why_not(const AdvanceParams& p);

}  // namespace tgv::cuda
