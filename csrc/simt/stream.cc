#include "simt/stream.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace simt {

namespace {

bool equal(dim3 a, dim3 b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

// What of two launches differs; empty: nothing.
std::string difference_of(const Recorded& a, const Recorded& b) {
  if (a.kernel != b.kernel) return "is of another kernel";
  if (!equal(a.grid, b.grid) || !equal(a.block, b.block)) return "has another grid";
  if (a.shared_bytes != b.shared_bytes) return "has other shared memory";
  if (a.dependent != b.dependent) return "starts at another time";
  const auto [at, other] =
      std::mismatch(a.arguments.begin(), a.arguments.end(), b.arguments.begin(), b.arguments.end());
  if (at == a.arguments.end() && other == b.arguments.end()) return "";
  return "has other arguments from byte " + std::to_string(at - a.arguments.begin());
}

}  // namespace

void add_bytes(std::vector<unsigned char>& image, const void* from, size_t bytes) {
  const auto* first = static_cast<const unsigned char*>(from);
  image.insert(image.end(), first, first + bytes);
}

void Graph::run() const {
  const bool early = options().early_starts && options().order != 0;
  std::unique_ptr<EarlyStart> started;  // the launch whose turn it is, if it has
  for (size_t i = 0; i < launches_.size(); ++i) {
    std::unique_ptr<EarlyStart> next;
    if (early && i + 1 < launches_.size() && launches_[i + 1].dependent) {
      const Recorded& l = launches_[i + 1];
      const bool waits = options().unwaiting_launch != static_cast<int>(i + 1);
      next = std::make_unique<EarlyStart>(l.grid, l.block, l.shared_bytes, l.body, waits);
    }
    const Recorded& launch = launches_[i];
    if (started) {
      started->finish();
    } else {
      launch_body(launch.grid, launch.block, launch.shared_bytes, /*cooperative=*/false,
                  launch.body, launch.dependent);
    }
    started = std::move(next);
  }
}

size_t Graph::bytes() const {
  size_t out = 0;
  for (const Recorded& launch : launches_) out += sizeof launch + launch.arguments.size();
  return out;
}

std::string Graph::difference(const Graph& other) const {
  if (size() != other.size()) {
    return std::to_string(other.size()) + " launches, not " + std::to_string(size());
  }
  for (size_t i = 0; i < size(); ++i) {
    const std::string what = difference_of(launches_[i], other.launches_[i]);
    if (!what.empty()) return "launch " + std::to_string(i) + " " + what;
  }
  return "";
}

void Stream::begin_capture() {
  if (is_capturing_) throw Error("a capture begins inside another");
  is_capturing_ = true;
  recorded_ = Graph();
}

Graph Stream::end_capture() {
  if (!is_capturing_) throw Error("a capture ends that has not begun");
  is_capturing_ = false;
  return std::exchange(recorded_, Graph());
}

void Stream::refuse_if_capturing(const char* what) const {
  if (is_capturing_) throw Error(std::string(what) + " while a graph is captured");
}

}  // namespace simt
