// IEEE half and bfloat16 codes to and from float32, portable: round to nearest, ties to even, NaN
// stays NaN, overflow gives infinity, subnormals are kept.
#pragma once

#include <cstdint>

namespace tgv {

uint16_t float_to_half(float value);
float half_to_float(uint16_t code);
uint16_t float_to_bfloat16(float value);
float bfloat16_to_float(uint16_t code);

}  // namespace tgv
