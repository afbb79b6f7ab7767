/* Models: looking at a folder, loading it, tokens and prompts. */
#include "use.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

static mlxrt_load_options load_options(void) {
  mlxrt_load_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

static void inspect(void) {
  char *json = NULL;
  size_t len = 0;
  OK(mlxrt_model_inspect(fixture("qwen3-f32"), NULL, NULL, &json, &len));
  CHECK_INT(strlen(json), len);
  const char *parts[] = {"\"model_type\":\"qwen3\"", "\"parameters\":21824",   "\"weight_bytes\":87296",
                         "\"quantization\":null",    "\"context\":2048",       "\"vocab_size\":131",
                         "\"eos_token_ids\":[",      "\"estimated_bytes\":",   "\"session_context\":2048",
                         "\"chat_format\":\"",       "\"warnings\":[]",
                         /* 2 layers x keys and values x 1 head of 16 x 4 bytes x 2048 */
                         "\"kv_bytes\":524288"};
  for (size_t i = 0; i < COUNT(parts); i++) CHECK_HAS(json, parts[i]);
  mlxrt_free(json);

  mlxrt_load_options options = load_options();
  options.context = 1024;
  mlxrt_session_options session = session_options();
  session.context = 256;
  OK(mlxrt_model_inspect(fixture("qwen3-4bit"), &options, &session, &json, NULL));
  CHECK_HAS(json, "\"bits\":4");
  CHECK_HAS(json, "\"context\":1024");
  CHECK_HAS(json, "\"session_context\":256");
  mlxrt_free(json);
}

static void inspect_refuses_what_loading_would(void) {
  char *json = "not NULL";
  size_t len = 7;
  FAILS(mlxrt_model_inspect("/nowhere", NULL, NULL, &json, &len), MLXRT_E_NOT_FOUND, "/nowhere");
  CHECK(json == NULL);
  FAILS(mlxrt_model_inspect(FIXTURES "/../adapters/peft-lora-llama", NULL, NULL, &json, NULL), MLXRT_E_BAD_MODEL,
        "config.json");
  mlxrt_load_options options = load_options();
  options.context = 1u << 30;
  FAILS(mlxrt_model_inspect(fixture("qwen3-f32"), &options, NULL, &json, NULL), MLXRT_E_INVALID_ARGUMENT, "context");
}

static void info(void) {
  mlxrt_load_options options = load_options();
  options.context = 100;
  mlxrt_model *model = NULL;
  OK(mlxrt_model_load(fixture("gemma3-4bit-bf16"), &options, &model));
  char *json = NULL;
  size_t len = 0;
  OK(mlxrt_model_info(model, &json, &len));
  CHECK_INT(strlen(json), len);
  const char *parts[] = {"\"model_type\":\"gemma3", "\"chat_format\":\"template\"", "\"context\":100", "\"bits\":4"};
  for (size_t i = 0; i < COUNT(parts); i++) CHECK_HAS(json, parts[i]);
  CHECK(!strstr(json, "session_context"));
  mlxrt_free(json);

  mlxrt_session_options wanted = session_options();
  wanted.context = 101;
  mlxrt_session *session = NULL;
  FAILS(mlxrt_session_create(model, &wanted, &session), MLXRT_E_INVALID_ARGUMENT, "options.context");
  mlxrt_model_free(model);
}

/* A folder whose every file is a link to one of a fixture's, but for one that is written here. */
static void linked_folder(const char *folder, const char *name, const char *own, const char *text) {
  static const char *files[] = {"config.json",          "generation_config.json", "tokenizer.json",
                                "tokenizer_config.json", "model.safetensors",     "model.safetensors.index.json"};
  char path[2048];
  CHECK_INT(mkdir(folder, 0777), 0);
  for (size_t i = 0; i < COUNT(files); i++) {
    char to[2048];
    snprintf(path, sizeof path, "%s/%s", folder, files[i]);
    snprintf(to, sizeof to, "%s/%s", fixture(name), files[i]);
    if (own && !strcmp(files[i], own)) {
      FILE *file = fopen(path, "w");
      if (CHECK(file != NULL)) {
        fputs(text, file);
        fclose(file);
      }
    } else if (access(to, F_OK) == 0) {
      CHECK_INT(symlink(to, path), 0);
    }
  }
}

static void remove_folder(const char *folder) {
  char command[2048];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  CHECK_INT(system(command), 0);
}

static void links_are_followed_if_the_host_says_so(void) {
  char folder[256];
  snprintf(folder, sizeof folder, "/tmp/mlxrt-c-links-%d", (int)getpid());
  linked_folder(folder, "qwen3-4bit", NULL, NULL);
  mlxrt_load_options options = load_options();
  mlxrt_model *model = NULL;
  char *json = NULL;
  FAILS(mlxrt_model_load(folder, &options, &model), MLXRT_E_BAD_MODEL, "MLXRT_LOAD_FOLLOW_LINKS");
  FAILS(mlxrt_model_inspect(folder, &options, NULL, &json, NULL), MLXRT_E_BAD_MODEL, "MLXRT_LOAD_FOLLOW_LINKS");
  options.flags = MLXRT_LOAD_FOLLOW_LINKS;
  OK(mlxrt_model_inspect(folder, &options, NULL, &json, NULL));
  CHECK_HAS(json, "\"bits\":4");
  mlxrt_free(json);
  OK(mlxrt_model_load(folder, &options, &model));
  check_alive(model);
  mlxrt_model_free(model);
  remove_folder(folder);
}

static void what_is_odd_is_told(void) {
  char folder[256];
  snprintf(folder, sizeof folder, "/tmp/mlxrt-c-odd-%d", (int)getpid());
  linked_folder(folder, "qwen3-4bit", "generation_config.json", "{\"top_p\": \"0.9\"}");
  mlxrt_load_options options = load_options();
  options.flags = MLXRT_LOAD_FOLLOW_LINKS;
  mlxrt_model *model = NULL;
  char *json = NULL;
  const char *warning = "\"warnings\":[\"generation_config.json: \\\"top_p\\\" must be";
  OK(mlxrt_model_inspect(folder, &options, NULL, &json, NULL));
  CHECK_HAS(json, warning);
  mlxrt_free(json);
  OK(mlxrt_model_load(folder, &options, &model));
  OK(mlxrt_model_info(model, &json, NULL));
  CHECK_HAS(json, warning);
  mlxrt_free(json);
  check_alive(model);
  mlxrt_model_free(model);
  remove_folder(folder);
}

static void a_gguf_gets_the_cure(void) {
  char path[256];
  snprintf(path, sizeof path, "/tmp/mlxrt-c-%d.gguf", (int)getpid());
  FILE *file = fopen(path, "w");
  if (CHECK(file != NULL)) fclose(file);
  mlxrt_model *model = NULL;
  FAILS(mlxrt_model_load(path, NULL, &model), MLXRT_E_INVALID_ARGUMENT, "mlx_lm.convert");
  unlink(path);
}

struct progress {
  uint64_t done, total;
  int calls, stop_after, sleep, other_thread;
  pthread_t thread;
  int32_t code;
};

static int32_t hear(void *user_data, uint64_t done, uint64_t total) {
  struct progress *progress = user_data;
  CHECK(done > progress->done || (done == total && done == progress->done));
  CHECK(done <= total);
  CHECK(progress->calls == 0 || total == progress->total);
  progress->done = done;
  progress->total = total;
  progress->calls++;
  progress->other_thread |= !pthread_equal(progress->thread, pthread_self());
  mlxrt_model *model = NULL;
  mlxrt_error *error = mlxrt_model_load(fixture("llama-f32"), NULL, &model);
  progress->code = mlxrt_error_code(error);
  mlxrt_error_free(error);
  if (progress->sleep) sleep_ms(progress->sleep);
  return progress->calls == progress->stop_after ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static void load_with(struct progress *progress, uint32_t timeout_ms, int32_t code) {
  mlxrt_load_options options = load_options();
  progress->thread = pthread_self();
  options.progress = hear;
  options.progress_data = progress;
  options.timeout_ms = timeout_ms;
  mlxrt_model *model = (mlxrt_model *)progress;
  FAILS(mlxrt_model_load(fixture("qwen3-f32-shards"), &options, &model), code, "");
  CHECK_INT(model != NULL, code == MLXRT_OK);
  if (model) {
    check_alive(model);
    mlxrt_model_free(model);
  }
}

static void progress_is_heard(void) {
  struct progress progress;
  memset(&progress, 0, sizeof progress);
  load_with(&progress, 0, MLXRT_OK);
  CHECK(progress.calls > 1);
  CHECK_INT(progress.done, progress.total);
  CHECK_INT(progress.total, 87296);
  CHECK_INT(progress.other_thread, 0);
  CHECK_INT(progress.code, MLXRT_E_REENTRANT);
}

static void progress_stops_a_load(void) {
  struct progress progress;
  memset(&progress, 0, sizeof progress);
  load_with(&progress, 0, MLXRT_OK);
  for (int last = progress.calls, stop = 1; stop <= last; stop += 5) {
    memset(&progress, 0, sizeof progress);
    progress.stop_after = stop;
    load_with(&progress, 0, MLXRT_E_CANCELLED);
    CHECK_INT(progress.calls, stop);
  }
}

static void a_load_has_a_timeout(void) {
  struct progress progress;
  memset(&progress, 0, sizeof progress);
  progress.sleep = 15;
  load_with(&progress, 10, MLXRT_E_TIMEOUT);
  memset(&progress, 0, sizeof progress);
  load_with(&progress, 60000, MLXRT_OK);
}

static void a_draft_has_the_tokens_of_its_model(void) {
  mlxrt_load_options options = load_options();
  options.draft_path = fixture("none");
  mlxrt_model *model = NULL;
  FAILS(mlxrt_model_load(fixture("qwen3-f32"), &options, &model), MLXRT_E_NOT_FOUND, "draft_path");
  options.draft_path = fixture("qwen3-f32");
  FAILS(mlxrt_model_load(fixture("llama-f32"), &options, &model), MLXRT_E_INCOMPATIBLE, "draft_path");
}

static void round_trip(mlxrt_model *model, const char *text, size_t len, uint32_t flags) {
  int32_t *ids = NULL;
  size_t count = 0, back_len = 0;
  char *back = NULL;
  OK(mlxrt_tokenize(model, text, len, flags, &ids, &count));
  OK(mlxrt_detokenize(model, ids, count, 0, &back, &back_len));
  size_t expected = len == MLXRT_NTS ? strlen(text) : len;
  if (CHECK_INT(back_len, expected)) CHECK(!memcmp(back, text, expected));
  if (back) CHECK_INT(back[back_len], 0);
  mlxrt_free(ids);
  mlxrt_free(back);
}

static void text_survives_tokens(void) {
  mlxrt_model *model = load("qwen3-f32");
  static const char *texts[] = {"", "a", "Hello, world! 123", "h\xc3\xa9llo \xe2\x82\xac \xf0\x9f\x98\x80", " \n ",
                                "<|im_start|>user\nhi<|im_end|>"};
  for (size_t i = 0; i < COUNT(texts); i++) {
    round_trip(model, texts[i], MLXRT_NTS, 0);
    round_trip(model, texts[i], MLXRT_NTS, MLXRT_TOKENIZE_SPECIAL_AS_TEXT);
    round_trip(model, texts[i], MLXRT_NTS, MLXRT_TOKENIZE_ADD_SPECIAL);
    round_trip(model, texts[i], strlen(texts[i]) / 2 * (i < 3), 0);
  }
  int32_t *ids = NULL;
  size_t count = 9;
  char *text = NULL;
  OK(mlxrt_tokenize(model, NULL, 0, 0, &ids, &count));
  CHECK_INT(count, 0);
  mlxrt_free(ids);
  OK(mlxrt_detokenize(model, NULL, 0, 0, &text, NULL));
  CHECK_TEXT(text, "");
  mlxrt_free(text);
  mlxrt_model_free(model);
}

static size_t tokens_of(mlxrt_model *model, const char *text, uint32_t flags, int32_t *first) {
  int32_t *ids = NULL;
  size_t count = 0;
  OK(mlxrt_tokenize(model, text, MLXRT_NTS, flags, &ids, &count));
  *first = count ? ids[0] : -1;
  mlxrt_free(ids);
  return count;
}

static void special_tokens(void) {
  mlxrt_model *model = load("llama-f32");
  int32_t first = 0;
  CHECK_INT(tokens_of(model, "<|eot_id|>", 0, &first), 1);
  CHECK_INT(first, 130);
  CHECK(tokens_of(model, "<|eot_id|>", MLXRT_TOKENIZE_SPECIAL_AS_TEXT, &first) > 4);
  CHECK_INT(tokens_of(model, "a", 0, &first), 1);
  CHECK_INT(tokens_of(model, "a", MLXRT_TOKENIZE_ADD_SPECIAL, &first), 2);
  CHECK_INT(first, 126);
  FAILS(mlxrt_tokenize(model, "a", 1, 4, &(int32_t *){NULL}, &(size_t){0}), MLXRT_E_UNSUPPORTED, "flags");

  const int32_t ids[] = {126, 65, 130};
  char *text = NULL;
  OK(mlxrt_detokenize(model, ids, 3, 0, &text, NULL));
  CHECK_TEXT(text, "<|begin_of_text|>a<|eot_id|>");
  mlxrt_free(text);
  OK(mlxrt_detokenize(model, ids, 3, MLXRT_DETOKENIZE_SKIP_SPECIAL, &text, NULL));
  CHECK_TEXT(text, "a");
  mlxrt_free(text);
  FAILS(mlxrt_detokenize(model, ids, 3, 2, &text, NULL), MLXRT_E_UNSUPPORTED, "flags");
  mlxrt_model_free(model);
}

static void broken_characters_come_out_as_replacements(void) {
  mlxrt_model *model = load("qwen3-f32");
  int32_t *ids = NULL;
  size_t count = 0, len = 0;
  char *text = NULL;
  OK(mlxrt_tokenize(model, "\xf0\x9f\x98\x80", MLXRT_NTS, 0, &ids, &count));
  if (CHECK(count > 1)) {
    OK(mlxrt_detokenize(model, ids, count - 1, 0, &text, &len));
    CHECK_HAS(text, "\xef\xbf\xbd");
    mlxrt_free(text);
  }
  mlxrt_free(ids);
  mlxrt_model_free(model);
}

static void render_is(mlxrt_model *model, mlxrt_input input, const char *expected) {
  char *text = NULL;
  size_t len = 0;
  OK(mlxrt_render(model, &input, &text, &len));
  CHECK_TEXT(text, expected);
  if (text) CHECK_INT(strlen(text), len);
  mlxrt_free(text);
}

static void render(void) {
  mlxrt_model *model = load("qwen3-f32");
  const char *question = "[{\"role\":\"user\",\"content\":\"Hi\"}]";
  mlxrt_input input = message_input(question);
  render_is(model, input, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  input.messages_len = strlen(question);
  input.flags = MLXRT_INPUT_NO_GENERATION_PROMPT;
  render_is(model, input, "<|im_start|>user\nHi<|im_end|>\n");
  input = message_input("[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\"We\"}]");
  input.flags = MLXRT_INPUT_CONTINUE_LAST;
  render_is(model, input, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWe");

  /* The demo model's own template knows tools. */
  mlxrt_model_free(model);
  model = load("../../../demo/model");
  char *text = NULL;
  input = message_input(question);
  input.tools = "[{\"type\":\"function\",\"function\":{\"name\":\"weather_of\",\"parameters\":{}}}]";
  input.tools_len = MLXRT_NTS;
  OK(mlxrt_render(model, &input, &text, NULL));
  CHECK_HAS(text, "weather_of");
  mlxrt_free(text);
  mlxrt_model_free(model);
}

static void render_refuses(void) {
  mlxrt_model *model = load("qwen3-f32");
  static const struct {
    const char *messages;
    uint32_t flags;
    int32_t code;
    const char *word;
  } cases[] = {
      {"", 0, MLXRT_E_INVALID_ARGUMENT, "messages"},
      {"[", 0, MLXRT_E_INVALID_ARGUMENT, "messages"},
      {"{}", 0, MLXRT_E_INVALID_ARGUMENT, "messages"},
      {"[]", 0, MLXRT_E_INVALID_ARGUMENT, "messages"},
      {"[1]", 0, MLXRT_E_INVALID_ARGUMENT, "messages[0]"},
      {"[{}]", 0, MLXRT_E_INVALID_ARGUMENT, "role"},
      {"[{\"role\":7,\"content\":\"x\"}]", 0, MLXRT_E_INVALID_ARGUMENT, "role"},
      {"[{\"role\":\"user\",\"content\":7}]", 0, MLXRT_E_INVALID_ARGUMENT, "content"},
      {"[{\"role\":\"user\",\"content\":\"x\"}] x", 0, MLXRT_E_INVALID_ARGUMENT, "messages"},
      {"[{\"role\":\"user\",\"content\":\"x\"}]", MLXRT_INPUT_CONTINUE_LAST, MLXRT_E_INVALID_ARGUMENT, "assistant"},
      {"[{\"role\":\"user\",\"content\":\"x\"}]", MLXRT_INPUT_NO_BOS, MLXRT_E_INVALID_ARGUMENT, "flags"},
      {"[{\"role\":\"user\",\"content\":\"x\"}]", 32, MLXRT_E_UNSUPPORTED, "flags"},
  };
  char *text = NULL;
  for (size_t i = 0; i < COUNT(cases); i++) {
    mlxrt_input input = message_input(cases[i].messages);
    input.flags = cases[i].flags;
    if (!FAILS(mlxrt_render(model, &input, &text, NULL), cases[i].code, cases[i].word)) printf(" (%s)", cases[i].messages);
  }
  /* A thousand brackets are no stack overflow. */
  char deep[20001];
  memset(deep, '[', 20000);
  deep[20000] = 0;
  mlxrt_input input = message_input(deep);
  FAILS(mlxrt_render(model, &input, &text, NULL), MLXRT_E_INVALID_ARGUMENT, "messages");
  input = text_input("text");
  FAILS(mlxrt_render(model, &input, &text, NULL), MLXRT_E_INVALID_ARGUMENT, "messages");
  input = message_input("[{\"role\":\"user\",\"content\":\"x\"}]");
  static const struct {
    const char *tools, *args, *word;
    int32_t code;
  } extras[] = {
      {"{", NULL, "tools", MLXRT_E_INVALID_ARGUMENT},
      {"7", NULL, "tools", MLXRT_E_INVALID_ARGUMENT},
      {NULL, "[", "template_args", MLXRT_E_INVALID_ARGUMENT},
      {NULL, "[]", "template_args", MLXRT_E_INVALID_ARGUMENT},
      {NULL, "{\"messages\":[]}", "messages", MLXRT_E_INVALID_ARGUMENT},
  };
  for (size_t i = 0; i < COUNT(extras); i++) {
    input.tools = extras[i].tools;
    input.tools_len = MLXRT_NTS;
    input.template_args = extras[i].args;
    input.template_args_len = MLXRT_NTS;
    FAILS(mlxrt_render(model, &input, &text, NULL), extras[i].code, extras[i].word);
    CHECK(text == NULL);
  }
  check_alive(model);
  mlxrt_model_free(model);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"inspect", inspect},
      {"inspect_refuses_what_loading_would", inspect_refuses_what_loading_would},
      {"info", info},
      {"links_are_followed_if_the_host_says_so", links_are_followed_if_the_host_says_so},
      {"what_is_odd_is_told", what_is_odd_is_told},
      {"a_gguf_gets_the_cure", a_gguf_gets_the_cure},
      {"progress_is_heard", progress_is_heard},
      {"progress_stops_a_load", progress_stops_a_load},
      {"a_load_has_a_timeout", a_load_has_a_timeout},
      {"a_draft_has_the_tokens_of_its_model", a_draft_has_the_tokens_of_its_model},
      {"text_survives_tokens", text_survives_tokens},
      {"special_tokens", special_tokens},
      {"broken_characters_come_out_as_replacements", broken_characters_come_out_as_replacements},
      {"render", render},
      {"render_refuses", render_refuses},
  };
  return RUN(tests);
}
