/* The process is the host's: nothing printed, no signal handlers, environment, folder and locale as they were, no threads
 * that stay, and an exit in the middle of everything is clean. */
#include "use.h"

#include <fcntl.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Threads of this process, or -1. */
static int threads(void) {
  char line[256];
  int count = -1;
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) sscanf(line, "Threads: %d", &count);
  if (status) fclose(status);
  return count;
}

static void ignore_line(void *user_data, int32_t level, const char *message, size_t len) {
  (void)user_data, (void)level, (void)message, (void)len;
}

/* Uses the library as hosts do, errors and misuse included. */
static void use_it_well_and_badly(void) {
  mlxrt_model *model = NULL, *none = NULL;
  mlxrt_session *session = NULL;
  mlxrt_error_free(mlxrt_init(NULL));
  mlxrt_error_free(mlxrt_model_load("/nowhere", NULL, &none));
  mlxrt_error_free(mlxrt_model_load(FIXTURES "/../cases.json", NULL, &none));
  mlxrt_error_free(mlxrt_model_load(FIXTURES "/llama-f32", NULL, &model));
  mlxrt_error_free(mlxrt_session_create(model, NULL, &session));
  mlxrt_generate_options options = sampled(20, 1);
  mlxrt_input input = text_input("Hello");
  mlxrt_error_free(mlxrt_generate(session, &input, &options, NULL, NULL, NULL));
  options.temperature = -1;
  mlxrt_error_free(mlxrt_generate(session, &input, &options, NULL, NULL, NULL));
  mlxrt_error_free(mlxrt_log_set(MLXRT_LOG_DEBUG, ignore_line, NULL));
  mlxrt_error_free(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL));
  mlxrt_error_free(mlxrt_log_set(0, NULL, NULL));
  mlxrt_session_free(session);
  mlxrt_session_free(session);
  mlxrt_model_free((mlxrt_model *)(uintptr_t)0x1234);
  mlxrt_session_cancel(NULL);
  /* Out of memory inside MLX. */
  mlxrt_init_options tight;
  memset(&tight, 0, sizeof tight);
  tight.struct_size = sizeof tight;
  mlxrt_model_free(model);
  mlxrt_error_free(mlxrt_shutdown(0, MLXRT_FOREVER));
  tight.memory_limit = 4096;
  mlxrt_error_free(mlxrt_init(&tight));
  mlxrt_error_free(mlxrt_model_load(FIXTURES "/llama-f32", NULL, &model));
  mlxrt_model_free(model);
  mlxrt_error_free(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
}

static void nothing_is_printed(void) {
  char path[] = "/tmp/mlxrt-manners-XXXXXX";
  int file = mkstemp(path);
  if (!CHECK(file >= 0)) return;
  fflush(stdout);
  fflush(stderr);
  int out = dup(1), err = dup(2);
  dup2(file, 1);
  dup2(file, 2);
  use_it_well_and_badly();
  fflush(stdout);
  fflush(stderr);
  dup2(out, 1);
  dup2(err, 2);
  close(out), close(err);
  char text[256] = {0};
  CHECK_INT(lseek(file, 0, SEEK_END), 0);
  if (pread(file, text, sizeof text - 1, 0) > 0) CHECK_TEXT(text, "");
  close(file);
  unlink(path);
}

static void signals_stay_the_hosts(void) {
  struct sigaction before[65], after;
  memset(before, 0, sizeof before);
  sigset_t mask_before, mask_after;
  for (int s = 1; s < 65; s++) sigaction(s, NULL, &before[s]);
  pthread_sigmask(SIG_SETMASK, NULL, &mask_before);
  use_it_well_and_badly();
  for (int s = 1; s < 65; s++) {
    memset(&after, 0, sizeof after);
    if (sigaction(s, NULL, &after)) continue;
    if (!CHECK(before[s].sa_handler == after.sa_handler && before[s].sa_flags == after.sa_flags)) printf(" (%d)", s);
  }
  pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
  for (int s = 1; s < 32; s++) CHECK_INT(sigismember(&mask_after, s), sigismember(&mask_before, s));
}

static void environment_folder_and_locale_stay(void) {
  setlocale(LC_ALL, "C");
  char folder[1024], now[1024], locale[256];
  CHECK(getcwd(folder, sizeof folder) != NULL);
  snprintf(locale, sizeof locale, "%s", setlocale(LC_ALL, NULL));
  size_t variables = 0, bytes = 0;
  for (char **entry = environ; *entry; entry++) variables++, bytes += strlen(*entry);
  mode_t mask = umask(022);
  umask(mask);
  use_it_well_and_badly();
  CHECK(getcwd(now, sizeof now) != NULL);
  CHECK_TEXT(now, folder);
  CHECK_TEXT(setlocale(LC_ALL, NULL), locale);
  size_t variables_now = 0, bytes_now = 0;
  for (char **entry = environ; *entry; entry++) variables_now++, bytes_now += strlen(*entry);
  CHECK_INT(variables_now, variables);
  CHECK_INT(bytes_now, bytes);
  mode_t mask_now = umask(mask);
  CHECK_INT(mask_now, mask);
}

/* MLX keeps the thread of its CPU stream for as long as the process lives; there is one, however often the engine
 * starts. All others are gone. */
