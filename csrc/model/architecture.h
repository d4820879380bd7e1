// Sizes and constants of a Phi backbone: what Python calls TextConfig.
#pragma once

#include <cstdint>

namespace tgv::model {

struct Architecture {
  int64_t width = 0;          // C = H * D
  int64_t layers = 0;         // L, 1..1024
  int64_t heads = 0;          // H, 1..1024
  int64_t head_dim = 0;       // D, a multiple of 4 up to 256
  int64_t rotary_dims = 0;    // R, even, 0..D
  int64_t mlp_width = 0;      // F
  int64_t vocab = 0;          // V
  int64_t max_positions = 0;  // 1..2^20
  double rope_theta = 10000.0;
  float norm_eps = 1e-5f;      // LayerNorms, those of q and k included
  float rms_norm_eps = 1e-6f;  // of the norm after attention
  bool qk_norm = true;
  bool post_attention_norm = true;

  void check() const;       // throws InvalidArgument naming the field
#if __cplusplus >= 202002L  // nvcc reads this header as C++17, where nobody compares
  bool operator==(const Architecture&) const = default;
#endif
};

}  // namespace tgv::model
