#include "kernels/cpu/quantize_int4_body.h"
#include "kernels/cpu/quantize_int4_isa.h"

namespace tgv::cpu {

void quantize_int4_avx2(const QuantizeInt4Params& params, int64_t begin, int64_t end,
                        QuantizeInt4Verdict& verdict) {
  quantize_groups(params, begin, end, verdict);
}

}  // namespace tgv::cpu
