// One step: what of which sequences is fed, through the backend, to what each job makes of it.
//
// All sequences that decode are in it, and one part of the prompts that are being read. Requests
// whose reader lags behind are left out.
//
// If the backend fails, the requests in the step end with its error. If one request's own part
// fails, that one does. Either way the others and the cache are as they were.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "engine/job.h"
#include "engine/metrics.h"
#include "engine/prefill_share.h"
#include "engine/step_watch.h"
#include "model/backend.h"

namespace tgv::engine {

struct StepSizes {
  int64_t vocab = 0;
  int64_t logit_rows = 0;     // of a step, at most
  int64_t prefill_chunk = 0;  // prompt tokens of a step, at most
};

class Step {
 public:
  Step(model::Backend& backend, kv::KVCache& cache, ThreadPool& pool, const StepSizes& sizes);

  // Ends the step that runs when nobody wants it; look_again() after a cancellation.
  StepWatch& watch() { return watch_; }

  // Runs one; or, if all that runs are sequences whose tokens the backend draws and feeds again, a
  // few without the host (may_go_ahead: nobody waits for the next step). False: there is nothing to
  // run.
  bool run(const Jobs& jobs, bool may_go_ahead, Metrics& metrics);

 private:
  struct Part {
    Job* job = nullptr;
    size_t lane = 0;
    int64_t count = 0;   // tokens
    int64_t logits = 0;  // rows, of its last tokens
    int64_t before = 0;  // length of the sequence
    bool bulk = false;
    int64_t ahead = 0;  // further tokens that it may be fed without the host

    Lane& at() const { return job->lanes()[lane]; }
  };
  struct Row {  // of logits
    Job* job = nullptr;
    size_t lane = 0;
    int64_t token = 0;                 // of the lane
    size_t first_draw = 0, draws = 0;  // of a job that is drawn
    std::string error;                 // of compute() or take_draws()
  };

  void plan(const Jobs& jobs);
  void plan_prompts(std::span<Job* const> jobs);
  void look_ahead();
  int64_t steps_ahead() const;
  void append();
  void list_rows();
  bool decode(Metrics& metrics);
  void take_back() noexcept;
  void compute();
  void compute_row(int64_t row, int worker);
  void deliver();
  void go_on(Metrics& metrics);
  void give_back_pages() noexcept;
  int64_t tokens(bool bulk) const;

  model::Backend& backend_;
  kv::KVCache& cache_;
  ThreadPool& pool_;
  const int64_t logit_rows_;
  PrefillShare share_;
  StepWatch watch_;
  double step_ms_ = 0;            // of the last one
  std::vector<Scratch> scratch_;  // [threads]

  // of one step
  std::vector<Part> parts_;
  std::vector<Job*> jobs_;  // that have room
  std::vector<Request*> requests_;
  std::vector<model::Segment> segments_;
  std::vector<Row> rows_;
  std::vector<model::Draw> draws_;
  std::vector<model::Drawn> drawn_;  // what they came to
};

}  // namespace tgv::engine
