/* Thinking and calls of tools, on a model whose answer is known (tests/fixtures/script.py). */
#include "use.h"

static const char *const ASK = "[{\"role\":\"user\",\"content\":\"How warm is it in Oslo?\"}]";
static const char *const TOOLS =
    "[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"city\":{\"type\":\"string\"}}}}}]";

/* The text of each kind of event, those of calls one behind the other. */
struct told {
  char text[1024], thinking[1024], calls[1024], deltas[1024];
  int call_events;
  size_t tokens;
};

static int32_t tell(void *user_data, const mlxrt_event *event) {
  struct told *told = user_data;
  char *to = event->kind == MLXRT_EVENT_TEXT        ? told->text
             : event->kind == MLXRT_EVENT_THINKING  ? told->thinking
             : event->kind == MLXRT_EVENT_TOOL_CALL ? told->calls
             : event->kind == MLXRT_EVENT_TOOL_DELTA ? told->deltas
                                                    : NULL;
  CHECK(to != NULL);
  if (to && strlen(to) + event->text_len < sizeof told->text) strcat(to, event->text);
  told->call_events += event->kind == MLXRT_EVENT_TOOL_CALL;
  told->tokens += event->token_count;
  return MLXRT_RETURN_CONTINUE;
}

static mlxrt_generate_options options_of(int32_t thinking_budget) {
  mlxrt_generate_options options = greedy(0);
  options.flags = MLXRT_GEN_GREEDY;
  options.thinking_budget = thinking_budget;
  return options;
}

static struct told answer_of(mlxrt_session *session, const char *messages, const char *args, mlxrt_generate_options options,
                             mlxrt_result *result) {
  struct told told;
  memset(&told, 0, sizeof told);
  mlxrt_input input = message_input(messages);
  input.tools = TOOLS;
  input.tools_len = MLXRT_NTS;
  input.template_args = args;
  input.template_args_len = args ? MLXRT_NTS : 0;
  *result = empty_result();
  OK(mlxrt_generate(session, &input, &options, tell, &told, result));
  CHECK_INT(told.tokens, result->generated_tokens);
  return told;
}

static const char *const BOUND =
    "[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":{\"type\":\"object\",\"required\":[\"city\"],"
    "\"properties\":{\"city\":{\"const\":\"Bergen\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"clock\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}]";

