#include "model/cuda/draw_inputs.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/errors.h"
#include "model/cuda/device_memory.h"

namespace tgv::model {

namespace {

static_assert(kMostEndIds == cuda::kAdvanceMostEnds);

constexpr int64_t kMostNumbers = INT32_MAX;  // of all lists of a kind: settings index them

DrawLimits checked(const DrawLimits& limits, int64_t vocab) {
  check_range("draws", limits.draws, 1, 65535);
  check_range("history", limits.history, 0, kMostNumbers / limits.draws);
  check_range("bias", limits.bias, 0, kMostNumbers / limits.draws);
  check_range("banned", limits.banned, 0, kMostNumbers / limits.draws);
  check_range("top", limits.top, 0, std::min<int64_t>(cuda::kSamplingMaxTop, vocab));
  return limits;
}

cuda::SamplingSettings settings_of(const Draw& draw, int64_t vocab) {
  cuda::SamplingSettings s;
  s.temperature = draw.temperature;
  s.top_p = draw.top_p;
  s.min_p = draw.min_p;
  s.repetition_penalty = draw.repetition_penalty;
  s.presence_penalty = draw.presence_penalty;
  s.frequency_penalty = draw.frequency_penalty;
  s.top_k = static_cast<int32_t>(std::min(draw.top_k, vocab));
  s.sample = draw.sample;
  s.seed = draw.seed;
  return s;
}

// Whether its tokens are added to the history, if it goes ahead.
bool keeps_history(const Draw& draw) {
  return draw.repetition_penalty != 1.0f || draw.presence_penalty != 0.0f ||
         draw.frequency_penalty != 0.0f;
}

cuda::AdvanceRow state_of(const Draw& draw, int64_t ahead) {
  cuda::AdvanceRow row;
  row.left = static_cast<int32_t>(ahead + 1);
  row.banned_left = static_cast<int32_t>(std::min<int64_t>(draw.banned_steps, INT32_MAX));
  if (ahead == 0) return row;  // it gets no more, whatever its token is
  row.ends = static_cast<int32_t>(draw.end_count);
  std::copy_n(draw.end_ids, draw.end_count, row.end_ids);
  return row;
}

// Parts of a block one after another; of a null one, their offsets.
struct Places {
  uint8_t* base;
  size_t used = 0;

  template <class T>
  void take(T*& out, int64_t count) {
    out = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(base) + used);
    used += device_aligned(static_cast<size_t>(count) * sizeof(T));
  }
};

// Appends a list to an array of lists, and says where it begins and ends there.
void append(int32_t* array, int32_t& used, const int32_t* list, int64_t count, int32_t& begin,
            int32_t& end) {
  begin = used;
  if (count) std::memcpy(array + used, list, static_cast<size_t>(4 * count));
  used += static_cast<int32_t>(count);
  end = used;
}

}  // namespace

DrawInputs::DrawInputs(int64_t vocab, const DrawLimits& limits)
    : vocab_(vocab), limits_(checked(limits, vocab)) {
  head_bytes_ = reinterpret_cast<size_t>(head(nullptr).steps) + device_aligned(4);
  list_bytes_ = reinterpret_cast<size_t>(lists(nullptr).banned) +
                device_aligned(static_cast<size_t>(4 * limits_.draws * limits_.banned));
}

DrawHead DrawInputs::head(uint8_t* base) const {
  Places places{base};
  DrawHead out;
  places.take(out.settings, limits_.draws);
  places.take(out.positions, limits_.draws);
  places.take(out.logit_rows, limits_.draws);
  places.take(out.state, limits_.draws);
  places.take(out.steps, 1);
  return out;
}

DrawLists DrawInputs::lists(uint8_t* base) const {
  Places places{base};
  DrawLists out;
  places.take(out.history, limits_.draws * limits_.history);
  places.take(out.bias_ids, limits_.draws * limits_.bias);
  places.take(out.bias_values, limits_.draws * limits_.bias);
  places.take(out.banned, limits_.draws * limits_.banned);
  return out;
}

