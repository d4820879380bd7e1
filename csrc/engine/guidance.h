// Grammars of the library llguidance: JSON schemas and regular expressions.
//
// Its Python wheel is a shared library with C entry points (llguidance.h of its sources), which are
// called here: no Python runs between two tokens and its lock is not taken. Nothing of it is
// linked; whoever has the wheel names the file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/grammar.h"

namespace tgv::engine {

struct GuidanceLibrary;  // its functions

// One vocabulary as the library sees it. Immutable; any thread.
class Guidance : public std::enable_shared_from_this<Guidance> {
 public:
  // path: of the library. token_bytes [V]: an id without text never comes.
  // Throws Unsupported if the file cannot be loaded or is another release than 1.x, Error if the
  // library refuses the vocabulary.
  static std::shared_ptr<const Guidance> open(const std::string& path,
                                              const std::vector<std::string>& token_bytes);
  ~Guidance();
  Guidance(const Guidance&) = delete;
  Guidance& operator=(const Guidance&) = delete;

  int64_t vocab() const { return vocab_; }

  // kind: "json_schema" or "regex". Throws InvalidArgument with the library's words.
  std::unique_ptr<Grammar> compile(const std::string& kind, const std::string& text) const;

 private:
  friend class GuidanceGrammar;
  Guidance() = default;

  std::unique_ptr<GuidanceLibrary> library_;
  void* tokenizer_ = nullptr;
  int64_t vocab_ = 0;  // the library's has one more id, the end
};

}  // namespace tgv::engine
