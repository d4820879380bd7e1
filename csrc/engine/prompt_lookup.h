// Guesses the next ids of a text from the text itself (prompt lookup; A. Saxena, 2023): what
// followed the last few ids when they stood there before.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tgv::engine {

inline constexpr int64_t kLongestGram = 3;
inline constexpr int64_t kMostDrafted = 7;

// Appends up to `most` guesses to `draft`: those that followed the latest earlier place where the
// longest end of `ids` (kLongestGram down to 1 ids) stands. A negative id is no text: it matches
// nothing and ends a guess.
void look_up(std::vector<int32_t>& draft, std::span<const int32_t> ids, int64_t most);

// How many to guess: more while guesses come true, fewer while they do not.
class DraftLength {
 public:
  int64_t next() const { return next_; }
  void learn(int64_t accepted, int64_t drafted);

 private:
  int64_t next_ = 3;
};

}  // namespace tgv::engine
