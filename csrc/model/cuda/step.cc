#include "model/cuda/step.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "kernels/cuda/kv_pages.h"
#include "model/cuda/device_memory.h"

namespace tgv::model {

namespace {

constexpr int64_t kPageTokens = cuda::kPagePositions;

int64_t pages_of(int64_t positions) { return (positions + kPageTokens - 1) / kPageTokens; }

StepLimits checked(StepLimits limits) {
  check_range("max_tokens", limits.max_tokens, 1, 65536);
  check_range("max_logit_rows", limits.max_logit_rows, 1, limits.max_tokens);
  check_range("max_sequences", limits.max_sequences, 1, limits.max_tokens);
  check_range("front_bytes", limits.front_bytes, 0, int64_t{1} << 32);
  if (limits.tokens_are_sequences) limits.max_sequences = limits.max_tokens;
  return limits;
}

}  // namespace

int64_t StepLimits::max_pages() const { return pages_of(max_positions); }

StepInputs::StepInputs(const StepLimits& limits) : limits_(checked(limits)) {
  first_row_.reserve(static_cast<size_t>(limits_.max_sequences));
  bytes_ = device_aligned(reinterpret_cast<size_t>(arrays(nullptr).given) +
                          static_cast<size_t>(4 * limits_.max_tokens * limits_.width));
}

StepArrays StepInputs::arrays(uint8_t* base) const {
  size_t used = 0;
  const auto take = [&](int64_t count) {
    int32_t* part = reinterpret_cast<int32_t*>(reinterpret_cast<uintptr_t>(base) + used);
    used += device_aligned(static_cast<size_t>(4 * count));
    return part;
  };
  StepArrays out;
  out.front = reinterpret_cast<uint8_t*>(take((limits_.front_bytes + 3) / 4));
  out.ids = take(limits_.max_tokens);
  out.positions = take(limits_.max_tokens);
  out.sequence_of = take(limits_.max_tokens);
  out.lengths = take(limits_.max_sequences);
  out.first_rows = take(limits_.max_sequences);
  out.new_tokens = take(limits_.max_sequences);
  out.contexts = take(limits_.max_sequences);
  out.logit_sources = take(limits_.max_logit_rows);
  out.tables = take(limits_.max_sequences * limits_.max_pages());
  out.given = reinterpret_cast<float*>(take(0));
  return out;
}

// --- checks -------------------------------------------------------------------------------------
void StepInputs::check_segment(const DeviceSegment& segment) const {
  const int64_t last = segment.first_position + segment.count + segment.ahead;
  const int64_t covered = segment.pages * kPageTokens;
  if (segment.count < 1) throw InvalidArgument("a segment has no tokens, expected at least one");
  if (!segment.tokens || !segment.block_table) {
    throw InvalidArgument("a segment's tokens or block table is null");
  }
  if (segment.ahead < 0 || (segment.ahead > 0 && segment.count != 1)) {
    throw InvalidArgument(concat("a segment of ", segment.count, " tokens goes ", segment.ahead,
                                 " ahead, expected 0, or more of one token"));
  }
  if (segment.first_position < 0 || last > limits_.max_positions || last > covered) {
    throw InvalidArgument(concat("a segment has positions ", segment.first_position, "..", last - 1,
                                 ", the model has ", limits_.max_positions, " and its block table ",
                                 covered));
  }
  if (segment.logit_rows < 0 || segment.logit_rows > segment.count) {
    throw InvalidArgument(
        concat("logit_rows is ", segment.logit_rows, ", expected 0..", segment.count));
  }
  // On a GPU a wrong page is not a wrong result but the end of the process's CUDA.
  for (int64_t i = 0; i < pages_of(last); ++i) {
    const int64_t page = segment.block_table[i];
    if (page >= 0 && page < limits_.pages) continue;  // the name below takes memory
    check_range("a page of a block table", page, 0, limits_.pages - 1);
  }
  for (int64_t i = 0; i < segment.count; ++i) {
    const StepToken& token = segment.tokens[i];
    if (!token.embedding && (token.id < 0 || token.id >= limits_.vocab)) {
      throw InvalidArgument(concat("token id ", token.id, " is not in 0..", limits_.vocab - 1));
    }
  }
}

void StepInputs::check(const DeviceSegment* segments, int64_t count) const {
  int64_t tokens = 0, rows = 0;
  for (int64_t i = 0; i < count; ++i) {
    check_segment(segments[i]);
    tokens += segments[i].count;
    rows += segments[i].logit_rows;
  }
  if (tokens < 1 || tokens > limits_.max_tokens || rows > limits_.max_logit_rows) {
    throw InvalidArgument(concat("a step of ", tokens, " tokens and ", rows,
                                 " rows of logits, expected 1..", limits_.max_tokens, " and 0..",
                                 limits_.max_logit_rows));
  }
  if (count > limits_.max_sequences) {
    throw InvalidArgument(
        concat("a step of ", count, " segments, expected 1..", limits_.max_sequences));
  }
}

// --- writing ------------------------------------------------------------------------------------
bool StepInputs::is_prompt(const DeviceSegment& segment) const {
  return segment.count > 1 && !limits_.tokens_are_sequences;
}

void StepInputs::add_token(const StepToken& token, int64_t position, int sequence) {
  const int row = shape_.tokens++;
  to_.positions[row] = static_cast<int32_t>(position);
  to_.sequence_of[row] = sequence;
  to_.ids[row] = token.id;
  if (!token.embedding) return;
  const size_t width = static_cast<size_t>(limits_.width);
  std::memcpy(to_.given + static_cast<size_t>(given_) * width, token.embedding, 4 * width);
  to_.ids[row] = -1 - given_++;
}

// Entries beyond the pages of a sequence stay what they are: nobody reads them.
void StepInputs::add_table(const DeviceSegment& segment, int64_t positions, int sequence) {
  std::copy_n(segment.block_table, pages_of(positions),
              to_.tables + sequence * limits_.max_pages());
}

void StepInputs::add_singles(const DeviceSegment& segment) {
  for (int64_t i = 0; i < segment.count; ++i) {
    const int64_t position = segment.first_position + i;
    const int sequence = shape_.singles++;
    add_token(segment.tokens[i], position, sequence);
    add_table(segment, position + 1 + segment.ahead, sequence);
    to_.lengths[sequence] = static_cast<int32_t>(position + 1);
  }
}

void StepInputs::add_prompt(const DeviceSegment& segment) {
  const int prompt = shape_.prompts++, sequence = shape_.singles + prompt;
  const int64_t context = segment.first_position + segment.count;
  to_.first_rows[prompt] = shape_.tokens;
  to_.new_tokens[prompt] = static_cast<int32_t>(segment.count);
  to_.contexts[prompt] = static_cast<int32_t>(context);
  shape_.longest_prompt = std::max(shape_.longest_prompt, static_cast<int>(segment.count));
  add_table(segment, context, sequence);
  for (int64_t i = 0; i < segment.count; ++i) {
    add_token(segment.tokens[i], segment.first_position + i, sequence);
  }
}

void StepInputs::add_nobody() {
  const int row = shape_.tokens++;
  to_.ids[row] = 0;  // any that there is
  to_.positions[row] = -1;
  to_.sequence_of[row] = shape_.singles;
  to_.lengths[shape_.singles++] = 0;
  to_.logit_sources[shape_.logit_rows++] = row;
}

StepShape StepInputs::pad(int64_t rows) {
  if (shape_.prompts || shape_.logit_rows != shape_.tokens || rows < shape_.tokens ||
      rows > std::min(limits_.max_sequences, limits_.max_logit_rows)) {
    throw InvalidArgument(concat("a step of ", shape_.tokens, " tokens, ", shape_.prompts,
                                 " prompts and ", shape_.logit_rows, " rows of logits cannot have ",
                                 rows, " rows"));
  }
  while (shape_.tokens < rows) add_nobody();
  return shape_;
}

StepShape StepInputs::fill(uint8_t* base, const DeviceSegment* segments, int64_t count) {
  check(segments, count);
  to_ = arrays(base);
  shape_ = StepShape{};
  given_ = 0;
  first_row_.assign(static_cast<size_t>(count), 0);
  for (const bool prompts : {false, true}) {
    for (int64_t i = 0; i < count; ++i) {
      if (is_prompt(segments[i]) != prompts) continue;
      first_row_[static_cast<size_t>(i)] = shape_.tokens;
      prompts ? add_prompt(segments[i]) : add_singles(segments[i]);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = first_row_[static_cast<size_t>(i)] + segments[i].count;
    for (int64_t row = end - segments[i].logit_rows; row < end; ++row) {
      to_.logit_sources[shape_.logit_rows++] = static_cast<int32_t>(row);
    }
  }
  count_used(base);
  return shape_;
}

void StepInputs::count_used(const uint8_t* base) {
  const int64_t tables = (shape_.singles + shape_.prompts) * limits_.max_pages();
  const auto* end = given_ ? reinterpret_cast<const uint8_t*>(to_.given + given_ * limits_.width)
                           : reinterpret_cast<const uint8_t*>(to_.tables + tables);
  used_bytes_ = static_cast<size_t>(end - base);
}

}  // namespace tgv::model
