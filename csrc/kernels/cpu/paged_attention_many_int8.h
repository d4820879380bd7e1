// Many tokens over int8 pages: the cut of paged_attention_many.h in integers. Part of
// paged_attention_body.h.
#pragma once

#include "kernels/cpu/paged_attention_int8.h"
#include "kernels/cpu/paged_attention_many.h"

namespace tgv::cpu {
namespace {

constexpr int kWeighRows = 4;  // that are weighed together

// kQ queries against kP pages, two d of 16 keys at a time.
template <int kQ, int kP, int kChunks>
__attribute__((noinline)) void score_pair_tile(float* scores, const uint8_t* q,
                                               const float* q_steps, const uint8_t* k,
                                               const float* factors, int64_t padded) {
  const int64_t pairs = kChunks ? 8 * kChunks : padded / 2;
  Counts dots[kQ][kP];
  for (int i = 0; i < kQ; ++i) {
    for (int page = 0; page < kP; ++page) dots[i][page] = no_counts();
  }
  for (int64_t pair = 0; pair < pairs; ++pair) {
    Pairs keys[kP];
    for (int page = 0; page < kP; ++page) keys[page] = load_pairs(k + 64 * (page * pairs + pair));
    for (int i = 0; i < kQ; ++i) {
      const Pairs query = splat_pair(q + 4 * (i * pairs + pair));
      for (int page = 0; page < kP; ++page) dots[i][page] = dot(query, keys[page], dots[i][page]);
    }
  }
  for (int i = 0; i < kQ; ++i) {
    for (int page = 0; page < kP; ++page) {
      const Lanes x = multiply(to_float(dots[i][page]), splat(q_steps[i]));
      store(scores + i * kCutTokens + 16 * page, multiply(x, load(factors + 16 * page)));
    }
  }
}

// The sums of `pairs` pairs of weights times their rows of V, for kQ queries and kV vectors, become
// o (by null) or join it.
template <int kQ, int kV>
__attribute__((noinline)) void add_pair_tile(float* o, const uint8_t* weights, const float* steps,
                                             const Factors* by, const uint8_t* v, int64_t pairs,
                                             int64_t padded) {
  Counts total[kQ][kV];
  for (int i = 0; i < kQ; ++i) {
    for (int c = 0; c < kV; ++c) total[i][c] = no_counts();
  }
  for (int64_t pair = 0; pair < pairs; ++pair) {
    Pairs rows[kV];
    for (int c = 0; c < kV; ++c) rows[c] = load_pairs(v + 4 * (pair * padded + 16 * c));
    for (int i = 0; i < kQ; ++i) {
      const Pairs weight = splat_pair(weights + 4 * (i * kCutTokens + pair));
      for (int c = 0; c < kV; ++c) total[i][c] = dot(weight, rows[c], total[i][c]);
    }
  }
  for (int i = 0; i < kQ; ++i) {
    for (int c = 0; c < kV; ++c) {
      float* const to = o + i * padded + 16 * c;
      Lanes sum = scaled(total[i][c], steps[i]);
      if (by) sum = fma(load(to), splat(by[i].a), multiply(sum, splat(by[i].b)));
      store(to, sum);
    }
  }
}

template <int kChunks>
struct Int8Cut {
  static constexpr int kQueries = kPairScoreQueries, kPages = kPairScorePages;

  const Pages<KvKind::kI8> pages;
  const int64_t head, head_dim, padded;  // D in whole vectors
  uint8_t* const k;                      // [kCutTokens / 16][padded / 2][16 keys][2] int16
  uint8_t* const v;                      // [kCutTokens / 2][padded][2] int16
  uint8_t* const q;                      // [kManyTokens][padded] int16
  float* const o;                        // [kManyTokens][padded] of all cuts
  float* const scores;                   // [kBlockTokens][kCutTokens]
  float* const k_factors;                // [kCutTokens]
  float* const v_scales;                 // [kCutTokens]
  float q_steps[kManyTokens], steps[kBlockTokens];  // of q and of weights

  Int8Cut(const PagedAttentionParams& p, int64_t of_head, float* memory)
      : pages{p},
        head(of_head),
        head_dim(p.head_dim),
        padded((p.head_dim + 15) / 16 * 16),
        k(reinterpret_cast<uint8_t*>(memory)),
        v(k + 2 * kCutTokens * padded),
        q(v + 2 * kCutTokens * padded),
        o(reinterpret_cast<float*>(q + 2 * kManyTokens * padded)),
        scores(o + kManyTokens * padded),
        k_factors(scores + kBlockTokens * kCutTokens),
        v_scales(k_factors + kCutTokens) {}

