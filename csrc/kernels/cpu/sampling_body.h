// Passes over a row of logits, written once over lanes.h: include this in one .cc per ISA.
#pragma once

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/sampling_isa.h"

namespace tgv::cpu {
namespace {

constexpr float kLowest = -__builtin_inff();

TGV_INLINE int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

float lane_maxima(float* maxima, const float* x, int64_t n) {
  Lanes all = splat(kLowest);
  for (int64_t begin = 0; begin < n; begin += kChunk, maxima += kChunkMaxima) {
    const int64_t end = smaller_of(begin + kChunk, n);
    Lanes top[4] = {splat(kLowest), splat(kLowest), splat(kLowest), splat(kLowest)};
    int64_t at = begin;
    for (; at + kFourLanes <= end; at += kFourLanes) {
      each_of_four(TGV_EACH { top[i] = larger(top[i], load(x + at + kLanes * i)); });
    }
    for (; at < end; at += kLanes) {
      top[0] = larger(top[0], load_some(x + at, smaller_of(end - at, kLanes), kLowest));
    }
    const Lanes of_chunk = larger(larger(top[0], top[1]), larger(top[2], top[3]));
    store(maxima, of_chunk);
    all = larger(all, of_chunk);
  }
  float lanes[kLanes], largest = kLowest;
  store(lanes, all);
  for (const float value : lanes) largest = value > largest ? value : largest;
  return largest;
}

double sum_exp(const float* x, int64_t n, float shift) {
  const Lanes peak = splat(shift);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = smaller_of(begin + kChunk, n);
    FourSums sums;
    int64_t at = begin;
    for (; at + kFourLanes <= end; at += kFourLanes) {
      each_of_four(TGV_EACH {
        sums.of[i] = sums.of[i] + exp_of_negative(load(x + at + kLanes * i) - peak);
      });
    }
    each_of_four(TGV_EACH {
      if (const int64_t left = end - at - kLanes * i; left > 0) {
        const Lanes some = load_some(x + at + kLanes * i, smaller_of(left, kLanes), kLowest);
        sums.of[i] = sums.of[i] + exp_of_negative(some - peak);
      }
    });
    total += static_cast<double>(sums.total());
  }
  return total;
}

uint64_t weigh(float* e, const float* x, int64_t n, float shift, float slope) {
  const Lanes peak = splat(shift), factor = splat(slope);
  uint64_t total = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = smaller_of(begin + kChunk, n);
    for (int64_t i = begin; i < end; i += kLanes) {
      const int64_t count = smaller_of(end - i, kLanes);
      const Lanes some = load_some(x + i, count, shift);
      store_some(e + i, exp_of_negative((some - peak) * factor), count);
    }
    for (int64_t i = begin; i < end; ++i) total += token_weight(e[i]);
  }
  return total;
}

void subtract_both(float* y, const float* x, int64_t n, float first, float second) {
  const Lanes a = splat(first), b = splat(second);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t count = smaller_of(n - i, kLanes);
    store_some(y + i, (load_some(x + i, count, 0.0f) - a) - b, count);
  }
}

int64_t collect(float* values, int32_t* ids, const float* x, int64_t n, float least) {
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kFourLanes) {
    const int64_t end = smaller_of(begin + kFourLanes, n);
    if (end == begin + kFourLanes) {
      Lanes top = load(x + begin);
      each_of_four(TGV_EACH { top = larger(top, load(x + begin + kLanes * i)); });
      if (!any_at_least(top, least)) continue;
    }
    for (int64_t i = begin; i < end; ++i) {  // without a branch: count never passes i
      const float value = x[i];
      values[count] = value;
      ids[count] = static_cast<int32_t>(i);
      count += value >= least;
    }
  }
  return count;
}

constexpr SamplingBody kBody = {lane_maxima, sum_exp, weigh, subtract_both, collect};

}  // namespace
}  // namespace tgv::cpu
