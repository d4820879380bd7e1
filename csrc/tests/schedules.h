// Runs a test body under several schedules of the emulation, and checks that the schedules see
// mutations. On a GPU the hardware schedules: the body runs once, and mutations are not possible.
#pragma once

#include "tests/check.h"

namespace tgv::test {

#if defined(__CUDACC__)

template <class Body>
void for_each_schedule(Body body) {
  body();
}

inline constexpr bool kCanMutate = false;
template <class Body>
bool mutation_is_seen(int, bool, Body) {
  return true;
}

#else

inline constexpr int kHostileOrders = 3;

struct RestoreOptions {
  simt::Options saved = simt::options();
  ~RestoreOptions() { simt::options() = saved; }
};

// body() must throw when the result is wrong.
template <class Body>
void for_each_schedule(Body body) {
  RestoreOptions restore;
  for (int order = 0; order <= kHostileOrders; ++order) {
    simt::options().order = order;
    simt::options().lazy_copies = order != 1;
    body();
  }
}

inline constexpr bool kCanMutate = true;

// Whether body() throws under some schedule with its `barrier`-th block barrier left out (-1:
// none), or with waits for copies one group short.
template <class Body>
bool mutation_is_seen(int barrier, bool short_copy_waits, Body body) {
  RestoreOptions restore;
  simt::options().skip_barrier = barrier;
  simt::options().short_copy_waits = short_copy_waits;
  for (int order = 1; order <= 8; ++order) {
    simt::options().order = order;
    try {
      body();
    } catch (const std::exception&) {
      return true;
    }
  }
  return false;
}

#endif

}  // namespace tgv::test
