// Keys and values of a prompt of whole pages: reads it, or finds it, and says what the cache holds.
#pragma once

#include "engine/job.h"

namespace tgv::engine {

class PagesJob : public Job {
 public:
  PagesJob(std::shared_ptr<Request> request, Submission&& submission, Pages&& task,
           const Room& room, const Context& context, std::vector<int64_t> keys);

  void compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) override;

 protected:
  void on_prompt() override;
  void on_lane(size_t /*lane*/) override {}
  int64_t events_of_step() const override { return 1; }
};

}  // namespace tgv::engine
