// A few tokens (decode): K and V are used as they lie in their pages, page after page and head
// after head, which is the order of the memory. Part of paged_attention_body.h.
#pragma once

#include "kernels/cpu/paged_attention_body.h"

namespace tgv::cpu {
namespace {

constexpr int64_t kAheadBytes = 6 << 10;  // of the stream, that are asked for in advance

// Walks the stream a fixed way ahead of the work: of each cut the pages of K, then those of V, of
// each page the heads. Past the end it stays where it is.
template <KvKind kKind>
struct Ahead {
  const Pages<kKind>& pages;
  const int64_t head_begin, head_end, page_end;
  int64_t cut_begin, page, head;  // pages
  bool values = false;

  TGV_INLINE void step() {
    if (++head < head_end) return;
    const int64_t cut_end = at_most(cut_begin + kCutTokens / 16, page_end);
    if (page + 1 < cut_end) {
      ++page;
    } else if (!values) {
      values = true;
      page = cut_begin;
    } else if (cut_end < page_end) {
      values = false;
      page = cut_begin = cut_end;
    } else {
      --head;
      return;
    }
    head = head_begin;
  }

  TGV_INLINE void fetch() {
    const uint8_t* p = values ? pages.v(page, head) : pages.k(page, head);
    for (int64_t i = 0; i < pages.head_bytes(); i += 64) __builtin_prefetch(p + i);
    if constexpr (kKind == KvKind::kI8) {
      if (values) return step();  // its scales were needed with the weights
      __builtin_prefetch(pages.scale_row(pages.p.pages.k_scales, page, head));
      __builtin_prefetch(pages.scale_row(pages.p.pages.v_scales, page, head));
    }
    step();
  }
};

// scores[0..15] of one row of q against a page.
template <KvKind kKind, int kChunks>
TGV_INLINE void score_page(float* scores, const float* q, const uint8_t* k, Lanes factors,
                           int64_t head_dim) {
  const int64_t chunks = kChunks ? kChunks : (head_dim + 15) / 16;
  const int64_t row_bytes = (kChunks ? 16 * kChunks : head_dim) * kElementBytes<kKind>;
  Lanes dots[16];
  for (int key = 0; key < 16; ++key) {
    const uint8_t* row = k + key * row_bytes;
    Lanes dot = multiply(load(q), chunk<kKind, kChunks != 0>(row, 0, head_dim));
    for (int64_t c = 1; c < chunks; ++c) {
      dot = fma(load(q + 16 * c), chunk<kKind, kChunks != 0>(row, c, head_dim), dot);
    }
    dots[key] = dot;
  }
  store(scores, multiply(sums(dots), factors));
}

// o += the first `count` weights times their rows of V.
template <KvKind kKind, int kChunks>
TGV_INLINE void add_page(float* o, const float* weights, const uint8_t* v, int64_t count,
                         int64_t head_dim) {
  const int64_t row_bytes = (kChunks ? 16 * kChunks : head_dim) * kElementBytes<kKind>;
  if constexpr (kChunks != 0) {
    Lanes total[kChunks];
    for (int c = 0; c < kChunks; ++c) total[c] = load(o + 16 * c);
    for (int64_t key = 0; key < count; ++key) {
      const Lanes weight = splat(weights[key]);
      for (int c = 0; c < kChunks; ++c) {
        total[c] = fma(weight, elements<kKind>(v + key * row_bytes, 16 * c), total[c]);
      }
    }
    for (int c = 0; c < kChunks; ++c) store(o + 16 * c, total[c]);
  } else {
    for (int64_t c = 0; 16 * c < head_dim; ++c) {
      Lanes total = load(o + 16 * c);
      for (int64_t key = 0; key < count; ++key) {
        total =
            fma(splat(weights[key]), chunk<kKind, false>(v + key * row_bytes, c, head_dim), total);
      }
      store(o + 16 * c, total);
    }
  }
}

// What Few asks of a kind: rows (token t of head h is row (h - head_begin) * tokens + t) of q, and
// of each cut their scores against a page, weights, and sums of V.
template <KvKind kKind, int kChunks>
struct FloatRows {
  static constexpr KvKind kKvKind = kKind;

  const Pages<kKind> pages;
  const int64_t head_dim, padded;  // D in whole vectors
  float* const q;                  // [kFewRows][padded]
  float *o, *cut_o;                // [kFewRows][padded] of all cuts and of this one
  float* const scores;             // [kFewRows][kCutTokens]

  FloatRows(const PagedAttentionParams& p, float* memory)
      : pages{p},
        head_dim(p.head_dim),
        padded((p.head_dim + 15) / 16 * 16),
        q(memory),
        o(q + kFewRows * padded),
        cut_o(o + kFewRows * padded),
        scores(cut_o + kFewRows * padded) {}

  void set_query(int64_t row, const float* from) { pad_row(q + row * padded, from, head_dim); }

  // Page `i` of the cut for one row.
  TGV_INLINE void score(int64_t row, int64_t i, const uint8_t* k, Lanes factors) {
    score_page<kKind, kChunks>(scores + row * kCutTokens + 16 * i, q + row * padded, k, factors,
                               head_dim);
  }

  void begin_weights(int64_t, int64_t, int64_t) {}
  Softmax weigh_row(int64_t row, int64_t seen) { return weigh(scores + row * kCutTokens, seen); }

