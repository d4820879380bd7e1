#include "engine/generate_job.h"

#include <algorithm>

#include "base/errors.h"

namespace tgv::engine {

namespace {

bool penalizes(const Generate& task) {
  return task.repetition_penalty != 1 || task.presence_penalty != 0 || task.frequency_penalty != 0;
}

// Whether a backend of these limits can draw every token of the task. It hangs on nothing else, so
// that the log-probabilities of a request are the same bits in any company.
bool fits(const Generate& task, const model::DrawLimits& limits) {
  const auto within = [](const auto& list, int64_t more, int64_t most) {
    return static_cast<int64_t>(list.size()) + more <= most;
  };
  return limits.draws > 0 && !task.grammar && task.top_logprobs <= limits.top &&
         within(task.logit_bias, 0, limits.bias) &&
         (task.min_new_tokens == 0 || within(task.eos_ids, 0, limits.banned)) &&
         (!penalizes(task) || within(task.history, task.max_new_tokens, limits.history));
}

std::unique_ptr<const ConstraintRules> rules_of(const Generate& task, const Context& context) {
  if (!task.grammar) return nullptr;
  return std::make_unique<ConstraintRules>(task.eos_ids, task.stop, *context.token_bytes);
}

std::vector<model::LogitBias> sorted_bias(const Generate& task) {
  std::vector<model::LogitBias> sorted;
  for (const auto& [id, value] : task.logit_bias) sorted.push_back({id, value});
  std::ranges::stable_sort(sorted, {}, &model::LogitBias::id);
  return sorted;
}

}  // namespace

GenerateJob::GenerateJob(std::shared_ptr<Request> request, Submission&& submission, Generate&& task,
                         const Room& room, const Context& context, std::vector<int64_t> keys)
    : Job(std::move(request), std::move(submission), room, context, std::move(keys)),
      task_(std::move(task)),
      params_(params_of(task_)),
      bias_(sorted_bias(task_)),
      is_drawn_(fits(task_, context.draw_limits)),
      rules_(rules_of(task_, context)),
      running_(task_.samples) {
  for (int64_t i = 0; i < task_.samples; ++i) {
    Sample sample{task_.history, {}, 0, StopStrings(task_.stop), {}, {}, nullptr};
    sample.seen.reserve(task_.history.size() + static_cast<size_t>(task_.max_new_tokens));
    sample.choices.resize(task_.speculate ? kMostDrafted + 1 : 1);
    if (rules_) {
      const int64_t ahead = static_cast<int64_t>(sample.choices.size());
      sample.constraint = std::make_unique<Constraint>(task_.grammar->copy(), *rules_, ahead);
    }
    samples_.push_back(std::move(sample));
    constrain(i, task_.history.size());
  }
  if (task_.speculate) {
    for (int64_t i = 0; i < prompt_length(); ++i) samples_[0].text.push_back(prompt_id(i));
  }
}

int64_t GenerateJob::events_of_step() const {
  return running_ * static_cast<int64_t>(samples_[0].choices.size());
}

// --- choosing: on any thread -------------------------------------------------------------------
void GenerateJob::compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) {
  if (has_read_prompt()) {
    choose(static_cast<int64_t>(lane), token, logits, scratch);
    return;
  }
  for (int64_t i = 0; i < task_.samples; ++i) choose(i, 0, logits, scratch);
}

GenerateJob::Place GenerateJob::place(int64_t index, int64_t ahead) const {
  const Sample& of = samples_[static_cast<size_t>(index)];
  const int64_t generated = of.generated + ahead;
  const size_t seen = task_.history.size() + static_cast<size_t>(generated);
  Place out{std::span(of.seen).first(seen), {}, {}, prompt_length() + generated};
  if (of.constraint) out.allowed = of.constraint->mask(ahead);
  if (generated < task_.min_new_tokens) out.banned = task_.eos_ids;
  return out;
}

