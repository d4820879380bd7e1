// The int8 arithmetic peak of this machine: the roof over prompts, as the read bandwidth is the
// roof over batch-1 decoding.
//
// What     Chains of multiply-accumulate on registers alone, as int8 kernels of an instruction set
//          do them: vpdpbusd (AVX-512 VNNI, AVX-VNNI), or vpmaddubsw + vpmaddwd + vpaddd (AVX2).
// Work     Two operations (a multiplication, an addition) for each byte of a vector.
// Threads  Each runs its own chains; nothing is shared.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/isa.h"

namespace tgv {

struct Int8PeakOptions {
  int threads = 0;  // 0: physical_cores()
  Isa isa = best_isa();
  int passes = 9;              // the fastest of these is the result
  int64_t rounds = 1'000'000;  // of one pass, 8 or 12 instructions' worth each
};

// Operations per second of all threads together. Throws InvalidArgument, and Unsupported for
// Isa::kPortable, which has no instruction to measure.
double int8_peak(const Int8PeakOptions& options);

}  // namespace tgv
