// What an engine has done since it was made, and what it is doing.
#pragma once

#include <array>
#include <cstdint>

#include "engine/events.h"
#include "kv/kv_cache.h"
#include "model/graph_cost.h"

namespace tgv::engine {

struct Metrics {
  int64_t submitted = 0;
  std::array<int64_t, kReasons> ended{};  // requests by Reason; kStop and kLength: to their end
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t steps = 0;
  int64_t steps_given_up = 0;
  int64_t prefill_tokens = 0;  // fed, of prompts and candidates; not what was cached
  int64_t decode_tokens = 0;   // fed, drafts included
  int64_t prompt_tokens = 0;   // of admitted requests
  int64_t cached_tokens = 0;   // of them not computed: found in the cache or brought along
  int64_t brought_tokens = 0;  // of those written to the cache from what requests brought
  int64_t generated_tokens = 0;
  int64_t drafted_tokens = 0;
  int64_t accepted_tokens = 0;
  double busy_seconds = 0;  // in steps
  double last_step_ms = 0;
  int64_t prefill_share = 0;  // prompt tokens of a step while others decode
  kv::Counts kv;
  int64_t kv_page_bytes = 0;
  int64_t weight_bytes = 0;
  int64_t arena_bytes = 0;
  model::GraphCost graphs;  // of the backend
};

}  // namespace tgv::engine
