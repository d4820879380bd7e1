// The engine: requests in, events out. One thread of its own schedules and runs steps on the
// model's device, with a pool of threads for what the CPU does in them; callers' threads only wait
// for events.
//
//   Engine engine(weights, options);
//   const int64_t request = engine.submit({prompt, Generate{...}});
//   while (!done) for (Event& event : engine.next(request, timeout)) ...   // DoneEvent is the last
//
// Threads  Every function may be called from any thread at any time.
// Errors   What can be known beforehand is thrown by submit(). An error while a request runs ends
// it
//          with Reason::kError; the engine serves the others and the next.
// Numerics On the CPU, and on a GPU in the exact mode, the ids and log-probabilities of a request
//          depend on the request and the weights alone: the same bits in any company, for any
//          number of threads, any prefill_chunk, with the beginning of its prompt cached or not,
//          speculating or not. What other modes of a GPU promise: model/cuda/decoder.h.
// Fork     In a child process every call throws SystemError; the engine's memory is left as it is.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/events.h"
#include "engine/metrics.h"
#include "engine/submission.h"
#include "kv/rows.h"
#include "model/backend.h"
#include "model/weights.h"

namespace tgv::engine {

struct EngineOptions {
  int threads = 0;  // 0: physical_cores()
  std::string isa;  // "": the widest
  kv::Kind kv_kind = kv::Kind::kI8;
  int64_t kv_tokens = 0;                 // positions of all sequences together, rounded up to pages
  int64_t max_sequences = 8;             // in one step; 1..256
  int64_t prefill_chunk = 256;           // prompt tokens of one step at most; 1..4096
  std::vector<std::string> token_bytes;  // [V] text of each id, for stop strings; or empty
  int64_t queue_limit = 1024;            // requests that may wait
  int64_t event_limit = 256;             // events of a request that may wait to be read
  bool graphs = true;                    // a device that can does decode steps as captured graphs
  bool early_starts = true;              // and overlaps the starts of kernels
};

// What an engine of these options asks of its model's device.
model::BackendOptions backend_options(const model::Architecture& model,
                                      const EngineOptions& options);

class Engine {
 public:
  // Throws InvalidArgument, Unsupported (isa), SystemError.
  Engine(std::shared_ptr<const model::LoadedModel> model, EngineOptions options);
  Engine(std::shared_ptr<const model::Weights> weights, EngineOptions options);  // on the CPU
  ~Engine();                                                                     // closes
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The request's id. Throws InvalidArgument, CapacityError (it can never fit; the queue is full),
  // Unsupported (pages, where the device cannot carry them).
  int64_t submit(Submission submission);

  // The events since the last call, in order; sleeps until there is one, at most timeout_s (none
  // then). After the DoneEvent the id is forgotten. What was said before close() can be read after
  // it. Throws InvalidArgument for an id that was never given or is forgotten.
  std::vector<Event> next(int64_t request, double timeout_s);

  // Ends the request within the token it is at. Nothing if it has ended. Throws InvalidArgument for
  // an id that was never given.
  void cancel(int64_t request);

  // A turn among the engine's iterations: while it is held no step runs. Everyone who asks gets
  // one, in order. Throws InvalidArgument if this thread holds it.
  void enter_turn();
  void leave_turn();

  Metrics metrics() const;
  kv::Counts counts();  // of the cache, between two steps
  void check();         // KVCache::check(), between two steps

  const EngineOptions& options() const;  // with the number of threads that run
  const Limits& limits() const;

  // Ends all requests with Reason::kCancelled and the thread. Again: nothing. Every other call but
  // next() throws ClosedError from then on.
  void close();

 private:
  class Impl;
  Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tgv::engine
