#include "model/architecture.h"

#include <cmath>

#include "base/errors.h"

namespace tgv::model {

namespace {

void check_positive(const char* name, double value) {
  if (!(value > 0) || !std::isfinite(value)) {
    throw InvalidArgument(
        concat("architecture.", name, " is ", value, ", expected a finite number > 0"));
  }
}

}  // namespace

void Architecture::check() const {
  constexpr int64_t kWidest = int64_t{1} << 20;  // far beyond any model, and no product overflows
  check_range("architecture.layers", layers, 1, 1024);
  check_range("architecture.heads", heads, 1, 1024);
  check_range("architecture.head_dim", head_dim, 4, 256);
  check_range("architecture.mlp_width", mlp_width, 1, kWidest);
  check_range("architecture.vocab", vocab, 1, int64_t{1} << 24);
  check_range("architecture.max_positions", max_positions, 1, kWidest);
  check_range("architecture.rotary_dims", rotary_dims, 0, head_dim);
  if (head_dim % 4) {
    throw InvalidArgument(
        concat("architecture.head_dim is ", head_dim, ", expected a multiple of 4"));
  }
  if (rotary_dims % 2) {
    throw InvalidArgument(
        concat("architecture.rotary_dims is ", rotary_dims, ", expected an even number"));
  }
  if (width != heads * head_dim) {
    throw InvalidArgument(concat("architecture.width is ", width,
                                 ", expected heads * head_dim = ", heads * head_dim));
  }
  check_positive("rope_theta", rope_theta);
  check_positive("norm_eps", norm_eps);
  check_positive("rms_norm_eps", rms_norm_eps);
}

}  // namespace tgv::model
