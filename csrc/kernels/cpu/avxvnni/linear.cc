#include "kernels/cpu/linear_ymm.h"
// after the vectors it is written over
#include "kernels/cpu/linear_rounded_body.h"

namespace tgv::cpu {

void linear_int4_avxvnni(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                         int64_t begin, int64_t end) {
  multiply_int4(linear, input, output, begin, end);
}

void linear_int8_avxvnni(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                         int64_t begin, int64_t end) {
  multiply_int8(linear, input, output, begin, end);
}

}  // namespace tgv::cpu
