/* Embeds the lines of a file: embed MODEL FILE THREADS RUNS. Prints the texts a second of each run, the best last. */
#define _POSIX_C_SOURCE 200809L
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s\n", mlxrt_error_message(error));
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  mlxrt_init_options init;
  memset(&init, 0, sizeof init);
  init.struct_size = sizeof init;
  init.cpu_threads = (uint32_t)atoi(argv[3]);
  check(mlxrt_init(&init));
  mlxrt_model *model = NULL;
  check(mlxrt_model_load(argv[1], NULL, &model));
  FILE *file = fopen(argv[2], "r");
  if (!file) return 1;
  size_t count = 0, room = 0;
  char **texts = NULL, *line = NULL;
  size_t size = 0;
  for (ssize_t length; (length = getline(&line, &size, file)) > 0;) {
    if (line[length - 1] == '\n') line[length - 1] = 0;
    if (count == room) texts = realloc(texts, (room = room ? 2 * room : 1024) * sizeof *texts);
    if (!texts) return 1;
    texts[count++] = strdup(line);
  }
  double best = 0;
  for (int run = 0; run < atoi(argv[4]); run++) {
    mlxrt_tensor rows;
    memset(&rows, 0, sizeof rows);
    rows.struct_size = sizeof rows;
    double began = now();
    check(mlxrt_embed(model, (const char *const *)texts, NULL, count, NULL, &rows));
    double rate = (double)count / (now() - began);
    if (rate > best) best = rate;
    printf("%.1f\n", rate);
    if (argc > 5 && run == 0) {
      FILE *out = fopen(argv[5], "wb");
      if (!out || fwrite(rows.data, 1, (size_t)rows.bytes, out) != rows.bytes || fclose(out)) return 1;
    }
    mlxrt_free(rows.data);
  }
  printf("%.1f\n", best);
  mlxrt_model_free(model);
  return 0;
}