void GenerateJob::choose(int64_t index, int64_t ahead, const float* logits, Scratch& scratch) {
  const Place at = place(index, ahead);
  const cpu::SampleInput input{logits, context().vocab, at.history, at.position};
  cpu::SamplingParams params = params_;
  params.sample = static_cast<uint32_t>(index);
  params.banned = at.banned;
  params.allowed = at.allowed;
  Choice& choice = sample(index).choices[static_cast<size_t>(ahead)];
  choice.token = cpu::sample(input, params, scratch.sampling(), context().isa);
  choice.top.clear();
  if (task_.top_logprobs == 0 || !choice.token.finite) return;
  const size_t count = static_cast<size_t>(task_.top_logprobs);
  std::vector<int32_t> ids(count);
  std::vector<float> logprobs(count);
  cpu::top_logprobs(ids.data(), logprobs.data(), task_.top_logprobs, logits, input.vocab,
                    scratch.sampling(), context().isa);
  for (size_t i = 0; i < count; ++i) choice.top.emplace_back(ids[i], logprobs[i]);
}

// --- choosing: on the device -------------------------------------------------------------------
void GenerateJob::add_draws(std::vector<model::Draw>& draws, size_t lane, int64_t token) {
  if (has_read_prompt()) {
    draws.push_back(draw(static_cast<int64_t>(lane), token));
    return;
  }
  for (int64_t i = 0; i < task_.samples; ++i) draws.push_back(draw(i, 0));
}

model::Draw GenerateJob::draw(int64_t index, int64_t ahead) const {
  const Place at = place(index, ahead);
  model::Draw out;
  out.temperature = params_.temperature;
  out.top_p = params_.top_p;
  out.min_p = params_.min_p;
  out.repetition_penalty = params_.repetition_penalty;
  out.presence_penalty = params_.presence_penalty;
  out.frequency_penalty = params_.frequency_penalty;
  out.top_k = params_.top_k;
  out.seed = params_.seed;
  out.sample = static_cast<uint32_t>(index);
  out.position = at.position;
  out.top = task_.top_logprobs;
  out.bias = bias_.data();
  out.bias_count = static_cast<int64_t>(bias_.size());
  out.banned = at.banned.data();
  out.banned_count = static_cast<int64_t>(at.banned.size());
  out.banned_steps = task_.min_new_tokens - samples_[static_cast<size_t>(index)].generated - ahead;
  out.end_ids = task_.eos_ids.data();
  out.end_count = static_cast<int64_t>(task_.eos_ids.size());
  if (!penalizes(task_)) return out;  // nobody looks at the history
  out.history = at.history.data();
  out.history_count = static_cast<int64_t>(at.history.size());
  return out;
}

// Stop strings are looked for afterwards: tokens behind them are forgotten.
int64_t GenerateJob::may_go_ahead(size_t lane) const {
  const bool is_plain = is_drawn_ && has_read_prompt() && !task_.speculate &&
                        task_.top_logprobs == 0 &&
                        static_cast<int64_t>(task_.eos_ids.size()) <= model::kMostEndIds;
  return is_plain ? task_.max_new_tokens - samples_[lane].generated - 1 : -1;
}

void GenerateJob::take_draws(size_t lane, int64_t token, std::span<const model::Drawn> drawn) {
  if (has_read_prompt()) {
    take(static_cast<int64_t>(lane), token, drawn[0]);
    return;
  }
  for (int64_t i = 0; i < task_.samples; ++i) take(i, 0, drawn[static_cast<size_t>(i)]);
}

void GenerateJob::take(int64_t index, int64_t ahead, const model::Drawn& drawn) {
  Choice& choice = sample(index).choices[static_cast<size_t>(ahead)];
  choice.token = {drawn.id, drawn.logprob, drawn.id >= 0};
  choice.top.clear();
  if (!choice.token.finite) return;
  for (int64_t i = 0; i < task_.top_logprobs; ++i) {
    choice.top.emplace_back(drawn.top_ids[i], drawn.top_logprobs[i]);
  }
}

