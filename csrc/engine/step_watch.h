// Gives up a step nobody wants any more: when all requests in it are cancelled or past their
// deadlines. A thread that sleeps until the last of the deadlines sets the flag that the decoder
// looks at in every phase.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/clock.h"
#include "engine/request.h"

namespace tgv::engine {

class StepWatch {
 public:
  StepWatch();  // throws SystemError
  ~StepWatch();
  StepWatch(const StepWatch&) = delete;
  StepWatch& operator=(const StepWatch&) = delete;

  // The engine's thread, around a step. The requests stay alive in between.
  void begin(std::span<Request* const> requests);
  void end();
  const std::atomic<bool>& flag() const { return flag_; }

  // Any thread: somebody was cancelled.
  void look_again();

 private:
  void watch();    // the thread's life
  Time over_at();  // when all are over; with mutex_ held

  std::atomic<bool> flag_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request*> requests_;  // of the step that runs
  Time over_at_ = kNever;           // of it
  Time sleeping_until_ = kNever;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace tgv::engine
