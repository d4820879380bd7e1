// Many tokens (a prompt): the cut of one head is converted once, K with its 16 keys side by side,
// and used by all tokens: the operations of paged_attention_few.h, with no shuffles. Part of
// paged_attention_body.h.
#pragma once

#include "kernels/cpu/paged_attention_body.h"

namespace tgv::cpu {
namespace {

constexpr int64_t kValueTokens = 64;  // positions of V that lie in L1 together

// How many positions of a cut the queries of a block see: query 0 `first` (more than there are, or
// less than none, when the cut lies before or behind it), each later one more.
struct Seen {
  int64_t first;

  TGV_INLINE int64_t of(int64_t query) const {
    const int64_t count = first + query;
    return count < 0 ? 0 : at_most(count, kCutTokens);
  }
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

// --- a cut of float pages ---------------------------------------------------------------------
// What Many asks of a kind: all queries, the cut of one head converted, then for blocks of up to
// kBlockTokens queries scores, weights and their sums of V, joined to o.
template <KvKind kKind, int kChunks>
struct FloatCut {
  static constexpr int kQueries = kScoreQueries, kPages = kScorePages;

  const Pages<kKind> pages;
  const int64_t head, head_dim, padded;  // D in whole vectors
  float* const k;                        // [kCutTokens / 16][padded][16 keys]
  float* const v;                        // [kCutTokens][padded]
  float* const q;                        // [kManyTokens][padded]
  float* const o;                        // [kManyTokens][padded] of all cuts
  float* const scores;                   // [kBlockTokens][kCutTokens]
  float* const cut_o;                    // [kBlockTokens][padded]
  float* const k_factors;                // [kCutTokens]

  FloatCut(const PagedAttentionParams& p, int64_t of_head, float* memory)
      : pages{p},
        head(of_head),
        head_dim(p.head_dim),
        padded((p.head_dim + 15) / 16 * 16),
        k(memory),
        v(k + kCutTokens * padded),
        q(v + kCutTokens * padded),
        o(q + kManyTokens * padded),
        scores(o + kManyTokens * padded),
        cut_o(scores + kBlockTokens * kCutTokens),
        k_factors(cut_o + kBlockTokens * padded) {}

  TGV_INLINE void convert_k(float* to, const uint8_t* rows) {
    const int64_t row_bytes = head_dim * kElementBytes<kKind>;
    for (int64_t c = 0; 16 * c < head_dim; ++c) {
      Lanes block[16];
      for (int key = 0; key < 16; ++key) {
        block[key] = chunk<kKind, kChunks != 0>(rows + key * row_bytes, c, head_dim);
      }
      transpose(block);
      for (int d = 0; d < 16; ++d) store(to + 16 * (16 * c + d), block[d]);
    }
  }

  TGV_INLINE void convert_v(float* to, const uint8_t* rows) {
    const int64_t row_bytes = head_dim * kElementBytes<kKind>;
    for (int key = 0; key < 16; ++key) {
      for (int64_t c = 0; 16 * c < head_dim; ++c) {
        store(to + key * padded + 16 * c,
              chunk<kKind, kChunks != 0>(rows + key * row_bytes, c, head_dim));
      }
    }
  }

  // Page `page` becomes page i of the cut.
  void convert(int64_t page, int64_t i) {
    convert_k(k + i * 16 * padded, pages.k(page, head));
    convert_v(v + i * 16 * padded, pages.v(page, head));
    store(k_factors + 16 * i, pages.k_factors(page, head));
  }

  void set_query(int64_t i, const float* row) { pad_row(q + i * padded, row, head_dim); }

  // Queries block + query, ... against pages from `page` on.
  template <int kQ, int kP>
  TGV_INLINE void score(int64_t block, int64_t query, int64_t page) {
    score_tile<kQ, kP, kChunks>(scores + query * kCutTokens + 16 * page,
                                q + (block + query) * padded, k + page * 16 * padded,
                                k_factors + 16 * page, padded);
  }

  // The weights of queries 0 .. queries - 1 of a block.
  void weigh_block(Softmax* out, int64_t queries, const Seen& seen) {
    for (int64_t i = 0; i < queries; ++i) {
      if (seen.of(i)) out[i] = weigh(scores + i * kCutTokens, seen.of(i));
    }
  }

  // cut_o of queries first .. first + kQ - 1 from positions begin .. begin + kValueTokens - 1.
  template <int kQ>
  TGV_INLINE void add_some(int64_t first, int64_t begin, const Seen& seen) {
    const auto count = [&](int64_t query) {
      const int64_t left = seen.of(query) - begin;
      return left < 0 ? 0 : at_most(left, kValueTokens);
    };
    float* const to = cut_o + first * padded;
    const float* weights = scores + first * kCutTokens + begin;
    const float* rows = v + begin * padded;
    const int64_t together = count(first);  // the others see these too
    add_values<kQ, kChunks>(to, weights, rows, together, padded);
    for (int i = 1; i < kQ; ++i) {
      add_values<1, kChunks>(to + i * padded, weights + i * kCutTokens + together,
                             rows + together * padded, count(first + i) - together, padded);
    }
  }

