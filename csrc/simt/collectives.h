// Warp collectives on one primitive: every lane of the mask deposits a value, the last to arrive
// computes for all, and each takes its own result.
#pragma once

#include <cstring>

#include "simt/block.h"

namespace simt {

// f(in, out): in[l] and out[l] are the slots of lane l; only lanes of `mask` hold something.
template <class In, class Out, class Function>
Out warp_collective(unsigned mask, const In& value, Function f) {
  static_assert(sizeof(In) <= kSlotBytes && sizeof(Out) <= kSlotBytes, "slot too small");
  static const char operation = 0;  // one address per Function type: the operation's identity
  Warp& w = warp();
  const int me = lane();
  if (!(mask >> me & 1)) {
    throw Error("lane " + std::to_string(me) +
                " takes part in a warp operation whose mask leaves it out");
  }
  Meeting& meeting = w.meetings[__builtin_ctz(mask)];
  if (meeting.arrived && meeting.operation != &operation) {
    throw Error("lanes of one warp meet in different warp operations");
  }
  meeting.operation = &operation;
  std::memcpy(w.in[me], &value, sizeof value);
  const unsigned generation = meeting.generation;
  ++block().progress;
  if ((meeting.arrived |= 1u << me) == mask) {
    meeting.arrived = 0;
    ++meeting.generation;
    f(w.in, w.out);
  } else {
    while (meeting.generation == generation) yield();
  }
  Out result;
  std::memcpy(&result, w.out[me], sizeof result);
  return result;
}

template <class T>
T load_slot(const unsigned char (&slot)[kSlotBytes]) {
  T value;
  std::memcpy(&value, slot, sizeof value);
  return value;
}

template <class T>
void store_slot(unsigned char (&slot)[kSlotBytes], const T& value) {
  std::memcpy(slot, &value, sizeof value);
}

// Every lane's value from the lane source(l); a source outside the mask is an error, as it is
// undefined on a GPU.
template <class T, class Source>
T shuffle(unsigned mask, T value, Source source) {
  return warp_collective<T, T>(mask, value, [=](auto in, auto out) {
    for (int l = 0; l < 32; ++l) {
      if (!(mask >> l & 1)) continue;
      const int from = source(l);
      if (!(mask >> from & 1)) throw Error("a shuffle reads a lane that its mask leaves out");
      std::memcpy(out[l], in[from], sizeof(T));
    }
  });
}

inline unsigned ballot(unsigned mask, bool vote) {
  return warp_collective<bool, unsigned>(mask, vote, [=](auto in, auto out) {
    unsigned votes = 0;
    for (int l = 0; l < 32; ++l) {
      if (mask >> l & 1 && load_slot<bool>(in[l])) votes |= 1u << l;
    }
    for (int l = 0; l < 32; ++l) store_slot(out[l], votes);
  });
}

}  // namespace simt

// The names kernels use.
inline void __syncthreads() { simt::block_barrier(); }
inline int __syncthreads_or(int vote) { return simt::block_barrier(vote != 0) != 0; }
inline int __syncthreads_count(int vote) {
  return static_cast<int>(simt::block_barrier(vote != 0));
}
inline void __syncwarp(unsigned mask = ~0u) { simt::ballot(mask, false); }
inline unsigned __ballot_sync(unsigned mask, int vote) { return simt::ballot(mask, vote != 0); }
inline int __any_sync(unsigned mask, int vote) { return simt::ballot(mask, vote != 0) != 0; }
inline int __all_sync(unsigned mask, int vote) { return simt::ballot(mask, vote != 0) == mask; }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return simt::shuffle(mask, value, [=](int l) { return l ^ bits; });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by) {
  return simt::shuffle(mask, value, [=](int l) { return l + by < 32 ? l + by : l; });
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  struct Request {
    T value;
    int source;
  };
  return simt::warp_collective<Request, T>(mask, Request{value, source}, [=](auto in, auto out) {
    for (int l = 0; l < 32; ++l) {
      if (!(mask >> l & 1)) continue;
      const int from = simt::load_slot<Request>(in[l]).source & 31;
      if (!(mask >> from & 1)) throw simt::Error("a shuffle reads a lane that its mask leaves out");
      simt::store_slot(out[l], simt::load_slot<Request>(in[from]).value);
    }
  });
}
