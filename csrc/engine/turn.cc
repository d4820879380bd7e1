#include "engine/turn.h"

#include "base/errors.h"

namespace tgv::engine {

bool Turn::enter() {
  std::unique_lock lock(mutex_);
  if (closed_) return false;
  if (inside_ == std::this_thread::get_id()) {
    throw InvalidArgument("this thread has a turn already and would wait for itself");
  }
  const uint64_t ticket = next_++;
  changed_.wait(lock, [&] { return closed_ || serving_ == ticket; });
  if (closed_) return false;
  inside_ = std::this_thread::get_id();
  return true;
}

void Turn::leave() {
  bool somebody_waits;
  {
    std::lock_guard lock(mutex_);
    ++serving_;
    inside_ = {};
    somebody_waits = serving_ != next_;
  }
  if (somebody_waits) changed_.notify_all();
}

int64_t Turn::waiting() const {
  std::lock_guard lock(mutex_);
  const uint64_t inside = inside_ == std::thread::id() ? 0 : 1;
  return static_cast<int64_t>(next_ - serving_ - inside);
}

void Turn::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

}  // namespace tgv::engine
