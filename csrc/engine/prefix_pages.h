// Keys and values of the first positions of a prompt outside of any cache: read from one engine's,
// kept in a file perhaps, brought along by requests to another's.
//
// They belong to one prefix, one model in one form, and one kind of cache. Everything but their
// numbers is compared before they are used; that the numbers are what the model computes for the
// prefix is the word of whoever brings them. So nothing that was brought is found by a request that
// did not bring the same: see Fingerprint::brought_key.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kv/page_store.h"

namespace tgv::engine {

struct Prompt;

// What an engine's cache is of.
struct CacheIdentity {
  std::string model_id;
  kv::Shape shape;
};

struct PrefixPages {
  std::string model_id;  // LoadedModel::id()
  kv::Kind kind = kv::Kind::kI8;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  std::vector<int32_t> ids;             // [n * PS], -1 where a row of embeddings goes
  std::vector<float> embeddings;        // [number of -1, C]
  std::vector<uint8_t> numbers;         // [n, L, 2, H, PS, D] of the kind; K before V
  std::vector<uint16_t> scales;         // [n, L, 2, H, PS] half; empty for kinds without
  std::array<uint8_t, 32> digest = {};  // equal ones mean equal numbers and scales

  int64_t positions() const { return static_cast<int64_t>(ids.size()); }
  int64_t pages() const { return positions() / kv::kPageTokens; }
  kv::Shape shape() const { return {pages(), layers, heads, head_dim, kind}; }
  const uint8_t* page_numbers(int64_t page) const;
  const uint16_t* page_scales(int64_t page) const;  // null for kinds without

  // Throws InvalidArgument unless the sizes agree with each other and every number is one that a
  // page of this kind can hold.
  void check() const;
};

// Why these cannot begin `prompt` in a cache of this identity; "" if they can.
std::string why_not(const PrefixPages& pages, const Prompt& prompt, const CacheIdentity& cache);

}  // namespace tgv::engine
