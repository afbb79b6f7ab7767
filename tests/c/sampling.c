/* Sampling: seeds, log-probabilities, bias, penalties, and the filters' limits. */
#include "use.h"

#include <math.h>

static mlxrt_model *model;

static struct answer *run(mlxrt_generate_options options) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, text_input("The answer is 1"), options);
  mlxrt_session_free(session);
  return answer;
}

static void the_same_seed_gives_the_same_text(void) {
  struct answer *a = run(sampled(40, 1)), *b = run(sampled(40, 1)), *c = run(sampled(40, 2));
  CHECK_INT(a->result.seed, 1);
  CHECK(same_tokens(a, b));
  CHECK_TEXT(a->text, b->text);
  CHECK(!same_tokens(a, c));
  free(a), free(b), free(c);
}

static void a_random_seed_is_reported(void) {
  struct answer *a = run(sampled(40, 0)), *b = run(sampled(40, 0));
  CHECK(a->result.seed != 0 && b->result.seed != 0);
  CHECK(a->result.seed != b->result.seed);
  CHECK(!same_tokens(a, b));
  struct answer *again = run(sampled(40, a->result.seed));
  CHECK(same_tokens(a, again));
  free(a), free(b), free(again);
}

static void greedy_is_the_likeliest(void) {
  mlxrt_generate_options options = greedy(30);
  options.flags |= MLXRT_GEN_LOGPROBS;
  options.top_logprobs = MOST_TOPS;
  struct answer *answer = run(options);
  CHECK_INT(answer->top_count, MOST_TOPS);
  for (size_t i = 0; i < answer->token_count; i++) {
    const int32_t *tokens = answer->top_tokens + i * MOST_TOPS;
    const float *logprobs = answer->top_logprobs + i * MOST_TOPS;
    CHECK_INT(tokens[0], answer->tokens[i]);
    CHECK(fabsf(logprobs[0] - answer->logprobs[i]) < 1e-5f);
    double sum = 0;
    for (size_t k = 0; k < MOST_TOPS; k++) {
      CHECK(logprobs[k] <= 0 && tokens[k] >= 0 && tokens[k] < 131);
      CHECK(k == 0 || logprobs[k] <= logprobs[k - 1]);
      sum += exp(logprobs[k]);
    }
    CHECK(sum > 0 && sum < 1.0001);
  }
  free(answer);
}

static double sum_of_all;
static int32_t ids_seen;

static void add_up(struct answer *answer, const mlxrt_event *event) {
  (void)answer;
  for (size_t i = 0; i < event->token_count; i++) {
    sum_of_all = 0;
    ids_seen = 0;
    for (size_t k = 0; k < event->top_count; k++) {
      sum_of_all += exp(event->top_logprobs[i * event->top_count + k]);
      ids_seen += event->top_tokens[i * event->top_count + k];
    }
    CHECK(fabs(sum_of_all - 1) < 1e-4);
    CHECK_INT(ids_seen, 130 * 131 / 2);
  }
}

static int32_t only_add_up(void *user_data, const mlxrt_event *event) {
  add_up(user_data, event);
  return MLXRT_RETURN_CONTINUE;
}

static void all_alternatives_sum_to_one(void) {
  mlxrt_generate_options options = sampled(10, 3);
  options.flags |= MLXRT_GEN_LOGPROBS;
  options.top_logprobs = 131;
  /* Log-probabilities are the model's own, whatever the sampler does. */
  options.temperature = 0.3f;
  options.top_k = 5;
  mlxrt_session *session = session_of(model);
  mlxrt_input input = text_input("The answer is 1");
  mlxrt_result result = empty_result();
  OK(mlxrt_generate(session, &input, &options, only_add_up, NULL, &result));
  CHECK_INT(result.generated_tokens, 10);
  CHECK_INT(ids_seen, 130 * 131 / 2);
  mlxrt_session_free(session);
}

/* More alternatives than there are tokens: all there are. */
static void more_alternatives_than_tokens(void) {
  mlxrt_generate_options options = greedy(3);
  options.flags |= MLXRT_GEN_LOGPROBS;
  options.top_logprobs = 1000;
  mlxrt_session *session = session_of(model);
  mlxrt_input input = text_input("The answer is 1");
  mlxrt_result result = empty_result();
  OK(mlxrt_generate(session, &input, &options, only_add_up, NULL, &result));
  CHECK_INT(result.generated_tokens, 3);
  mlxrt_session_free(session);
}

static void logprobs_without_alternatives(void) {
  mlxrt_generate_options options = sampled(10, 3);
  options.flags |= MLXRT_GEN_LOGPROBS;
  struct answer *answer = run(options);
  CHECK_INT(answer->top_count, 0);
  for (size_t i = 0; i < answer->token_count; i++) CHECK(answer->logprobs[i] < 0 && isfinite(answer->logprobs[i]));
  free(answer);
  options.flags &= ~MLXRT_GEN_LOGPROBS;
  options.top_logprobs = 2;
  mlxrt_session *session = session_of(model);
  struct answer *refused = new_answer();
  ask_into(refused, session, text_input("x"), options);
  CHECK_INT(refused->code, MLXRT_E_INVALID_ARGUMENT);
  CHECK_HAS(refused->message, "LOGPROBS");
  free(refused);
  mlxrt_session_free(session);
}

static int holds(const struct answer *answer, int32_t token) {
  for (size_t i = 0; i < answer->token_count; i++) {
    if (answer->tokens[i] == token) return 1;
  }
  return 0;
}

