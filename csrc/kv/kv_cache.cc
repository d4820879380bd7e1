#include "kv/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/errors.h"

namespace tgv::kv {

namespace {

constexpr int64_t kMostTokens = int64_t{1} << 40;  // far above any pool; keeps sums in range

// Copies of a page with so many holders that may still be needed: each holder that goes on writing
// in it copies it, but the last holder.
int64_t copies(int64_t holders, int64_t writers) {
  return holders == writers ? std::max<int64_t>(writers - 1, 0) : writers;
}

int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

std::string identity(const Shape& shape, const std::string& model_id) {
  return concat(kind_name(shape.kind), ";", shape.layers, ";", shape.heads, ";", shape.head_dim,
                ";", model_id);
}

void check_reservation(const Reservation& request) {
  if (request.prompt.empty()) throw InvalidArgument("prompt is empty, expected at least one key");
  if (request.max_new_tokens < 0 || request.max_new_tokens > kMostTokens) {
    throw InvalidArgument(
        concat("max_new_tokens is ", request.max_new_tokens, ", expected 0..", kMostTokens));
  }
  if (request.forks < 1 || request.forks > 4096) {
    throw InvalidArgument(concat("forks is ", request.forks, ", expected 1..4096"));
  }
}

// Pages of a request that finds nothing in the index: the most it can ever hold.
int64_t most_pages(const Reservation& request) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t each = pages_for(prompt + request.max_new_tokens);
  return each + (request.forks - 1) * (each - prompt / kPageTokens);
}

}  // namespace

// --- Sequence ------------------------------------------------------------------------------------
int64_t KVCache::Sequence::max_pages() const { return pages_for(max_length); }

int64_t KVCache::Sequence::fork_pages() const { return max_pages() - prompt_length / kPageTokens; }

int32_t KVCache::Sequence::tail() const {
  return length() % kPageTokens ? pages[static_cast<size_t>(length() / kPageTokens)] : -1;
}

Keys KVCache::Sequence::page_keys(int64_t index) const {
  return Keys(keys).subspan(static_cast<size_t>(index * kPageTokens), kPageTokens);
}

KVCache::KVCache(std::unique_ptr<Storage> own, PageStore* pages, const std::string& model_id,
                 int hash_bits)
    : own_(std::move(own)),
      pages_(own_ ? *own_ : *pages),
      pool_(shape().pages),
      index_(shape().pages, identity(shape(), model_id), hash_bits),
      writers_(static_cast<size_t>(shape().pages), 0) {}

KVCache::KVCache(const Shape& shape, const std::string& model_id, int hash_bits)
    : KVCache(std::make_unique<Storage>(shape), nullptr, model_id, hash_bits) {}

KVCache::KVCache(PageStore& pages, const std::string& model_id, int hash_bits)
    : KVCache(nullptr, &pages, model_id, hash_bits) {}

const KVCache::Sequence& KVCache::at(SequenceId id) const {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) {
    throw InvalidArgument(
        concat("sequence is ", id, ", expected one that was reserved or forked, and not released"));
  }
  return found->second;
}

KVCache::Sequence& KVCache::at(SequenceId id) {
  return const_cast<Sequence&>(std::as_const(*this).at(id));
}

// --- promises ------------------------------------------------------------------------------------
int64_t KVCache::promised() const {
  int64_t pages = 0;
  for (const auto& [id, sequence] : sequences_) {
    pages += sequence.max_pages() - sequence.held();
    pages += sequence.forks_left * sequence.fork_pages();
  }
  for (size_t page = 0; page < writers_.size(); ++page) {
    if (writers_[page]) {
      pages += copies(pool_.references(static_cast<int32_t>(page)), writers_[page]);
    }
  }
  return pages;
}

void KVCache::count_tail(const Sequence& sequence, int change) {
  const int32_t page = sequence.tail();
  if (page >= 0) writers_[static_cast<size_t>(page)] += change;
}

// --- admission -----------------------------------------------------------------------------------
std::vector<int32_t> KVCache::find_prefix(Keys prompt) const {
  std::vector<int32_t> pages;
  int32_t parent = PrefixIndex::kRoot;
  for (size_t end = kPageTokens; end < prompt.size(); end += kPageTokens) {
    parent = index_.find(parent, prompt.subspan(end - kPageTokens, kPageTokens));
    if (parent == PrefixIndex::kMiss) break;
    pages.push_back(parent);
  }
  return pages;
}

// What the request takes out of room(): pages still to be had, and kept pages that stop being
// evictable.
int64_t KVCache::pages_needed(const Reservation& request,
                              const std::vector<int32_t>& prefix) const {
  const int64_t held_by_others = std::count_if(
      prefix.begin(), prefix.end(), [&](int32_t page) { return pool_.references(page) > 0; });
  return most_pages(request) - held_by_others;
}

