// kernels/cuda/page_copy against the same copies on the host. Compiled for the emulation and, by
// nvcc, for a GPU. The kernel has no barrier: no thread needs another's bytes.
#include <memory>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/schedules.h"

namespace tgv::test {
namespace {

struct Layout {
  int pages, layers;
  std::vector<int64_t> page_bytes;  // of each plane
  bool layers_inside;               // all layers of a page lie together
  int64_t gap = 0;                  // between one page and the next, never to be written
};

struct Pair {
  int32_t from, to;
};

int64_t page_stride(const Layout& l, int plane) {
  const int64_t step = l.page_bytes[plane] + l.gap;
  return l.layers_inside ? step * l.layers : step;
}

int64_t layer_stride(const Layout& l, int plane) {
  const int64_t step = l.page_bytes[plane] + l.gap;
  return l.layers_inside ? step : step * l.pages;
}

std::vector<uint8_t> noise(int64_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> out(static_cast<size_t>(bytes));
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random());
  return out;
}

bool is_page(const Layout& l, int32_t page) { return page >= 0 && page < l.pages; }

void copy_on_host(std::vector<uint8_t>& bytes, const Layout& l, int plane, const Pair& pair) {
  if (!is_page(l, pair.from) || !is_page(l, pair.to)) return;
  for (int layer = 0; layer < l.layers; ++layer) {
    uint8_t* pages = bytes.data() + layer * layer_stride(l, plane);
    std::memmove(pages + pair.to * page_stride(l, plane), pages + pair.from * page_stride(l, plane),
                 static_cast<size_t>(l.page_bytes[plane]));
  }
}

// count: how many of the pairs the device is told of; -1: it is not told, and takes all.
void check_copies(const Layout& l, const std::vector<Pair>& pairs, int count = -1) {
  const int planes = static_cast<int>(l.page_bytes.size());
  std::vector<int32_t> list;
  for (const Pair& pair : pairs) list.insert(list.end(), {pair.from, pair.to});
  DeviceArray<int32_t> list_there(list), count_there(std::vector<int32_t>{count});
  std::vector<std::vector<uint8_t>> before;
  std::vector<std::unique_ptr<DeviceArray<uint8_t>>> arrays;
  cuda::PageCopyParams p;
  p.pairs = static_cast<int>(pairs.size());
  p.pages = l.pages;
  p.layers = l.layers;
  p.planes = planes;
  for (int i = 0; i < planes; ++i) {
    before.push_back(noise((l.page_bytes[i] + l.gap) * l.pages * l.layers, 7u + i));
    arrays.push_back(std::make_unique<DeviceArray<uint8_t>>(before.back()));
    p.plane[i] = {arrays[i]->data(), l.page_bytes[i], page_stride(l, i), layer_stride(l, i)};
  }
  p.list = list_there.data();
  p.count = count < 0 ? nullptr : count_there.data();
  cuda::launch_page_copy(p, {});
  for (int i = 0; i < planes; ++i) {
    std::vector<uint8_t> expected = before[i];
    for (int n = 0; n < (count < 0 ? p.pairs : count); ++n) copy_on_host(expected, l, i, pairs[n]);
    CHECK(arrays[i]->guards_intact());
    CHECK(arrays[i]->download() == expected);
  }
}

TEST(sizes_around_chunks) {
  for (int64_t bytes : {16, 32, 4080, 4096, 4112, 16368, 16384, 16400, 32768, 40976}) {
    for (bool inside : {false, true}) check_copies({4, 2, {bytes}, inside}, {{2, 0}, {2, 3}});
  }
}

TEST(a_cache_of_int8_pages) {  // K and V [H=4, 16, 80] with scales [H=4, 16] f16, three layers
  const std::vector<int64_t> planes = {4 * 16 * 80, 4 * 16 * 80, 4 * 16 * 2, 4 * 16 * 2};
  for (bool inside : {false, true}) check_copies({6, 3, planes, inside}, {{5, 1}, {0, 3}, {5, 2}});
}

TEST(planes_of_different_sizes) {
  check_copies({3, 2, {16, 40976, 16384, 48}, false}, {{1, 2}});
  check_copies({3, 2, {40976, 16}, true}, {{1, 0}, {1, 2}});
}

TEST(nothing_between_pages_is_written) {
  check_copies({4, 3, {1040, 48}, true, 32}, {{3, 1}});
  check_copies({4, 3, {1040, 48}, false, 32}, {{3, 1}});
}

TEST(one_page_or_one_layer_needs_no_stride) {
  alignas(16) uint8_t page[64] = {};
  const int32_t list[2] = {0, 0};
  cuda::PageCopyParams p;
  p.pairs = p.pages = p.layers = p.planes = 1;
  p.plane[0] = {page, 64, 0, 0};
  p.list = list;
  CHECK_EQ(cuda::page_copy_why_not(p), std::string());
}

TEST(the_count_is_read_on_the_device) {
  const std::vector<Pair> pairs = {{4, 0}, {4, 1}, {4, 2}};
  for (int count = 0; count <= 3; ++count) check_copies({5, 2, {2560}, false}, pairs, count);
}

TEST(pairs_without_a_page_copy_nothing) {
  check_copies({5, 2, {2560}, false},
               {{-1, -1}, {4, 1}, {4, -1}, {-1, 2}, {5, 2}, {4, 5}, {3, 3}, {INT32_MAX, 0}});
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_copies({6, 3, {5120, 16400, 128}, true}, {{5, 1}, {0, 3}, {-1, -1}, {5, 2}}, 4);
  });
}

