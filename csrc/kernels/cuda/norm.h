// The sum of a layer's branches and the norm that follows it, row by row: the problem and when the
// kernel can take it. Host code only; the kernel is norm.cuh.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

enum class NormKind { kLayer, kRms };

inline constexpr int64_t kNormMaxWidth = 8192;

// x   = residual + (attention / sqrt(mean(attention^2) + rms_eps) * rms_weight + mlp)
//       residual + (attention + mlp) without rms_weight; residual itself without branches
// sum = x
// y   = (x - mean) / sqrt(var + eps) * weight + bias     kLayer
//       x / sqrt(mean(x^2) + eps) * weight               kRms
struct NormParams {
  int64_t rows = 0;   // T
  int64_t width = 0;  // C
  NormKind kind = NormKind::kLayer;
  float eps = 0;
  float rms_eps = 0;  // not read without rms_weight

  Half* y = nullptr;                  // [T, C] f16; may be null: only the sum is wanted
  float* sum = nullptr;               // [T, C] f32; may be null or residual itself
  const float* residual = nullptr;    // [T, C] f32
  const float* attention = nullptr;   // [T, C] f32; may be null, with mlp
  const float* mlp = nullptr;         // [T, C] f32; may be null, with attention
  const float* rms_weight = nullptr;  // [C] f32; null: a plain sum
  const float* weight = nullptr;      // [C] f32; not read without y
  const float* bias = nullptr;        // [C] f32; null for kRms
};

// Bytes that must move: every tensor that is there, once.
int64_t norm_bytes(const NormParams& p);

// Empty if the kernel can take the problem, otherwise the reason.
std::string norm_why_not(const NormParams& p);

}  // namespace tgv::cuda
