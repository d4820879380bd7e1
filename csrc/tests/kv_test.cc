// The KV cache without Python: float conversions, rows, pages, prefixes, copy-on-write, admission,
// and a long random run under check(). tests/kv/ compares with a plain model.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "base/float16.h"
#include "kv/kv_cache.h"
#include "simt/numbers.h"
#include "tests/check.h"

using tgv::CapacityError;
using tgv::InvalidArgument;
using tgv::kv::Admission;
using tgv::kv::Kind;
using tgv::kv::kind_bytes;
using tgv::kv::kind_name;
using tgv::kv::kPageTokens;
using tgv::kv::KVCache;
using tgv::kv::load_row;
using tgv::kv::PrefixIndex;
using tgv::kv::SequenceId;
using tgv::kv::Shape;
using tgv::kv::store_row;

namespace {

constexpr Kind kKinds[] = {Kind::kF32, Kind::kF16, Kind::kBF16, Kind::kI8};

Shape small(int64_t pages, Kind kind = Kind::kF32) { return {pages, 2, 3, 8, kind}; }

std::vector<int64_t> keys(int64_t count, int64_t first = 0) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(first + i);
  return out;
}

// K and V of a position follow from its key, the layer and the head; exact in every kind.
float value_of(int64_t key, int64_t layer, int64_t element) {
  return static_cast<float>((key * 7 + layer * 3 + element) % 127 - 63);
}

// [T, H, D] for positions with these keys.
std::vector<float> rows(const Shape& shape, const std::vector<int64_t>& of, int64_t layer,
                        int sign) {
  std::vector<float> out;
  for (int64_t key : of) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      // The first number of each head is 127, so that the int8 scale is 1 and all is exact.
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        out.push_back(d ? static_cast<float>(sign) * value_of(key, layer, h * 11 + d) : 127.0f);
      }
    }
  }
  return out;
}

// Appends keys, writes their rows in every layer, commits.
void extend(KVCache& cache, SequenceId id, const std::vector<int64_t>& more) {
  const int64_t first = cache.length(id);
  cache.append(id, more);
  for (int64_t layer = 0; layer < cache.shape().layers; ++layer) {
    const auto k = rows(cache.shape(), more, layer, 1), v = rows(cache.shape(), more, layer, -1);
    cache.write(id, layer, first, static_cast<int64_t>(more.size()), k.data(), v.data());
  }
  cache.commit(id);
}

void check_contents(const KVCache& cache, SequenceId id, const std::vector<int64_t>& expected) {
  CHECK_EQ(cache.length(id), static_cast<int64_t>(expected.size()));
  for (int64_t layer = 0; layer < cache.shape().layers; ++layer) {
    const auto k = rows(cache.shape(), expected, layer, 1);
    const auto v = rows(cache.shape(), expected, layer, -1);
    std::vector<float> got_k(k.size()), got_v(v.size());
    cache.read(got_k.data(), got_v.data(), id, layer, 0, cache.length(id));
    CHECK(got_k == k);
    CHECK(got_v == v);
  }
}

