// Asynchronous copies into shared memory. With options().lazy_copies they land as late as the rules
// allow, so that a wait that is missing, or one group short, is seen.
#pragma once

#include <cstring>

#include "simt/block.h"

namespace simt {

inline void land(const Copy& copy) {
  std::memcpy(copy.destination, copy.source, copy.bytes);
  std::memset(static_cast<char*>(copy.destination) + copy.bytes, 0, copy.fill_bytes - copy.bytes);
}

// cp.async: `bytes` of `fill_bytes` come from memory, the rest is zero.
inline void copy_async(void* destination, const void* source, size_t bytes, size_t fill_bytes) {
  const Copy copy = {destination, source, bytes, fill_bytes};
  if (options().lazy_copies) {
    block().current->copy_groups.back().push_back(copy);
  } else {
    land(copy);
  }
}

inline void commit_copies() { block().current->copy_groups.emplace_back(); }

// All but the newest `pending` committed groups have landed, for the calling thread alone.
inline void wait_copies(size_t pending) {
  auto& groups = block().current->copy_groups;
  if (options().short_copy_waits) ++pending;
  while (groups.size() - 1 > pending) {
    for (const Copy& copy : groups.front()) land(copy);
    groups.erase(groups.begin());
  }
}

// --- mbarrier and 1-D bulk copies
// --------------------------------------------------------------------------------- The state is
// kept beside the block, keyed by the mbarrier's address; the 8 bytes in shared memory stay
// poisoned.
inline MBarrier& find_mbarrier(const void* address) {
  const auto found = block().mbarriers.find(address);
  if (found == block().mbarriers.end()) throw Error("an mbarrier is used before its init");
  return found->second;
}

inline void mbarrier_init(const void* address, unsigned arrivals) {
  MBarrier fresh;
  fresh.expected = fresh.pending = arrivals;
  block().mbarriers[address] = fresh;
}

inline void mbarrier_complete_if_done(MBarrier& b) {
  if (b.pending != 0 || b.transaction_bytes != 0) return;
  b.pending = b.expected;
  b.phase ^= 1;
}

// One arrival that also announces `bytes` to come.
inline void mbarrier_arrive_expect(const void* address, unsigned bytes) {
  MBarrier& b = find_mbarrier(address);
  if (b.pending == 0) throw Error("more arrivals at an mbarrier than it was made for");
  b.transaction_bytes += bytes;
  --b.pending;
  ++block().progress;
  mbarrier_complete_if_done(b);
}

inline void mbarrier_land(MBarrier& b, const Copy& copy) {
  land(copy);
  b.transaction_bytes -= static_cast<int64_t>(copy.bytes);
  ++block().progress;
  mbarrier_complete_if_done(b);
}

inline void bulk_copy(void* destination, const void* source, size_t bytes, const void* mbarrier) {
  MBarrier& b = find_mbarrier(mbarrier);
  const Copy copy = {destination, source, bytes, bytes};
  if (options().lazy_copies) {
    b.copies.push_back(copy);
  } else {
    mbarrier_land(b, copy);
  }
}

// Waits until the phase with this parity has completed.
inline void mbarrier_wait(const void* address, unsigned parity) {
  MBarrier& b = find_mbarrier(address);
  while (b.phase == parity) {
    if (b.pending == 0 && !b.copies.empty()) {  // only the bytes are missing: let one copy land
      const Copy copy = b.copies.front();
      b.copies.erase(b.copies.begin());
      mbarrier_land(b, copy);
    } else {
      yield();
    }
  }
}

}  // namespace simt
