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
// Row t of the results is made of row t of the inputs, or of row source_rows[t].
struct NormParams {
  int64_t rows = 0;   // T
  int64_t width = 0;  // C
  NormKind kind = NormKind::kLayer;
  float eps = 0;
  float rms_eps = 0;  // not read without rms_weight

  Half* y = nullptr;                     // [T, C] f16; may be null
  float* y_float = nullptr;              // [T, C] f32; may be null, and is where y is not; may be
                                         // residual itself, without source_rows
  float* sum = nullptr;                  // [T, C] f32; may be null or residual itself
  const float* residual = nullptr;       // [T, C] f32, or [any, C] with source_rows
  const float* attention = nullptr;      // as residual; may be null, with mlp
  const float* mlp = nullptr;            // as residual; may be null, with attention
  const float* rms_weight = nullptr;     // [C] f32; null: a plain sum
  const float* weight = nullptr;         // [C] f32; not read without y or y_float
  const float* bias = nullptr;           // [C] f32; null for kRms
  const int32_t* source_rows = nullptr;  // [T] in device memory; may be null; null with sum
};

// Bytes that must move: every tensor that is there, once, of the inputs T rows.
int64_t norm_bytes(const NormParams& p);

// Empty if the kernel can take the problem, otherwise the reason.
std::string norm_why_not(const NormParams& p);

}  // namespace tgv::cuda
