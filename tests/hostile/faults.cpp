// Loaded before the library (LD_PRELOAD): makes system calls on a folder's files, large allocations or calls into MLX
// fail, each at the Nth one. Nothing of it is in the library that ships. Glibc on x86-64.
//
// The functions of MLX are found with nm by faults.rs, which writes one line MLX_FUNCTION(number, "name") for each into
// mlx_functions.inc.
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>

namespace {
struct Countdown {
  std::atomic<long> calls{0};
  std::atomic<long> at{0};       // 0: only count
  std::atomic<bool> lasting{false};
  std::atomic<bool> armed{false};

  bool strikes() {
    if (!armed.load(std::memory_order_acquire)) return false;
    long number = ++calls;
    return at && (lasting ? number >= at : number == at);
  }
};
// What fails: 0 files, 1 allocations of C++, 2 MLX, 3 allocations of the library's own.
Countdown countdowns[4];

const char *prefix;
int error_number;
size_t least_bytes = 64 << 10;
} // namespace

extern "C" {
// From now on the `at`th call of this kind fails, or with `lasting` all from there on; 0 counts only. For files,
// `error` is the errno, -1 an early end, -2 a read of one byte; for allocations the least size that counts.
void hostile_arm(int kind, long at, int lasting, long error, const char *folder) {
  Countdown &countdown = countdowns[kind];
  if (kind == 0) prefix = folder, error_number = (int)error;
  if (kind == 1) least_bytes = (size_t)error;
  countdown.calls = 0;
  countdown.at = at;
  countdown.lasting = lasting;
  countdown.armed = true;
}

// Ends it; gives how many calls there were.
long hostile_disarm(int kind) {
  countdowns[kind].armed = false;
  return countdowns[kind].calls;
}

// ---- Files ----

static std::atomic<bool> ours[4096];

static bool path_is_ours(const char *path) {
  return countdowns[0].armed && prefix && path && !strncmp(path, prefix, strlen(prefix));
}

static bool file_is_ours(int file) {
  return countdowns[0].armed && file >= 0 && file < 4096 && ours[file];
}

// Whether this call fails; then errno is set, unless it is to be cut short.
static bool file_fails() {
  if (!countdowns[0].strikes()) return false;
  if (error_number > 0) errno = error_number;
  return true;
}

// The function that this one stands before.
#define REAL(name, ...)       \
  using Real = __VA_ARGS__;   \
  static Real real = (Real)dlsym(RTLD_NEXT, name)

int open64(const char *path, int flags, ...) {
  REAL("open64", int (*)(const char *, int, ...));
  va_list list;
  va_start(list, flags);
  mode_t mode = va_arg(list, mode_t);
  va_end(list);
  bool mine = path_is_ours(path);
  if (mine && error_number > 0 && file_fails()) return -1;
  int file = real(path, flags, mode);
  if (file >= 0 && file < 4096) ours[file] = mine;
  return file;
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  mode_t mode = va_arg(list, mode_t);
  va_end(list);
  return open64(path, flags, mode);
}

// From a folder's handle, or of a path.
static bool name_is_ours(int folder, const char *path) {
  return path && (*path == '/' || folder == AT_FDCWD ? path_is_ours(path) : file_is_ours(folder));
}

int openat64(int folder, const char *path, int flags, ...) {
  REAL("openat64", int (*)(int, const char *, int, ...));
  va_list list;
  va_start(list, flags);
  mode_t mode = va_arg(list, mode_t);
  va_end(list);
  bool mine = name_is_ours(folder, path);
  if (mine && error_number > 0 && file_fails()) return -1;
  int file = real(folder, path, flags, mode);
  if (file >= 0 && file < 4096) ours[file] = mine;
  return file;
}

int openat(int folder, const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  mode_t mode = va_arg(list, mode_t);
  va_end(list);
  return openat64(folder, path, flags, mode);
}

int close(int file) {
  REAL("close", int (*)(int));
  if (file >= 0 && file < 4096) ours[file] = false;
  return real(file);
}

ssize_t read(int file, void *into, size_t count) {
  REAL("read", ssize_t (*)(int, void *, size_t));
  if (file_is_ours(file) && file_fails()) {
    if (error_number > 0) return -1;
    count = error_number == -1 ? 0 : count > 0;
  }
  return real(file, into, count);
}

ssize_t pread64(int file, void *into, size_t count, off64_t at) {
  REAL("pread64", ssize_t (*)(int, void *, size_t, off64_t));
  if (file_is_ours(file) && file_fails()) {
    if (error_number > 0) return -1;
    count = error_number == -1 ? 0 : count > 0;
  }
  return real(file, into, count, at);
}

ssize_t pread(int file, void *into, size_t count, off_t at) { return pread64(file, into, count, at); }

// Whether a call fails that only looks: no such call is interrupted or cut short.
static bool look_fails(bool mine) { return mine && error_number > 0 && error_number != EINTR && file_fails(); }

int statx(int folder, const char *__restrict path, int flags, unsigned mask, struct statx *__restrict out) {
  REAL("statx", int (*)(int, const char *, int, unsigned, struct statx *));
  bool mine = path_is_ours(path) || (path && !*path && file_is_ours(folder));
  return look_fails(mine) ? -1 : real(folder, path, flags, mask, out);
}

int fstatat64(int folder, const char *__restrict path, struct stat64 *__restrict out, int flags) {
  REAL("fstatat64", int (*)(int, const char *, struct stat64 *, int));
  return look_fails(name_is_ours(folder, path)) ? -1 : real(folder, path, out, flags);
}

int fstatat(int folder, const char *__restrict path, struct stat *__restrict out, int flags) {
  REAL("fstatat", int (*)(int, const char *, struct stat *, int));
  return look_fails(name_is_ours(folder, path)) ? -1 : real(folder, path, out, flags);
}

int fstat(int file, struct stat *out) {
  REAL("fstat", int (*)(int, struct stat *));
  return look_fails(file_is_ours(file)) ? -1 : real(file, out);
}

int fstat64(int file, struct stat64 *out) {
  REAL("fstat64", int (*)(int, struct stat64 *));
  return look_fails(file_is_ours(file)) ? -1 : real(file, out);
}

DIR *fdopendir(int file) {
  REAL("fdopendir", DIR *(*)(int));
  return look_fails(file_is_ours(file)) ? NULL : real(file);
}

int closedir(DIR *folder) {
  REAL("closedir", int (*)(DIR *));
  int file = dirfd(folder);
  if (file >= 0 && file < 4096) ours[file] = false;
  return real(folder);
}

DIR *opendir(const char *path) {
  REAL("opendir", DIR *(*)(const char *));
  if (look_fails(path_is_ours(path))) return NULL;
  return real(path);
}

char *realpath(const char *__restrict path, char *__restrict out) {
  static auto real = (char *(*)(const char *, char *))dlvsym(RTLD_NEXT, "realpath", "GLIBC_2.3");
  if (look_fails(path_is_ours(path))) return NULL;
  return real(path, out);
}

// ---- Allocations ----

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static bool in_cpp(void *caller);
static bool in_library(void *caller);

// What C++ asks for, which turns a failure into an exception, or what the library's Rust does, which has a reserve.
static bool allocation_fails_for(void *caller, size_t bytes) {
  bool cpp = bytes >= least_bytes && countdowns[1].armed && in_cpp(caller) && countdowns[1].strikes();
  bool own = !cpp && countdowns[3].armed && in_library(caller) && countdowns[3].strikes();
  if (cpp || own) errno = ENOMEM;
  return cpp || own;
}

void *malloc(size_t bytes) { return allocation_fails_for(__builtin_return_address(0), bytes) ? NULL : __libc_malloc(bytes); }

void *calloc(size_t count, size_t bytes) {
  size_t all;
  if (__builtin_mul_overflow(count, bytes, &all)) return NULL;
  return allocation_fails_for(__builtin_return_address(0), all) ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes) { return allocation_fails_for(__builtin_return_address(0), bytes) ? NULL : __libc_realloc(old, bytes); }

int posix_memalign(void **out, size_t align, size_t bytes) {
  if (allocation_fails_for(__builtin_return_address(0), bytes)) return ENOMEM;
  void *made = __libc_memalign(align, bytes);
  if (!made) return ENOMEM;
  *out = made;
  return 0;
}

void *aligned_alloc(size_t align, size_t bytes) {
  return allocation_fails_for(__builtin_return_address(0), bytes) ? NULL : __libc_memalign(align, bytes);
}

// ---- MLX ----

// Where a library lies.
struct Range {
  const char *name;
  char *first, *last;
  bool holds(void *at) const { return (char *)at >= first && (char *)at < last; }
};

static int find_range(struct dl_phdr_info *info, size_t, void *into) {
  Range *range = (Range *)into;
  if (!strstr(info->dlpi_name, range->name)) return 0;
  char *&first = range->first, *&last = range->last;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    char *begin = (char *)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
    char *end = begin + info->dlpi_phdr[i].p_memsz;
    if (!first || begin < first) first = begin;
    if (end > last) last = end;
  }
  return 1;
}

