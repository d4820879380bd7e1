// What sampling on a GPU is given: a step's draws, laid out in one struct of fixed addresses.
//
// Struct    Offsets follow from DrawLimits alone, and everything that tells one draw from another
// is
//           in it, the random counter included, so that a captured graph can be replayed. The lists
//           of all draws stand one after another in an array of each kind; what is not used of the
//           arrays is not uploaded.
//
// Host code. C++17: nvcc compiles it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/sampling.h"
#include "model/draw.h"

namespace tgv::model {

// The struct: in pinned memory on the host, and at the same offsets on the device.
struct DrawArrays {
  cuda::SamplingSettings* settings;  // [draws]
  int64_t* positions;                // [draws]
  int32_t* logit_rows;               // [draws]
  int32_t* history;                  // the lists, each [draws * what a draw may have]
  int32_t* bias_ids;
  float* bias_values;
  int32_t* banned;
};

class DrawInputs {
 public:
  // vocab: V. Throws InvalidArgument.
  DrawInputs(int64_t vocab, const DrawLimits& limits);

  const DrawLimits& limits() const { return limits_; }
  size_t bytes() const { return bytes_; }  // of the struct with everything in it
  DrawArrays arrays(uint8_t* base) const;  // base: 256-byte aligned

  // Throws InvalidArgument naming the draw if they do not fit limits or vocabulary, or want a row
  // that the step does not have. On a GPU a wrong id is the end of the process's CUDA. Allocates
  // nothing.
  void check(const Draw* draws, int64_t count, int64_t logit_rows) const;

  // Writes draws that were checked. Allocates nothing.
  void fill(uint8_t* base, const Draw* draws, int64_t count);

  // What the last fill wrote of the struct, in pieces; those of no bytes count as well.
  struct Piece {
    size_t offset = 0, bytes = 0;
  };
  const std::array<Piece, 5>& written() const { return written_; }

 private:
  void check_draw(const Draw& draw, int64_t index, int64_t logit_rows) const;

  const int64_t vocab_;
  const DrawLimits limits_;
  size_t bytes_ = 0;
  std::array<Piece, 5> written_;
};

}  // namespace tgv::model
