#include "engine/box_grammar.h"

#include <algorithm>
#include <limits>

#include "base/errors.h"

namespace tgv::engine {

namespace {

constexpr int kNever = 1 << 20;  // ids; more than any answer has, and safe to add up
constexpr std::string_view kAlphabet = "0123456789<>{}";

bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }
bool is_written_with(char byte) { return kAlphabet.find(byte) != std::string_view::npos; }

// Whether `value`, or a number that begins with its digits, is within.
bool leads_within(int value, int least, int most) {
  if (value >= least && value <= most) return true;
  if (value == 0) return false;
  for (int from = 10 * value, count = 10; from <= most; from *= 10, count *= 10) {
    if (from + count > least) return true;
  }
  return false;
}

size_t digits_index(std::string_view digits) {
  constexpr size_t kFirst[] = {0, 0, 10, 110};
  size_t value = 0;
  for (const char digit : digits) value = 10 * value + static_cast<size_t>(digit - '0');
  return kFirst[digits.size()] + value;
}
constexpr size_t kDigitStrings = 1110;

}  // namespace

// --- the automaton -----------------------------------------------------------------------------
bool BoxState::step(char byte) {
  switch (place) {
    case kText:
      if (byte == '{') *this = {kOpen, 0, -1, first};
      return true;
    case kOpen:
      place = kNumber;
      return byte == '<';
    case kNumber:
      if (byte == '>') {
        if (value < least() || value > most()) return false;
        if (coordinate < 2) first[static_cast<size_t>(coordinate)] = value;
        place = kClosed;
        return true;
      }
      if (!is_digit(byte) || value == 0 || value > 10) return false;
      value = static_cast<int8_t>(value < 0 ? byte - '0' : 10 * value + (byte - '0'));
      return leads_within(value, least(), most());
    case kClosed:
      if (coordinate == 3) {
        place = kText;
        return byte == '}';
      }
      place = kNumber;
      ++coordinate;
      value = -1;
      return byte == '<';
  }
  return false;
}

bool BoxState::run(std::string_view bytes) {
  return std::ranges::all_of(bytes, [&](char byte) { return step(byte); });
}

// --- what ids can write ------------------------------------------------------------------------
BoxVocabulary::BoxVocabulary(const std::vector<std::string>& token_bytes)
    : bytes_(token_bytes), writes_(kDigitStrings, false) {
  count_costs();
  if (open_cost_ + next_cost_ + end_cost_ + any_number_cost_ >= kNever) {
    why_not_ =
        "the vocabulary lacks some of the characters { } < > 0..9 that boxes are written with";
  }
  sort_ids();
}

void BoxVocabulary::count_costs() {
  for (const std::string& bytes : bytes_) {
    const bool is_number =
        !bytes.empty() && bytes.size() <= 3 && std::ranges::all_of(bytes, is_digit);
    if (is_number) writes_[digits_index(bytes)] = true;
  }
  open_cost_ = piece_cost("{<");
  next_cost_ = piece_cost("><");
  end_cost_ = piece_cost(">}");
  less_cost_ = piece_cost("<");
  brace_cost_ = piece_cost("}");
  number_costs_.resize((kLargestBin + 1) * (kLargestBin + 1));
  for (int value = -1; value < kLargestBin; ++value) {
    const size_t row = static_cast<size_t>(value + 1);
    int cost = kNever, first_cost = kNever;  // with 100 among what may be written, and without
    for (int least = kLargestBin; least >= 0; --least) {
      const int writing = rest_cost(least, value);
      cost = std::min(cost, writing);
      if (least < kLargestBin) first_cost = std::min(first_cost, writing);
      number_costs_[row * (kLargestBin + 1) + static_cast<size_t>(least)] = cost;
      if (value < 0 && least > 0) any_number_cost_ = std::max(any_number_cost_, cost);
    }
    first_number_costs_[row] = first_cost;
  }
}

int BoxVocabulary::piece_cost(std::string_view piece) const {
  const auto has = [&](std::string_view text) {
    return std::ranges::find(bytes_, text) != bytes_.end();
  };
  if (has(piece)) return 1;
  if (piece.size() == 1) return kNever;
  return std::min(kNever, piece_cost(piece.substr(0, 1)) + piece_cost(piece.substr(1)));
}

int BoxVocabulary::digits_cost(std::string_view digits) const {
  if (digits.empty()) return 0;
  int best = kNever;
  for (size_t length = 1; length <= digits.size(); ++length) {
    if (!writes_[digits_index(digits.substr(0, length))]) continue;
    best = std::min(best, 1 + digits_cost(digits.substr(length)));
  }
  return best;
}

