#include "kernels/cpu/norm.h"

#include "kernels/cpu/norm_body.h"

namespace tgv::cpu {

namespace {

struct Bodies {
  LayerNormRows* layer_norm;
  RmsNormRows* rms_norm;
  AddBranchesRows* add_branches;
};

Bodies bodies_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512Vnni:
    case Isa::kAvx512:
      return {layer_norm_avx512, rms_norm_avx512, add_branches_avx512};
    case Isa::kAvxVnni:
    case Isa::kAvx2:
      return {layer_norm_avx2, rms_norm_avx2, add_branches_avx2};
    case Isa::kPortable:
      break;
  }
#endif
  (void)isa;
  return {layer_norm_portable, rms_norm_portable, add_branches_portable};
}

}  // namespace

void layer_norm_portable(float* y, const float* x, const float* weight, const float* bias,
                         int64_t width, float eps, int64_t tokens) {
  layer_norm_rows(y, x, weight, bias, width, eps, tokens);
}

void rms_norm_portable(float* y, const float* x, const float* weight, int64_t width, float eps,
                       int64_t tokens) {
  rms_norm_rows(y, x, weight, width, eps, tokens);
}

void add_branches_portable(float* x, const float* attention, const float* rms_weight, float rms_eps,
                           const float* mlp, int64_t width, int64_t tokens) {
  add_branches_rows(x, attention, rms_weight, rms_eps, mlp, width, tokens);
}

void layer_norm(float* y, const float* x, const float* weight, const float* bias, int64_t width,
                float eps, int64_t tokens, Isa isa) {
  bodies_of(isa).layer_norm(y, x, weight, bias, width, eps, tokens);
}

void rms_norm(float* y, const float* x, const float* weight, int64_t width, float eps,
              int64_t tokens, Isa isa) {
  bodies_of(isa).rms_norm(y, x, weight, width, eps, tokens);
}

void add_branches(float* x, const float* attention, const float* rms_weight, float rms_eps,
                  const float* mlp, int64_t width, int64_t tokens, Isa isa) {
  bodies_of(isa).add_branches(x, attention, rms_weight, rms_eps, mlp, width, tokens);
}

}  // namespace tgv::cpu