static Range range_of(const char *name) {
  Range range = {name, NULL, NULL};
  dl_iterate_phdr(find_range, &range);
  return range;
}

static bool in_cpp(void *caller) {
  static Range cpp = range_of("libstdc++"), mlx = range_of("libmlx.so");
  return cpp.holds(caller) || mlx.holds(caller);
}

static bool in_library(void *caller) {
  static Range library = range_of("libmlxrt");
  return library.holds(caller);
}

// The function itself. Calls out of the library count; those that MLX makes of its own functions do not.
void *hostile_next(const char *name, char *caller) {
  static void *mlx = dlopen("libmlx.so", RTLD_LAZY | RTLD_NOLOAD);
  static Range library = range_of("libmlxrt");
  if (library.holds(caller) && countdowns[2].strikes()) {
    // For looking into one case: which function it was.
    if (getenv("MLXRT_HOSTILE_TRACE")) dprintf(2, "%s fails\n", name);
    throw std::runtime_error("a fault that the test asked for");
  }
  return dlsym(mlx, name);
}
}

// Keeps all argument registers, asks hostile_next, and goes on in the function itself.
#define MLX_FUNCTION(number, name)                                                                   \
  asm(".pushsection .rodata\n.Lname" #number ": .asciz \"" name "\"\n.popsection\n.text\n"          \
      ".globl " name "\n.type " name ",@function\n" name ":\n.cfi_startproc\n"                      \
      "subq $200,%rsp\n.cfi_adjust_cfa_offset 200\n"                                                \
      "movq %rdi,(%rsp)\nmovq %rsi,8(%rsp)\nmovq %rdx,16(%rsp)\nmovq %rcx,24(%rsp)\n"               \
      "movq %r8,32(%rsp)\nmovq %r9,40(%rsp)\nmovups %xmm0,64(%rsp)\nmovups %xmm1,80(%rsp)\n"        \
      "movups %xmm2,96(%rsp)\nmovups %xmm3,112(%rsp)\nmovups %xmm4,128(%rsp)\n"                     \
      "movups %xmm5,144(%rsp)\nmovups %xmm6,160(%rsp)\nmovups %xmm7,176(%rsp)\n"                    \
      "leaq .Lname" #number "(%rip),%rdi\nmovq 200(%rsp),%rsi\ncall hostile_next@PLT\n"             \
      "movq %rax,%r11\n"                                                                            \
      "movq (%rsp),%rdi\nmovq 8(%rsp),%rsi\nmovq 16(%rsp),%rdx\nmovq 24(%rsp),%rcx\n"               \
      "movq 32(%rsp),%r8\nmovq 40(%rsp),%r9\nmovups 64(%rsp),%xmm0\nmovups 80(%rsp),%xmm1\n"        \
      "movups 96(%rsp),%xmm2\nmovups 112(%rsp),%xmm3\nmovups 128(%rsp),%xmm4\n"                     \
      "movups 144(%rsp),%xmm5\nmovups 160(%rsp),%xmm6\nmovups 176(%rsp),%xmm7\n"                    \
      "addq $200,%rsp\n.cfi_adjust_cfa_offset -200\njmp *%r11\n.cfi_endproc\n"                      \
      ".size " name ",.-" name "\n");
#include "mlx_functions.inc"
