// What sampling on a GPU is given: a step's draws, laid out in one struct of fixed addresses.
//
// Struct    Offsets follow from DrawLimits alone, and everything that tells one draw from another
//           is in it, the random counter included, so that a captured graph can be replayed. In two
//           parts: what every draw has, which goes up with the step (step.h), and the lists, of
//           which most draws have none. Those of all draws stand one after another in an array of
//           each kind; what is not used of the arrays is not uploaded.
//
// Host code. C++17: nvcc compiles it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/advance.h"
#include "kernels/cuda/sampling.h"
#include "model/draw.h"

namespace tgv::model {

// The parts: in pinned memory on the host, and at the same offsets on the device.
struct DrawHead {
  cuda::SamplingSettings* settings;  // [draws]
  int64_t* positions;                // [draws]
  int32_t* logit_rows;               // [draws] -1: no draw
  cuda::AdvanceRow* state;           // [draws]
  int32_t* steps;                    // [1] done, 0 at first
};
struct DrawLists {
  int32_t* history;  // each [draws * what a draw may have]
  int32_t* bias_ids;
  float* bias_values;
  int32_t* banned;
};

class DrawInputs {
 public:
  // vocab: V. Throws InvalidArgument.
  DrawInputs(int64_t vocab, const DrawLimits& limits);

  const DrawLimits& limits() const { return limits_; }
  size_t head_bytes() const { return head_bytes_; }
  size_t list_bytes() const { return list_bytes_; }  // with everything in them
  DrawHead head(uint8_t* base) const;                // base: 256-byte aligned
  DrawLists lists(uint8_t* base) const;

  // Throws InvalidArgument naming the draw if they do not fit limits or vocabulary, or want a row
  // that the step does not have. On a GPU a wrong id is the end of the process's CUDA. Allocates
  // nothing.
  void check(const Draw* draws, int64_t count, int64_t logit_rows) const;
  void check_ahead(const Draw* draws, int64_t count, const int64_t* ahead) const;

  // Writes draws that were checked. Allocates nothing.
  // ahead: tokens that each may get besides in steps without the host, for which there is room in
  // its history; null: none.
  void fill(uint8_t* head, uint8_t* lists, const Draw* draws, int64_t count,
            const int64_t* ahead = nullptr);

  // Makes draws `count` to `rows` - 1 none.
  void pad(uint8_t* head, int64_t count, int64_t rows) const;

  // What the last fill wrote of the lists, in pieces; those of no bytes count as well.
  struct Piece {
    size_t offset = 0, bytes = 0;
  };
  const std::array<Piece, 4>& written() const { return written_; }

 private:
  void check_draw(const Draw& draw, int64_t index, int64_t logit_rows) const;

  const int64_t vocab_;
  const DrawLimits limits_;
  size_t head_bytes_ = 0, list_bytes_ = 0;
  std::array<Piece, 4> written_;
};

}  // namespace tgv::model
