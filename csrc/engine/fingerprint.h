// Keys of positions for the prefix cache: a token's id, or a number that stands for an embedding.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace tgv::engine {

// Maps embedding rows to negative keys by SipHash-2-4 under a key drawn at construction: a
// collision of 63 bits cannot be looked for without it, and by chance needs some 2^31 different
// rows. Immutable.
class Fingerprint {
 public:
  Fingerprint();  // throws SystemError if the system has no random numbers
  explicit Fingerprint(const std::array<uint64_t, 2>& key) : key_(key) {}

  uint64_t hash(std::span<const uint8_t> bytes) const;     // SipHash-2-4
  int64_t row_key(const float* row, int64_t width) const;  // < 0
  int64_t fresh_key(uint64_t number) const;                // < 0; no row's but by collision

  // What stands for a prompt's first position if its keys and values were brought along: of its
  // key and of what was brought. The cache's prefixes are a tree, so nothing that begins with it
  // is found by anybody who brings something else, or nothing.
  int64_t brought_key(int64_t key, std::span<const uint8_t, 32> digest) const;  // < 0

 private:
  std::array<uint64_t, 2> key_;
};

}  // namespace tgv::engine
