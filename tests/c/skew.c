/* Structs between programs and libraries of different ages: every struct of the header, in and out, with sizes that are
 * smaller, larger and absurd, and with flags, kinds and reserved fields that this version does not have.
 *
 * Each struct ends where a page without any access begins: a byte read or written beyond struct_size ends the program.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "use.h"

#include <sys/mman.h>
#include <unistd.h>

static mlxrt_model *model;
static mlxrt_session *session;
static mlxrt_adapter *adapter;
static char adapter_folder[] = "/tmp/mlxrt-skew-XXXXXX";
#define ADAPTER_TENSOR "model.layers.0.self_attn.q_proj.lora_b"

#define ARGUMENT MLXRT_E_INVALID_ARGUMENT
#define UNSUPPORTED MLXRT_E_UNSUPPORTED

enum { LARGEST = 4096, ROOM = 2 * LARGEST };

/* The end of ROOM bytes, behind which a page without access lies. */
static unsigned char *end;

static void make_room(void) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (ROOM + page - 1) / page * page;
  unsigned char *base = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED || mprotect(base + room, page, PROT_NONE)) abort();
  end = base + room;
}

/* A place of so many bytes, right before `end`; what lies before it is 0xee. */
static unsigned char *place(size_t bytes) {
  memset(end - ROOM, 0xee, ROOM);
  return end - bytes;
}

/* Nothing before a place was written. */
static int untouched_before(const unsigned char *place) {
  for (const unsigned char *at = end - ROOM; at < place; at++) {
    if (!CHECK_INT(*at, 0xee)) return 0;
  }
  return 1;
}

/* ---- In ---- */

static mlxrt_error *init_with(const void *options) {
  mlxrt_error *error = mlxrt_init(options);
  if (!error) mlxrt_error_free(mlxrt_shutdown(0, MLXRT_FOREVER));
  return error;
}
static mlxrt_error *limits_with(const void *limits) { return mlxrt_memory_set(limits); }
static mlxrt_error *load_with(const void *options) {
  mlxrt_model *made = NULL;
  mlxrt_error *error = mlxrt_model_load(fixture("llama-f32"), options, &made);
  CHECK((made != NULL) == (error == NULL));
  mlxrt_model_free(made);
  return error;
}
static mlxrt_error *inspect_with(const void *options) {
  char *json = NULL;
  mlxrt_error *error = mlxrt_model_inspect(fixture("llama-f32"), options, NULL, &json, NULL);
  mlxrt_free(json);
  return error;
}
static mlxrt_error *inspect_session_with(const void *options) {
  char *json = NULL;
  mlxrt_error *error = mlxrt_model_inspect(fixture("llama-f32"), NULL, options, &json, NULL);
  mlxrt_free(json);
  return error;
}
static mlxrt_error *session_with(const void *options) {
  mlxrt_session *made = NULL;
  mlxrt_error *error = mlxrt_session_create(model, options, &made);
  CHECK((made != NULL) == (error == NULL));
  mlxrt_session_free(made);
  return error;
}
static mlxrt_error *render_with(const void *input) {
  char *text = NULL;
  mlxrt_error *error = mlxrt_render(model, input, &text, NULL);
  mlxrt_free(text);
  return error;
}
static mlxrt_error *generate_from(const void *input) {
  mlxrt_generate_options options = greedy(1);
  return mlxrt_generate(session, input, &options, NULL, NULL, NULL);
}
static mlxrt_error *submit_with(const void *options) {
  mlxrt_input input = text_input("x");
  mlxrt_request *request = (mlxrt_request *)&request;
  mlxrt_error *error = mlxrt_submit(session, &input, options, &request);
  CHECK((request != NULL) == (error == NULL));
  if (!error) error = mlxrt_request_result(request, MLXRT_FOREVER, NULL);
  mlxrt_request_free(request);
  return error;
}
static mlxrt_error *submit_from(const void *input) {
  mlxrt_generate_options options = greedy(1);
  mlxrt_request *request = NULL;
  mlxrt_error *error = mlxrt_submit(session, input, &options, &request);
  if (!error) error = mlxrt_request_result(request, MLXRT_FOREVER, NULL);
  mlxrt_request_free(request);
  return error;
}
static mlxrt_error *generate_with(const void *options) {
  mlxrt_input input = text_input("x");
  return mlxrt_generate(session, &input, options, NULL, NULL, NULL);
}

