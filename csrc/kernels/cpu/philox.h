// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011): four words that depend on a key and a counter alone.
#pragma once

#include <array>
#include <cstdint>

namespace tgv::cpu {

constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter,
                                         std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

// 64 random bits for one token: key = seed, counter = (position, sample, 0), words 0 and 1.
constexpr uint64_t random_bits(uint64_t seed, int64_t position, uint32_t sample) {
  const uint64_t at = static_cast<uint64_t>(position);
  const std::array<uint32_t, 4> words =
      philox({static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), sample, 0},
             {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return words[0] | uint64_t{words[1]} << 32;
}

}  // namespace tgv::cpu
