// Converts numbers with simt/numbers.h, for comparison with another implementation.
// usage: simt_numbers decode|encode half|bfloat16|e4m3|e5m2 <in> <out>
//   decode: uint16 codes -> float32;  encode: float32 -> uint16 codes. Raw binary files.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "simt/numbers.h"

namespace {

template <class T>
std::vector<T> read_all(const char* path) {
  std::vector<T> values;
  FILE* file = std::fopen(path, "rb");
  if (!file) return values;
  T value;
  while (std::fread(&value, sizeof value, 1, file) == 1) values.push_back(value);
  std::fclose(file);
  return values;
}

template <class T>
bool write_all(const char* path, const std::vector<T>& values) {
  FILE* file = std::fopen(path, "wb");
  if (!file) return false;
  const bool whole = std::fwrite(values.data(), sizeof(T), values.size(), file) == values.size();
  return std::fclose(file) == 0 && whole;
}

const simt::Format* format_named(const std::string& name) {
  if (name == "half") return &simt::kHalf;
  if (name == "bfloat16") return &simt::kBFloat16;
  if (name == "e4m3") return &simt::kE4M3;
  if (name == "e5m2") return &simt::kE5M2;
  return nullptr;
}

}  // namespace

int main(int count, char** arguments) {
  const simt::Format* format = count == 5 ? format_named(arguments[2]) : nullptr;
  if (!format) return 2;
  if (!std::strcmp(arguments[1], "decode")) {
    std::vector<float> out;
    for (uint16_t code : read_all<uint16_t>(arguments[3])) {
      out.push_back(format == &simt::kHalf ? simt::half_to_float(code)
                                           : simt::decode(*format, code));
    }
    return write_all(arguments[4], out) ? 0 : 1;
  }
  std::vector<uint16_t> out;
  for (float value : read_all<float>(arguments[3])) {
    out.push_back(static_cast<uint16_t>(simt::encode(*format, value)));
  }
  return write_all(arguments[4], out) ? 0 : 1;
}
