// Matrices as they are stored, into the order that the bodies of linear.h stream.
#include <algorithm>
#include <cstring>

#include "base/float16.h"
#include "kernels/cpu/linear.h"

namespace tgv::cpu {

namespace {

// 16 rows by 32 k of levels. Levels past K are 0: the activations there are 0, too.
void pack_int4_tile(uint8_t* tile, const LinearShape& shape, const Int4Source& source,
                    int64_t block, int64_t t) {
  const int64_t K = shape.columns, row_bytes = (K + 1) / 2;
  const int64_t first = 16 * t, count = std::min<int64_t>(16, row_bytes - first);
  for (int64_t r = 0; r < 16; ++r) {
    const int64_t row = 16 * block + r;
    uint8_t levels[16] = {};  // low nibble = even k
    if (row < shape.rows) {
      std::memcpy(levels, source.qweight + row * row_bytes + first, static_cast<size_t>(count));
      if (K % 2 && first + count == row_bytes) levels[count - 1] &= 15;
    }
    for (int64_t k = 0; k < 16; k += 2) {
      const uint8_t a = levels[k / 2], b = levels[k / 2 + 8];  // k and k + 16
      uint8_t* out = tile + 64 * (k / 4) + 4 * r + k % 4;
      out[0] = static_cast<uint8_t>((a & 15) | (b & 15) << 4);
      out[1] = static_cast<uint8_t>(a >> 4 | (b & 0xf0));
    }
  }
}

void pack_int4_block(const LinearShape& shape, uint8_t* packed, const Int4Source& source,
                     int64_t block) {
  uint8_t* base = packed + block * shape.block_bytes();
  std::memset(base, 0, static_cast<size_t>(shape.block_bytes()));
  const int64_t groups = shape.groups(), tiles_of_group = shape.group_size / 32;
  const int64_t rows = std::min<int64_t>(16, shape.rows - 16 * block);
  for (int64_t g = 0; g < groups; ++g) {
    uint8_t* head = base + g * shape.group_bytes();
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = 16 * block + r;
      std::memcpy(head + 2 * r, source.scales + row * groups + g, 2);
      if (shape.symmetric) continue;
      const uint8_t both = source.zeros[row * ((groups + 1) / 2) + g / 2];
      head[32 + r] = g % 2 ? both >> 4 : both & 15;
    }
    const int64_t last = std::min((g + 1) * tiles_of_group, shape.tiles());
    for (int64_t t = g * tiles_of_group; t < last; ++t) {
      uint8_t* tile = head + shape.head_bytes() + 256 * (t - g * tiles_of_group);
      pack_int4_tile(tile, shape, source, block, t);
    }
  }
}

void pack_int8_block(const LinearShape& shape, uint8_t* packed, const int8_t* qweight,
                     const float* scales, int64_t block) {
  uint8_t* base = packed + block * shape.block_bytes();
  const int64_t K = shape.columns, rows = std::min<int64_t>(16, shape.rows - 16 * block);
  std::memset(base, 0, 64);
  std::memcpy(base, scales + 16 * block, static_cast<size_t>(rows) * sizeof(float));
  std::memset(base + 64, 128, static_cast<size_t>(512 * shape.tiles()));  // zeros
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = qweight + (16 * block + r) * K;
    for (int64_t k = 0; k < K; ++k) {
      base[64 + 64 * (k / 4) + 4 * r + k % 4] = static_cast<uint8_t>(row[k] + 128);
    }
  }
}

// Codes are float32 bits or bf16, read by `code(n, k)`.
template <class Element, class Code>
void pack_floats(const LinearShape& shape, uint8_t* packed, int64_t begin, int64_t end,
                 const Code& code) {
  constexpr int64_t kStep = 4 / sizeof(Element);  // k in 64 bytes
  for (int64_t block = begin; block < end; ++block) {
    uint8_t* base = packed + block * shape.block_bytes();
    std::memset(base, 0, static_cast<size_t>(shape.block_bytes()));
    const int64_t rows = std::min<int64_t>(16, shape.rows - 16 * block);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < shape.columns; ++k) {
        const Element element = code((16 * block + r) * shape.columns + k);
        std::memcpy(base + 64 * (k / kStep) + 4 * r + 2 * (k % kStep), &element, sizeof(element));
      }
    }
  }
}

}  // namespace

void linear_pack_int4(const LinearShape& shape, uint8_t* packed, const Int4Source& source,
                      int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) pack_int4_block(shape, packed, source, block);
}

void linear_pack_int8(const LinearShape& shape, uint8_t* packed, const int8_t* qweight,
                      const float* scales, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    pack_int8_block(shape, packed, qweight, scales, block);
  }
}

void linear_pack_f32(const LinearShape& shape, uint8_t* packed, const float* weights, int64_t begin,
                     int64_t end) {
  if (shape.kind == WeightKind::kF32) {
    pack_floats<float>(shape, packed, begin, end, [&](int64_t i) { return weights[i]; });
  } else {
    pack_floats<uint16_t>(shape, packed, begin, end,
                          [&](int64_t i) { return float_to_bfloat16(weights[i]); });
  }
}

void linear_pack_bf16(const LinearShape& shape, uint8_t* packed, const uint16_t* weights,
                      int64_t begin, int64_t end) {
  if (shape.kind == WeightKind::kF32) {
    pack_floats<float>(shape, packed, begin, end,
                       [&](int64_t i) { return bfloat16_to_float(weights[i]); });
  } else {
    pack_floats<uint16_t>(shape, packed, begin, end, [&](int64_t i) { return weights[i]; });
  }
}

}  // namespace tgv::cpu
