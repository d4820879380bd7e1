// A few tokens over int8 pages: the rows of paged_attention_few.h in integers. Part of
// paged_attention_body.h.
#pragma once

#include "kernels/cpu/paged_attention_few.h"
#include "kernels/cpu/paged_attention_int8.h"

namespace tgv::cpu {
namespace {

// scores[0..15] of one row of q, int16 and its step, against a page.
template <int kChunks>
TGV_INLINE void score_pair_page(float* scores, const uint8_t* q, float q_step, const uint8_t* k,
                                Lanes factors, int64_t head_dim) {
  const int64_t width = kChunks ? 16 * kChunks : head_dim;
  Counts dots[16];
  for (int key = 0; key < 16; ++key) {
    dots[key] = no_counts();
    for (int64_t d = 0; d < width; d += 32) {
      const Pairs levels = pairs_of_int8(k + key * width + d, at_most(width - d, 32));
      dots[key] = dot(load_pairs(q + 2 * d), levels, dots[key]);
    }
  }
  store(scores, multiply(multiply(to_float(sums(dots)), splat(q_step)), factors));
}

// o += `pairs` pairs of weights times their rows of V.
template <int kChunks>
TGV_INLINE void add_pair_page(float* o, const uint8_t* weights, const uint8_t* v, int64_t pairs,
                              int64_t head_dim) {
  const int64_t width = kChunks ? 16 * kChunks : head_dim;
  const auto rows = [&](int64_t pair, int64_t d) {
    const uint8_t* row = v + 2 * pair * width + d;
    return interleaved_int8(row, row + width, at_most(width - d, 16));
  };
  if constexpr (kChunks != 0) {
    Counts total[kChunks];
    for (int c = 0; c < kChunks; ++c) total[c] = load_counts(o + 16 * c);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const Pairs weight = splat_pair(weights + 4 * pair);
      for (int c = 0; c < kChunks; ++c) total[c] = dot(weight, rows(pair, 16 * c), total[c]);
    }
    for (int c = 0; c < kChunks; ++c) store_counts(o + 16 * c, total[c]);
  } else {
    for (int64_t d = 0; d < width; d += 16) {
      Counts total = load_counts(o + d);
      for (int64_t pair = 0; pair < pairs; ++pair) {
        total = dot(splat_pair(weights + 4 * pair), rows(pair, d), total);
      }
      store_counts(o + d, total);
    }
  }
}

template <int kChunks>
struct Int8Rows {
  static constexpr KvKind kKvKind = KvKind::kI8;

  const Pages<KvKind::kI8> pages;
  const int64_t head_dim, padded, q_width;  // D in whole vectors of floats and of int16
  uint8_t* const q;                         // [kFewRows][q_width] int16
  float *o, *cut_o;  // [kFewRows][padded] of all cuts and of this one, which is int32 until end_cut
  float* const scores;         // [kFewRows][kCutTokens]
  float q_steps[kFewRows];     // of q
  float steps[kFewRows] = {};  // of weights
  float v_scales[kCutTokens];  // of the cut of a head

  Int8Rows(const PagedAttentionParams& p, float* memory)
      : pages{p},
        head_dim(p.head_dim),
        padded((p.head_dim + 15) / 16 * 16),
        q_width((p.head_dim + 31) / 32 * 32),
        q(reinterpret_cast<uint8_t*>(memory)),
        o(memory + kFewRows * padded),
        cut_o(o + kFewRows * padded),
        scores(cut_o + kFewRows * padded) {}

  void set_query(int64_t row, const float* from) {
    q_steps[row] = round_query(q + 2 * row * q_width, from, head_dim, q_width);
  }

  TGV_INLINE void score(int64_t row, int64_t i, const uint8_t* k, Lanes factors) {
    score_pair_page<kChunks>(scores + row * kCutTokens + 16 * i, q + 2 * row * q_width,
                             q_steps[row], k, factors, head_dim);
  }

  void begin_weights(int64_t head, int64_t first_page, int64_t end_page) {
    for (int64_t page = first_page; page < end_page; ++page) {
      store(v_scales + 16 * (page - first_page),
            from_half(pages.scale_row(pages.p.pages.v_scales, page, head)));
    }
  }
  Softmax weigh_row(int64_t row, int64_t seen) {
    float* const weights = scores + row * kCutTokens;
    Softmax softmax;
    weigh_rounded<1>(&softmax, &steps[row], weights, v_scales, seen);
    return softmax;
  }

  TGV_INLINE void add(int64_t row, int64_t i, const uint8_t* v, int64_t count) {
    const auto* weights = reinterpret_cast<const uint8_t*>(scores + row * kCutTokens) + 32 * i;
    add_pair_page<kChunks>(cut_o + row * padded, weights, v, (count + 1) / 2, head_dim);
  }
  void end_cut(int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
      float* const at = cut_o + row * padded;
      for (int64_t d = 0; d < padded; d += 16)
        store(at + d, scaled(load_counts(at + d), steps[row]));
    }
  }
};

}  // namespace
}  // namespace tgv::cpu
