// Log-probabilities of candidates after one prompt: the prompt is read once, each candidate goes on
// from a fork of it. Candidates take turns on as many forks as there is room for: what is fed for
// one is never committed and is cut off for the next, so that nobody else comes to share it.
#pragma once

#include <vector>

#include "engine/job.h"

namespace tgv::engine {

class ScoreJob : public Job {
 public:
  ScoreJob(std::shared_ptr<Request> request, Submission&& submission, Score&& task,
           const Room& room, const Context& context, std::vector<int64_t> keys);

  void compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) override;

 protected:
  void on_prompt() override;
  void on_lane(size_t lane) override;
  int64_t events_of_step() const override { return lane_count(); }

 private:
  bool feed_next(int64_t lane);  // false: no candidate is left
  void say_scores(size_t candidate);

  const Score task_;
  std::vector<std::vector<float>> logprobs_;  // as the candidates
  std::vector<size_t> at_;                    // [lanes] candidate of each
  size_t next_ = 0;                           // candidate
  size_t left_;                               // candidates whose scores were not said
};

}  // namespace tgv::engine
