/* What the machine's memory gives, measured beside the benchmark:
 *
 *   bandwidth memory THREADS    the threads read a buffer that no cache holds, each its own part; GB/s of each pass
 *   bandwidth file PATH         read(2) of the file into memory of its size, the memory touched before; seconds of each pass
 *
 * Both print one line of JSON.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BYTES ((size_t)512 << 20)
#define PASSES 8
#define MAX_THREADS 64
#define LANES 32

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Large pages where the system has them: the limit is the memory's, not the page table's. */
static void *allocate(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
#ifdef MADV_HUGEPAGE
  (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  memset(memory, 1, bytes);
  return memory;
}

typedef struct {
  const uint64_t *memory;
  size_t words;
  pthread_barrier_t *barrier;
  uint64_t sum;
  double start[PASSES], end[PASSES];
} part;

/* Independent sums, which the compiler keeps in vectors: nothing waits but for memory. */
static void *read_part(void *argument) {
  part *mine = argument;
  for (int pass = 0; pass < PASSES; pass++) {
    uint64_t sums[LANES] = {0};
    pthread_barrier_wait(mine->barrier);
    mine->start[pass] = now();
    for (size_t i = 0; i + LANES <= mine->words; i += LANES) {
      for (size_t lane = 0; lane < LANES; lane++) sums[lane] ^= mine->memory[i + lane];
    }
    for (size_t lane = 0; lane < LANES; lane++) mine->sum += sums[lane];
    mine->end[pass] = now();
  }
  return NULL;
}

static void memory_speed(size_t threads) {
  pthread_t ids[MAX_THREADS];
  part parts[MAX_THREADS];
  pthread_barrier_t barrier;
  uint64_t *memory = allocate(BYTES);
  size_t words = BYTES / sizeof *memory / threads;
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (size_t i = 0; i < threads; i++) {
    parts[i] = (part){.memory = memory + i * words, .words = words, .barrier = &barrier};
    if (pthread_create(&ids[i], NULL, read_part, &parts[i])) fail("pthread_create");
  }
  uint64_t sum = 0;
  for (size_t i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    sum += parts[i].sum;
  }
  printf("{\"threads\":%zu,\"gb_s\":[", threads);
  for (int pass = 0; pass < PASSES; pass++) {
    /* By the threads' own clocks: on a busy machine whoever waits for them may see the start late. */
    double start = parts[0].start[pass], end = parts[0].end[pass];
    for (size_t i = 1; i < threads; i++) {
      if (parts[i].start[pass] < start) start = parts[i].start[pass];
      if (parts[i].end[pass] > end) end = parts[i].end[pass];
    }
    printf("%s%.4f", pass ? "," : "", (double)(words * threads * sizeof *memory) / (end - start) * 1e-9);
  }
  printf("],\"sum\":%llu}\n", (unsigned long long)sum); /* used, so that the reading is not optimised away */
}

static void file_speed(const char *path) {
  struct stat status;
  int fd = open(path, O_RDONLY);
  if (fd < 0 || fstat(fd, &status)) fail(path);
  size_t size = (size_t)status.st_size;
  char *memory = allocate(size);
  printf("{\"bytes\":%zu,\"s\":[", size);
  for (int pass = 0; pass < 3; pass++) {
    double start = now();
    for (size_t at = 0; at < size;) {
      ssize_t got = pread(fd, memory + at, size - at, (off_t)at);
      if (got <= 0) fail("pread");
      at += (size_t)got;
    }
    printf("%s%.6f", pass ? "," : "", now() - start);
  }
  puts("]}");
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "memory") == 0) {
    size_t threads = strtoul(argv[2], NULL, 10);
    if (threads >= 1 && threads <= MAX_THREADS) {
      memory_speed(threads);
      return 0;
    }
  } else if (argc == 3 && strcmp(argv[1], "file") == 0) {
    file_speed(argv[2]);
    return 0;
  }
  fprintf(stderr, "bandwidth memory THREADS | file PATH\n");
  return 2;
}
