// Pages, a decoder over them and a sampler behind it: steps as the host's backend asks for them.
//
// Launches Inputs of a step go up in one copy, those of the draws with them (lists of draws that
//          have some: one copy more for each kind), and what was drawn comes back in one. A step
//          that only decodes, one token of each sequence with its row of logits, is one launch of
//          a captured graph in between; with best ids or rows that are read on the host it is the
//          decoder's graph and the sampler's launches. Every other step is launched kernel by
//          kernel.
// Threads  One step at a time.
//
// C++17: nvcc compiles it.
#pragma once

#include <atomic>
#include <memory>

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

  // One step, and all it copies to the host. False: `stop` (may be null) was set and it was given
  // up. Throws InvalidArgument, having started nothing, and SystemError.
  bool step(const DeviceSegment* segments, int64_t count, const Draw* draws, int64_t draw_count,
            const std::atomic<bool>* stop);

  // Of the last step, if it was not given up.
  const float* logits() const { return reinterpret_cast<const float*>(logits_.data()); }
  CudaSampler::Results drawn() const { return sampler_.results(); }

 private:
  // How a step is launched: rows of its graph, or 0, and whether the graph draws, too.
  struct Launches {
    int64_t rows = 0;
    bool draws = false;
  };
  Launches choose(const StepShape& shape, int64_t segments) const;
  void launch_graph(int64_t rows, bool draws) const;
  bool launch(const StepShape& shape, const Launches& how, const std::atomic<bool>* stop) const;
  void start_reading(const DeviceSegment* segments, int64_t count) const;

  CudaStorage storage_;
  CudaDecoder decoder_;
  CudaSampler sampler_;
  PinnedMemory logits_;  // [max_logit_rows, V] f32
  StepGraphs graphs_;
};

}  // namespace tgv::model
