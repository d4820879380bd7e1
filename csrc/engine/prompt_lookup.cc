#include "engine/prompt_lookup.h"

#include <algorithm>

namespace tgv::engine {

namespace {

bool is_text(std::span<const int32_t> ids) {
  return std::all_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; });
}

// Where the last `gram` ids stand for the last time before the end, or -1. The place found may
// overlap the end itself: "a b a b" is followed by "a".
int64_t find_before(std::span<const int32_t> ids, int64_t gram) {
  const std::span<const int32_t> last = ids.last(static_cast<size_t>(gram));
  if (!is_text(last)) return -1;
  for (int64_t at = static_cast<int64_t>(ids.size()) - gram - 1; at >= 0; --at) {
    if (std::equal(last.begin(), last.end(), ids.begin() + at)) return at;
  }
  return -1;
}

}  // namespace

void look_up(std::vector<int32_t>& draft, std::span<const int32_t> ids, int64_t most) {
  const int64_t count = static_cast<int64_t>(ids.size());
  for (int64_t gram = std::min(kLongestGram, count - 1); gram >= 1; --gram) {
    const int64_t at = find_before(ids, gram);
    if (at < 0) continue;
    for (int64_t i = at + gram; i < std::min(count, at + gram + most); ++i) {
      const int32_t id = ids[static_cast<size_t>(i)];
      if (id < 0) break;
      draft.push_back(id);
    }
    return;
  }
}

void DraftLength::learn(int64_t accepted, int64_t drafted) {
  if (drafted == 0) return;
  if (accepted == drafted) next_ = std::min(kMostDrafted, 2 * next_ + 1);
  if (accepted == 0) next_ = std::max<int64_t>(1, next_ / 2);
}

}  // namespace tgv::engine
