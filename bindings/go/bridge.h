/* What the binding does in C: the wake-ups of requests and the log come from the library's threads, where no Go code runs.
 * They are put into lists here, and one byte in a pipe (the bell) tells Go's network poller that there is something. */
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

/* Opens the bell; gives the end to read, which does not block, or -1 with errno. */
int mlxrt_go_open_bell(void);
/* Takes ids of requests that were woken, at most max. */
size_t mlxrt_go_woken(uint64_t *ids, size_t max);
/* Takes all lines of the log, and how many were lost; each is for free(). */
mlxrt_go_line *mlxrt_go_lines(uint64_t *lost);

/* As mlxrt_submit, woken through a new *wake. */
mlxrt_error *mlxrt_go_submit(mlxrt_session *session, const mlxrt_input *input, mlxrt_generate_options *options, uint64_t id,
                             mlxrt_go_wake **wake, mlxrt_request **request);
/* As mlxrt_request_next without waiting; after PENDING the request will be woken. Frees the event before, *event. */
mlxrt_error *mlxrt_go_next(mlxrt_request *request, mlxrt_go_wake *wake, mlxrt_event **event, int32_t *state);
/* As mlxrt_request_result without waiting; after TIMEOUT the request will be woken. */
mlxrt_error *mlxrt_go_result(mlxrt_request *request, mlxrt_go_wake *wake, mlxrt_result *result);
void mlxrt_go_request_free(mlxrt_request *request, mlxrt_go_wake *wake);

mlxrt_error *mlxrt_go_log(int32_t level);
void mlxrt_go_enable_progress(mlxrt_progress_fn *progress);
mlxrt_error *mlxrt_go_train(mlxrt_model *model, mlxrt_adapter *adapter, const mlxrt_train_options *options, void *data);

#endif
