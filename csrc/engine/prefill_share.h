// How many prompt tokens a step may read while others decode: so many that the step lasts at most
// about two decode steps. Follows measured times; what a step computes does not depend on it.
#pragma once

#include <cstdint>

namespace tgv::engine {

class PrefillShare {
 public:
  explicit PrefillShare(int64_t most);  // most >= 1: what a step may read when nobody decodes

  int64_t tokens() const;  // of a step with both
  int64_t most() const { return most_; }

  // A step took `ms`, with so many tokens of either kind.
  void learn(int64_t decoded, int64_t prefilled, double ms);

 private:
  const int64_t most_;
  double share_;
  double decode_ms_ = 0;  // of steps that only decode; 0: none seen yet
};

}  // namespace tgv::engine