static mlxrt_error *adapter_with(const void *options) {
  mlxrt_adapter *made = NULL;
  mlxrt_error *error = mlxrt_adapter_create(model, options, &made);
  CHECK((made != NULL) == (error == NULL));
  mlxrt_adapter_free(made);
  return error;
}
static mlxrt_error *save_with(const void *options) { return mlxrt_adapter_save(adapter, adapter_folder, options); }
static mlxrt_error *save_model_with(const void *options) {
  return mlxrt_model_save(model, &adapter, NULL, 1, adapter_folder, options);
}
static mlxrt_error *save_session_with(const void *options) {
  char path[96];
  snprintf(path, sizeof path, "%s/session", adapter_folder);
  return mlxrt_session_save(session, path, options);
}
static mlxrt_error *load_session_with(const void *options) {
  char path[96];
  snprintf(path, sizeof path, "%s/session", adapter_folder);
  mlxrt_session *made = NULL;
  mlxrt_error *error = mlxrt_session_load(model, path, options, &made);
  CHECK((made != NULL) == (error == NULL));
  mlxrt_session_free(made);
  return error;
}
static mlxrt_error *set_with(const void *view) { return mlxrt_adapter_set(adapter, ADAPTER_TENSOR, view); }


static int32_t train_event(void *user_data, const mlxrt_train_event *event) {
  (void)user_data;
  CHECK(MLXRT_HAS(event, learning_rate) && event->struct_size == sizeof(mlxrt_train_event) && event->step == 1);
  return MLXRT_RETURN_CONTINUE;
}
static mlxrt_error *train_with(const void *options) {
  return mlxrt_train(model, adapter, options, train_event, NULL);
}

static mlxrt_error *embed_with(const void *options) {
  const char *const texts[] = {"Hi"};
  mlxrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  mlxrt_error *error = mlxrt_embed(model, texts, NULL, 1, options, &tensor);
  CHECK((tensor.data != NULL) == (error == NULL));
  mlxrt_free(tensor.data);
  return error;
}

/* Every way that a struct goes in. A struct that is new goes in here, and the test of the header's structs says so. */
static const struct in_case {
  const char *name;
  mlxrt_error *(*call)(const void *value);
  size_t size;
  uint32_t flags;
  /* Offset of a reserved field; 0 = none. */
  size_t reserved;
  /* Offset of a kind, and its largest value; 0 = none. */
  size_t kind;
  int32_t largest_kind;
} in_cases[] = {
#define FLAGS_OF_INPUT                                                                                   \
  (MLXRT_INPUT_NO_BOS | MLXRT_INPUT_SPECIAL_AS_TEXT | MLXRT_INPUT_TRUST_CONTENT |                        \
   MLXRT_INPUT_NO_GENERATION_PROMPT | MLXRT_INPUT_CONTINUE_LAST)
#define FLAGS_OF_GENERATE                                                                                \
  (MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_TOKENS_ONLY | MLXRT_GEN_PREFILL_ONLY |            \
   MLXRT_GEN_NO_PREFIX_CACHE | MLXRT_GEN_NO_MODEL_DEFAULTS | MLXRT_GEN_LOGPROBS | MLXRT_GEN_RAW_TEXT |   \
   MLXRT_GEN_STRICT_TOOLS | MLXRT_GEN_TOOL_DELTAS)
    {"init", init_with, sizeof(mlxrt_init_options), 0, 0, offsetof(mlxrt_init_options, device), MLXRT_DEVICE_GPU},
    {"limits", limits_with, sizeof(mlxrt_memory_limits), 0, 0, 0, 0},
    {"load", load_with, sizeof(mlxrt_load_options), MLXRT_LOAD_FOLLOW_LINKS, 0, 0, 0},
    {"inspect", inspect_with, sizeof(mlxrt_load_options), MLXRT_LOAD_FOLLOW_LINKS, 0, 0, 0},
    {"inspect's session", inspect_session_with, sizeof(mlxrt_session_options), 0,
     offsetof(mlxrt_session_options, reserved), 0, 0},
    {"session", session_with, sizeof(mlxrt_session_options), 0, offsetof(mlxrt_session_options, reserved), 0, 0},
    {"render", render_with, sizeof(mlxrt_input), FLAGS_OF_INPUT, 0, 0, 0},
    {"input", generate_from, sizeof(mlxrt_input), FLAGS_OF_INPUT, 0, 0, 0},
    {"generate", generate_with, sizeof(mlxrt_generate_options), FLAGS_OF_GENERATE,
     offsetof(mlxrt_generate_options, reserved), 0, 0},
    {"submitted input", submit_from, sizeof(mlxrt_input), FLAGS_OF_INPUT, 0, 0, 0},
    {"submit", submit_with, sizeof(mlxrt_generate_options), FLAGS_OF_GENERATE,
     offsetof(mlxrt_generate_options, reserved), 0, 0},
    {"adapter", adapter_with, sizeof(mlxrt_adapter_options), 0, 0, offsetof(mlxrt_adapter_options, kind), MLXRT_DORA},
    {"train", train_with, sizeof(mlxrt_train_options),
     MLXRT_TRAIN_PATHS | MLXRT_TRAIN_MASK_PROMPT | MLXRT_TRAIN_CHECKPOINT, 0,
     offsetof(mlxrt_train_options, optimizer), MLXRT_OPTIMIZER_SGD},
    {"embed", embed_with, sizeof(mlxrt_embed_options), MLXRT_EMBED_NORMALIZE, 0,
     offsetof(mlxrt_embed_options, pooling), MLXRT_POOLING_CLS},
    {"save", save_with, sizeof(mlxrt_call_options), 0, offsetof(mlxrt_call_options, reserved), 0, 0},
    {"save session", save_session_with, sizeof(mlxrt_call_options), 0, offsetof(mlxrt_call_options, reserved), 0, 0},
    {"load session", load_session_with, sizeof(mlxrt_call_options), 0, offsetof(mlxrt_call_options, reserved), 0, 0},
    {"save model", save_model_with, sizeof(mlxrt_call_options), 0, offsetof(mlxrt_call_options, reserved), 0, 0},
    /* It has its dtype where others have their flags. */
    {"tensor", set_with, sizeof(mlxrt_tensor_view), UINT32_MAX, offsetof(mlxrt_tensor_view, reserved), 0, 0},
};

