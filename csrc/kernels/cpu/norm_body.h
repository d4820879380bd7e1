// The norms, written once over lanes.h and compiled once per ISA: include this in one .cc per ISA.
#pragma once

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/norm_isa.h"

namespace tgv::cpu {
namespace {

TGV_INLINE float sum_of(const float* x, int64_t width) {
  FourSums sums;
  int64_t at = 0;
  for (; at + kFourLanes <= width; at += kFourLanes) {
    each_of_four(TGV_EACH { sums.of[i] = sums.of[i] + load(x + at + kLanes * i); });
  }
  each_of_four(TGV_EACH {
    if (const int64_t left = width - at - kLanes * i; left > 0) {
      sums.of[i] = sums.of[i] + load_some(x + at + kLanes * i, left < kLanes ? left : kLanes, 0.0f);
    }
  });
  return sums.total();
}

// The sum of (x - middle)^2.
TGV_INLINE float squares_about(const float* x, int64_t width, float middle) {
  const Lanes center = splat(middle);
  FourSums sums;
  int64_t at = 0;
  for (; at + kFourLanes <= width; at += kFourLanes) {
    each_of_four(TGV_EACH {
      const Lanes d = load(x + at + kLanes * i) - center;
      sums.of[i] = sums.of[i] + d * d;
    });
  }
  each_of_four(TGV_EACH {
    if (const int64_t left = width - at - kLanes * i; left > 0) {
      const Lanes d =
          load_some(x + at + kLanes * i, left < kLanes ? left : kLanes, middle) - center;
      sums.of[i] = sums.of[i] + d * d;
    }
  });
  return sums.total();
}

// 1 / sqrt(total / width + eps), rounded to float32 once.
TGV_INLINE float inverse_root(float total, int64_t width, float eps) {
  const double mean = static_cast<double>(total) / static_cast<double>(width);
  return static_cast<float>(1.0 / __builtin_sqrt(mean + static_cast<double>(eps)));
}

TGV_INLINE void layer_norm_rows(float* y, const float* x, const float* weight, const float* bias,
                                int64_t width, float eps, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t, x += width, y += width) {
    const float mean =
        static_cast<float>(static_cast<double>(sum_of(x, width)) / static_cast<double>(width));
    const Lanes center = splat(mean);
    const Lanes scale = splat(inverse_root(squares_about(x, width, mean), width, eps));
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      store(y + i, (load(x + i) - center) * scale * load(weight + i) + load(bias + i));
    }
    if (const int64_t left = width - i; left > 0) {
      const Lanes value = (load_some(x + i, left, 0.0f) - center) * scale;
      store_some(y + i, value * load_some(weight + i, left, 0.0f) + load_some(bias + i, left, 0.0f),
                 left);
    }
  }
}

TGV_INLINE void rms_norm_rows(float* y, const float* x, const float* weight, int64_t width,
                              float eps, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t, x += width, y += width) {
    const Lanes scale = splat(inverse_root(squares_about(x, width, 0.0f), width, eps));
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      store(y + i, load(x + i) * scale * load(weight + i));
    }
    if (const int64_t left = width - i; left > 0) {
      store_some(y + i, load_some(x + i, left, 0.0f) * scale * load_some(weight + i, left, 0.0f),
                 left);
    }
  }
}

TGV_INLINE void add_scaled_row(float* x, const float* attention, const float* weight, float scale,
                               const float* mlp, int64_t width) {
  const Lanes s = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Lanes normed = load(attention + i) * s * load(weight + i);
    store(x + i, load(x + i) + (normed + load(mlp + i)));
  }
  if (const int64_t left = width - i; left > 0) {
    const Lanes normed =
        load_some(attention + i, left, 0.0f) * s * load_some(weight + i, left, 0.0f);
    store_some(x + i, load_some(x + i, left, 0.0f) + (normed + load_some(mlp + i, left, 0.0f)),
               left);
  }
}

TGV_INLINE void add_row(float* x, const float* attention, const float* mlp, int64_t width) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    store(x + i, load(x + i) + (load(attention + i) + load(mlp + i)));
  }
  if (const int64_t left = width - i; left > 0) {
    const Lanes both = load_some(attention + i, left, 0.0f) + load_some(mlp + i, left, 0.0f);
    store_some(x + i, load_some(x + i, left, 0.0f) + both, left);
  }
}

TGV_INLINE void add_branches_rows(float* x, const float* attention, const float* rms_weight,
                                  float rms_eps, const float* mlp, int64_t width, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t, x += width, attention += width, mlp += width) {
    if (rms_weight) {
      const float scale = inverse_root(squares_about(attention, width, 0.0f), width, rms_eps);
      add_scaled_row(x, attention, rms_weight, scale, mlp, width);
    } else {
      add_row(x, attention, mlp, width);
    }
  }
}

}  // namespace
}  // namespace tgv::cpu
