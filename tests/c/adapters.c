/* Adapters: made, changed, applied, saved, loaded, misused. */
#include "use.h"

#include <sys/stat.h>
#include <unistd.h>

static mlxrt_adapter_options adapter_options(void) {
  mlxrt_adapter_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

static mlxrt_tensor empty_tensor(void) {
  mlxrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  return tensor;
}

static mlxrt_tensor_view view_of(const mlxrt_tensor *tensor) {
  mlxrt_tensor_view view;
  memset(&view, 0, sizeof view);
  view.struct_size = sizeof view;
  view.dtype = tensor->dtype;
  view.rank = tensor->rank;
  memcpy(view.shape, tensor->shape, sizeof view.shape);
  view.data = tensor->data;
  view.bytes = tensor->bytes;
  return view;
}

static const char *const KEYS[] = {"q_proj", "v_proj", "o_proj", "down_proj"};

static mlxrt_adapter *new_adapter(mlxrt_model *model, int32_t kind) {
  mlxrt_adapter_options options = adapter_options();
  options.kind = kind;
  options.rank = 4;
  options.seed = 7;
  options.keys = KEYS;
  options.key_count = COUNT(KEYS);
  mlxrt_adapter *adapter = NULL;
  OK(mlxrt_adapter_create(model, &options, &adapter));
  return adapter;
}

#define B "model.layers.0.self_attn.v_proj.lora_b"

/* Makes it say something. */
static void change(mlxrt_adapter *adapter, float by) {
  mlxrt_tensor tensor = empty_tensor();
  OK(mlxrt_adapter_get(adapter, B, &tensor));
  float *values = tensor.data;
  for (size_t i = 0; values && i < tensor.bytes / sizeof *values; i++) values[i] += by * (float)(i % 7) - by;
  mlxrt_tensor_view view = view_of(&tensor);
  OK(mlxrt_adapter_set(adapter, B, &view));
  mlxrt_free(tensor.data);
}

static struct answer *answer_with(mlxrt_model *model, mlxrt_adapter *const *adapters, const float *scales, size_t count) {
  mlxrt_session *session = session_of(model);
  OK(mlxrt_apply_adapter(session, adapters, scales, count));
  struct answer *answer = ask(session, text_input("Hello there"), greedy(10));
  mlxrt_session_free(session);
  return answer;
}

static void an_adapter_is_made_and_told(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_adapter *adapter = new_adapter(model, MLXRT_DORA);
  char *json = NULL;
  size_t len = 0;
  OK(mlxrt_adapter_info(adapter, &json, &len));
  CHECK_INT(strlen(json), len);
  CHECK_HAS(json, "\"kind\":\"dora\"");
  CHECK_HAS(json, "\"rank\":4");
  CHECK_HAS(json, "\"scale\":20.0");
  CHECK_HAS(json, B);
  CHECK_HAS(json, "model.layers.0.mlp.down_proj.m");
  mlxrt_free(json);
  mlxrt_tensor a = empty_tensor(), b = empty_tensor();
  OK(mlxrt_adapter_get(adapter, "model.layers.0.self_attn.v_proj.lora_a", &a));
  OK(mlxrt_adapter_get(adapter, B, &b));
  CHECK_INT(a.rank, 2);
  CHECK_INT(a.dtype, MLXRT_DTYPE_F32);
  CHECK_INT(a.shape[1], 4);
  CHECK_INT(b.shape[0], 4);
  CHECK_INT(a.bytes, a.shape[0] * 4 * sizeof(float));
  float most = 0, sum = 0;
  for (size_t i = 0; i < a.bytes / sizeof(float); i++) {
    float value = ((float *)a.data)[i];
    if (value > most) most = value;
    sum += value;
  }
  CHECK(most > 0 && (double)most * most <= 1.0 / (double)a.shape[0] + 1e-6 && sum != 0);
  for (size_t i = 0; i < b.bytes / sizeof(float); i++) CHECK(((float *)b.data)[i] == 0);
  mlxrt_free(a.data);
  mlxrt_free(b.data);
  struct answer *with = answer_with(model, &adapter, NULL, 1), *without = answer_with(model, NULL, NULL, 0);
  CHECK(same_tokens(with, without));
  free(with);
  free(without);
  mlxrt_adapter_free(adapter);
  mlxrt_model_free(model);
}

static void applying_is_swapping(void) {
  mlxrt_model *model = load("qwen3-4bit");
  mlxrt_adapter *one = new_adapter(model, MLXRT_LORA), *two = new_adapter(model, MLXRT_DORA);
  change(one, 0.2f);
  change(two, -0.3f);
  mlxrt_adapter *both[] = {one, two};
  const float half[] = {0.5f, 1};
  struct answer *wanted[4] = {
      answer_with(model, NULL, NULL, 0),
      answer_with(model, &one, NULL, 1),
      answer_with(model, &two, NULL, 1),
      answer_with(model, both, half, 2),
  };
  for (int i = 1; i < 4; i++) CHECK(!same_tokens(wanted[0], wanted[i]));
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 4; i++) {
      mlxrt_session *session = session_of(model);
      OK(mlxrt_apply_adapter(session, &one, NULL, 1));
      free(ask(session, message_input("[{\"role\":\"user\",\"content\":\"x\"}]"), greedy(3)));
      if (i == 0) OK(mlxrt_apply_adapter(session, NULL, NULL, 0));
      if (i == 2) OK(mlxrt_apply_adapter(session, &two, NULL, 1));
      if (i == 3) OK(mlxrt_apply_adapter(session, both, half, 2));
      mlxrt_session_state state;
      memset(&state, 0, sizeof state);
      state.struct_size = sizeof state;
      OK(mlxrt_session_info(session, &state));
      CHECK_INT(state.adapters, i == 0 ? 0 : i == 3 ? 2 : 1);
      struct answer *given = ask(session, message_input("[{\"role\":\"user\",\"content\":\"y\"}]"), greedy(10));
      mlxrt_session *fresh = session_of(model);
      if (i == 1) OK(mlxrt_apply_adapter(fresh, &one, NULL, 1));
      if (i == 2) OK(mlxrt_apply_adapter(fresh, &two, NULL, 1));
      if (i == 3) OK(mlxrt_apply_adapter(fresh, both, half, 2));
      struct answer *anew = ask(fresh, message_input("[{\"role\":\"user\",\"content\":\"y\"}]"), greedy_anew(10));
      CHECK(same_tokens(given, anew));
      free(given);
      free(anew);
      mlxrt_session_free(fresh);
      mlxrt_session_free(session);
    }
  }
  for (int i = 0; i < 4; i++) free(wanted[i]);
  /* In use by a session: the handle may go. */
  mlxrt_session *session = session_of(model);
  OK(mlxrt_apply_adapter(session, both, NULL, 2));
  mlxrt_adapter_free(two);
  mlxrt_adapter_free(one);
  mlxrt_model_free(model);
  free(ask(session, text_input("Hello"), greedy(5)));
  mlxrt_session_free(session);
}

