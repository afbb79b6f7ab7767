/* Trains a LoRA adapter from two JSONL files and saves it.
 *
 *   train MODEL_FOLDER TRAIN.jsonl VALID.jsonl OUT_FOLDER [STEPS [BATCH [LEARNING_RATE]]]
 */
#include <math.h>
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

/* Called on this thread; MLXRT_RETURN_STOP would end the training and keep what there is. */
static int32_t on_event(void *user_data, const mlxrt_train_event *event) {
  (void)user_data;
  printf("step %4llu of %llu: loss %.3f", (unsigned long long)event->step, (unsigned long long)event->steps,
         event->loss);
  if (!isnan(event->validation_loss)) printf(", validation loss %.3f", event->validation_loss);
  printf(", %.0f tokens a second, %.0f MB\n", event->tokens_per_second, (double)event->peak_bytes / 1e6);
  fflush(stdout);
  return MLXRT_RETURN_CONTINUE;
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr, "train MODEL_FOLDER TRAIN.jsonl VALID.jsonl OUT_FOLDER [STEPS [BATCH [LEARNING_RATE]]]\n");
    return 2;
  }
  mlxrt_model *model = NULL;
  mlxrt_adapter *adapter = NULL;
  check(mlxrt_model_load(argv[1], NULL, &model));

  const char *keys[] = {"q_proj", "v_proj", "down_proj"};
  mlxrt_adapter_options shape = {0};
  shape.struct_size = sizeof shape;
  shape.rank = 8;
  shape.seed = 1;
  shape.keys = keys;
  shape.key_count = sizeof keys / sizeof *keys;
  check(mlxrt_adapter_create(model, &shape, &adapter));

  mlxrt_train_options options = {0};
  options.struct_size = sizeof options;
  options.flags = MLXRT_TRAIN_PATHS | MLXRT_TRAIN_MASK_PROMPT;
  options.train = argv[2];
  options.train_len = strlen(argv[2]);
  options.valid = argv[3];
  options.valid_len = strlen(argv[3]);
  options.steps = argc > 5 ? (uint32_t)atoi(argv[5]) : 150;
  options.batch_size = argc > 6 ? (uint32_t)atoi(argv[6]) : 8;
  options.learning_rate = argc > 7 ? (float)atof(argv[7]) : 1e-3f;
  options.warmup = 10;
  options.schedule = MLXRT_SCHEDULE_COSINE;
  options.seed = 1;
  options.save_path = argv[4];
  check(mlxrt_train(model, adapter, &options, on_event, NULL));

  mlxrt_adapter_free(adapter);
  mlxrt_model_free(model);
  return 0;
}
