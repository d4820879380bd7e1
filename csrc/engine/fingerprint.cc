#include "engine/fingerprint.h"

#include <sys/random.h>

#include <bit>
#include <cstring>

#include "base/errors.h"

namespace tgv::engine {

namespace {

constexpr int64_t kTopBit = INT64_MIN;

struct SipState {
  uint64_t a, b, c, d;

  void round() {
    a += b;
    c += d;
    b = std::rotl(b, 13) ^ a;
    d = std::rotl(d, 16) ^ c;
    a = std::rotl(a, 32);
    c += b;
    a += d;
    b = std::rotl(b, 17) ^ c;
    d = std::rotl(d, 21) ^ a;
    c = std::rotl(c, 32);
  }

  void take(uint64_t word) {
    d ^= word;
    round();
    round();
    a ^= word;
  }
};

uint64_t load(const uint8_t* bytes, size_t count) {  // little-endian, as every machine this runs on
  uint64_t word = 0;
  std::memcpy(&word, bytes, count);
  return word;
}

}  // namespace

Fingerprint::Fingerprint() {
  if (getrandom(key_.data(), sizeof(key_), 0) != static_cast<ssize_t>(sizeof(key_))) {
    throw SystemError("the system gave no random numbers (getrandom)");
  }
}

// J.-P. Aumasson, D. J. Bernstein: SipHash, a fast short-input PRF (2012).
uint64_t Fingerprint::hash(std::span<const uint8_t> bytes) const {
  SipState s{key_[0] ^ 0x736f6d6570736575, key_[1] ^ 0x646f72616e646f6d,
             key_[0] ^ 0x6c7967656e657261, key_[1] ^ 0x7465646279746573};
  const size_t whole = bytes.size() / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) s.take(load(bytes.data() + i, 8));
  const uint64_t rest = bytes.size() > whole ? load(bytes.data() + whole, bytes.size() - whole) : 0;
  s.take(rest | static_cast<uint64_t>(bytes.size()) << 56);
  s.c ^= 0xff;
  for (int i = 0; i < 4; ++i) s.round();
  return s.a ^ s.b ^ s.c ^ s.d;
}

int64_t Fingerprint::row_key(const float* row, int64_t width) const {
  const size_t bytes = static_cast<size_t>(width) * sizeof(float);
  return static_cast<int64_t>(hash({reinterpret_cast<const uint8_t*>(row), bytes})) | kTopBit;
}

int64_t Fingerprint::fresh_key(uint64_t number) const {
  // Twelve bytes: no row is that short but one of three elements, which no model has (C >= 4).
  uint8_t bytes[12] = {'f', 'r', 's', 'h'};
  std::memcpy(bytes + 4, &number, sizeof(number));
  return static_cast<int64_t>(hash(bytes)) | kTopBit;
}

int64_t Fingerprint::brought_key(int64_t key, std::span<const uint8_t, 32> digest) const {
  // 44 bytes: as long as a row of eleven elements, which no model has (C is a multiple of four).
  uint8_t bytes[4 + sizeof(key) + 32] = {'b', 'r', 'g', 't'};
  std::memcpy(bytes + 4, &key, sizeof(key));
  std::memcpy(bytes + 4 + sizeof(key), digest.data(), digest.size());
  return static_cast<int64_t>(hash(bytes)) | kTopBit;
}

}  // namespace tgv::engine
