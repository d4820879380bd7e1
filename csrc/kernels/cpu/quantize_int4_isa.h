// Entry points of quantize_int4_body.h, one per ISA. Groups begin .. end - 1, counted
// row * ceil(K/G) + group; the verdict holds what these found and is not shared between threads.
#pragma once

#include "kernels/cpu/quantize_int4.h"

namespace tgv::cpu {

using QuantizeInt4Groups = void(const QuantizeInt4Params& params, int64_t begin, int64_t end,
                                QuantizeInt4Verdict& verdict);

QuantizeInt4Groups quantize_int4_portable;
QuantizeInt4Groups quantize_int4_avx2;    // only where the CPU has AVX2
QuantizeInt4Groups quantize_int4_avx512;  // only where the CPU has AVX-512 F, BW, VL, DQ

}  // namespace tgv::cpu
