#include "kernels/cpu/pairs16_avx512.h"
// after the vectors it is written over
#include "kernels/cpu/paged_attention_body.h"

namespace tgv::cpu {

void paged_attention_avx512(const PagedAttentionParams& params, const PagedAttentionRange& range,
                            void* scratch) {
  attend(params, range, scratch);
}

}  // namespace tgv::cpu
