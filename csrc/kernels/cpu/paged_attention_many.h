// Many tokens (a prompt): the cut of one head is converted to float32 once, K with its 16 keys side
// by side, and used by all tokens: the operations of paged_attention_few.h, with no shuffles. Part
// of paged_attention_body.h.
#pragma once

#include "kernels/cpu/paged_attention_body.h"

namespace tgv::cpu {
namespace {

constexpr int64_t kValueTokens = 64;  // positions of V that lie in L1 together

struct ManyScratch {
  const int64_t padded;  // D in whole vectors
  float* k;              // [kCutTokens / 16][padded][16 keys]
  float* v;              // [kCutTokens][padded]
  float* q;              // [kBlockTokens][padded]
  float* scores;         // [kBlockTokens][kCutTokens]
  float* cut_o;          // [kBlockTokens][padded]
  float* k_factors;      // [kCutTokens]
  float* v_scales;       // [kCutTokens]; int8 only
  Softmax state[kManyTokens];

  ManyScratch(float* memory, int64_t width)
      : padded(width),
        k(memory),
        v(k + kCutTokens * width),
        q(v + kCutTokens * width),
        scores(q + kBlockTokens * width),
        cut_o(scores + kBlockTokens * kCutTokens),
        k_factors(cut_o + kBlockTokens * width),
        v_scales(k_factors + kCutTokens) {}
};

// --- scores -----------------------------------------------------------------------------------
template <int kQ, int kP>
struct Tile {
  Lanes at[kQ][kP];
};

// Lane `kLane` of the 16 partial sums: d = kLane, kLane + 16, ...
template <int kQ, int kP, int kChunks, int kLane>
TGV_INLINE Tile<kQ, kP> lane_dots(const float* q, const float* k, int64_t padded) {
  const int64_t chunks = kChunks ? kChunks : padded / 16;
  const int64_t stride = kChunks ? 16 * kChunks : padded;
  const auto keys = [&](int64_t c, int page) {
    return load(k + page * 16 * stride + 16 * (16 * c + kLane));
  };
  const auto query = [&](int64_t c, int i) { return splat(q[i * stride + 16 * c + kLane]); };
  Tile<kQ, kP> out;
  for (int i = 0; i < kQ; ++i) {
    for (int page = 0; page < kP; ++page) {
      out.at[i][page] = multiply(query(0, i), keys(0, page));
    }
  }
  for (int64_t c = 1; c < chunks; ++c) {
    for (int i = 0; i < kQ; ++i) {
      for (int page = 0; page < kP; ++page) {
        out.at[i][page] = fma(query(c, i), keys(c, page), out.at[i][page]);
      }
    }
  }
  return out;
}

// The tree over the lanes kLane, kLane + kStep, ...: the root is <0, 1>.
template <int kQ, int kP, int kChunks, int kLane, int kStep>
TGV_INLINE Tile<kQ, kP> tree_dots(const float* q, const float* k, int64_t padded) {
  if constexpr (kStep == 16) {
    return lane_dots<kQ, kP, kChunks, kLane>(q, k, padded);
  } else {
    Tile<kQ, kP> a = tree_dots<kQ, kP, kChunks, kLane, 2 * kStep>(q, k, padded);
    const Tile<kQ, kP> b = tree_dots<kQ, kP, kChunks, kLane + kStep, 2 * kStep>(q, k, padded);
    for (int i = 0; i < kQ; ++i) {
      for (int page = 0; page < kP; ++page) a.at[i][page] = add(a.at[i][page], b.at[i][page]);
    }
    return a;
  }
}

// kQ queries against kP pages. Kept out of line: one body of this size is enough.
template <int kQ, int kP, int kChunks>
__attribute__((noinline)) void score_tile(float* scores, const float* q, const float* k,
                                          const float* factors, int64_t padded) {
  const Tile<kQ, kP> dots = tree_dots<kQ, kP, kChunks, 0, 1>(q, k, padded);
  for (int i = 0; i < kQ; ++i) {
    for (int page = 0; page < kP; ++page) {
      store(scores + i * kCutTokens + 16 * page,
            multiply(dots.at[i][page], load(factors + 16 * page)));
    }
  }
}

template <int kP, int kChunks>
TGV_INLINE void score_pages(const ManyScratch& s, int64_t first_query, int64_t queries,
                            int64_t page) {
  const float* k = s.k + page * 16 * s.padded;
  const float* factors = s.k_factors + 16 * page;
  const int64_t end = first_query + queries;
  int64_t i = first_query;
  for (; i + kScoreQueries <= end; i += kScoreQueries) {
    score_tile<kScoreQueries, kP, kChunks>(s.scores + i * kCutTokens + 16 * page,
                                           s.q + i * s.padded, k, factors, s.padded);
  }
  for (; i < end; ++i) {
    score_tile<1, kP, kChunks>(s.scores + i * kCutTokens + 16 * page, s.q + i * s.padded, k,
                               factors, s.padded);
  }
}

// --- values -----------------------------------------------------------------------------------
// o += weights of `count` positions times their rows of V, for kQ queries and kV vectors of D.
template <int kQ, int kV>
__attribute__((noinline)) void add_tile(float* o, const float* weights, const float* v,
                                        int64_t count, int64_t padded) {
  Lanes total[kQ][kV];
  for (int i = 0; i < kQ; ++i) {
    for (int c = 0; c < kV; ++c) total[i][c] = load(o + i * padded + 16 * c);
  }
  for (int64_t key = 0; key < count; ++key) {
    Lanes row[kV];
    for (int c = 0; c < kV; ++c) row[c] = load(v + key * padded + 16 * c);
    for (int i = 0; i < kQ; ++i) {
      const Lanes weight = splat(weights[i * kCutTokens + key]);
      for (int c = 0; c < kV; ++c) total[i][c] = fma(weight, row[c], total[i][c]);
    }
  }
  for (int i = 0; i < kQ; ++i) {
    for (int c = 0; c < kV; ++c) store(o + i * padded + 16 * c, total[i][c]);
  }
}

template <int kQ, int kChunks>
TGV_INLINE void add_values(float* o, const float* weights, const float* v, int64_t count,
                           int64_t padded) {
  if constexpr (kChunks != 0) {
    add_tile<kQ, kChunks>(o, weights, v, count, 16 * kChunks);
  } else {
    int64_t d = 0;
    for (; d + 64 <= padded; d += 64) {
      add_tile<kQ, 4>(o + d, weights, v + d, count, padded);
    }
    for (; d < padded; d += 16) add_tile<kQ, 1>(o + d, weights, v + d, count, padded);
  }
}

// --- one head, up to kManyTokens tokens -------------------------------------------------------
template <KvKind kKind, int kChunks>
struct Many {
  const PagedAttentionParams& p;
  const int64_t head, token_begin, token_end;
  const Pages<kKind> pages{p};
  ManyScratch s;

