// A fixed number of threads that run one body at a time, or several phases of it with a barrier
// between each and the next. The caller is worker 0.
//
// Whoever waits (a worker for work, all for the end of a phase) spins for a few microseconds, so
// that the phases of a decoder step follow each other without the kernel, and then parks, so that
// an idle pool costs nothing. Knows nothing of what it runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/gate.h"

namespace tgv {

class ThreadPool {
 public:
  static constexpr int64_t kSpinAuto = -1;
  static constexpr int64_t kDefaultSpinNs = 20'000;

  // threads >= 1, the caller included. spin_ns: how long to spin before parking, at most (see
  // Patience), 0..1e9; kSpinAuto
  // is kDefaultSpinNs, and 0 where there are more threads than CPUs to run them (who spins would
  // keep the one waited for from running). Throws InvalidArgument; SystemError if the threads
  // cannot be had.
  explicit ThreadPool(int threads, int64_t spin_ns = kSpinAuto);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  int64_t spin_ns() const { return spin_ns_; }

  // body(worker) once on each of the threads, worker in [0, threads()). Returns when all have;
  // rethrows the first exception. Calls from several threads take turns. Calling it from inside a
  // body throws InvalidArgument. In a child of fork() the threads do not exist: every call throws
  // SystemError there, and the destructor does nothing.
  void run(const std::function<void(int worker)>& body);

  // body(phase, worker) for phase = 0, 1, ... count - 1: no thread begins a phase before all have
  // ended the one before, and what they wrote is visible. The threads are woken once. After an
  // exception the phase is ended by all, later phases are left out, and the first exception is
  // rethrown. Same rules as run otherwise.
  void run_phases(int count, const std::function<void(int phase, int worker)>& body);

  // The first of `items` pieces of work of this phase that no other worker has; every phase starts
  // at 0. From inside a body only.
  int64_t claim(int64_t items) { return next_.fetch_add(items, std::memory_order_relaxed); }

  // body(begin, end) over [0, count) in pieces of at most `grain`, claimed. Same rules as run.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  using Body = std::function<void(int phase, int worker)>;

  void refuse_bad_caller() const;
  void stop();
  void work(int worker);                               // a thread's life
  void run_all_as(int worker);                         // its part in one run_phases
  void call(const Body& body, int phase, int worker);  // keeps the first exception
  bool end_phase(int worker);                          // the barrier; false: no further phase

  const int threads_;
  const int64_t spin_ns_;
  const uint32_t forks_at_birth_;
  std::vector<Patience> at_barrier_;  // by worker
  std::unique_ptr<std::vector<std::thread>> workers_;

  std::mutex turn_;  // held by the caller of run; guards, with start_ and barrier_, what follows
  const Body* body_ = nullptr;
  int phases_ = 0;
  bool stopping_ = false;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::atomic<bool> failed_{false};

  Gate start_;                                // counts runs
  Gate barrier_;                              // 2 * phases ended so far + (stop after this one)
  alignas(64) std::atomic<int> arrived_{0};   // threads that have ended this phase
  alignas(64) std::atomic<int64_t> next_{0};  // see claim
};

}  // namespace tgv
