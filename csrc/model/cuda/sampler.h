// Tokens from a step's rows of logits on a GPU: what kernels/cuda/sampling.h needs of memory, and
// its launches behind those of the decoder, on the same stream.
//
// Memory   One block of device memory for the lists of the draws and their results, sized at
//           construction, and room for kDrawsAtOnce changed rows of logits: more draws take turns.
//           What every draw has lies where the step's inputs do, and goes up with them. A step
//           allocates nothing; its results come to the host in one copy of 8 bytes a draw, and 8
//           for each of the best ids that are wanted as well.
// Graphs   What launch() puts on the stream follows from the number of draws and of the best ids
//           they want: pad() makes it that of a captured graph.
// Threads  One step at a time.
//
// C++17: nvcc compiles it.
#pragma once

#include "model/cuda/device_memory.h"
#include "model/cuda/draw_inputs.h"
#include "model/cuda/kernels.h"
#include "model/cuda/step.h"

namespace tgv::model {

class CudaSampler {
 public:
  static constexpr int64_t kMostSteps = 8;  // without the host

  // What a sampler of these would take. Throws InvalidArgument.
  struct Memory {
    size_t arena_bytes = 0, pinned_bytes = 0;
  };
  static Memory memory_for(int64_t vocab, const DrawLimits& limits);

  // Bytes that every draw has in the step's inputs, of all draws together.
  static size_t head_bytes(int64_t vocab, const DrawLimits& limits);

  // Where they lie: head_bytes() of pinned memory, and of device memory that they are copied to.
  struct Head {
    uint8_t *host, *device;
  };

  // logits: [rows, V] in device memory, of every step to come. Throws InvalidArgument,
  // CapacityError, SystemError.
  CudaSampler(int64_t vocab, const DrawLimits& limits, const float* logits, const Head& head,
              const DeviceStream& stream);
  ~CudaSampler();

  const DrawLimits& limits() const { return inputs_.limits(); }
  size_t arena_bytes() const { return arena_.bytes(); }

  // DrawInputs::check and check_ahead.
  void check(const Draw* draws, int64_t count, int64_t logit_rows) const {
    inputs_.check(draws, count, logit_rows);
  }
  void check_ahead(const Draw* draws, int64_t count, const int64_t* ahead) const {
    inputs_.check_ahead(draws, count, ahead);
  }

  // --- a step, in this order; nothing of the last one is under way ---------------------------
  // Writes draws that were checked where the step's inputs are uploaded from.
  void prepare(const Draw* draws, int64_t count, const int64_t* ahead = nullptr);
  int64_t count() const { return count_; }
  int64_t top() const { return top_; }  // of the best ids, the most that any of them wants
  // Makes them `rows` draws, of which those beyond the ones there are draw nothing.
  void pad(int64_t rows);
  void upload_lists() const;
  void launch() const { launch(count_, top_); }
  // Of so many draws; a captured graph finds whatever was prepared for as many.
  void launch(int64_t count, int64_t top) const;
  // launch(rows, 0), and what makes the next step's inputs of the tokens, row r of `step` being
  // that of draw r: the end of a step that can be repeated.
  void launch_and_advance(int64_t rows, const StepArrays& step) const;
  // The results are there when the stream has been waited for: of launch(), or of so many times
  // launch_and_advance().
  void start_download();
  void start_download_of_steps(int64_t steps);

  // Of the last step, in host memory: draw i has ids[i], logprobs[i] and `top` best from i * top.
  // Of several steps the n-th one's are n * stride further on.
  struct Results {
    const int32_t* ids = nullptr;
    const float* logprobs = nullptr;
    const int32_t* top_ids = nullptr;
    const float* top_logprobs = nullptr;
    int64_t top = 0;
    int64_t stride = 0;
  };
  Results results() const;

 private:
  struct Buffers {
    uint8_t *lists, *results;
    int32_t* answers;  // [kMostSteps, 2, draws]
    float* rows;       // [kDrawsAtOnce, V]
    int32_t* counts;   // [kDrawsAtOnce, V], 0 between launches
    size_t bytes;
  };
  static Buffers carve(int64_t vocab, const DrawInputs& inputs, uint8_t* base);
  struct Draws {  // of one set of launches
    int64_t count, top;
  };
  cuda::SamplingParams params(const Draws& all, int64_t first, int64_t count) const;

  const int64_t vocab_;
  const float* const logits_;
  const Head head_;
  const DeviceStream& stream_;
  DrawInputs inputs_;
  PinnedMemory staging_, answers_;
  DeviceMemory arena_;
  const Buffers buffers_;

  // of the last step
  int64_t count_ = 0;
  bool has_advanced_ = false;
  int64_t top_ = 0;  // the most that any of them wants
};

}  // namespace tgv::model
