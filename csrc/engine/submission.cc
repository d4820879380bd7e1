#include "engine/submission.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/errors.h"
#include "kv/storage.h"

namespace tgv::engine {

namespace {

constexpr size_t kMostStops = 16, kLongestStop = 1024;
constexpr int64_t kMostTopLogprobs = 64;
constexpr size_t kMostCandidates = 4096;

int64_t pages_for(int64_t positions) { return (positions + kv::kPageTokens - 1) / kv::kPageTokens; }

// As KVCache counts them for a prompt of which nothing is cached.
int64_t pages_of(int64_t prompt, const Room& room) {
  const int64_t each = pages_for(prompt + room.new_positions);
  return each + (room.sequences - 1) * (each - prompt / kv::kPageTokens);
}

template <class Value>
void require(bool holds, const char* argument, const Value& value, const std::string& expected) {
  if (!holds) throw InvalidArgument(concat(argument, " is ", value, ", expected ", expected));
}

void check_ids(const char* argument, std::span<const int32_t> ids, int64_t vocab) {
  for (const int32_t id : ids) {
    require(id >= 0 && id < vocab, argument, concat("with id ", id),
            concat("ids in 0..", vocab - 1));
  }
}

void check_prompt(const Prompt& prompt, const model::Architecture& model) {
  if (prompt.ids.empty()) throw InvalidArgument("ids is empty, expected at least one position");
  int64_t rows = 0;
  for (size_t i = 0; i < prompt.ids.size(); ++i) {
    const int32_t id = prompt.ids[i];
    rows += id == -1 ? 1 : 0;
    if (id < -1 || id >= model.vocab) {
      throw InvalidArgument(concat("ids has ", id, " at position ", i, ", expected 0..",
                                   model.vocab - 1, ", or -1 for a row of embeddings"));
    }
  }
  if (rows != prompt.embedding_rows) {
    throw InvalidArgument(concat("embeddings has ", prompt.embedding_rows, " rows, expected ", rows,
                                 ", the number of -1 in ids"));
  }
  if (rows > 0 && prompt.embedding_width != model.width) {
    throw InvalidArgument(concat("embeddings is [", rows, ",", prompt.embedding_width,
                                 "] f32, expected [", rows, ",C=", model.width, "]"));
  }
  const auto bad = std::find_if_not(prompt.embeddings.begin(), prompt.embeddings.end(),
                                    [](float value) { return std::isfinite(value); });
  if (bad != prompt.embeddings.end()) {
    const int64_t at = bad - prompt.embeddings.begin();
    throw InvalidArgument(concat("embeddings has ", *bad, " at [", at / model.width, ",",
                                 at % model.width, "], expected finite numbers"));
  }
}

void check_pages(const Submission& submission, const Limits& limits) {
  const PrefixPages* pages = submission.prompt.pages.get();
  if (!pages && !std::holds_alternative<Pages>(submission.task)) return;
  if (!limits.carries_pages) {
    throw Unsupported(
        "pages of keys and values are carried on the CPU alone, and this engine's lie on a GPU");
  }
  if (!pages) return;
  const std::string why = why_not(*pages, submission.prompt, limits.cache);
  if (!why.empty()) throw InvalidArgument(why);
}

void check_length(int64_t prompt, int64_t more, const char* what, const Limits& limits) {
  const int64_t most = limits.architecture.max_positions;
  if (prompt + more > most) {
    throw InvalidArgument(concat("ids has ", prompt, " positions, which with ", what, "=", more,
                                 " passes the model's ", most));
  }
}

void check_lengths(int64_t max_new_tokens, int64_t min_new_tokens) {
  require(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "an integer >= 1");
  require(min_new_tokens >= 0 && min_new_tokens <= max_new_tokens, "min_new_tokens", min_new_tokens,
          concat("0..max_new_tokens=", max_new_tokens));
}

void check_stops(const std::vector<std::string>& stops, const Limits& limits) {
  require(stops.size() <= kMostStops, "stop", concat(stops.size(), " strings"),
          concat("at most ", kMostStops));
  for (const std::string& stop : stops) {
    require(!stop.empty() && stop.size() <= kLongestStop, "stop",
            concat("with a string of ", stop.size(), " bytes"), concat("1..", kLongestStop));
  }
  if (!stops.empty() && !limits.has_token_bytes) {
    throw InvalidArgument("stop is given, but the engine was made without token_bytes");
  }
}

void check_sampling(const Generate& task, int64_t vocab) {
  const std::string why = cpu::sampling_why_not(params_of(task), vocab);
  if (!why.empty()) throw InvalidArgument(why);
  require(task.temperature == 0 || static_cast<float>(task.temperature) > 0, "temperature",
          task.temperature, "0 (greedy) or a float32 above it");
}

void check_grammar(const Grammar* grammar, int64_t vocab) {
  if (grammar)
    require(grammar->vocab() == vocab, "grammar", concat("one of ", grammar->vocab(), " ids"),
            concat("one of the model's ", vocab));
}

void check_task(const Generate& task, int64_t prompt, const Limits& limits) {
  const int64_t vocab = limits.architecture.vocab;
  check_lengths(task.max_new_tokens, task.min_new_tokens);
  check_length(prompt, task.max_new_tokens, "max_new_tokens", limits);
  check_ids("eos_ids", task.eos_ids, vocab);
  check_ids("history", task.history, vocab);
  check_stops(task.stop, limits);
  check_sampling(task, vocab);
  require(task.samples >= 1 && task.samples <= limits.max_sequences, "samples", task.samples,
          concat("1..max_sequences=", limits.max_sequences));
  const int64_t most = std::min(kMostTopLogprobs, vocab);
  require(task.top_logprobs >= 0 && task.top_logprobs <= most, "top_logprobs", task.top_logprobs,
          concat("0..", most));
  if (task.speculate && (task.temperature > 0 || task.samples > 1)) {
    throw InvalidArgument(concat("speculate is true with temperature=", task.temperature,
                                 " and samples=", task.samples,
                                 ", expected greedy decoding (0) of one sample"));
  }
  check_grammar(task.grammar.get(), vocab);
}

void check_task(const Beams& task, int64_t prompt, const Limits& limits) {
  const int64_t vocab = limits.architecture.vocab;
  require(task.beams >= 1 && task.beams <= limits.max_sequences, "beams", task.beams,
          concat("1..max_sequences=", limits.max_sequences));
  require(task.returned >= 1 && task.returned <= task.beams, "returned", task.returned,
          concat("1..beams=", task.beams));
  check_lengths(task.max_new_tokens, task.min_new_tokens);
  check_length(prompt, task.max_new_tokens, "max_new_tokens", limits);
  require(std::isfinite(task.length_penalty), "length_penalty", task.length_penalty,
          "a finite number");
  require(std::isfinite(task.repetition_penalty) && task.repetition_penalty > 0,
          "repetition_penalty", task.repetition_penalty, "a number > 0");
  check_ids("eos_ids", task.eos_ids, vocab);
  check_ids("history", task.history, vocab);
  require(task.pad_id >= 0 && task.pad_id < vocab, "pad_id", task.pad_id, concat("0..", vocab - 1));
  const int64_t eos = static_cast<int64_t>(task.eos_ids.size());
  require(std::max<int64_t>(2, 1 + eos) <= vocab, "eos_ids", concat(eos, " ids"),
          concat("fewer than the vocabulary's ", vocab));
  check_grammar(task.grammar.get(), vocab);
  require(!task.grammar || !task.grammar->rules_ends(), "grammar", "one that rules the end",
          "one of boxes with beams");
}

void check_task(const Score& task, int64_t prompt, const Limits& limits) {
  require(!task.candidates.empty() && task.candidates.size() <= kMostCandidates, "candidates",
          concat(task.candidates.size(), " of them"), concat("1..", kMostCandidates));
  for (size_t i = 0; i < task.candidates.size(); ++i) {
    const std::vector<int32_t>& ids = task.candidates[i];
    if (ids.empty()) {
      throw InvalidArgument(concat("candidates[", i, "] is empty, expected at least one id"));
    }
    check_ids("candidates", ids, limits.architecture.vocab);
    check_length(prompt, static_cast<int64_t>(ids.size()), "a candidate", limits);
  }
}

void check_task(const Logits& task, int64_t prompt, const Limits& limits) {
  require(task.first >= 0 && task.first < prompt, "first", task.first, concat("0..", prompt - 1));
  check_length(prompt, 0, "nothing", limits);
}

void check_task(const Pages& /*task*/, int64_t prompt, const Limits& limits) {
  require(prompt % kv::kPageTokens == 0, "ids", concat(prompt, " positions"),
          concat("a multiple of ", kv::kPageTokens));
  check_length(prompt, 0, "nothing", limits);
}

int64_t longest(const Score& task) {
  size_t most = 0;
  for (const auto& ids : task.candidates) most = std::max(most, ids.size());
  return static_cast<int64_t>(most);
}

}  // namespace

cpu::SamplingParams params_of(const Generate& task) {
  cpu::SamplingParams params;
  params.temperature = static_cast<float>(task.temperature);
  params.top_k = task.top_k;
  params.top_p = static_cast<float>(task.top_p);
  params.min_p = static_cast<float>(task.min_p);
  params.repetition_penalty = static_cast<float>(task.repetition_penalty);
  params.presence_penalty = static_cast<float>(task.presence_penalty);
  params.frequency_penalty = static_cast<float>(task.frequency_penalty);
  params.logit_bias = task.logit_bias;
  params.seed = task.seed;
  return params;
}

Room room_of(const Submission& submission, const Limits& limits) {
  if (const auto* task = std::get_if<Generate>(&submission.task)) {
    return {task->max_new_tokens, task->samples};
  }
  if (const auto* task = std::get_if<Beams>(&submission.task)) {
    return {task->max_new_tokens, task->beams};
  }
  if (const auto* task = std::get_if<Score>(&submission.task)) {
    // Candidates take turns on as many sequences as there is room for.
    const int64_t prompt = static_cast<int64_t>(submission.prompt.ids.size());
    const int64_t count = static_cast<int64_t>(task->candidates.size());
    Room room{longest(*task), std::min(count, limits.max_sequences)};
    while (room.sequences > 1 && pages_of(prompt, room) > limits.kv_pages()) --room.sequences;
    return room;
  }
  return {0, 1};
}

void check(const Submission& submission, const Limits& limits) {
  check_prompt(submission.prompt, limits.architecture);
  check_pages(submission, limits);
  const int64_t prompt = static_cast<int64_t>(submission.prompt.ids.size());
  std::visit([&](const auto& task) { check_task(task, prompt, limits); }, submission.task);
  if (submission.deadline_s) {
    require(!std::isnan(*submission.deadline_s), "deadline_s", *submission.deadline_s, "a number");
  }
  const Room room = room_of(submission, limits);
  const int64_t needed = pages_of(prompt, room);
  if (needed > limits.kv_pages()) {
    throw CapacityError(
        concat("the request needs room for ", needed * kv::kPageTokens, " positions (", prompt,
               " of the prompt, ", room.new_positions, " new ones, ", room.sequences,
               " sequences), and kv_tokens is ", limits.kv_pages() * kv::kPageTokens,
               ": it can never fit; fewer new tokens or sequences, or a larger kv_tokens would"));
  }
}

}  // namespace tgv::engine
