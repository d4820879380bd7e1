// The KV cache: sequences as block tables over a pool of pages, with shared prefixes.
//
// A sequence is a list of keys (one per position) and the pages that hold their K and V. A key is a
// token id, or any other number that stands for what was embedded at that position: for a picture's
// positions the caller derives 63-bit negative keys from its content hash. Equal keys mean equal
// embeddings; the cache takes that on trust and compares nothing else.
//
// Life of a position: append() gives it a place, the kernels write it (or write(), in tests),
// commit() says that it is written. Full committed pages can be found by other requests.
//
// Rules that hold between any two calls, proved by check() in the tests:
//   * a page is free, kept (in the index, unreferenced) or referenced by exactly as many block
//     tables as its count says;
//   * a position that is not committed lies in a page that one sequence alone holds and the index
//     does not: nobody ever writes what another can read;
//   * pages promised at admission never exceed those that are free or kept, so that append() of an
//     admitted sequence cannot fail.
//
// Every function gives the strong guarantee: it does what it says or throws and changes nothing.
// No allocation of memory in append(), truncate() and reading functions. Not thread-safe, by
// design: the engine's thread owns it. Kernels on other threads read layer() and block_table()
// while that thread waits for them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "kv/page_pool.h"
#include "kv/prefix_index.h"
#include "kv/storage.h"

namespace tgv::kv {

using SequenceId = int64_t;  // never used twice
using Keys = std::span<const int64_t>;

// What a request needs to be sure to finish.
struct Reservation {
  Keys prompt;                 // at least one key
  int64_t max_new_tokens = 0;  // positions after the prompt, >= 0
  int64_t forks = 1;           // sequences that will share the prompt, this one included
};

enum class Admission { kNow, kLater, kNever };  // kLater: when others have been released

struct Counts {
  int64_t pages = 0;       // free + kept + referenced
  int64_t free = 0;        // hold nothing
  int64_t kept = 0;        // unreferenced, can be found by a prefix, can be evicted
  int64_t referenced = 0;  // in at least one block table
  int64_t indexed = 0;     // can be found by a prefix: the kept ones and some of the referenced
  int64_t promised = 0;    // pages that sequences may still take
  int64_t sequences = 0;
  int64_t evicted = 0;  // pages evicted since construction
};

class KVCache {
 public:
  // model_id: what makes K and V of equal keys equal; goes into every prefix hash with the kind and
  // the geometry. hash_bits: see PrefixIndex. Throws InvalidArgument, SystemError.
  KVCache(const Shape& shape, const std::string& model_id, int hash_bits = 64);
  // Over pages that lie elsewhere and outlive the cache.
  KVCache(PageStore& pages, const std::string& model_id, int hash_bits = 64);

  const Shape& shape() const { return pages_.shape(); }
  Counts counts() const;

  // --- admission -------------------------------------------------------------------------------
  // Pages: the prompt's full pages once, what comes after them once per fork, less pages found in
  // the index that others hold anyway. Throw InvalidArgument if the reservation is malformed.
  Admission admission(const Reservation& request) const;
  bool can_reserve(const Reservation& request) const {
    return admission(request) == Admission::kNow;
  }

  // A sequence that begins with the pages found for its prompt: length() positions are there
  // already, never the last one of the prompt, whose logits somebody wants. The rest comes by
  // append(). Throws CapacityError, saying whether waiting helps.
  SequenceId reserve(const Reservation& request);

  // The pages a prompt would begin with now, in order.
  std::vector<int32_t> find_prefix(Keys prompt) const;

  // --- a sequence; all throw InvalidArgument for an id that is not there
  // -------------------------- Places for more positions. Within what was reserved it cannot fail;
  // beyond that it throws InvalidArgument. Positions of a page that another sequence shares are
  // copied first: where the pages are a GPU's, that can throw SystemError.
  void append(SequenceId id, Keys keys);

  // Has the pages of its first `length` positions, those of positions that are still to be appended
  // among them, and no others: for who writes them before it can say what stands there. append()
  // finds them. Within what was reserved it cannot fail; beyond that it throws InvalidArgument.
  // What is appended last must be the sequence's own (append() makes it so).
  void cover(SequenceId id, int64_t length);

  // All positions appended so far are written; new full pages enter the index.
  void commit(SequenceId id);