  TGV_INLINE void add(int64_t row, int64_t i, const uint8_t* v, int64_t count) {
    add_page<kKind, kChunks>(cut_o + row * padded, scores + row * kCutTokens + 16 * i, v, count,
                             head_dim);
  }
  void end_cut(int64_t) {}
};

template <class Rows>
struct Few {
  const PagedAttentionParams& p;
  const PagedAttentionRange& r;  // at most kFewRows rows
  const int64_t tokens = r.token_end - r.token_begin;
  Rows rows;
  Ahead<Rows::kKvKind> ahead;
  Softmax state[kFewRows];

  Few(const PagedAttentionParams& params, const PagedAttentionRange& range, float* memory)
      : p(params),
        r(range),
        rows(params, memory),
        ahead{rows.pages,
              range.head_begin,
              range.head_end,
              (params.first_position + range.token_end + 15) / 16,
              0,
              0,
              range.head_begin} {}

  int64_t row_of(int64_t head, int64_t t) const { return (head - r.head_begin) * tokens + t; }
  int64_t limit(int64_t t) const { return p.first_position + r.token_begin + t + 1; }
  float* y_row(int64_t head, int64_t t) const {
    return p.y + ((r.token_begin + t) * p.heads + head) * p.head_dim;
  }

  TGV_INLINE void score_cut(int64_t first_page, int64_t end_page) {
    for (int64_t page = first_page; page < end_page; ++page) {
      for (int64_t head = r.head_begin; head < r.head_end; ++head) {
        ahead.fetch();
        const uint8_t* k = rows.pages.k(page, head);
        const Lanes factors = rows.pages.k_factors(page, head);
        for (int64_t t = 0; t < tokens; ++t) {
          if (limit(t) > 16 * page) rows.score(row_of(head, t), page - first_page, k, factors);
        }
      }
    }
  }

  void weigh_cut(Softmax* of_cut, int64_t cut, int64_t first_page, int64_t end_page) {
    for (int64_t head = r.head_begin; head < r.head_end; ++head) {
      rows.begin_weights(head, first_page, end_page);
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t row = row_of(head, t), seen = at_most(limit(t) - cut, kCutTokens);
        clear((cut ? rows.cut_o : rows.o) + row * rows.padded);
        if (seen > 0) of_cut[row] = rows.weigh_row(row, seen);
      }
    }
  }

  TGV_INLINE void add_cut(int64_t first_page, int64_t end_page) {
    for (int64_t page = first_page; page < end_page; ++page) {
      for (int64_t head = r.head_begin; head < r.head_end; ++head) {
        ahead.fetch();
        const uint8_t* v = rows.pages.v(page, head);
        for (int64_t t = 0; t < tokens; ++t) {
          const int64_t count = at_most(limit(t) - 16 * page, 16);
          if (count > 0) rows.add(row_of(head, t), page - first_page, v, count);
        }
      }
    }
  }

  void clear(float* o) const {
    for (int64_t d = 0; d < rows.padded; d += 16) store(o + d, splat(0.0f));
  }

  void run() {
    for (int64_t head = r.head_begin; head < r.head_end; ++head) {
      for (int64_t t = 0; t < tokens; ++t) {
        rows.set_query(row_of(head, t), p.q + ((r.token_begin + t) * p.heads + head) * p.head_dim);
      }
    }
    for (int64_t i = 0; i < kAheadBytes; i += rows.pages.head_bytes()) ahead.fetch();
    const int64_t last = limit(tokens - 1), end_page = (last + 15) / 16;
    for (int64_t cut = 0; cut < last; cut += kCutTokens) cut_of(cut, end_page);
    for (int64_t head = r.head_begin; head < r.head_end; ++head) {
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t row = row_of(head, t);
        finish(y_row(head, t), rows.o + row * rows.padded, state[row].l, p.head_dim);
      }
    }
  }

  void cut_of(int64_t cut, int64_t end_page) {
    const int64_t first_page = cut / 16, end = at_most(first_page + kCutTokens / 16, end_page);
    const int64_t count = (r.head_end - r.head_begin) * tokens;
    score_cut(first_page, end);
    Softmax of_cut[kFewRows];
    weigh_cut(of_cut, cut, first_page, end);
    if (!cut) swap_outputs();
    add_cut(first_page, end);
    rows.end_cut(count);
    if (!cut) swap_outputs();
    for (int64_t row = 0; row < count; ++row) {
      if (limit(row % tokens) <= cut) continue;
      if (!cut) {
        state[row] = of_cut[row];
        continue;
      }
      Factors by;
      join(&state[row], &of_cut[row], &by, 1);
      join_outputs(rows.o + row * rows.padded, rows.cut_o + row * rows.padded, by, rows.padded);
    }
  }

  // The first cut is added up where the total will be.
  void swap_outputs() {
    float* const o = rows.o;
    rows.o = rows.cut_o;
    rows.cut_o = o;
  }
};

template <class Rows>
void few_tokens(const PagedAttentionParams& p, const PagedAttentionRange& r, float* memory) {
  const int64_t tokens = r.token_end - r.token_begin;
  const int64_t heads = at_most(kFewHeads, kFewRows / tokens);
  for (int64_t head = r.head_begin; head < r.head_end; head += heads) {
    const PagedAttentionRange part{head, at_most(head + heads, r.head_end), r.token_begin,
                                   r.token_end};
    Few<Rows>(p, part, memory).run();
  }
}

}  // namespace
}  // namespace tgv::cpu
