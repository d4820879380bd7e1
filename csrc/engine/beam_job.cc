#include "engine/beam_job.h"

#include <algorithm>
#include <numeric>

#include "kernels/cpu/sampling.h"

namespace tgv::engine {

BeamJob::BeamJob(std::shared_ptr<Request> request, Submission&& submission, Beams&& task,
                 const Room& room, const Context& context, std::vector<int64_t> keys)
    : Job(std::move(request), std::move(submission), room, context, std::move(keys)),
      task_(std::move(task)),
      search_(task_),
      lane_of_(static_cast<size_t>(task_.beams)),
      beam_of_(static_cast<size_t>(task_.beams)) {
  std::iota(lane_of_.begin(), lane_of_.end(), size_t{0});
  std::iota(beam_of_.begin(), beam_of_.end(), int64_t{0});
}

void BeamJob::compute(size_t lane, int64_t /*token*/, const float* logits, Scratch& scratch) {
  const int64_t vocab = context().vocab;
  const std::span<float> row(scratch.row(), static_cast<size_t>(vocab));
  check_logits(logits, vocab);
  cpu::log_softmax_row(row.data(), logits, vocab, context().isa);
  if (has_read_prompt()) {
    search_.rank(beam_of_[lane], row);
    return;
  }
  // All beams begin with the prompt's logits; without history nothing tells them apart but the
  // score they start with.
  const std::vector<float> logprobs(row.begin(), row.end());
  for (int64_t beam = 0; beam < task_.beams; ++beam) {
    std::ranges::copy(logprobs, row.begin());
    search_.rank(beam, row);
  }
}

void BeamJob::on_prompt() {
  for (int64_t i = 1; i < lane_count(); ++i) lane(i).sequence = cache().fork(lane(0).sequence);
  advance();
}

void BeamJob::on_lane(size_t index) {
  cache().commit(lane(static_cast<int64_t>(index)).sequence);
  if (++ranked_ < task_.beams) return;
  ranked_ = 0;
  advance();
}

void BeamJob::advance() {
  count_token();
  const std::vector<int64_t> parents = search_.advance();
  if (parents.empty()) {
    say_results();
    const Reason reason = search_.is_done() ? Reason::kStop : Reason::kLength;
    set_finished(reason);
    return;
  }
  move_lanes(parents);
  for (int64_t beam = 0; beam < task_.beams; ++beam) {
    Lane& at = lane(static_cast<int64_t>(lane_of_[static_cast<size_t>(beam)]));
    at.clear();
    at.add(search_.last_id(beam));
  }
}

// The first heir of a beam takes its lane. Lanes without one are released, all of them first: their
// pages are what the forks of the others were promised.
void BeamJob::move_lanes(const std::vector<int64_t>& parents) {
  constexpr size_t kNone = SIZE_MAX;
  const size_t beams = parents.size();
  std::vector<size_t> lanes(beams, kNone), empty;
  std::vector<bool> taken(beams, false);
  for (size_t beam = 0; beam < beams; ++beam) {
    const size_t from = lane_of_[static_cast<size_t>(parents[beam])];
    if (!taken[from]) lanes[beam] = from;
    taken[from] = true;
  }
  for (size_t i = 0; i < beams; ++i) {
    if (taken[i]) continue;
    release(lane(static_cast<int64_t>(i)));
    empty.push_back(i);
  }
  for (size_t beam = 0; beam < beams; ++beam) {
    if (lanes[beam] != kNone) continue;
    const size_t from = lane_of_[static_cast<size_t>(parents[beam])];
    lanes[beam] = empty.back();
    empty.pop_back();
    lane(static_cast<int64_t>(lanes[beam])).sequence =
        cache().fork(lane(static_cast<int64_t>(from)).sequence);
  }
  lane_of_ = std::move(lanes);
  for (size_t beam = 0; beam < beams; ++beam) {
    beam_of_[lane_of_[beam]] = static_cast<int64_t>(beam);
  }
}

void BeamJob::say_results() {
  std::vector<Hypothesis> results = search_.results();
  for (size_t rank = 0; rank < results.size(); ++rank) {
    say(BeamEvent{static_cast<int32_t>(rank), std::move(results[rank].ids), results[rank].score});
  }
}

void BeamJob::on_deadline() { say_results(); }

}  // namespace tgv::engine
