#include "kv/page_list.h"

namespace tgv::kv {

PageList::PageList(int64_t pages)
    : next_(static_cast<size_t>(pages) + 1, kAbsent), previous_(next_) {
  next_.back() = previous_.back() = sentinel_;
}

int32_t& PageList::next(int32_t page) {
  return page == sentinel_ ? next_.back() : next_[static_cast<size_t>(page)];
}

int32_t& PageList::previous(int32_t page) {
  return page == sentinel_ ? previous_.back() : previous_[static_cast<size_t>(page)];
}

void PageList::insert_after(int32_t before, int32_t page) {
  const int32_t after = next(before);
  next(page) = after;
  previous(page) = before;
  next(before) = page;
  previous(after) = page;
  ++size_;
}

void PageList::remove(int32_t page) {
  next(previous(page)) = next(page);
  previous(next(page)) = previous(page);
  next(page) = previous(page) = kAbsent;
  --size_;
}

}  // namespace tgv::kv
