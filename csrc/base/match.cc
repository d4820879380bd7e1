#include "base/match.h"

#include <algorithm>

#include "base/errors.h"

namespace tgv {

const Sizes::Bound* Sizes::find(std::string_view name) const {
  for (const Bound& bound : bound_) {
    if (bound.name == name) return &bound;
  }
  return nullptr;
}

bool Sizes::has(std::string_view name) const { return find(name) != nullptr; }

int64_t Sizes::operator[](std::string_view name) const {
  const Bound* bound = find(name);
  if (!bound) throw InvalidArgument(concat("size ", name, " was asked for before a tensor set it"));
  return bound->value;
}

void Sizes::set(const std::string& name, int64_t value, const std::string& by) {
  const Bound* bound = find(name);
  if (bound && bound->value != value) {
    throw InvalidArgument(concat(by, " sets ", name, " to ", value, ", expected ", bound->value,
                                 " as set by ", bound->by));
  }
  if (!bound) bound_.push_back({name, value, by});
}

std::string Sizes::expected_text(const std::vector<Dim>& dims,
                                 std::initializer_list<DType> dtypes) const {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < dims.size(); ++i) {
    if (i) out << ',';
    if (dims[i].name.empty()) {
      out << dims[i].value;
    } else {
      out << dims[i].name;
      if (const Bound* bound = find(dims[i].name)) out << '=' << bound->value;
    }
  }
  out << ']';
  const char* separator = " ";
  for (DType dtype : dtypes) {
    out << separator << dtype_name(dtype);
    separator = " or ";
  }
  return out.str();
}

void Sizes::match(std::string_view argument, const TensorView& view, const std::vector<Dim>& dims,
                  std::initializer_list<DType> dtypes, Access access) {
  const Sizes before = *this;  // what the message quotes: the bindings other tensors made
  Sizes trial = *this;
  bool fits = view.shape.size() == dims.size();
  std::string because;
  for (size_t i = 0; fits && i < dims.size(); ++i) {
    const Dim& dim = dims[i];
    if (dim.name.empty()) {
      fits = view.shape[i] == dim.value;
    } else if (const Bound* bound = trial.find(dim.name)) {
      fits = view.shape[i] == bound->value;
      if (!fits) because = concat("; ", dim.name, " was set by ", bound->by);
    } else {
      trial.bound_.push_back({dim.name, view.shape[i], std::string(argument)});
    }
  }
  fits = fits && std::find(dtypes.begin(), dtypes.end(), view.dtype) != dtypes.end();
  if (!fits) {
    throw InvalidArgument(concat(argument, " is ", view.describe(), ", expected ",
                                 before.expected_text(dims, dtypes), because));
  }
  if (!view.is_contiguous()) {
    throw InvalidArgument(concat(argument, " is ", view.describe(), ", expected contiguous ",
                                 before.expected_text(dims, dtypes)));
  }
  if (access == Access::kWrite && view.read_only) {
    throw InvalidArgument(concat(argument, " is ", view.describe(), ", expected writable memory"));
  }
  if (!view.data && view.elements() != 0) {
    throw InvalidArgument(concat(argument, " is a null pointer with shape ", view.describe()));
  }
  bound_ = std::move(trial.bound_);
}

}  // namespace tgv
