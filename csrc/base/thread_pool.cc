#include "base/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/errors.h"
#include "base/topology.h"

namespace tgv {

namespace {

thread_local const ThreadPool* inside = nullptr;  // the pool whose body this thread is running

// Number of fork() calls between the first process with a pool and this one.
std::atomic<uint32_t> forks{0};

uint32_t forks_so_far() {
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  return forks.load(std::memory_order_relaxed);
}

int checked_threads(int threads) {
  if (threads < 1 || threads > 4096) {
    throw InvalidArgument(concat("threads is ", threads, ", expected 1..4096"));
  }
  return threads;
}

int64_t chosen_spin(int threads, int64_t spin_ns) {
  if (spin_ns == ThreadPool::kSpinAuto) {
    const bool enough = static_cast<size_t>(threads) <= affinity_cpus().size();
    return enough ? ThreadPool::kDefaultSpinNs : 0;
  }
  if (spin_ns < 0 || spin_ns > 1'000'000'000) {
    throw InvalidArgument(concat("spin_ns is ", spin_ns, ", expected 0..1e9, or -1 for automatic"));
  }
  return spin_ns;
}

}  // namespace

ThreadPool::ThreadPool(int threads, int64_t spin_ns)
    : threads_(checked_threads(threads)),
      spin_ns_(chosen_spin(threads, spin_ns)),
      forks_at_birth_(forks_so_far()),
      at_barrier_(static_cast<size_t>(threads), Patience(spin_ns_)),
      workers_(std::make_unique<std::vector<std::thread>>()) {
  try {
    for (int i = 1; i < threads; ++i) workers_->emplace_back([this, i] { work(i); });
  } catch (const std::system_error& error) {
    const size_t started = workers_->size() + 1;
    stop();  // a thread left joinable would end the process
    throw SystemError(
        concat("only ", started, " of ", threads, " threads could be started: ", error.what()));
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  if (forks_so_far() != forks_at_birth_) {
    // Handles of threads that are not in this process: neither joined nor detached, so let go.
    (void)workers_.release();
    return;
  }
  stopping_ = true;
  start_.set(start_.value() + 1);
  for (std::thread& worker : *workers_) worker.join();
  workers_->clear();
}

void ThreadPool::refuse_bad_caller() const {
  if (forks_so_far() != forks_at_birth_) {
    throw SystemError(
        concat("this pool of ", threads_,
               " threads was made before fork(), and its threads are not in the child process; "
               "make a new one after the fork"));
  }
  if (inside == this) {
    throw InvalidArgument("ThreadPool::run was called from inside a body it is running");
  }
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  Patience patience(spin_ns_);
  while (true) {
    seen = start_.wait(seen, patience);
    if (stopping_) return;
    run_all_as(worker);
  }
}

void ThreadPool::run_all_as(int worker) {
  // Copies: once the last barrier has opened, the members may belong to the next run already.
  const Body& body = *body_;
  const int phases = phases_;
  for (int phase = 0; phase < phases; ++phase) {
    call(body, phase, worker);
    if (!end_phase(worker)) return;
  }
}

void ThreadPool::call(const Body& body, int phase, int worker) {
  const ThreadPool* outer = std::exchange(inside, this);
  try {
    body(phase, worker);
  } catch (...) {
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
    failed_.store(true, std::memory_order_relaxed);
  }
  inside = outer;
}

bool ThreadPool::end_phase(int worker) {
  const uint32_t old = barrier_.value();  // cannot change before this thread has arrived
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < threads_) {
    return (barrier_.wait(old, at_barrier_[static_cast<size_t>(worker)]) & 1) == 0;
  }
  // The last one decides for all whether there is a next phase: a flag that each read for itself
  // could be set by a fast thread's next phase.
  const uint32_t failed = failed_.load(std::memory_order_relaxed) ? 1 : 0;
  arrived_.store(0, std::memory_order_relaxed);
  next_.store(0, std::memory_order_relaxed);
  barrier_.set((((old >> 1) + 1) << 1) | failed);
  return failed == 0;
}

void ThreadPool::run_phases(int count, const Body& body) {
  refuse_bad_caller();
  if (count < 0) throw InvalidArgument(concat("count is ", count, " phases, expected >= 0"));
  if (count == 0) return;
  std::lock_guard turn(turn_);
  body_ = &body;
  phases_ = count;
  failed_.store(false, std::memory_order_relaxed);
  start_.set(start_.value() + 1);
  run_all_as(0);
  body_ = nullptr;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::run(const std::function<void(int)>& body) {
  run_phases(1, [&](int, int worker) { body(worker); });
}

void ThreadPool::parallel_for(int64_t count, int64_t grain,
                              const std::function<void(int64_t, int64_t)>& body) {
  if (count < 0 || grain < 1) {
    throw InvalidArgument(concat("parallel_for(count=", count, ", grain=", grain,
                                 "), expected count >= 0, grain >= 1"));
  }
  run([&](int) {
    while (true) {
      const int64_t begin = claim(grain);
      if (begin >= count) return;
      body(begin, std::min(count, begin + grain));
    }
  });
}

}  // namespace tgv