std::vector<int64_t> joined(std::vector<int64_t> a, const std::vector<int64_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

// Pages that lie elsewhere, and whose copies can fail.
class OtherPages final : public tgv::kv::PageStore {
 public:
  const Shape& shape() const override { return shape_; }
  int64_t page_bytes() const override { return shape_.page_bytes(); }
  void copy_rows(int64_t to_page, int64_t from_page, int64_t rows) override {
    if (fails) throw tgv::SystemError("a copy failed");
    copied = {to_page, from_page, rows};
  }

  bool fails = false;
  std::vector<int64_t> copied;

 private:
  const Shape shape_ = small(8);
};

TEST(pages_may_lie_elsewhere_and_a_failed_copy_changes_nothing) {
  OtherPages pages;
  KVCache cache(pages, "m");
  CHECK_EQ(cache.shape().pages, 8);
  const SequenceId id = cache.reserve({keys(20), 30, 2});
  cache.append(id, keys(20));
  cache.commit(id);
  const SequenceId fork = cache.fork(id);
  const int32_t shared = cache.block_table(id)[1];
  const tgv::kv::Counts before = cache.counts();
  pages.fails = true;
  for (int i = 0; i < 20; ++i) {  // a page lost each time would empty the pool
    CHECK_THROWS(tgv::SystemError, cache.append(fork, keys(1, 20)), "a copy failed");
    cache.check();
  }
  CHECK_EQ(cache.length(fork), 20);
  CHECK_EQ(cache.block_table(fork)[1], shared);
  CHECK_EQ(cache.counts().free, before.free);
  CHECK_EQ(cache.counts().promised, before.promised);
  pages.fails = false;
  cache.append(fork, keys(1, 20));
  cache.append(id, keys(1, 40));  // the last holder: no copy
  const std::vector<int64_t> expected{cache.block_table(fork)[1], shared, 4};
  CHECK(pages.copied == expected);
  CHECK_EQ(cache.block_table(id)[1], shared);
  cache.check();
  CHECK_THROWS(tgv::Unsupported, cache.storage(), "do not lie in memory of its own");
  CHECK_THROWS(tgv::Unsupported, cache.layer(0), "do not lie in memory of its own");
  float row[24] = {};
  CHECK_THROWS(tgv::Unsupported, cache.read(row, row, id, 0, 0, 1), "do not lie");
  CHECK_THROWS(tgv::Unsupported, cache.write(id, 0, 40, 0, row, row), "do not lie");
  CHECK(!pages.can_carry());
  CHECK_THROWS(tgv::Unsupported, cache.read_page(row, nullptr, id, 0), "lie on a GPU");
  cache.append(fork, keys(27, 50));
  CHECK_THROWS(tgv::Unsupported, cache.write_page(fork, 2, row, nullptr), "lie on a GPU");
}

TEST(half_conversions_match_the_exhaustively_checked_ones) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const uint16_t c = static_cast<uint16_t>(code);
    const float half = tgv::half_to_float(c), expected = simt::half_to_float(c);
    CHECK(std::isnan(expected) ? std::isnan(half) : std::memcmp(&half, &expected, 4) == 0);
    const float wide = tgv::bfloat16_to_float(c);
    if (!std::isnan(wide)) CHECK_EQ(tgv::float_to_bfloat16(wide), c);
    if (!std::isnan(half)) CHECK_EQ(tgv::float_to_half(half), c);
  }
  std::mt19937 random(3);
  for (int i = 0; i < 300'000; ++i) {
    uint32_t bits = random();
    // Half of them around the halves' exponents, a quarter on a tie.
    if (i % 2) bits = (bits & 0x807fffff) | ((100 + bits % 47) << 23);
    if (i % 4 == 1) bits = (bits & ~0x1fffu) | 0x1000;
    float value;
    std::memcpy(&value, &bits, 4);
    if (std::isnan(value)) continue;
    CHECK_EQ(tgv::float_to_half(value), simt::float_to_half(value));
    CHECK_EQ(tgv::float_to_bfloat16(value), simt::float_to_bfloat16(value));
  }
}

TEST(int8_rows_round_to_nearest_even_and_keep_the_bound) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 200; ++round) {
    const float size = std::ldexp(1.0f, round % 25 - 5);
    float values[80], back[80];
    int8_t row[80];
    uint16_t scale;
    float largest = 0;
    for (float& x : values) largest = std::max(largest, std::fabs(x = normal(random) * size));
    store_row(row, &scale, values, 80, Kind::kI8);
    load_row(back, row, &scale, 80, Kind::kI8);
    const float step = tgv::half_to_float(scale);
    for (int i = 0; i < 80; ++i) {
      CHECK(std::fabs(back[i] - values[i]) <= step / 2 + largest / 2048);
    }
  }
  const float ties[] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 3.49f};
  int8_t row[8];
  uint16_t scale;
  store_row(row, &scale, ties, 8, Kind::kI8);
  const int8_t expected[] = {127, 0, 2, 2, 0, -2, -2, 3};
  CHECK(std::memcmp(row, expected, 8) == 0);
  const float zeros[4] = {};
  store_row(row, &scale, zeros, 4, Kind::kI8);
  CHECK_EQ(scale, 0);
  CHECK_EQ(row[0], 0);
}

