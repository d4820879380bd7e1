// A doubly linked list of page numbers in two arrays sized once: any page out of the middle in
// constant time, and no allocation after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tgv::kv {

class PageList {
 public:
  explicit PageList(int64_t pages);  // empty, of pages 0..pages-1; room for all

  int64_t size() const { return size_; }
  int32_t front() const { return next_.back(); }  // -1 if empty
  bool contains(int32_t page) const { return next_[static_cast<size_t>(page)] != kAbsent; }

  void push_front(int32_t page) { insert_after(sentinel_, page); }  // not in the list yet
  void push_back(int32_t page) { insert_after(previous_.back(), page); }
  void remove(int32_t page);  // in the list

 private:
  static constexpr int32_t kAbsent = -2;
  void insert_after(int32_t before, int32_t page);
  int32_t& next(int32_t page);
  int32_t& previous(int32_t page);

  static constexpr int32_t sentinel_ = -1;  // both ends meet in the last element of the arrays
  std::vector<int32_t> next_, previous_;
  int64_t size_ = 0;
};

}  // namespace tgv::kv
