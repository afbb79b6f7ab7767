/* A long life of the library in one process: models come and go, requests end in every way there is, and errors are
 * mixed in. Afterwards nothing may be left: neither memory of the process or of MLX, nor threads, nor files.
 *
 *   soak CYCLES TOKENS SEED
 *
 * Each cycle loads a model, gives its share of the tokens through sessions that are created and freed, alone or several
 * at once, makes some mistakes, frees everything and looks at the process. Prints a report in Markdown; exits with 1
 * when a bound is broken or a call gave what it should not.
 */
#include "use.h"

#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

enum { MOST_CYCLES = 100000, CONTROL_TOKENS = 12, CODES = 20, STOPS = 12, SLOPE_BOUND = 1024 };

static uint64_t random_state;

/* splitmix64; in 0 .. most-1. */
static uint32_t below(uint32_t most) {
  uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (uint32_t)((z ^ (z >> 31)) % most);
}

/* ---- What went wrong ---- */

static unsigned long wrong;
static unsigned cycle;

static void complain(const char *format, ...) {
  va_list arguments;
  if (++wrong > 20) return;
  fprintf(stderr, "soak, cycle %u: ", cycle);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

static unsigned long errors_by_code[CODES];

/* The call gives this code and no other. */
static void gives(mlxrt_error *error, int32_t expected, const char *what) {
  int32_t code = mlxrt_error_code(error);
  if (code >= 0 && code < CODES) errors_by_code[code]++;
  if (code != expected) {
    complain("%s gives %s \"%s\", expected %s", what, mlxrt_code_name(code), mlxrt_error_message(error),
             mlxrt_code_name(expected));
  }
  mlxrt_error_free(error);
}

#define GIVES(call, code) gives((call), (code), #call)
#define WORKS(call) gives((call), MLXRT_OK, #call)

/* ---- Requests ---- */

/* How a request is brought to its end. */
enum ending { BY_ITSELF, STOP, CANCEL_INSIDE, CANCEL_OUTSIDE, FREE_OUTSIDE, DEADLINE, ENDINGS };
static const char *const ENDING_NAMES[ENDINGS] = {
    "by itself",
    "stopped by the callback",
    "cancelled inside the callback",
    "cancelled by another thread",
    "session freed by another thread",
    "deadline of 1 to 4 ms",
};

/* Of a request that is submitted and pulled. */
static const char *const PULLED_NAMES[ENDINGS] = {
    "by itself",
    "freed between two events",
    "cancelled between two events",
    "cancelled by another thread",
    "session freed by another thread",
    "deadline of 1 to 4 ms",
};

/* How they ended. */
static const char *const stop_names[STOPS] = {NULL,        "EOS",      "STRING",  "TOKEN",     "LENGTH",  "CONTEXT",
                                              "CALLBACK", "CANCELLED", "TIMEOUT", "TOOL_CALL", "GRAMMAR", "ERROR"};

static unsigned long requests[ENDINGS], pulled[ENDINGS], stops[STOPS], pauses;
static uint64_t tokens_delivered;

struct request {
  mlxrt_session *session;
  /* NULL where the request is a blocking call. */
  mlxrt_request *submitted;
  enum ending ending;
  int events, at;
  size_t tokens;
  int32_t first[CONTROL_TOKENS];
  /* The other thread's delay. */
  long delay_us;
};

static void note(struct request *request, const mlxrt_event *event) {
  for (size_t i = 0; i < event->token_count; i++) {
    if (request->tokens < CONTROL_TOKENS) request->first[request->tokens] = event->tokens[i];
    request->tokens++;
  }
  request->events++;
}

static int32_t take(void *user_data, const mlxrt_event *event) {
  struct request *request = user_data;
  note(request, event);
  if (request->events != request->at) return MLXRT_RETURN_CONTINUE;
  if (request->ending == CANCEL_INSIDE) mlxrt_session_cancel(request->session);
  /* No call that blocks is allowed here. */
  if (request->ending == CANCEL_INSIDE) GIVES(mlxrt_init(NULL), MLXRT_E_REENTRANT);
  return request->ending == STOP ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static void *disturb(void *data) {
  struct request *request = data;
  struct timespec delay = {0, request->delay_us * 1000};
  nanosleep(&delay, NULL);
  if (request->ending == FREE_OUTSIDE) {
    mlxrt_session_free(request->session);
  } else if (request->submitted) {
    mlxrt_request_cancel(request->submitted);
  } else {
    mlxrt_session_cancel(request->session);
  }
  return NULL;
}

/* One blocking request on the session; gives the number of tokens. The session is freed where the ending says so. */
static size_t generate(mlxrt_session *session, mlxrt_input input, mlxrt_generate_options options, enum ending ending) {
  struct request request;
  pthread_t thread;
  int disturbed = ending == CANCEL_OUTSIDE || ending == FREE_OUTSIDE;
  memset(&request, 0, sizeof request);
  request.session = session;
  request.ending = ending;
  request.at = 1 + (int)below(8);
  request.delay_us = (long)below(3000);
  if (ending == DEADLINE) options.timeout_ms = 1 + below(4);
  mlxrt_result result = empty_result();
  if (disturbed && pthread_create(&thread, NULL, disturb, &request)) complain("no thread");
  mlxrt_error *error = mlxrt_generate(session, &input, &options, take, &request, &result);
  int32_t code = mlxrt_error_code(error);
  mlxrt_error_free(error);
  if (disturbed) pthread_join(thread, NULL);

  /* A session may be freed before the call that uses it begins. */
  int gone = ending == FREE_OUTSIDE && code == MLXRT_E_INVALID_HANDLE;
  if (code && !gone) complain("a request that ends %s gives %s", ENDING_NAMES[ending], mlxrt_code_name(code));
  if (!gone && result.stop >= 0 && result.stop < STOPS) stops[result.stop]++;
  if (!gone && result.generated_tokens != request.tokens) complain("tokens delivered and reported differ");
  int cancelled = result.stop == MLXRT_STOPPED_CANCELLED;
  /* The engine may have come to the end by itself before the callback heard of the event. */
  int complete = request.tokens == options.max_tokens || result.stop == MLXRT_STOPPED_STRING;
  if (ending == BY_ITSELF && cancelled) complain("a request was cancelled by nobody");
  if (ending == CANCEL_INSIDE && request.events >= request.at && !cancelled && !complete) {
    complain("a cancel had no effect");
  }
  requests[ending]++;
  tokens_delivered += request.tokens;
  return request.tokens;
}

static void count_notice(void *user_data) { __atomic_fetch_add((unsigned long *)user_data, 1, __ATOMIC_RELAXED); }

/* One submitted request, its events asked for here; gives the number of tokens. */
static size_t pull(mlxrt_session *session, mlxrt_input input, mlxrt_generate_options options, enum ending ending) {
  struct request request;
  pthread_t thread;
  unsigned long notices = 0;
  int disturbed = ending == CANCEL_OUTSIDE || ending == FREE_OUTSIDE, ended = 0;
  memset(&request, 0, sizeof request);
  request.session = session;
  request.ending = ending;
  request.at = 1 + (int)below(8);
  request.delay_us = (long)below(3000);
  if (ending == DEADLINE) options.timeout_ms = 1 + below(4);
  if (below(2)) options.notify = count_notice, options.notify_data = &notices;
  WORKS(mlxrt_submit(session, &input, &options, &request.submitted));
  if (!request.submitted) return 0;
  if (disturbed && pthread_create(&thread, NULL, disturb, &request)) complain("no thread");
  if (below(8) == 0) {
    WORKS(mlxrt_suspend(MLXRT_FOREVER));
    WORKS(mlxrt_resume());
    pauses++;
  }
  while (!ended) {
    mlxrt_event *event = NULL;
    int32_t state = -1;
    WORKS(mlxrt_request_next(request.submitted, below(2) ? MLXRT_FOREVER : below(3), &event, &state));
    if (event) {
      note(&request, event);
      mlxrt_free(event);
    }
    if (request.events == request.at && ending == CANCEL_INSIDE) mlxrt_request_cancel(request.submitted);
    ended = (state != MLXRT_NEXT_EVENT && state != MLXRT_NEXT_PENDING) || (ending == STOP && request.events >= request.at);
  }
  if (ending != STOP) {
    mlxrt_result result = empty_result();
    WORKS(mlxrt_request_result(request.submitted, MLXRT_FOREVER, &result));
    if (result.generated_tokens != request.tokens) complain("tokens pulled and reported differ");
    if (result.stop >= 0 && result.stop < STOPS) stops[result.stop]++;
  }
  if (disturbed) pthread_join(thread, NULL);
  /* The reader may hear of the end before notify does. */
  for (int i = 0; options.notify && ending != STOP && !__atomic_load_n(&notices, __ATOMIC_RELAXED); i++) {
    if (i < 5000) {
      sleep_ms(1);
    } else {
      complain("nobody was notified");
      break;
    }
  }
  mlxrt_request_free(request.submitted);
  GIVES(mlxrt_request_result(request.submitted, 0, NULL), MLXRT_E_INVALID_HANDLE);
  pulled[ending]++;
  tokens_delivered += request.tokens;
  return request.tokens;
}

static const char *const MESSAGES[] = {
    "[{\"role\":\"user\",\"content\":\"Hi\"}]",
    "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"Tell me a story.\"}]",
};

/* A session's life: some requests of random kinds. */
static void session_life(mlxrt_model *model, uint64_t until) {
  static const char *const stop[] = {"xyz", "the"};
  static const int32_t ids[] = {5, 6, 7, 8, 9, 10, 11};
  mlxrt_session_options session_with = session_options();
  mlxrt_session *session = NULL;
  if (below(4) == 0) session_with.window = 16;
  WORKS(mlxrt_session_create(model, &session_with, &session));
  for (uint32_t left = 1 + below(3); left > 0 && tokens_delivered < until; left--) {
    uint64_t most = until - tokens_delivered;
    uint32_t count = 1 + below(64);
    if (count > most) count = (uint32_t)most;
    mlxrt_generate_options options = below(2) ? greedy(count) : sampled(count, 1 + below(1000));
    if (below(4) == 0) options.temperature = 0.8f, options.top_p = 0.9f, options.flags &= ~(uint32_t)MLXRT_GEN_GREEDY;
    if (below(4) == 0) options.flags |= MLXRT_GEN_LOGPROBS, options.top_logprobs = 3;
    if (below(4) == 0) options.stop = stop, options.stop_count = COUNT(stop);
    if (below(4) == 0) options.progress_tokens = 2;
    mlxrt_input input = text_input("Once upon a time");
    switch (below(3)) {
      case 0: input = token_input(ids, COUNT(ids)); break;
      case 1: input = message_input(MESSAGES[below(COUNT(MESSAGES))]); break;
      default: break;
    }
    enum ending ending = (enum ending)below(ENDINGS);
    if (below(3) == 0) {
      pull(session, input, options, ending);
    } else {
      generate(session, input, options, ending);
    }
    if (ending == FREE_OUTSIDE) {
      size_t n = 0;
      int32_t *tokens = NULL;
      GIVES(mlxrt_session_tokens(session, &tokens, &n), MLXRT_E_INVALID_HANDLE);
      return;
    }
    char *json = NULL;
    size_t n = 0;
    int32_t *tokens = NULL;
    mlxrt_error_free(mlxrt_session_message(session, &json, NULL));
    mlxrt_free(json);
    WORKS(mlxrt_session_tokens(session, &tokens, &n));
    mlxrt_free(tokens);
  }
  mlxrt_session_free(session);
}

/* ---- Several at once ---- */

enum { CROWD = 6, QUEUED = 3, ADAPTERS = 2 };

/* A request of a crowd. */
struct queued {
  struct request request;
  struct member *member;
  mlxrt_generate_options options;
  int over, is_control;
};

/* A session of a crowd, with the requests that are queued on it. */
struct member {
  mlxrt_session *session;
  struct queued queued[QUEUED];
  int count, freed;
};

struct crowd {
  struct member members[CROWD];
  int count;
  /* Those of all members that another thread disturbs. */
  struct queued *disturbed[CROWD * QUEUED];
  int disturbances;
};

static unsigned long crowds, crowded[ENDINGS], crowds_short_of_memory, gave_way;
static uint64_t crowd_passes, crowd_rows, crowd_drafted, crowd_accepted;

static void count_who_waits(void *user_data, int32_t level, const char *message, size_t len) {
  (void)user_data, (void)level, (void)len;
  if (strstr(message, "waits for memory")) __atomic_fetch_add(&gave_way, 1, __ATOMIC_RELAXED);
}

static void *disturb_all(void *data) {
  struct crowd *crowd = data;
  for (int i = 0; i < crowd->disturbances; i++) disturb(&crowd->disturbed[i]->request);
  return NULL;
}

/* Behind what has the same beginning, and texts in which what came before comes again: guesses are right, or wrong later. */
static mlxrt_input crowd_input(void) {
  static const int32_t again[] = {5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7};
  switch (below(3)) {
    case 0: return token_input(again, COUNT(again) - below(8));
    case 1: return text_input("Once upon a time there was a fox. Once upon a time there was a");
    default: return message_input(MESSAGES[below(COUNT(MESSAGES))]);
  }
}

static void submit_one(struct crowd *crowd, struct member *member, uint32_t most, int is_control) {
  static const int32_t priorities[] = {0, 0, 0, 1, -1, INT32_MAX, INT32_MIN};
  struct queued *queued = &member->queued[member->count++];
  struct request *request = &queued->request;
  uint32_t count = is_control ? CONTROL_TOKENS : most / 2 + below(most / 2);
  queued->member = member;
  queued->is_control = is_control;
  queued->options = is_control || below(2) ? greedy(count) : sampled(count, 1 + below(1000));
  queued->options.priority = priorities[below(COUNT(priorities))];
  queued->options.draft_tokens = below(3) ? (int32_t)below(16) : -1;
  if (below(4) == 0 && !is_control) queued->options.flags |= MLXRT_GEN_LOGPROBS, queued->options.top_logprobs = 3;
  request->session = member->session;
  request->ending = is_control || below(2) ? BY_ITSELF : (enum ending)below(ENDINGS);
  /* Once a session is given up it takes no more. */
  if (request->ending == FREE_OUTSIDE && member->freed) request->ending = CANCEL_OUTSIDE;
  if (request->ending == FREE_OUTSIDE) member->freed = 1;
  request->at = 1 + (int)below(40);
  request->delay_us = (long)below(1500);
  if (request->ending == DEADLINE) queued->options.timeout_ms = 1 + below(4);
  mlxrt_input input = is_control ? text_input("Hello") : crowd_input();
  WORKS(mlxrt_submit(member->session, &input, &queued->options, &request->submitted));
  if (request->ending == CANCEL_OUTSIDE || request->ending == FREE_OUTSIDE) crowd->disturbed[crowd->disturbances++] = queued;
}

/* Takes what there is of a request, and brings it to its end where it is time. */
static void look_after(struct queued *queued, const int32_t *right) {
  struct request *request = &queued->request;
  mlxrt_event *event = NULL;
  int32_t state = -1;
  WORKS(mlxrt_request_next(request->submitted, below(2), &event, &state));
  if (event) {
    note(request, event);
    mlxrt_free(event);
  }
  if (request->events == request->at && request->ending == CANCEL_INSIDE) mlxrt_request_cancel(request->submitted);
  if (request->ending == STOP && request->events >= request->at) {
    mlxrt_request_free(request->submitted);
    queued->over = 1;
  } else if (state != MLXRT_NEXT_EVENT && state != MLXRT_NEXT_PENDING) {
    mlxrt_result result = empty_result();
    WORKS(mlxrt_request_result(request->submitted, MLXRT_FOREVER, &result));
    if (result.generated_tokens != request->tokens) complain("tokens of a crowd pulled and reported differ");
    if (result.accepted > result.drafted) complain("more guesses were right than there were");
    if (result.stop >= 0 && result.stop < STOPS) stops[result.stop]++;
    int alone = request->ending == BY_ITSELF && !queued->member->freed;
    if (alone && request->tokens != queued->options.max_tokens) complain("a request in a crowd ends %s", stop_names[result.stop]);
    if (queued->is_control && memcmp(right, request->first, sizeof request->first)) complain("the control gave other tokens in a crowd");
    crowd_drafted += result.drafted;
    crowd_accepted += result.accepted;
    mlxrt_request_free(request->submitted);
    queued->over = 1;
  }
  if (queued->over) {
    crowded[request->ending]++;
    tokens_delivered += request->tokens;
  }
}

/* Some sessions with requests that run at once, of different adapters, priorities and guesses, in some crowds with memory for a
 * few of them only: `of_one` is what a session keeps. One of all requests is the control, which gives what it gives
 * alone. */
static void crowd_life(mlxrt_model *model, mlxrt_adapter *const *adapters, const int32_t *right, uint32_t most, uint32_t of_one) {
  static struct crowd crowd;
  pthread_t thread;
  memset(&crowd, 0, sizeof crowd);
    mlxrt_metrics_data before = metrics_of(NULL);
  uint64_t limit = memory().limit_bytes;
  int is_short = below(3) == 0;
  crowd.count = is_short ? CROWD : 2 + (int)below(CROWD - 1);
  for (int i = 0; i < crowd.count; i++) {
    mlxrt_session **session = &crowd.members[i].session;
    if (i > 1 && below(3) == 0) {
      WORKS(mlxrt_session_fork(crowd.members[i - 1].session, NULL, session));
    } else {
      mlxrt_session_options with = session_options();
      if (i > 0 && below(4) == 0) with.window = 16;
      WORKS(mlxrt_session_create(model, &with, session));
    }
    mlxrt_adapter *chosen[ADAPTERS];
    size_t count = 0;
    for (int k = 0; k < ADAPTERS; k++) {
      if (i > 0 && adapters[k] && below(2)) chosen[count++] = adapters[k];
    }
    WORKS(mlxrt_apply_adapter(*session, chosen, NULL, count));
  }
  WORKS(mlxrt_memory_trim(2));
  if (is_short) {
    crowds_short_of_memory++;
    WORKS(mlxrt_log_set(MLXRT_LOG_DEBUG, count_who_waits, NULL));
    set_limit(memory().active_bytes + of_one + of_one / 2 + below(of_one));
  }
  for (int i = 0; i < crowd.count; i++) {
    for (int left = i && !is_short ? 1 + (int)below(QUEUED) : 1; left > 0; left--) submit_one(&crowd, &crowd.members[i], most, i == 0);
  }
  if (pthread_create(&thread, NULL, disturb_all, &crowd)) complain("no thread");
  for (int left = 1; left;) {
    left = 0;
    for (int i = 0; i < crowd.count; i++) {
      for (int k = 0; k < crowd.members[i].count; k++) {
        struct queued *queued = &crowd.members[i].queued[k];
        /* A reader that is not looked after parks its request. */
        if (!queued->over && below(4)) look_after(queued, right);
        left += !queued->over;
      }
    }
    if (below(64) == 0) WORKS(mlxrt_memory_trim((int32_t)below(3)));
    if (below(64) == 0) {
      WORKS(mlxrt_suspend(MLXRT_FOREVER));
      WORKS(mlxrt_resume());
      pauses++;
    }
  }
  pthread_join(thread, NULL);
  for (int i = 0; i < crowd.count; i++) {
    if (!crowd.members[i].freed) mlxrt_session_free(crowd.members[i].session);
  }
  if (is_short) {
    set_limit(limit);
    WORKS(mlxrt_log_set(0, NULL, NULL));
  }
  mlxrt_metrics_data after = metrics_of(NULL);
  crowd_passes += after.passes - before.passes;
  crowd_rows += after.pass_rows - before.pass_rows;
  crowds++;
}

/* ---- Mistakes ---- */

static char broken_folder[] = "/tmp/mlxrt-soak-XXXXXX";

/* A folder whose weights are cut off. */
static void make_broken_folder(void) {
  static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"};
  if (!mkdtemp(broken_folder)) exit(2);
  for (size_t i = 0; i < COUNT(files); i++) {
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", fixture("llama-f32"), files[i]);
    FILE *from = fopen(path, "rb");
    snprintf(path, sizeof path, "%s/%s", broken_folder, files[i]);
    FILE *to = fopen(path, "wb");
    if (!from || !to) exit(2);
    fseek(from, 0, SEEK_END);
    long length = ftell(from) - (i == 3 ? 100 : 0);
    rewind(from);
    for (long k = 0; k < length; k++) fputc(fgetc(from), to);
    fclose(from);
    fclose(to);
  }
}

static void remove_broken_folder(void) {
  char path[1200];
  DIR *folder = opendir(broken_folder);
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    snprintf(path, sizeof path, "%s/%s", broken_folder, entry->d_name);
    if (entry->d_name[0] != '.') unlink(path);
  }
  if (folder) closedir(folder);
  rmdir(broken_folder);
}

static int32_t stop_loading(void *user_data, uint64_t done, uint64_t total) {
  (void)user_data, (void)done, (void)total;
  return MLXRT_RETURN_STOP;
}

static void mistakes(mlxrt_model *model) {
  mlxrt_model *none = NULL;
  mlxrt_session *session = NULL, *stale = NULL;
  mlxrt_load_options stopped;
  mlxrt_result result = empty_result();
  char *json = NULL;
  static const int32_t outside[] = {1, 1 << 30};
  memset(&stopped, 0, sizeof stopped);
  stopped.struct_size = sizeof stopped;
  stopped.progress = stop_loading;
  GIVES(mlxrt_model_load("/nowhere", NULL, &none), MLXRT_E_NOT_FOUND);
  GIVES(mlxrt_model_load(broken_folder, NULL, &none), MLXRT_E_BAD_MODEL);
  GIVES(mlxrt_model_inspect(broken_folder, NULL, NULL, &json, NULL), MLXRT_E_BAD_MODEL);
  GIVES(mlxrt_model_load(fixture("llama-f32"), &stopped, &none), MLXRT_E_CANCELLED);

  WORKS(mlxrt_session_create(model, NULL, &session));
  WORKS(mlxrt_session_create(model, NULL, &stale));
  mlxrt_session_free(stale);
  mlxrt_session_free(stale);
  mlxrt_session_cancel(stale);
  mlxrt_generate_options options = greedy(4), odd = greedy(4);
  mlxrt_input input = text_input("x"), broken = message_input("[{\"role\":"), none_at_all = no_input();
  mlxrt_input bytes = text_input("\xff\xfe"), ids = token_input(outside, 2);
  odd.temperature = -1;
  GIVES(mlxrt_generate(stale, &input, &options, NULL, NULL, &result), MLXRT_E_INVALID_HANDLE);
  GIVES(mlxrt_generate((mlxrt_session *)model, &input, &options, NULL, NULL, &result), MLXRT_E_INVALID_HANDLE);
  GIVES(mlxrt_generate(session, &broken, &options, NULL, NULL, &result), MLXRT_E_INVALID_ARGUMENT);
  GIVES(mlxrt_generate(session, &none_at_all, &options, NULL, NULL, &result), MLXRT_E_INVALID_ARGUMENT);
  GIVES(mlxrt_generate(session, &bytes, &options, NULL, NULL, &result), MLXRT_E_INVALID_ARGUMENT);
  GIVES(mlxrt_generate(session, &ids, &options, NULL, NULL, &result), MLXRT_E_INVALID_ARGUMENT);
  GIVES(mlxrt_generate(session, &input, &odd, NULL, NULL, &result), MLXRT_E_INVALID_ARGUMENT);
  GIVES(mlxrt_session_message(session, &json, NULL), MLXRT_E_NOT_FOUND);
  mlxrt_session_free(session);
}

/* ---- The process ---- */

struct sample {
  uint64_t resident, active, cache;
  int threads, files;
};

static int entries(const char *path) {
  int count = 0;
  DIR *folder = opendir(path);
  for (struct dirent *entry; folder && (entry = readdir(folder));) count += entry->d_name[0] != '.';
  if (folder) closedir(folder);
  return count;
}

static struct sample look(void) {
  struct sample sample;
  mlxrt_memory memory;
  unsigned long pages = 0;
  memset(&sample, 0, sizeof sample);
  memset(&memory, 0, sizeof memory);
  memory.struct_size = sizeof memory;
  WORKS(mlxrt_memory_get(&memory));
  sample.active = memory.active_bytes;
  sample.cache = memory.cache_bytes;
  /* A thread that has ended takes a moment to vanish from there. */
  static int before;
  for (int i = 0; i < 50; i++) {
    sample.threads = entries("/proc/self/task");
    if (sample.threads <= before) break;
    sleep_ms(1);
  }
  before = sample.threads;
  sample.files = entries("/proc/self/fd");
  /* What the allocator keeps of freed memory is its own. */
  malloc_trim(0);
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file || fscanf(file, "%*u %lu", &pages) != 1) complain("/proc/self/statm cannot be read");
  if (file) fclose(file);
  sample.resident = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
  return sample;
}

