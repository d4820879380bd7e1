// Samples of one prompt, token by token: greedy or drawn, until an end id, a stop string or the
// limit. Greedy decoding may guess ahead (prompt_lookup.h): a guess is fed together with the token
// before it, and kept as far as it is what greedy decoding says anyway.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/constraint.h"
#include "engine/job.h"
#include "engine/prompt_lookup.h"
#include "engine/stop_strings.h"
#include "kernels/cpu/sampling.h"

namespace tgv::engine {

class GenerateJob : public Job {
 public:
  GenerateJob(std::shared_ptr<Request> request, Submission&& submission, Generate&& task,
              const Room& room, const Context& context, std::vector<int64_t> keys);

  void compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) override;
  bool is_drawn() const override { return is_drawn_; }
  void add_draws(std::vector<model::Draw>& draws, size_t lane, int64_t token) override;
  int64_t may_go_ahead(size_t lane) const override;
  void take_draws(size_t lane, int64_t token, std::span<const model::Drawn> drawn) override;

 protected:
  void on_prompt() override;
  void on_lane(size_t lane) override;
  int64_t events_of_step() const override;

 private:
  struct Choice {
    cpu::SampleResult token;
    std::vector<IdLogprob> top;
  };
  struct Sample {               // as many as lanes, in their order
    std::vector<int32_t> seen;  // history, generated ids, and what is drafted after them
    std::vector<int32_t> text;  // prompt and generated ids, kept up only when speculating
    int64_t generated = 0;
    StopStrings stop;
    DraftLength draft;
    std::vector<Choice> choices;             // after each token of the lane
    std::unique_ptr<Constraint> constraint;  // or null
  };

  Sample& sample(int64_t index) { return samples_[static_cast<size_t>(index)]; }
  // What the id `ahead` further ones on is chosen by; so far those are guesses.
  struct Place {
    std::span<const int32_t> history, banned;
    std::span<const uint32_t> allowed;
    int64_t position;
  };
  Place place(int64_t index, int64_t ahead) const;
  void choose(int64_t index, int64_t ahead, const float* logits, Scratch& scratch);
  model::Draw draw(int64_t index, int64_t ahead) const;
  void take(int64_t index, int64_t ahead, const model::Drawn& drawn);
  bool accept(int64_t index, const Choice& choice);  // false: the sample has ended
  bool ends_with(Sample& sample, int32_t id, Reason& reason);
  void feed(int64_t index);
  void add_draft(int64_t index);
  void constrain(int64_t index, size_t drafted_from);
  void end_sample(int64_t index);

  const Generate task_;
  const cpu::SamplingParams params_;          // refers to task_
  const std::vector<model::LogitBias> bias_;  // task_'s in the order of ids
  const bool is_drawn_;
  const std::unique_ptr<const ConstraintRules> rules_;  // with a grammar
  std::vector<Sample> samples_;
  int64_t running_;
};

}  // namespace tgv::engine
