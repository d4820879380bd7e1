// KVCache: what is in the pages, and the checks for tests.
#include <algorithm>

#include "base/errors.h"
#include "kv/kv_cache.h"

namespace tgv::kv {

namespace {

void check_index(const char* name, int64_t value, int64_t count) {
  if (value < 0 || value >= count) {
    throw InvalidArgument(concat(name, " is ", value, ", expected 0..", count - 1));
  }
}

void hold(bool rule, const std::string& what) {
  if (!rule) throw Error(concat("the cache broke a rule: ", what));
}

}  // namespace

Storage& KVCache::own() const {
  if (!own_) throw Unsupported("the pages of this cache do not lie in memory of its own");
  return *own_;
}

const Storage& KVCache::storage() const { return own(); }

cpu::KvPages KVCache::layer(int64_t index) const {
  check_index("layer", index, shape().layers);
  return own().layer(index);
}

int64_t KVCache::references(int32_t page) const {
  check_index("page", page, shape().pages);
  return pool_.references(page);
}

bool KVCache::is_indexed(int32_t page) const {
  check_index("page", page, shape().pages);
  return index_.contains(page);
}

void KVCache::check_positions(const Sequence& sequence, int64_t layer, int64_t first,
                              int64_t count) const {
  check_index("layer", layer, shape().layers);
  if (first < 0 || count < 0 || first > sequence.length() || count > sequence.length() - first) {
    throw InvalidArgument(concat("positions are ", first, " and ", count,
                                 " from there, expected some of the sequence's ",
                                 sequence.length()));
  }
}

void KVCache::write(SequenceId id, int64_t layer, int64_t first, int64_t count, const float* k,
                    const float* v) {
  Storage& storage = own();
  const Sequence& sequence = at(id);
  check_positions(sequence, layer, first, count);
  if (first < sequence.committed) {
    throw InvalidArgument(concat("position ", first, " of sequence ", id,
                                 " is committed, expected ", sequence.committed, " or later"));
  }
  const int64_t row_elems = shape().heads * shape().head_dim;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t position = first + i;
    storage.write(layer, sequence.pages[static_cast<size_t>(position / kPageTokens)],
                  position % kPageTokens, k + i * row_elems, v + i * row_elems);
  }
}

void KVCache::read(float* k, float* v, SequenceId id, int64_t layer, int64_t first,
                   int64_t count) const {
  const Storage& storage = own();
  const Sequence& sequence = at(id);
  check_positions(sequence, layer, first, count);
  const int64_t row_elems = shape().heads * shape().head_dim;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t position = first + i;
    storage.read(k + i * row_elems, v + i * row_elems, layer,
                 sequence.pages[static_cast<size_t>(position / kPageTokens)],
                 position % kPageTokens);
  }
}

void KVCache::read_page(void* numbers, uint16_t* scales, SequenceId id, int64_t index) const {
  const Sequence& sequence = at(id);
  check_index("page", index, sequence.committed / kPageTokens);
  pages_.read_page(numbers, scales, sequence.pages[static_cast<size_t>(index)]);
}

void KVCache::write_page(SequenceId id, int64_t index, const void* numbers,
                         const uint16_t* scales) {
  const Sequence& sequence = at(id);
  check_index("page", index, sequence.length() / kPageTokens);
  if (index * kPageTokens < sequence.committed) {
    throw InvalidArgument(concat("page ", index, " of sequence ", id, " is committed, expected ",
                                 (sequence.committed + kPageTokens - 1) / kPageTokens,
                                 " or later"));
  }
  pages_.write_page(sequence.pages[static_cast<size_t>(index)], numbers, scales);
}

Counts KVCache::counts() const {
  Counts counts;
  counts.pages = shape().pages;
  counts.free = pool_.free_pages();
  counts.kept = pool_.kept_pages();
  counts.referenced = counts.pages - counts.free - counts.kept;
  counts.indexed = index_.size();
  counts.promised = promised();
  counts.sequences = static_cast<int64_t>(sequences_.size());
  counts.evicted = evicted_;
  return counts;
}

void KVCache::check() const {
  check_counts();
  check_sequences();
  hold(room() >= 0, concat(promised(), " pages are promised and ", pool_.available(), " there"));
}

void KVCache::check_counts() const {
  std::vector<int64_t> holders(writers_.size(), 0), writers(writers_.size(), 0);
  for (const auto& [id, sequence] : sequences_) {
    for (int32_t page : sequence.pages) ++holders[static_cast<size_t>(page)];
    if (sequence.tail() >= 0) ++writers[static_cast<size_t>(sequence.tail())];
  }
  for (int32_t page = 0; page < shape().pages; ++page) {
    const size_t i = static_cast<size_t>(page);
    const std::string name = concat("page ", page);
    hold(pool_.references(page) == holders[i], name + " has another count than holders");
    hold(writers_[i] == writers[i], name + " has another count than writers");
    const int places = pool_.is_free(page) + pool_.is_kept(page) + (holders[i] > 0);
    hold(places == 1, name + " is in more or fewer than one of free, kept, referenced");
    hold(!pool_.is_free(page) || !index_.contains(page), name + " is free and indexed");
    hold(!pool_.is_kept(page) || index_.contains(page), name + " is kept and cannot be found");
    hold(!writers[i] || !index_.contains(page), name + " will be written and is indexed");
  }
}

void KVCache::check_sequences() const {
  for (const auto& [id, sequence] : sequences_) {
    const std::string name = concat("sequence ", id);
    hold(sequence.held() == (sequence.length() + kPageTokens - 1) / kPageTokens,
         name + " has another number of pages than its length needs");
    hold(sequence.held() <= sequence.max_pages(), name + " has more pages than reserved");
    hold(sequence.committed <= sequence.length(), name + " has committed more than it has");
    for (int64_t at = sequence.committed; at < sequence.length(); ++at) {
      const int32_t page = sequence.pages[static_cast<size_t>(at / kPageTokens)];
      hold(pool_.references(page) == 1 && !index_.contains(page),
           name + " may write a page that others can read");
    }
  }
}

}  // namespace tgv::kv
