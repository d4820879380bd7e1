// Matrix products over every kind of weights, for use inside the phases of somebody's thread pool:
// no pool, no allocation and no barrier in here.
//
// What     y[m,n] = act(bias[n] + sum over k of x[m,k] W[n,k]), W packed as int4, int8, bf16 or
// f32.
//          A phase that rounds what int4 and int8 read, then one in which workers claim row blocks:
//
//            phase 0: linear_round of pieces claimed from [0, linear_round_pieces)
//            phase 1: linear_rows of row blocks claimed by claim_rows
//
//          "Two outputs from one input" are two LinearTasks whose row blocks are claimed as one
//          run.
// Math     int4, int8: x is rounded to int8 in groups of 32 (b), a = the least power of two with
//          max|x| / a < 127.5 in the group, xq = nearest(x / a), ties to even; d(m,n,b) = sum of
//          (q - z) xq, an exact integer.
//            int4   y = sum over b of d * (s(n,g) * a(m,b)), s the float16 scale of the group g of
//            b int8   y = s(n) * sum over b of d * a(m,b), s the float32 scale of the row, z = 0
//          A group whose a would be below 2^-100 counts as zeros; one that holds NaN or infinity,
//          or whose a would be above 2^100, makes its whole row of y NaN, and no other.
//            bf16, f32   y = sum over k of x W, float32 products and sums of x itself
// Tensors  x [T, K] f32, bias [N] f32, y [T, N] f32; weights as linear_pack writes them.
// Packed   Blocks of 16 rows, one after another, N and K padded; each starts a cache line.
//            int4   for each group of the block's rows 16 float16 scales, when asymmetric 16 zeros
//                   of one byte, and tiles of 16 rows by 32 k, 256 bytes each. Byte 64 i + 4 r + j
//                   of a tile is k = 4 i + j of row r in the low nibble, k = 16 + 4 i + j in the
//                   high one, so that a 32-bit lane of any vector is four k of one row.
//            int8   16 float32 scales of the rows, then tiles of 512 bytes: byte 64 i + 4 r + j is
//                   k = 4 i + j of row r, plus 128.
//            bf16   for each two k 64 bytes: a 32-bit lane is row r, the even k in its low half.
//            f32    for each k 64 bytes, the 16 rows.
// Threads  Split N (linear_rows) or tokens and K (linear_round): any worker may take any piece.
// Traffic  The weights once, and once more from the cache per 48 tokens; 40 bytes of rounded
//          activations for 32 k of a token. y of more than 48 tokens goes past the caches.
// Work     AVX-512 VNNI, int4: per 32 k of 16 rows and one token 8 dot products of 64 bytes and one
//          FMA on the pipes that multiply, one subtraction on others (linear_isa.h). A tile is
//          unpacked once per 48 tokens.
// Numerics One FMA chain in ascending k for every (m, n), whatever T, N, worker or ISA: y[m,n]
//          depends on x[m,:] and W[n,:] alone, and all ISAs agree bit for bit.
// Limits   T, N, K >= 1, each at most 2^31; int4 groups of 32, 64 or 128, the last may be short.
//          y overlaps no input.
// Oracle   tinygptv_fast.reference.int4_matmul, int8_matmul, matmul (torch).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/isa.h"

namespace tgv::cpu {

enum class WeightKind : uint8_t { kInt4, kInt8, kBF16, kF32 };
enum class Activation : uint8_t { kNone, kGeluTanh };

const char* weight_kind_name(WeightKind kind);  // "int4", "int8", "bf16", "f32"

// Sizes of a packed matrix.
struct LinearShape {
  WeightKind kind = WeightKind::kInt4;
  int64_t rows = 0;         // N
  int64_t columns = 0;      // K
  int64_t group_size = 32;  // of int4
  bool symmetric = true;    // of int4

