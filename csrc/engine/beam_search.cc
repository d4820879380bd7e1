#include "engine/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tgv::engine {

namespace {

// Score of all beams but the first at the start, so that the first step does not pick one id
// several times.
constexpr float kNotYet = -1e9f;
// Of what cannot be.
constexpr float kNone = -std::numeric_limits<float>::infinity();

bool is_before(const Continuation& a, const Continuation& b) { return a.is_before(b); }

}  // namespace

BeamSearch::BeamSearch(const Beams& task)
    : task_(task),
      candidates_(std::max<size_t>(2, 1 + task.eos_ids.size()) * static_cast<size_t>(task.beams)),
      beams_(static_cast<size_t>(task.beams)) {
  for (size_t i = 1; i < beams_.size(); ++i) beams_[i].score = kNotYet;
  for (Beam& beam : beams_) {
    if (task.grammar) beam.grammar = task.grammar->copy();
    constrain(beam);
  }
}

void BeamSearch::constrain(Beam& beam) const {
  if (!beam.grammar) return;
  beam.mask.resize(mask_words(beam.grammar->vocab()));
  beam.grammar->allow(beam.mask, task_.max_new_tokens - static_cast<int64_t>(beam.ids.size()));
}

bool BeamSearch::is_end(int32_t id) const {
  return std::ranges::find(task_.eos_ids, id) != task_.eos_ids.end();
}

// Repetition penalty, once for every id seen, then the minimum length. On log-probabilities: that
// is what the original does when it searches with beams.
void BeamSearch::process(const Beam& beam, std::span<float> logprobs) const {
  if (task_.repetition_penalty != 1) {
    const float penalty = static_cast<float>(task_.repetition_penalty);
    std::vector<int32_t> seen = task_.history;
    seen.insert(seen.end(), beam.ids.begin(), beam.ids.end());
    std::ranges::sort(seen);
    const auto repeated = std::ranges::unique(seen);
    seen.erase(repeated.begin(), repeated.end());
    for (const int32_t id : seen) {
      float& value = logprobs[static_cast<size_t>(id)];
      value = value < 0 ? value * penalty : value / penalty;
    }
  }
  for (size_t id = 0; id < logprobs.size() && beam.grammar; ++id) {
    if (!is_allowed(beam.mask, static_cast<int32_t>(id))) logprobs[id] = kNone;
  }
  if (generated_ >= task_.min_new_tokens) return;
  for (const int32_t id : task_.eos_ids) {
    logprobs[static_cast<size_t>(id)] = kNone;
  }
}

void BeamSearch::rank(int64_t index, std::span<float> logprobs) {
  Beam& beam = beams_[static_cast<size_t>(index)];
  process(beam, logprobs);
  beam.best.clear();  // a heap with the last of the best on top, then sorted
  for (size_t id = 0; id < logprobs.size(); ++id) {
    const Continuation next{logprobs[id] + beam.score, index, static_cast<int32_t>(id)};
    if (beam.best.size() == candidates_) {
      if (!next.is_before(beam.best.front())) continue;
      std::pop_heap(beam.best.begin(), beam.best.end(), is_before);
      beam.best.pop_back();
    }
    beam.best.push_back(next);
    std::push_heap(beam.best.begin(), beam.best.end(), is_before);
  }
  std::sort_heap(beam.best.begin(), beam.best.end(), is_before);
}

std::vector<Continuation> BeamSearch::best_of_all() const {
  std::vector<Continuation> all;
  for (const Beam& beam : beams_) all.insert(all.end(), beam.best.begin(), beam.best.end());
  std::ranges::sort(all, is_before);
  all.resize(std::min(all.size(), candidates_));
  return all;
}

double BeamSearch::worst() const {
  double worst = finished_.empty() ? 1e9 : finished_[0].score;
  for (const Hypothesis& hypothesis : finished_) worst = std::min(worst, hypothesis.score);
  return worst;
}

void BeamSearch::add_finished(std::vector<int32_t> ids, float score) {
  const double length = static_cast<double>(ids.size());
  const double value = static_cast<double>(score) / std::pow(length, task_.length_penalty);
  if (finished_.size() >= beams_.size() && value <= worst()) return;
  finished_.push_back({value, std::move(ids)});
  if (finished_.size() <= beams_.size()) return;
  finished_.erase(std::ranges::min_element(finished_, {}, &Hypothesis::score));
}

// Ends become finished hypotheses if they are among the first `beams`; the first `beams` others
// live.
std::vector<Continuation> BeamSearch::sort_out(const std::vector<Continuation>& best) {
  std::vector<Continuation> living;
  for (size_t rank = 0; rank < best.size() && living.size() < beams_.size(); ++rank) {
    const Continuation& next = best[rank];
    if (!is_end(next.id)) {
      living.push_back(next);
    } else if (rank < beams_.size()) {
      std::vector<int32_t> ids = at(next.beam).ids;
      ids.push_back(next.id);
      add_finished(std::move(ids), next.score);
    }
  }
  return living;
}

// Where a grammar leaves fewer continuations than there are beams, the rest live with no chance:
// they are fed, and never come to anything.
BeamSearch::Beam BeamSearch::heir(const Continuation& of) const {
  const Beam& parent = at(of.beam);
  Beam out{of.score, parent.ids, {}, nullptr, {}};
  out.ids.push_back(of.id);
  if (!parent.grammar || of.score == kNone) return out;
  out.grammar = parent.grammar->copy();
  out.grammar->accept(of.id);
  constrain(out);
  return out;
}

std::vector<int64_t> BeamSearch::advance() {
  const std::vector<Continuation> best = best_of_all();
  const std::vector<Continuation> living = sort_out(best);
  ++generated_;
  // The best that runs, scored at its present length, cannot pass the worst that is finished.
  const double length = static_cast<double>(generated_);
  const double hope = static_cast<double>(best[0].score) / std::pow(length, task_.length_penalty);
  done_ = finished_.size() >= beams_.size() && worst() >= hope;
  std::vector<Beam> next;
  std::vector<int64_t> parents;
  for (const Continuation& one : living) {
    next.push_back(heir(one));
    parents.push_back(one.beam);
  }
  beams_ = std::move(next);
  if (done_ || generated_ == task_.max_new_tokens) parents.clear();
  return parents;
}

std::vector<Hypothesis> BeamSearch::results() {
  if (!done_ && generated_ > 0) {
    for (const Beam& beam : beams_) add_finished(beam.ids, beam.score);
  }
  if (task_.grammar) {
    std::erase_if(finished_, [](const Hypothesis& one) { return std::isinf(one.score); });
  }
  std::ranges::stable_sort(finished_, std::ranges::greater(), &Hypothesis::score);
  finished_.resize(std::min(finished_.size(), static_cast<size_t>(task_.returned)));
  return std::move(finished_);
}

}  // namespace tgv::engine
