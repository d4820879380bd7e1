// A request as its reader and the engine's thread share it: a queue of events, a flag to cancel.
//
// The reader takes events and sleeps until there are some. The engine's thread puts them and never
// waits: before a step it asks whether there is room for what the step may say, and leaves the
// request out if not. The end is kept apart from the queue, so that it always gets through, without
// memory even.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "engine/clock.h"
#include "engine/events.h"

namespace tgv::engine {

class Request {
 public:
  // samples: how many ends it will have; event_limit: events that may wait to be read, >= 1.
  Request(int64_t id, int64_t samples, Time deadline, int64_t event_limit);

  int64_t id() const { return id_; }
  int64_t event_limit() const { return event_limit_; }
  Time submitted() const { return submitted_; }
  Time deadline() const { return deadline_; }

  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool is_cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // When it is over: at once if it was cancelled, else at its deadline.
  Time over_at() const { return is_cancelled() ? Time::min() : deadline_; }

  // --- the reader ----------------------------------------------------------------------------
  struct Taken {
    std::vector<Event> events;  // empty: none until then
    bool done = false;          // the last of them is a DoneEvent
    bool made_room = false;     // the engine was waiting for it
  };
  Taken take(Time until);

  // --- the engine's thread -------------------------------------------------------------------
  // Whether so many events fit. An empty queue has room for any number, else a limit smaller than
  // one step's events would stop a request for ever.
  bool has_room(int64_t events);
  void put(Event event);
  void end(int64_t sample, Reason reason);  // this sample's, once
  bool has_ended(int64_t sample) const { return ended_[static_cast<size_t>(sample)]; }

  // The end of all samples that have not ended yet, and of the request. Once.
  void finish(Reason reason, std::string message, const Stats& stats) noexcept;

 private:
  void add_end(std::vector<Event>& events);

  const int64_t id_;
  const Time submitted_ = Clock::now();
  const Time deadline_;
  const int64_t event_limit_;
  std::atomic<bool> cancelled_{false};
  std::vector<bool> ended_;  // [samples]; the engine's, the reader's once finished_

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Event> events_;
  bool lacked_room_ = false;
  bool finished_ = false;
  bool delivered_ = false;
  Reason reason_ = Reason::kStop;
  std::string message_;
  Stats stats_;
};

}  // namespace tgv::engine
