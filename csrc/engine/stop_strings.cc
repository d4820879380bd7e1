#include "engine/stop_strings.h"

#include <algorithm>

namespace tgv::engine {

StopStrings::StopStrings(const std::vector<std::string>& stops) : stops_(&stops) {
  for (const std::string& stop : stops) kept_ = std::max(kept_, stop.size() - 1);
}

bool StopStrings::put(std::string_view piece) {
  if (stops_->empty() || found_) return found_;
  const size_t before = tail_.size();
  tail_.append(piece);
  for (const std::string& stop : *stops_) {
    // Only what ends in the new piece: the rest was looked at before.
    const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
    found_ = found_ || tail_.find(stop, from) != std::string::npos;
  }
  if (tail_.size() > kept_) tail_.erase(0, tail_.size() - kept_);
  return found_;
}

}  // namespace tgv::engine
