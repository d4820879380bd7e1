#include "engine/stop_strings.h"

#include <algorithm>
#include <span>

namespace tgv::engine {

namespace {

// Whether the texts, one after another, end with `end`.
bool end_with(std::span<const std::string_view> texts, std::string_view end) {
  for (size_t i = texts.size(); i-- > 0 && !end.empty();) {
    const size_t count = std::min(texts[i].size(), end.size());
    if (!texts[i].ends_with(end.substr(end.size() - count))) return false;
    end.remove_suffix(count);
  }
  return end.empty();
}

}  // namespace

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

bool StopStrings::would_stop(std::string_view between, std::string_view piece) const {
  for (size_t end = 1; end <= piece.size(); ++end) {
    const std::string_view texts[] = {tail_, between, piece.substr(0, end)};
    if (std::ranges::any_of(*stops_, [&](const auto& stop) { return end_with(texts, stop); })) {
      return true;
    }
  }
  return false;
}

}  // namespace tgv::engine
