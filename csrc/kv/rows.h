// One row of K or V (one token, one head, D numbers) in each of the kinds a cache can hold.
//
// Numerics  Every conversion rounds to nearest, ties to even, and keeps subnormals. int8: per token
//           and head, scale = half(max|x| / 127), q = clamp(round(x * (1 / scale)), -127, 127), all
//           in float32; max|x| / 127 below 2^-25 makes the scale and every q zero. Value = q *
//           scale. The error of an element is at most scale / 2 + max|x| * 2^-11 while the scale is
//           a normal half (max|x| >= 127 * 2^-14).
// Oracle    tests/kv/rows_twin.py
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/cpu/kv_pages.h"

namespace tgv::kv {

using Kind = cpu::KvKind;

const char* kind_name(Kind kind);        // "f32", "f16", "bf16", "int8"
Kind parse_kind(std::string_view name);  // throws InvalidArgument
int64_t kind_bytes(Kind kind);           // of one element
inline bool has_scales(Kind kind) { return kind == Kind::kI8; }

// Writes `count` numbers to `row` (and the row's scale, if the kind has one). Throws
// InvalidArgument, having written part of the row or none, if a number is not finite or is not in
// the kind.
void store_row(void* row, uint16_t* scale, const float* values, int64_t count, Kind kind);

// What no row has that store_row wrote: a number that is not finite, -128 in int8, a scale that is
// not finite or is below 0. Throw InvalidArgument naming the first. For numbers from outside.
void check_numbers(const void* numbers, int64_t count, Kind kind);
void check_scales(const uint16_t* scales, int64_t count);

// The reverse; exact. `scale` may be null for kinds without.
void load_row(float* values, const void* row, const uint16_t* scale, int64_t count, Kind kind);

}  // namespace tgv::kv
