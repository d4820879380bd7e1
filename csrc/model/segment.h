// New positions of one sequence in a step.
#pragma once

#include <cstdint>
#include <span>

#include "model/step_token.h"

namespace tgv::model {

// The cache has appended them (KVCache::append) and not committed them; the caller commits after a
// step that returned true.
struct Segment {
  std::span<const int32_t> block_table;  // covers first_position + tokens.size() positions
  int64_t first_position = 0;
  std::span<const StepToken> tokens;
  int64_t logit_rows = 0;    // logits are wanted for this many of its last tokens
  bool reads_logits = true;  // on the host, too; false: draws alone are made of them
  // Of a segment of one token with one draw: so many further tokens may be fed, each the one drawn
  // before it, in steps without the host. The block table covers their positions.
  int64_t ahead = 0;
};

}  // namespace tgv::model
