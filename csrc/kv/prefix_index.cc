#include "kv/prefix_index.h"

#include <algorithm>

#include "base/errors.h"
#include "kv/storage.h"

namespace tgv::kv {

namespace {

// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Two chains with different odd steps.
void absorb(PageHash& hash, uint64_t value) {
  hash.low = mix(hash.low + 0x9e3779b97f4a7c15u + value);
  hash.high = mix(hash.high + 0xd1342543de82ef95u + (value ^ hash.low));
}

uint64_t mask_of(int hash_bits) {
  if (hash_bits < 1 || hash_bits > 64) {
    throw InvalidArgument(concat("hash_bits is ", hash_bits, ", expected 1..64"));
  }
  return ~uint64_t{0} >> (64 - hash_bits);
}

}  // namespace

PageHash root_hash(std::string_view identity) {
  PageHash hash;
  for (char c : identity) absorb(hash, static_cast<unsigned char>(c));
  absorb(hash, identity.size());
  return hash;
}

PageHash chain_hash(const PageHash& before, std::span<const int64_t> keys) {
  PageHash hash = before;
  for (int64_t key : keys) absorb(hash, static_cast<uint64_t>(key));
  return hash;
}

PrefixIndex::PrefixIndex(int64_t pages, std::string_view identity, int hash_bits)
    : root_(root_hash(identity)),
      mask_(mask_of(hash_bits)),
      nodes_(static_cast<size_t>(pages)),
      keys_(static_cast<size_t>(pages * kPageTokens)) {
  pages_.reserve(static_cast<size_t>(pages));
}

PageHash PrefixIndex::hash_of(int32_t parent, Keys keys) const {
  const PageHash before = parent == kRoot ? root_ : nodes_[static_cast<size_t>(parent)].hash;
  const PageHash hash = chain_hash(before, keys);
  return {hash.low & mask_, hash.high & mask_};
}

bool PrefixIndex::same_keys(int32_t page, Keys keys) const {
  return std::equal(keys.begin(), keys.end(), keys_.begin() + page * kPageTokens);
}

int32_t PrefixIndex::find(int32_t parent, Keys keys) const {
  const auto found = pages_.find(hash_of(parent, keys));
  if (found == pages_.end()) return kMiss;
  const int32_t page = found->second;
  const bool same = nodes_[static_cast<size_t>(page)].parent == parent && same_keys(page, keys);
  return same ? page : kMiss;
}

bool PrefixIndex::insert(int32_t page, int32_t parent, Keys keys) {
  const PageHash hash = hash_of(parent, keys);
  if (!pages_.emplace(hash, page).second) return false;
  Node& node = nodes_[static_cast<size_t>(page)];
  node.indexed = true;
  node.hash = hash;
  std::copy(keys.begin(), keys.end(), keys_.begin() + page * kPageTokens);
  link(page, parent);
  return true;
}

void PrefixIndex::link(int32_t page, int32_t parent) {
  Node& node = nodes_[static_cast<size_t>(page)];
  node.parent = parent;
  node.first_child = node.next_sibling = node.previous_sibling = -1;
  if (parent == kRoot) return;  // the root keeps no list: nothing is removed through it
  int32_t& first = nodes_[static_cast<size_t>(parent)].first_child;
  node.next_sibling = first;
  if (first >= 0) nodes_[static_cast<size_t>(first)].previous_sibling = page;
  first = page;
}

void PrefixIndex::unlink(int32_t page) {
  const Node& node = nodes_[static_cast<size_t>(page)];
  if (node.next_sibling >= 0) {
    nodes_[static_cast<size_t>(node.next_sibling)].previous_sibling = node.previous_sibling;
  }
  if (node.previous_sibling >= 0) {
    nodes_[static_cast<size_t>(node.previous_sibling)].next_sibling = node.next_sibling;
  } else if (node.parent != kRoot) {
    nodes_[static_cast<size_t>(node.parent)].first_child = node.next_sibling;
  }
}

void PrefixIndex::remove(int32_t page, const std::function<void(int32_t)>& removed) {
  for (int32_t at = page;;) {
    // Leaves first, so that no list of what is left to do is needed.
    while (nodes_[static_cast<size_t>(at)].first_child >= 0) {
      at = nodes_[static_cast<size_t>(at)].first_child;
    }
    const int32_t parent = nodes_[static_cast<size_t>(at)].parent;
    unlink(at);
    pages_.erase(nodes_[static_cast<size_t>(at)].hash);
    nodes_[static_cast<size_t>(at)] = Node{};
    removed(at);
    if (at == page) return;
    at = parent;
  }
}

}  // namespace tgv::kv
