/* Embeddings: of an encoder and of a decoder, with each pooling, stopped, late, misused. */
#include "use.h"

#include <math.h>

#define ENCODER "../embeddings/bert"

static const char *const TEXTS[] = {"the rain in the other town", "", "no", "it was on the other side of the river"};

static mlxrt_embed_options embed_options(void) {
  mlxrt_embed_options options;
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

static double dot(const float *a, const float *b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
  return sum;
}

/* The rows of the tensor have this length. */
static int lengths_are(const mlxrt_tensor *tensor, double length) {
  size_t dim = (size_t)tensor->shape[1];
  for (size_t row = 0; row < tensor->shape[0]; row++) {
    const float *values = (const float *)tensor->data + row * dim;
    if (fabs(sqrt(dot(values, values, dim)) - length) > 1e-5) return 0;
  }
  return 1;
}

static void texts_become_rows(void) {
  mlxrt_model *model = load(ENCODER);
  mlxrt_tensor tensor = empty_tensor();
  OK(mlxrt_embed(model, TEXTS, NULL, COUNT(TEXTS), NULL, &tensor));
  CHECK_INT(tensor.struct_size, sizeof tensor);
  CHECK_INT(tensor.dtype, MLXRT_DTYPE_F32);
  CHECK_INT(tensor.rank, 2);
  CHECK_INT(tensor.shape[0], COUNT(TEXTS));
  CHECK_INT(tensor.shape[1], 36);
  CHECK_INT(tensor.bytes, COUNT(TEXTS) * 36 * sizeof(float));
  /* The folder normalises. */
  if (CHECK(tensor.data != NULL)) CHECK(lengths_are(&tensor, 1));
  /* With lengths, in another order, and with text behind the end. */
  const char *const turned[] = {"noise", "the rain in the other town and more"};
  const size_t lens[] = {2, strlen(TEXTS[0])};
  mlxrt_tensor again = empty_tensor();
  OK(mlxrt_embed(model, turned, lens, 2, NULL, &again));
  const float *a = tensor.data, *b = again.data;
  if (CHECK(a && b)) {
    CHECK(dot(a, b + 36, 36) > 1 - 1e-5);
    CHECK(dot(a + 2 * 36, b, 36) > 1 - 1e-5);
    CHECK(dot(a, a + 36, 36) < 1 - 1e-3);
  }
  mlxrt_free(tensor.data);
  mlxrt_free(again.data);
  mlxrt_model_free(model);
}

static void every_pooling_is_another(void) {
  mlxrt_model *model = load(ENCODER);
  mlxrt_embed_options options = embed_options();
  const int32_t poolings[] = {MLXRT_POOLING_MEAN, MLXRT_POOLING_LAST, MLXRT_POOLING_CLS};
  mlxrt_tensor made[3];
  for (size_t i = 0; i < 3; i++) {
    made[i] = empty_tensor();
    options.pooling = poolings[i];
    options.flags = 0;
    OK(mlxrt_embed(model, TEXTS, NULL, 1, &options, &made[i]));
    CHECK(!lengths_are(&made[i], 1));
    mlxrt_free(made[i].data);
    options.flags = MLXRT_EMBED_NORMALIZE;
    OK(mlxrt_embed(model, TEXTS, NULL, 1, &options, &made[i]));
    if (CHECK(made[i].data != NULL)) CHECK(lengths_are(&made[i], 1));
  }
  for (size_t i = 0; i < 3; i++) CHECK(dot(made[i].data, made[(i + 1) % 3].data, 36) < 1 - 1e-3);
  for (size_t i = 0; i < 3; i++) mlxrt_free(made[i].data);
  options.pooling = 4;
  mlxrt_tensor tensor = empty_tensor();
  FAILS(mlxrt_embed(model, TEXTS, NULL, 1, &options, &tensor), MLXRT_E_UNSUPPORTED, "options.pooling");
  mlxrt_model_free(model);
}

static void a_decoder_gives_its_last_token(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_embed_options options = embed_options();
  mlxrt_tensor own = empty_tensor(), last = empty_tensor();
  OK(mlxrt_embed(model, TEXTS, NULL, 1, NULL, &own));
  options.pooling = MLXRT_POOLING_LAST;
  OK(mlxrt_embed(model, TEXTS, NULL, 1, &options, &last));
  CHECK_INT(own.bytes, last.bytes);
  if (CHECK(own.data && last.data)) CHECK(memcmp(own.data, last.data, own.bytes) == 0);
  mlxrt_free(own.data);
  mlxrt_free(last.data);
  /* Its tokenizer adds nothing to a text. */
  FAILS(mlxrt_embed(model, TEXTS, NULL, 2, NULL, &own), MLXRT_E_INVALID_ARGUMENT, "texts[1]");
  struct answer *answer = ask(session, text_input("Hi"), greedy(3));
  CHECK_INT(answer->token_count, 3);
  free(answer);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

struct seen {
  uint64_t calls, last, total;
  int32_t answer;
  mlxrt_model *model;
};

static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
  struct seen *seen = user_data;
  CHECK(done >= seen->last && done <= total);
  seen->calls++;
  seen->last = done;
  seen->total = total;
  if (seen->model) {
    mlxrt_tensor tensor = empty_tensor();
    FAILS(mlxrt_embed(seen->model, TEXTS, NULL, 1, NULL, &tensor), MLXRT_E_REENTRANT, "mlxrt_embed");
    char *json = NULL;
    OK(mlxrt_model_info(seen->model, &json, NULL));
    CHECK_HAS(json, "\"generates\":false");
    mlxrt_free(json);
  }
  return seen->answer;
}

static void progress_is_told_and_stops(void) {
  mlxrt_model *model = load(ENCODER);
  mlxrt_embed_options options = embed_options();
  struct seen seen = {0, 0, 0, MLXRT_RETURN_CONTINUE, model};
  options.progress = on_progress;
  options.progress_data = &seen;
  mlxrt_tensor tensor = empty_tensor();
  OK(mlxrt_embed(model, TEXTS, NULL, COUNT(TEXTS), &options, &tensor));
  CHECK(seen.calls > 0 && seen.last == seen.total && seen.total > 10);
  mlxrt_free(tensor.data);
  seen = (struct seen){0, 0, 0, MLXRT_RETURN_STOP, NULL};
  tensor = empty_tensor();
  FAILS(mlxrt_embed(model, TEXTS, NULL, COUNT(TEXTS), &options, &tensor), MLXRT_E_CANCELLED, "progress");
  CHECK(seen.calls == 1 && tensor.data == NULL);
  mlxrt_model_free(model);
}

static void misuse_is_named(void) {
  mlxrt_model *model = load(ENCODER);
  mlxrt_tensor tensor = empty_tensor();
  FAILS(mlxrt_embed(NULL, TEXTS, NULL, 1, NULL, &tensor), MLXRT_E_INVALID_HANDLE, "model");
  FAILS(mlxrt_embed(model, TEXTS, NULL, 0, NULL, &tensor), MLXRT_E_INVALID_ARGUMENT, "count");
  FAILS(mlxrt_embed(model, NULL, NULL, 1, NULL, &tensor), MLXRT_E_INVALID_ARGUMENT, "texts");
  FAILS(mlxrt_embed(model, TEXTS, NULL, 1, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "out");
  const char *const hole[] = {"a", NULL};
  FAILS(mlxrt_embed(model, hole, NULL, 2, NULL, &tensor), MLXRT_E_INVALID_ARGUMENT, "texts[1]");
  const char *const wrong[] = {"a", "\xff\xfe"};
  FAILS(mlxrt_embed(model, wrong, NULL, 2, NULL, &tensor), MLXRT_E_INVALID_ARGUMENT, "texts[1]");
  static char text[4000];
  for (size_t i = 0; i + 4 < sizeof text; i += 4) memcpy(text + i, "in. ", 4);
  const char *const long_text[] = {"a", "b", text};
  FAILS(mlxrt_embed(model, long_text, NULL, 3, NULL, &tensor), MLXRT_E_CONTEXT_FULL, "texts[2]");
  mlxrt_session *session = NULL;
  FAILS(mlxrt_session_create(model, NULL, &session), MLXRT_E_UNSUPPORTED, "encoder");
  OK(mlxrt_suspend(MLXRT_FOREVER));
  FAILS(mlxrt_embed(model, TEXTS, NULL, 1, NULL, &tensor), MLXRT_E_SUSPENDED, "suspended");
  OK(mlxrt_resume());
  OK(mlxrt_embed(model, TEXTS, NULL, 1, NULL, &tensor));
  mlxrt_free(tensor.data);
  mlxrt_model_free(model);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"texts become rows", texts_become_rows},
      {"every pooling is another", every_pooling_is_another},
      {"a decoder gives its last token", a_decoder_gives_its_last_token},
      {"progress is told and stops", progress_is_told_and_stops},
      {"misuse is named", misuse_is_named},
  };
  return RUN(tests);
}