  // by: null for the first cut.
  void add(int64_t block, int64_t queries, const Seen& seen, const Factors* by) {
    for (int64_t i = 0; i < queries * padded; i += 16) store(cut_o + i, splat(0.0f));
    for (int64_t begin = 0; begin < seen.of(queries - 1); begin += kValueTokens) {
      int64_t query = 0;
      for (; query + kValueQueries <= queries; query += kValueQueries) {
        add_some<kValueQueries>(query, begin, seen);
      }
      for (; query < queries; ++query) add_some<1>(query, begin, seen);
    }
    for (int64_t i = 0; i < queries; ++i) {
      float* const to = o + (block + i) * padded;
      const float* from = cut_o + i * padded;
      if (!by) {
        for (int64_t d = 0; d < padded; d += 16) store(to + d, load(from + d));
      } else if (seen.of(i)) {
        join_outputs(to, from, by[i], padded);
      }
    }
  }
};

// --- one head, up to kManyTokens tokens -------------------------------------------------------
template <class Cut>
struct Many {
  const PagedAttentionParams& p;
  const int64_t head, token_begin, tokens;
  Cut s;
  Softmax state[kManyTokens];

  Many(const PagedAttentionParams& params, int64_t of_head, int64_t begin, int64_t end,
       float* memory)
      : p(params),
        head(of_head),
        token_begin(begin),
        tokens(end - begin),
        s(params, of_head, memory) {}

  // Of tokens 0 .. tokens - 1 of this piece.
  int64_t limit(int64_t token) const { return p.first_position + token_begin + token + 1; }
  int64_t row(int64_t token) const { return ((token_begin + token) * p.heads + head) * p.head_dim; }

  // Queries first .. queries - 1 of the block against kP pages.
  template <int kP>
  TGV_INLINE void score_pages(int64_t block, int64_t first, int64_t queries, int64_t page) {
    int64_t i = first;
    for (; i + Cut::kQueries <= queries; i += Cut::kQueries) {
      s.template score<Cut::kQueries, kP>(block, i, page);
    }
    for (; i < queries; ++i) s.template score<1, kP>(block, i, page);
  }

  // Scores of queries 0 .. queries - 1 of the block; of each page those that see some of it.
  void score(int64_t block, int64_t queries, const Seen& seen) {
    const int64_t page_count = (seen.of(queries - 1) + 15) / 16;
    const auto first_seeing = [&](int64_t page) {
      const int64_t first = 16 * page - seen.first + 1;
      return first < 0 ? 0 : first / Cut::kQueries * Cut::kQueries;
    };
    int64_t page = 0;
    for (; page + Cut::kPages <= page_count; page += Cut::kPages) {
      score_pages<Cut::kPages>(block, first_seeing(page), queries, page);
    }
    for (; page < page_count; ++page) score_pages<1>(block, first_seeing(page), queries, page);
  }

  // The part that a cut has in tokens block .. block + queries - 1.
  void cut_of(int64_t block, int64_t queries, int64_t cut) {
    const Seen seen{limit(block) - cut};
    score(block, queries, seen);
    Softmax of_cut[kBlockTokens];
    Factors by[kBlockTokens];
    s.weigh_block(of_cut, queries, seen);
    int64_t i = 0;
    for (; i < queries && !seen.of(i); ++i) by[i] = {1.0f, -0.0f};  // o stays to the bit
    if (cut) {
      for (; i < queries; i += 16) {
        join(state + block + i, of_cut + i, by + i, at_most(queries - i, 16));
      }
    } else {
      for (; i < queries; ++i) state[block + i] = of_cut[i];
    }
    s.add(block, queries, seen, cut ? by : nullptr);
  }

  void convert(int64_t first_page, int64_t end_page) {
    for (int64_t page = first_page; page < end_page; ++page) {
      if (page + 1 < end_page) s.pages.prefetch(page + 1, head);
      s.convert(page, page - first_page);
    }
  }

  void run() {
    for (int64_t token = 0; token < tokens; ++token) s.set_query(token, p.q + row(token));
    const int64_t last = limit(tokens - 1);
    for (int64_t cut = 0; cut < last; cut += kCutTokens) {
      convert(cut / 16, (at_most(cut + kCutTokens, last) + 15) / 16);
      for (int64_t block = 0; block < tokens; block += kBlockTokens) {
        const int64_t queries = at_most(kBlockTokens, tokens - block);
        if (limit(block + queries - 1) > cut) cut_of(block, queries, cut);
      }
    }
    for (int64_t token = 0; token < tokens; ++token) {
      finish(p.y + row(token), s.o + token * s.padded, state[token].l, p.head_dim);
    }
  }
};

template <class Cut>
void many_tokens(const PagedAttentionParams& p, const PagedAttentionRange& r, float* memory) {
  for (int64_t head = r.head_begin; head < r.head_end; ++head) {
    for (int64_t begin = r.token_begin; begin < r.token_end; begin += kManyTokens) {
      const int64_t end = at_most(begin + kManyTokens, r.token_end);
      Many<Cut>(p, head, begin, end, memory).run();
    }
  }
}

}  // namespace
}  // namespace tgv::cpu
