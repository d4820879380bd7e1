#include "kernels/cpu/sampling_body.h"

namespace tgv::cpu {

SamplingBody sampling_body_avx512() { return kBody; }

}  // namespace tgv::cpu
