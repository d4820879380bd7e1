// Half on the host, for test data. Under nvcc the emulation is not there, so this stands alone on
// simt/numbers.h.
#pragma once

#include "kernels/cuda/numbers.h"
#include "simt/numbers.h"

namespace tgv::test {

inline Half to_half(float value) { return {simt::float_to_half(value)}; }
inline double from_half(Half value) { return simt::half_to_float(value.bits); }

}  // namespace tgv::test
