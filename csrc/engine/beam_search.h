// Beam search with length penalty: which continuations live, which are finished, and when to stop.
// Knows log-probabilities and ids, no cache and no request.
//
// The arithmetic of transformers 4.36 (BeamSearchScorer), as tinygptv_fast.reference.beam has it:
// scores are float32, those of finished hypotheses double: sum(logprob) / n^length_penalty, n with
// the end id. Of equal continuations the one with the lower (beam, id) comes first.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/submission.h"

namespace tgv::engine {

struct Continuation {
  float score = 0;
  int64_t beam = 0;
  int32_t id = 0;

  bool is_before(const Continuation& other) const {
    if (score != other.score) return score > other.score;
    return beam != other.beam ? beam < other.beam : id < other.id;
  }
};

struct Hypothesis {
  double score = 0;
  std::vector<int32_t> ids;
};

class BeamSearch {
 public:
  explicit BeamSearch(const Beams& task);  // which outlives it

  int64_t beams() const { return task_.beams; }
  int64_t generated() const { return generated_; }  // ids of each beam
  int32_t last_id(int64_t beam) const { return at(beam).ids.back(); }

  // The best continuations of one beam, best first: so many that no other can be among the best of
  // all. logprobs [V] is overwritten by the processed ones. Beams may be ranked by several threads.
  void rank(int64_t beam, std::span<float> logprobs);

  // Every beam was ranked: on to the next id. Returns the former beam of each new one; empty: the
  // search is over.
  std::vector<int64_t> advance();
  bool is_done() const { return done_; }

  // The best hypotheses, best first; beams that run count as finished here. Once, at the end.
  std::vector<Hypothesis> results();

 private:
  struct Beam {
    float score = 0;
    std::vector<int32_t> ids;
    std::vector<Continuation> best;
    std::unique_ptr<Grammar> grammar;  // or null
    std::vector<uint32_t> mask;        // of it, for the next id
  };

  const Beam& at(int64_t beam) const { return beams_[static_cast<size_t>(beam)]; }
  Beam heir(const Continuation& of) const;
  void constrain(Beam& beam) const;
  void process(const Beam& beam, std::span<float> logprobs) const;
  bool is_end(int32_t id) const;
  std::vector<Continuation> best_of_all() const;
  double worst() const;
  void add_finished(std::vector<int32_t> ids, float score);
  std::vector<Continuation> sort_out(const std::vector<Continuation>& best);

  const Beams& task_;
  const size_t candidates_;  // continuations that are looked at in one step
  std::vector<Beam> beams_;
  std::vector<Hypothesis> finished_;
  int64_t generated_ = 0;
  bool done_ = false;
};

}  // namespace tgv::engine