  TGV_INLINE void convert_k(uint8_t* to, const uint8_t* rows) {
    for (int64_t d = 0; d < head_dim; d += 32) {
      const int64_t n = at_most(head_dim - d, 32);
      Pairs block[16];
      for (int key = 0; key < 16; ++key) block[key] = pairs_of_int8(rows + key * head_dim + d, n);
      transpose(block);
      const int64_t pairs = at_most(padded - d, 32) / 2;
      for (int64_t i = 0; i < pairs; ++i) store_pairs(to + 64 * (d / 2 + i), block[i]);
    }
  }

  TGV_INLINE void convert_v(uint8_t* to, const uint8_t* rows) {
    for (int64_t key = 0; key < 16; key += 2) {
      const uint8_t* row = rows + key * head_dim;
      for (int64_t d = 0; d < head_dim; d += 16) {
        store_pairs(to + 4 * (key / 2 * padded + d),
                    interleaved_int8(row + d, row + head_dim + d, at_most(head_dim - d, 16)));
      }
    }
  }

  void convert(int64_t page, int64_t i) {
    convert_k(k + i * 32 * padded, pages.k(page, head));
    convert_v(v + i * 32 * padded, pages.v(page, head));
    store(k_factors + 16 * i, pages.k_factors(page, head));
    store(v_scales + 16 * i, from_half(pages.scale_row(pages.p.pages.v_scales, page, head)));
  }

  void set_query(int64_t i, const float* row) {
    q_steps[i] = round_query(q + 2 * i * padded, row, head_dim, padded);
  }

  template <int kQ, int kP>
  TGV_INLINE void score(int64_t block, int64_t query, int64_t page) {
    score_pair_tile<kQ, kP, kChunks>(scores + query * kCutTokens + 16 * page,
                                     q + 2 * (block + query) * padded, q_steps + block + query,
                                     k + 32 * page * padded, k_factors + 16 * page, padded);
  }

  void weigh_block(Softmax* out, int64_t queries, const Seen& seen) {
    int64_t i = 0;
    for (; i < queries && !seen.of(i); ++i) weigh_nothing(i);
    for (; i + kWeighRows <= queries; i += kWeighRows) weigh_some<kWeighRows>(out, i, seen);
    for (; i < queries; ++i) weigh_some<1>(out, i, seen);
  }

  template <int kRows>
  TGV_INLINE void weigh_some(Softmax* out, int64_t i, const Seen& seen) {
    weigh_rounded<kRows>(out + i, steps + i, scores + i * kCutTokens, v_scales, seen.of(i));
  }

  // Its neighbours in a tile may see what it does not.
  void weigh_nothing(int64_t i) {
    static_assert(kPairValueQueries <= 16);
    to_int16(scores + i * kCutTokens, splat(0.0f));
    steps[i] = 0.0f;
  }

  // o of queries first .. first + kQ - 1 of the block.
  template <int kQ>
  TGV_INLINE void add_some(int64_t block, int64_t first, const Seen& seen, const Factors* by) {
    const int64_t pairs = (seen.of(first + kQ - 1) + 1) / 2;  // what is not seen weighs 0
    if (!pairs) return;
    float* const to = o + (block + first) * padded;
    const auto* weights = reinterpret_cast<const uint8_t*>(scores + first * kCutTokens);
    const Factors* some = by ? by + first : nullptr;
    const float* step = steps + first;
    if constexpr (kChunks != 0) {
      add_pair_tile<kQ, kChunks>(to, weights, step, some, v, pairs, padded);
    } else {
      int64_t d = 0;
      for (; d + 64 <= padded; d += 64) {
        add_pair_tile<kQ, 4>(to + d, weights, step, some, v + 4 * d, pairs, padded);
      }
      for (; d < padded; d += 16) {
        add_pair_tile<kQ, 1>(to + d, weights, step, some, v + 4 * d, pairs, padded);
      }
    }
  }

  void add(int64_t block, int64_t queries, const Seen& seen, const Factors* by) {
    int64_t query = 0;
    for (; query + kPairValueQueries <= queries; query += kPairValueQueries) {
      add_some<kPairValueQueries>(block, query, seen, by);
    }
    for (; query < queries; ++query) add_some<1>(block, query, seen, by);
  }
};

}  // namespace
}  // namespace tgv::cpu