TEST(numbers_that_a_kind_cannot_hold_are_refused) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       -std::numeric_limits<float>::infinity()};
  for (Kind kind : kKinds) {
    for (float value : bad) {
      float row[4];
      uint16_t scale;
      const float values[4] = {1, value, 2, 3};
      CHECK_THROWS(InvalidArgument, store_row(row, &scale, values, 4, kind), kind_name(kind));
    }
  }
  float row[4];
  uint16_t scale;
  const float large[4] = {1, 70000.0f, 0, 0};
  CHECK_THROWS(InvalidArgument, store_row(row, &scale, large, 4, Kind::kF16), "70000");
  store_row(row, &scale, large, 4, Kind::kI8);
  const float huge[4] = {1e9f, 0, 0, 0};
  CHECK_THROWS(InvalidArgument, store_row(row, &scale, huge, 4, Kind::kI8), "int8");
}

TEST(shapes_are_checked) {
  CHECK_THROWS(InvalidArgument, KVCache(small(0), ""), "pages is 0");
  CHECK_THROWS(InvalidArgument, KVCache({8, 2, 3, 6, Kind::kF32}, ""), "multiple of 4");
  CHECK_THROWS(InvalidArgument, KVCache({8, 2, 3, 260, Kind::kF32}, ""), "head_dim is 260");
  CHECK_THROWS(InvalidArgument, KVCache({INT32_MAX, 1024, 1024, 256, Kind::kF32}, ""),
               "address space");
  CHECK_THROWS(InvalidArgument, tgv::kv::parse_kind("fp8"), "'fp8'");
  CHECK_EQ((Shape{1, 32, 32, 80, Kind::kI8}).page_bytes(), 2 * 32 * 32 * 16 * 82);
}

// A page's layers lie together, a layer's parts one after another, each at a multiple of 64 bytes.
TEST(the_parts_of_a_page_follow_each_other) {
  for (Kind kind : kKinds) {
    KVCache cache(small(4, kind), "");
    const int64_t plane = 3 * 16 * 8 * kind_bytes(kind);
    const int64_t scales = kind == Kind::kI8 ? 128 : 0;  // 96 rounded up
    CHECK_EQ(cache.shape().page_bytes(), 4 * (plane + scales));
    const auto* expected = static_cast<const uint8_t*>(cache.layer(0).k);
    for (int64_t i = 0; i < 2; ++i) {
      const auto layer = cache.layer(i);
      CHECK(layer.kind == kind);
      CHECK_EQ(layer.page_stride, cache.shape().page_bytes());
      CHECK(layer.k == expected);
      CHECK(layer.v == expected + plane);
      CHECK_EQ(reinterpret_cast<uintptr_t>(layer.v) % 64, uintptr_t{0});
      CHECK_EQ(layer.k_scales != nullptr, kind == Kind::kI8);
      if (layer.k_scales) {
        CHECK_EQ(layer.scale_stride, layer.page_stride);
        CHECK(static_cast<const void*>(layer.k_scales) == expected + 2 * plane);
        CHECK(static_cast<const void*>(layer.v_scales) == expected + 2 * plane + scales);
      }
      expected += 2 * (plane + scales);
    }
    CHECK_THROWS(InvalidArgument, cache.layer(2), "layer is 2");
  }
}

TEST(contents_survive_fork_and_copy_on_write_in_every_kind) {
  for (Kind kind : kKinds) {
    KVCache cache(small(16, kind), "m");
    const SequenceId a = cache.reserve({keys(21), 20, 3});
    extend(cache, a, keys(21));
    const SequenceId b = cache.fork(a), c = cache.fork(a);
    const std::vector<int32_t> shared(cache.block_table(a).begin(), cache.block_table(a).end());
    extend(cache, b, keys(5, 100));
    extend(cache, a, keys(5, 200));
    extend(cache, c, keys(5, 300));
    check_contents(cache, a, joined(keys(21), keys(5, 200)));
    check_contents(cache, b, joined(keys(21), keys(5, 100)));
    check_contents(cache, c, joined(keys(21), keys(5, 300)));
    CHECK_EQ(cache.block_table(a)[0], shared[0]);
    CHECK_EQ(cache.block_table(b)[0], shared[0]);
    CHECK(cache.block_table(b)[1] != shared[1]);
    CHECK(cache.block_table(a)[1] != shared[1]);
    CHECK_EQ(cache.block_table(c)[1], shared[1]);  // the last holder keeps the page
    cache.check();
    for (SequenceId id : {a, b, c}) cache.release(id);
    cache.check();
    CHECK_EQ(cache.counts().referenced, 0);
    CHECK_EQ(cache.counts().promised, 0);
  }
}

