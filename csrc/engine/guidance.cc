#include "engine/guidance.h"

#include <dlfcn.h>

#include <cstring>
#include <string_view>

#include "base/errors.h"

namespace tgv::engine {

// --- the library's C interface -----------------------------------------------------------------
// As its header declares it. The first struct carries its size; the second is filled in by the
// library, which may know of more fields: there is room for them.
namespace {

struct TokenizerInit {
  size_t struct_size;
  uint32_t vocab_size;
  uint32_t end;
  const uint32_t* lengths;
  const uint8_t* bytes;
  const char* json;
  bool assumes_string;
  size_t (*tokenize)(const void*, const uint8_t*, size_t, uint32_t*, size_t);
  bool tokenizes_greedily;
  const void* user_data;
  const char* const* slices;
  const uint32_t* further_ends;
  uint32_t further_end_count;
};

struct ConstraintInit {
  const void* tokenizer;
  uint32_t log_buffer_level;
  uint32_t log_stderr_level;
  alignas(8) uint8_t rest[1024];
};

constexpr size_t kErrorBytes = 1024;

// One line of at most 300 bytes.
std::string one_line(const char* text) {
  std::string line = text ? text : "no reason given";
  for (char& c : line) c = c == '\n' ? ' ' : c;
  return line.substr(0, 300);
}

}  // namespace

struct GuidanceLibrary {
  const char* (*version)();
  void* (*new_tokenizer)(const TokenizerInit*, char*, size_t);
  void (*free_tokenizer)(void*);
  void (*set_defaults)(ConstraintInit*, const void*);
  void* (*new_matcher)(const ConstraintInit*, const char*, const char*);
  void* (*clone_matcher)(const void*);
  void (*free_matcher)(void*);
  const char* (*error)(void*);
  int32_t (*mask_into)(void*, uint32_t*, size_t);
  int32_t (*consume)(void*, uint32_t);
  int32_t (*roll_back)(void*, size_t);
  bool (*is_stopped)(const void*);
};

namespace {

template <class Function>
void find(Function*& out, void* file, const char* name, const std::string& path) {
  void* symbol = dlsym(file, name);
  if (!symbol)
    throw Unsupported(concat(path, " lacks ", name, ", expected llguidance 1.9 or newer"));
  std::memcpy(&out, &symbol, sizeof out);
}

// The file stays loaded for good: it is a module of the interpreter's.
GuidanceLibrary load(const std::string& path) {
  void* file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!file) throw Unsupported(concat("llguidance cannot be loaded: ", one_line(dlerror())));
  GuidanceLibrary lib;
  find(lib.version, file, "llg_get_version", path);
  if (!std::string_view(lib.version()).starts_with("llguidance@1.")) {
    throw Unsupported(concat(path, " is ", one_line(lib.version()), ", expected llguidance 1.x"));
  }
  find(lib.new_tokenizer, file, "llg_new_tokenizer_v2", path);
  find(lib.free_tokenizer, file, "llg_free_tokenizer", path);
  find(lib.set_defaults, file, "llg_constraint_init_set_defaults", path);
  find(lib.new_matcher, file, "llg_new_matcher", path);
  find(lib.clone_matcher, file, "llg_clone_matcher", path);
  find(lib.free_matcher, file, "llg_free_matcher", path);
  find(lib.error, file, "llg_matcher_get_error", path);
  find(lib.mask_into, file, "llg_matcher_compute_mask_into", path);
  find(lib.consume, file, "llg_matcher_consume_token", path);
  find(lib.roll_back, file, "llg_matcher_rollback", path);
  find(lib.is_stopped, file, "llg_matcher_is_stopped", path);
  return lib;
}

}  // namespace

// --- one row -----------------------------------------------------------------------------------
class GuidanceGrammar : public Grammar {
 public:
  GuidanceGrammar(std::shared_ptr<const Guidance> of, void* matcher)
      : of_(std::move(of)), matcher_(matcher), bits_(mask_words(of_->vocab() + 1)) {}
  ~GuidanceGrammar() override { library().free_matcher(matcher_); }
  GuidanceGrammar(const GuidanceGrammar&) = delete;
  GuidanceGrammar& operator=(const GuidanceGrammar&) = delete;

  int64_t vocab() const override { return of_->vocab(); }

  bool allow(std::span<uint32_t> mask, int64_t /*left*/) override {
    check(library().mask_into(matcher_, bits_.data(), bits_.size() * sizeof(uint32_t)));
    const int32_t end = static_cast<int32_t>(vocab());
    const bool may_end = is_allowed(bits_, end);
    set_allowed(bits_, end, false);
    std::memcpy(mask.data(), bits_.data(), mask.size_bytes());
    return may_end;
  }

  void accept(int32_t id) override {
    check(library().consume(matcher_, static_cast<uint32_t>(id)));
  }
  void take_back(int64_t count) override {
    if (count > 0) check(library().roll_back(matcher_, static_cast<size_t>(count)));
  }
  bool is_over() const override { return library().is_stopped(matcher_); }
  bool rules_ends() const override { return true; }

  std::unique_ptr<Grammar> copy() const override {
    return std::make_unique<GuidanceGrammar>(of_, library().clone_matcher(matcher_));
  }

 private:
  const GuidanceLibrary& library() const { return *of_->library_; }
  void check(int32_t result) const {
    if (result < 0) throw Error(concat("the grammar: ", one_line(library().error(matcher_))));
  }

  std::shared_ptr<const Guidance> of_;
  void* const matcher_;
  std::vector<uint32_t> bits_;  // with the end's
};

// --- a vocabulary ------------------------------------------------------------------------------
std::shared_ptr<const Guidance> Guidance::open(const std::string& path,
                                               const std::vector<std::string>& token_bytes) {
  std::shared_ptr<Guidance> out(new Guidance());
  out->library_ = std::make_unique<GuidanceLibrary>(load(path));
  out->vocab_ = static_cast<int64_t>(token_bytes.size());
  std::vector<uint32_t> lengths;
  std::string bytes;
  for (const std::string& token : token_bytes) {
    lengths.push_back(static_cast<uint32_t>(token.size()));
    bytes += token;
  }
  lengths.push_back(0);  // the end: what ends a row differs from request to request
  TokenizerInit init{};
  init.struct_size = sizeof init;
  init.vocab_size = static_cast<uint32_t>(lengths.size());
  init.end = init.vocab_size - 1;
  init.lengths = lengths.data();
  init.bytes = reinterpret_cast<const uint8_t*>(bytes.data());
  init.tokenizes_greedily = true;  // nothing is tokenised: masks come from the bytes of ids
  char words[kErrorBytes] = {};
  out->tokenizer_ = out->library_->new_tokenizer(&init, words, sizeof words);
  if (!out->tokenizer_) throw Error(concat("llguidance refused the vocabulary: ", one_line(words)));
  return out;
}

Guidance::~Guidance() {
  if (tokenizer_) library_->free_tokenizer(tokenizer_);
}

std::unique_ptr<Grammar> Guidance::compile(const std::string& kind, const std::string& text) const {
  ConstraintInit init{};
  library_->set_defaults(&init, tokenizer_);
  init.log_stderr_level = 0;
  void* matcher = library_->new_matcher(&init, kind.c_str(), text.c_str());
  auto grammar = std::make_unique<GuidanceGrammar>(shared_from_this(), matcher);
  if (const char* words = library_->error(matcher)) {
    throw InvalidArgument(concat(kind, " cannot be used: ", one_line(words)));
  }
  return grammar;
}

}  // namespace tgv::engine
