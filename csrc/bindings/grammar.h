// Grammars as Python has them.
#pragma once

#include <memory>
#include <utility>

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

}  // namespace tgv::bindings
