#include "kv/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/errors.h"
#include "base/float16.h"

namespace tgv::kv {

namespace {

constexpr uint16_t kHalfInfinity = 0x7c00;
constexpr uint16_t kBFloat16Infinity = 0x7f80;

[[noreturn]] void not_in_kind(float value, Kind kind) {
  throw InvalidArgument(concat("K/V has the element ", value, ", which a cache of kind ",
                               kind_name(kind),
                               " cannot hold: expected finite numbers in its range"));
}

float largest_magnitude(const float* values, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) not_in_kind(values[i], Kind::kI8);
    largest = std::max(largest, std::fabs(values[i]));
  }
  return largest;
}

void store_int8(int8_t* row, uint16_t* scale, const float* values, int64_t count) {
  const float largest = largest_magnitude(values, count);
  *scale = float_to_half(largest / 127.0f);
  if (*scale == kHalfInfinity) not_in_kind(largest, Kind::kI8);
  if (*scale == 0) {
    std::memset(row, 0, static_cast<size_t>(count));
    return;
  }
  const float inverse = 1.0f / half_to_float(*scale);
  for (int64_t i = 0; i < count; ++i) {
    row[i] = static_cast<int8_t>(std::clamp(std::nearbyint(values[i] * inverse), -127.0f, 127.0f));
  }
}

template <class Convert>
void store_codes(uint16_t* row, const float* values, int64_t count, Kind kind, uint16_t infinity,
                 Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t code = convert(values[i]);
    if ((code & 0x7fff) >= infinity) not_in_kind(values[i], kind);
    row[i] = code;
  }
}

void store_float32(void* row, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) not_in_kind(values[i], Kind::kF32);
  }
  std::memcpy(row, values, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace

const char* kind_name(Kind kind) {
  constexpr const char* names[] = {"f32", "f16", "bf16", "int8"};
  return names[static_cast<int>(kind)];
}

Kind parse_kind(std::string_view name) {
  for (Kind kind : {Kind::kF32, Kind::kF16, Kind::kBF16, Kind::kI8}) {
    if (name == kind_name(kind)) return kind;
  }
  throw InvalidArgument(
      concat("kind is '", std::string(name), "', expected f32, f16, bf16 or int8"));
}

int64_t kind_bytes(Kind kind) {
  constexpr int64_t bytes[] = {4, 2, 2, 1};
  return bytes[static_cast<int>(kind)];
}

void store_row(void* row, uint16_t* scale, const float* values, int64_t count, Kind kind) {
  auto* codes = static_cast<uint16_t*>(row);
  switch (kind) {
    case Kind::kF32:
      return store_float32(row, values, count);
    case Kind::kF16:
      return store_codes(codes, values, count, kind, kHalfInfinity, float_to_half);
    case Kind::kBF16:
      return store_codes(codes, values, count, kind, kBFloat16Infinity, float_to_bfloat16);
    case Kind::kI8:
      return store_int8(static_cast<int8_t*>(row), scale, values, count);
  }
}

void check_numbers(const void* numbers, int64_t count, Kind kind) {
  const auto check = [&](const auto* first, const auto& is_good) {
    const auto* const end = first + count;
    const auto* const bad = std::find_if_not(first, end, is_good);
    if (bad == end) return;
    throw InvalidArgument(concat("element ", bad - first, " of keys and values is none that a ",
                                 "cache of kind ", kind_name(kind), " holds"));
  };
  switch (kind) {
    case Kind::kF32:
      return check(static_cast<const float*>(numbers), [](float x) { return std::isfinite(x); });
    case Kind::kF16:
      return check(static_cast<const uint16_t*>(numbers),
                   [](uint16_t code) { return (code & 0x7fff) < kHalfInfinity; });
    case Kind::kBF16:
      return check(static_cast<const uint16_t*>(numbers),
                   [](uint16_t code) { return (code & 0x7fff) < kBFloat16Infinity; });
    case Kind::kI8:
      return check(static_cast<const int8_t*>(numbers), [](int8_t q) { return q >= -127; });
  }
}

void check_scales(const uint16_t* scales, int64_t count) {
  const auto* const end = scales + count;
  const auto* const bad =
      std::find_if_not(scales, end, [](uint16_t code) { return code < kHalfInfinity; });
  if (bad == end) return;
  throw InvalidArgument(concat("scale ", bad - scales, " of keys and values is ",
                               half_to_float(*bad), ", expected a finite number >= 0"));
}

void load_row(float* values, const void* row, const uint16_t* scale, int64_t count, Kind kind) {
  const auto* codes = static_cast<const uint16_t*>(row);
  switch (kind) {
    case Kind::kF32:
      std::memcpy(values, row, static_cast<size_t>(count) * sizeof(float));
      break;
    case Kind::kF16:
      std::transform(codes, codes + count, values, half_to_float);
      break;
    case Kind::kBF16:
      std::transform(codes, codes + count, values, bfloat16_to_float);
      break;
    case Kind::kI8: {
      const auto* q = static_cast<const int8_t*>(row);
      const float step = half_to_float(*scale);
      std::transform(q, q + count, values,
                     [step](int8_t x) { return static_cast<float>(x) * step; });
    }
  }
}

}  // namespace tgv::kv
