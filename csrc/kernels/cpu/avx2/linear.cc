#include "kernels/cpu/linear_ymm.h"
// after the vectors it is written over
#include "kernels/cpu/linear_float_body.h"
#include "kernels/cpu/linear_round_body.h"
#include "kernels/cpu/linear_rounded_body.h"

namespace tgv::cpu {

void linear_round_avx2(const LinearInput& input, int64_t token_block, int64_t tile_begin,
                       int64_t tile_end) {
  round_tokens(input, token_block, tile_begin, tile_end);
}

void linear_int4_avx2(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                      int64_t begin, int64_t end) {
  multiply_int4(linear, input, output, begin, end);
}

void linear_int8_avx2(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                      int64_t begin, int64_t end) {
  multiply_int8(linear, input, output, begin, end);
}

void linear_bf16_avx2(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                      int64_t begin, int64_t end) {
  multiply_bf16(linear, input, output, begin, end);
}

void linear_f32_avx2(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                     int64_t begin, int64_t end) {
  multiply_f32(linear, input, output, begin, end);
}

}  // namespace tgv::cpu
