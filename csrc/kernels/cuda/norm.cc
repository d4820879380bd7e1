#include "kernels/cuda/norm.h"

#include "base/errors.h"

namespace tgv::cuda {

int64_t norm_bytes(const NormParams& p) {
  const bool normed = p.y || p.y_float;
  const int64_t per_element =
      4 + (p.attention ? 8 : 0) + (p.sum ? 4 : 0) + (p.y ? 2 : 0) + (p.y_float ? 4 : 0);
  const int64_t vectors = (p.rms_weight ? 1 : 0) + (normed ? 1 : 0) + (normed && p.bias ? 1 : 0);
  return p.width * (p.rows * per_element + vectors * 4) + (p.source_rows ? 4 * p.rows : 0);
}

std::string norm_why_not(const NormParams& p) {
  if (p.width < 4 || p.width > kNormMaxWidth || p.width % 4) {
    return concat("C is ", p.width, ", expected a multiple of 4 in 4..", kNormMaxWidth);
  }
  if (p.rows < 1 || p.rows > INT32_MAX) return concat("T is ", p.rows, ", expected 1..2^31-1");
  if (!p.residual) return "residual is null";
  const bool normed = p.y || p.y_float;
  if (!normed && !p.sum) return "y and sum are both null";
  if (p.y && p.y_float) return "y and y_float are both there";
  if (p.sum && p.source_rows) return "sum has the rows of residual, source_rows chooses others";
  if (!p.attention != !p.mlp) return "attention and mlp go together, one of them is null";
  if (p.rms_weight && !p.attention) return "rms_weight needs attention";
  if (p.rms_weight && !(p.rms_eps > 0)) return concat("rms_eps is ", p.rms_eps, ", expected > 0");
  if (normed && !p.weight) return "y needs weight";
  if (normed && !(p.eps > 0)) return concat("eps is ", p.eps, ", expected > 0");
  if (normed && !p.bias != (p.kind == NormKind::kRms)) {
    return p.bias ? "RMSNorm has no bias" : "LayerNorm needs bias";
  }
  if (reinterpret_cast<uintptr_t>(p.y) % 8) return "y is not 8-byte aligned";
  for (const float* pointer :
       {static_cast<const float*>(p.sum), static_cast<const float*>(p.y_float), p.residual,
        p.attention, p.mlp, p.rms_weight, p.weight, p.bias}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16) return "a float tensor is not 16-byte aligned";
  }
  return "";
}

}  // namespace tgv::cuda
