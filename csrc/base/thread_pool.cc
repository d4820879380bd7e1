#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <utility>

#include "base/errors.h"

namespace tgv {

namespace {
thread_local const ThreadPool* inside = nullptr;  // the pool whose body this thread is running
}

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > 4096) {
    throw InvalidArgument(concat("threads is ", threads, ", expected 1..4096"));
  }
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error& error) {
    const size_t started = workers_.size() + 1;
    stop();  // a thread left joinable would end the process
    throw SystemError(
        concat("only ", started, " of ", threads, " threads could be started: ", error.what()));
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::call(int worker) {
  const ThreadPool* outer = std::exchange(inside, this);
  try {
    (*body_)(worker);
  } catch (...) {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
  inside = outer;
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
    }
    call(worker);
    std::lock_guard lock(mutex_);
    if (--running_ == 0) done_.notify_one();
  }
}

void ThreadPool::run(const std::function<void(int)>& body) {
  if (inside == this) {
    throw InvalidArgument("ThreadPool::run was called from inside a body it is running");
  }
  std::lock_guard turn(turn_);
  {
    std::lock_guard lock(mutex_);
    body_ = &body;
    error_ = nullptr;
    running_ = static_cast<int>(workers_.size());
    ++generation_;
  }
  start_.notify_all();
  call(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return running_ == 0; });
  body_ = nullptr;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::parallel_for(int64_t count, int64_t grain,
                              const std::function<void(int64_t, int64_t)>& body) {
  if (count < 0 || grain < 1) {
    throw InvalidArgument(concat("parallel_for(count=", count, ", grain=", grain,
                                 "), expected count >= 0, grain >= 1"));
  }
  std::atomic<int64_t> next{0};
  run([&](int) {
    while (true) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      body(begin, std::min(count, begin + grain));
    }
  });
}

}  // namespace tgv
