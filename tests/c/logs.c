/* The log: what happened in a few lines, never a line for each token and nothing of what anybody wrote. */
#include "use.h"

#include <pthread.h>

enum { MOST_LINES = 400 };

static struct {
  pthread_mutex_t lock;
  int count;
  int32_t levels[MOST_LINES];
  char lines[MOST_LINES][300];
} seen = {PTHREAD_MUTEX_INITIALIZER, 0, {0}, {{0}}};

static void on_log(void *data, int32_t level, const char *message, size_t len) {
  (void)data;
  (void)len;
  pthread_mutex_lock(&seen.lock);
  if (seen.count < MOST_LINES) {
    seen.levels[seen.count] = level;
    snprintf(seen.lines[seen.count], sizeof *seen.lines, "%s", message);
  }
  seen.count++;
  pthread_mutex_unlock(&seen.lock);
}

static void listen_to(int32_t level) {
  OK(mlxrt_log_set(level, on_log, NULL));
  seen.count = 0;
}

static void stop_listening(void) { OK(mlxrt_log_set(0, NULL, NULL)); }

/* How many lines of a level have these words. */
static int lines_with(int32_t level, const char *words) {
  int count = 0;
  pthread_mutex_lock(&seen.lock);
  for (int i = 0; i < seen.count && i < MOST_LINES; i++) count += seen.levels[i] == level && strstr(seen.lines[i], words);
  pthread_mutex_unlock(&seen.lock);
  return count;
}

/* The one line of a level with these words. */
static const char *line_with(int32_t level, const char *words) {
  const char *found = NULL;
  for (int i = 0; i < seen.count && i < MOST_LINES; i++) {
    if (seen.levels[i] == level && strstr(seen.lines[i], words)) found = seen.lines[i];
  }
  if (!CHECK_INT(lines_with(level, words), 1)) printf(": \"%s\"", words);
  return found;
}

static void a_load_an_adapter_and_a_request_have_a_line_each(void) {
  listen_to(MLXRT_LOG_INFO);
  mlxrt_model *model = load("qwen3-4bit");
  const char *line = line_with(MLXRT_LOG_INFO, "loaded ");
  CHECK_HAS(line, "qwen3-4bit: qwen3, 4 bits affine in groups of 64, ");
  CHECK_HAS(line, " bytes of weights, in ");
  CHECK_HAS(line, " ms, 0 warnings");
  mlxrt_model_free(model);
  model = load("llama-f32");
  CHECK_HAS(line_with(MLXRT_LOG_INFO, "llama-f32"), "not quantised");
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, text_input("Hello"), greedy(7));
  char words[80];
  snprintf(words, sizeof words, "%d tokens in, 0 cached, 7 out, prefill ", (int)answer->result.prompt_tokens);
  line = line_with(MLXRT_LOG_INFO, words);
  CHECK_HAS(line, " tok/s, ");
  CHECK_HAS(line, "stop Length");
  free(answer);
  answer = ask(session, text_input(" more"), greedy(3));
  snprintf(words, sizeof words, "%d tokens in, %d cached, 3 out", (int)answer->result.prompt_tokens,
           (int)answer->result.cached_tokens);
  line_with(MLXRT_LOG_INFO, words);
  free(answer);
  /* A submitted one too, and one that fails. */
  mlxrt_request *request = NULL;
  mlxrt_generate_options options = greedy(4);
  mlxrt_input input = text_input("x");
  OK(mlxrt_submit(session, &input, &options, &request));
  mlxrt_result result = empty_result();
  OK(mlxrt_request_result(request, MLXRT_FOREVER, &result));
  line_with(MLXRT_LOG_INFO, " 4 out");
  mlxrt_request_free(request);
  /* Too many with what the session holds. (What is too much by itself is refused before there is a request.) */
  static int32_t too_many[5000];
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  OK(mlxrt_session_info(session, &state));
  CHECK(state.tokens > 0 && state.context <= COUNT(too_many));
  answer = new_answer();
  ask_into(answer, session, token_input(too_many, (size_t)state.context), greedy(3));
  CHECK_INT(answer->code, MLXRT_E_CONTEXT_FULL);
  CHECK_HAS(line_with(MLXRT_LOG_INFO, "stop Error"), "code ");
  free(answer);
  CHECK_INT(lines_with(MLXRT_LOG_DEBUG, ""), 0);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  stop_listening();
}

