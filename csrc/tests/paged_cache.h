// A paged cache of any kind for the tests of attention: sequences over pages in random order, and
// poison (NaN where the kind has one, otherwise the largest level under a NaN scale) in every
// position that no sequence holds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/kv_pages.h"
#include "tests/half.h"

namespace tgv::test {

struct PagedCache {
  cuda::KvKind kind = cuda::KvKind::kF16;
  int heads = 0, head_dim = 0, max_pages = 0;
  std::vector<int32_t> lengths, table;  // table: [S, max_pages]
  std::vector<uint8_t> k, v;
  std::vector<Half> k_scales, v_scales;  // empty unless the kind has scales

  int sequences() const { return static_cast<int>(lengths.size()); }

  // Which row of the pages, one row a head and slot, holds a position.
  size_t row(int sequence, int head, int position) const {
    constexpr int PS = cuda::kPagePositions;
    const int64_t page = table[static_cast<size_t>(sequence * max_pages + position / PS)];
    return static_cast<size_t>((page * heads + head) * PS + position % PS);
  }
  double key(int sequence, int head, int position, int d) const;
  double value(int sequence, int head, int position, int d) const;
};

inline double read_element(cuda::KvKind kind, const std::vector<uint8_t>& elements, size_t i) {
  uint32_t bits = 0;
  const size_t bytes = static_cast<size_t>(cuda::kv_element_bytes(kind));
  std::memcpy(&bits, elements.data() + i * bytes, bytes);
  float value = 0;
  switch (kind) {
    case cuda::KvKind::kF32:
      std::memcpy(&value, &bits, sizeof value);
      return value;
    case cuda::KvKind::kF16:
      return simt::half_to_float(static_cast<uint16_t>(bits));
    case cuda::KvKind::kBF16:
      return simt::bfloat16_to_float(static_cast<uint16_t>(bits));
    case cuda::KvKind::kI8:
      return static_cast<int8_t>(bits);
    case cuda::KvKind::kE4M3:
      return simt::decode(simt::kE4M3, bits);
  }
  return NAN;
}

// Rounded to the kind; an 8-bit element holds about 40 times the value, and its scale the rest.
inline void write_element(cuda::KvKind kind, std::vector<uint8_t>& elements, size_t i,
                          float value) {
  uint32_t bits = 0;
  switch (kind) {
    case cuda::KvKind::kF32:
      std::memcpy(&bits, &value, sizeof bits);
      break;
    case cuda::KvKind::kF16:
      bits = simt::float_to_half(value);
      break;
    case cuda::KvKind::kBF16:
      bits = simt::float_to_bfloat16(value);
      break;
    case cuda::KvKind::kI8:
      bits = static_cast<uint8_t>(
          static_cast<int8_t>(std::lrint(std::min(127.0f, std::max(-128.0f, value * 40)))));
      break;
    case cuda::KvKind::kE4M3:
      bits = simt::encode(simt::kE4M3, value * 40);
      break;
  }
  const size_t bytes = static_cast<size_t>(cuda::kv_element_bytes(kind));
  std::memcpy(elements.data() + i * bytes, &bits, bytes);
}

inline double PagedCache::key(int sequence, int head, int position, int d) const {
  const size_t r = row(sequence, head, position);
  return read_element(kind, k, r * static_cast<size_t>(head_dim) + static_cast<size_t>(d)) *
         (k_scales.empty() ? 1 : from_half(k_scales[r]));
}

inline double PagedCache::value(int sequence, int head, int position, int d) const {
  const size_t r = row(sequence, head, position);
  return read_element(kind, v, r * static_cast<size_t>(head_dim) + static_cast<size_t>(d)) *
         (v_scales.empty() ? 1 : from_half(v_scales[r]));
}

// Normal numbers: keys of deviation 2, values of deviation 1, scales between 1/40 and 2/40.
inline PagedCache make_cache(cuda::KvKind kind, int heads, int head_dim,
                             const std::vector<int32_t>& lengths, std::mt19937& random) {
  constexpr int PS = cuda::kPagePositions;
  std::normal_distribution<float> normal;
  PagedCache c;
  c.kind = kind;
  c.heads = heads;
  c.head_dim = head_dim;
  c.lengths = lengths;
  c.max_pages = (*std::max_element(lengths.begin(), lengths.end()) + PS - 1) / PS + 1;
  const int pages = c.max_pages * c.sequences() + 3;
  std::vector<int32_t> order(static_cast<size_t>(pages));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  c.table.assign(static_cast<size_t>(c.max_pages * c.sequences()), 1 << 30);  // no such page
  const size_t rows = static_cast<size_t>(pages * heads * PS);
  const size_t bytes = rows * static_cast<size_t>(head_dim * cuda::kv_element_bytes(kind));
  c.k.assign(bytes, kind == cuda::KvKind::kI8 ? 0x7f : 0xff);
  c.v = c.k;
  if (cuda::kv_has_scales(kind)) {
    c.k_scales.assign(rows, Half{0x7fff});
    c.v_scales = c.k_scales;
  }
  size_t next = 0;
  for (int s = 0; s < c.sequences(); ++s) {
    const int length = lengths[static_cast<size_t>(s)];
    for (int i = 0; i * PS < length; ++i)
      c.table[static_cast<size_t>(s * c.max_pages + i)] = order[next++];
    for (int h = 0; h < heads; ++h) {
      for (int position = 0; position < length; ++position) {
        const size_t row = c.row(s, h, position);
        for (int d = 0; d < head_dim; ++d) {
          const size_t i = row * static_cast<size_t>(head_dim) + static_cast<size_t>(d);
          write_element(kind, c.k, i, normal(random) * 2);
          write_element(kind, c.v, i, normal(random));
        }
        if (c.k_scales.empty()) continue;
        c.k_scales[row] = to_half(0.025f * (1 + static_cast<float>(random() % 1000) / 1000));
        c.v_scales[row] = to_half(0.025f * (1 + static_cast<float>(random() % 1000) / 1000));
      }
    }
  }
  return c;
}

// Queries have the type of the products: that of f16 and wider pages, otherwise f16.
inline cuda::KvKind query_kind(cuda::KvKind kind) {
  return cuda::kv_has_scales(kind) ? cuda::KvKind::kF16 : kind;
}

inline std::vector<uint8_t> make_queries(cuda::KvKind kind, size_t count, float deviation,
                                         std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<uint8_t> q(count * static_cast<size_t>(cuda::kv_query_bytes(kind)));
  for (size_t i = 0; i < count; ++i)
    write_element(query_kind(kind), q, i, normal(random) * deviation);
  return q;
}

inline constexpr cuda::KvKind kEveryKind[] = {cuda::KvKind::kF32, cuda::KvKind::kF16,
                                              cuda::KvKind::kBF16, cuda::KvKind::kI8,
                                              cuda::KvKind::kE4M3};

}  // namespace tgv::test
