// Boxes that parse by construction: every '{' of an answer opens {<x1><y1><x2><y2>}, whole numbers
// of 0..100 without leading zeros, x1 < x2 and y1 < y2. Text outside boxes is free.
//
// What     An automaton over bytes, run over the bytes of each id: a number may be one id or
//          several, an id may hold any piece of a box, or the end of one and text after it.
// Budget   A box is begun only if it can be completed with the ids that are left, and continued
//          only in ways that can: cost() is the number of ids of one completion, and from every
//          state some id leads to a state that costs one less.
// Cost     Outside boxes one copy of a mask; inside, a run over the ids that consist of what boxes
//          are written with (about a hundred; 2,000 in a vocabulary of 50,000).
// Oracle   tinygptv_fast.reference.box_grammar, tested to be exactly equal.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/grammar.h"

namespace tgv::engine {

inline constexpr int kLargestBin = 100;

// Where a row is. Value of no meaning are as they were.
struct BoxState {
  enum Place : uint8_t { kText, kOpen, kNumber, kClosed };  // after '{', '<' or digits, '>'
  Place place = kText;
  int8_t coordinate = 0;          // 0..3: x1, y1, x2, y2
  int8_t value = -1;              // of the digits so far; -1: none
  std::array<int8_t, 2> first{};  // x1, y1 once they are written

  int least() const { return coordinate < 2 ? 0 : first[coordinate - 2u] + 1; }
  int most() const { return coordinate < 2 ? kLargestBin - 1 : kLargestBin; }

  // Takes a byte; false (and any state) if it cannot come here.
  bool step(char byte);
  bool run(std::string_view bytes);  // the same for several
};

// What the ids of a vocabulary can write of boxes. Immutable; any thread.
class BoxVocabulary {
 public:
  explicit BoxVocabulary(const std::vector<std::string>& token_bytes);  // [V]

  // Empty, or why boxes cannot be written with it.
  const std::string& why_not() const { return why_not_; }

  int64_t vocab() const { return static_cast<int64_t>(bytes_.size()); }
  // An id at `state`; false if it may not come there. Ids without text change nothing, and may come
  // outside boxes alone.
  bool run(BoxState& state, int32_t id) const;
  int cost(const BoxState& state) const;  // ids that complete the box; 0 outside
  void allow(std::span<uint32_t> mask, const BoxState& state, int64_t left) const;

 private:
  // Ids that write `digits` (1..3 of them), and the number that begins with `value`.
  int digits_cost(std::string_view digits) const;
  int rest_cost(int number, int value) const;    // of `number` after the digits of `value`, or -1
  int piece_cost(std::string_view piece) const;  // of at most two bytes
  int box_cost(int coordinate, const BoxState& state, bool has_x1, bool has_y1) const;
  void count_costs();
  void sort_ids();

  const std::vector<std::string> bytes_;
  std::string why_not_;
  std::vector<bool> writes_;       // by length and digits: is there such an id
  std::vector<int> number_costs_;  // [value + 1][least], most = 100
  std::array<int, kLargestBin + 1> first_number_costs_{};  // [value + 1], least 0, most 99
  int any_number_cost_ = 0;                                // the most that any least asks
  int open_cost_ = 0, next_cost_ = 0, end_cost_ = 0;       // {<  ><  >}
  int less_cost_ = 0, brace_cost_ = 0;                     // <   }
  std::vector<uint32_t> text_;  // [mask_words(V)] what may come outside boxes
  struct Opener {
    int32_t id;
    int cost;  // of what it opens
  };
  std::vector<Opener> openers_;  // of text_
  int dearest_opener_ = 0;
  std::vector<int32_t> inside_;  // what may come inside a box, somewhere
};

class BoxGrammar : public Grammar {
 public:
  // Throws InvalidArgument if boxes cannot be written with the vocabulary.
  explicit BoxGrammar(std::shared_ptr<const BoxVocabulary> vocabulary);

  int64_t vocab() const override { return vocabulary_->vocab(); }
  bool allow(std::span<uint32_t> mask, int64_t left) override;
  void accept(int32_t id) override;
  void take_back(int64_t count) override;
  std::unique_ptr<Grammar> copy() const override { return std::make_unique<BoxGrammar>(*this); }

 private:
  BoxState& at(int64_t count) { return states_[static_cast<size_t>(count) % states_.size()]; }

  std::shared_ptr<const BoxVocabulary> vocabulary_;
  int64_t accepted_ = 0;
  std::array<BoxState, 16> states_{};  // after so many ids, the latest of them
};

}  // namespace tgv::engine