/* What the struct of a case holds when it is right. */
static void fill(const struct in_case *one, unsigned char *value) {
  memset(value, 0, one->size);
  if (one->call == render_with || one->call == generate_from || one->call == submit_from) {
    mlxrt_input input = message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]");
    memcpy(value, &input, sizeof input);
  }
  if (one->call == set_with) {
    static float zeros[4096];
    mlxrt_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.struct_size = sizeof tensor;
    OK(mlxrt_adapter_get(adapter, ADAPTER_TENSOR, &tensor));
    mlxrt_free(tensor.data);
    CHECK(tensor.bytes <= sizeof zeros);
    mlxrt_tensor_view view;
    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    view.dtype = tensor.dtype;
    view.rank = tensor.rank;
    memcpy(view.shape, tensor.shape, sizeof view.shape);
    view.data = zeros;
    view.bytes = tensor.bytes;
    memcpy(value, &view, sizeof view);
  }
  if (one->call == train_with) {
    static const char data[] = "{\"text\": \"Hello there\"}";
    mlxrt_train_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.train = data;
    options.train_len = sizeof data - 1;
    options.steps = options.batch_size = 1;
    memcpy(value, &options, sizeof options);
  }
  if (one->call == generate_with || one->call == submit_with) {
    mlxrt_generate_options options = greedy(1);
    memcpy(value, &options, sizeof options);
  }
}

/* The case's struct with this struct_size, in a place of so many bytes; all that it has beyond the struct is 0. */
static unsigned char *value_of(const struct in_case *one, uint32_t struct_size, size_t bytes) {
  unsigned char whole[LARGEST] = {0}, *value = place(bytes);
  fill(one, whole);
  memcpy(whole, &struct_size, sizeof struct_size);
  memcpy(value, whole, bytes);
  return value;
}

static void explain(const struct in_case *one, const char *what, long number) {
  printf(" (%s, %s %ld)", one->name, what, number);
}

static void inputs_that_are_smaller(void) {
  for (size_t i = 0; i < COUNT(in_cases); i++) {
    const struct in_case *one = &in_cases[i];
    for (uint32_t size = 0; size < one->size; size++) {
      unsigned char *value = value_of(one, size, size < 4 ? 4 : size);
      if (!FAILS(one->call(value), ARGUMENT, "struct_size = sizeof(mlxrt_")) explain(one, "size", size);
    }
  }
}

