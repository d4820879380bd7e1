// Logits of the prompt's positions from one on, said part by part as the prompt is read.
#pragma once

#include <vector>

#include "engine/job.h"

namespace tgv::engine {

class LogitsJob : public Job {
 public:
  LogitsJob(std::shared_ptr<Request> request, Submission&& submission, Logits&& task,
            const Room& room, const Context& context, std::vector<int64_t> keys);

  bool commits_prompt() const override { return false; }  // its keys are nobody else's
  void compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) override;

 protected:
  void on_prompt() override { set_finished(Reason::kStop); }
  void on_lane(size_t /*lane*/) override {}
  void on_part(int64_t first, int64_t count) override;
  // One part may wait to be read, no more: they are large.
  int64_t events_of_step() const override { return request().event_limit() - 1; }

 private:
  const int64_t first_;
  std::vector<std::vector<float>> rows_;  // [T - first]; each [V] until it is said
};

}  // namespace tgv::engine
