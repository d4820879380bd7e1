// The tables of the rotary embedding, the same for the CPU and a GPU.
#pragma once

#include <vector>

#include "model/architecture.h"

namespace tgv::model {

// Cosines and sines [max_positions, R/2] of the angles p * theta^(-2i/R), in float32 as torch
// computes them.
void make_rotary(std::vector<float>& cosines, std::vector<float>& sines,
                 const Architecture& architecture);

}  // namespace tgv::model
