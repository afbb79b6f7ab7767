/* What it costs to save a session and to load it: beside the disk, which writes and reads as many bytes, and beside computing the
 * tokens again. Prints the rows of SAVING.md.
 *
 *     saving MODEL TOKENS FOLDER
 */
#define _GNU_SOURCE
#include <mlxrt.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STEP (4u << 20)
#define RUNS 5

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static void must(int done, const char *what) {
  if (done) return;
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Seconds to the first token, and how many tokens were not computed. */
static double ask(mlxrt_session *session, const int32_t *tokens, size_t count, uint64_t *cached) {
  mlxrt_input input = {.struct_size = sizeof input, .tokens = tokens, .token_count = count};
  mlxrt_generate_options options = {.struct_size = sizeof options, .max_tokens = 1};
  mlxrt_result result = {.struct_size = sizeof result};
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  check(mlxrt_generate(session, &input, &options, NULL, NULL, &result));
  *cached = result.cached_tokens;
  return (double)result.first_token_ns * 1e-9;
}

/* Seconds for a new file of so many bytes, on the disk when it is over. */
static double write_plainly(const char *path, size_t bytes) {
  char *block = malloc(STEP);
  must(block != NULL, "malloc");
  for (size_t i = 0; i < STEP; i++) block[i] = (char)(i * 2654435761u >> 13);
  unlink(path);
  double start = now();
  int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
  must(file >= 0, path);
  for (size_t at = 0; at < bytes; at += STEP) {
    size_t count = bytes - at < STEP ? bytes - at : STEP;
    must(pwrite(file, block, count, (off_t)at) == (ssize_t)count, "pwrite");
  }
  must(fsync(file) == 0, "fsync");
  close(file);
  double took = now() - start;
  free(block);
  return took;
}

/* Seconds to read a file into memory of its own. */
static double read_plainly(const char *path, size_t bytes) {
  double start = now();
  char *memory = malloc(bytes);
  int file = open(path, O_RDONLY);
  must(memory != NULL && file >= 0, path);
  for (size_t at = 0; at < bytes;) {
    ssize_t got = pread(file, memory + at, bytes - at < STEP ? bytes - at : STEP, (off_t)at);
    must(got > 0, "pread");
    at += (size_t)got;
  }
  double took = now() - start;
  close(file);
  free(memory);
  return took;
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fputs("usage: saving MODEL TOKENS FOLDER\n", stderr);
    return 2;
  }
  size_t count = strtoul(argv[2], NULL, 10);
  char path[1024], plain[1024];
  snprintf(path, sizeof path, "%s/session.safetensors", argv[3]);
  snprintf(plain, sizeof plain, "%s/plain", argv[3]);
  int32_t *tokens = malloc(count * sizeof *tokens);
  if (!tokens || count < 2) return 2;
  for (size_t i = 0; i < count; i++) tokens[i] = 100 + (int32_t)(i * 7919 % 900);
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL, *loaded = NULL;
  check(mlxrt_model_load(argv[1], NULL, &model));
  check(mlxrt_session_create(model, NULL, &session));
  uint64_t cached = 0;
  double computed = ask(session, tokens, count, &cached), saved = 1e9, written = 1e9, restored = 1e9, read = 1e9;
  /* By turns, so that whatever else the disk does meets both. */
  struct stat status;
  for (int i = 0; i < RUNS; i++) {
    unlink(path);
    double start = now();
    check(mlxrt_session_save(session, path, NULL));
    double took = now() - start;
    if (took < saved) saved = took;
    must(stat(path, &status) == 0, path);
    took = write_plainly(plain, (size_t)status.st_size);
    if (took < written) written = took;
  }
  mlxrt_session_free(session);
  check(mlxrt_memory_trim(2));
  double first = 0;
  for (int i = 0; i < RUNS; i++) {
    double start = now();
    check(mlxrt_session_load(model, path, NULL, &loaded));
    double took = now() - start;
    if (took < restored) {
      restored = took;
      first = took + ask(loaded, tokens, 1, &cached);
    }
    mlxrt_session_free(loaded);
    check(mlxrt_memory_trim(2));
    took = read_plainly(path, (size_t)status.st_size);
    if (took < read) read = took;
  }
  double mb = (double)status.st_size * 1e-6;
  printf("| the file of %zu tokens | %.1f MB |\n", count, mb);
  printf("| saved, beside as many bytes by pwrite and fsync | %.0f MB/s, %.0f MB/s: %.2f |\n", mb / saved, mb / written, written / saved);
  printf("| loaded, beside as many bytes by pread | %.0f MB/s, %.0f MB/s: %.2f |\n", mb / restored, mb / read, read / restored);
  printf("| computing the tokens | %.2f s |\n", computed);
  printf("| loading them, to the next token (%llu cached) | %.3f s: %.3f of it |\n", (unsigned long long)cached, first, first / computed);
  unlink(path), unlink(plain);
  free(tokens);
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
