// A 32-bit word that threads wait on to change: they spin for a while, then park in the kernel
// (futex). Has no state that a destructor or a forked child would have to wait for, which a
// condition variable has.
#pragma once

#include <atomic>
#include <cstdint>

namespace tgv {

// How long one thread spins at one kind of wait. It has no way to know whether the thread it waits
// for is running or is kept from running by this very spinning, both on one CPU of a busy machine;
// so waits that ended parked make the next ones spin less, down to a sixteenth, with a full try
// every eighth time, and one that did not end so restores the full time. On a line of its own.
class alignas(64) Patience {
 public:
  explicit Patience(int64_t most_ns = 0) : most_ns_(most_ns) {}
  int64_t spin_ns() const {
    return failures_ % 8 == 0 ? most_ns_ : most_ns_ >> (failures_ < 4 ? failures_ : 4);
  }
  void learn(bool parked) { failures_ = parked ? failures_ + 1 : 0; }

 private:
  int64_t most_ns_;
  uint32_t failures_ = 0;  // in a row
};

class Gate {
 public:
  uint32_t value() const { return word_.load(std::memory_order_acquire); }

  // Publishes `value` and everything written before; wakes whoever is parked. Costs one store and
  // one load when nobody is.
  void set(uint32_t value);

  // Returns the word once it is not `old`: spins for as long as patience says, then parks. What the
  // setter wrote before set() is visible.
  uint32_t wait(uint32_t old, Patience& patience);

 private:
  uint32_t spin(uint32_t old, int64_t spin_ns) const;

  alignas(64) std::atomic<uint32_t> word_{0};  // a line of its own: spinners read it all the time
  std::atomic<uint32_t> parked_{0};
};

}  // namespace tgv