TEST(a_prompt_begins_with_the_pages_of_an_earlier_one) {
  KVCache cache(small(16), "m");
  const SequenceId a = cache.reserve({keys(40), 8});
  extend(cache, a, keys(40));
  CHECK_EQ(cache.find_prefix(keys(40)).size(), size_t{2});
  CHECK_EQ(cache.find_prefix(keys(32)).size(), size_t{1});  // the last position is never found
  CHECK_EQ(cache.find_prefix(keys(33)).size(), size_t{2});
  CHECK_EQ(cache.find_prefix(keys(40, 1)).size(), size_t{0});
  auto other = keys(40);
  other[20] = -5;
  CHECK_EQ(cache.find_prefix(other).size(), size_t{1});
  const SequenceId b = cache.reserve({other, 8});
  CHECK_EQ(cache.length(b), 16);
  CHECK_EQ(cache.block_table(b)[0], cache.block_table(a)[0]);
  cache.release(a);
  CHECK_EQ(cache.counts().kept, 1);  // its second page; the first is still b's
  const SequenceId c = cache.reserve({keys(40), 8});
  CHECK_EQ(cache.length(c), 32);
  check_contents(cache, c, keys(32));
  extend(cache, c, keys(8, 32));
  check_contents(cache, c, keys(40));
  cache.check();
}

TEST(pages_that_are_not_committed_are_not_found) {
  KVCache cache(small(8), "m");
  const SequenceId a = cache.reserve({keys(32), 8});
  cache.append(a, keys(32));
  CHECK_EQ(cache.find_prefix(keys(40)).size(), size_t{0});
  CHECK_THROWS(InvalidArgument, cache.fork(a), "32 positions that are not committed");
  cache.release(a);
  CHECK_EQ(cache.counts().free, 8);
}

TEST(the_same_prompt_twice_at_once_is_indexed_once) {
  KVCache cache(small(16), "m");
  const SequenceId a = cache.reserve({keys(20), 20}), b = cache.reserve({keys(20), 20});
  extend(cache, a, keys(20));
  extend(cache, b, keys(20));
  CHECK(cache.block_table(a)[0] != cache.block_table(b)[0]);
  CHECK_EQ(cache.counts().indexed, 1);
  extend(cache, b, keys(16, 20));  // below a's page, found through a's keys
  CHECK_EQ(cache.find_prefix(keys(40)).size(), size_t{2});
  CHECK_EQ(cache.find_prefix(keys(40))[0], cache.block_table(a)[0]);
  CHECK_EQ(cache.find_prefix(keys(40))[1], cache.block_table(b)[1]);
  cache.check();
  cache.release(a);
  cache.release(b);
  cache.check();
}

TEST(the_least_recently_used_pages_are_evicted_tail_first) {
  KVCache cache(small(6), "m");
  for (int64_t first : {0, 1000}) {
    const SequenceId id = cache.reserve({keys(48, first), 0});
    extend(cache, id, keys(48, first));
    cache.release(id);
  }
  CHECK_EQ(cache.counts().kept, 6);
  const SequenceId id = cache.reserve({keys(16, 5000), 16});
  extend(cache, id, keys(32, 5000));
  CHECK_EQ(cache.counts().evicted, 2);
  CHECK_EQ(cache.find_prefix(keys(64)).size(), size_t{1});
  CHECK_EQ(cache.find_prefix(keys(64, 1000)).size(), size_t{3});
  cache.check();
}