static void inputs_that_are_larger(void) {
  for (size_t i = 0; i < COUNT(in_cases); i++) {
    const struct in_case *one = &in_cases[i];
    const size_t larger[] = {one->size, one->size + 8, one->size + 64, LARGEST};
    for (size_t k = 0; k < COUNT(larger); k++) {
      size_t size = larger[k];
      unsigned char *value = value_of(one, (uint32_t)size, size);
      if (!OK(one->call(value))) explain(one, "size", (long)size);
      /* A field behind what this version knows: its first byte, its last one, and one in between. */
      const size_t at[] = {one->size, one->size + (size - one->size) / 2, size - 1};
      for (size_t j = 0; size > one->size && j < COUNT(at); j++) {
        value = value_of(one, (uint32_t)size, size);
        value[at[j]] = j == 1 ? 0x80 : 1;
        if (!FAILS(one->call(value), UNSUPPORTED, "newer than this library")) explain(one, "byte", (long)at[j]);
      }
    }
    /* No struct has such a size. */
    for (size_t odd = 1; odd < 8; odd++) {
      unsigned char *value = value_of(one, (uint32_t)(one->size + odd), one->size + odd);
      if (!FAILS(one->call(value), ARGUMENT, "struct_size")) explain(one, "size", (long)(one->size + odd));
    }
  }
  check_alive(model);
}

static const uint32_t absurd[] = {4097, 4104, 8192, 65536, 0x7fffffff, 0x80000000, UINT32_MAX};

/* Only struct_size is there to be read. */
static void inputs_that_are_absurd(void) {
  for (size_t i = 0; i < COUNT(in_cases); i++) {
    for (size_t k = 0; k < COUNT(absurd); k++) {
      unsigned char *value = value_of(&in_cases[i], absurd[k], 4);
      if (!FAILS(in_cases[i].call(value), UNSUPPORTED, "struct_size")) explain(&in_cases[i], "size", absurd[k]);
    }
  }
}

static void flags_that_are_unknown(void) {
  for (size_t i = 0; i < COUNT(in_cases); i++) {
    const struct in_case *one = &in_cases[i];
    for (int bit = 0; bit < 32; bit++) {
      uint32_t flag = (uint32_t)1 << bit, flags = flag;
      if (flag & one->flags) continue;
      unsigned char *value = value_of(one, (uint32_t)one->size, one->size);
      memcpy(value + 4, &flags, sizeof flags);
      if (!FAILS(one->call(value), UNSUPPORTED, "flags")) explain(one, "bit", bit);
      /* Beside all that are known. */
      flags |= one->flags;
      memcpy(value + 4, &flags, sizeof flags);
      if (!FAILS(one->call(value), UNSUPPORTED, "flags")) explain(one, "all and bit", bit);
    }
  }
  check_alive(model);
}

static void kinds_that_are_unknown(void) {
  int seen = 0;
  for (size_t i = 0; i < COUNT(in_cases); i++) {
    const struct in_case *one = &in_cases[i];
    const int32_t unknown[] = {-1, INT32_MIN, one->largest_kind + 1, one->largest_kind + 100, INT32_MAX};
    for (size_t k = 0; one->kind && k < COUNT(unknown); k++, seen++) {
      unsigned char *value = value_of(one, (uint32_t)one->size, one->size);
      memcpy(value + one->kind, &unknown[k], sizeof unknown[k]);
      if (!FAILS(one->call(value), UNSUPPORTED, "options.")) explain(one, "kind", unknown[k]);
    }
  }
  CHECK(seen >= 5);
}

static void reserved_fields(void) {
  int seen = 0;
  for (size_t i = 0; i < COUNT(in_cases); i++) {
    const struct in_case *one = &in_cases[i];
    for (int bit = 0; one->reserved && bit < 32; bit++, seen++) {
      uint32_t reserved = (uint32_t)1 << bit;
      unsigned char *value = value_of(one, (uint32_t)one->size, one->size);
      memcpy(value + one->reserved, &reserved, sizeof reserved);
      if (!FAILS(one->call(value), UNSUPPORTED, "reserved")) explain(one, "bit", bit);
    }
  }
  CHECK(seen >= 64);
}

/* ---- Out ---- */

static mlxrt_error *memory_into(void *out) { return mlxrt_memory_get(out); }
static mlxrt_error *state_into(void *out) { return mlxrt_session_info(session, out); }
static mlxrt_error *metrics_into(void *out) { return mlxrt_metrics(NULL, out); }
static mlxrt_error *model_metrics_into(void *out) { return mlxrt_metrics(model, out); }
static mlxrt_error *result_into(void *out) {
  mlxrt_input input = text_input("x");
  mlxrt_generate_options options = greedy(1);
  return mlxrt_generate(session, &input, &options, NULL, NULL, out);
}