  // A sequence with the same positions, all pages shared, and the same limit. Uses a fork reserved
  // for `id` if there is one left and the prompt is complete; else room that is there (throws
  // CapacityError). All positions must be committed.
  SequenceId fork(SequenceId id);

  // Room for so many positions in all, if that is more than it has: for who cannot say at the start
  // how long a sequence gets. Throws CapacityError if the pages are not there now, InvalidArgument
  // while forks are reserved for `id`.
  void extend(SequenceId id, int64_t max_length);

  // Forgets positions from `length` on; the room to append them again stays promised. Throws
  // InvalidArgument if length is not 0..length(), CapacityError if pages given up are shared with
  // others, so that the promise could not be kept.
  void truncate(SequenceId id, int64_t length);

  // Gives everything back; full committed pages stay to be found until they are evicted. Forks that
  // were reserved for `id` and not made are given up.
  void release(SequenceId id);

  int64_t length(SequenceId id) const { return at(id).length(); }
  int64_t committed(SequenceId id) const { return at(id).committed; }
  std::span<const int32_t> block_table(SequenceId id) const { return at(id).pages; }

  // --- contents, of a cache that holds its pages itself; all throw Unsupported otherwise --------
  const Storage& storage() const;
  cpu::KvPages layer(int64_t index) const;  // throws InvalidArgument

  // `count` positions from `first` on, [count, H, D] f32 each. Only positions that are appended and
  // not committed can be written. Slow and portable: for tests and tools. Throw InvalidArgument;
  // after an element that the kind cannot hold, earlier positions have been written.
  void write(SequenceId id, int64_t layer, int64_t first, int64_t count, const float* k,
             const float* v);
  void read(float* k, float* v, SequenceId id, int64_t layer, int64_t first, int64_t count) const;

  // Page `index` of the sequence whole, as PageStore carries it: read once all of it is committed,
  // written while all of it is appended and none committed. Throw InvalidArgument, Unsupported,
  // SystemError.
  void read_page(void* numbers, uint16_t* scales, SequenceId id, int64_t index) const;
  void write_page(SequenceId id, int64_t index, const void* numbers, const uint16_t* scales);

  // --- for tests -------------------------------------------------------------------------------
  int64_t references(int32_t page) const;  // throws InvalidArgument
  bool is_indexed(int32_t page) const;     // throws InvalidArgument
  void check() const;                      // throws Error naming the first broken rule

 private:
  struct Sequence {
    std::vector<int64_t> keys;   // one per position; capacity max_length
    std::vector<int32_t> pages;  // the block table; capacity max_pages()
    int64_t committed = 0;
    int64_t max_length = 0;
    int64_t prompt_length = 0;
    int64_t forks_left = 0;

    int64_t length() const { return static_cast<int64_t>(keys.size()); }
    int64_t held() const { return static_cast<int64_t>(pages.size()); }
    int64_t max_pages() const;
    int64_t fork_pages() const;  // a fork's own pages, if made when the prompt is complete
    int32_t tail() const;        // the page of the next position if it is begun, else -1
    Keys page_keys(int64_t index) const;
  };

  KVCache(std::unique_ptr<Storage> own, PageStore* pages, const std::string& model_id,
          int hash_bits);
  const Sequence& at(SequenceId id) const;
  Sequence& at(SequenceId id);
  int64_t pages_needed(const Reservation& request, const std::vector<int32_t>& prefix) const;
  int64_t room() const { return pool_.available() - promised(); }
  int64_t promised() const;
  int64_t truncation_needs(const Sequence& sequence, int64_t length) const;
  void count_tail(const Sequence& sequence, int change);
  void check_counts() const;
  void check_sequences() const;

  int32_t take_page();
  void drop_page(int32_t page) { pool_.drop(page, index_.contains(page)); }
  void unindex(int32_t page);
  void own_tail(Sequence& sequence);
  void index_pages(const Sequence& sequence);
  void check_positions(const Sequence& sequence, int64_t layer, int64_t first, int64_t count) const;

  Storage& own() const;  // throws Unsupported

  const std::unique_ptr<Storage> own_;  // null: the pages lie elsewhere
  PageStore& pages_;
  PagePool pool_;
  PrefixIndex index_;
  // [NP] sequences whose next position lies in this page, after positions it has already. Such a
  // page is never in the index: whoever found it would have to be promised a copy.
  std::vector<int32_t> writers_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  SequenceId next_id_ = 1;
  int64_t evicted_ = 0;
};

}  // namespace tgv::kv
