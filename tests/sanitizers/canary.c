/* Faults made on purpose, one for each argument, to show that the sanitizer sees what it is there for:
 * run.sh fails when one of them is not reported. */
#define _POSIX_C_SOURCE 200809L

#include <mlxrt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int shared;

/* The library writes past the host's block, in Rust. */
static void overflow(void) {
  mlxrt_memory *memory = malloc(16);
  if (!memory) abort();
  memset(memory, 0, 16);
  memory->struct_size = sizeof *memory;
  mlxrt_error_free(mlxrt_memory_get(memory));
  free(memory);
}

/* The host reads the library's text after it was freed. */
static void use_after_free(void) {
  mlxrt_error *error = mlxrt_init(NULL);
  mlxrt_error_free(error);
  error = mlxrt_model_load("/nowhere", NULL, NULL);
  const char *message = mlxrt_error_message(error);
  mlxrt_error_free(error);
  printf("%c\n", message[0]);
}

/* An error that nobody frees. */
static void leak(void) {
  mlxrt_error *volatile error = mlxrt_model_load("/nowhere", NULL, NULL);
  error = NULL;
  (void)error;
}

/* The same while the engine's thread lives. */
static void leak_beside_the_engine(void) {
  mlxrt_error_free(mlxrt_init(NULL));
  leak();
}

/* The log function is called by several threads, and this one forgets that. */
static void count_line(void *user_data, int32_t level, const char *message, size_t len) {
  (void)user_data, (void)level, (void)message, (void)len;
  shared++;
  /* So that the other thread calls in meanwhile, on a busy machine too. */
  struct timespec time = {0, 2000000};
  nanosleep(&time, NULL);
}

static void *free_nothing(void *data) {
  (void)data;
  for (int i = 0; i < 50; i++) mlxrt_model_free((mlxrt_model *)(size_t)0x1234);
  return NULL;
}

static void race(void) {
  pthread_t threads[2];
  mlxrt_error_free(mlxrt_log_set(MLXRT_LOG_DEBUG, count_line, NULL));
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, free_nothing, NULL);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  mlxrt_error_free(mlxrt_log_set(0, NULL, NULL));
}

/* Two threads in the library write to one struct of the host. */
static mlxrt_memory together;

static void *get_memory(void *data) {
  (void)data;
  struct timespec now, began;
  clock_gettime(CLOCK_MONOTONIC, &began);
  /* Long enough for both to run at once some time. */
  do {
    for (int i = 0; i < 1000; i++) mlxrt_error_free(mlxrt_memory_get(&together));
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (now.tv_sec - began.tv_sec < 2);
  return NULL;
}

static void race_inside(void) {
  pthread_t threads[2];
  together.struct_size = sizeof together;
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, get_memory, NULL);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } faults[] = {
      {"overflow", overflow}, {"use_after_free", use_after_free}, {"leak", leak},
      {"leak_beside_the_engine", leak_beside_the_engine},
      {"race", race},         {"race_inside", race_inside},
  };
  for (size_t i = 0; argc > 1 && i < sizeof faults / sizeof *faults; i++) {
    if (!strcmp(faults[i].name, argv[1])) {
      faults[i].run();
      return 0;
    }
  }
  return 2;
}
