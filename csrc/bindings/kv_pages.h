// Pages of K and V, and a block table over them, as the attention kernels take them.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "base/match.h"
#include "kernels/cpu/kv_pages.h"

namespace tgv::bindings {

struct PageBuffers {
  pybind11::buffer k_pages, v_pages;                   // [NP, H, PS, D]; bf16 as the bits of f16
  std::optional<pybind11::buffer> k_scales, v_scales;  // [NP, H, PS] f16; for int8 and only then
  pybind11::buffer block_table;                        // [any] i32
  std::string kind;                                    // f32, f16, bf16 or int8
  int64_t first_position = 0;
};

// Throws InvalidArgument unless all fits together, and unless the block table has a page of the
// pages for every position below first_position + tokens.
cpu::KvPages match_pages(Sizes& sizes, const PageBuffers& buffers, int64_t tokens, Access access);

// The table itself, after match_pages.
const int32_t* block_table_of(const PageBuffers& buffers);

}  // namespace tgv::bindings
