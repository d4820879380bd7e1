#include "engine/request.h"

#include <utility>

namespace tgv::engine {

Request::Request(int64_t id, int64_t samples, Time deadline, int64_t event_limit)
    : id_(id),
      deadline_(deadline),
      event_limit_(event_limit),
      ended_(static_cast<size_t>(samples), false) {}

Request::Taken Request::take(Time until) {
  Taken taken;
  std::unique_lock lock(mutex_);
  const auto ready = [&] { return !events_.empty() || finished_; };
  if (until == kNever) {
    changed_.wait(lock, ready);
  } else {
    changed_.wait_until(lock, until, ready);
  }
  if (finished_ && !delivered_) {
    add_end(events_);  // may throw for want of memory: nothing is lost then
    delivered_ = true;
    taken.done = true;
  }
  taken.events.swap(events_);
  taken.made_room = std::exchange(lacked_room_, false);
  return taken;
}

void Request::add_end(std::vector<Event>& events) {
  const size_t before = events.size();
  try {
    for (size_t i = 0; i < ended_.size(); ++i) {
      if (!ended_[i]) events.push_back(EndEvent{static_cast<int32_t>(i), reason_, message_});
    }
    events.push_back(DoneEvent{stats_});
  } catch (...) {
    events.resize(before);
    throw;
  }
}

bool Request::has_room(int64_t events) {
  std::lock_guard lock(mutex_);
  const int64_t waiting = static_cast<int64_t>(events_.size());
  lacked_room_ = waiting > 0 && waiting + events > event_limit_;
  return !lacked_room_;
}

void Request::put(Event event) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  changed_.notify_all();
}

void Request::end(int64_t sample, Reason reason) {
  put(EndEvent{static_cast<int32_t>(sample), reason, ""});
  ended_[static_cast<size_t>(sample)] = true;
}

void Request::finish(Reason reason, std::string message, const Stats& stats) noexcept {
  {
    std::lock_guard lock(mutex_);
    finished_ = true;
    reason_ = reason;
    message_ = std::move(message);
    stats_ = stats;
  }
  changed_.notify_all();
}

}  // namespace tgv::engine