Admission KVCache::admission(const Reservation& request) const {
  check_reservation(request);
  if (most_pages(request) > shape().pages) return Admission::kNever;
  return pages_needed(request, find_prefix(request.prompt)) <= room() ? Admission::kNow
                                                                      : Admission::kLater;
}

SequenceId KVCache::reserve(const Reservation& request) {
  check_reservation(request);
  if (most_pages(request) > shape().pages) {
    throw CapacityError(concat("the request needs ", most_pages(request), " pages of ", kPageTokens,
                               " tokens, and the cache has ", shape().pages, ": it can never fit"));
  }
  const std::vector<int32_t> prefix = find_prefix(request.prompt);
  const int64_t needed = pages_needed(request, prefix);
  if (needed > room()) {
    throw CapacityError(concat("the request needs ", needed, " more pages, and ", room(), " of ",
                               shape().pages, " are neither used nor promised: it has to wait"));
  }
  Sequence sequence;
  sequence.prompt_length = static_cast<int64_t>(request.prompt.size());
  sequence.max_length = sequence.prompt_length + request.max_new_tokens;
  sequence.forks_left = request.forks - 1;
  sequence.keys.reserve(static_cast<size_t>(sequence.max_length));
  sequence.pages.reserve(static_cast<size_t>(sequence.max_pages()));
  sequence.pages.insert(sequence.pages.end(), prefix.begin(), prefix.end());
  sequence.committed = sequence.held() * kPageTokens;
  sequence.keys.assign(request.prompt.begin(), request.prompt.begin() + sequence.committed);
  sequences_.emplace(next_id_, std::move(sequence));
  for (int32_t page : prefix) pool_.share(page);
  return next_id_++;
}

// --- pages ---------------------------------------------------------------------------------------
void KVCache::unindex(int32_t page) {
  index_.remove(page, [this](int32_t removed) { pool_.forget(removed); });
}

int32_t KVCache::take_page() {
  if (pool_.free_pages() == 0) {
    const int64_t before = pool_.kept_pages();
    unindex(pool_.oldest_kept());
    evicted_ += before - pool_.kept_pages();
  }
  return pool_.take();
}

// Makes the page of the next position, if it is begun, this sequence's alone. (Never indexed: see
// writers_.) A copy that fails leaves all as it was.
void KVCache::own_tail(Sequence& sequence) {
  const int32_t page = sequence.tail();
  if (page < 0 || pool_.references(page) == 1) return;
  const int32_t copy = take_page();
  try {
    pages_.copy_rows(copy, page, sequence.length() % kPageTokens);
  } catch (...) {
    drop_page(copy);
    throw;
  }
  count_tail(sequence, -1);
  sequence.pages[static_cast<size_t>(sequence.length() / kPageTokens)] = copy;
  count_tail(sequence, +1);
  drop_page(page);
}

// --- a sequence ----------------------------------------------------------------------------------
void KVCache::append(SequenceId id, Keys keys) {
  Sequence& sequence = at(id);
  const int64_t length = sequence.length() + static_cast<int64_t>(keys.size());
  if (length > sequence.max_length) {
    throw InvalidArgument(concat("appending ", keys.size(), " positions to ", sequence.length(),
                                 " passes the ", sequence.max_length, " that were reserved"));
  }
  if (keys.empty()) return;
  own_tail(sequence);
  count_tail(sequence, -1);
  sequence.keys.insert(sequence.keys.end(), keys.begin(), keys.end());
  while (sequence.held() < pages_for(length)) sequence.pages.push_back(take_page());
  count_tail(sequence, +1);
}