TEST(truncate_forgets_positions_and_never_writes_what_others_read) {
  KVCache cache(small(8), "m");
  const SequenceId a = cache.reserve({keys(40), 0, 2});
  extend(cache, a, keys(40));
  const SequenceId b = cache.fork(a);
  cache.truncate(a, 20);
  check_contents(cache, a, keys(20));
  CHECK_EQ(cache.find_prefix(keys(40)).size(), size_t{1});  // the page that a ends in is left out
  extend(cache, a, keys(12, 500));
  check_contents(cache, a, joined(keys(20), keys(12, 500)));
  check_contents(cache, b, keys(40));
  cache.check();
  cache.truncate(a, 0);
  CHECK_EQ(cache.length(a), 0);
  CHECK_THROWS(InvalidArgument, cache.truncate(a, 1), "length is 1");
  CHECK_THROWS(InvalidArgument, cache.truncate(b, -1), "length is -1");
  cache.check();
}

TEST(pages_are_there_before_their_positions) {
  KVCache cache(small(8), "m");
  const SequenceId a = cache.reserve({keys(10), 50});
  extend(cache, a, keys(10));
  cache.append(a, keys(1, 10));
  cache.cover(a, 35);
  const std::vector<int32_t> table(cache.block_table(a).begin(), cache.block_table(a).end());
  CHECK_EQ(table.size(), size_t{3});
  cache.append(a, keys(23, 11));  // finds them
  cache.append(a, keys(1, 34));
  CHECK(std::ranges::equal(cache.block_table(a), table));
  cache.check();
  cache.cover(a, 60);
  cache.cover(a, 0);  // gives back what has no positions
  CHECK(std::ranges::equal(cache.block_table(a), table));
  cache.check();
  cache.cover(a, 60);
  cache.truncate(a, 34);
  cache.check();
  CHECK_THROWS(InvalidArgument, cache.cover(a, 61), "passes the 60 that were reserved");
  cache.cover(a, 60);
  cache.release(a);
  cache.check();
  CHECK_EQ(cache.counts().referenced, 0);
}

TEST(a_sequence_is_extended_by_room_that_is_there) {
  KVCache cache(small(4), "m");
  const SequenceId a = cache.reserve({keys(10), 0});
  extend(cache, a, keys(10));
  CHECK_THROWS(InvalidArgument, cache.append(a, keys(1, 10)), "passes the 10");
  cache.extend(a, 5);  // has more already
  cache.extend(a, 40);
  CHECK_EQ(cache.counts().promised, 2);
  extend(cache, a, keys(30, 10));
  check_contents(cache, a, keys(40));
  const SequenceId b = cache.reserve({keys(16, 900), 0});
  CHECK_THROWS(CapacityError, cache.extend(a, 49), "needs 1 more pages, and 0 of 4");
  cache.release(b);
  cache.extend(a, 49);
  cache.release(a);
  const SequenceId c = cache.reserve({keys(8, 2000), 0, 2});
  CHECK_THROWS(InvalidArgument, cache.extend(c, 20), "1 forks reserved");
  CHECK_EQ(cache.counts().sequences, 1);
  cache.check();
}

TEST(a_truncation_that_would_break_a_promise_is_refused_and_changes_nothing) {
  KVCache cache(small(5), "m");
  const SequenceId a = cache.reserve({keys(48), 0});
  extend(cache, a, keys(48));
  const SequenceId b = cache.reserve({keys(48), 16});  // two pages shared, two of its own
  CHECK_EQ(cache.length(b), 32);
  CHECK_THROWS(CapacityError, cache.truncate(b, 0), "truncating sequence");
  CHECK_EQ(cache.length(b), 32);
  check_contents(cache, b, keys(32));
  cache.check();
}

