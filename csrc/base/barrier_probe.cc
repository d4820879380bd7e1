#include "base/barrier_probe.h"

#include <chrono>
#include <thread>

#include "base/errors.h"
#include "base/thread_pool.h"

namespace tgv {

std::vector<double> barrier_times(const BarrierOptions& options) {
  if (options.phases < 1)
    throw InvalidArgument(concat("phases is ", options.phases, ", expected >= 1"));
  if (options.rounds < 1)
    throw InvalidArgument(concat("rounds is ", options.rounds, ", expected >= 1"));
  if (options.pause_ns < 0)
    throw InvalidArgument(concat("pause_ns is ", options.pause_ns, ", expected >= 0"));
  ThreadPool pool(options.threads, options.spin_ns);
  const std::function<void(int, int)> nothing = [](int, int) {};
  pool.run_phases(options.phases, nothing);  // threads have started
  std::vector<double> times;
  for (int round = 0; round < options.rounds; ++round) {
    if (options.pause_ns) std::this_thread::sleep_for(std::chrono::nanoseconds(options.pause_ns));
    const auto start = std::chrono::steady_clock::now();
    pool.run_phases(options.phases, nothing);
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    times.push_back(spent.count() / options.phases);
  }
  return times;
}

}  // namespace tgv
