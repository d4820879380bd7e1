// Finds full pages by what precedes and fills them: a tree of pages whose edges are the PS keys of
// a page. Knows keys and page numbers, not contents, reference counts or sequences. Not
// thread-safe.
//
// A page is looked up by a 128-bit hash chained from the root (model id, KV kind, geometry) through
// every page before it, and a hit is one only if its parent is the page already matched and its
// keys are equal one by one. By induction a chain of hits is equal in full: no hash collision can
// give a request another one's cache. A page whose hash is taken by another is not indexed.
//
// Removing a page removes what hangs below it, so that a parent in here always stands for its keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tgv::kv {

struct PageHash {
  uint64_t low = 0, high = 0;
  bool operator==(const PageHash&) const = default;
};

PageHash root_hash(std::string_view identity);
PageHash chain_hash(const PageHash& before, std::span<const int64_t> keys);

class PrefixIndex {
 public:
  using Keys = std::span<const int64_t>;  // PS of them
  static constexpr int32_t kRoot = -1;
  static constexpr int32_t kMiss = -1;

  // hash_bits < 64 leaves only so many bits of each hash: tests make collisions with it.
  PrefixIndex(int64_t pages, std::string_view identity, int hash_bits = 64);

  int64_t size() const { return static_cast<int64_t>(pages_.size()); }
  bool contains(int32_t page) const { return nodes_[static_cast<size_t>(page)].indexed; }

  // The page with these keys whose prefix is that of `parent` (kRoot, or a page in here).
  int32_t find(int32_t parent, Keys keys) const;

  // Adds a page that is not in here. False, and nothing done, if its hash is taken (by equal keys
  // or by a collision).
  bool insert(int32_t page, int32_t parent, Keys keys);

  // Removes a page that is in here and all below it, calling removed(page) for each. Allocates
  // nothing.
  void remove(int32_t page, const std::function<void(int32_t)>& removed);

 private:
  struct Node {
    bool indexed = false;
    PageHash hash;
    int32_t parent = kRoot;
    int32_t first_child = -1, next_sibling = -1, previous_sibling = -1;
  };
  struct HashOfHash {
    size_t operator()(const PageHash& hash) const { return hash.low ^ (hash.high << 1); }
  };

  PageHash hash_of(int32_t parent, Keys keys) const;
  bool same_keys(int32_t page, Keys keys) const;
  void link(int32_t page, int32_t parent);
  void unlink(int32_t page);

  const PageHash root_;
  const uint64_t mask_;
  std::vector<Node> nodes_;    // [NP]
  std::vector<int64_t> keys_;  // [NP, PS]
  std::unordered_map<PageHash, int32_t, HashOfHash> pages_;
};

}  // namespace tgv::kv
