/* Several sessions on one model, each on a thread of its own. The weights are there once.
 *
 *   threads MODEL_FOLDER [PROMPT...]
 */
#include <mlxrt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
  mlxrt_model *model;
  const char *prompt;
  char text[4096];
  size_t len;
  mlxrt_result result;
  mlxrt_error *error;
};

static int32_t collect(void *user_data, const mlxrt_event *event) {
  struct job *job = user_data;
  if (event->kind != MLXRT_EVENT_TEXT) return MLXRT_RETURN_CONTINUE;
  if (job->len + event->text_len >= sizeof job->text) return MLXRT_RETURN_STOP;
  memcpy(job->text + job->len, event->text, event->text_len);
  job->len += event->text_len;
  return MLXRT_RETURN_CONTINUE;
}

/* Callbacks come on the thread that generates, so nothing here needs a lock. */
static void *run(void *argument) {
  struct job *job = argument;
  mlxrt_session *session = NULL;
  mlxrt_input input = {0};
  input.struct_size = sizeof input;
  input.text = job->prompt;
  input.text_len = MLXRT_NTS;
  mlxrt_generate_options options = {0};
  options.struct_size = sizeof options;
  options.max_tokens = 24;
  job->result.struct_size = sizeof job->result;
  job->error = mlxrt_session_create(job->model, NULL, &session);
  if (!job->error) job->error = mlxrt_generate(session, &input, &options, collect, job, &job->result);
  mlxrt_session_free(session);
  return NULL;
}

int main(int argc, char **argv) {
  static const char *defaults[] = {"Once upon a time", "The capital of France", "Two and two", "A fox and a crow"};
  enum { MOST = 16 };
  static struct job jobs[MOST];
  pthread_t threads[MOST];
  int count = argc > 2 ? argc - 2 : 4, started = 0, failed = 0;
  if (count > MOST) count = MOST;

  mlxrt_model *model = NULL;
  mlxrt_error *error = mlxrt_model_load(argc > 1 ? argv[1] : "demo/model", NULL, &model);
  if (error) {
    fprintf(stderr, "%s\n", mlxrt_error_message(error));
    mlxrt_error_free(error);
    return 1;
  }
  for (; started < count; started++) {
    jobs[started].model = model;
    jobs[started].prompt = argc > 2 ? argv[2 + started] : defaults[started];
    if (pthread_create(&threads[started], NULL, run, &jobs[started])) break;
  }
  for (int i = 0; i < started; i++) {
    pthread_join(threads[i], NULL);
    if (jobs[i].error) {
      failed = 1;
      fprintf(stderr, "%s: %s\n", jobs[i].prompt, mlxrt_error_message(jobs[i].error));
      mlxrt_error_free(jobs[i].error);
    } else {
      printf("%s ...%.*s  [%llu tokens]\n", jobs[i].prompt, (int)jobs[i].len, jobs[i].text,
             (unsigned long long)jobs[i].result.generated_tokens);
    }
  }
  mlxrt_model_free(model);
  return failed || started < count;
}
