#include "kernels/cpu/lanes16_avx2.h"
// after the vectors it is written over
#include "kernels/cpu/linear_finish_body.h"

namespace tgv::cpu {

void linear_finish_avx2(const Linear& w, const Target& to, const float* sums, int64_t tokens,
                        int64_t first_row, int blocks) {
  finish(w, to, sums, tokens, first_row, blocks);
}

}  // namespace tgv::cpu
