// Beam search over one prompt: every beam is a sequence that shares pages with the others.
#pragma once

#include <vector>

#include "engine/beam_search.h"
#include "engine/job.h"

namespace tgv::engine {

class BeamJob : public Job {
 public:
  BeamJob(std::shared_ptr<Request> request, Submission&& submission, Beams&& task, const Room& room,
          const Context& context, std::vector<int64_t> keys);

  void compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) override;

 protected:
  void on_prompt() override;
  void on_lane(size_t lane) override;
  void on_deadline() override;
  int64_t events_of_step() const override { return 0; }  // all are said at the end

 private:
  void advance();
  void move_lanes(const std::vector<int64_t>& parents);
  void say_results();

  const Beams task_;
  BeamSearch search_;
  std::vector<size_t> lane_of_;   // [beams]; a lane whose beam dies takes another's copy
  std::vector<int64_t> beam_of_;  // [lanes]
  int64_t ranked_ = 0;            // lanes of this step that are through
};

}  // namespace tgv::engine
