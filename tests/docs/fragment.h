/* What the fragments of the documents take as given. */
#include <dlfcn.h>
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern mlxrt_model *model;
extern mlxrt_session *session;
extern mlxrt_adapter *adapter;
extern mlxrt_request *request;
extern mlxrt_input input;
extern mlxrt_generate_options options;
extern mlxrt_result result;
extern const char *path;
extern char *messages;
extern void *user_data, *loop;

int32_t on_event(void *user_data, const mlxrt_event *event);
void wake_loop(void *loop);
void check(mlxrt_error *error);
void show(const char *text, size_t len);
void append(char *messages, const char *message);
void offer_smaller_model(void);
void report(const char *name, const char *sentence);

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-local-typedefs"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#endif
