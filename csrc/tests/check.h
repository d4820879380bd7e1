// A test framework in one header: the tests run on devices and under sanitizers, with nothing else
// installed.
//
//   TEST(name) { CHECK(a == b); CHECK_EQ(a, b); CHECK_THROWS(InvalidArgument, call(), "part of the
//   message"); } TEST_MAIN()     runs all, or those whose names contain an argument; exit code 1 if
//   one fails
#pragma once

#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/errors.h"

namespace tgv::test {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Register {
  Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  throw std::runtime_error(concat(file, ":", line, ": ", what));
}

inline int run(int count, char** names) {
  int failed = 0, ran = 0;
  for (const Test& test : tests()) {
    bool wanted = count < 2;
    for (int i = 1; i < count; ++i) wanted = wanted || std::strstr(test.name, names[i]);
    if (!wanted) continue;
    ++ran;
    try {
      test.body();
      std::printf("ok   %s\n", test.name);
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s\n", test.name, error.what());
      ++failed;
    }
    std::fflush(stdout);
  }
  std::printf("%d tests, %d failed\n", ran, failed);
  return failed || ran == 0 ? 1 : 0;
}

}  // namespace tgv::test

#define TEST(name)                                                      \
  static void test_##name();                                            \
  static const tgv::test::Register register_##name(#name, test_##name); \
  static void test_##name()

#define TEST_MAIN() \
  int main(int count, char** arguments) { return tgv::test::run(count, arguments); }

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) tgv::test::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (0)

#define CHECK_EQ(a, b)                                                                     \
  do {                                                                                     \
    const auto a_ = (a);                                                                   \
    const auto b_ = (b);                                                                   \
    if (!(a_ == b_)) {                                                                     \
      tgv::test::fail(__FILE__, __LINE__, tgv::concat(#a, " is ", a_, ", expected ", b_)); \
    }                                                                                      \
  } while (0)

#define CHECK_THROWS(type, statement, part)                                                \
  do {                                                                                     \
    bool thrown_ = false;                                                                  \
    try {                                                                                  \
      statement;                                                                           \
    } catch (const type& error_) {                                                         \
      thrown_ = true;                                                                      \
      if (!std::strstr(error_.what(), part)) {                                             \
        tgv::test::fail(__FILE__, __LINE__,                                                \
                        tgv::concat("'", error_.what(), "' lacks '", part, "'"));          \
      }                                                                                    \
    }                                                                                      \
    if (!thrown_) tgv::test::fail(__FILE__, __LINE__, #statement " did not throw " #type); \
  } while (0)
