// Pages, a decoder over them and a sampler behind it: steps as the host's backend asks for them.
//
// Launches Inputs of a step go up in one copy, those of the draws with them (lists of draws that
//          have some: one copy more for each kind), and what was drawn comes back in one. A step
//          that only decodes, one token of each sequence with its row of logits, is one launch of
//          a captured graph in between; with best ids or rows that are read on the host it is the
//          decoder's graph and the sampler's launches. Every other step is launched kernel by
//          kernel.
// Ahead    A graph that draws ends with what makes the next step's inputs of its tokens. Where
//          segments may go ahead it is launched several times in a row, and the tokens of all
//          steps come back in one copy. Sequences that end on the way become rows of nobody.
// Threads  One step at a time.
//
// C++17: nvcc compiles it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "model/cuda/decoder.h"
#include "model/cuda/sampler.h"
#include "model/cuda/step_graphs.h"
#include "model/cuda/storage.h"

namespace tgv::model {

class CudaRunner {
 public:
  // What a runner of these would take, pages not counted. Throws InvalidArgument, SystemError.
  struct Memory {
    size_t arena_bytes = 0, pinned_bytes = 0;
  };
  static Memory memory_for(const Architecture& architecture, const CudaForms& forms,
                           const CudaPageShape& pages, const CudaDecoderOptions& options);

  // Captures its graphs. Throws InvalidArgument, CapacityError, SystemError.
  CudaRunner(std::shared_ptr<const CudaWeights> weights, const CudaPageShape& pages,
             const CudaDecoderOptions& options);

  CudaStorage& storage() { return storage_; }
  const CudaStorage& storage() const { return storage_; }
  const DeviceStream& stream() const { return decoder_.stream(); }
  const DrawLimits& draw_limits() const { return sampler_.limits(); }
  const GraphCost& graph_cost() const { return graphs_.cost(); }
  size_t arena_bytes() const;  // host memory for logits included

  // One step, or as many as the segment that goes furthest ahead asks for, and all they copy to the
  // host. Returns how many; 0: `stop` (may be null) was set and they were given up. One where
  // segments go ahead and the step is not launched as a graph that draws. Throws InvalidArgument,
  // having started nothing, and SystemError.
  int64_t step(const DeviceSegment* segments, int64_t count, const Draw* draws, int64_t draw_count,
               const std::atomic<bool>* stop);

  // Of the last step, if it was not given up.
  const float* logits() const { return reinterpret_cast<const float*>(logits_.data()); }
  CudaSampler::Results drawn() const { return sampler_.results(); }

 private:
  // How a step is launched: rows of its graph, or 0, and whether the graph draws, too.
  struct Launches {
    int64_t rows = 0;
    bool draws = false;
    int64_t steps = 1;
  };
  Launches choose(const StepShape& shape, int64_t segments) const;
  void launch_graph(int64_t rows, bool draws) const;
  bool launch(const StepShape& shape, const Launches& how, const std::atomic<bool>* stop) const;
  int64_t read_ahead(const DeviceSegment* segments, int64_t count, const Draw* draws,
                     int64_t draw_count);
  void start_reading(const DeviceSegment* segments, int64_t count) const;

  CudaStorage storage_;
  CudaDecoder decoder_;
  CudaSampler sampler_;
  PinnedMemory logits_;  // [max_logit_rows, V] f32
  StepGraphs graphs_;
  std::vector<int64_t> ahead_;  // of each draw of the step, if any goes ahead; capacity is final
};

}  // namespace tgv::model