static void threads_end_with_the_engine(void) {
  use_it_well_and_badly();
  int once = threads();
  if (once < 0) return;
  /* A GPU's driver has threads of its own. */
  char *json = NULL;
  OK(mlxrt_device_info(&json, NULL));
#if defined(__SANITIZE_THREAD__)
  /* ThreadSanitizer has one of its own. */
  int expected = 3;
#else
  int expected = 2;
#endif
  if (json && strstr(json, "\"device\":\"cpu\"")) CHECK_INT(once, expected);
  mlxrt_free(json);
  for (int i = 0; i < 10; i++) use_it_well_and_badly();
  CHECK_INT(threads(), once);
}

static int open_files(void) {
  int count = 0;
  for (int fd = 0; fd < 256; fd++) count += fcntl(fd, F_GETFD) != -1;
  return count;
}

static void files_are_closed(void) {
  use_it_well_and_badly();
  int before = open_files();
  for (int i = 0; i < 5; i++) use_it_well_and_badly();
  CHECK_INT(open_files(), before);
}

/* A child process, so that its end can be watched. It must not have used the library before the fork. */
static void child_ends_with(void (*run)(void), int expected) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    run();
    _exit(99);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  if (WIFSIGNALED(status)) printf(" (signal %d)", WTERMSIG(status));
  CHECK_INT(WEXITSTATUS(status), expected);
}

static int32_t exit_at_event(void *user_data, const mlxrt_event *event) {
  (void)event;
  if (++*(int *)user_data == 5) exit(0);
  return MLXRT_RETURN_CONTINUE;
}

static void exit_inside_a_callback(void) {
  int events = 0;
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_input input = text_input("Hello");
  mlxrt_generate_options options = greedy(1500);
  mlxrt_error_free(mlxrt_generate(session, &input, &options, exit_at_event, &events, NULL));
}

static void *generate_for_ever(void *session) {
  mlxrt_input input = text_input("Hello");
  mlxrt_generate_options options = greedy(2000);
  mlxrt_error_free(mlxrt_generate(session, &input, &options, NULL, NULL, NULL));
  return NULL;
}

static void exit_beside_a_generation(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  pthread_t thread;
  pthread_create(&thread, NULL, generate_for_ever, session);
  sleep_ms(50);
  exit(0);
}

static int32_t exit_now(void *user_data, uint64_t done, uint64_t total) {
  (void)user_data, (void)done, (void)total;
  exit(0);
}

static void exit_inside_a_load(void) {
  mlxrt_load_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.progress = exit_now;
  mlxrt_model *model = NULL;
  mlxrt_error_free(mlxrt_model_load(fixture("qwen3-f32"), &options, &model));
}

/* Before the first token, in all places of a prompt. */
static void exit_inside_a_prompt(void) {
  static int32_t tokens[1900];
  mlxrt_model *model = load("gemma3-text-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_input input = token_input(tokens, 500);
  mlxrt_generate_options options = greedy(3);
  options.progress_tokens = 7;
  int events = 0;
  mlxrt_error_free(mlxrt_generate(session, &input, &options, exit_at_event, &events, NULL));
}

static void exit_after_a_shutdown(void) {
  use_it_well_and_badly();
  exit(0);
}

static void *free_it(void *model) {
  mlxrt_model_free(model);
  return NULL;
}

static void exit_beside_the_last_free(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  free(ask(session, text_input("Hello"), greedy(5)));
  mlxrt_session_free(session);
  pthread_t thread;
  pthread_create(&thread, NULL, free_it, model);
  struct timespec moment = {0, (long)(getpid() % 13) * 50000};
  nanosleep(&moment, NULL);
  exit(0);
}

static void exit_with_everything_open(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  free(ask(session, text_input("Hello"), greedy(5)));
  exit(0);
}

static void exit_without_shutdown_is_clean(void) {
  for (int i = 0; i < 5; i++) {
    child_ends_with(exit_inside_a_callback, 0);
    child_ends_with(exit_beside_a_generation, 0);
    child_ends_with(exit_inside_a_load, 0);
    child_ends_with(exit_inside_a_prompt, 0);
    child_ends_with(exit_after_a_shutdown, 0);
    child_ends_with(exit_with_everything_open, 0);
    for (int j = 0; j < 5; j++) child_ends_with(exit_beside_the_last_free, 0);
  }
}

/* In a child of a process that used the library nothing works, and nothing hangs. */
static void use_after_fork(void) {
  mlxrt_model *model = NULL;
  mlxrt_error *error = mlxrt_model_load(FIXTURES "/llama-f32", NULL, &model);
  int code = mlxrt_error_code(error);
  mlxrt_error_free(error);
  error = mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER);
  code = mlxrt_error_code(error) == code ? code : 98;
  mlxrt_error_free(error);
  mlxrt_session_cancel(NULL);
  exit(code);
}

static void a_forked_child_is_refused(void) {
  mlxrt_model *model = load("llama-f32");
  child_ends_with(use_after_fork, MLXRT_E_FORKED);
  check_alive(model);
  mlxrt_model_free(model);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      /* First: it forks before this process uses the library. */
      {"exit_without_shutdown_is_clean", exit_without_shutdown_is_clean},
      {"nothing_is_printed", nothing_is_printed},
      {"signals_stay_the_hosts", signals_stay_the_hosts},
      {"environment_folder_and_locale_stay", environment_folder_and_locale_stay},
      {"threads_end_with_the_engine", threads_end_with_the_engine},
      {"files_are_closed", files_are_closed},
      {"a_forked_child_is_refused", a_forked_child_is_refused},
  };
  return RUN(tests);
}