static mlxrt_error *submitted_result_into(void *out) {
  mlxrt_input input = text_input("x");
  mlxrt_generate_options options = greedy(1);
  mlxrt_request *request = NULL;
  OK(mlxrt_submit(session, &input, &options, &request));
  mlxrt_error *error = mlxrt_request_result(request, MLXRT_FOREVER, out);
  mlxrt_request_free(request);
  return error;
}

static mlxrt_error *tensor_into(void *out) {
  mlxrt_error *error = mlxrt_adapter_get(adapter, ADAPTER_TENSOR, out);
  if (!error) {
    mlxrt_tensor tensor;
    memcpy(&tensor, out, sizeof tensor);
    mlxrt_free(tensor.data);
  }
  return error;
}

static const struct out_case {
  const char *name;
  mlxrt_error *(*call)(void *out);
  size_t size;
} out_cases[] = {
    {"memory", memory_into, sizeof(mlxrt_memory)},
    {"state", state_into, sizeof(mlxrt_session_state)},
    {"metrics", metrics_into, sizeof(mlxrt_metrics_data)},
    {"model's metrics", model_metrics_into, sizeof(mlxrt_metrics_data)},
    {"result", result_into, sizeof(mlxrt_result)},
    {"submitted result", submitted_result_into, sizeof(mlxrt_result)},
    {"tensor", tensor_into, sizeof(mlxrt_tensor)},
};

/* Calls with an output of 0xee with this struct_size. */
static mlxrt_error *out_call(const struct out_case *one, uint32_t struct_size, size_t bytes, unsigned char **out) {
  *out = place(bytes);
  memcpy(*out, &struct_size, sizeof struct_size);
  return one->call(*out);
}

static void refused_output(const struct out_case *one, uint32_t struct_size, size_t bytes, int32_t code) {
  unsigned char *out;
  int refused = FAILS(out_call(one, struct_size, bytes, &out), code, "struct_size = sizeof(mlxrt_");
  if (!refused) printf(" (%s, size %" PRIu32 ")", one->name, struct_size);
  /* And nothing was written. */
  uint32_t after;
  memcpy(&after, out, sizeof after);
  CHECK_INT(after, struct_size);
  for (unsigned char *at = out + 4; at < end; at++) {
    if (!CHECK_INT(*at, 0xee)) break;
  }
  untouched_before(out);
}

static void outputs_of_a_wrong_size(void) {
  for (size_t i = 0; i < COUNT(out_cases); i++) {
    const struct out_case *one = &out_cases[i];
    for (uint32_t size = 0; size < one->size; size++) refused_output(one, size, size < 4 ? 4 : size, ARGUMENT);
    for (uint32_t odd = 1; odd < 8; odd++) {
      refused_output(one, (uint32_t)one->size + odd, one->size + odd, ARGUMENT);
    }
    for (size_t k = 0; k < COUNT(absurd); k++) refused_output(one, absurd[k], 4, UNSUPPORTED);
  }
  check_alive(model);
}

/* What this version has is filled, what it does not have is zeroed, struct_size says where the border is. */
static void outputs_that_are_larger(void) {
  for (size_t i = 0; i < COUNT(out_cases); i++) {
    const struct out_case *one = &out_cases[i];
    const size_t larger[] = {one->size, one->size + 8, one->size + 64, LARGEST};
    for (size_t k = 0; k < COUNT(larger); k++) {
      unsigned char *out;
      if (!OK(out_call(one, (uint32_t)larger[k], larger[k], &out))) printf(" (%s)", one->name);
      uint32_t filled;
      memcpy(&filled, out, sizeof filled);
      CHECK_INT(filled, one->size);
      /* All of it was written: nothing is left of a whole field of 0xee. */
      for (size_t at = 8; at < one->size; at += 8) {
        uint64_t field;
        memcpy(&field, out + at, sizeof field);
        if (!CHECK(field != 0xeeeeeeeeeeeeeeee)) printf(" (%s, byte %zu)", one->name, at);
      }
      for (size_t at = one->size; at < larger[k]; at++) {
        if (!CHECK_INT(out[at], 0)) break;
      }
      untouched_before(out);
    }
  }
}

