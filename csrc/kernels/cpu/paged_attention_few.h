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
      const KvPages& layer = pages.p.pages;
      __builtin_prefetch(pages.scale_row(values ? layer.v_scales : layer.k_scales, page, head));
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

// Rows in work: token t of head h is row (h - head_begin) * tokens + t.
struct FewRows {
  int64_t padded;                 // D in whole vectors
  float *q, *o, *cut_o, *scores;  // [rows][padded] three times, [rows][kCutTokens]
  Softmax state[kFewRows];

  FewRows(float* memory, int64_t width)
      : padded(width),
        q(memory),
        o(q + kFewRows * width),
        cut_o(o + kFewRows * width),
        scores(cut_o + kFewRows * width) {}
};

template <KvKind kKind, int kChunks>
struct Few {
  const PagedAttentionParams& p;
  const PagedAttentionRange& r;  // at most kFewRows rows
  const Pages<kKind> pages{p};
  const int64_t tokens = r.token_end - r.token_begin;
  FewRows rows;
  Ahead<kKind> ahead;

  Few(const PagedAttentionParams& params, const PagedAttentionRange& range, float* memory)
      : p(params),
        r(range),
        rows(memory, (params.head_dim + 15) / 16 * 16),
        ahead{pages,
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
        const uint8_t* k = pages.k(page, head);
        const Lanes factors = pages.k_factors(page, head);
        for (int64_t t = 0; t < tokens; ++t) {
          if (limit(t) <= 16 * page) continue;
          const int64_t row = row_of(head, t);
          score_page<kKind, kChunks>(rows.scores + row * kCutTokens + 16 * (page - first_page),
                                     rows.q + row * rows.padded, k, factors, p.head_dim);
        }
      }
    }
  }

  TGV_INLINE void add_cut(int64_t first_page, int64_t end_page) {
    alignas(64) float weights[16];
    for (int64_t page = first_page; page < end_page; ++page) {
      for (int64_t head = r.head_begin; head < r.head_end; ++head) {
        ahead.fetch();
        const uint8_t* v = pages.v(page, head);
        for (int64_t t = 0; t < tokens; ++t) {
          const int64_t count = at_most(limit(t) - 16 * page, 16), row = row_of(head, t);
          if (count <= 0) continue;
          const float* from = rows.scores + row * kCutTokens + 16 * (page - first_page);
          store(weights, pages.v_weights(from, page, head));
          add_page<kKind, kChunks>(rows.cut_o + row * rows.padded, weights, v, count, p.head_dim);
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
        const float* q = p.q + ((r.token_begin + t) * p.heads + head) * p.head_dim;
        pad_row(rows.q + row_of(head, t) * rows.padded, q, p.head_dim);
      }
    }
    for (int64_t i = 0; i < kAheadBytes; i += pages.head_bytes()) ahead.fetch();
    const int64_t last = limit(tokens - 1), end_page = (last + 15) / 16;
    for (int64_t cut = 0; cut < last; cut += kCutTokens) cut_of(cut, end_page);
    for (int64_t head = r.head_begin; head < r.head_end; ++head) {
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t row = row_of(head, t);
        finish(y_row(head, t), rows.o + row * rows.padded, rows.state[row].l, p.head_dim);
      }
    }
  }

  void cut_of(int64_t cut, int64_t end_page) {
    const int64_t first_page = cut / 16, end = at_most(first_page + kCutTokens / 16, end_page);
    const int64_t count = (r.head_end - r.head_begin) * tokens;
    score_cut(first_page, end);
    Softmax of_cut[kFewRows];
    for (int64_t row = 0; row < count; ++row) {
      const int64_t seen = at_most(limit(row % tokens) - cut, kCutTokens);
      clear((cut ? rows.cut_o : rows.o) + row * rows.padded);
      if (seen > 0) of_cut[row] = weigh(rows.scores + row * kCutTokens, seen);
    }
    if (!cut) swap_outputs();
    add_cut(first_page, end);
    if (!cut) swap_outputs();
    for (int64_t row = 0; row < count; ++row) {
      if (limit(row % tokens) <= cut) continue;
      if (!cut) {
        rows.state[row] = of_cut[row];
      } else {
        join(rows.state[row], rows.o + row * rows.padded, of_cut[row],
             rows.cut_o + row * rows.padded, rows.padded);
      }
    }
  }

  // The first cut is added up where the total will be.
  void swap_outputs() {
    float* const o = rows.o;
    rows.o = rows.cut_o;
    rows.cut_o = o;
  }
};

template <KvKind kKind, int kChunks>
void few_tokens(const PagedAttentionParams& p, const PagedAttentionRange& r, float* memory) {
  const int64_t tokens = r.token_end - r.token_begin;
  const int64_t heads = at_most(kFewHeads, kFewRows / tokens);
  for (int64_t head = r.head_begin; head < r.head_end; head += heads) {
    const PagedAttentionRange part{head, at_most(head + heads, r.head_end), r.token_begin,
                                   r.token_end};
    Few<kKind, kChunks>(p, part, memory).run();
  }
}

}  // namespace
}  // namespace tgv::cpu
