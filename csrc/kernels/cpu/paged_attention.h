// Causal attention of the tokens of one sequence over its pages of K and V.
//
// What     y[t,h] = sum over positions i <= first_position + t of w_i v[i,h], w the softmax of
//          scale * q[t,h] . k[i,h]. Decode (one token) and chunked prefill are the same function.
// Math     In base 2: x_i = (q . k_i) c with c = scale * log2 e (times the row's int8 scale,
//          first),
//          p_i = 2^(x_i - m). The context is cut at every 256th position; of each cut m = max x,
//          l = sum p, o = sum p v; cuts are combined in ascending order by
//          M = max(m, m'), l = l 2^(m-M) + l' 2^(m'-M), o likewise, and y = o / l at the end.
// Integers Over int8 pages both products are of integers. A row of q becomes int16, level = q 2^(14
// -
//          e) to nearest with 2^e <= max|q| < 2^(e+1); the weights of a cut, p times the row's
//          scale of V, likewise, the largest of them giving e. K and V are widened to int16, and
//          two neighbours of d (K) or of positions (V) are one int32 product; 256 positions of
//          |weight| < 2^15 and |v| <= 2^7 stay below 2^31.
// Tensors  q, y [T, H, D] f32; K and V in pages of any kind (kv_pages.h).
// Threads  A piece is a range of heads by a range of tokens; pieces share nothing. The caller's
//          worker runs it with a scratch of its own.
// Traffic  K and V of the context once per piece: piece = heads for one token, so that the memory
//          is read in runs of heads * PS * D elements, prefetched across pages; for a prompt each
//          256 positions of a head are converted once, to float32 or int16 in L2, for up to 256
//          tokens.
// Work     4 D FLOP per token, head and position. Few tokens: the 16 keys of a page are 16 dot
//          products of vectors along d, reduced together. Many tokens: K is transposed first, a
//          vector is one d (int8: two) of 16 keys, and nothing is shuffled.
// Numerics Floats: lane j of 16 sums d = j, 16 + j, ... by one FMA chain, lanes are added by one
// tree
//          (j + 8, + 4, + 2, + 1); l sums lanes i % 16 and the same tree; o is one FMA chain in
//          ascending i per cut. Integers are exact in any order. So y[t,h] depends on q[t,h], the K
//          and V it may see and its position alone, bit for bit: not on T, chunks, pieces or ISA.
//          Positions after it are not used in any way. p below 2^-126 counts as 0. NaN or infinity
//          in q, or in what it sees, gives NaN; over int8 pages a row of q whose magnitudes add up
//          to 2^100 or more counts as infinite, one below 2^-100 as zero.
// Limits   T, first_position >= 0, H >= 1, D a multiple of 4 in 4..256, PS = 16.
// Oracle   tinygptv_fast.reference.paged_attention (torch; the same roundings, else float64).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/isa.h"
#include "base/thread_pool.h"
#include "kernels/cpu/kv_pages.h"

namespace tgv::cpu {

struct PagedAttentionParams {
  int64_t heads = 0;           // H
  int64_t head_dim = 0;        // D
  int64_t tokens = 0;          // T
  int64_t first_position = 0;  // of token 0
  float scale = 0;             // 1 / sqrt(D)
  float* y = nullptr;          // [T, H, D]; overlaps no input
  const float* q = nullptr;    // [T, H, D]
  KvPages pages;
  const int32_t* block_table = nullptr;  // [ceil((first_position + T) / PS)]
};

// Null, or the sentence why paged_attention cannot run this.
const char* paged_attention_why_not(const PagedAttentionParams& params);

// Bytes that must be read and written: q, y, and K and V (with scales) of the context, once.
int64_t paged_attention_bytes(const PagedAttentionParams& params);

// Of one worker, 64-byte aligned, any content; the same for every T.
size_t paged_attention_scratch_bytes(int64_t head_dim);

// Pieces that keep `workers` busy: head_pieces() x token_pieces(), pieces of one head range first.
struct PagedAttentionPieces {
  int64_t heads = 1, tokens = 1;  // of a piece
  int64_t head_pieces = 0, token_pieces = 0;

  int64_t count() const { return head_pieces * token_pieces; }
};
PagedAttentionPieces paged_attention_pieces(const PagedAttentionParams& params, int workers);

// One piece, on the calling thread: checks, allocates and throws nothing (paged_attention_why_not
// must be null, 0 <= begin <= end <= H or T).
void paged_attention(const PagedAttentionParams& params, int64_t head_begin, int64_t head_end,
                     int64_t token_begin, int64_t token_end, void* scratch, Isa isa);

// Piece `index` of `pieces`.
void paged_attention(const PagedAttentionParams& params, const PagedAttentionPieces& pieces,
                     int64_t index, void* scratch, Isa isa);

// All of it. scratch: pool.threads() * paged_attention_scratch_bytes(D). Throws InvalidArgument
// with the sentence of paged_attention_why_not.
void paged_attention(const PagedAttentionParams& params, ThreadPool& pool, void* scratch, Isa isa);

}  // namespace tgv::cpu
