// What an engine says to a request, collected to its end.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "tests/check.h"

namespace tgv::test {

struct Answer {
  std::map<int, std::vector<int32_t>> ids;
  std::map<int, std::vector<float>> logprobs;
  std::map<int, std::vector<std::vector<std::pair<int32_t, float>>>> tops;
  std::map<int, engine::Reason> ends;
  std::vector<engine::BeamEvent> beams;
  std::map<int, std::vector<float>> scores;
  std::vector<float> logits;
  std::string message;
  engine::Stats stats;
  bool done = false;

  void take(engine::Event& event) {
    CHECK(!done);
    if (auto* token = std::get_if<engine::TokenEvent>(&event)) {
      CHECK(!ends.count(token->sample));
      ids[token->sample].push_back(token->id);
      logprobs[token->sample].push_back(token->logprob);
      tops[token->sample].push_back(token->top);
    } else if (auto* end = std::get_if<engine::EndEvent>(&event)) {
      CHECK(ends.emplace(end->sample, end->reason).second);
      message = end->message;
    } else if (auto* beam = std::get_if<engine::BeamEvent>(&event)) {
      beams.push_back(*beam);
    } else if (auto* score = std::get_if<engine::ScoresEvent>(&event)) {
      scores[score->candidate] = score->logprobs;
    } else if (auto* part = std::get_if<engine::LogitsEvent>(&event)) {
      logits.insert(logits.end(), part->values.begin(), part->values.end());
    } else {
      stats = std::get<engine::DoneEvent>(event).stats;
      done = true;
    }
  }
};

inline Answer read(engine::Engine& engine, int64_t request) {
  Answer answer;
  while (!answer.done) {
    for (engine::Event& event : engine.next(request, 60)) answer.take(event);
  }
  return answer;
}

inline Answer ask(engine::Engine& engine, engine::Submission submission) {
  return read(engine, engine.submit(std::move(submission)));
}

inline bool same(const Answer& a, const Answer& b) {
  return a.ids == b.ids && a.logprobs == b.logprobs;
}

inline void check_nothing_left(engine::Engine& engine) {
  engine.check();
  const kv::Counts counts = engine.counts();
  CHECK_EQ(counts.referenced, 0);
  CHECK_EQ(counts.promised, 0);
  CHECK_EQ(counts.sequences, 0);
}

}  // namespace tgv::test