int BoxVocabulary::rest_cost(int number, int value) const {
  const std::string whole = std::to_string(number);
  const std::string begin = value < 0 ? "" : std::to_string(value);
  return whole.starts_with(begin) ? digits_cost(whole.substr(begin.size())) : kNever;
}

// From the beginning of a coordinate's number to the end of the box. What x2 and y2 are to pass may
// not be known yet: then the dearest.
int BoxVocabulary::box_cost(int coordinate, const BoxState& state, bool has_x1, bool has_y1) const {
  int cost = end_cost_;
  for (int i = coordinate; i < 4; ++i) {
    if (i > coordinate) cost += next_cost_;
    const bool is_known = i == 2 ? has_x1 : has_y1;
    if (i < 2) {
      cost += first_number_costs_[0];
    } else if (is_known) {
      cost += number_costs_[static_cast<size_t>(state.first[static_cast<size_t>(i - 2)] + 1)];
    } else {
      cost += any_number_cost_;
    }
  }
  return cost;
}

int BoxVocabulary::cost(const BoxState& state) const {
  const int at = state.coordinate;
  switch (state.place) {
    case BoxState::kText:
      return 0;
    case BoxState::kOpen:
      return less_cost_ + box_cost(0, state, false, false);
    case BoxState::kNumber: {
      if (state.value < 0) return box_cost(at, state, at > 0, at > 1);
      const size_t row = static_cast<size_t>(state.value + 1);
      const size_t least = static_cast<size_t>(state.least());
      const int number =
          at < 2
              ? first_number_costs_[row]
              : (state.value == kLargestBin ? 0 : number_costs_[row * (kLargestBin + 1) + least]);
      if (at == 3) return number + end_cost_;
      return number + next_cost_ + box_cost(at + 1, state, at > 0, at > 1);
    }
    case BoxState::kClosed:
      return at == 3 ? brace_cost_ : less_cost_ + box_cost(at + 1, state, true, at > 0);
  }
  return kNever;
}

void BoxVocabulary::sort_ids() {
  text_.assign(mask_words(vocab()), 0);
  for (int32_t id = 0; id < vocab(); ++id) {
    const std::string& bytes = bytes_[static_cast<size_t>(id)];
    BoxState state;
    if (run(state, id)) {
      set_allowed(text_, id, true);
      if (state.place != BoxState::kText) openers_.push_back({id, cost(state)});
    }
    const std::string_view begin = std::string_view(bytes).substr(0, bytes.find('}'));
    if (!bytes.empty() && bytes[0] != '{' && std::ranges::all_of(begin, is_written_with)) {
      inside_.push_back(id);
    }
  }
  for (const Opener& opener : openers_) dearest_opener_ = std::max(dearest_opener_, opener.cost);
}

bool BoxVocabulary::run(BoxState& state, int32_t id) const {
  const std::string& bytes = bytes_[static_cast<size_t>(id)];
  return bytes.empty() ? state.place == BoxState::kText : state.run(bytes);
}

void BoxVocabulary::allow(std::span<uint32_t> mask, const BoxState& state, int64_t left) const {
  if (state.place == BoxState::kText) {
    std::ranges::copy(text_, mask.begin());
    if (dearest_opener_ < left) return;
    for (const Opener& opener : openers_) set_allowed(mask, opener.id, opener.cost < left);
    return;
  }
  std::ranges::fill(mask, 0);
  for (const int32_t id : inside_) {
    BoxState after = state;
    if (run(after, id) && cost(after) < left) set_allowed(mask, id, true);
  }
}

// --- one row -----------------------------------------------------------------------------------
BoxGrammar::BoxGrammar(std::shared_ptr<const BoxVocabulary> vocabulary)
    : vocabulary_(std::move(vocabulary)) {
  if (!vocabulary_->why_not().empty()) throw InvalidArgument(vocabulary_->why_not());
}

bool BoxGrammar::allow(std::span<uint32_t> mask, int64_t left) {
  vocabulary_->allow(mask, at(accepted_), left);
  return at(accepted_).place == BoxState::kText;
}

void BoxGrammar::accept(int32_t id) {
  BoxState next = at(accepted_);
  if (!vocabulary_->run(next, id)) throw Error(concat("id ", id, " does not fit the box"));
  at(++accepted_) = next;
}

void BoxGrammar::take_back(int64_t count) { accepted_ -= count; }

}  // namespace tgv::engine