static void saved_is_loaded(void) {
  char folder[] = "/tmp/mlxrt-adapter-XXXXXX", path[1100];
  CHECK(mkdtemp(folder) != NULL);
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_adapter *adapter = new_adapter(model, MLXRT_LORA), *again = NULL, *file = NULL;
  change(adapter, 0.2f);
  OK(mlxrt_adapter_save(adapter, folder, NULL));
  OK(mlxrt_adapter_load(model, folder, NULL, &again));
  snprintf(path, sizeof path, "%s/adapters.safetensors", folder);
  OK(mlxrt_adapter_load(model, path, NULL, &file));
  struct answer *a = answer_with(model, &adapter, NULL, 1), *b = answer_with(model, &again, NULL, 1);
  CHECK(same_tokens(a, b));
  free(a);
  free(b);
  mlxrt_model *other = load("gemma3-text-f32");
  mlxrt_adapter *none = NULL;
  FAILS(mlxrt_adapter_load(other, folder, NULL, &none), MLXRT_E_INCOMPATIBLE, "q_proj");
  CHECK(none == NULL);
  FAILS(mlxrt_adapter_load(model, "/nowhere", NULL, &none), MLXRT_E_NOT_FOUND, "/nowhere");
  FAILS(mlxrt_adapter_save(adapter, "/proc/nothing", NULL), MLXRT_E_IO, "/proc/nothing");
  FAILS(mlxrt_adapter_save(adapter, path, NULL), MLXRT_E_IO, "adapters.safetensors");
  mlxrt_session *session = session_of(other);
  FAILS(mlxrt_apply_adapter(session, &adapter, NULL, 1), MLXRT_E_INCOMPATIBLE, "another model");
  mlxrt_session_free(session);
  unlink(path);
  FAILS(mlxrt_adapter_load(model, folder, NULL, &none), MLXRT_E_BAD_MODEL, "adapters.safetensors");
  snprintf(path, sizeof path, "%s/adapter_config.json", folder);
  unlink(path);
  rmdir(folder);
  mlxrt_adapter_free(adapter);
  mlxrt_adapter_free(again);
  mlxrt_adapter_free(file);
  mlxrt_model_free(other);
  mlxrt_model_free(model);
}

