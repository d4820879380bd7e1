// A token that a step draws from one of its rows of logits on the device, and what comes of it.
// What each setting means is kernels/cpu/sampling.h: the same logits give the same token.
//
// Plain numbers and pointers, which cross to the CUDA library. C++17: nvcc reads it.
#pragma once

#include <cstdint>

namespace tgv::model {

struct LogitBias {
  int32_t id = 0;
  float value = 0;
};

// Settings are the caller's to check (cpu::sampling_why_not). Lists stay as they are until the step
// is over.
struct Draw {
  int64_t row = 0;  // of the step's logits
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int64_t top_k = 0;
  uint64_t seed = 0;
  uint32_t sample = 0;
  int64_t position = 0;              // of the token to come: the random counter
  int64_t top = 0;                   // the best ids that are wanted as well
  const int32_t* history = nullptr;  // [history_count] what the penalties see
  int64_t history_count = 0;
  const LogitBias* bias = nullptr;  // [bias_count] sorted by id; equals are added in their order
  int64_t bias_count = 0;
  const int32_t* banned = nullptr;  // [banned_count]
  int64_t banned_count = 0;

  // In several steps without the host (Segment::ahead) the ones above are of the first token.
  const int32_t* end_ids = nullptr;  // [end_count] after which the sequence gets no more
  int64_t end_count = 0;             // at most kMostEndIds where the segment goes ahead
  int64_t banned_steps = 1;          // tokens from the first on for which `banned` holds
};

inline constexpr int64_t kMostEndIds = 8;

// Log-probabilities are of the logits as given.
struct Drawn {
  int32_t id = -1;                   // -1: no token: NaN, +inf or nothing above -inf
  float logprob = 0;                 // NaN without a token
  const int32_t* top_ids = nullptr;  // [Draw::top] best first, the lowest of equals first; -1, NaN:
  const float* top_logprobs = nullptr;  // no token
};

// What a backend takes of draws; the lists of each.
struct DrawLimits {
  int64_t draws = 0;  // in a step; 0: it draws none, and all logits come to the host
  int64_t history = 0;
  int64_t bias = 0;
  int64_t banned = 0;
  int64_t top = 0;
};

}  // namespace tgv::model
