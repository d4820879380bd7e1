// What the ids of one growing row are held to: which of them may come next.
//
// A grammar knows bytes of ids and nothing of requests. The engine asks for the allowed ids before
// every choice, greedy or drawn, tells what was chosen, and takes guesses back (prompt_lookup.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace tgv::engine {

// Words of a mask over V ids: id i is bit i % 32 of word i / 32.
inline size_t mask_words(int64_t vocab) { return static_cast<size_t>((vocab + 31) / 32); }

inline bool is_allowed(std::span<const uint32_t> mask, int32_t id) {
  return mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1;
}
inline void set_allowed(std::span<uint32_t> mask, int32_t id, bool allowed) {
  uint32_t& word = mask[static_cast<size_t>(id) / 32];
  const uint32_t bit = uint32_t{1} << (id % 32);
  word = allowed ? word | bit : word & ~bit;
}

// Of one row, used by one thread at a time.
class Grammar {
 public:
  virtual ~Grammar() = default;

  virtual int64_t vocab() const = 0;

  // The ids that may come next into `mask` [mask_words(V)], when `left` ids may still come, the
  // next one included. Returns whether the row may end here. Allocates nothing of its own.
  virtual bool allow(std::span<uint32_t> mask, int64_t left) = 0;

  // The next id, one that was allowed. Throws Error if the grammar's library fails.
  virtual void accept(int32_t id) = 0;

  // The last `count` ids that were accepted; at most 8 (kMostDrafted + 1).
  virtual void take_back(int64_t count) = 0;

  // Nothing but the end can follow.
  virtual bool is_over() const { return false; }

  // Whether end ids and stop strings are kept from where the row may not end, and end ids let in
  // where it may. Else the mask says all there is to say about them.
  virtual bool rules_ends() const { return false; }

  // Another one in the same state, for another row. Several threads may copy one that nobody uses.
  virtual std::unique_ptr<Grammar> copy() const = 0;
};

}  // namespace tgv::engine
