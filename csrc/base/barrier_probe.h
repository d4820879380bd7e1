// What a barrier of the thread pool costs on this machine.
#pragma once

#include <cstdint>
#include <vector>

namespace tgv {

struct BarrierOptions {
  int threads = 2;
  int64_t spin_ns = -1;  // as ThreadPool
  int phases = 96;       // per round; 96 is a decoder step of 32 layers
  int rounds = 1000;
  int64_t pause_ns = 0;  // idle time before each round: beyond spin_ns, the workers have parked
};

// Nanoseconds of each round divided by its phases, where a phase does nothing: wake-up, barriers
// and the end. Throws InvalidArgument for sizes out of range.
std::vector<double> barrier_times(const BarrierOptions& options);

}  // namespace tgv