  Many(const PagedAttentionParams& params, int64_t of_head, int64_t begin, int64_t end,
       float* memory)
      : p(params),
        head(of_head),
        token_begin(begin),
        token_end(end),
        s(memory, (params.head_dim + 15) / 16 * 16) {}

  int64_t limit(int64_t token) const { return p.first_position + token + 1; }
  float* y_row(int64_t token) const { return p.y + (token * p.heads + head) * p.head_dim; }

  TGV_INLINE void convert_k(float* to, const uint8_t* rows) {
    const int64_t row_bytes = p.head_dim * kElementBytes<kKind>;
    for (int64_t c = 0; 16 * c < p.head_dim; ++c) {
      Lanes block[16];
      for (int key = 0; key < 16; ++key) {
        block[key] = chunk<kKind, kChunks != 0>(rows + key * row_bytes, c, p.head_dim);
      }
      transpose(block);
      for (int d = 0; d < 16; ++d) store(to + 16 * (16 * c + d), block[d]);
    }
  }

  TGV_INLINE void convert_v(float* to, const uint8_t* rows) {
    const int64_t row_bytes = p.head_dim * kElementBytes<kKind>;
    for (int key = 0; key < 16; ++key) {
      for (int64_t c = 0; 16 * c < p.head_dim; ++c) {
        store(to + key * s.padded + 16 * c,
              chunk<kKind, kChunks != 0>(rows + key * row_bytes, c, p.head_dim));
      }
    }
  }

  void convert(int64_t first_page, int64_t end_page) {
    for (int64_t page = first_page; page < end_page; ++page) {
      const int64_t i = page - first_page;
      convert_k(s.k + i * 16 * s.padded, pages.k(page, head));
      convert_v(s.v + i * 16 * s.padded, pages.v(page, head));
      store(s.k_factors + 16 * i, pages.k_factors(page, head));
      if constexpr (kKind == KvKind::kI8) {
        store(s.v_scales + 16 * i, from_half(pages.scale_row(p.pages.v_scales, page, head)));
      }
    }
  }

