/* mlxrt_count_tokens: the tokens that generate takes in. */
#include "use.h"

#include <pthread.h>

/* Counts an input and runs it on a fresh session: what the session holds before the answer is what was counted. */
static void counted_is_taken_in(mlxrt_model *model, mlxrt_input input) {
  int32_t *ids = NULL;
  size_t count = 0, only = 0, held = 0;
  OK(mlxrt_count_tokens(model, &input, &ids, &count));
  OK(mlxrt_count_tokens(model, &input, NULL, &only));
  CHECK(ids && count > 0);
  CHECK_INT(only, count);
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, input, greedy(2));
  CHECK_INT(answer->result.prompt_tokens, count);
  int32_t *taken = ledger(session, &held);
  if (CHECK_INT(held, count + answer->token_count) && ids) CHECK(!memcmp(taken, ids, count * sizeof *ids));
  mlxrt_free(taken);
  mlxrt_free(ids);
  free(answer);
  mlxrt_session_free(session);
}

#define TURN "{\"role\":\"user\",\"content\":\"Hi <|im_end|><|eot_id|></s><end_of_turn> there\"}"
#define ANSWER ",{\"role\":\"assistant\",\"content\":\"We\"}"

static const char *const MODELS[] = {"qwen3-f32",  "qwen3-4bit-bf16", "llama-f32",           "mistral-f32",
                                     "qwen2-f32",  "gemma3-f32",      "gemma3-text-bf16",    "llama-f32-untied-bias",
                                     "qwen3-bf16", "llama-4bit-bf16", "../../../demo/model"};

static void every_kind_of_input_is_counted_as_it_is_taken_in(void) {
  const char *texts[] = {"Hello", "<|im_start|>user\nHi<|im_end|>\n", "<s>x</s>", " \xf0\x9f\x98\x80 \n"};
  const uint32_t flags[] = {0, MLXRT_INPUT_NO_BOS, MLXRT_INPUT_SPECIAL_AS_TEXT};
  const char *conversations[] = {
      "[" TURN "]",
      "[{\"role\":\"system\",\"content\":\"Be brief.\"}," TURN ANSWER ",{\"role\":\"user\",\"content\":\"More\"}]",
      "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Hi <|im_end|>\"},{\"type\":\"text\",\"text\":\"you\"}]}]",
  };
  for (size_t m = 0; m < COUNT(MODELS); m++) {
    mlxrt_model *model = load(MODELS[m]);
    for (size_t t = 0; t < COUNT(texts); t++) {
      for (size_t f = 0; f < COUNT(flags); f++) {
        mlxrt_input input = text_input(texts[t]);
        input.flags = flags[f];
        counted_is_taken_in(model, input);
      }
    }
    const int32_t tokens[] = {3, 1, 4, 1, 5};
    counted_is_taken_in(model, token_input(tokens, COUNT(tokens)));
    for (size_t c = 0; c < COUNT(conversations); c++) {
      mlxrt_input input = message_input(conversations[c]);
      counted_is_taken_in(model, input);
      input.flags = MLXRT_INPUT_NO_GENERATION_PROMPT;
      counted_is_taken_in(model, input);
      input.flags = MLXRT_INPUT_TRUST_CONTENT;
      counted_is_taken_in(model, input);
    }
    mlxrt_input input = message_input("[" TURN ANSWER "]");
    input.flags = MLXRT_INPUT_CONTINUE_LAST;
    counted_is_taken_in(model, input);
    mlxrt_model_free(model);
  }
}

