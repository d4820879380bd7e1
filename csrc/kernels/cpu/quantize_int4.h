// int4 quantisation of a matrix with an error-minimising scale per group.
//
// What     For each group of G weights of a row: scale s (float16), zero z and levels q in 0..15
//          that minimise E = sum (w - (q - z) s)^2 over a fixed list of candidates, then twice the
//          least-squares scale of the levels chosen. z = 8 when symmetric (s may be negative).
// Math     The module docstring of python/tinygptv_fast/quantize/int4_search.py has the list.
// Tensors  weight [N, K] f32 in; qweight [N, ceil(K/2)], scales, zeros and three records
//          [N, ceil(K/G)] out. A group may be short at the end of K: it is treated as if zeros
//          followed, which every format represents exactly, so they change no error.
// Threads  Runs of groups, in any order on any thread: a group depends on itself alone.
// Work     One group per lane of a vector, so sums run in ascending k without a reduction. 36 pairs
//          (s, -s) of 15 operations, about 570 in all per vector; memory is read once.
// Limits   G a multiple of 2, at most 128; |w| below 2^64 is not needed: see Verdict.
// Numerics float32, no contraction, same operations in the same order on every ISA: results are
//          equal bit for bit on all of them and to the oracle. Denormals must not be flushed.
// Oracle   tinygptv_fast.quantize.int4_search (torch).
#pragma once

#include <cstdint>

#include "base/isa.h"
#include "base/thread_pool.h"

namespace tgv::cpu {

struct QuantizeInt4Params {
  int64_t rows = 0;     // N >= 1
  int64_t columns = 0;  // K >= 1
  int64_t group_size = 32;
  bool symmetric = true;

  uint8_t* qweight = nullptr;  // [N, ceil(K/2)]; low nibble = even k; odd K pads with the group's z
  uint16_t* scales = nullptr;  // [N, ceil(K/G)] float16 bits
  uint8_t* zeros = nullptr;    // [N, ceil(K/G)] one per byte; null when symmetric
  float* error = nullptr;      // [N, ceil(K/G)] E of the group
  float* norm = nullptr;       // [N, ceil(K/G)] sum w^2
  float* worst = nullptr;      // [N, ceil(K/G)] max |w - (q - z) s|

  const float* weight = nullptr;  // [N, K]

  int64_t groups() const { return (columns + group_size - 1) / group_size; }
};

// Groups (row * ceil(K/G) + group) that cannot be quantised: -1 for none, else the first one. What
// was written for such a group means nothing.
struct QuantizeInt4Verdict {
  int64_t not_finite = -1;  // holds NaN or infinity
  int64_t overflow = -1;    // max|w|/8 (symmetric) or (max - min)/15 is above 65504
};

// Throws InvalidArgument for sizes out of range and for null pointers.
QuantizeInt4Verdict quantize_int4(const QuantizeInt4Params& params, ThreadPool& pool, Isa isa);

}  // namespace tgv::cpu
