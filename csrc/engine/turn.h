// Turns, first come first served, between the engine's iterations and whoever else wants the cores
// for a while.
//
// A plain mutex would do for exclusion, but who unlocks one and locks it again at once gets it
// nearly always: a caller would wait for many steps, or the engine for a whole picture.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace tgv::engine {

class Turn {
 public:
  // Waits for its turn. False: closed, and there is no turn to leave. Throws InvalidArgument if
  // this thread is inside already.
  [[nodiscard]] bool enter();
  void leave();

  int64_t waiting() const;  // for its turn, at this moment

  // Nobody enters any more; those who wait give up. Does not wait for who is inside.
  void close();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_ = 0;     // ticket of the next to come
  uint64_t serving_ = 0;  // ticket of who is inside or may go in
  std::thread::id inside_;
  bool closed_ = false;
};

}  // namespace tgv::engine
