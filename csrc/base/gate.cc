#include "base/gate.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>

namespace tgv {

namespace {

constexpr int kLooksPerClock = 16;  // reading the clock costs about as much as these looks

// Tells the core that this is a spin loop: saves power and, with hyper-threads, the other's time.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The kernel takes the address of the word itself.
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

long futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  return syscall(SYS_futex, word, operation, value, nullptr, nullptr, 0);
}

}  // namespace

void Gate::set(uint32_t value) {
  // Both of these and both in wait() are sequentially consistent: either the setter sees the parked
  // count, or the waiter sees the new word.
  word_.store(value);
  if (parked_.load() != 0) futex(&word_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

uint32_t Gate::spin(uint32_t old, int64_t spin_ns) const {
  if (spin_ns <= 0) return value();
  const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(spin_ns);
  do {
    for (int i = 0; i < kLooksPerClock; ++i) {
      const uint32_t now = value();
      if (now != old) return now;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return value();
}

uint32_t Gate::wait(uint32_t old, Patience& patience) {
  uint32_t now = spin(old, patience.spin_ns());
  patience.learn(now == old);
  if (now != old) return now;
  parked_.fetch_add(1);
  // The kernel looks once more at the word and returns at once if it has changed; interruptions and
  // stray wake-ups go round the loop.
  while ((now = word_.load()) == old) futex(&word_, FUTEX_WAIT_PRIVATE, old);
  parked_.fetch_sub(1);
  return now;
}

}  // namespace tgv
