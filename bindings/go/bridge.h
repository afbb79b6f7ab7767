/* What the binding does in C: the wake-ups of requests and the log come from the library's threads, where no Go code runs.
 * They ring a bell, a descriptor that Go's network poller watches for the goroutine that waits. */
#ifndef MLXRT_GO_BRIDGE_H
#define MLXRT_GO_BRIDGE_H

#include <mlxrt.h>

typedef struct mlxrt_go_wake mlxrt_go_wake;
typedef struct mlxrt_go_line mlxrt_go_line;

/* What "" is as a pointer. */
extern char mlxrt_go_empty[1];

struct mlxrt_go_line {
  mlxrt_go_line *next;
  int32_t level;
  size_t len;
  char text[];
};

/* Makes a bell: the descriptor to read, which does not block, and the one that rings it. -1, and errno, when that fails. */
int mlxrt_go_make_bell(int *ring);
/* Closes the one that rings, after the one to read, where it is another. */
void mlxrt_go_drop_ring(int ring);
/* Takes all lines of the log, and how many were lost; each is for free(). */
mlxrt_go_line *mlxrt_go_lines(uint64_t *lost);

/* As mlxrt_submit, with a new *wake that rings the bell. */
mlxrt_error *mlxrt_go_submit(mlxrt_session *session, const mlxrt_input *input, mlxrt_generate_options *options, int ring,
                             mlxrt_go_wake **wake, mlxrt_request **request);
/* As mlxrt_request_next without waiting; after PENDING the bell will be rung. Frees the event before, *event. */
mlxrt_error *mlxrt_go_next(mlxrt_request *request, mlxrt_go_wake *wake, mlxrt_event **event, int32_t *state);
/* As mlxrt_request_result without waiting; after TIMEOUT the bell will be rung. */
mlxrt_error *mlxrt_go_result(mlxrt_request *request, mlxrt_go_wake *wake, mlxrt_result *result);
void mlxrt_go_request_free(mlxrt_request *request, mlxrt_go_wake *wake);

/* Sends the log to a list, and rings for what comes into an empty one; 0 sends it nowhere. */
mlxrt_error *mlxrt_go_log(int32_t level, int ring);
void mlxrt_go_enable_progress(mlxrt_progress_fn *progress);
mlxrt_error *mlxrt_go_train(mlxrt_model *model, mlxrt_adapter *adapter, const mlxrt_train_options *options, void *data);

#endif
