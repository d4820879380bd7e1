#include "kv/page_pool.h"

namespace tgv::kv {

PagePool::PagePool(int64_t pages)
    : references_(static_cast<size_t>(pages), 0), free_(pages), kept_(pages) {
  for (int64_t page = 0; page < pages; ++page) free_.push_back(static_cast<int32_t>(page));
}

int32_t PagePool::take() {
  const int32_t page = free_.front();
  free_.remove(page);
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::share(int32_t page) {
  if (references_[static_cast<size_t>(page)]++ == 0) kept_.remove(page);
}

void PagePool::drop(int32_t page, bool keep) {
  if (--references_[static_cast<size_t>(page)] > 0) return;
  if (keep) {
    kept_.push_back(page);
  } else {
    free_.push_front(page);
  }
}

void PagePool::forget(int32_t page) {
  if (!is_kept(page)) return;
  kept_.remove(page);
  free_.push_front(page);
}

}  // namespace tgv::kv
