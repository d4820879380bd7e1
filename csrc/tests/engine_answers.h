// Requests to an engine, and what it says to them, collected to the end.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "tests/check.h"

namespace tgv::test {

// Ids that differ with `seed` and hardly repeat.
inline std::vector<int32_t> prompt_ids(int64_t vocab, int64_t count, int64_t seed) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(static_cast<int32_t>((7 * i + i * i * 3 + 11 * seed) % vocab));
  }
  return out;
}

inline engine::Submission asking(std::vector<int32_t> prompt, int64_t max_new_tokens) {
  engine::Generate task;
  task.max_new_tokens = max_new_tokens;
  return {{std::move(prompt), {}, 0, 0}, std::move(task), {}};
}

inline engine::Generate& generate(engine::Submission& submission) {
  return std::get<engine::Generate>(submission.task);
}

struct Answer {
  std::map<int, std::vector<int32_t>> ids;
  std::map<int, std::vector<float>> logprobs;
  std::map<int, std::vector<std::vector<std::pair<int32_t, float>>>> tops;
  std::map<int, engine::Reason> ends;
  std::vector<engine::BeamEvent> beams;
  std::map<int, std::vector<float>> scores;
  std::vector<float> logits;
  engine::PagesEvent pages;
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
    } else if (auto* pages_read = std::get_if<engine::PagesEvent>(&event)) {
      pages = std::move(*pages_read);
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
