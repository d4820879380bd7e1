// A fixed number of threads that run one body at a time. The caller is worker 0.
//
// Small and parked (condition variables): right for loading, quantising and probing. The token loop
// needs a pool that spins briefly before it parks; that one replaces the waiting in here when the
// engine comes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tgv {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // threads >= 1, the caller included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // body(worker) once on each of the threads, worker in [0, threads()). Returns when all have;
  // rethrows the first exception. Calls from several threads take turns. Calling it from inside a
  // body throws InvalidArgument.
  void run(const std::function<void(int worker)>& body);

  // body(begin, end) over [0, count) in pieces of at most `grain`, claimed from a counter. Same
  // rules as run.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  void stop();
  void work(int worker);
  void call(int worker);  // runs the body and keeps the first exception

  std::vector<std::thread> workers_;
  std::mutex turn_;  // held by the caller of run
  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int)>* body_ = nullptr;  // guarded by mutex_, as is all below
  std::exception_ptr error_;
  uint64_t generation_ = 0;
  int running_ = 0;
  bool stopping_ = false;
};

}  // namespace tgv