TEST(bytes_and_blocks) {
  cuda::PageCopyParams p;
  p.pairs = 4;
  p.layers = 32;
  p.planes = 2;
  p.plane[0].page_bytes = p.plane[1].page_bytes = 32 * 16 * 80;
  CHECK_EQ(cuda::page_copy_bytes(p, 1), int64_t{2 * 2 * 32 * 40960});
  CHECK_EQ(cuda::page_copy_blocks(p), int64_t{4 * 32 * 2 * 3});
}

TEST(why_not_says_what_is_wrong) {
  alignas(16) uint8_t page[64] = {};
  const int32_t list[2] = {0, 0};
  cuda::PageCopyParams p;
  const auto why_not = [&p] { return cuda::page_copy_why_not(p); };
  p.pages = 2;
  CHECK_EQ(why_not(), std::string("N=0, NP=2, L=0, expected all >= 1"));
  p.pairs = 1;
  p.layers = 2;
  p.planes = 5;
  CHECK_EQ(why_not(), std::string("there are 5 planes, expected 1..4"));
  p.planes = 1;
  CHECK_EQ(why_not(), std::string("plane 0 is null"));
  p.plane[0].data = page;
  CHECK_EQ(why_not(), std::string("plane 0 has pages of 0 bytes"));
  p.plane[0].page_bytes = 32;
  p.plane[0].page_stride = 64;
  CHECK_EQ(why_not(), std::string("plane 0 has strides 64 and 0, its pages have 32 bytes"));
  p.plane[0].layer_stride = 40;
  CHECK_EQ(why_not(), std::string("plane 0 is not made of 16-byte aligned multiples of 16 bytes"));
  p.plane[0].layer_stride = 32;
  CHECK_EQ(why_not(), std::string("list is null"));
  p.list = list;
  CHECK_EQ(why_not(), std::string());
  p.pairs = INT32_MAX;
  CHECK_EQ(why_not(), std::string("N=2147483647 pairs of such pages need 4294967294 blocks, a "
                                  "launch has 2^31-1"));
  CHECK_THROWS(InvalidArgument, cuda::launch_page_copy(p, {}), "page_copy: N=2147483647");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