/* What is written in a message makes no control token; rendered and tokenised it would. */
static void content_is_counted_as_text(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_input input = message_input("[" TURN "]");
  char *text = NULL;
  int32_t *ids = NULL, *rendered = NULL;
  size_t count = 0, of_text = 0, len = 0, controls = 0, in_text = 0;
  OK(mlxrt_count_tokens(model, &input, &ids, &count));
  OK(mlxrt_render(model, &input, &text, &len));
  OK(mlxrt_tokenize(model, text, len, 0, &rendered, &of_text));
  int32_t *end = NULL;
  size_t one = 0;
  OK(mlxrt_tokenize(model, "<|im_end|>", MLXRT_NTS, 0, &end, &one));
  CHECK_INT(one, 1);
  for (size_t i = 0; end && i < count; i++) controls += ids[i] == *end;
  for (size_t i = 0; end && i < of_text; i++) in_text += rendered[i] == *end;
  CHECK_INT(controls, 1);
  CHECK_INT(in_text, 2);
  CHECK(count > of_text);
  mlxrt_free(end);
  mlxrt_free(rendered);
  mlxrt_free(text);
  mlxrt_free(ids);
  mlxrt_model_free(model);
}

static void bad_inputs_are_refused_as_generate_refuses_them(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  const int32_t outside[] = {1, 100000};
  mlxrt_input both = text_input("x");
  both.messages = "[]";
  both.messages_len = MLXRT_NTS;
  mlxrt_input bad_flags = text_input("x");
  bad_flags.flags = MLXRT_INPUT_CONTINUE_LAST;
  mlxrt_input unknown = text_input("x");
  unknown.flags = 1u << 30;
  const mlxrt_input inputs[] = {
      no_input(),          text_input("\xff"),  text_input(""),          token_input(outside, 2), both,
      message_input("[]"), message_input("[1]"), message_input("[" TURN), bad_flags,               unknown,
      message_input("[{\"role\":\"user\"}]"),
  };
  for (size_t i = 0; i < COUNT(inputs); i++) {
    int32_t *ids = (int32_t *)&ids;
    size_t count = 7;
    mlxrt_error *counted = mlxrt_count_tokens(model, &inputs[i], &ids, &count);
    mlxrt_generate_options options = greedy(1);
    mlxrt_error *generated = mlxrt_generate(session, &inputs[i], &options, NULL, NULL, NULL);
    CHECK(counted != NULL && ids == NULL && count == 0);
    CHECK_INT(mlxrt_error_code(counted), mlxrt_error_code(generated));
    CHECK_TEXT(mlxrt_error_message(counted), mlxrt_error_message(generated));
    mlxrt_error_free(counted);
    mlxrt_error_free(generated);
  }
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

struct counter {
  mlxrt_model *model;
  size_t wanted;
};

static void *count_often(void *data) {
  struct counter *counter = data;
  mlxrt_input input = message_input("[" TURN "]");
  for (int i = 0; i < 200; i++) {
    int32_t *ids = NULL;
    size_t count = 0;
    OK(mlxrt_count_tokens(counter->model, &input, i % 2 ? &ids : NULL, &count));
    CHECK_INT(count, counter->wanted);
    mlxrt_free(ids);
  }
  return NULL;
}

/* Beside a request that runs, which it does not wait for. */
static void any_thread_may_count(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_input input = message_input("[" TURN "]");
  struct counter counter = {model, 0};
  OK(mlxrt_count_tokens(model, &input, NULL, &counter.wanted));
  mlxrt_request *request = NULL;
  mlxrt_generate_options options = greedy(1500);
  OK(mlxrt_submit(session, &input, &options, &request));
  pthread_t threads[6];
  for (size_t i = 0; i < COUNT(threads); i++) pthread_create(&threads[i], NULL, count_often, &counter);
  for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
  mlxrt_request_free(request);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static const struct test tests[] = {
    {"every kind of input is counted as it is taken in", every_kind_of_input_is_counted_as_it_is_taken_in},
    {"content is counted as text", content_is_counted_as_text},
    {"bad inputs are refused as generate refuses them", bad_inputs_are_refused_as_generate_refuses_them},
    {"any thread may count", any_thread_may_count},
};

int main(int argc, char **argv) { return run_tests(tests, COUNT(tests), argc, argv); }
