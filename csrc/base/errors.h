// Exceptions of the native core. Nothing in it aborts or exits; bindings/ maps these to
// tinygptv_fast.errors.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace tgv {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An argument has the wrong type, shape, range or combination.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

// The request is valid, but this build or machine cannot do it; the message says which can.
class Unsupported : public Error {
 public:
  using Error::Error;
};

// The request is valid and this process could do it, but something of bounded size is full.
class CapacityError : public Error {
 public:
  using Error::Error;
};

// Something was closed and is used again.
class ClosedError : public Error {
 public:
  using Error::Error;
};

// The operating system or the GPU driver refused (out of memory, a failed launch, ...).
class SystemError : public Error {
 public:
  using Error::Error;
};

// concat("k is ", 3, ", expected 4") -> one string.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Throws InvalidArgument naming the argument unless least <= value <= most.
inline void check_range(const std::string& name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw InvalidArgument(concat(name, " is ", value, ", expected ", least, "..", most));
  }
}

}  // namespace tgv