TEST(admission_counts_prompt_answer_forks_and_what_is_shared) {
  KVCache cache(small(8), "m");
  const auto prompt = keys(20);
  CHECK(cache.admission({prompt, 108, 1}) == Admission::kNow);  // 128 positions, 8 pages
  CHECK(cache.admission({prompt, 109, 1}) == Admission::kNever);
  CHECK(cache.admission({prompt, 12, 7}) == Admission::kNow);  // 1 + 7
  CHECK(cache.admission({prompt, 12, 8}) == Admission::kNever);
  const SequenceId a = cache.reserve({prompt, 60});  // 5 pages
  CHECK_EQ(cache.counts().promised, 5);
  CHECK(cache.admission({prompt, 12, 3}) == Admission::kLater);
  CHECK_THROWS(CapacityError, cache.reserve({prompt, 12, 3}), "has to wait");
  CHECK_THROWS(CapacityError, cache.reserve({prompt, 12, 8}), "never fit");
  extend(cache, a, prompt);
  CHECK(cache.can_reserve({prompt, 12, 3}));  // the first page is a's
  CHECK_THROWS(CapacityError, (cache.fork(a), cache.fork(a)), "a fork of sequence");
  CHECK_THROWS(InvalidArgument, cache.reserve({{}, 12}), "prompt is empty");
  CHECK_THROWS(InvalidArgument, cache.reserve({prompt, -1}), "max_new_tokens is -1");
  CHECK_THROWS(InvalidArgument, cache.reserve({prompt, 1, 0}), "forks is 0");
  CHECK_THROWS(InvalidArgument, cache.append(a, keys(61)), "passes the 80");
  CHECK_THROWS(InvalidArgument, cache.append(77, keys(1)), "sequence is 77");
  cache.check();
}

TEST(beams_release_then_fork_within_their_reservation) {
  constexpr int64_t kBeams = 4;
  KVCache cache(small(1 + kBeams * 2), "m");
  const auto prompt = keys(20);
  std::vector<SequenceId> beams{cache.reserve({prompt, 28, kBeams})};  // 3 pages, 1 shared
  CHECK_EQ(cache.counts().promised, 9);
  extend(cache, beams[0], prompt);
  while (beams.size() < kBeams) beams.push_back(cache.fork(beams[0]));
  std::mt19937 random(11);
  for (int64_t step = 0; step < 28; ++step) {
    const size_t lost = random() % kBeams, twice = (lost + 1 + random() % (kBeams - 1)) % kBeams;
    cache.release(beams[lost]);
    beams[lost] = cache.fork(beams[twice]);
    for (size_t i = 0; i < kBeams; ++i) {
      extend(cache, beams[i], keys(1, 1000 * static_cast<int64_t>(i) + step));
    }
    cache.check();
  }
}

TEST(hash_collisions_cost_hits_and_nothing_else) {
  KVCache cache(small(32), "m", 1);  // two bits of hash in all
  std::vector<SequenceId> ids;
  for (int64_t i = 0; i < 6; ++i) {
    ids.push_back(cache.reserve({keys(40, 100 * i), 0}));
    CHECK_EQ(cache.length(ids.back()), 0);
    extend(cache, ids.back(), keys(40, 100 * i));
  }
  for (int64_t i = 0; i < 6; ++i) {
    check_contents(cache, ids[static_cast<size_t>(i)], keys(40, 100 * i));
    const auto found = cache.find_prefix(keys(40, 100 * i));
    for (size_t p = 0; p < found.size(); ++p) {
      CHECK_EQ(found[p], cache.block_table(ids[static_cast<size_t>(i)])[p]);
    }
  }
  CHECK(cache.counts().indexed <= 4);
  cache.check();
}

TEST(model_kind_and_order_change_the_hash) {
  using tgv::kv::chain_hash;
  using tgv::kv::root_hash;
  const auto a = root_hash("f16;2;3;8;m"), b = root_hash("f16;2;3;8;n");
  CHECK(!(a == b));
  CHECK(!(chain_hash(a, keys(16)) == chain_hash(b, keys(16))));
  auto swapped = keys(16);
  std::swap(swapped[3], swapped[4]);
  CHECK(!(chain_hash(a, keys(16)) == chain_hash(a, swapped)));
  PrefixIndex index(4, "m");
  CHECK(index.insert(0, PrefixIndex::kRoot, keys(16)));
  CHECK(index.insert(1, 0, keys(16)));
  CHECK(index.insert(2, 1, keys(16)));
  CHECK(index.insert(3, 0, swapped));
  CHECK(!index.insert(3, 0, swapped));
  CHECK_EQ(index.find(0, keys(16)), 1);
  CHECK_EQ(index.find(1, swapped), PrefixIndex::kMiss);
  std::vector<int32_t> removed;
  index.remove(1, [&](int32_t page) { removed.push_back(page); });
  CHECK(removed == (std::vector<int32_t>{2, 1}));
  CHECK_EQ(index.find(0, swapped), 3);
  index.remove(0, [&](int32_t page) { removed.push_back(page); });
  CHECK_EQ(index.size(), 0);
}

