// What callers ask for, and whether it can be asked.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/grammar.h"
#include "engine/prefix_pages.h"
#include "kernels/cpu/sampling.h"
#include "model/architecture.h"

namespace tgv::engine {

// Positions: a token id, or -1 for the next row of the embeddings.
struct Prompt {
  std::vector<int32_t> ids;       // [T]
  std::vector<float> embeddings;  // [n, C], n = number of -1
  int64_t embedding_rows = 0;     // n
  int64_t embedding_width = 0;    // C; not looked at without rows
  // Keys and values of its first positions, which are then not computed; or null.
  std::shared_ptr<const PrefixPages> pages = nullptr;
};

struct Generate {
  int64_t max_new_tokens = 0;
  int64_t min_new_tokens = 0;  // no id of eos_ids before
  std::vector<int32_t> eos_ids;
  std::vector<std::string> stop;  // bytes
  double temperature = 0;         // 0: greedy
  int64_t top_k = 0;              // 0: all
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  int64_t samples = 1;
  std::vector<int32_t> history;  // seen by the penalties before any generated id
  int64_t top_logprobs = 0;
  bool speculate = false;
  std::shared_ptr<const Grammar> grammar;  // that every sample begins with; or null
};

struct Beams {
  int64_t beams = 2;
  int64_t returned = 1;
  int64_t max_new_tokens = 0;
  int64_t min_new_tokens = 0;
  double length_penalty = 1;
  std::vector<int32_t> eos_ids;
  double repetition_penalty = 1;
  std::vector<int32_t> history;
  int32_t pad_id = 0;
  std::shared_ptr<const Grammar> grammar;  // that every beam begins with; or null
};

// Log-probabilities of candidates, each after the prompt.
struct Score {
  std::vector<std::vector<int32_t>> candidates;
};

// Logits of all positions from `first` on.
struct Logits {
  int64_t first = 0;
};

// Keys and values of the prompt, which is of whole pages.
struct Pages {};

struct Submission {
  Prompt prompt;
  std::variant<Generate, Beams, Score, Logits, Pages> task;
  std::optional<double> deadline_s;  // from now
};

// The sampler's parameters; they refer to the task's logit_bias.
cpu::SamplingParams params_of(const Generate& task);

// What an engine can take.
struct Limits {
  model::Architecture architecture;
  CacheIdentity cache;
  int64_t max_sequences = 0;
  bool has_token_bytes = false;
  bool carries_pages = false;  // PageStore::can_carry()

  int64_t kv_pages() const { return cache.shape.pages; }
};

// Room in the cache and in a step that the submission asks for.
struct Room {
  int64_t new_positions = 0;  // after the prompt
  int64_t sequences = 1;      // side by side, sharing the prompt
};
Room room_of(const Submission& submission, const Limits& limits);

// Throws InvalidArgument naming the argument, CapacityError if there is no room even in an empty
// engine, Unsupported for pages where they cannot be carried.
void check(const Submission& submission, const Limits& limits);

}  // namespace tgv::engine
