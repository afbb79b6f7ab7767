/* Models to disk, with adapters fused in; and what happens when the disk is full. */
#include "use.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder of our own, which `clear` takes away with all that is in it. */
static char base[256];

static const char *in_base(const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", base, name);
  return path;
}

static void start(void) {
  snprintf(base, sizeof base, "/tmp/mlxrt-saving-XXXXXX");
  CHECK(mkdtemp(base) != NULL);
}

/* How many files lie in a folder; with `take_away` none afterwards. */
static int files_in(const char *folder, int take_away) {
  DIR *dir = opendir(folder);
  if (!dir) return -1;
  int count = 0;
  for (struct dirent *entry; (entry = readdir(dir));) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    count++;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    if (take_away && unlink(path) != 0) {
      files_in(path, 1);
      rmdir(path);
    }
  }
  closedir(dir);
  return count;
}

static void end(void) {
  files_in(base, 1);
  CHECK_INT(rmdir(base), 0);
}

static mlxrt_adapter *new_adapter(mlxrt_model *model, int32_t kind) {
  static const char *const keys[] = {"q_proj", "v_proj", "o_proj", "down_proj"};
  mlxrt_adapter_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.kind = kind;
  options.rank = 4;
  options.scale = 2;
  options.keys = keys;
  options.key_count = COUNT(keys);
  mlxrt_adapter *adapter = NULL;
  OK(mlxrt_adapter_create(model, &options, &adapter));
  const char *name = "model.layers.0.self_attn.v_proj.lora_b";
  mlxrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  OK(mlxrt_adapter_get(adapter, name, &tensor));
  float *values = tensor.data;
  for (size_t i = 0; values && i < tensor.bytes / sizeof *values; i++) values[i] = 0.3f * (float)(i % 7) - 0.8f;
  mlxrt_tensor_view view;
  memset(&view, 0, sizeof view);
  view.struct_size = sizeof view;
  view.dtype = tensor.dtype;
  view.rank = tensor.rank;
  memcpy(view.shape, tensor.shape, sizeof view.shape);
  view.data = values;
  view.bytes = tensor.bytes;
  OK(mlxrt_adapter_set(adapter, name, &view));
  mlxrt_free(values);
  return adapter;
}

static struct answer *answer_with(mlxrt_model *model, mlxrt_adapter *const *adapters, const float *scales, size_t count) {
  mlxrt_session *session = session_of(model);
  OK(mlxrt_apply_adapter(session, adapters, scales, count));
  struct answer *answer = ask(session, text_input("Hello there"), greedy(12));
  mlxrt_session_free(session);
  return answer;
}

/* The folder holds a model that says this. */
static void check_says(const char *folder, const struct answer *wanted) {
  mlxrt_model *model = NULL;
  OK(mlxrt_model_load(folder, NULL, &model));
  struct answer *given = answer_with(model, NULL, NULL, 0);
  CHECK(same_tokens(given, wanted));
  free(given);
  mlxrt_model_free(model);
}

struct heard {
  uint64_t calls, done, total, stop_at;
};

