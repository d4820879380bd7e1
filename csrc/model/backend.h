// What an engine asks of the device that computes for it: pages for K and V, and steps over them.
// Knows segments, pages and rows of logits, no request and no device.
//
// Two of each: cpu_backend.h over model::Decoder, cuda_backend.h over the CUDA library.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/isa.h"
#include "base/thread_pool.h"
#include "kv/page_store.h"
#include "model/architecture.h"
#include "model/draw.h"
#include "model/graph_cost.h"
#include "model/segment.h"

namespace tgv::model {

// One step at a time, from one thread.
class Backend {
 public:
  virtual ~Backend() = default;

  // For as long as the backend lives. A page that copy_rows() has filled can be read by the next
  // step.
  virtual kv::PageStore& pages() = 0;

  // What draws it takes. The same for as long as it lives.
  virtual DrawLimits draw_limits() const = 0;

  // Runs the segments: K and V of their tokens into the pages, logits of the rows that want them;
  // then the draws, from rows of any segments. `stop` (may be null) is looked at all through the
  // step; false: it was set and the step was given up, K, V, logits and draws of its tokens are
  // worthless. Put long segments first. Allocates nothing. Throws InvalidArgument if the step does
  // not fit, SystemError if the device fails.
  virtual bool step(std::span<const Segment> segments, std::span<const Draw> draws,
                    const std::atomic<bool>* stop) = 0;

  // [V] of row `row` of the last step, in the order of the segments, in the host's memory until the
  // next step. Any thread. Throws InvalidArgument, for a row of a segment that reads none as well.
  virtual const float* logits(int64_t row) const = 0;

  // How many steps a call of step() may do without the host, where segments go ahead
  // (Segment::ahead is less): for as long as the backend lives.
  virtual int64_t most_steps() const { return 1; }
  // How many the last one did; 1 if nothing went ahead.
  virtual int64_t steps() const { return 1; }

  // What draw `index` of the last step came to, or, of several, of step `step` of them; valid until
  // the next. -1 in steps after a sequence's end. Any thread. Throws InvalidArgument.
  virtual Drawn drawn(int64_t index, int64_t step = 0) const = 0;

  virtual int64_t arena_bytes() const = 0;  // what steps are computed in
  virtual GraphCost graph_cost() const { return {}; }
};

// What a backend is to have room for.
struct BackendOptions {
  kv::Shape pages;
  int64_t max_tokens = 256;     // in a step, all segments together
  int64_t max_logit_rows = 16;  // in a step
  int64_t max_segments = 8;     // in a step
  Isa isa = best_isa();         // of what the CPU computes
  bool graphs = true;           // steps that only decode are captured launches, where there are any
  bool early_starts = true;     // a kernel may start before the one before it is over, where it can
};

// The weights of a backbone where a device reads them. Complete, and never changed again.
class LoadedModel {
 public:
  virtual ~LoadedModel() = default;

  virtual const Architecture& architecture() const = 0;
  virtual const std::string& id() const = 0;  // names the weights to the prefix cache
  virtual int64_t bytes() const = 0;

  // The model and the pool outlive the backend. Throws InvalidArgument, Unsupported, SystemError.
  virtual std::unique_ptr<Backend> make_backend(const BackendOptions& options,
                                                ThreadPool& pool) const = 0;
};

}  // namespace tgv::model
