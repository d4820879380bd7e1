// A 32-bit word that threads wait on to change: they spin for a while, then park in the kernel
// (futex). Has no state that a destructor or a forked child would have to wait for, which a
// condition variable has.
#pragma once

#include <atomic>
#include <cstdint>

namespace tgv {

class Gate {
 public:
  uint32_t value() const { return word_.load(std::memory_order_acquire); }

  // Publishes `value` and everything written before; wakes whoever is parked. Costs one store and
  // one load when nobody is.
  void set(uint32_t value);

  // Returns the word once it is not `old`: spins for up to `spin_ns` nanoseconds, then parks. What
  // the setter wrote before set() is visible.
  uint32_t wait(uint32_t old, int64_t spin_ns);

 private:
  uint32_t spin(uint32_t old, int64_t spin_ns) const;

  alignas(64) std::atomic<uint32_t> word_{0};  // a line of its own: spinners read it all the time
  std::atomic<uint32_t> parked_{0};
};

}  // namespace tgv
