#include "kernels/cpu/linear_ymm.h"
// after the vectors it is written over
#include "kernels/cpu/linear_rounded_body.h"

namespace tgv::cpu {

void linear_int4_avxvnni(const Linear& linear, const LinearInput& input, float* y, int64_t begin,
                         int64_t end) {
  multiply_int4(linear, input, y, begin, end);
}

void linear_int8_avxvnni(const Linear& linear, const LinearInput& input, float* y, int64_t begin,
                         int64_t end) {
  multiply_int8(linear, input, y, begin, end);
}

}  // namespace tgv::cpu
