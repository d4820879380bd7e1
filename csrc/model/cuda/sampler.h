// Tokens from a step's rows of logits on a GPU: what kernels/cuda/sampling.h needs of memory, and
// its launches behind those of the decoder, on the same stream.
//
// Memory   One block of device memory for the draws and their results, sized at construction, and
//          room for kDrawsAtOnce changed rows of logits: more draws take turns. A step allocates
//          nothing; its results come to the host in one copy of 8 bytes a draw, and 8 for each of
//          the best ids that are wanted as well.
// Threads  One step at a time.
//
// C++17: nvcc compiles it.
#pragma once

#include "model/cuda/device_memory.h"
#include "model/cuda/draw_inputs.h"
#include "model/cuda/kernels.h"

namespace tgv::model {

class CudaSampler {
 public:
  // What a sampler of these would take. Throws InvalidArgument.
  struct Memory {
    size_t arena_bytes = 0, pinned_bytes = 0;
  };
  static Memory memory_for(int64_t vocab, const DrawLimits& limits);

  // logits: [rows, V] in device memory, of every step to come. Throws InvalidArgument,
  // CapacityError, SystemError.
  CudaSampler(int64_t vocab, const DrawLimits& limits, const float* logits,
              const DeviceStream& stream);
  ~CudaSampler();

  const DrawLimits& limits() const { return inputs_.limits(); }
  size_t arena_bytes() const { return arena_.bytes(); }

  // DrawInputs::check.
  void check(const Draw* draws, int64_t count, int64_t logit_rows) const {
    inputs_.check(draws, count, logit_rows);
  }

  // Puts draws that were checked behind what is on the stream. Their results are there when the
  // stream has been waited for.
  void start(const Draw* draws, int64_t count);

  // Of the last start, in host memory: draw i has ids[i], logprobs[i] and `top` best from i * top.
  struct Results {
    const int32_t* ids = nullptr;
    const float* logprobs = nullptr;
    const int32_t* top_ids = nullptr;
    const float* top_logprobs = nullptr;
    int64_t top = 0;
  };
  Results results() const;

 private:
  struct Buffers {
    uint8_t *inputs, *results;
    float* rows;      // [kDrawsAtOnce, V]
    int32_t* counts;  // [kDrawsAtOnce, V], 0 between launches
    size_t bytes;
  };
  static Buffers carve(int64_t vocab, const DrawInputs& inputs, uint8_t* base);
  cuda::SamplingParams params(int64_t first, int64_t count) const;
  void upload_inputs() const;

  const int64_t vocab_;
  const float* const logits_;
  const DeviceStream& stream_;
  DrawInputs inputs_;
  PinnedMemory staging_, answers_;
  DeviceMemory arena_;
  const Buffers buffers_;

  // of the last start
  int64_t count_ = 0;
  int64_t top_ = 0;  // the most that any of them wants
};

}  // namespace tgv::model
