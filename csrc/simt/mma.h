// The tensor core and its loads, with the fragment layouts of the PTX manual. Groups of four lanes:
// lane = 4 g + t.
//
// Sums are fp32 in ascending k. A tensor core aligns and truncates instead, so results agree within
// a tolerance, not bit for bit; integer products are exact on both.
#pragma once

#include <cstdint>
#include <cstring>

#include "simt/collectives.h"
#include "simt/numbers.h"

namespace simt {

// D[16][8] = A[16][K] B[K][8] + C, K / 2 elements per pair of registers; Accumulator is float or
// int32_t.
//   a[0..3]: rows g, g+8, g, g+8; the first K/2 columns, then the second;  b[0..1]: first and
//   second K/2 rows, column g c, d: rows g, g, g+8, g+8, columns 2t, 2t+1, 2t, 2t+1
template <int K, class Accumulator, class Decode>
void mma_m16n8(Accumulator (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
               const Accumulator (&c)[4], Decode element) {
  constexpr int kPerWord = K / 8;  // elements in a 32-bit register: 2 halves or 4 bytes
  struct In {
    unsigned a[4], b[2];
    Accumulator c[4];
  } in = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
  struct Out {
    Accumulator d[4];
  };
  const Out out = warp_collective<In, Out>(~0u, in, [=](auto slots_in, auto slots_out) {
    Accumulator a_MK[16][K], b_KN[K][8], d_MN[16][8];
    for (int l = 0; l < 32; ++l) {
      const In x = load_slot<In>(slots_in[l]);
      const int g = l / 4, t = l % 4;
      for (int e = 0; e < kPerWord; ++e) {
        const int k = t * kPerWord + e;
        for (int r = 0; r < 4; ++r) a_MK[g + r % 2 * 8][k + r / 2 * (K / 2)] = element(x.a[r], e);
        for (int r = 0; r < 2; ++r) b_KN[k + r * (K / 2)][g] = element(x.b[r], e);
      }
      for (int r = 0; r < 4; ++r) d_MN[g + r / 2 * 8][t * 2 + r % 2] = x.c[r];
    }
    for (int m = 0; m < 16; ++m) {
      for (int k = 0; k < K; ++k) {
        for (int n = 0; n < 8; ++n) d_MN[m][n] += a_MK[m][k] * b_KN[k][n];
      }
    }
    for (int l = 0; l < 32; ++l) {
      Out y;
      for (int r = 0; r < 4; ++r) y.d[r] = d_MN[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
      store_slot(slots_out[l], y);
    }
  });
  std::memcpy(d, out.d, sizeof d);
}

inline float half_element(unsigned word, int e) {
  return half_to_float(static_cast<uint16_t>(word >> 16 * e));
}
inline float bfloat16_element(unsigned word, int e) {
  return bfloat16_to_float(static_cast<uint16_t>(word >> 16 * e));
}
inline int32_t int8_element(unsigned word, int e) { return static_cast<int8_t>(word >> 8 * e); }

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
// Register i of a lane holds two neighbours of matrix i: (row g, columns 2t, 2t+1), or with
// `transposed` (rows 2t, 2t+1, column g).
inline void ldmatrix_x4(unsigned (&out)[4], const void* row, bool transposed) {
  struct Out {
    unsigned r[4];
  };
  const Out result =
      warp_collective<const void*, Out>(~0u, row, [=](auto slots_in, auto slots_out) {
        uint16_t matrix[4][8][8];
        for (int l = 0; l < 32; ++l) {
          std::memcpy(matrix[l / 8][l % 8], load_slot<const void*>(slots_in[l]), 16);
        }
        for (int l = 0; l < 32; ++l) {
          const int g = l / 4, t = l % 4;
          Out y;
          for (int i = 0; i < 4; ++i) {
            const unsigned low = transposed ? matrix[i][2 * t][g] : matrix[i][g][2 * t];
            const unsigned high = transposed ? matrix[i][2 * t + 1][g] : matrix[i][g][2 * t + 1];
            y.r[i] = low | high << 16;
          }
          store_slot(slots_out[l], y);
        }
      });
  std::memcpy(out, result.r, sizeof out);
}

}  // namespace simt
