#include "kernels/cuda/int4_gemv.h"

#include <algorithm>

#include "base/errors.h"

namespace tgv::cuda {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where in a word the element (register a, half e) of the A fragment lies. Bits 6-9 / 22-25 and 2-5
// / 18-21 of the word serve registers 0 and 1, the same bits of the word rotated right by eight
// serve registers 2 and 3.
constexpr int kField[4][2] = {{6, 22}, {2, 18}, {14, 30}, {10, 26}};

uint32_t fragment_word(const uint8_t* q, int64_t n, int64_t k, int64_t row0, int64_t column0) {
  uint32_t word = 0;
  for (int a = 0; a < 4; ++a) {
    for (int e = 0; e < 2; ++e) {
      const int64_t row = row0 + (a & 1) * 8;
      const int64_t column = column0 + (a >> 1) * 2 + e;
      const uint32_t code = row < n && column < k ? q[row * k + column] & 15u : 0u;
      const int field = kField[a][e];
      word |= code << field;
      if (field == 30) word |= code >> 2;  // the upper two bits wrap to the bottom
    }
  }
  return word;
}

}  // namespace

int64_t int4_gemv_padded_k(int64_t k, int group) {
  const int64_t unit = std::max<int64_t>(kInt4GemvTileColumns, group);
  return ceil_div(k, unit) * unit;
}

int64_t int4_gemv_row_tiles(int64_t n) { return ceil_div(n, kInt4GemvTileRows); }

int64_t int4_gemv_groups(int64_t k, int group) { return int4_gemv_padded_k(k, group) / group; }

int64_t int4_gemv_weight_words(int64_t n, int64_t k, int group) {
  return int4_gemv_row_tiles(n) * kInt4GemvTileRows * int4_gemv_padded_k(k, group) / 8;
}

int64_t int4_gemv_scale_words(int64_t n, int64_t k, int group) {
  return int4_gemv_row_tiles(n) * int4_gemv_groups(k, group) * 8;
}

int64_t int4_gemv_shared_bytes(const Int4GemvParams& p) {
  const int64_t columns_of_sums = p.batch == 1 ? 1 : 8;
  return p.batch * (int4_gemv_padded_k(p.k, p.group) + 32) * 2 +
         int4_gemv_groups(p.k, p.group) * columns_of_sums * 4;
}

int64_t int4_gemv_bytes(const Int4GemvParams& p) {
  const int64_t scales = 4 * int4_gemv_scale_words(p.n, p.k, p.group);
  return 4 * int4_gemv_weight_words(p.n, p.k, p.group) + scales * (p.zeros ? 2 : 1) +
         p.batch * (2 * p.k + (p.y_is_half ? 2 : 4) * p.n) + (p.bias ? 2 * p.n : 0);
}

std::string int4_gemv_why_not(const Int4GemvParams& p, int64_t shared_bytes_per_block) {
  if (p.n < 1 || p.k < 1)
    return concat("the matrix is [N=", p.n, ",K=", p.k, "], expected both >= 1");
  if (p.batch < 1 || p.batch > 8) return concat("batch is ", p.batch, ", expected 1..8");
  if (p.group != 32 && p.group != 64 && p.group != 128) {
    return concat("group is ", p.group, ", expected 32, 64 or 128");
  }
  if (!p.y || !p.x || !p.weights || !p.scales) return "y, x, weights or scales is null";
  if (reinterpret_cast<uintptr_t>(p.weights) % 16) return "weights is not 16-byte aligned";
  const int64_t needed = int4_gemv_shared_bytes(p) + kInt4GemvStaticSharedBytes;
  if (needed > shared_bytes_per_block) {
    return concat("K=", p.k, " at batch ", p.batch, " needs ", needed,
                  " bytes of shared memory, a block has ", shared_bytes_per_block);
  }
  return "";
}

void int4_gemv_pack_weights(uint32_t* packed, const uint8_t* q, int64_t n, int64_t k, int group) {
  const int64_t column_tiles = int4_gemv_padded_k(k, group) / kInt4GemvTileColumns;
  for (int64_t tile = 0; tile < int4_gemv_row_tiles(n) * column_tiles; ++tile) {
    for (int lane = 0; lane < 32; ++lane) {
      const int64_t row = tile / column_tiles * kInt4GemvTileRows + lane / 4;
      for (int step = 0; step < 4; ++step) {
        const int64_t column = tile % column_tiles * kInt4GemvTileColumns + step / 2 * 32 +
                               lane % 4 * 8 + step % 2 * 4;
        *packed++ = fragment_word(q, n, k, row, column);
      }
    }
  }
}

void int4_gemv_pack_groups(uint32_t* packed, const Half* values, int64_t n, int64_t k, int group) {
  const int64_t present = ceil_div(k, group);
  const auto value = [&](int64_t row, int64_t g) -> uint32_t {
    return row < n && g < present ? values[row * present + g].bits : 0u;
  };
  for (int64_t tile = 0; tile < int4_gemv_row_tiles(n); ++tile) {
    for (int64_t g = 0; g < int4_gemv_groups(k, group); ++g) {
      for (int r = 0; r < 8; ++r) {
        const int64_t row = tile * kInt4GemvTileRows + r;
        *packed++ = value(row, g) | value(row + 8, g) << 16;
      }
    }
  }
}

}  // namespace tgv::cuda