// --- checks -------------------------------------------------------------------------------------
namespace {

// Names are made for what fails alone: every step comes by here, with every id of its histories.
void require(int64_t index, const char* field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  check_range(concat("draws[", index, "].", field), value, least, most);
}

void require_list(int64_t index, const char* field, const void* list, int64_t count, int64_t most) {
  if (count < 0 || count > most) {
    check_range(concat("draws[", index, "].", field, "_count"), count, 0, most);
  }
  if (count && !list) throw InvalidArgument(concat("draws[", index, "].", field, " is null"));
}

}  // namespace

void DrawInputs::check_draw(const Draw& draw, int64_t index, int64_t logit_rows) const {
  require(index, "row", draw.row, 0, logit_rows - 1);
  require(index, "top", draw.top, 0, limits_.top);
  require(index, "top_k", draw.top_k, 0, INT64_MAX);
  require_list(index, "history", draw.history, draw.history_count, limits_.history);
  require_list(index, "bias", draw.bias, draw.bias_count, limits_.bias);
  require_list(index, "banned", draw.banned, draw.banned_count, limits_.banned);
  for (int64_t i = 0; i < draw.history_count; ++i) {
    require(index, "history", draw.history[i], 0, vocab_ - 1);
  }
  for (int64_t i = 0; i < draw.bias_count; ++i) {
    // Sorted: whoever finds the first of equal ids adds them all.
    require(index, "bias", draw.bias[i].id, i ? draw.bias[i - 1].id : 0, vocab_ - 1);
  }
  for (int64_t i = 0; i < draw.banned_count; ++i) {
    require(index, "banned", draw.banned[i], 0, vocab_ - 1);
  }
}

void DrawInputs::check(const Draw* draws, int64_t count, int64_t logit_rows) const {
  if (count < 0 || count > limits_.draws) {
    check_range("the number of draws", count, 0, limits_.draws);
  }
  for (int64_t i = 0; i < count; ++i) check_draw(draws[i], i, logit_rows);
}

void DrawInputs::check_ahead(const Draw* draws, int64_t count, const int64_t* ahead) const {
  for (int64_t i = 0; i < count; ++i) {
    require(i, "row", draws[i].row, i, i);  // its sequence's next input is found by it
    if (ahead[i] == 0) continue;
    require(i, "end_count", draws[i].end_count, 0, kMostEndIds);
    require_list(i, "end_ids", draws[i].end_ids, draws[i].end_count, kMostEndIds);
    require_list(i, "history", draws[i].history, draws[i].history_count,
                 limits_.history - ahead[i]);
  }
}

// --- writing ------------------------------------------------------------------------------------
void DrawInputs::fill(uint8_t* head_base, uint8_t* list_base, const Draw* draws, int64_t count,
                      const int64_t* ahead) {
  const DrawHead head = this->head(head_base);
  const DrawLists to = lists(list_base);
  *head.steps = 0;
  int32_t history = 0, bias = 0, banned = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Draw& draw = draws[i];
    cuda::SamplingSettings s = settings_of(draw, vocab_);
    append(to.history, history, draw.history, draw.history_count, s.history_begin, s.history_end);
    if (ahead && keeps_history(draw)) history += static_cast<int32_t>(ahead[i]);
    head.state[i] = state_of(draw, ahead ? ahead[i] : 0);
    append(to.banned, banned, draw.banned, draw.banned_count, s.banned_begin, s.banned_end);
    s.bias_begin = bias;
    for (int64_t j = 0; j < draw.bias_count; ++j, ++bias) {
      to.bias_ids[bias] = draw.bias[j].id;
      to.bias_values[bias] = draw.bias[j].value;
    }
    s.bias_end = bias;
    head.settings[i] = s;
    head.positions[i] = draw.position;
    head.logit_rows[i] = static_cast<int32_t>(draw.row);
  }
  const auto piece = [&](const void* begin, const void* end) {
    const auto* from = static_cast<const uint8_t*>(begin);
    return Piece{static_cast<size_t>(from - list_base),
                 static_cast<size_t>(static_cast<const uint8_t*>(end) - from)};
  };
  written_ = {piece(to.history, to.history + history), piece(to.bias_ids, to.bias_ids + bias),
              piece(to.bias_values, to.bias_values + bias), piece(to.banned, to.banned + banned)};
}

void DrawInputs::pad(uint8_t* head_base, int64_t count, int64_t rows) const {
  const DrawHead to = head(head_base);
  for (int64_t i = count; i < rows; ++i) to.logit_rows[i] = -1;
}

}  // namespace tgv::model
