// Between norm.cc and its bodies, one per ISA (norm_body.h). Signatures as in norm.h.
#pragma once

#include <cstdint>

namespace tgv::cpu {

using LayerNormRows = void(float* y, const float* x, const float* weight, const float* bias,
                           int64_t width, float eps, int64_t tokens);
using RmsNormRows = void(float* y, const float* x, const float* weight, int64_t width, float eps,
                         int64_t tokens);
using AddBranchesRows = void(float* x, const float* attention, const float* rms_weight,
                             float rms_eps, const float* mlp, int64_t width, int64_t tokens);

LayerNormRows layer_norm_portable, layer_norm_avx2, layer_norm_avx512;
RmsNormRows rms_norm_portable, rms_norm_avx2, rms_norm_avx512;
AddBranchesRows add_branches_portable, add_branches_avx2, add_branches_avx512;

}  // namespace tgv::cpu
