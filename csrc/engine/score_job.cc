#include "engine/score_job.h"

#include "kernels/cpu/sampling.h"

namespace tgv::engine {

ScoreJob::ScoreJob(std::shared_ptr<Request> request, Submission&& submission, Score&& task,
                   const Room& room, const Context& context, std::vector<int64_t> keys)
    : Job(std::move(request), std::move(submission), room, context, std::move(keys)),
      task_(std::move(task)),
      at_(static_cast<size_t>(lane_count())),
      left_(task_.candidates.size()) {
  for (const auto& ids : task_.candidates) logprobs_.emplace_back(ids.size());
}

void ScoreJob::compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) {
  check_logits(logits, context().vocab);
  cpu::log_softmax_row(scratch.row(), logits, context().vocab, context().isa);
  const auto score = [&](size_t candidate, size_t index) {
    const auto id = static_cast<size_t>(task_.candidates[candidate][index]);
    logprobs_[candidate][index] = scratch.row()[id];
  };
  if (has_read_prompt()) {
    score(at_[lane], static_cast<size_t>(token) + 1);
  } else {
    for (size_t i = 0; i < task_.candidates.size(); ++i) score(i, 0);
  }
}

void ScoreJob::on_prompt() {
  for (int64_t i = 1; i < lane_count(); ++i) lane(i).sequence = cache().fork(lane(0).sequence);
  for (int64_t i = 0; i < lane_count(); ++i) {
    if (!feed_next(i)) release(lane(i));
  }
  if (left_ == 0) set_finished(Reason::kStop);
}

void ScoreJob::on_lane(size_t index) {
  const int64_t which = static_cast<int64_t>(index);
  say_scores(at_[index]);
  cache().truncate(lane(which).sequence, prompt_length());
  if (!feed_next(which)) release(lane(which));
  if (left_ == 0) set_finished(Reason::kStop);
}

bool ScoreJob::feed_next(int64_t which) {
  // A candidate of one id is scored by the prompt's logits.
  while (next_ < task_.candidates.size() && task_.candidates[next_].size() == 1) {
    say_scores(next_++);
  }
  if (next_ == task_.candidates.size()) return false;
  const std::vector<int32_t>& ids = task_.candidates[next_];
  Lane& at = lane(which);
  at.clear();
  at.bulk = true;
  for (size_t i = 0; i + 1 < ids.size(); ++i) at.add(ids[i]);
  at_[static_cast<size_t>(which)] = next_++;
  return true;
}

void ScoreJob::say_scores(size_t candidate) {
  say(ScoresEvent{static_cast<int32_t>(candidate), std::move(logprobs_[candidate])});
  --left_;
}

}  // namespace tgv::engine
