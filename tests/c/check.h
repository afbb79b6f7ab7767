/* Checks that print where they failed, and a runner of tests. Each program of this folder includes it once.
 *
 * A failed check does not end its test: the library refuses a handle that is NULL, so going on is safe.
 */
#ifndef CHECK_H
#define CHECK_H

#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures;

static inline int check_report(int passed, const char *file, int line, const char *what) {
  if (!passed) {
    check_failures++;
    printf("\n  %s:%d: %s", file, line, what);
    fflush(stdout);
  }
  return passed;
}

static inline int check_int(int64_t actual, int64_t expected, const char *what, const char *file, int line) {
  int passed = check_report(actual == expected, file, line, what);
  if (!passed) printf("\n    is %" PRId64 ", expected %" PRId64, actual, expected);
  return passed;
}

static inline int check_text(const char *actual, const char *expected, const char *what, const char *file, int line) {
  int passed = check_report(actual && strcmp(actual, expected) == 0, file, line, what);
  if (!passed) printf("\n    is \"%s\", expected \"%s\"", actual ? actual : "(NULL)", expected);
  return passed;
}

static inline int check_has(const char *text, const char *part, const char *what, const char *file, int line) {
  int passed = check_report(text && strstr(text, part), file, line, what);
  if (!passed) printf("\n    is \"%s\", expected \"%s\" in it", text ? text : "(NULL)", part);
  return passed;
}

/* The code of an error, with its word in the message; frees the error. */
static inline int check_error(mlxrt_error *error, int32_t code, const char *word, const char *what, const char *file,
                              int line) {
  int32_t actual = mlxrt_error_code(error);
  const char *message = mlxrt_error_message(error);
  int passed = actual == code && strstr(message, word) != NULL;
  check_report(passed, file, line, what);
  if (!passed) {
    printf("\n    gives %s \"%s\", expected %s with \"%s\"", actual ? mlxrt_code_name(actual) : "no error", message,
           code ? mlxrt_code_name(code) : "no error", word);
  }
  mlxrt_error_free(error);
  return passed;
}

#define CHECK(condition) check_report(!!(condition), __FILE__, __LINE__, #condition)
#define CHECK_INT(actual, expected) check_int((int64_t)(actual), (int64_t)(expected), #actual, __FILE__, __LINE__)
#define CHECK_TEXT(actual, expected) check_text((actual), (expected), #actual, __FILE__, __LINE__)
#define CHECK_HAS(text, part) check_has((text), (part), #text, __FILE__, __LINE__)
/* The call succeeds. */
#define OK(call) check_error((call), MLXRT_OK, "", #call, __FILE__, __LINE__)
/* The call fails with this code, and its message has this word. */
#define FAILS(call, code, word) check_error((call), (code), (word), #call, __FILE__, __LINE__)

struct test {
  const char *name;
  void (*run)(void);
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Runs the tests, or those whose name has argv[1] in it. What main returns. */
static inline int run_tests(const struct test *tests, size_t count, int argc, char **argv) {
  int passed = 0, failed = 0;
  for (size_t i = 0; i < count; i++) {
    if (argc > 1 && !strstr(tests[i].name, argv[1])) continue;
    printf("test %s ... ", tests[i].name);
    fflush(stdout);
    check_failures = 0;
    tests[i].run();
    printf(check_failures ? "\ntest %s FAILED\n" : "ok\n", tests[i].name);
    check_failures ? failed++ : passed++;
  }
  printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}

#define RUN(tests) run_tests((tests), COUNT(tests), argc, argv)

#endif