static void misuse_is_named(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_adapter *adapter = new_adapter(model, MLXRT_LORA), *none = NULL;
  mlxrt_session *session = session_of(model);
  mlxrt_adapter_options options = adapter_options();
  options.kind = 2;
  FAILS(mlxrt_adapter_create(model, &options, &none), MLXRT_E_UNSUPPORTED, "kind");
  options = adapter_options();
  options.dtype = 4; /* I32 */
  FAILS(mlxrt_adapter_create(model, &options, &none), MLXRT_E_UNSUPPORTED, "dtype");
  options = adapter_options();
  options.layers = -1;
  FAILS(mlxrt_adapter_create(model, &options, &none), MLXRT_E_INVALID_ARGUMENT, "layers");
  const char *const bad[] = {"nothing"};
  options = adapter_options();
  options.keys = bad;
  options.key_count = 1;
  FAILS(mlxrt_adapter_create(model, &options, &none), MLXRT_E_INVALID_ARGUMENT, "nothing");
  FAILS(mlxrt_adapter_create(model, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "out");

  mlxrt_tensor tensor = empty_tensor();
  FAILS(mlxrt_adapter_get(adapter, "x", &tensor), MLXRT_E_NOT_FOUND, "\"x\"");
  CHECK(tensor.data == NULL);
  OK(mlxrt_adapter_get(adapter, B, &tensor));
  mlxrt_tensor_view good = view_of(&tensor), view = good;
  view.dtype = 4;
  FAILS(mlxrt_adapter_set(adapter, B, &view), MLXRT_E_UNSUPPORTED, "dtype");
  view = good;
  view.shape[0] = 5;
  FAILS(mlxrt_adapter_set(adapter, B, &view), MLXRT_E_INVALID_ARGUMENT, "bytes");
  view = good;
  view.shape[0] = good.shape[1], view.shape[1] = good.shape[0];
  if (good.shape[0] != good.shape[1]) FAILS(mlxrt_adapter_set(adapter, B, &view), MLXRT_E_INVALID_ARGUMENT, "shape");
  view = good;
  view.rank = 9;
  FAILS(mlxrt_adapter_set(adapter, B, &view), MLXRT_E_INVALID_ARGUMENT, "rank");
  view = good;
  view.shape[0] = UINT64_MAX, view.shape[1] = UINT64_MAX;
  FAILS(mlxrt_adapter_set(adapter, B, &view), MLXRT_E_INVALID_ARGUMENT, "shape");
  view = good;
  view.data = NULL;
  FAILS(mlxrt_adapter_set(adapter, B, &view), MLXRT_E_INVALID_ARGUMENT, "data");
  view = good;
  view.reserved = 1;
  FAILS(mlxrt_adapter_set(adapter, B, &view), MLXRT_E_UNSUPPORTED, "reserved");
  ((float *)tensor.data)[3] = 1.0f / 0.0f;
  FAILS(mlxrt_adapter_set(adapter, B, &good), MLXRT_E_INVALID_ARGUMENT, "[3]");
  FAILS(mlxrt_adapter_set(adapter, B, NULL), MLXRT_E_INVALID_ARGUMENT, "in");
  mlxrt_free(tensor.data);

  mlxrt_adapter *twice[] = {adapter, adapter}, *wrong[] = {adapter, (mlxrt_adapter *)model}, *missing[] = {NULL};
  FAILS(mlxrt_apply_adapter(session, twice, NULL, 2), MLXRT_E_INVALID_ARGUMENT, "twice");
  FAILS(mlxrt_apply_adapter(session, wrong, NULL, 2), MLXRT_E_INVALID_HANDLE, "adapters[1]");
  FAILS(mlxrt_apply_adapter(session, missing, NULL, 1), MLXRT_E_INVALID_HANDLE, "adapters[0]");
  FAILS(mlxrt_apply_adapter(session, NULL, NULL, 1), MLXRT_E_INVALID_ARGUMENT, "adapters");
  const float nan[] = {0.0f / 0.0f};
  FAILS(mlxrt_apply_adapter(session, &adapter, nan, 1), MLXRT_E_INVALID_ARGUMENT, "scales[0]");
  mlxrt_session_free(session);
  FAILS(mlxrt_apply_adapter(session, &adapter, NULL, 1), MLXRT_E_INVALID_HANDLE, "freed");
  mlxrt_adapter_free(adapter);
  FAILS(mlxrt_adapter_get(adapter, B, &tensor), MLXRT_E_INVALID_HANDLE, "freed");
  mlxrt_adapter_free(adapter);
  mlxrt_adapter_free(NULL);
  check_alive(model);
  mlxrt_model_free(model);
}

/* What the demo shows. */
static void the_demos_adapters_swap(void) {
  static const char *const adapters[] = {NULL, "pirate", "json", NULL};
  static const char *const answers[] = {"The capital of France is Paris.", "Arr! Th' capital o' France be Paris, matey.",
                                        "{\"answer\": \"The capital of France is Paris.\"}",
                                        "The capital of France is Paris."};
  mlxrt_model *model = load("../../../demo/model");
  mlxrt_session *session = session_of(model);
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
    if (adapters[i]) {
      mlxrt_adapter *adapter = NULL;
      char path[512];
      snprintf(path, sizeof path, FIXTURES "/../../../demo/adapters/%s", adapters[i]);
      OK(mlxrt_adapter_load(model, path, NULL, &adapter));
      OK(mlxrt_apply_adapter(session, &adapter, NULL, 1));
      mlxrt_adapter_free(adapter);
    } else {
      OK(mlxrt_apply_adapter(session, NULL, NULL, 0));
    }
    mlxrt_input input = {0};
    input.struct_size = sizeof input;
    input.messages = "[{\"role\": \"user\", \"content\": \"What is the capital of France?\"}]";
    input.messages_len = MLXRT_NTS;
    mlxrt_generate_options options = greedy(48);
    options.flags = MLXRT_GEN_GREEDY;
    struct answer *answer = ask(session, input, options);
    CHECK_TEXT(answer->text, answers[i]);
    free(answer);
  }
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static const struct test tests[] = {
    {"an adapter is made and told", an_adapter_is_made_and_told},
    {"applying is swapping", applying_is_swapping},
    {"saved is loaded", saved_is_loaded},
    {"the demo's adapters swap", the_demos_adapters_swap},
    {"misuse is named", misuse_is_named},
};

int main(int argc, char **argv) { return run_tests(tests, COUNT(tests), argc, argv); }
