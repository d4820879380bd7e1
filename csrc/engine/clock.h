// Time as the engine counts it: never set back, never compared with a calendar.
#pragma once

#include <chrono>

namespace tgv::engine {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

inline constexpr Time kNever = Time::max();

inline double ms_between(Time from, Time to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// `from` + seconds; kNever where that is further away than the clock can say.
inline Time after(Time from, double seconds) {
  constexpr double kFar = 1e9;  // 31 years: within what 64 bits of nanoseconds hold
  if (!(seconds < kFar)) return kNever;
  return from + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace tgv::engine