  // Scores of queries 0 .. queries - 1 of the block; of each page those that see some of it.
  void score(int64_t block, int64_t queries, int64_t cut) {
    const int64_t seen = at_most(limit(block + queries - 1) - cut, kCutTokens);
    const int64_t page_count = (seen + 15) / 16;
    const auto first_seeing = [&](int64_t page) {
      const int64_t first = cut + 16 * page - limit(block) + 1;
      return first < 0 ? 0 : first / kScoreQueries * kScoreQueries;
    };
    int64_t page = 0;
    for (; page + kScorePages <= page_count; page += kScorePages) {
      const int64_t first = first_seeing(page);
      score_pages<kScorePages, kChunks>(s, first, queries - first, page);
    }
    for (; page < page_count; ++page) {
      const int64_t first = first_seeing(page);
      score_pages<1, kChunks>(s, first, queries - first, page);
    }
  }

  TGV_INLINE void scale_weights(float* weights, int64_t count) {
    if constexpr (kKind != KvKind::kI8) return;
    for (int64_t i = 0; i < count; i += 16) {
      store(weights + i, multiply(load(weights + i), load(s.v_scales + i)));
    }
  }

  // cut_o of queries first .. first + kQ - 1 from positions begin .. begin + kValueTokens - 1.
  template <int kQ>
  TGV_INLINE void add_some(int64_t block, int64_t first, int64_t cut, int64_t begin) {
    const auto seen = [&](int64_t query) {
      const int64_t count = limit(block + query) - cut - begin;
      return count < 0 ? 0 : at_most(count, kValueTokens);
    };
    float* const o = s.cut_o + first * s.padded;
    const float* weights = s.scores + first * kCutTokens + begin;
    const float* v = s.v + begin * s.padded;
    const int64_t together = seen(first);  // the others see these too
    add_values<kQ, kChunks>(o, weights, v, together, s.padded);
    for (int i = 1; i < kQ; ++i) {
      add_values<1, kChunks>(o + i * s.padded, weights + i * kCutTokens + together,
                             v + together * s.padded, seen(first + i) - together, s.padded);
    }
  }

  void add(int64_t block, int64_t queries, int64_t cut) {
    const int64_t seen = at_most(limit(block + queries - 1) - cut, kCutTokens);
    for (int64_t i = 0; i < queries * s.padded; i += 16) store(s.cut_o + i, splat(0.0f));
    for (int64_t begin = 0; begin < seen; begin += kValueTokens) {
      int64_t query = 0;
      for (; query + kValueQueries <= queries; query += kValueQueries) {
        add_some<kValueQueries>(block, query, cut, begin);
      }
      for (; query < queries; ++query) add_some<1>(block, query, cut, begin);
    }
  }

  // The part that a cut has in tokens block .. block + queries - 1.
  void cut_of(int64_t block, int64_t queries, int64_t cut) {
    for (int64_t i = 0; i < queries; ++i) {
      pad_row(s.q + i * s.padded, p.q + ((block + i) * p.heads + head) * p.head_dim, p.head_dim);
    }
    score(block, queries, cut);
    Softmax of_cut[kBlockTokens];
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t seen = at_most(limit(block + i) - cut, kCutTokens);
      if (seen <= 0) continue;
      of_cut[i] = weigh(s.scores + i * kCutTokens, seen);
      scale_weights(s.scores + i * kCutTokens, seen);
    }
    add(block, queries, cut);
    for (int64_t i = 0; i < queries; ++i) {
      if (limit(block + i) <= cut) continue;
      Softmax& all = s.state[block + i - token_begin];
      if (cut) {
        join(all, y_row(block + i), of_cut[i], s.cut_o + i * s.padded, p.head_dim);
      } else {
        all = of_cut[i];
        unpad_row(y_row(block + i), s.cut_o + i * s.padded, p.head_dim);
      }
    }
  }

  void run() {
    const int64_t last = limit(token_end - 1);
    for (int64_t cut = 0; cut < last; cut += kCutTokens) {
      convert(cut / 16, (at_most(cut + kCutTokens, last) + 15) / 16);
      for (int64_t block = token_begin; block < token_end; block += kBlockTokens) {
        const int64_t queries = at_most(kBlockTokens, token_end - block);
        if (limit(block + queries - 1) > cut) cut_of(block, queries, cut);
      }
    }
    for (int64_t token = token_begin; token < token_end; ++token) {
      finish(y_row(token), y_row(token), s.state[token - token_begin].l, p.head_dim);
    }
  }
};

template <KvKind kKind, int kChunks>
void many_tokens(const PagedAttentionParams& p, const PagedAttentionRange& r, float* memory) {
  for (int64_t head = r.head_begin; head < r.head_end; ++head) {
    for (int64_t begin = r.token_begin; begin < r.token_end; begin += kManyTokens) {
      const int64_t end = at_most(begin + kManyTokens, r.token_end);
      Many<kKind, kChunks>(p, head, begin, end, memory).run();
    }
  }
}

}  // namespace
}  // namespace tgv::cpu
