#include "engine/prefill_share.h"

#include <algorithm>

namespace tgv::engine {

namespace {

constexpr double kFirst = 16, kLeast = 4;
constexpr double kDecodeSteps = 2;               // what a mixed step may last
constexpr double kNewest = 0.25;                 // weight of the newest time in the mean
constexpr double kGrowth = 1.25, kShrink = 0.5;  // in one step, at most: one time says little

}  // namespace

PrefillShare::PrefillShare(int64_t most)
    : most_(most), share_(std::min(kFirst, static_cast<double>(most))) {}

int64_t PrefillShare::tokens() const { return static_cast<int64_t>(share_); }

void PrefillShare::learn(int64_t decoded, int64_t prefilled, double ms) {
  if (decoded == 0) return;
  if (prefilled == 0) {
    decode_ms_ = decode_ms_ == 0 ? ms : decode_ms_ + kNewest * (ms - decode_ms_);
    return;
  }
  // A step that had less to read than its share says nothing about the share.
  if (decode_ms_ == 0 || ms <= 0 || prefilled < tokens()) return;
  const double change = std::clamp(kDecodeSteps * decode_ms_ / ms, kShrink, kGrowth);
  const double most = static_cast<double>(most_);
  share_ = std::clamp(share_ * change, std::min(kLeast, most), most);
}

}  // namespace tgv::engine
