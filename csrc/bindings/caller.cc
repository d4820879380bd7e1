#include "bindings/caller.h"

#include <unistd.h>

namespace tgv::bindings {

Caller::~Caller() { drop_pool(); }

ThreadPool& Caller::pool(int threads) {
  if (!pool_ || owner_ != getpid() || pool_->threads() != threads) {
    drop_pool();
    pool_ = std::make_unique<ThreadPool>(threads);
    owner_ = getpid();
  }
  return *pool_;
}

void* Caller::scratch(size_t bytes) {
  if (!scratch_ || scratch_->bytes() < bytes) {
    scratch_.reset();  // before the larger one, so that they never stand side by side
    scratch_ = std::make_unique<HugeBuffer>(bytes);
  }
  return scratch_->data();
}

void Caller::drop_pool() {
  if (owner_ == getpid()) {
    pool_.reset();
  } else {
    (void)pool_.release();
  }
}

Caller& caller() {
  thread_local Caller mine;
  return mine;
}

}  // namespace tgv::bindings