/* Bytes a cycle by least squares, and its standard error. */
static double slope(const struct sample *samples, unsigned from, unsigned to, double *error) {
  double n = (double)(to - from), x = 0, y = 0, xx = 0, xy = 0, rest = 0;
  for (unsigned i = from; i < to; i++) x += i / n, y += (double)samples[i].resident / n;
  for (unsigned i = from; i < to; i++) {
    xx += (i - x) * (i - x);
    xy += (i - x) * ((double)samples[i].resident - y);
  }
  double b = xy / xx;
  for (unsigned i = from; i < to; i++) rest += pow((double)samples[i].resident - y - b * (i - x), 2);
  *error = sqrt(rest / (n - 2) / xx);
  return b;
}

/* ---- One cycle ---- */

static const char *const MODELS[] = {"llama-f32", "qwen3-4bit", "gemma3-text-f32", "qwen3-f32"};
static const char *const ADAPTERS_OF[COUNT(MODELS)][ADAPTERS] = {
    {"mlx-lora-llama", "peft-lora-llama"},
    {"mlx-lora-qwen3-4bit", "mlx-dora-qwen3-4bit"},
    {"mlx-lora-gemma3-text", NULL},
    {"mlx-dora-qwen3", "peft-rslora-qwen3"},
};
/* Bytes of keys and values of 256 tokens, which no request of a crowd that is short of memory goes beyond. */
static const uint32_t KEPT[COUNT(MODELS)] = {1 << 16, 1 << 18, 3 << 16, 1 << 16};
static int32_t control[COUNT(MODELS)][CONTROL_TOKENS];