static void an_adapter_has_a_line_when_it_is_loaded_and_when_it_is_applied(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_adapter *adapter = NULL, *loaded = NULL;
  OK(mlxrt_adapter_create(model, NULL, &adapter));
  char folder[] = "/tmp/mlxrt-logs-XXXXXX", path[64];
  CHECK(mkdtemp(folder) != NULL);
  snprintf(path, sizeof path, "%s/adapter", folder);
  OK(mlxrt_adapter_save(adapter, path, NULL));
  listen_to(MLXRT_LOG_INFO);
  OK(mlxrt_adapter_load(model, path, NULL, &loaded));
  const char *line = line_with(MLXRT_LOG_INFO, "loaded the adapter ");
  CHECK_HAS(line, "lora, rank 8, ");
  CHECK_HAS(line, " ms");
  OK(mlxrt_apply_adapter(session, &loaded, NULL, 1));
  line_with(MLXRT_LOG_INFO, "1 adapter applied");
  OK(mlxrt_apply_adapter(session, NULL, NULL, 0));
  line_with(MLXRT_LOG_INFO, "0 adapters applied");
  stop_listening();
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", folder);
  CHECK_INT(system(command), 0);
  mlxrt_adapter_free(adapter);
  mlxrt_adapter_free(loaded);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

#define MARKER "Xylophon7"

/* What happens to requests, with the marker in every text that is given; the lines that it took. */
static int lines_of_an_answer(mlxrt_model *model, uint32_t tokens) {
  listen_to(MLXRT_LOG_DEBUG);
  mlxrt_session *session = session_of(model);
  mlxrt_input input = message_input("[{\"role\":\"system\",\"content\":\"" MARKER "\"},"
                                    "{\"role\":\"user\",\"content\":\"" MARKER " <|im_end|> " MARKER "\"}]");
  input.template_args = "{\"" MARKER "\":\"" MARKER "\"}";
  input.template_args_len = MLXRT_NTS;
  mlxrt_generate_options options = greedy(tokens);
  const char *stops[] = {MARKER};
  options.stop = stops;
  options.stop_count = 1;
  struct answer *answer = ask(session, input, options);
  free(answer);
  input.template_args = NULL;
  input.template_args_len = 0;
  answer = ask(session, input, options);
  CHECK_INT(answer->token_count, tokens);
  free(answer);
  answer = ask(session, text_input(MARKER), greedy(1));
  free(answer);
  /* Another history cuts what is held; its reader lets it wait. */
  input.messages = "[{\"role\":\"user\",\"content\":\"" MARKER " again\"}]";
  mlxrt_request *request = NULL;
  options.max_tokens = tokens;
  OK(mlxrt_submit(session, &input, &options, &request));
  int32_t state = MLXRT_NEXT_PENDING;
  int slow = 0;
  while (state != MLXRT_NEXT_DONE) {
    mlxrt_event *event = NULL;
    /* Until it is parked, where the answer is that long. */
    while (slow < 600 && tokens > 100 && !lines_with(MLXRT_LOG_DEBUG, "parked")) sleep_ms(50), slow++;
    if (!OK(mlxrt_request_next(request, MLXRT_FOREVER, &event, &state))) break;
    mlxrt_free(event);
  }
  mlxrt_request_free(request);
  mlxrt_session_free(session);
  int count = seen.count;
  CHECK_INT(lines_with(MLXRT_LOG_DEBUG, "tokens to compute"), 4);
  CHECK_INT(lines_with(MLXRT_LOG_DEBUG, "stay"), 2);
  CHECK_INT(lines_with(MLXRT_LOG_INFO, "tokens in"), 4);
  CHECK_INT(lines_with(MLXRT_LOG_DEBUG, "parked"), tokens > 100 ? 1 : 0);
  stop_listening();
  for (int i = 0; i < count && i < MOST_LINES; i++) {
    if (!CHECK(!strstr(seen.lines[i], MARKER))) printf(": %s", seen.lines[i]);
  }
  return count;
}

static void no_line_is_for_a_token_and_none_has_anything_of_a_prompt(void) {
  mlxrt_model *model = load("qwen3-f32");
  int few = lines_of_an_answer(model, 20), many = lines_of_an_answer(model, 400);
  CHECK(few > 3);
  CHECK_INT(many, few + 1); /* that it was parked */
  mlxrt_model_free(model);
}

static const struct test tests[] = {
    {"a load, an adapter and a request have a line each", a_load_an_adapter_and_a_request_have_a_line_each},
    {"an adapter has a line when it is loaded and when it is applied",
     an_adapter_has_a_line_when_it_is_loaded_and_when_it_is_applied},
    {"no line is for a token and none has anything of a prompt", no_line_is_for_a_token_and_none_has_anything_of_a_prompt},
};

int main(int argc, char **argv) { return run_tests(tests, COUNT(tests), argc, argv); }