TEST(only_positions_that_are_not_committed_can_be_written) {
  KVCache cache(small(4), "m");
  const SequenceId a = cache.reserve({keys(20), 0});
  extend(cache, a, keys(18));
  std::vector<float> row(24, 1.0f);
  CHECK_THROWS(InvalidArgument, cache.write(a, 0, 17, 1, row.data(), row.data()), "is committed");
  CHECK_THROWS(InvalidArgument, cache.write(a, 0, 18, 1, row.data(), row.data()), "18");
  CHECK_THROWS(InvalidArgument, cache.write(a, 2, 18, 0, row.data(), row.data()), "layer is 2");
  CHECK_THROWS(InvalidArgument, cache.read(row.data(), row.data(), a, 0, 18, 1), "18 and 1");
  CHECK_THROWS(InvalidArgument, cache.references(4), "page is 4");
  CHECK_THROWS(InvalidArgument, cache.is_indexed(-1), "page is -1");
}

// What PageStore::read_page makes of a page, in memory of its own.
struct Carried {
  std::vector<uint8_t> numbers;
  std::vector<uint16_t> scales;

  explicit Carried(const Shape& shape)
      : numbers(static_cast<size_t>(shape.carried_bytes())),
        scales(static_cast<size_t>(shape.carried_scales())) {}
};

TEST(pages_are_carried_from_cache_to_cache_in_every_kind) {
  for (Kind kind : kKinds) {
    KVCache from(small(5, kind), "m"), to(small(3, kind), "m");
    const SequenceId a = from.reserve({keys(40), 8});
    extend(from, a, keys(40));
    const SequenceId b = to.reserve({keys(33), 0});
    to.append(b, keys(32));
    for (int64_t page = 1; page >= 0; --page) {  // in any order
      Carried carried(from.shape());
      from.read_page(carried.numbers.data(), carried.scales.data(), a, page);
      CHECK_THROWS(InvalidArgument,
                   to.read_page(carried.numbers.data(), carried.scales.data(), b, page), "page is");
      to.write_page(b, page, carried.numbers.data(), carried.scales.data());
    }
    CHECK_EQ(to.find_prefix(keys(33)).size(), size_t{0});
    to.commit(b);
    check_contents(to, b, keys(32));
    to.check();
    to.release(b);
    CHECK_EQ(to.find_prefix(keys(33)).size(), size_t{2});  // found and evicted as any other
    extend(to, to.reserve({keys(48, 100), 0}), keys(48, 100));
    CHECK_EQ(to.find_prefix(keys(33)).size(), size_t{0});
    to.check();
  }
}

TEST(only_whole_pages_are_carried_and_only_new_ones_written) {
  KVCache cache(small(4), "m");
  const SequenceId a = cache.reserve({keys(40), 0});
  extend(cache, a, keys(20));
  Carried carried(cache.shape());
  const auto read = [&](int64_t page) {
    cache.read_page(carried.numbers.data(), nullptr, a, page);
  };
  const auto write = [&](int64_t page) {
    cache.write_page(a, page, carried.numbers.data(), nullptr);
  };
  CHECK_THROWS(InvalidArgument, read(1), "page is 1, expected 0..0");
  CHECK_THROWS(InvalidArgument, read(-1), "page is -1");
  CHECK_THROWS(InvalidArgument, write(0), "page 0 of sequence 1 is committed");
  CHECK_THROWS(InvalidArgument, write(1), "page is 1, expected 0..0");
  cache.append(a, keys(12, 20));
  CHECK_THROWS(InvalidArgument, write(1), "page 1 of sequence 1 is committed, expected 2 or later");
  cache.truncate(a, 20);
  check_contents(cache, a, keys(20));
}