/* A result of a newer program is filled on failure too. */
static void a_larger_result_of_a_failure(void) {
  mlxrt_input input = text_input("\xff");
  unsigned char *out = place(sizeof(mlxrt_result) + 8);
  uint32_t size = sizeof(mlxrt_result) + 8;
  memcpy(out, &size, sizeof size);
  FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, (mlxrt_result *)out), ARGUMENT, "text");
  mlxrt_result result;
  memcpy(&result, out, sizeof result);
  CHECK_INT(result.struct_size, sizeof result);
  CHECK_INT(result.stop, MLXRT_STOPPED_ERROR);
  CHECK_INT(result.error_code, ARGUMENT);
  for (size_t at = sizeof result; at < size; at++) CHECK_INT(out[at], 0);
  untouched_before(out);
}

/* ---- Handed out ---- */

static int32_t look_at_event(void *user_data, const mlxrt_event *event) {
  ++*(int *)user_data;
  CHECK_INT(event->struct_size, sizeof *event);
  CHECK(MLXRT_HAS(event, struct_size) && MLXRT_HAS(event, kind) && MLXRT_HAS(event, total));
  /* What a program asks that was compiled with a field more. */
  struct newer {
    uint32_t struct_size;
    char known[sizeof(mlxrt_event) - sizeof(uint32_t)];
    uint64_t added;
  };
  CHECK(!MLXRT_HAS((const struct newer *)(const void *)event, added));
  return MLXRT_RETURN_CONTINUE;
}

static void events_say_what_they_have(void) {
  mlxrt_input input = text_input("Hello");
  mlxrt_generate_options options = greedy(5);
  options.progress_tokens = 1;
  int events = 0;
  OK(mlxrt_generate(session, &input, &options, look_at_event, &events, NULL));
  CHECK(events >= 5);
  mlxrt_request *request = NULL;
  int32_t state = MLXRT_NEXT_EVENT;
  events = 0;
  OK(mlxrt_submit(session, &input, &options, &request));
  while (state == MLXRT_NEXT_EVENT) {
    mlxrt_event *event = NULL;
    if (!OK(mlxrt_request_next(request, MLXRT_FOREVER, &event, &state))) break;
    if (event) look_at_event(&events, event);
    mlxrt_free(event);
  }
  CHECK(events >= 5);
  mlxrt_request_free(request);
}

static void the_table_says_what_it_has(void) {
  const mlxrt_api *api = mlxrt_get_api(MLXRT_ABI);
  if (!CHECK(api != NULL)) return;
  CHECK_INT(api->struct_size, sizeof *api);
  CHECK_INT(api->abi, MLXRT_ABI);
  CHECK(MLXRT_HAS(api, mlxrt_metrics));
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"inputs_that_are_smaller", inputs_that_are_smaller},
      {"inputs_that_are_larger", inputs_that_are_larger},
      {"inputs_that_are_absurd", inputs_that_are_absurd},
      {"flags_that_are_unknown", flags_that_are_unknown},
      {"kinds_that_are_unknown", kinds_that_are_unknown},
      {"reserved_fields", reserved_fields},
      {"outputs_of_a_wrong_size", outputs_of_a_wrong_size},
      {"outputs_that_are_larger", outputs_that_are_larger},
      {"a_larger_result_of_a_failure", a_larger_result_of_a_failure},
      {"events_say_what_they_have", events_say_what_they_have},
      {"the_table_says_what_it_has", the_table_says_what_it_has},
  };
  make_room();
  model = load("qwen3-f32");
  session = session_of(model);
  OK(mlxrt_adapter_create(model, NULL, &adapter));
  CHECK(mkdtemp(adapter_folder) != NULL);
  int failed = RUN(tests);
  char path[96];
  snprintf(path, sizeof path, "%s/adapters.safetensors", adapter_folder);
  unlink(path);
  snprintf(path, sizeof path, "%s/adapter_config.json", adapter_folder);
  unlink(path);
  static const char *const model_files[] = {"config.json", "generation_config.json", "tokenizer.json",
                                            "tokenizer_config.json", "chat_template.jinja", "model.safetensors",
                                            "model.safetensors.index.json", "session"};
  for (size_t i = 0; i < COUNT(model_files); i++) {
    snprintf(path, sizeof path, "%s/%s", adapter_folder, model_files[i]);
    unlink(path);
  }
  CHECK_INT(rmdir(adapter_folder), 0);
  mlxrt_adapter_free(adapter);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  return failed;
}
