#include "kernels/cpu/norm_body.h"

namespace tgv::cpu {

void layer_norm_avx2(float* y, const float* x, const float* weight, const float* bias,
                     int64_t width, float eps, int64_t tokens) {
  layer_norm_rows(y, x, weight, bias, width, eps, tokens);
}

void rms_norm_avx2(float* y, const float* x, const float* weight, int64_t width, float eps,
                   int64_t tokens) {
  rms_norm_rows(y, x, weight, width, eps, tokens);
}

void add_branches_avx2(float* x, const float* attention, const float* rms_weight, float rms_eps,
                       const float* mlp, int64_t width, int64_t tokens) {
  add_branches_rows(x, attention, rms_weight, rms_eps, mlp, width, tokens);
}

}  // namespace tgv::cpu