static void one_cycle(uint64_t until) {
  size_t which = cycle % COUNT(MODELS);
  mlxrt_model *model = NULL;
  int counted = below(3) == 0;
  if (counted) WORKS(mlxrt_init(NULL));
  WORKS(mlxrt_model_load(fixture(MODELS[which]), NULL, &model));
  if (!model) return;

  /* The same request in every cycle gives the same tokens. */
  struct request request;
  mlxrt_session *session = NULL;
  mlxrt_input input = text_input("Hello");
  mlxrt_generate_options options = greedy(CONTROL_TOKENS);
  memset(&request, 0, sizeof request);
  if (below(2)) mistakes(model);
  WORKS(mlxrt_session_create(model, NULL, &session));
  WORKS(mlxrt_generate(session, &input, &options, take, &request, NULL));
  if (request.tokens != CONTROL_TOKENS) complain("the control gave %zu tokens", request.tokens);
  if (cycle < COUNT(MODELS)) memcpy(control[which], request.first, sizeof request.first);
  if (memcmp(control[which], request.first, sizeof request.first)) complain("the control gave other tokens than before");
  tokens_delivered += request.tokens;

  mlxrt_adapter *adapters[ADAPTERS] = {NULL, NULL};
  for (int i = 0; i < ADAPTERS; i++) {
    char path[128];
    if (!ADAPTERS_OF[which][i]) continue;
    snprintf(path, sizeof path, "../adapters/%s", ADAPTERS_OF[which][i]);
    WORKS(mlxrt_adapter_load(model, fixture(path), NULL, &adapters[i]));
  }
  do {
    if (below(4)) session_life(model, until);
    else crowd_life(model, adapters, control[which], 120, KEPT[which]);
  } while (tokens_delivered < until);
  for (int i = 0; i < ADAPTERS; i++) mlxrt_adapter_free(adapters[i]);

  /* In any order. */
  if (below(2)) {
    mlxrt_model_free(model);
    mlxrt_session *none = NULL;
    GIVES(mlxrt_session_create(model, NULL, &none), MLXRT_E_INVALID_HANDLE);
    WORKS(mlxrt_generate(session, &input, &options, NULL, NULL, NULL));
    tokens_delivered += CONTROL_TOKENS;
    mlxrt_session_free(session);
  } else {
    mlxrt_session_free(session);
    mlxrt_model_free(model);
  }
  if (counted) WORKS(mlxrt_shutdown(below(2) ? MLXRT_SHUTDOWN_FORCE : 0, MLXRT_FOREVER));
}

