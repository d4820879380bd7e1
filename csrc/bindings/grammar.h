// Grammars as Python has them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/grammar.h"

namespace tgv::bindings {

// A grammar at its beginning. Never advanced, so that any number of rows may begin with it.
class GrammarHandle {
 public:
  explicit GrammarHandle(std::shared_ptr<const engine::Grammar> grammar)
      : grammar_(std::move(grammar)) {}

  const std::shared_ptr<const engine::Grammar>& start() const { return grammar_; }

 private:
  std::shared_ptr<const engine::Grammar> grammar_;
};

// Bytes of Python, the texts of a vocabulary for instance, copied.
inline std::vector<std::string> strings_of(const std::vector<pybind11::bytes>& list) {
  return {list.begin(), list.end()};
}

}  // namespace tgv::bindings
