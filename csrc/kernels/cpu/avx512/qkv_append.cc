#include "kernels/cpu/lanes16_avx512.h"
// after the vectors it is written over
#include "kernels/cpu/qkv_append_body.h"

namespace tgv::cpu {

void qkv_append_avx512(const QkvAppendParams& params, int64_t head_begin, int64_t head_end) {
  append(params, head_begin, head_end);
}

}  // namespace tgv::cpu
