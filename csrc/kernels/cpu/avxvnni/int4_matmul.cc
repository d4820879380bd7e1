#include "kernels/cpu/int4_matmul_ymm.h"
// after the vectors it is written over
#include "kernels/cpu/int4_matmul_body.h"

namespace tgv::cpu {

void int4_round_avxvnni(const Int4MatmulParams& params, const Int4Pass& pass, int64_t token_block,
                        int64_t tile_begin, int64_t tile_end) {
  round_tokens(params, pass, token_block, tile_begin, tile_end);
}

void int4_rows_avxvnni(const Int4MatmulParams& params, const Int4Pass& pass, int64_t begin,
                       int64_t end) {
  multiply_rows(params, pass, begin, end);
}

}  // namespace tgv::cpu