static void a_bias_bans_and_forces(void) {
  struct answer *plain = run(greedy(30));
  int32_t banned[] = {plain->tokens[0], plain->tokens[1]};
  float never[] = {-INFINITY, -INFINITY};
  mlxrt_generate_options options = greedy(30);
  options.bias_tokens = banned;
  options.bias_values = never;
  options.bias_count = 2;
  struct answer *without = run(options);
  CHECK(!holds(without, banned[0]) && !holds(without, banned[1]));
  options = sampled(30, 9);
  options.bias_tokens = banned;
  options.bias_values = never;
  options.bias_count = 2;
  struct answer *drawn = run(options);
  CHECK(!holds(drawn, banned[0]) && !holds(drawn, banned[1]));
  float always = 1000;
  options.bias_values = &always;
  options.bias_count = 1;
  struct answer *forced = run(options);
  for (size_t i = 0; i < forced->token_count; i++) CHECK_INT(forced->tokens[i], banned[0]);
  free(plain), free(without), free(drawn), free(forced);
}

static void every_token_banned_is_no_crash(void) {
  int32_t tokens[131];
  float values[131];
  for (int32_t i = 0; i < 131; i++) tokens[i] = i, values[i] = -INFINITY;
  for (int sample = 0; sample < 2; sample++) {
    mlxrt_generate_options options = sample ? sampled(5, 1) : greedy(5);
    options.bias_tokens = tokens;
    options.bias_values = values;
    options.bias_count = 131;
    mlxrt_session *session = session_of(model);
    struct answer *answer = new_answer();
    ask_into(answer, session, text_input("x"), options);
    for (size_t i = 0; i < answer->token_count; i++) CHECK(answer->tokens[i] >= 0 && answer->tokens[i] < 131);
    free(answer);
    mlxrt_session_free(session);
  }
  check_alive(model);
}

static int repeats(const struct answer *answer) {
  int found = 0;
  for (size_t i = 0; i < answer->token_count; i++) {
    for (size_t j = 0; j < i; j++) {
      if (answer->tokens[i] == answer->tokens[j]) {
        found++;
        break;
      }
    }
  }
  return found;
}

static void penalties_change_the_output(void) {
  struct answer *plain = run(greedy(40));
  for (int which = 0; which < 3; which++) {
    mlxrt_generate_options options = greedy(40);
    options.penalty_window = UINT32_MAX;
    if (which == 0) options.repetition_penalty = 5;
    if (which == 1) options.presence_penalty = 2;
    if (which == 2) options.frequency_penalty = 2;
    struct answer *changed = run(options);
    CHECK(!same_tokens(plain, changed));
    CHECK(repeats(changed) < repeats(plain));
    free(changed);
  }
  /* Neutral values change nothing. */
  mlxrt_generate_options options = greedy(40);
  options.repetition_penalty = 1;
  options.top_p = 1;
  options.min_p = -1;
  options.top_k = -1;
  options.xtc_probability = -1;
  struct answer *same = run(options);
  CHECK(same_tokens(plain, same));
  free(plain), free(same);
}

static void narrow_filters_are_greedy(void) {
  struct answer *plain = run(greedy(30));
  for (int which = 0; which < 4; which++) {
    mlxrt_generate_options options = sampled(30, 77);
    if (which == 0) options.top_k = 1;
    if (which == 1) options.top_p = 1e-6f;
    if (which == 2) options.min_p = 1;
    if (which == 3) options.temperature = 1e-4f;
    struct answer *same = run(options);
    CHECK(same_tokens(plain, same));
    free(same);
  }
  free(plain);
}

/* XTC leaves out the likeliest of those above the threshold. */
static void xtc_excludes_top_choices(void) {
  int without = 0;
  for (uint64_t seed = 1; seed <= 4; seed++) {
    mlxrt_generate_options options = sampled(30, seed), with = options;
    with.xtc_probability = 1;
    with.xtc_threshold = 0.05f;
    struct answer *a = run(options), *b = run(with);
    without += !same_tokens(a, b);
    free(a), free(b);
  }
  CHECK(without > 0);
}

static void the_models_own_settings(void) {
  /* qwen3-f32 has a generation_config.json that does not ask for sampling: zeros are greedy. */
  mlxrt_generate_options options = greedy(30), zeros = options;
  zeros.flags = MLXRT_GEN_IGNORE_EOS;
  struct answer *a = run(options), *b = run(zeros);
  CHECK(same_tokens(a, b));
  free(a), free(b);
  /* And NO_MODEL_DEFAULTS samples at temperature 1. */
  zeros.flags |= MLXRT_GEN_NO_MODEL_DEFAULTS;
  zeros.seed = 4;
  mlxrt_generate_options one = zeros;
  one.temperature = 1;
  a = run(zeros), b = run(one);
  CHECK(same_tokens(a, b));
  free(a), free(b);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"the_same_seed_gives_the_same_text", the_same_seed_gives_the_same_text},
      {"a_random_seed_is_reported", a_random_seed_is_reported},
      {"greedy_is_the_likeliest", greedy_is_the_likeliest},
      {"all_alternatives_sum_to_one", all_alternatives_sum_to_one},
      {"more_alternatives_than_tokens", more_alternatives_than_tokens},
      {"logprobs_without_alternatives", logprobs_without_alternatives},
      {"a_bias_bans_and_forces", a_bias_bans_and_forces},
      {"every_token_banned_is_no_crash", every_token_banned_is_no_crash},
      {"penalties_change_the_output", penalties_change_the_output},
      {"narrow_filters_are_greedy", narrow_filters_are_greedy},
      {"xtc_excludes_top_choices", xtc_excludes_top_choices},
      {"the_models_own_settings", the_models_own_settings},
  };
  model = load("qwen3-f32");
  int failed = RUN(tests);
  mlxrt_model_free(model);
  return failed;
}
