// Between qkv_append.cc and its bodies, one per ISA (qkv_append_body.h).
#pragma once

#include "kernels/cpu/qkv_append.h"

namespace tgv::cpu {

using QkvAppendBody = void(const QkvAppendParams& params, int64_t head_begin, int64_t head_end);

QkvAppendBody qkv_append_portable, qkv_append_avx2, qkv_append_avx512;

}  // namespace tgv::cpu