static void calls_are_chosen_bound_and_told(void) {
  mlxrt_model *model = load("../script");
  static const struct {
    const char *choice;
    uint32_t flags;
    const char *text, *call;
  } cases[] = {
      {NULL, MLXRT_GEN_STRICT_TOOLS | MLXRT_GEN_TOOL_DELTAS, "I ask:", "\"name\":\"weather\",\"arguments\":{\"city\":\"Bergen\"}}"},
      {"\"required\"", 0, "", "\"name\":\"weather\",\"arguments\":{\"city\":\"Bergen\"}}"},
      {"{\"name\":\"clock\"}", MLXRT_GEN_TOOL_DELTAS, "", "\"name\":\"clock\",\"arguments\":{}}"},
      {"\"none\"", MLXRT_GEN_STRICT_TOOLS, NULL, NULL},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    mlxrt_session *session = session_of(model);
    struct told told;
    memset(&told, 0, sizeof told);
    mlxrt_input input = message_input(ASK);
    input.tools = BOUND;
    input.tools_len = MLXRT_NTS;
    input.tool_choice = cases[i].choice;
    input.tool_choice_len = cases[i].choice ? MLXRT_NTS : 0;
    mlxrt_generate_options options = options_of(0);
    options.flags |= cases[i].flags;
    mlxrt_result result = empty_result();
    OK(mlxrt_generate(session, &input, &options, tell, &told, &result));
    CHECK_INT(told.tokens, result.generated_tokens);
    CHECK_INT(told.call_events, cases[i].call ? 1 : 0);
    if (cases[i].text) CHECK_TEXT(told.text, cases[i].text);
    if (cases[i].call) {
      CHECK_HAS(told.calls, cases[i].call);
      CHECK_INT(result.stop, MLXRT_STOPPED_TOOL_CALL);
    }
    if (cases[i].flags & MLXRT_GEN_TOOL_DELTAS) {
      CHECK_HAS(told.deltas, "{\"index\":0,\"id\":\"");
      CHECK_HAS(told.deltas, "\"arguments\":\"");
    } else {
      CHECK_TEXT(told.deltas, "");
    }
    mlxrt_session_free(session);
  }
  /* What cannot be is refused by name, and the session is as before. */
  mlxrt_session *session = session_of(model);
  mlxrt_input input = message_input(ASK);
  input.tools = BOUND;
  input.tools_len = MLXRT_NTS;
  input.tool_choice = "{\"name\":\"radar\"}";
  input.tool_choice_len = MLXRT_NTS;
  mlxrt_generate_options options = options_of(0);
  FAILS(mlxrt_generate(session, &input, &options, NULL, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "radar");
  options.flags |= MLXRT_GEN_TOOL_DELTAS | MLXRT_GEN_RAW_TEXT;
  FAILS(mlxrt_generate(session, &input, &options, NULL, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "MLXRT_GEN_TOOL_DELTAS");
  input.tools = "[{\"name\":\"weather\",\"parameters\":{\"not\":{}}}]";
  input.tool_choice = NULL;
  input.tool_choice_len = 0;
  options = options_of(0);
  options.flags |= MLXRT_GEN_STRICT_TOOLS;
  FAILS(mlxrt_generate(session, &input, &options, NULL, NULL, NULL), MLXRT_E_BAD_GRAMMAR, "not");
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void events_have_their_kinds(void) {
  mlxrt_model *model = load("../script");
  mlxrt_session *session = session_of(model);
  mlxrt_result result;
  struct told told = answer_of(session, ASK, NULL, options_of(0), &result);
  CHECK_TEXT(told.thinking, "Let me look it up.");
  CHECK_TEXT(told.text, "I ask:");
  CHECK_INT(told.call_events, 1);
  CHECK_HAS(told.calls, "{\"id\":\"");
  CHECK_HAS(told.calls, "\"name\":\"weather\",\"arguments\":{\"city\":\"Oslo\"}}");
  CHECK_INT(result.stop, MLXRT_STOPPED_TOOL_CALL);
  CHECK_INT(result.thinking_tokens, 6);

  /* The message is one that messages takes: append it and the tool's answer, generate. */
  char *message = NULL, *info = NULL;
  OK(mlxrt_session_message(session, &message, NULL));
  CHECK_HAS(message, "\"content\":\"I ask:\"");
  CHECK_HAS(message, "\"reasoning_content\":\"Let me look it up.\"");
  CHECK_HAS(message, "\"tool_calls\":[{\"id\":\"");
  CHECK_HAS(message, "\"function\":{\"name\":\"weather\",\"arguments\":\"{\\\"city\\\":\\\"Oslo\\\"}\"}");
  char history[4096];
  snprintf(history, sizeof history, "[{\"role\":\"user\",\"content\":\"How warm is it in Oslo?\"},%s,%s]", message ? message : "",
           "{\"role\":\"tool\",\"content\":\"<think> <tool_call> -3\"}");
  mlxrt_free(message);
  told = answer_of(session, history, NULL, options_of(0), &result);
  CHECK_TEXT(told.text, "It is cold.");
  CHECK_TEXT(told.thinking, "");
  CHECK_INT(told.call_events, 0);
  CHECK_INT(result.stop, MLXRT_STOPPED_EOS);

  OK(mlxrt_model_info(model, &info, NULL));
  CHECK_HAS(info, "\"thinking\":true");
  CHECK_HAS(info, "\"tool_calls\":\"json_tools\"");
  mlxrt_free(info);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void a_budget_ends_thinking(void) {
  mlxrt_model *model = load("../script");
  mlxrt_result result;
  static const struct {
    int32_t budget;
    const char *args, *thinking;
    uint64_t tokens;
  } cases[] = {
      {3, NULL, "Let me look", 3},
      {3, "{\"opened\":true}", "Let me look", 3},
      {1000, NULL, "Let me look it up.", 6},
      {-1, NULL, "", 0},
      {-1, "{\"enable_thinking\":true}", "", 0},
      {-1, "{\"enable_thinking\":true,\"opened\":true}", "", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    mlxrt_session *session = session_of(model);
    struct told told = answer_of(session, ASK, cases[i].args, options_of(cases[i].budget), &result);
    CHECK_TEXT(told.thinking, cases[i].thinking);
    CHECK_INT(result.thinking_tokens, cases[i].tokens);
    CHECK_TEXT(told.text, "I ask:");
    CHECK_INT(told.call_events, 1);
    mlxrt_session_free(session);
  }
  /* A model that does not think has nothing to end. */
  mlxrt_model *plain = load("qwen3-f32");
  mlxrt_session *session = session_of(plain);
  mlxrt_generate_options options = greedy(5);
  options.thinking_budget = 1;
  struct answer *answer = ask(session, text_input("Hello"), options);
  CHECK_INT(answer->token_count, 5);
  CHECK_INT(answer->result.thinking_tokens, 0);
  free(answer);
  mlxrt_session_free(session);
  mlxrt_model_free(plain);
  mlxrt_model_free(model);
}

static void raw_text_has_no_channels(void) {
  mlxrt_model *model = load("../script");
  mlxrt_session *session = session_of(model);
  mlxrt_result result;
  mlxrt_generate_options options = options_of(0);
  options.flags |= MLXRT_GEN_RAW_TEXT;
  struct told told = answer_of(session, ASK, NULL, options, &result);
  CHECK_HAS(told.text, "<think>\nLet me look it up.\n</think>\n\nI ask:\n<tool_call>\n{\"name\": \"weather\"");
  CHECK_TEXT(told.thinking, "");
  CHECK_INT(told.call_events, 0);
  CHECK_INT(result.stop, MLXRT_STOPPED_EOS);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void pulled_events_have_kinds_too(void) {
  mlxrt_model *model = load("../script");
  mlxrt_session *session = session_of(model);
  mlxrt_request *request = NULL;
  mlxrt_input input = message_input(ASK);
  struct told told;
  memset(&told, 0, sizeof told);
  OK(mlxrt_submit(session, &input, NULL, &request));
  int32_t state = MLXRT_NEXT_EVENT;
  while (state == MLXRT_NEXT_EVENT) {
    mlxrt_event *event = NULL;
    OK(mlxrt_request_next(request, MLXRT_FOREVER, &event, &state));
    if (event) tell(&told, event);
    mlxrt_free(event);
  }
  CHECK_TEXT(told.thinking, "Let me look it up.");
  CHECK_INT(told.call_events, 1);
  mlxrt_result result = empty_result();
  OK(mlxrt_request_result(request, MLXRT_FOREVER, &result));
  CHECK_INT(result.stop, MLXRT_STOPPED_TOOL_CALL);
  mlxrt_request_free(request);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static const struct test tests[] = {
    {"events have their kinds", events_have_their_kinds},
    {"calls are chosen, bound and told", calls_are_chosen_bound_and_told},
    {"a budget ends thinking", a_budget_ends_thinking},
    {"raw text has no channels", raw_text_has_no_channels},
    {"pulled events have kinds too", pulled_events_have_kinds_too},
};

int main(int argc, char **argv) { return RUN(tests); }
