// 16-bit floats as they lie in memory. Conversions: device/convert.cuh on the device, the caller's
// on the host.
#pragma once

#include <cstdint>

namespace tgv {

struct Half {
  uint16_t bits;
};

}  // namespace tgv
