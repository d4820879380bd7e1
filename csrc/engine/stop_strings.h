// Finds stop strings in a stream of bytes that comes in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tgv::engine {

class StopStrings {
 public:
  // `stops` outlives this; none of them is empty.
  explicit StopStrings(const std::vector<std::string>& stops);

  // Adds a piece; true once a stop string has appeared, across pieces or inside one.
  bool put(std::string_view piece);

  // Whether `piece` would complete one after what was put and `between`.
  bool would_stop(std::string_view between, std::string_view piece) const;

 private:
  const std::vector<std::string>* stops_;
  size_t kept_ = 0;   // bytes before a piece that may belong to a stop string: the longest less one
  std::string tail_;  // the last of them
  bool found_ = false;
};

}  // namespace tgv::engine
