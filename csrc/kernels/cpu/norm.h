// LayerNorm, RMSNorm, and the sum of a layer's branches, row by row.
//
// What     layer_norm:   y = (x - mean) / sqrt(var + eps) * weight + bias
//          rms_norm:     y = x / sqrt(mean(x^2) + eps) * weight
//          add_branches: x = x + (rms_norm(attention) + mlp), or x + (attention + mlp)
// Math     var = mean((x - mean)^2), in a second pass: no cancellation when |mean| is large.
// Tensors  [T, C] f32, weight and bias [C] f32. y may be x itself, else it overlaps no input.
// Threads  None: rows are independent, and a caller who has threads gives each its rows.
// Traffic  Each input once and the output once; the passes after the first read L1 (C = 2560: 10
//          KB).
// Numerics float32 throughout, without FMA. A sum is four chains of 16 lanes, 64 elements apart,
//          added in one order: its error is below (C/64 + 10) 2^-24 times the sum of magnitudes.
//          Mean and 1 / sqrt are finished in double and rounded once. A row of y depends on the
//          same row of the inputs alone, and all ISAs agree bit for bit.
// Limits   C >= 1, T >= 0, eps > 0. NaN and infinity spoil their own row.
// Oracle   tinygptv_fast.reference.norm (torch, float64).
#pragma once

#include <cstdint>

#include "base/isa.h"

namespace tgv::cpu {

// None of the three checks its arguments. y: [T, C] f32; x: [T, C] f32; weight, bias: [C] f32.
void layer_norm(float* y, const float* x, const float* weight, const float* bias, int64_t width,
                float eps, int64_t tokens, Isa isa);

void rms_norm(float* y, const float* x, const float* weight, int64_t width, float eps,
              int64_t tokens, Isa isa);

// x, attention, mlp: [T, C] f32; rms_weight: [C] f32, null for a plain sum (rms_eps is not read).
void add_branches(float* x, const float* attention, const float* rms_weight, float rms_eps,
                  const float* mlp, int64_t width, int64_t tokens, Isa isa);

}  // namespace tgv::cpu
