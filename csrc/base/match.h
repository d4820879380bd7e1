// Matches tensors against named sizes, and writes the error text from the match itself.
//
//   Sizes sizes;
//   sizes.match("q", q, {"S", "H", "D"}, {DType::kF16});
//   sizes.match("k_pages", k, {"NP", "H", "PS", "D"}, {DType::kF16});
//   -> InvalidArgument: k_pages is [512,32,16,64] f16, expected [NP,H=32,PS,D=80] f16; D was set by
//   q
//
// A name is bound by the first tensor that uses it; a number must be met exactly.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor_view.h"

namespace tgv {

// A size in an expected shape: a name of the project's alphabet, or a fixed number.
struct Dim {
  Dim(const char* size_name) : name(size_name) {}  // NOLINT: implicit, so that {"N", 80} reads well
  Dim(int64_t fixed) : value(fixed) {}             // NOLINT
  Dim(int fixed) : value(fixed) {}                 // NOLINT
  std::string name;                                // empty for a fixed number
  int64_t value = -1;
};

enum class Access { kRead, kWrite };

class Sizes {
 public:
  // Binds `name` by hand (an option rather than a tensor); `by` is quoted in errors.
  void set(const std::string& name, int64_t value, const std::string& by);

  // Throws InvalidArgument unless `view` has the rank, sizes, dtype and contiguity asked for (and
  // may be written to when access is kWrite). Names not yet bound are bound to the sizes of `view`,
  // but only if all of it matches.
  void match(std::string_view argument, const TensorView& view, const std::vector<Dim>& dims,
             std::initializer_list<DType> dtypes, Access access = Access::kRead);

  bool has(std::string_view name) const;
  int64_t operator[](std::string_view name) const;  // throws if the name is not bound

 private:
  struct Bound {
    std::string name;
    int64_t value;
    std::string by;
  };
  const Bound* find(std::string_view name) const;
  std::string expected_text(const std::vector<Dim>& dims,
                            std::initializer_list<DType> dtypes) const;

  std::vector<Bound> bound_;
};

}  // namespace tgv
