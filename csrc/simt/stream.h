// Launches in order, run at once or recorded: what stands for a CUDA stream, its capture and a
// graph.
//
// A recorded launch is what a kernel node of a CUDA graph is: kernel, grid, block, shared memory
// and arguments, all by value. Whatever of them ought to have changed until the graph runs has not:
// Graph::difference finds it.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "simt/block.h"

namespace simt {

void add_bytes(std::vector<unsigned char>& image, const void* from, size_t bytes);

// The bytes of arguments one after another, padding cleared, so that equal arguments are equal
// bytes.
template <class Argument>
void add_image(std::vector<unsigned char>& image, const Argument& argument) {
  static_assert(std::is_trivially_copyable_v<Argument>, "a kernel's arguments are copied as bytes");
  union Copy {
    Argument value;
    Copy() {}
  } copy;
  std::memcpy(static_cast<void*>(&copy.value), &argument, sizeof argument);
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
  __builtin_clear_padding(&copy.value);
#endif
#endif
  add_bytes(image, &copy.value, sizeof argument);
}

struct Recorded {
  const void* kernel = nullptr;
  dim3 grid, block;
  size_t shared_bytes = 0;
  std::vector<unsigned char> arguments;
  std::function<void()> body;  // a thread's, with its own copies of the arguments
  bool dependent = false;      // may start before the launch before it is over
};

class Graph {
 public:
  void add(Recorded launch) { launches_.push_back(std::move(launch)); }
  void run() const;
  size_t size() const { return launches_.size(); }
  size_t bytes() const;

  // Where another recording differs, in words: "launch 3 has other arguments from byte 40". Empty:
  // nowhere.
  std::string difference(const Graph& other) const;

 private:
  std::vector<Recorded> launches_;
};

class Stream {
 public:
  bool is_capturing() const { return is_capturing_; }
  void begin_capture();  // throws Error while another is under way, as end_capture does if none is
  Graph end_capture();
  // As CUDA, refuses what cannot be part of a graph while it is recorded.
  void refuse_if_capturing(const char* what) const;

  // dependent: it may start before the launch before it is over, and its threads wait for that.
  template <class Kernel, class... Arguments>
  void launch(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, bool dependent,
              Arguments... arguments) {
    if (!is_capturing_) {
      return launch_body(
          grid, block, shared_bytes, /*cooperative=*/false, [=] { kernel(arguments...); },
          dependent);
    }
    Recorded out;
    out.dependent = dependent;
    out.kernel = reinterpret_cast<const void*>(kernel);
    out.grid = grid;
    out.block = block;
    out.shared_bytes = shared_bytes;
    (add_image(out.arguments, arguments), ...);
    out.body = [=] { kernel(arguments...); };
    recorded_.add(std::move(out));
  }

 private:
  bool is_capturing_ = false;
  Graph recorded_;
};

}  // namespace simt