void KVCache::cover(SequenceId id, int64_t length) {
  Sequence& sequence = at(id);
  if (length > sequence.max_length) {
    throw InvalidArgument(concat("covering ", length, " positions passes the ", sequence.max_length,
                                 " that were reserved"));
  }
  const int64_t pages = pages_for(std::max(length, sequence.length()));
  while (sequence.held() < pages) sequence.pages.push_back(take_page());
  while (sequence.held() > pages) {
    drop_page(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

void KVCache::commit(SequenceId id) {
  Sequence& sequence = at(id);
  const int64_t before = std::exchange(sequence.committed, sequence.length());
  if (sequence.committed / kPageTokens > before / kPageTokens) index_pages(sequence);
}

// Walks from the root, because an ancestor may have been evicted or have come from another sequence
// with the same keys. A page whose keys are in the index already stays this sequence's own.
void KVCache::index_pages(const Sequence& sequence) {
  int32_t parent = PrefixIndex::kRoot;
  for (int64_t i = 0; i < sequence.committed / kPageTokens; ++i) {
    const Keys keys = sequence.page_keys(i);
    const int32_t found = index_.find(parent, keys);
    if (found != PrefixIndex::kMiss) {
      parent = found;
      continue;
    }
    const int32_t page = sequence.pages[static_cast<size_t>(i)];
    const bool changing = writers_[static_cast<size_t>(page)] > 0;
    if (changing || index_.contains(page) || !index_.insert(page, parent, keys)) return;
    parent = page;
  }
}

SequenceId KVCache::fork(SequenceId id) {
  Sequence& from = at(id);
  if (from.committed != from.length()) {
    throw InvalidArgument(concat("sequence ", id, " has ", from.length() - from.committed,
                                 " positions that are not committed, expected 0 for a fork"));
  }
  const bool reserved = from.forks_left > 0 && from.length() >= from.prompt_length;
  const int64_t needed = from.max_pages() - from.held() + (from.tail() >= 0 ? 1 : 0);
  const int64_t had = room() + (reserved ? from.fork_pages() : 0);
  if (needed > had) {
    throw CapacityError(concat("a fork of sequence ", id, " needs ", needed, " more pages, and ",
                               had, " are neither used nor promised"));
  }
  Sequence copy;
  copy.keys.reserve(static_cast<size_t>(from.max_length));
  copy.pages.reserve(static_cast<size_t>(from.max_pages()));
  copy.keys.assign(from.keys.begin(), from.keys.end());
  copy.pages.assign(from.pages.begin(), from.pages.end());
  copy.committed = from.committed;
  copy.max_length = from.max_length;
  copy.prompt_length = from.prompt_length;
  const Sequence& made = sequences_.emplace(next_id_, std::move(copy)).first->second;
  if (reserved) --from.forks_left;
  for (int32_t page : made.pages) pool_.share(page);
  count_tail(made, +1);
  return next_id_++;
}

void KVCache::extend(SequenceId id, int64_t max_length) {
  Sequence& sequence = at(id);
  if (max_length <= sequence.max_length) return;
  if (sequence.forks_left > 0) {
    throw InvalidArgument(concat("sequence ", id, " has ", sequence.forks_left,
                                 " forks reserved, expected 0 to extend it"));
  }
  const int64_t needed = pages_for(max_length) - sequence.max_pages();
  if (needed > room()) {
    throw CapacityError(concat("extending sequence ", id, " to ", max_length, " positions needs ",
                               needed, " more pages, and ", room(), " of ", shape().pages,
                               " are neither used nor promised"));
  }
  sequence.keys.reserve(static_cast<size_t>(max_length));
  sequence.pages.reserve(static_cast<size_t>(pages_for(max_length)));
  sequence.max_length = max_length;
}

// Room that truncating takes. A page given up is promised again, but comes back only if nobody else
// holds it; and it may leave others, or this sequence in the page it then ends in, with more or
// fewer copies to make.
int64_t KVCache::truncation_needs(const Sequence& sequence, int64_t length) const {
  const auto change = [&](int32_t page, int64_t holders, int64_t writers) {
    const int64_t r = pool_.references(page), w = writers_[static_cast<size_t>(page)];
    return copies(r + holders, w + writers) - copies(r, w);
  };
  const int32_t old_tail = sequence.tail();
  int64_t needed = 0;
  for (int64_t i = pages_for(length); i < sequence.held(); ++i) {
    const int32_t page = sequence.pages[static_cast<size_t>(i)];
    needed += (pool_.references(page) > 1 ? 1 : 0) + change(page, -1, page == old_tail ? -1 : 0);
  }
  if (length % kPageTokens) {
    const int32_t tail = sequence.pages[static_cast<size_t>(length / kPageTokens)];
    if (tail != old_tail) needed += change(tail, 0, +1);
  }
  return needed;
}

void KVCache::truncate(SequenceId id, int64_t length) {
  Sequence& sequence = at(id);
  if (length < 0 || length > sequence.length()) {
    throw InvalidArgument(
        concat("length is ", length, ", expected 0..", sequence.length(), " of sequence ", id));
  }
  if (length == sequence.length()) return;
  const int64_t needed = truncation_needs(sequence, length);
  if (needed > room()) {
    throw CapacityError(concat("truncating sequence ", id, " to ", length, " would need ", needed,
                               " more pages to append them again, and ", room(),
                               " are neither used nor promised"));
  }
  count_tail(sequence, -1);
  while (sequence.held() > pages_for(length)) {
    drop_page(sequence.pages.back());
    sequence.pages.pop_back();
  }
  sequence.keys.resize(static_cast<size_t>(length));
  sequence.committed = std::min(sequence.committed, length);
  const int32_t tail = sequence.tail();
  if (tail >= 0 && index_.contains(tail)) unindex(tail);
  count_tail(sequence, +1);
}

void KVCache::release(SequenceId id) {
  Sequence& sequence = at(id);
  count_tail(sequence, -1);
  // Last page first: what hangs on a page is evicted before the page.
  while (!sequence.pages.empty()) {
    drop_page(sequence.pages.back());
    sequence.pages.pop_back();
  }
  sequences_.erase(id);
}

}  // namespace tgv::kv