// --- what follows from it: on the engine's thread ----------------------------------------------
void GenerateJob::on_prompt() {
  for (int64_t i = 1; i < lane_count(); ++i) lane(i).sequence = cache().fork(lane(0).sequence);
  for (int64_t i = 0; i < lane_count(); ++i) {
    if (accept(i, sample(i).choices[0])) {
      feed(i);
    } else {
      end_sample(i);
    }
  }
}

void GenerateJob::on_lane(size_t index) {
  const int64_t which = static_cast<int64_t>(index);
  Lane& at = lane(which);
  const int64_t before = cache().length(at.sequence) - at.size();
  int64_t right = 0;  // tokens that were fed and stand
  bool goes_on = true, guessed = true;
  while (goes_on && guessed && right < at.size()) {
    const Choice& choice = sample(which).choices[static_cast<size_t>(right++)];
    goes_on = accept(which, choice);
    guessed = right < at.size() && at.tokens[static_cast<size_t>(right)].id == choice.token.id;
  }
  count_draft(at.size() - 1, right - 1);
  sample(which).draft.learn(right - 1, at.size() - 1);
  cache().truncate(at.sequence, before + right);
  cache().commit(
      at.sequence);  // of a sample that ended too: the next turn of a chat begins with it
  if (goes_on) {
    feed(which);
  } else {
    end_sample(which);
  }
}

bool GenerateJob::accept(int64_t index, const Choice& choice) {
  if (!choice.token.finite) {
    throw Error("the model's logits hold NaN or infinity, or every id is banned");
  }
  Sample& of = sample(index);
  const int32_t id = choice.token.id;
  of.seen.resize(task_.history.size() + static_cast<size_t>(of.generated));
  of.seen.push_back(id);
  if (task_.speculate) of.text.push_back(id);
  ++of.generated;
  count_token();
  say(TokenEvent{static_cast<int32_t>(index), id, choice.token.logprob, choice.top});
  Reason reason;
  if (!ends_with(of, id, reason)) return true;
  request().end(index, reason);
  return false;
}

bool GenerateJob::ends_with(Sample& of, int32_t id, Reason& reason) {
  const bool is_end = std::ranges::find(task_.eos_ids, id) != task_.eos_ids.end();
  const auto& bytes = *context().token_bytes;
  reason = Reason::kStop;
  if (is_end) return true;
  if (!task_.stop.empty() && of.stop.put(bytes[static_cast<size_t>(id)])) return true;
  if (of.constraint) {
    of.constraint->accept(id);
    if (of.constraint->is_over()) return true;
  }
  reason = Reason::kLength;
  return of.generated == task_.max_new_tokens;
}

void GenerateJob::feed(int64_t index) {
  Lane& at = lane(index);
  at.clear();
  at.add(sample(index).seen.back());
  if (task_.speculate) {
    add_draft(index);
  } else {
    constrain(index, sample(index).seen.size());
  }
}

void GenerateJob::add_draft(int64_t index) {
  Sample& of = sample(index);
  const size_t before = of.seen.size();
  const int64_t left = task_.max_new_tokens - of.generated - 1;  // the last id is never fed
  look_up(of.seen, of.text, std::min(of.draft.next(), left));
  constrain(index, before);
  for (size_t i = before; i < of.seen.size(); ++i) lane(index).add(of.seen[i]);
}

// Before the next id and what is drafted before it are fed.
void GenerateJob::constrain(int64_t index, size_t drafted_from) {
  Sample& of = sample(index);
  if (!of.constraint) return;
  of.constraint->look_ahead(of.seen, drafted_from, of.stop, task_.max_new_tokens - of.generated);
}

void GenerateJob::end_sample(int64_t index) {
  release(lane(index));
  if (--running_ == 0) set_finished(Reason::kStop);
}

}  // namespace tgv::engine
