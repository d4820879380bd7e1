#include "base/int8_peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/errors.h"
#include "base/int8_peak_isa.h"
#include "base/thread_pool.h"
#include "base/topology.h"

namespace tgv {

namespace {

struct Body {
  int32_t (*run)(int64_t rounds) = nullptr;
  int64_t ops = 0;  // of one round
};

// The widest body that `isa` implies.
Body body_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512Vnni:
      return {int8_peak_isa::avx512vnni, int8_peak_isa::kAvx512VnniOps};
    case Isa::kAvxVnni:
      return {int8_peak_isa::avxvnni, int8_peak_isa::kAvxVnniOps};
    case Isa::kAvx512:
    case Isa::kAvx2:
      return {int8_peak_isa::avx2, int8_peak_isa::kAvx2Ops};
    case Isa::kPortable:
      break;
  }
#endif
  throw Unsupported(
      concat("int8_peak has no body for '", isa_name(isa), "', expected avx2 or wider"));
}

void check(const Int8PeakOptions& options) {
  if (options.threads < 0) {
    throw InvalidArgument(
        concat("threads is ", options.threads, ", expected >= 1, or 0 for all cores"));
  }
  if (options.passes < 1) {
    throw InvalidArgument(concat("passes is ", options.passes, ", expected >= 1"));
  }
  if (options.rounds < 1) {
    throw InvalidArgument(concat("rounds is ", options.rounds, ", expected >= 1"));
  }
}

}  // namespace

double int8_peak(const Int8PeakOptions& options) {
  check(options);
  const Body body = body_of(options.isa);
  ThreadPool pool(options.threads ? options.threads : physical_cores());
  std::atomic<int32_t> sink{0};  // keeps the compiler from dropping the work
  double best = 0.0;
  for (int pass = 0; pass < options.passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int) { sink.fetch_xor(body.run(options.rounds)); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(body.ops) * static_cast<double>(options.rounds) *
                              pool.threads() / seconds.count());
  }
  return best;
}

}  // namespace tgv
