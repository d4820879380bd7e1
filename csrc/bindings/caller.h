// What a thread that calls ops from Python keeps between calls: a pool, because starting threads
// costs as much as a small op, and scratch. Each caller has its own, so calls from several threads
// never wait for each other.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>

#include "base/huge_buffer.h"
#include "base/thread_pool.h"

namespace tgv::bindings {

class Caller {
 public:
  Caller() = default;
  ~Caller();
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  ThreadPool& pool(int threads);  // throws what ThreadPool's constructor throws
  void* scratch(size_t bytes);    // 64-byte aligned, any content; throws SystemError

 private:
  // In the child of a fork the pool's threads do not exist and the pool is abandoned: destroying it
  // would wait for them forever.
  void drop_pool();

  std::unique_ptr<ThreadPool> pool_;
  pid_t owner_ = 0;
  std::unique_ptr<HugeBuffer> scratch_;
};

// That of the calling thread.
Caller& caller();

}  // namespace tgv::bindings
