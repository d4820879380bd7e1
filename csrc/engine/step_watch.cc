#include "engine/step_watch.h"

#include <algorithm>
#include <system_error>

#include "base/errors.h"

namespace tgv::engine {

StepWatch::StepWatch() {
  try {
    thread_ = std::thread([this] { watch(); });
  } catch (const std::system_error& error) {
    throw SystemError(
        concat("the thread that watches deadlines cannot be started: ", error.what()));
  }
}

StepWatch::~StepWatch() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Time StepWatch::over_at() {
  if (requests_.empty()) return kNever;
  Time last = Time::min();
  for (const Request* request : requests_) last = std::max(last, request->over_at());
  return last;
}

void StepWatch::begin(std::span<Request* const> requests) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    requests_.assign(requests.begin(), requests.end());
    over_at_ = over_at();
    flag_.store(over_at_ <= Clock::now(), std::memory_order_relaxed);
    // It sleeps until some time not later than this already, mostly: it wakes, looks and sleeps on.
    wake = over_at_ < sleeping_until_;
  }
  if (wake) changed_.notify_all();
}

void StepWatch::end() {
  std::lock_guard lock(mutex_);
  requests_.clear();
  over_at_ = kNever;
}

void StepWatch::look_again() {
  std::lock_guard lock(mutex_);
  over_at_ = over_at();
  if (over_at_ <= Clock::now()) flag_.store(true, std::memory_order_relaxed);
}

void StepWatch::watch() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    if (over_at_ != kNever && over_at_ <= Clock::now()) {
      flag_.store(true, std::memory_order_relaxed);
      over_at_ = kNever;  // done with this step
    }
    sleeping_until_ = over_at_;
    if (over_at_ == kNever) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, over_at_);
    }
  }
}

}  // namespace tgv::engine
