/* Training: from text and from files, heard, stopped, saved, misused. */
#include "use.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static const char DATA[] =
    "{\"prompt\": \"What is it?\", \"completion\": \"A cat.\"}\n"
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello\"}]}\n";

static mlxrt_train_options train_options(void) {
  mlxrt_train_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.train = DATA;
  options.train_len = sizeof DATA - 1;
  options.steps = 30;
  options.batch_size = 2;
  options.report_every = 10;
  options.learning_rate = 0.01f;
  return options;
}

struct heard {
  mlxrt_model *model;
  mlxrt_adapter *adapter;
  uint64_t stop_at;
  size_t count;
  mlxrt_train_event first, last;
};

static int32_t hear(void *user_data, const mlxrt_train_event *event) {
  struct heard *heard = user_data;
  CHECK_INT(event->struct_size, sizeof *event);
  if (heard->count++ == 0) heard->first = *event;
  heard->last = *event;
  /* Questions are answered, a training in a training is not. */
  char *json = NULL;
  OK(mlxrt_adapter_info(heard->adapter, &json, NULL));
  mlxrt_free(json);
  mlxrt_train_options options = train_options();
  FAILS(mlxrt_train(heard->model, heard->adapter, &options, NULL, NULL), MLXRT_E_REENTRANT, "mlxrt_train");
  return event->step >= heard->stop_at ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static mlxrt_adapter *new_adapter(mlxrt_model *model) {
  mlxrt_adapter_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.scale = 2;
  mlxrt_adapter *adapter = NULL;
  OK(mlxrt_adapter_create(model, &options, &adapter));
  return adapter;
}

static void an_adapter_learns(void) {
  mlxrt_model *model = load("qwen3-4bit");
  mlxrt_adapter *adapter = new_adapter(model);
  struct heard heard = {model, adapter, UINT64_MAX, 0, {0}, {0}};
  mlxrt_train_options options = train_options();
  options.flags = MLXRT_TRAIN_MASK_PROMPT | MLXRT_TRAIN_CHECKPOINT;
  options.valid = DATA;
  options.valid_len = MLXRT_NTS;
  options.schedule = MLXRT_SCHEDULE_COSINE;
  options.warmup = 2;
  OK(mlxrt_train(model, adapter, &options, hear, &heard));
  /* Steps 1, with a validation, 10, 20, and 30, with one. */
  CHECK_INT(heard.count, 4);
  CHECK_INT(heard.first.step, 1);
  CHECK_INT(heard.last.step, 30);
  CHECK_INT(heard.last.steps, 30);
  CHECK(heard.last.loss < heard.first.loss);
  CHECK(heard.last.validation_loss < heard.first.validation_loss);
  CHECK(heard.last.tokens_per_second > 0);
  CHECK(heard.last.trained_tokens > 100);
  CHECK(heard.last.peak_bytes > 0);
  CHECK(heard.first.learning_rate == 0 && heard.last.learning_rate > 0 && heard.last.learning_rate < 0.001);
  mlxrt_adapter_free(adapter);
  mlxrt_model_free(model);
}

static void a_file_is_trained_on_and_a_folder_saved(void) {
  char folder[] = "/tmp/mlxrt-train-XXXXXX", path[64], saved[64], file[96];
  CHECK(mkdtemp(folder) != NULL);
  snprintf(path, sizeof path, "%s/train.jsonl", folder);
  snprintf(saved, sizeof saved, "%s/adapter", folder);
  FILE *out = fopen(path, "w");
  CHECK(out != NULL && fputs(DATA, out) >= 0 && fclose(out) == 0);
  mlxrt_model *model = load("llama-f32");
  mlxrt_adapter *adapter = new_adapter(model), *again = NULL;
  struct heard heard = {model, adapter, 10, 0, {0}, {0}};
  mlxrt_train_options options = train_options();
  options.flags = MLXRT_TRAIN_PATHS;
  options.train = path;
  options.train_len = MLXRT_NTS;
  options.save_path = saved;
  options.save_every = 4;
  OK(mlxrt_train(model, adapter, &options, hear, &heard));
  CHECK_INT(heard.count, 1);
  CHECK_INT(heard.last.step, 10);
  CHECK(isnan(heard.last.validation_loss));
  OK(mlxrt_adapter_load(model, saved, NULL, &again));
  mlxrt_adapter_free(again);
  /* What it was at steps 4 and 8; it was stopped at 10. */
  static const char *const steps[] = {"0000004_", "0000008_", ""};
  for (size_t i = 0; i < COUNT(steps); i++) {
    snprintf(file, sizeof file, "%s/%sadapters.safetensors", saved, steps[i]);
    OK(mlxrt_adapter_load(model, file, NULL, &again));
    mlxrt_adapter_free(again);
    CHECK_INT(unlink(file), 0);
  }
  snprintf(file, sizeof file, "%s/adapter_config.json", saved);
  unlink(file);
  rmdir(saved);
  unlink(path);
  FAILS(mlxrt_train(model, adapter, &options, NULL, NULL), MLXRT_E_NOT_FOUND, "train.jsonl");
  rmdir(folder);
  mlxrt_adapter_free(adapter);
  mlxrt_model_free(model);
}

static void what_is_wrong_is_named(void) {
  mlxrt_model *model = load("llama-f32"), *other = load("llama-f32");
  mlxrt_adapter *adapter = new_adapter(model);
  mlxrt_train_options options = train_options();
#define REFUSED(code, words) FAILS(mlxrt_train(model, adapter, &options, NULL, NULL), code, words), options = train_options()
  FAILS(mlxrt_train(model, adapter, NULL, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "options.train");
  FAILS(mlxrt_train(other, adapter, &options, NULL, NULL), MLXRT_E_INCOMPATIBLE, "another model");
  FAILS(mlxrt_train(model, NULL, &options, NULL, NULL), MLXRT_E_INVALID_HANDLE, "adapter");
  options.flags = 8;
  REFUSED(MLXRT_E_UNSUPPORTED, "flags");
  options.optimizer = 3;
  REFUSED(MLXRT_E_UNSUPPORTED, "options.optimizer is 3");
  options.schedule = -1;
  REFUSED(MLXRT_E_UNSUPPORTED, "options.schedule is -1");
  options.optimizer = MLXRT_OPTIMIZER_ADAM;
  options.weight_decay = 0.1f;
  REFUSED(MLXRT_E_INVALID_ARGUMENT, "options.weight_decay");
  options.weight_decay = -2;
  REFUSED(MLXRT_E_INVALID_ARGUMENT, "options.weight_decay");
  options.learning_rate = INFINITY;
  REFUSED(MLXRT_E_INVALID_ARGUMENT, "options.learning_rate");
  options.batch_size = 3;
  REFUSED(MLXRT_E_INVALID_ARGUMENT, "batch_size is 3");
  options.train = "{\"text\": \"a\"}\n{";
  options.train_len = MLXRT_NTS;
  REFUSED(MLXRT_E_INVALID_ARGUMENT, "train, line 2");
  options.train = NULL;
  options.train_len = MLXRT_NTS;
  REFUSED(MLXRT_E_INVALID_ARGUMENT, "options.train is NULL");
  options.save_path = "/proc/none";
  REFUSED(MLXRT_E_IO, "/proc/none");
  /* And it still works. */
  OK(mlxrt_train(model, adapter, &options, NULL, NULL));
  mlxrt_adapter_free(adapter);
  mlxrt_model_free(other);
  mlxrt_model_free(model);
}

static const struct test tests[] = {
    {"an adapter learns", an_adapter_learns},
    {"a file is trained on and a folder saved", a_file_is_trained_on_and_a_folder_saved},
    {"what is wrong is named", what_is_wrong_is_named},
};

int main(int argc, char **argv) { return RUN(tests); }