TEST(numbers_from_outside_are_those_that_rows_hold) {
  const auto number = [](auto value, Kind kind) {
    const decltype(value) two[2] = {0, value};
    tgv::kv::check_numbers(two, 2, kind);
  };
  const auto bits = [](int code) { return static_cast<uint16_t>(code); };
  for (const float good : {0.0f, -1e38f, 1e-45f}) number(good, Kind::kF32);
  for (const int good : {0x7bff, 0xfbff, 0x0001}) number(bits(good), Kind::kF16);
  for (const int good : {0x7f7f, 0xff7f, 0x7c00}) number(bits(good), Kind::kBF16);
  for (const int good : {-127, 127, 0}) number(static_cast<int8_t>(good), Kind::kI8);
  CHECK_THROWS(InvalidArgument, number(NAN, Kind::kF32), "element 1");
  CHECK_THROWS(InvalidArgument, number(-INFINITY, Kind::kF32), "of kind f32");
  CHECK_THROWS(InvalidArgument, number(bits(0x7c00), Kind::kF16), "of kind f16");
  CHECK_THROWS(InvalidArgument, number(bits(0xfe00), Kind::kF16), "of kind f16");
  CHECK_THROWS(InvalidArgument, number(bits(0x7f80), Kind::kBF16), "of kind bf16");
  CHECK_THROWS(InvalidArgument, number(static_cast<int8_t>(-128), Kind::kI8), "of kind int8");
  for (const int bad : {0x7c00, 0x7e00, 0x8000, 0xbc00}) {  // infinity, NaN, -0, -1
    const uint16_t scales[3] = {0x3c00, 0x7bff, bits(bad)};
    tgv::kv::check_scales(scales, 2);
    CHECK_THROWS(InvalidArgument, tgv::kv::check_scales(scales, 3), "scale 2");
  }
}

TEST(random_operations_keep_every_rule) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](size_t n) { return static_cast<int64_t>(random() % n); };
    KVCache cache(small(12 + below(20), kKinds[seed % 4]), "m", seed == 5 ? 2 : 64);
    std::map<SequenceId, std::vector<int64_t>> live;
    std::map<SequenceId, int64_t> limit;
    for (int step = 0; step < 700; ++step) {
      const int64_t what = below(10);
      if (live.empty() || what < 2) {
        const auto prompt = keys(1 + below(60), 1000 * below(2));
        const tgv::kv::Reservation request{prompt, below(40), 1 + below(3)};
        if (!cache.can_reserve(request)) continue;
        const SequenceId id = cache.reserve(request);
        live[id].assign(prompt.begin(), prompt.begin() + cache.length(id));
        limit[id] = static_cast<int64_t>(prompt.size()) + request.max_new_tokens;
        check_contents(cache, id, live[id]);
      } else {
        auto it = live.begin();
        std::advance(it, below(live.size()));
        auto& [id, have] = *it;
        const int64_t length = static_cast<int64_t>(have.size());
        if (what < 6) {
          // Mostly what a prompt would say, so that prefixes meet.
          const auto more =
              keys(std::min(limit[id] - length, below(20)), what < 5 ? length : 7000 + step);
          extend(cache, id, more);
          have = joined(have, more);
        } else if (what == 6) {
          try {
            const SequenceId made = cache.fork(id);
            live[made] = have;
            limit[made] = limit[id];
          } catch (const CapacityError&) {
          }
        } else if (what < 9) {
          const int64_t to = below(have.size() + 1);
          try {
            cache.truncate(id, to);
            have.resize(static_cast<size_t>(to));
          } catch (const CapacityError&) {
          }
          check_contents(cache, id, have);
        } else {
          cache.release(id);
          limit.erase(id);
          live.erase(it);
        }
      }
      cache.check();
      if (step % 20 == 0) {
        for (const auto& [id, have] : live) check_contents(cache, id, have);
      }
    }
    for (const auto& [id, have] : live) cache.release(id);
    cache.check();
    CHECK_EQ(cache.counts().referenced, 0);
    CHECK_EQ(cache.counts().free + cache.counts().kept, cache.counts().pages);
    CHECK_EQ(cache.counts().promised, 0);
  }
}

TEST_MAIN()