  int64_t row_blocks() const { return (rows + 15) / 16; }
  int64_t groups() const { return (columns + group_size - 1) / group_size; }
  int64_t tiles() const { return (columns + 31) / 32; }       // in k
  int64_t head_bytes() const { return symmetric ? 32 : 48; }  // before the tiles of an int4 group
  int64_t group_bytes() const { return head_bytes() + 256 * (group_size / 32); }  // of int4
  int64_t block_bytes() const;  // a multiple of 64
  int64_t packed_bytes() const { return row_blocks() * block_bytes(); }
};

// Null, or the sentence why no matrix of this shape can be packed or multiplied.
const char* linear_shape_why_not(const LinearShape& shape);

struct Linear {
  LinearShape shape;
  const uint8_t* packed = nullptr;  // [packed_bytes()], 64-byte aligned
  const float* bias = nullptr;      // [N]; may be null
  Activation activation = Activation::kNone;
};

// Whether this kind reads activations rounded to int8 (int4, int8) or x itself (bf16, f32).
bool reads_rounded(WeightKind kind);

struct LinearInput {
  const float* x = nullptr;  // [T, K]
  int64_t tokens = 0;        // T
  int64_t columns = 0;       // K
  void* rounded = nullptr;   // [linear_rounded_bytes], 64-byte aligned; null if nobody reads it
};

// One rounded form serves every int4 and int8 matrix that reads this input.
size_t linear_rounded_bytes(int64_t columns, int64_t tokens);  // a multiple of 64

// x -> rounded, in pieces of some tokens and some k, each of which any worker may take.
int64_t linear_round_pieces(const LinearInput& input);
void linear_round(const LinearInput& input, int64_t begin, int64_t end, Isa isa);

// One of the two. `rounded`, which int4 and int8 can write, is the input of a next product with K =
// N as linear_round would make it of y; a claim then starts at an even block.
struct LinearOutput {
  float* y = nullptr;       // [T, N]
  void* rounded = nullptr;  // [linear_rounded_bytes(N, T)], 64-byte aligned
};

// Rows of the row blocks [begin, end) of the output, for all tokens. Checks nothing: see
// linear_why_not.
void linear_rows(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                 int64_t begin, int64_t end, Isa isa);

// Null, or the sentence why linear_rows cannot run this (null pointers, alignment, sizes, overlap).
const char* linear_why_not(const Linear& linear, const LinearInput& input, const float* y);

// Several products whose row blocks workers claim as one run, those of the first task first.
struct LinearTask {
  Linear linear;
  LinearInput input;
  LinearOutput output;
};
// Each task counts as an even number of blocks.
int64_t linear_row_blocks(std::span<const LinearTask> tasks);
void linear_rows(std::span<const LinearTask> tasks, int64_t begin, int64_t end, Isa isa);

// The blocks that the ticket-th claim of a phase takes, tickets from 0 (pool.claim(1)); empty once
// all are taken. Long runs at first, for the memory, and short ones at the end, where workers would
// wait for each other:
//
//   for (RowRange r; !(r = claim_rows(pool.claim(1), blocks, pool.threads())).empty();)
//     linear_rows(tasks, r.begin, r.end, isa);
struct RowRange {
  int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};
//
// Workers end a phase at most one claim apart, and no claim is shorter than `least`: 1 is right for
// up to 4 tokens, while more go faster over pairs of blocks, and a task whose output is rounded
// needs pairs: two halves of a tile are written together. Of two tasks the one with the smaller
// blocks (the smaller K) goes last.
RowRange claim_rows(int64_t ticket, int64_t blocks, int workers, int64_t least = 2);

// Packing by row blocks [begin, end), so that it streams and may be split between workers. Sources
// hold all N rows.
struct Int4Source {
  const uint8_t* qweight = nullptr;  // [N, ceil(K/2)], low nibble = even k
  const uint16_t* scales = nullptr;  // [N, ceil(K/G)] float16 bits
  const uint8_t* zeros = nullptr;    // [N, ceil(ceil(K/G)/2)] packed likewise; null when symmetric
};
void linear_pack_int4(const LinearShape& shape, uint8_t* packed, const Int4Source& source,
                      int64_t begin, int64_t end);
// qweight [N, K] int8, any value; scales [N].
void linear_pack_int8(const LinearShape& shape, uint8_t* packed, const int8_t* qweight,
                      const float* scales, int64_t begin, int64_t end);
// weights [N, K]. To kF32 or kBF16 (rounded to nearest even, as base/float16.h does).
void linear_pack_f32(const LinearShape& shape, uint8_t* packed, const float* weights, int64_t begin,
                     int64_t end);
// weights [N, K], bf16 codes. To kF32 or kBF16.
void linear_pack_bf16(const LinearShape& shape, uint8_t* packed, const uint16_t* weights,
                      int64_t begin, int64_t end);

}  // namespace tgv::cpu
