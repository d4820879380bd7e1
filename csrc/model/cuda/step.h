// What a decoder step on a GPU is given: the caller's segments checked, put in order and laid out
// in one struct of fixed addresses that is uploaded in one copy.
//
// Order     Rows of a step are its sequences of one new token first (decoding), whose queries
//           attention of decoding reads as [S, H, D], then those of several (prompts). Rows of
//           logits stay in the order of the segments. Where pages are f32 every token counts as a
//           sequence of its own: attention of prompts cannot take them.
// Struct    Offsets follow from StepLimits alone, so that a captured graph can be replayed: all
//           that a launch is told by value is its StepShape. It begins with room for what somebody
//           else wants uploaded in the same copy. Tables and given embeddings come last; what is
//           not used of them is not uploaded.
// Padding   A captured graph is for some number of decoding rows. Rows beyond those of the step are
//           nobody's: they have no position, so that nothing is written to any page for them, no
//           context, so that none is read, and their logits are nobody's business.
//
// Host code. C++17: nvcc compiles it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/step_token.h"

namespace tgv::model {

// New positions of one sequence: model::Segment without std::span.
struct DeviceSegment {
  const int32_t* block_table = nullptr;  // [pages], covers first_position + count positions
  int64_t pages = 0;
  int64_t first_position = 0;
  const StepToken* tokens = nullptr;  // [count]; embeddings in host memory
  int64_t count = 0;
  int64_t logit_rows = 0;    // logits are wanted for this many of its last tokens
  bool reads_logits = true;  // on the host, too; false: draws alone are made of them
  int64_t ahead = 0;         // further positions that its block table covers, see Segment::ahead
};

struct StepLimits {
  int64_t max_tokens = 0;      // T, in a step, all segments together
  int64_t max_logit_rows = 0;  // in a step
  int64_t max_sequences = 0;   // S, in a step
  int64_t max_positions = 0;   // of the model
  int64_t vocab = 0, width = 0;
  int64_t pages = 0;                  // NP of the cache
  int64_t front_bytes = 0;            // of others, at the start of the struct
  bool tokens_are_sequences = false;  // f32 pages

  int64_t max_pages() const;  // of a sequence: row length of the block tables
};

// Steps of equal shapes are the same launches.
struct StepShape {
  int tokens = 0;
  int singles = 0;         // sequences of one token: the first rows, the first tables
  int prompts = 0;         // sequences of several
  int longest_prompt = 0;  // its tokens
  int logit_rows = 0;
};

// The struct: in pinned memory on the host, and at the same offsets on the device.
struct StepArrays {
  uint8_t* front;                               // [front_bytes]
  int32_t *ids, *positions, *sequence_of;       // [T]; ids: -1 - g is row g of `given`
  int32_t* lengths;                             // [singles]
  int32_t *first_rows, *new_tokens, *contexts;  // [prompts]
  int32_t* logit_sources;                       // [logit_rows] row of the step
  int32_t* tables;                              // [singles + prompts, max_pages]
  float* given;                                 // [given, C]
};

class StepInputs {
 public:
  explicit StepInputs(const StepLimits& limits);  // throws InvalidArgument

  const StepLimits& limits() const { return limits_; }
  size_t bytes() const { return bytes_; }  // of the struct with everything in it
  StepArrays arrays(uint8_t* base) const;  // base: 256-byte aligned

  // Writes the struct. Throws InvalidArgument if the segments do not fit limits or model, in the
  // words of model::Decoder, having written nothing. Allocates nothing.
  StepShape fill(uint8_t* base, const DeviceSegment* segments, int64_t count);
  size_t used_bytes() const {
    return used_bytes_;
  }  // from the start, of the last fill; padding has no more

  // Adds rows to the step that was filled, until it has `rows` of them; it must be one of single
  // tokens, each with a row of logits, and `rows` within the limits.
  StepShape pad(int64_t rows);

 private:
  void check(const DeviceSegment* segments, int64_t count) const;
  void check_segment(const DeviceSegment& segment) const;
  bool is_prompt(const DeviceSegment& segment) const;
  void add_token(const StepToken& token, int64_t position, int sequence);
  void add_table(const DeviceSegment& segment, int64_t positions, int sequence);
  void add_singles(const DeviceSegment& segment);
  void add_prompt(const DeviceSegment& segment);
  void add_nobody();
  void count_used(const uint8_t* base);

  const StepLimits limits_;
  size_t bytes_ = 0;
  size_t used_bytes_ = 0;

  // of the step that is being written; capacity is final
  StepArrays to_{};
  StepShape shape_;
  int given_ = 0;
  std::vector<int32_t> first_row_;  // of each segment
};

}  // namespace tgv::model
