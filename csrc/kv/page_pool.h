// Reference counts of pages. A page is in use (count > 0), kept (count 0, its contents still worth
// finding) or free. Knows neither contents nor sequences. Not thread-safe.
//
// No function checks its arguments: the contracts are KVCache's to keep, and check() of that proves
// it in the tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kv/page_list.h"

namespace tgv::kv {

class PagePool {
 public:
  explicit PagePool(int64_t pages);  // all free

  int64_t free_pages() const { return free_.size(); }
  int64_t kept_pages() const { return kept_.size(); }
  int64_t available() const { return free_pages() + kept_pages(); }  // could be had by evicting
  int64_t references(int32_t page) const { return references_[static_cast<size_t>(page)]; }
  bool is_free(int32_t page) const { return free_.contains(page); }
  bool is_kept(int32_t page) const { return kept_.contains(page); }

  // The page unreferenced for longest, -1 if none is kept.
  int32_t oldest_kept() const { return kept_.front(); }

  // A free page, with one reference. There must be one.
  int32_t take();
  // One more reference to a page in use or kept.
  void share(int32_t page);
  // One reference less. The last one makes the page kept or free.
  void drop(int32_t page, bool keep);
  // A kept page becomes free; nothing happens to a page in use.
  void forget(int32_t page);

 private:
  std::vector<int32_t> references_;
  PageList free_;  // last in, first out: memory that was touched before is used again first
  PageList kept_;  // least recently used first
};

}  // namespace tgv::kv
