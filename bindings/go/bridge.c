#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/eventfd.h>
#endif

#include "_cgo_export.h"

char mlxrt_go_empty[1];

/* Lines that wait for Go; more are counted and dropped. */
enum { MOST_LINES = 1024 };

/* Who waits for a request. */
struct mlxrt_go_wake {
  int ring;
  /* Its reader found nothing and wants to hear of the next change. */
  atomic_bool armed;
};

int mlxrt_go_make_bell(int *ring) {
#ifdef __linux__
  return *ring = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
#else
  int ends[2];
  if (pipe(ends) != 0) return -1;
  for (int i = 0; i < 2; i++) {
    fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    fcntl(ends[i], F_SETFL, O_NONBLOCK);
  }
  *ring = ends[1];
  return ends[0];
#endif
}

void mlxrt_go_drop_ring(int ring) {
#ifdef __linux__
  (void)ring;
#else
  close(ring);
#endif
}

/* A bell that is full rings as well, so only an interrupted write is tried again. */
static void ring_bell(int ring) {
  uint64_t one = 1;
  while (write(ring, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

/* The notify of every request, on any thread. */
static void wake_up(void *data) {
  mlxrt_go_wake *wake = data;
  if (atomic_exchange(&wake->armed, false)) ring_bell(wake->ring);
}

mlxrt_error *mlxrt_go_submit(mlxrt_session *session, const mlxrt_input *input, mlxrt_generate_options *options, int ring,
                             mlxrt_go_wake **wake, mlxrt_request **request) {
  *wake = calloc(1, sizeof **wake);
  if (!*wake) abort(); /* As Go itself does. */
  (*wake)->ring = ring;
  options->notify = wake_up;
  options->notify_data = *wake;
  mlxrt_error *error = mlxrt_submit(session, input, options, request);
  if (error) free(*wake);
  return error;
}

mlxrt_error *mlxrt_go_next(mlxrt_request *request, mlxrt_go_wake *wake, mlxrt_event **event, int32_t *state) {
  mlxrt_free(*event);
  mlxrt_error *error = mlxrt_request_next(request, 0, event, state);
  if (error || *state != MLXRT_NEXT_PENDING) return error;
  /* What comes after this look wakes; what came before it is seen. */
  atomic_store(&wake->armed, true);
  return mlxrt_request_next(request, 0, event, state);
}

mlxrt_error *mlxrt_go_result(mlxrt_request *request, mlxrt_go_wake *wake, mlxrt_result *result) {
  atomic_store(&wake->armed, true);
  return mlxrt_request_result(request, 0, result);
}

void mlxrt_go_request_free(mlxrt_request *request, mlxrt_go_wake *wake) {
  mlxrt_request_free(request);
  free(wake); /* No notify runs any more. */
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mlxrt_go_line *first_line, *last_line;
static size_t lines;
static uint64_t lost_lines;
static int log_ring;

static void take_line(void *data, int32_t level, const char *message, size_t len) {
  (void)data;
  mlxrt_go_line *line = malloc(sizeof *line + len);
  if (line) {
    line->next = NULL;
    line->level = level;
    line->len = len;
    memcpy(line->text, message, len);
  }
  pthread_mutex_lock(&lock);
  bool was_empty = !first_line;
  int ring = log_ring;
  if (line && lines < MOST_LINES) {
    *(last_line ? &last_line->next : &first_line) = line;
    last_line = line;
    lines++;
    line = NULL;
  } else {
    lost_lines++;
    was_empty = false;
  }
  pthread_mutex_unlock(&lock);
  free(line);
  if (was_empty) ring_bell(ring);
}

mlxrt_go_line *mlxrt_go_lines(uint64_t *lost) {
  pthread_mutex_lock(&lock);
  mlxrt_go_line *taken = first_line;
  *lost = lost_lines;
  first_line = last_line = NULL;
  lines = 0;
  lost_lines = 0;
  pthread_mutex_unlock(&lock);
  return taken;
}

mlxrt_error *mlxrt_go_log(int32_t level, int ring) {
  pthread_mutex_lock(&lock);
  log_ring = ring;
  pthread_mutex_unlock(&lock);
  return mlxrt_log_set(level ? level : MLXRT_LOG_ERROR, level ? take_line : NULL, NULL);
}

/* Progress runs on the thread of the blocking call, which is Go's: there it may call back. */
static int32_t progress(void *data, uint64_t done, uint64_t total) { return mlxrtGoProgress(data, done, total); }

void mlxrt_go_enable_progress(mlxrt_progress_fn *function) { *function = progress; }

static int32_t train(void *data, const mlxrt_train_event *event) {
  return mlxrtGoTrain(data, (mlxrt_train_event *)event);
}

mlxrt_error *mlxrt_go_train(mlxrt_model *model, mlxrt_adapter *adapter, const mlxrt_train_options *options, void *data) {
  return mlxrt_train(model, adapter, options, train, data);
}