static int32_t hear(void *user_data, uint64_t done, uint64_t total) {
  struct heard *heard = user_data;
  CHECK(done >= heard->done && done <= total);
  heard->done = done;
  heard->total = total;
  return ++heard->calls == heard->stop_at ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static mlxrt_call_options heard_by(struct heard *heard) {
  mlxrt_call_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.progress = hear;
  options.progress_data = heard;
  return options;
}

static void saved_and_loaded(void) {
  start();
  static const char *const models[] = {"qwen3-4bit", "gemma3-text-f32", "llama-f32"};
  for (size_t i = 0; i < COUNT(models); i++) {
    mlxrt_model *model = load(models[i]);
    struct answer *wanted = answer_with(model, NULL, NULL, 0);
    struct heard heard = {0, 0, 0, 0};
    mlxrt_call_options options = heard_by(&heard);
    /* Each replaces the one before. */
    OK(mlxrt_model_save(model, NULL, NULL, 0, in_base("model"), &options));
    CHECK(heard.calls > 3 && heard.done == heard.total && heard.total > 10000);
    check_says(in_base("model"), wanted);
    free(wanted);
    mlxrt_model_free(model);
  }
  CHECK_INT(files_in(base, 0), 1);
  end();
}

static void fused_says_what_the_session_said(void) {
  start();
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_adapter *both[] = {new_adapter(model, MLXRT_LORA), new_adapter(model, MLXRT_DORA)};
  const float scales[] = {0.5f, 1};
  struct answer *none = answer_with(model, NULL, NULL, 0), *one = answer_with(model, both, NULL, 1),
                *two = answer_with(model, both, scales, 2);
  CHECK(!same_tokens(none, one) && !same_tokens(one, two));
  OK(mlxrt_model_save(model, both, NULL, 1, in_base("one"), NULL));
  OK(mlxrt_model_save(model, both, scales, 2, in_base("two"), NULL));
  check_says(in_base("one"), one);
  check_says(in_base("two"), two);
  /* The model and its sessions are as they were. */
  struct answer *again = answer_with(model, NULL, NULL, 0);
  CHECK(same_tokens(none, again));
  free(none);
  free(one);
  free(two);
  free(again);
  mlxrt_adapter_free(both[0]);
  mlxrt_adapter_free(both[1]);
  mlxrt_model_free(model);
  end();
}

static void what_is_wrong_is_named(void) {
  start();
  mlxrt_model *model = load("qwen3-f32"), *other = load("llama-f32");
  mlxrt_adapter *adapter = new_adapter(model, MLXRT_LORA), *foreign = new_adapter(other, MLXRT_LORA);
  mlxrt_adapter *twice[] = {adapter, adapter};
  const float bad[] = {1.0f / 0.0f}, large[] = {3.3e38f};
  const char *path = in_base("model");
  FAILS(mlxrt_model_save(NULL, NULL, NULL, 0, path, NULL), MLXRT_E_INVALID_HANDLE, "model");
  FAILS(mlxrt_model_save(model, NULL, NULL, 0, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "path");
  FAILS(mlxrt_model_save(model, NULL, NULL, 0, "", NULL), MLXRT_E_INVALID_ARGUMENT, "path");
  FAILS(mlxrt_model_save(model, NULL, NULL, 1, path, NULL), MLXRT_E_INVALID_ARGUMENT, "adapters");
  FAILS(mlxrt_model_save(model, twice, NULL, 2, path, NULL), MLXRT_E_INVALID_ARGUMENT, "adapters[1]");
  FAILS(mlxrt_model_save(model, twice, bad, 1, path, NULL), MLXRT_E_INVALID_ARGUMENT, "scales[0]");
  FAILS(mlxrt_model_save(model, &foreign, NULL, 1, path, NULL), MLXRT_E_INCOMPATIBLE, "adapters[0]");
  FAILS(mlxrt_model_save(model, &adapter, large, 1, path, NULL), MLXRT_E_INVALID_ARGUMENT, "scales[0]");
  FAILS(mlxrt_model_save(model, NULL, NULL, 0, "/proc/nothing", NULL), MLXRT_E_IO, "/proc/nothing");
  struct heard heard = {0, 0, 0, 3};
  mlxrt_call_options options = heard_by(&heard);
  FAILS(mlxrt_model_save(model, NULL, NULL, 0, path, &options), MLXRT_E_CANCELLED, "progress");
  OK(mlxrt_suspend(MLXRT_FOREVER));
  FAILS(mlxrt_model_save(model, NULL, NULL, 0, path, NULL), MLXRT_E_SUSPENDED, "suspended");
  OK(mlxrt_resume());
  CHECK_INT(files_in(base, 0), 0);

  /* A folder that loses a file after it was loaded. */
  OK(mlxrt_model_save(other, NULL, NULL, 0, path, NULL));
  mlxrt_model *poor = NULL;
  OK(mlxrt_model_load(path, NULL, &poor));
  CHECK_INT(unlink(in_base("model/tokenizer.json")), 0);
  FAILS(mlxrt_model_save(poor, NULL, NULL, 0, in_base("copy"), NULL), MLXRT_E_BAD_MODEL, "tokenizer.json");
  CHECK_INT(files_in(base, 0), 1);
  check_alive(poor);
  mlxrt_model_free(poor);
  mlxrt_adapter_free(foreign);
  mlxrt_adapter_free(adapter);
  check_alive(model);
  mlxrt_model_free(other);
  mlxrt_model_free(model);
  end();
}

static mlxrt_train_options train_options(const char *save_path) {
  static const char data[] = "{\"prompt\": \"Hi\", \"completion\": \"Hello\"}";
  mlxrt_train_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.train = data;
  options.train_len = MLXRT_NTS;
  options.steps = 2;
  options.batch_size = 1;
  options.save_path = save_path;
  return options;
}

/* Every save into `folder` where there is too little room, and then again where there is enough: `fill` and `empty` see to
 * that. */
static void saves_on_a_full_disk(const char *folder, void (*fill)(void), void (*empty)(void)) {
  mlxrt_model *model = load("llama-f32");
  mlxrt_adapter *adapter = new_adapter(model, MLXRT_LORA);
  struct answer *plain = answer_with(model, NULL, NULL, 0), *changed = answer_with(model, &adapter, NULL, 1);
  CHECK(!same_tokens(plain, changed));
  char whole[600], beside[600];
  snprintf(whole, sizeof whole, "%s/model", folder);
  snprintf(beside, sizeof beside, "%s/adapter", folder);
  mlxrt_train_options options = train_options(beside);

  mlxrt_session *session = session_of(model);
  free(ask(session, text_input("Hello, and a few more words than that"), greedy(40)));
  char file[600];
  snprintf(file, sizeof file, "%s/session", folder);

  /* Nothing is there yet. */
  fill();
  FAILS(mlxrt_session_save(session, file, NULL), MLXRT_E_IO, "session");
  FAILS(mlxrt_model_save(model, &adapter, NULL, 1, whole, NULL), MLXRT_E_IO, "model.safetensors");
  FAILS(mlxrt_adapter_save(adapter, beside, NULL), MLXRT_E_IO, "adapters.safetensors");
  FAILS(mlxrt_train(model, adapter, &options, NULL, NULL), MLXRT_E_IO, "adapters.safetensors");
  empty();
  CHECK_INT(files_in(whole, 0), -1);
  CHECK_INT(files_in(beside, 0), -1);
  struct stat status;
  CHECK_INT(stat(file, &status), -1);

  /* Something good is. */
  OK(mlxrt_session_save(session, file, NULL));
  CHECK_INT(stat(file, &status), 0);
  off_t size = status.st_size;
  free(ask(session, text_input("more"), greedy(40)));
  OK(mlxrt_model_save(model, NULL, NULL, 0, whole, NULL));
  OK(mlxrt_adapter_save(adapter, beside, NULL));
  struct answer *trained = answer_with(model, &adapter, NULL, 1);
  int models = files_in(whole, 0), adapters = files_in(beside, 0);
  CHECK(models > 3 && adapters == 2);
  fill();
  FAILS(mlxrt_model_save(model, &adapter, NULL, 1, whole, NULL), MLXRT_E_IO, "model.safetensors");
  FAILS(mlxrt_adapter_save(adapter, beside, NULL), MLXRT_E_IO, "adapters.safetensors");
  FAILS(mlxrt_train(model, adapter, &options, NULL, NULL), MLXRT_E_IO, "adapters.safetensors");
  FAILS(mlxrt_session_save(session, file, NULL), MLXRT_E_IO, "session");
  empty();
  CHECK_INT(stat(file, &status), 0);
  CHECK(status.st_size == size);
  mlxrt_session_free(session);
  OK(mlxrt_session_load(model, file, NULL, &session));
  mlxrt_session_free(session);
  CHECK_INT(unlink(file), 0);
  CHECK_INT(files_in(whole, 0), models);
  CHECK_INT(files_in(beside, 0), adapters);
  check_says(whole, plain);
  mlxrt_adapter *again = NULL;
  OK(mlxrt_adapter_load(model, beside, NULL, &again));
  struct answer *loaded = answer_with(model, &again, NULL, 1);
  CHECK(same_tokens(loaded, trained));
  mlxrt_adapter_free(again);

  /* And there is room again. */
  struct answer *now = answer_with(model, &adapter, NULL, 1);
  OK(mlxrt_model_save(model, &adapter, NULL, 1, whole, NULL));
  check_says(whole, now);
  free(plain);
  free(changed);
  free(trained);
  free(loaded);
  free(now);
  files_in(whole, 1), rmdir(whole);
  files_in(beside, 1), rmdir(beside);
  mlxrt_adapter_free(adapter);
  mlxrt_model_free(model);
}

static struct rlimit before;

/* No file may be larger than a few KB: "File too large" where a full disk says "No space left on device". */
static void small_files(void) {
  getrlimit(RLIMIT_FSIZE, &before);
  struct rlimit small = {4096, before.rlim_max};
  CHECK_INT(setrlimit(RLIMIT_FSIZE, &small), 0);
}

static void any_files(void) { CHECK_INT(setrlimit(RLIMIT_FSIZE, &before), 0); }

static void where_files_may_not_grow(void) {
  /* The signal of that would end the process: the library holds it off while it writes. */
  start();
  saves_on_a_full_disk(base, small_files, any_files);
  end();
}

/* The root of a file system of some hundred KB, which full_disk.sh makes. */
static const char *small_disk;

static void fill_the_disk(void) {
  char path[600], block[1024];
  snprintf(path, sizeof path, "%s/ballast", small_disk);
  memset(block, 7, sizeof block);
  FILE *out = fopen(path, "w");
  CHECK(out != NULL);
  setvbuf(out, NULL, _IONBF, 0);
  while (out && fwrite(block, sizeof block, 1, out) == 1) {
  }
  if (out) fclose(out);
  /* A little, so that the first of it is written. */
  struct stat status;
  CHECK_INT(stat(path, &status), 0);
  CHECK_INT(truncate(path, status.st_size > 8192 ? status.st_size - 8192 : 0), 0);
}

static void empty_the_disk(void) {
  char path[600];
  snprintf(path, sizeof path, "%s/ballast", small_disk);
  CHECK_INT(unlink(path), 0);
}

static void where_the_disk_is_full(void) {
  small_disk = getenv("MLXRT_SMALL_DISK");
  if (!small_disk) return;
  saves_on_a_full_disk(small_disk, fill_the_disk, empty_the_disk);
  CHECK_INT(files_in(small_disk, 0), 0);
}

static const struct test tests[] = {
    {"saved and loaded", saved_and_loaded},
    {"fused says what the session said", fused_says_what_the_session_said},
    {"what is wrong is named", what_is_wrong_is_named},
    {"where files may not grow", where_files_may_not_grow},
    {"where the disk is full", where_the_disk_is_full},
};

int main(int argc, char **argv) { return RUN(tests); }
