// What a request says while it runs, in the order in which it happens.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kv/page_store.h"

namespace tgv::engine {

// Why a sample, or a whole request, ended.
enum class Reason : uint8_t { kStop, kLength, kDeadline, kCancelled, kError };
inline constexpr int kReasons = 5;

inline const char* reason_name(Reason reason) {
  constexpr const char* names[kReasons] = {"stop", "length", "deadline", "cancelled", "error"};
  return names[static_cast<int>(reason)];
}

using IdLogprob = std::pair<int32_t, float>;

// One more id of a sample. logprob: of the unprocessed logits.
struct TokenEvent {
  int32_t sample = 0;
  int32_t id = 0;
  float logprob = 0;
  std::vector<IdLogprob> top;  // best first; empty unless asked for
};

struct EndEvent {
  int32_t sample = 0;
  Reason reason = Reason::kStop;
  std::string message;  // of kError
};

struct BeamEvent {
  int32_t rank = 0;
  std::vector<int32_t> ids;
  double score = 0;
};

struct ScoresEvent {
  int32_t candidate = 0;
  std::vector<float> logprobs;  // one per id of the candidate
};

// Logits of the next `rows` positions.
struct LogitsEvent {
  int64_t rows = 0;
  std::vector<float> values;  // [rows, V]
};

// Keys and values of the prompt, as PrefixPages has them.
struct PagesEvent {
  kv::Shape shape;  // its pages: those of the prompt
  std::vector<uint8_t> numbers;
  std::vector<uint16_t> scales;
};

// Times are milliseconds; 0 for what was never reached.
struct Stats {
  double queue_ms = 0;        // submitted until admitted
  double prefill_ms = 0;      // until the prompt was read
  double decode_ms = 0;       // until the end
  double first_token_ms = 0;  // submitted until the first token was there
  double total_ms = 0;
  int64_t prompt = 0;     // positions
  int64_t cached = 0;     // of them not computed: found in the cache or brought along
  int64_t brought = 0;    // of those the ones that were written to the cache for this request
  int64_t generated = 0;  // ids, all samples together
  int64_t accepted = 0;   // of the drafted ones
  int64_t drafted = 0;    // ids guessed by prompt lookup
};

// Always the last event, exactly once.
struct DoneEvent {
  Stats stats;
};

using Event =
    std::variant<TokenEvent, EndEvent, BeamEvent, ScoresEvent, LogitsEvent, PagesEvent, DoneEvent>;

}  // namespace tgv::engine