/* ---- The report ---- */

static int bound(int kept, const char *what, const char *is, const char *wanted) {
  printf("| %s | %s | %s | %s |\n", what, is, wanted, kept ? "kept" : "**broken**");
  return kept;
}

static char *words(const char *format, ...) {
  static char texts[4][200];
  static int next;
  char *text = texts[next++ % 4];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof texts[0], format, arguments);
  va_end(arguments);
  return text;
}

static int report(const struct sample *samples, unsigned cycles, uint64_t seed) {
  unsigned warm = cycles / 5;
  double error = 0, grows = slope(samples, warm, cycles, &error);
  int threads_low = samples[warm].threads, threads_high = threads_low;
  int files_low = samples[0].files, files_high = files_low;
  uint64_t active_high = 0, cache_high = 0;
  for (unsigned i = 0; i < cycles; i++) {
    if (samples[i].active > active_high) active_high = samples[i].active;
    if (samples[i].cache > cache_high) cache_high = samples[i].cache;
    if (samples[i].threads < threads_low) threads_low = samples[i].threads;
    if (samples[i].threads > threads_high) threads_high = samples[i].threads;
    if (samples[i].files < files_low) files_low = samples[i].files;
    if (samples[i].files > files_high) files_high = samples[i].files;
  }
  printf("# Soak\n\nMade by `make soak`; what a cycle does is in `soak.c`. mlxrt %s, seed %" PRIu64 ".\n\n", mlxrt_version(),
         seed);
  printf("| | is | wanted | |\n|---|---:|---:|---|\n");
  int kept = 1;
  kept &= bound(grows < SLOPE_BOUND, "resident memory, bytes a cycle", words("%.0f ± %.0f", grows, error), "< 1024");
  kept &= bound(active_high == 0, "MLX's active memory after a cycle, most bytes", words("%" PRIu64, active_high), "0");
  /* MLX keeps the thread of a stream for the next engine, and an engine that ends may overlap with the next. */
  kept &= bound(threads_high - threads_low <= 1, "threads after a cycle", words("%d to %d", threads_low, threads_high),
                "at most one more");
  kept &= bound(files_low == files_high, "files open after a cycle", words("%d to %d", files_low, files_high), "constant");
  double rows = crowd_passes ? (double)crowd_rows / (double)crowd_passes : 0;
  kept &= bound(rows > 1.1, "rows of a pass in crowds", words("%.2f", rows), "> 1.1");
  kept &= bound(gave_way > 0, "requests that waited for memory", words("%lu", gave_way), "some");
  kept &= bound(crowd_accepted > 0, "guesses that were right", words("%" PRIu64, crowd_accepted), "some");
  kept &= bound(wrong == 0, "calls that gave what they should not", words("%lu", wrong), "0");
  printf("\n%u cycles, the slope over the last %u. Resident after the first cycle %.1f MB, after warm-up %.1f MB, at the end "
         "%.1f MB.\nMLX's buffer cache after a cycle: %" PRIu64 " bytes at most. Tokens delivered: %" PRIu64 ".\n",
         cycles, cycles - warm, (double)samples[0].resident / 1e6, (double)samples[warm].resident / 1e6,
         (double)samples[cycles - 1].resident / 1e6, cache_high, tokens_delivered);
  printf("\n| blocking requests made to end | |\n|---|---:|\n");
  for (int i = 0; i < ENDINGS; i++) printf("| %s | %lu |\n", ENDING_NAMES[i], requests[i]);
  printf("\n| submitted requests made to end (%lu of them across a suspend and resume) | |\n|---|---:|\n", pauses);
  for (int i = 0; i < ENDINGS; i++) printf("| %s | %lu |\n", PULLED_NAMES[i], pulled[i]);
  printf("\n| requests of %lu crowds made to end (of several sessions, all at once) | |\n|---|---:|\n", crowds);
  for (int i = 0; i < ENDINGS; i++) printf("| %s | %lu |\n", PULLED_NAMES[i], crowded[i]);
  printf("\nIn crowds %" PRIu64 " passes had %" PRIu64 " rows; of %" PRIu64 " guessed tokens %" PRIu64 " were right. Of %lu crowds with memory for some "
         "only, requests gave way %lu times.\n",
         crowd_passes, crowd_rows, crowd_drafted, crowd_accepted, crowds_short_of_memory, gave_way);
  printf("\n| how they ended | |\n|---|---:|\n");
  for (int i = 1; i < STOPS; i++) {
    if (stops[i]) printf("| %s | %lu |\n", stop_names[i], stops[i]);
  }
  printf("\n| calls made to fail | |\n|---|---:|\n");
  for (int i = 1; i < CODES; i++) {
    if (errors_by_code[i]) printf("| %s | %lu |\n", mlxrt_code_name(i), errors_by_code[i]);
  }
  return kept;
}

int main(int argc, char **argv) {
  static struct sample samples[MOST_CYCLES];
  unsigned cycles = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1000;
  uint64_t tokens = argc > 2 ? strtoull(argv[2], NULL, 10) : 100000;
  uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
  if (cycles < 20 || cycles > MOST_CYCLES) {
    fprintf(stderr, "soak: CYCLES is 20 to %d\n", MOST_CYCLES);
    return 2;
  }
  random_state = seed;
  make_broken_folder();
  if (look().active) complain("MLX has memory in use at the start");
  for (cycle = 0; cycle < cycles; cycle++) {
    one_cycle(tokens * (cycle + 1) / cycles);
    samples[cycle] = look();
  }
  remove_broken_folder();
  const char *csv = getenv("SOAK_CSV");
  FILE *file = csv ? fopen(csv, "w") : NULL;
  for (unsigned i = 0; file && i < cycles; i++) fprintf(file, "%u,%" PRIu64 "\n", i, samples[i].resident);
  if (file) fclose(file);
  return report(samples, cycles, seed) ? 0 : 1;
}
