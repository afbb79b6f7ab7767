// Checks that print where they failed, and a runner of tests, as tests/c/check.h has them for C.
#ifndef CHECK_HPP
#define CHECK_HPP

#include <mlxrt.hpp>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

inline std::atomic<int> check_failures{0};

inline void report(bool passed, const char *file, int line, const std::string &what) {
  if (passed) return;
  check_failures++;
  std::cout << "\n  " << file << ':' << line << ": " << what << std::flush;
}

#define CHECK(condition) report(static_cast<bool>(condition), __FILE__, __LINE__, #condition)

// The call throws an mlxrt::error of this code.
#define FAILS(call, expected)                                                                          \
  do {                                                                                                 \
    std::string got = "nothing thrown";                                                                \
    try {                                                                                              \
      static_cast<void>(call);                                                                         \
    } catch (const mlxrt::error &refused) {                                                            \
      got = refused.code() == (expected) ? "" : std::string(refused.name()) + ": " + refused.what();   \
    }                                                                                                  \
    report(got.empty(), __FILE__, __LINE__, #call " gives " + got + ", expected " #expected);          \
  } while (0)

inline std::string fixture(const std::string &name, const std::string &kind = "models") {
  return std::string(FIXTURES) + '/' + kind + '/' + name;
}

// A folder for what a test writes; gone with the test.
struct Folder {
  std::string path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "mlxrt-cpp-XXXXXX").string();
    if (!mkdtemp(name.data())) std::abort();
    path = name;
  }
  Folder(const Folder &) = delete;
  Folder &operator=(const Folder &) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

struct Test {
  const char *name;
  void (*run)();
};

// Runs the tests, or those whose name has argv[1] in it. What main returns.
inline int run_tests(const std::vector<Test> &tests, int argc, char **argv) {
  int passed = 0, failed = 0;
  for (const Test &test : tests) {
    if (argc > 1 && std::string(test.name).find(argv[1]) == std::string::npos) continue;
    std::cout << "test " << test.name << " ... " << std::flush;
    check_failures = 0;
    try {
      test.run();
    } catch (const std::exception &error) {
      report(false, test.name, 0, std::string("threw ") + error.what());
    }
    if (check_failures) {
      std::cout << "\ntest " << test.name << " FAILED" << std::endl;
      failed++;
    } else {
      std::cout << "ok" << std::endl;
      passed++;
    }
  }
  std::cout << passed << " passed, " << failed << " failed" << std::endl;
  return failed ? 1 : 0;
}

#endif
