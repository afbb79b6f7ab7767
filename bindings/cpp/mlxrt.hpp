/*
 * mlxrt for C++17 and newer: mlxrt.h as classes, in this one header. Link with -lmlxrt as from C.
 *
 *   #include <iostream>
 *   #include <mlxrt.hpp>
 *
 *   int main(int argc, char **argv) {
 *     mlxrt::Model model(argc > 1 ? argv[1] : "model");
 *     mlxrt::Session session(model);
 *     session.generate(mlxrt::chat({{"user", "Tell me a story."}}), {}, [](std::string_view text) {
 *       std::cout << text << std::flush;
 *     });
 *   }
 *
 * - Model, Session, Request and Adapter own a handle. They move and do not copy; the last owner frees. close() frees early,
 *   also while another thread is inside a call: that call ends as cancelled. What is used after that, or after it was moved
 *   from, throws an error with code::invalid_handle. Objects may be destroyed in any order.
 * - What fails throws mlxrt::error, which has the C code and sentence.
 * - A callback may throw: the call is stopped, and the exception goes on from the call itself. An event callback takes a
 *   const Event &, or a std::string_view if it only wants the text; it returns nothing, or false to stop.
 * - Options are plain structs. What is not set is the library's default, and what is set means what it says: a temperature
 *   of 0 is greedy, 0 as max_tokens generates nothing, 0 as seed is a seed.
 * - Text and JSON go in as std::string_view or std::string and come out as std::string.
 * - Every function may be called from any thread, as in C; mlxrt.h says what each waits for and how it fails. Objects may
 *   be used by several threads at once, but not while they are moved from or assigned to.
 */
#ifndef MLXRT_HPP
#define MLXRT_HPP

#include <mlxrt.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace mlxrt {

using milliseconds = std::chrono::milliseconds;

/* ---- Errors ---- */

/* MLXRT_E_*. A newer library may give others. */
enum class code : std::int32_t {
  ok = MLXRT_OK,
  invalid_argument = MLXRT_E_INVALID_ARGUMENT,
  invalid_handle = MLXRT_E_INVALID_HANDLE,
  not_found = MLXRT_E_NOT_FOUND,
  io = MLXRT_E_IO,
  bad_model = MLXRT_E_BAD_MODEL,
  incompatible = MLXRT_E_INCOMPATIBLE,
  unsupported = MLXRT_E_UNSUPPORTED,
  out_of_memory = MLXRT_E_OUT_OF_MEMORY,
  context_full = MLXRT_E_CONTEXT_FULL,
  busy = MLXRT_E_BUSY,
  cancelled = MLXRT_E_CANCELLED,
  timeout = MLXRT_E_TIMEOUT,
  suspended = MLXRT_E_SUSPENDED,
  device = MLXRT_E_DEVICE,
  resources = MLXRT_E_RESOURCES,
  bad_grammar = MLXRT_E_BAD_GRAMMAR,
  reentrant = MLXRT_E_REENTRANT,
  forked = MLXRT_E_FORKED,
  internal = MLXRT_E_INTERNAL,
};

/* The name of a code, such as "NOT_FOUND"; "UNKNOWN" for one that the library does not have. */
inline const char *name(code of) noexcept { return mlxrt_code_name(static_cast<std::int32_t>(of)); }

/* What the library refused: what() is its sentence. */
class error : public std::runtime_error {
 public:
  error(mlxrt::code code, const std::string &message) : std::runtime_error(message), code_(code) {}
  mlxrt::code code() const noexcept { return code_; }
  const char *name() const noexcept { return mlxrt::name(code_); }

 private:
  mlxrt::code code_;
};

namespace detail {

inline void check(mlxrt_error *failed) {
  if (!failed) return;
  std::unique_ptr<mlxrt_error, void (*)(mlxrt_error *)> owner(failed, mlxrt_error_free);
  throw error(static_cast<code>(mlxrt_error_code(failed)), mlxrt_error_message(failed));
}

struct FreeBuffer {
  void operator()(void *buffer) const noexcept { mlxrt_free(buffer); }
};
template <class T>
using Buffer = std::unique_ptr<T, FreeBuffer>;

/* Calls a function that gives text: (char **text, size_t *len). */
template <class Call>
std::string text_of(Call &&call) {
  char *text = nullptr;
  std::size_t len = 0;
  check(call(&text, &len));
  Buffer<char> owner(text);
  return std::string(text, len);
}

/* Calls a function that gives token ids: (int32_t **ids, size_t *count). */
template <class Call>
std::vector<std::int32_t> ids_of(Call &&call) {
  std::int32_t *ids = nullptr;
  std::size_t count = 0;
  check(call(&ids, &count));
  Buffer<std::int32_t> owner(ids);
  return count ? std::vector<std::int32_t>(ids, ids + count) : std::vector<std::int32_t>();
}

template <class Struct>
Struct sized() noexcept {
  Struct made{};
  made.struct_size = sizeof(Struct);
  return made;
}

/* As a timeout argument: negative times wait without a limit. */
inline std::uint32_t wait_of(milliseconds time) noexcept {
  if (time.count() < 0 || time.count() >= MLXRT_FOREVER) return MLXRT_FOREVER;
  return static_cast<std::uint32_t>(time.count());
}

/* As timeout_ms in options, where 0 is no limit: what is set and not positive is over at once. */
inline std::uint32_t limit_of(const std::optional<milliseconds> &time) noexcept {
  if (!time) return 0;
  if (time->count() <= 0) return 1;
  return time->count() >= MLXRT_FOREVER ? MLXRT_FOREVER - 1 : static_cast<std::uint32_t>(time->count());
}

/* Runs a callback for C: an exception is kept, and stops the call. */
class Callback {
 public:
  template <class Call>
  std::int32_t run(Call &&call) noexcept {
    try {
      if constexpr (std::is_void_v<std::invoke_result_t<Call>>) {
        call();
        return MLXRT_RETURN_CONTINUE;
      } else {
        return call() ? MLXRT_RETURN_CONTINUE : MLXRT_RETURN_STOP;
      }
    } catch (...) {
      thrown_ = std::current_exception();
      return MLXRT_RETURN_STOP;
    }
  }
  /* The outcome of the C call: the callback's exception first, for the call's own error came of it. */
  void finish(mlxrt_error *failed) {
    if (thrown_) {
      mlxrt_error_free(failed);
      std::rethrow_exception(std::exchange(thrown_, nullptr));
    }
    check(failed);
  }

 private:
  std::exception_ptr thrown_;
};

/* Owns one handle. close() may come from any thread, at any time. */
template <class T, void (*Free)(T *)>
class Handle {
 public:
  Handle() noexcept = default;
  explicit Handle(T *handle) noexcept : handle_(handle) {}
  Handle(Handle &&other) noexcept : handle_(other.release()) {}
  Handle &operator=(Handle &&other) noexcept {
    if (this != &other) {
      close();
      handle_ = other.release();
    }
    return *this;
  }
  Handle(const Handle &) = delete;
  Handle &operator=(const Handle &) = delete;
  ~Handle() { close(); }

  /* Frees the handle now. */
  void close() noexcept {
    if (T *handle = release()) Free(handle);
  }
  explicit operator bool() const noexcept { return get() != nullptr; }
  /* For functions of mlxrt.h; it stays this object's. */
  T *get() const noexcept { return handle_.load(std::memory_order_acquire); }
  /* Gives the handle away: it is yours to free. */
  T *release() noexcept { return handle_.exchange(nullptr, std::memory_order_acq_rel); }

 private:
  std::atomic<T *> handle_{nullptr};
};

}  // namespace detail

/* Does not wait, or waits without a limit: for every timeout argument. */
inline constexpr milliseconds no_wait{0};
inline constexpr milliseconds forever{-1};

/* ---- JSON and messages ---- */

/* Text as a JSON string, quotes included. */
inline std::string json_string(std::string_view text) {
  std::string json = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      json += escaped;
    } else {
      json += c;
    }
  }
  return json += '"';
}

/* One message of a conversation. What else OpenAI's messages have goes in as JSON: mlxrt::messages. */
struct Message {
  std::string role, content;
};

/* What goes into a session; made by text(), tokens(), messages() and chat(). */
struct Input {
  std::optional<std::string> text;
  std::optional<std::vector<std::int32_t>> tokens;
  /* A JSON array: the whole history. */
  std::optional<std::string> messages;
  /* With messages: a JSON array of tools, and a JSON object for the chat template. */
  std::optional<std::string> tools, template_args;
  /* With tools, as JSON: "auto", "none", "required" or {"name": …}. */
  std::optional<std::string> tool_choice;
  /* MLXRT_INPUT_*, one each. */
  bool no_bos = false, special_as_text = false, trust_content = false, no_generation_prompt = false, continue_last = false;

  /* Lives as long as this. */
  mlxrt_input view() const noexcept {
    auto view = detail::sized<mlxrt_input>();
    view.flags = (no_bos ? MLXRT_INPUT_NO_BOS : 0) | (special_as_text ? MLXRT_INPUT_SPECIAL_AS_TEXT : 0) |
                 (trust_content ? MLXRT_INPUT_TRUST_CONTENT : 0) |
                 (no_generation_prompt ? MLXRT_INPUT_NO_GENERATION_PROMPT : 0) |
                 (continue_last ? MLXRT_INPUT_CONTINUE_LAST : 0);
    const auto put = [](const std::optional<std::string> &from, const char *&data, std::size_t &len) {
      if (from) data = from->data(), len = from->size();
    };
    put(text, view.text, view.text_len);
    put(messages, view.messages, view.messages_len);
    put(tools, view.tools, view.tools_len);
    put(template_args, view.template_args, view.template_args_len);
    put(tool_choice, view.tool_choice, view.tool_choice_len);
    if (tokens) {
      /* An empty vector may have no data, and NULL would be no tokens at all. */
      static constexpr std::int32_t none = 0;
      view.tokens = tokens->empty() ? &none : tokens->data();
      view.token_count = tokens->size();
    }
    return view;
  }
};

/* Text that continues the session. */
inline Input text(std::string_view text) {
  Input input;
  input.text = std::string(text);
  return input;
}

/* Token ids that continue the session. */
inline Input tokens(std::vector<std::int32_t> tokens) {
  Input input;
  input.tokens = std::move(tokens);
  return input;
}

/* The whole history as a JSON array of OpenAI's messages, and perhaps a JSON array of tools. */
inline Input messages(std::string_view json, std::optional<std::string> tools = std::nullopt) {
  Input input;
  input.messages = std::string(json);
  input.tools = std::move(tools);
  return input;
}

/* The whole history. */
inline Input chat(const std::vector<Message> &history) {
  std::string json = "[";
  for (const Message &message : history) {
    if (json.size() > 1) json += ',';
    json += "{\"role\":" + json_string(message.role) + ",\"content\":" + json_string(message.content) + '}';
  }
  return messages(json += ']');
}

/* ---- Options ---- */

/* Of bytes: no limit. */
inline constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

namespace detail {
/* In C, 0 bytes is the default and 1 is none. */
inline std::uint64_t bytes_of(const std::optional<std::uint64_t> &bytes) noexcept {
  return !bytes ? 0 : *bytes == 0 ? 1 : *bytes;
}
/* In C, 0 is the default and -1 is none. */
inline std::int32_t count_of(const std::optional<std::uint32_t> &count) noexcept {
  if (!count) return 0;
  const auto most = static_cast<std::uint32_t>(std::numeric_limits<std::int32_t>::max());
  return *count == 0 ? -1 : static_cast<std::int32_t>(*count < most ? *count : most);
}
/* In C, 0 is the default; what is just above it stands for a 0 that is meant. */
inline float above_zero(const std::optional<float> &value) noexcept {
  return !value ? 0 : *value == 0 ? std::numeric_limits<float>::min() : *value;
}
/* In C, 0 is the default and -1 is off. */
inline float or_off(const std::optional<float> &value) noexcept { return !value ? 0 : *value == 0 ? -1 : *value; }
}  // namespace detail

enum class device_kind : std::int32_t { automatic = MLXRT_DEVICE_AUTO, cpu = MLXRT_DEVICE_CPU, gpu = MLXRT_DEVICE_GPU };

/* mlxrt_init_options. */
struct InitOptions {
  device_kind device = device_kind::automatic;
  std::uint32_t cpu_threads = 0;
  std::optional<std::string> resource_dir;
  /* Bytes; mlxrt::unlimited is possible, and 0 is none. */
  std::optional<std::uint64_t> memory_limit, cache_limit, wired_limit;
};

/* mlxrt_memory_limits: what is not set stays. */
struct MemoryLimits {
  std::optional<std::uint64_t> memory_limit, cache_limit, wired_limit;
};

/* Hears how far a call is: done of total. Return false to stop it, which throws code::cancelled. */
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

/* mlxrt_load_options. */
struct LoadOptions {
  std::uint32_t context = 0;
  std::optional<milliseconds> timeout;
  Progress progress;
  std::optional<std::string> draft_path;
  /* The folder's files may be links to files outside it, such as weights in a store. */
  bool follow_links = false;
};

/* mlxrt_call_options. */
struct CallOptions {
  std::optional<milliseconds> timeout;
  Progress progress;
};

/* mlxrt_embed_options. */
struct EmbedOptions {
  /* MLXRT_POOLING_*. */
  std::int32_t pooling = MLXRT_POOLING_MODEL;
  /* Each row gets the length 1. */
  bool normalize = false;
  std::optional<milliseconds> timeout;
  /* In tokens. */
  Progress progress;
};

/* mlxrt_session_options. */
struct SessionOptions {
  std::uint32_t context = 0;
  std::uint32_t window = 0;
  /* With window: the first tokens that are never dropped; 4 if not set. */
  std::optional<std::uint32_t> keep;
  std::uint32_t kv_bits = 0, kv_group_size = 0;
  std::uint64_t kv_limit = 0;
};

class Model;

enum class grammar_kind : std::int32_t {
  json = MLXRT_GRAMMAR_JSON,
  json_schema = MLXRT_GRAMMAR_JSON_SCHEMA,
  regex = MLXRT_GRAMMAR_REGEX,
  lark = MLXRT_GRAMMAR_LARK
};

/* What answers of one model must match: GenerateOptions::grammar. Any number of requests follow one at once. */
class Grammar : public detail::Handle<mlxrt_grammar, mlxrt_grammar_free> {
 public:
  Grammar() noexcept = default;
  explicit Grammar(mlxrt_grammar *handle) noexcept : Handle(handle) {}
  /* Compiles source, which is empty for json. */
  Grammar(const Model &model, grammar_kind kind, std::string_view source = {}, const CallOptions &options = {})
      : Handle(compile(model, kind, source, options)) {}

 private:
  static mlxrt_grammar *compile(const Model &model, grammar_kind kind, std::string_view source,
                                const CallOptions &options);
};

/* mlxrt_generate_options. */
struct GenerateOptions {
  /* If not set: until the model ends or the context is full. 0 takes the input in and generates nothing. */
  std::optional<std::uint32_t> max_tokens;
  std::optional<milliseconds> timeout;
  /* 0 is greedy. */
  std::optional<float> temperature;
  std::optional<float> top_p;
  /* 0 is off for these three. */
  std::optional<float> min_p;
  std::optional<std::uint32_t> top_k;
  std::optional<float> xtc_probability;
  std::optional<float> xtc_threshold;
  /* 0 and 1 are off. */
  std::optional<float> repetition_penalty;
  float presence_penalty = 0, frequency_penalty = 0;
  /* How many of the latest tokens the penalties look at; 20 if not set, 0 = none. */
  std::optional<std::uint32_t> penalty_window;
  /* If not set, a random one, which the result tells. */
  std::optional<std::uint64_t> seed;
  bool logprobs = false;
  /* Alternatives for each token; more than 0 implies logprobs. */
  std::uint32_t top_logprobs = 0;
  /* 0 is no thinking. */
  std::optional<std::uint32_t> thinking_budget;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_tokens;
  /* Token and what its logit gets; -INFINITY bans it. */
  std::vector<std::pair<std::int32_t, float>> bias;
  std::uint32_t progress_tokens = 0;
  /* What the answer must match; NULL is anything. It must live until the call returns. */
  const Grammar *grammar = nullptr;
  /* Tokens that are guessed at a time from what came before, which changes no answer; 0 is none. */
  std::optional<std::uint32_t> draft_tokens;
  /* Higher first where requests wait for the device; equals take turns, and nobody starves. */
  std::int32_t priority = 0;
  /* MLXRT_GEN_*, one each. */
  bool ignore_eos = false, tokens_only = false, no_prefix_cache = false, no_model_defaults = false, raw_text = false;
  bool strict_tools = false, tool_deltas = false;
  /* With submit: called on any thread when events or the end become available. It should only signal something; what it
   * throws comes out of the request's next call. */
  std::function<void()> notify;
};

enum class adapter_kind : std::int32_t { lora = MLXRT_LORA, dora = MLXRT_DORA };
enum class dtype : std::int32_t { f32 = MLXRT_DTYPE_F32, f16 = MLXRT_DTYPE_F16, bf16 = MLXRT_DTYPE_BF16 };

/* mlxrt_adapter_options. */
struct AdapterOptions {
  adapter_kind kind = adapter_kind::lora;
  std::uint32_t rank = 8;
  float scale = 20, dropout = 0;
  /* The last so many blocks; 0 = all. */
  std::int32_t layers = 0;
  mlxrt::dtype dtype = mlxrt::dtype::f32;
  std::uint64_t seed = 0;
  /* Names of modules; none = q_proj and v_proj. */
  std::vector<std::string> keys;
};

enum class optimizer : std::int32_t {
  adamw = MLXRT_OPTIMIZER_ADAMW,
  adam = MLXRT_OPTIMIZER_ADAM,
  sgd = MLXRT_OPTIMIZER_SGD
};
enum class schedule : std::int32_t {
  constant = MLXRT_SCHEDULE_CONSTANT,
  cosine = MLXRT_SCHEDULE_COSINE,
  linear = MLXRT_SCHEDULE_LINEAR
};

/* mlxrt_train_options; a 0 is the default that mlxrt.h tells. */
struct TrainOptions {
  /* JSONL, or with paths the names of files of it. */
  std::string train;
  std::optional<std::string> valid;
  bool paths = false, mask_prompt = false, checkpoint = false;
  std::uint32_t steps = 0, batch_size = 0, max_tokens = 0, accumulate = 0;
  std::uint32_t report_every = 0, validate_every = 0, save_every = 0, warmup = 0;
  float learning_rate = 0;
  std::optional<float> weight_decay;
  mlxrt::optimizer optimizer = mlxrt::optimizer::adamw;
  mlxrt::schedule schedule = mlxrt::schedule::constant;
  std::uint64_t seed = 0;
  std::optional<std::string> save_path;
};

namespace detail {

/* A progress function for C, as long as this lives. */
class ProgressCall {
 public:
  explicit ProgressCall(const Progress &progress) noexcept : progress_(progress) {}
  mlxrt_progress_fn fn() const noexcept { return progress_ ? run : nullptr; }
  void finish(mlxrt_error *failed) { callback_.finish(failed); }

 private:
  static std::int32_t run(void *self, std::uint64_t done, std::uint64_t total) noexcept {
    auto &call = *static_cast<ProgressCall *>(self);
    return call.callback_.run([&] { return call.progress_(done, total); });
  }
  const Progress &progress_;
  Callback callback_;
};

inline mlxrt_load_options view_of(const LoadOptions &options) noexcept {
  auto view = sized<mlxrt_load_options>();
  view.context = options.context;
  view.timeout_ms = limit_of(options.timeout);
  view.draft_path = options.draft_path ? options.draft_path->c_str() : nullptr;
  view.flags = options.follow_links ? MLXRT_LOAD_FOLLOW_LINKS : 0;
  return view;
}

inline mlxrt_session_options view_of(const SessionOptions &options) noexcept {
  auto view = sized<mlxrt_session_options>();
  view.context = options.context;
  view.window = options.window;
  view.keep = count_of(options.keep);
  view.kv_bits = options.kv_bits;
  view.kv_group_size = options.kv_group_size;
  view.kv_limit = options.kv_limit;
  return view;
}

inline mlxrt_call_options view_of(const CallOptions &options) noexcept {
  auto view = sized<mlxrt_call_options>();
  view.timeout_ms = limit_of(options.timeout);
  return view;
}

/* GenerateOptions for C, as long as this and they live. */
class GenerateView {
 public:
  explicit GenerateView(const GenerateOptions &from) : view(sized<mlxrt_generate_options>()) {
    const auto flag = [this](bool on, std::uint32_t bit) { view.flags |= on ? bit : 0; };
    flag(from.temperature && *from.temperature == 0, MLXRT_GEN_GREEDY);
    flag(from.max_tokens && *from.max_tokens == 0, MLXRT_GEN_PREFILL_ONLY);
    flag(from.logprobs || from.top_logprobs, MLXRT_GEN_LOGPROBS);
    flag(from.ignore_eos, MLXRT_GEN_IGNORE_EOS);
    flag(from.tokens_only, MLXRT_GEN_TOKENS_ONLY);
    flag(from.no_prefix_cache, MLXRT_GEN_NO_PREFIX_CACHE);
    flag(from.no_model_defaults, MLXRT_GEN_NO_MODEL_DEFAULTS);
    flag(from.raw_text, MLXRT_GEN_RAW_TEXT);
    flag(from.strict_tools, MLXRT_GEN_STRICT_TOOLS);
    flag(from.tool_deltas, MLXRT_GEN_TOOL_DELTAS);
    view.max_tokens = from.max_tokens.value_or(0);
    view.timeout_ms = limit_of(from.timeout);
    view.temperature = from.temperature.value_or(0);
    view.top_p = above_zero(from.top_p);
    view.min_p = or_off(from.min_p);
    view.top_k = count_of(from.top_k);
    view.xtc_probability = or_off(from.xtc_probability);
    view.xtc_threshold = above_zero(from.xtc_threshold);
    view.repetition_penalty = !from.repetition_penalty ? 0 : *from.repetition_penalty == 0 ? 1 : *from.repetition_penalty;
    view.presence_penalty = from.presence_penalty;
    view.frequency_penalty = from.frequency_penalty;
    view.penalty_window = from.penalty_window.value_or(0);
    if (from.penalty_window && *from.penalty_window == 0) {
      view.repetition_penalty = 1;
      view.presence_penalty = view.frequency_penalty = 0;
    }
    /* In C, 0 is a random seed. */
    view.seed = !from.seed ? 0 : *from.seed == 0 ? std::numeric_limits<std::uint64_t>::max() : *from.seed;
    view.top_logprobs = from.top_logprobs;
    view.thinking_budget = count_of(from.thinking_budget);
    for (const std::string &stop : from.stop) {
      stop_.push_back(stop.data());
      stop_lens_.push_back(stop.size());
    }
    view.stop = stop_.empty() ? nullptr : stop_.data();
    view.stop_lens = stop_lens_.empty() ? nullptr : stop_lens_.data();
    view.stop_count = stop_.size();
    view.stop_tokens = from.stop_tokens.empty() ? nullptr : from.stop_tokens.data();
    view.stop_token_count = from.stop_tokens.size();
    for (const auto &[token, value] : from.bias) {
      bias_tokens_.push_back(token);
      bias_values_.push_back(value);
    }
    view.bias_tokens = bias_tokens_.empty() ? nullptr : bias_tokens_.data();
    view.bias_values = bias_values_.empty() ? nullptr : bias_values_.data();
    view.bias_count = bias_tokens_.size();
    view.grammar = from.grammar ? from.grammar->get() : nullptr;
    view.progress_tokens = from.progress_tokens;
    view.draft_tokens = count_of(from.draft_tokens);
    view.priority = from.priority;
  }
  GenerateView(const GenerateView &) = delete;
  GenerateView &operator=(const GenerateView &) = delete;

  mlxrt_generate_options view;

 private:
  std::vector<const char *> stop_;
  std::vector<std::size_t> stop_lens_;
  std::vector<std::int32_t> bias_tokens_;
  std::vector<float> bias_values_;
};

}  // namespace detail

/* ---- Events and results ---- */

enum class event_kind : std::int32_t {
  progress = MLXRT_EVENT_PROGRESS,
  text = MLXRT_EVENT_TEXT,
  thinking = MLXRT_EVENT_THINKING,
  tool_call = MLXRT_EVENT_TOOL_CALL,
  tool_delta = MLXRT_EVENT_TOOL_DELTA,
};

/* Some elements that lie elsewhere. */
template <class T>
class View {
 public:
  View(const T *data, std::size_t size) noexcept : data_(data), size_(data ? size : 0) {}
  const T *begin() const noexcept { return data_; }
  const T *end() const noexcept { return data_ + size_; }
  const T *data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  const T &operator[](std::size_t at) const noexcept { return data_[at]; }

 private:
  const T *data_;
  std::size_t size_;
};

/* A piece of what a generation produces. In a callback it lives until the callback returns. */
class Event {
 public:
  explicit Event(const mlxrt_event *event) noexcept : event_(event) {}
  /* Ignore values that you do not know. */
  event_kind kind() const noexcept { return static_cast<event_kind>(event_->kind); }
  std::string_view text() const noexcept { return {event_->text, event_->text_len}; }
  View<std::int32_t> tokens() const noexcept { return {event_->tokens, event_->token_count}; }
  /* One for each token, with logprobs. */
  View<float> logprobs() const noexcept { return {event_->logprobs, event_->token_count}; }
  /* top_count() for each token, with top_logprobs. */
  View<std::int32_t> top_tokens() const noexcept { return {event_->top_tokens, event_->token_count * top_count()}; }
  View<float> top_logprobs() const noexcept { return {event_->top_logprobs, event_->token_count * top_count()}; }
  std::size_t top_count() const noexcept { return event_->top_count; }
  /* With event_kind::progress: tokens taken in, of how many. */
  std::uint64_t done() const noexcept { return event_->done; }
  std::uint64_t total() const noexcept { return event_->total; }
  const mlxrt_event *get() const noexcept { return event_; }

 private:
  const mlxrt_event *event_;
};

/* An event of a submitted request, with the memory that it lies in. */
class OwnedEvent : public Event {
 public:
  explicit OwnedEvent(mlxrt_event *event) noexcept : Event(event), owner_(event) {}

 private:
  detail::Buffer<mlxrt_event> owner_;
};

enum class stop_reason : std::int32_t {
  eos = MLXRT_STOPPED_EOS,
  string = MLXRT_STOPPED_STRING,
  token = MLXRT_STOPPED_TOKEN,
  length = MLXRT_STOPPED_LENGTH,
  context = MLXRT_STOPPED_CONTEXT,
  callback = MLXRT_STOPPED_CALLBACK,
  cancelled = MLXRT_STOPPED_CANCELLED,
  timeout = MLXRT_STOPPED_TIMEOUT,
  tool_call = MLXRT_STOPPED_TOOL_CALL,
  grammar = MLXRT_STOPPED_GRAMMAR,
  error = MLXRT_STOPPED_ERROR,
};

/* How a generation ended and what it cost: the fields of mlxrt_result. */
struct Result : mlxrt_result {
  Result() noexcept : mlxrt_result{} { struct_size = sizeof(mlxrt_result); }
  stop_reason reason() const noexcept { return static_cast<stop_reason>(stop); }
  /* Of the tokens after the first one; 0 when there are none. */
  double tokens_per_second() const noexcept {
    return decode_ns && generated_tokens > 1 ? static_cast<double>(generated_tokens - 1) * 1e9 / static_cast<double>(decode_ns)
                                             : 0;
  }
};

/* A whole answer. */
struct Answer {
  std::string text;
  std::string thinking;
  /* One {"id","name","arguments":{...}} each. */
  std::vector<std::string> tool_calls;
  Result result;
};

using TrainEvent = mlxrt_train_event;
using SessionState = mlxrt_session_state;
using Memory = mlxrt_memory;
using Metrics = mlxrt_metrics_data;

/* A tensor of an adapter, or embeddings; row-major. */
struct Tensor {
  std::vector<std::uint64_t> shape;
  std::vector<float> data;
};

namespace detail {
/* Takes what a function gave out. */
inline Tensor take_tensor(const mlxrt_tensor &out) {
  const Buffer<void> owner(out.data);
  const auto *data = static_cast<const float *>(out.data);
  return {{out.shape, out.shape + out.rank}, {data, data + out.bytes / sizeof(float)}};
}
/* Takes the tensor that a call hands out. */
template <class Call>
Tensor tensor_of(Call &&call) {
  auto out = sized<mlxrt_tensor>();
  check(call(&out));
  return take_tensor(out);
}
}  // namespace detail

/* ---- Models ---- */

class Adapter;
struct Scaled;

class Model : public detail::Handle<mlxrt_model, mlxrt_model_free> {
 public:
  Model() noexcept = default;
  explicit Model(mlxrt_model *handle) noexcept : Handle(handle) {}
  /* Loads a model: a folder, or the id of one in the local Hugging Face cache. */
  explicit Model(std::string_view path, const LoadOptions &options = {}) : Handle(load(path, options)) {}

  /* What a folder holds and needs, as JSON, without reading its weights. */
  static std::string inspect(std::string_view path, const LoadOptions &load = {}, const SessionOptions &session = {}) {
    const std::string name(path);
    const mlxrt_load_options load_view = detail::view_of(load);
    const mlxrt_session_options session_view = detail::view_of(session);
    return detail::text_of([&](char **json, std::size_t *len) {
      return mlxrt_model_inspect(name.c_str(), &load_view, &session_view, json, len);
    });
  }
  /* As JSON. */
  std::string info() const {
    return detail::text_of([&](char **json, std::size_t *len) { return mlxrt_model_info(get(), json, len); });
  }
  /* flags: MLXRT_TOKENIZE_*. */
  std::vector<std::int32_t> tokenize(std::string_view text, std::uint32_t flags = 0) const {
    return detail::ids_of([&](std::int32_t **ids, std::size_t *count) {
      return mlxrt_tokenize(get(), text.data() ? text.data() : "", text.size(), flags, ids, count);
    });
  }
  /* flags: MLXRT_DETOKENIZE_*. */
  std::string detokenize(const std::vector<std::int32_t> &ids, std::uint32_t flags = 0) const {
    return detail::text_of([&](char **text, std::size_t *len) {
      return mlxrt_detokenize(get(), ids.data(), ids.size(), flags, text, len);
    });
  }
  /* A conversation as the prompt that the model sees. */
  std::string render(const Input &input) const {
    const mlxrt_input view = input.view();
    return detail::text_of([&](char **text, std::size_t *len) { return mlxrt_render(get(), &view, text, len); });
  }
  /* The tokens that a request of a fresh session starts from: the prompt as generate takes it in. */
  std::vector<std::int32_t> prompt_tokens(const Input &input) const {
    const mlxrt_input view = input.view();
    return detail::ids_of([&](std::int32_t **ids, std::size_t *count) {
      return mlxrt_count_tokens(get(), &view, ids, count);
    });
  }
  /* How many those are. */
  std::size_t count_tokens(const Input &input) const {
    const mlxrt_input view = input.view();
    std::size_t count = 0;
    detail::check(mlxrt_count_tokens(get(), &view, nullptr, &count));
    return count;
  }
  /* Writes a folder that mlx-lm and this library load, with no, one or several adapters fused into the weights, which are
   * quantised as they were. Sessions do not notice. */
  void save(std::string_view path, const CallOptions &options = {}) const;
  void save(std::string_view path, const Adapter &adapter, const CallOptions &options = {}) const;
  void save(std::string_view path, std::initializer_list<Scaled> adapters, const CallOptions &options = {}) const;
  void save(std::string_view path, const std::vector<Scaled> &adapters, const CallOptions &options = {}) const;
  /* A row for each text: [texts, dimensions]. */
  Tensor embed(const std::vector<std::string_view> &texts, const EmbedOptions &options = {}) {
    std::vector<const char *> pointers;
    std::vector<std::size_t> lengths;
    for (const std::string_view text : texts) {
      pointers.push_back(text.data() ? text.data() : "");
      lengths.push_back(text.size());
    }
    detail::ProgressCall progress(options.progress);
    auto view = detail::sized<mlxrt_embed_options>();
    view.flags = options.normalize ? MLXRT_EMBED_NORMALIZE : 0;
    view.pooling = options.pooling;
    view.timeout_ms = detail::limit_of(options.timeout);
    view.progress = progress.fn();
    view.progress_data = &progress;
    auto out = detail::sized<mlxrt_tensor>();
    mlxrt_error *failed = mlxrt_embed(get(), pointers.data(), lengths.data(), texts.size(), &view, &out);
    detail::Buffer<void> owner(out.data);
    progress.finish(failed);
    owner.release();
    return detail::take_tensor(out);
  }
  Metrics metrics() const {
    auto out = detail::sized<Metrics>();
    /* NULL would be the whole process. */
    mlxrt_model *model = get();
    if (!model) throw error(code::invalid_handle, "the model is closed");
    detail::check(mlxrt_metrics(model, &out));
    return out;
  }

 private:
  void save_all(std::string_view path, const Scaled *adapters, std::size_t count, const CallOptions &options) const;
  static mlxrt_model *load(std::string_view path, const LoadOptions &options) {
    const std::string name(path);
    detail::ProgressCall progress(options.progress);
    mlxrt_load_options view = detail::view_of(options);
    view.progress = progress.fn();
    view.progress_data = &progress;
    mlxrt_model *made = nullptr;
    mlxrt_error *failed = mlxrt_model_load(name.c_str(), &view, &made);
    try {
      progress.finish(failed);
    } catch (...) {
      mlxrt_model_free(made);
      throw;
    }
    return made;
  }
};

/* ---- Grammars ---- */

inline mlxrt_grammar *Grammar::compile(const Model &model, grammar_kind kind, std::string_view source,
                                       const CallOptions &options) {
  detail::ProgressCall progress(options.progress);
  mlxrt_call_options view = detail::view_of(options);
  view.progress = progress.fn();
  view.progress_data = &progress;
  mlxrt_grammar *made = nullptr;
  mlxrt_error *failed = mlxrt_grammar_compile(model.get(), static_cast<std::int32_t>(kind),
                                              source.data() ? source.data() : "", source.size(), &view, &made);
  try {
    progress.finish(failed);
  } catch (...) {
    mlxrt_grammar_free(made);
    throw;
  }
  return made;
}

/* ---- Adapters ---- */

class Adapter : public detail::Handle<mlxrt_adapter, mlxrt_adapter_free> {
 public:
  Adapter() noexcept = default;
  explicit Adapter(mlxrt_adapter *handle) noexcept : Handle(handle) {}
  /* A new one, which changes nothing until it is trained. */
  explicit Adapter(Model &model, const AdapterOptions &options = {}) : Handle(create(model, options)) {}
  /* Reads one: a folder or .safetensors file of mlx-lm or PEFT. */
  Adapter(Model &model, std::string_view path, const CallOptions &options = {}) : Handle(load(model, path, options)) {}

  /* As JSON. */
  std::string info() const {
    return detail::text_of([&](char **json, std::size_t *len) { return mlxrt_adapter_info(get(), json, len); });
  }
  /* A copy of one tensor, such as "model.layers.0.self_attn.q_proj.lora_a". */
  Tensor tensor(std::string_view name) const {
    const std::string key(name);
    return detail::tensor_of([&](mlxrt_tensor *out) { return mlxrt_adapter_get(get(), key.c_str(), out); });
  }
  /* Replaces one tensor, from the next request on. */
  void set_tensor(std::string_view name, const Tensor &tensor) {
    auto view = detail::sized<mlxrt_tensor_view>();
    view.dtype = MLXRT_DTYPE_F32;
    view.rank = static_cast<std::uint32_t>(tensor.shape.size());
    if (tensor.shape.size() > sizeof view.shape / sizeof *view.shape) {
      throw error(code::invalid_argument, "a tensor has at most 8 dimensions");
    }
    for (std::size_t i = 0; i < tensor.shape.size(); i++) view.shape[i] = tensor.shape[i];
    view.data = tensor.data.data();
    view.bytes = tensor.data.size() * sizeof(float);
    set_tensor(name, view);
  }
  void set_tensor(std::string_view name, const mlxrt_tensor_view &view) {
    const std::string key(name);
    detail::check(mlxrt_adapter_set(get(), key.c_str(), &view));
  }
  /* Writes a folder that mlx-lm and this library load. */
  void save(std::string_view path, const CallOptions &options = {}) const {
    const std::string name(path);
    detail::ProgressCall progress(options.progress);
    mlxrt_call_options view = detail::view_of(options);
    view.progress = progress.fn();
    view.progress_data = &progress;
    progress.finish(mlxrt_adapter_save(get(), name.c_str(), &view));
  }

 private:
  static mlxrt_adapter *create(Model &model, const AdapterOptions &options) {
    auto view = detail::sized<mlxrt_adapter_options>();
    view.kind = static_cast<std::int32_t>(options.kind);
    view.rank = options.rank;
    view.scale = options.scale;
    view.dropout = options.dropout;
    view.layers = options.layers;
    view.dtype = static_cast<std::int32_t>(options.dtype);
    view.seed = options.seed;
    std::vector<const char *> keys;
    for (const std::string &key : options.keys) keys.push_back(key.c_str());
    view.keys = keys.empty() ? nullptr : keys.data();
    view.key_count = keys.size();
    mlxrt_adapter *made = nullptr;
    detail::check(mlxrt_adapter_create(model.get(), &view, &made));
    return made;
  }
  static mlxrt_adapter *load(Model &model, std::string_view path, const CallOptions &options) {
    const std::string name(path);
    detail::ProgressCall progress(options.progress);
    mlxrt_call_options view = detail::view_of(options);
    view.progress = progress.fn();
    view.progress_data = &progress;
    mlxrt_adapter *made = nullptr;
    mlxrt_error *failed = mlxrt_adapter_load(model.get(), name.c_str(), &view, &made);
    try {
      progress.finish(failed);
    } catch (...) {
      mlxrt_adapter_free(made);
      throw;
    }
    return made;
  }
};

/* One of several adapters, at a scale besides its own. */
struct Scaled {
  const Adapter &adapter;
  float scale = 1;
};

namespace detail {

/* Adapters and their scales for C. */
struct AdapterList {
  AdapterList(const Scaled *adapters, std::size_t count) {
    for (std::size_t i = 0; i < count; i++) {
      handles.push_back(adapters[i].adapter.get());
      scales.push_back(adapters[i].scale);
    }
  }
  std::vector<mlxrt_adapter *> handles;
  std::vector<float> scales;
};

}  // namespace detail

inline void Model::save(std::string_view path, const CallOptions &options) const { save_all(path, nullptr, 0, options); }
inline void Model::save(std::string_view path, const Adapter &adapter, const CallOptions &options) const {
  const Scaled one{adapter};
  save_all(path, &one, 1, options);
}
inline void Model::save(std::string_view path, std::initializer_list<Scaled> adapters, const CallOptions &options) const {
  save_all(path, adapters.begin(), adapters.size(), options);
}
inline void Model::save(std::string_view path, const std::vector<Scaled> &adapters, const CallOptions &options) const {
  save_all(path, adapters.data(), adapters.size(), options);
}
inline void Model::save_all(std::string_view path, const Scaled *adapters, std::size_t count,
                            const CallOptions &options) const {
  const std::string name(path);
  const detail::AdapterList list(adapters, count);
  detail::ProgressCall progress(options.progress);
  mlxrt_call_options view = detail::view_of(options);
  view.progress = progress.fn();
  view.progress_data = &progress;
  progress.finish(mlxrt_model_save(get(), list.handles.data(), list.scales.data(), count, name.c_str(), &view));
}

/* Trains an adapter in place, on this thread. on_event takes a const TrainEvent & and returns nothing, or false to stop
 * with what there is. */
template <class OnEvent>
void train(Model &model, Adapter &adapter, const TrainOptions &options, OnEvent &&on_event) {
  auto view = detail::sized<mlxrt_train_options>();
  view.flags = (options.paths ? MLXRT_TRAIN_PATHS : 0) | (options.mask_prompt ? MLXRT_TRAIN_MASK_PROMPT : 0) |
               (options.checkpoint ? MLXRT_TRAIN_CHECKPOINT : 0);
  view.train = options.train.c_str();
  view.train_len = options.train.size();
  view.valid = options.valid ? options.valid->c_str() : nullptr;
  view.valid_len = options.valid ? options.valid->size() : 0;
  view.steps = options.steps;
  view.batch_size = options.batch_size;
  view.max_tokens = options.max_tokens;
  view.accumulate = options.accumulate;
  view.report_every = options.report_every;
  view.validate_every = options.validate_every;
  view.save_every = options.save_every;
  view.warmup = options.warmup;
  view.learning_rate = options.learning_rate;
  view.weight_decay = detail::or_off(options.weight_decay);
  view.optimizer = static_cast<std::int32_t>(options.optimizer);
  view.schedule = static_cast<std::int32_t>(options.schedule);
  view.seed = options.seed;
  view.save_path = options.save_path ? options.save_path->c_str() : nullptr;

  struct Call {
    std::remove_reference_t<OnEvent> &on_event;
    detail::Callback callback;
  } call{on_event, {}};
  const mlxrt_train_fn run = [](void *data, const mlxrt_train_event *event) noexcept -> std::int32_t {
    auto &inner = *static_cast<Call *>(data);
    return inner.callback.run([&] { return inner.on_event(*event); });
  };
  mlxrt_error *failed = mlxrt_train(model.get(), adapter.get(), &view, run, &call);
  call.callback.finish(failed);
}
inline void train(Model &model, Adapter &adapter, const TrainOptions &options) {
  train(model, adapter, options, [](const TrainEvent &) {});
}

/* ---- Requests ---- */

namespace detail {
/* What a submitted request's notify needs; it outlives the request. */
struct Notify {
  std::function<void()> fn;
  std::mutex mutex;
  std::exception_ptr thrown;
  static void run(void *data) noexcept {
    auto &self = *static_cast<Notify *>(data);
    try {
      self.fn();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(self.mutex);
      if (!self.thrown) self.thrown = std::current_exception();
    }
  }
  void rethrow() {
    std::exception_ptr found;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      found = std::exchange(thrown, nullptr);
    }
    if (found) std::rethrow_exception(found);
  }
};
}  // namespace detail

enum class next_state : std::int32_t { event = MLXRT_NEXT_EVENT, pending = MLXRT_NEXT_PENDING, done = MLXRT_NEXT_DONE };

/* A submitted request. Its events:  for (const mlxrt::Event &event : request) ... */
class Request {
 public:
  Request() noexcept = default;
  Request(Request &&) noexcept = default;
  Request &operator=(Request &&other) noexcept {
    /* The handle first: when it is freed, notify does not run any more. */
    handle_ = std::move(other.handle_);
    notify_ = std::move(other.notify_);
    return *this;
  }
  ~Request() { handle_.close(); }

  /* The next event, waiting for it; none at the end. Throws the request's error there. */
  std::optional<OwnedEvent> next() {
    std::optional<OwnedEvent> event;
    poll(event, forever);
    return event;
  }
  /* The next event if there is one by then. */
  next_state poll(std::optional<OwnedEvent> &event, milliseconds timeout = no_wait) {
    event.reset();
    rethrow();
    mlxrt_event *taken = nullptr;
    std::int32_t state = MLXRT_NEXT_DONE;
    detail::check(mlxrt_request_next(handle_.get(), detail::wait_of(timeout), &taken, &state));
    if (taken) event.emplace(taken);
    return static_cast<next_state>(state);
  }
  /* Waits for the end, dropping events that nobody took. Throws code::timeout when it is not over by then. */
  Result result(milliseconds timeout = forever) {
    rethrow();
    Result result;
    detail::check(mlxrt_request_result(handle_.get(), detail::wait_of(timeout), &result));
    return result;
  }
  /* From any thread, also inside callbacks. */
  void cancel() noexcept {
    if (mlxrt_request *request = handle_.get()) mlxrt_request_cancel(request);
  }
  void close() noexcept { handle_.close(); }
  explicit operator bool() const noexcept { return static_cast<bool>(handle_); }
  mlxrt_request *get() const noexcept { return handle_.get(); }

  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = OwnedEvent;
    using difference_type = std::ptrdiff_t;
    using pointer = const OwnedEvent *;
    using reference = const OwnedEvent &;
    iterator() = default;
    explicit iterator(Request *request) : request_(request) { ++*this; }
    reference operator*() const { return *event_; }
    pointer operator->() const { return &*event_; }
    iterator &operator++() {
      event_ = request_->next();
      if (!event_) request_ = nullptr;
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator &a, const iterator &b) { return a.request_ == b.request_; }
    friend bool operator!=(const iterator &a, const iterator &b) { return !(a == b); }

   private:
    Request *request_ = nullptr;
    std::optional<OwnedEvent> event_;
  };
  /* Takes events as it goes: once over. */
  iterator begin() { return iterator(this); }
  iterator end() { return {}; }

 private:
  friend class Session;
  void rethrow() {
    if (notify_) notify_->rethrow();
  }
  std::unique_ptr<detail::Notify> notify_;
  detail::Handle<mlxrt_request, mlxrt_request_free> handle_;
};

/* ---- Sessions ---- */

class Session : public detail::Handle<mlxrt_session, mlxrt_session_free> {
 public:
  Session() noexcept = default;
  explicit Session(mlxrt_session *handle) noexcept : Handle(handle) {}
  explicit Session(Model &model, const SessionOptions &options = {}) : Handle(create(model, options)) {}

  /* Generates on this thread and hands each event to on_event, which takes a const Event &, or the text of text events as
   * a std::string_view, and returns nothing, or false to stop. */
  template <class OnEvent>
  Result generate(const Input &input, const GenerateOptions &options, OnEvent &&on_event) {
    struct Call {
      std::remove_reference_t<OnEvent> &on_event;
      detail::Callback callback;
    } call{on_event, {}};
    const mlxrt_event_fn run = [](void *data, const mlxrt_event *raw) noexcept -> std::int32_t {
      auto &inner = *static_cast<Call *>(data);
      const Event event(raw);
      if constexpr (std::is_invocable_v<OnEvent &, const Event &>) {
        return inner.callback.run([&] { return inner.on_event(event); });
      } else {
        if (event.kind() != event_kind::text) return MLXRT_RETURN_CONTINUE;
        return inner.callback.run([&] { return inner.on_event(event.text()); });
      }
    };
    const mlxrt_input input_view = input.view();
    const detail::GenerateView options_view(options);
    Result result;
    mlxrt_error *failed = mlxrt_generate(get(), &input_view, &options_view.view, run, &call, &result);
    call.callback.finish(failed);
    return result;
  }
  /* The whole text of an answer. */
  Answer generate(const Input &input, const GenerateOptions &options = {}) {
    Answer answer;
    answer.result = generate(input, options, [&](const Event &event) {
      switch (event.kind()) {
        case event_kind::text: answer.text += event.text(); break;
        case event_kind::thinking: answer.thinking += event.text(); break;
        case event_kind::tool_call: answer.tool_calls.emplace_back(event.text()); break;
        default: break;
      }
    });
    return answer;
  }
  /* Queues a request. */
  Request submit(const Input &input, const GenerateOptions &options = {}) {
    const mlxrt_input input_view = input.view();
    detail::GenerateView options_view(options);
    Request request;
    if (options.notify) {
      request.notify_ = std::make_unique<detail::Notify>();
      request.notify_->fn = options.notify;
      options_view.view.notify = detail::Notify::run;
      options_view.view.notify_data = request.notify_.get();
    }
    mlxrt_request *made = nullptr;
    detail::check(mlxrt_submit(get(), &input_view, &options_view.view, &made));
    request.handle_ = detail::Handle<mlxrt_request, mlxrt_request_free>(made);
    return request;
  }
  /* Ends what runs on the session now, from any thread, also inside callbacks. */
  void cancel() noexcept {
    if (mlxrt_session *session = get()) mlxrt_session_cancel(session);
  }
  /* Sets the adapters, from the next request on: none, one or several. */
  void apply() { apply_all(nullptr, 0); }
  void apply(const Adapter &adapter, float scale = 1) {
    const Scaled one{adapter, scale};
    apply_all(&one, 1);
  }
  void apply(std::initializer_list<Scaled> adapters) { apply_all(adapters.begin(), adapters.size()); }
  void apply(const std::vector<Scaled> &adapters) { apply_all(adapters.data(), adapters.size()); }

  SessionState state() const {
    auto out = detail::sized<SessionState>();
    detail::check(mlxrt_session_info(get(), &out));
    return out;
  }
  /* The tokens that the session holds. */
  std::vector<std::int32_t> tokens() const {
    return detail::ids_of([&](std::int32_t **ids, std::size_t *count) { return mlxrt_session_tokens(get(), ids, count); });
  }
  /* The last answer as a message, as JSON. */
  std::string message() const {
    return detail::text_of([&](char **json, std::size_t *len) { return mlxrt_session_message(get(), json, len); });
  }

  /* A session of its own with the same tokens, options and adapters. What is computed is shared until one of the two goes
   * on, so that a fork costs no more than its tokens. */
  Session fork() const {
    mlxrt_session *made = nullptr;
    detail::check(mlxrt_session_fork(get(), nullptr, &made));
    return Session(made);
  }
  /* Keeps the first tokens, and forgets the rest, the last answer too. */
  void truncate(std::size_t tokens) { detail::check(mlxrt_session_truncate(get(), tokens)); }

  /* Writes a file, whole or not at all; mlx-lm 0.32 reads it as a prompt cache. No request of the session begins meanwhile. */
  void save(std::string_view path, const CallOptions &options = {}) const {
    const std::string name(path);
    detail::ProgressCall progress(options.progress);
    mlxrt_call_options view = detail::view_of(options);
    view.progress = progress.fn();
    view.progress_data = &progress;
    progress.finish(mlxrt_session_save(get(), name.c_str(), &view));
  }
  /* A session of a file that save wrote, which goes on as that one would have; adapters of it must be loaded. */
  static Session load(Model &model, std::string_view path, const CallOptions &options = {}) {
    const std::string name(path);
    detail::ProgressCall progress(options.progress);
    mlxrt_call_options view = detail::view_of(options);
    view.progress = progress.fn();
    view.progress_data = &progress;
    mlxrt_session *made = nullptr;
    mlxrt_error *failed = mlxrt_session_load(model.get(), name.c_str(), &view, &made);
    Session session(made);
    progress.finish(failed);
    return session;
  }

  /* The log-probability of each token of target after the session and prefix; the session stays as it is. */
  std::vector<float> score(const Input &prefix, const Input &target, const CallOptions &options = {}) {
    const mlxrt_input view = prefix.view();
    return score_after(&view, target, options);
  }
  /* The same with nothing between the session and target. */
  std::vector<float> score(const Input &target, const CallOptions &options = {}) {
    return score_after(nullptr, target, options);
  }
  /* The keys that a layer's attention looks at, [kv_heads, tokens, head_dim]. */
  Tensor inspect_attention(std::uint32_t layer) const {
    return detail::tensor_of([&](mlxrt_tensor *out) { return mlxrt_inspect_attention(get(), layer, out); });
  }

 private:
  std::vector<float> score_after(const mlxrt_input *prefix, const Input &target, const CallOptions &options) {
    const mlxrt_input target_view = target.view();
    detail::ProgressCall progress(options.progress);
    mlxrt_call_options view = detail::view_of(options);
    view.progress = progress.fn();
    view.progress_data = &progress;
    float *logprobs = nullptr;
    std::size_t count = 0;
    mlxrt_error *failed = mlxrt_score(get(), prefix, &target_view, &view, &logprobs, &count);
    const detail::Buffer<float> owner(logprobs);
    progress.finish(failed);
    return {logprobs, logprobs + count};
  }
  void apply_all(const Scaled *adapters, std::size_t count) {
    const detail::AdapterList list(adapters, count);
    detail::check(mlxrt_apply_adapter(get(), list.handles.data(), list.scales.data(), count));
  }
  static mlxrt_session *create(Model &model, const SessionOptions &options) {
    const mlxrt_session_options view = detail::view_of(options);
    mlxrt_session *made = nullptr;
    detail::check(mlxrt_session_create(model.get(), &view, &made));
    return made;
  }
};

/* ---- The library ---- */

inline std::uint32_t abi_version() noexcept { return mlxrt_abi_version(); }
inline const char *version() noexcept { return mlxrt_version(); }
/* The functions as a table; NULL when the library is older than that. */
inline const mlxrt_api *api(std::uint32_t abi = MLXRT_ABI) noexcept { return mlxrt_get_api(abi); }

/* Drops one init. */
inline void shutdown(milliseconds timeout = forever, bool force = false) {
  detail::check(mlxrt_shutdown(force ? MLXRT_SHUTDOWN_FORCE : 0, detail::wait_of(timeout)));
}

inline void init(const InitOptions &options = {}) {
  auto view = detail::sized<mlxrt_init_options>();
  view.device = static_cast<std::int32_t>(options.device);
  view.cpu_threads = options.cpu_threads;
  view.resource_dir = options.resource_dir ? options.resource_dir->c_str() : nullptr;
  view.memory_limit = detail::bytes_of(options.memory_limit);
  view.cache_limit = detail::bytes_of(options.cache_limit);
  view.wired_limit = detail::bytes_of(options.wired_limit);
  detail::check(mlxrt_init(&view));
}

/* One init, and its shutdown at the end of the scope. Optional, as loading a model starts the engine. */
class Engine {
 public:
  explicit Engine(const InitOptions &options = {}) { init(options); }
  Engine(const Engine &) = delete;
  Engine &operator=(const Engine &) = delete;
  ~Engine() { mlxrt_error_free(mlxrt_shutdown(0, MLXRT_FOREVER)); }
};

/* Keeps the library off the device until as many resume(). */
inline void suspend(milliseconds timeout = forever) { detail::check(mlxrt_suspend(detail::wait_of(timeout))); }
inline void resume() { detail::check(mlxrt_resume()); }

/* Keeps the library off the device as long as this lives. */
class Suspension {
 public:
  explicit Suspension(milliseconds timeout = forever) { suspend(timeout); }
  Suspension(const Suspension &) = delete;
  Suspension &operator=(const Suspension &) = delete;
  ~Suspension() { mlxrt_error_free(mlxrt_resume()); }
};

/* The device that the engine runs on, as JSON. */
inline std::string device_info() {
  return detail::text_of([](char **json, std::size_t *len) { return mlxrt_device_info(json, len); });
}

enum class log_level : std::int32_t {
  error = MLXRT_LOG_ERROR,
  warn = MLXRT_LOG_WARN,
  info = MLXRT_LOG_INFO,
  debug = MLXRT_LOG_DEBUG
};
using Log = std::function<void(log_level level, std::string_view line)>;

/* Sends the log of the whole process to fn, on any thread; an empty one is silence. What fn throws is dropped. */
inline void set_log(log_level level, Log fn) {
  struct Holder {
    std::mutex mutex;
    std::unique_ptr<Log> log;
  };
  /* Never destroyed: the library may log until the process has ended. */
  static auto &holder = *new Holder;
  auto next = fn ? std::make_unique<Log>(std::move(fn)) : nullptr;
  const std::lock_guard<std::mutex> lock(holder.mutex);
  const mlxrt_log_fn run = [](void *data, std::int32_t at, const char *line, std::size_t len) noexcept {
    try {
      (*static_cast<Log *>(data))(static_cast<log_level>(at), {line, len});
    } catch (...) {
    }
  };
  detail::check(mlxrt_log_set(static_cast<std::int32_t>(level), next ? run : nullptr, next.get()));
  holder.log = std::move(next);
}

inline Memory memory() {
  auto out = detail::sized<Memory>();
  detail::check(mlxrt_memory_get(&out));
  return out;
}
inline void set_memory(const MemoryLimits &limits) {
  auto view = detail::sized<mlxrt_memory_limits>();
  view.memory_limit = detail::bytes_of(limits.memory_limit);
  view.cache_limit = detail::bytes_of(limits.cache_limit);
  view.wired_limit = detail::bytes_of(limits.wired_limit);
  detail::check(mlxrt_memory_set(&view));
}
/* 0: buffers kept for reuse; 1: also kept prefixes; 2: also the keys and values of idle sessions. */
inline void trim_memory(std::int32_t level = 0) { detail::check(mlxrt_memory_trim(level)); }

/* Counters of the whole process. */
inline Metrics metrics() {
  auto out = detail::sized<Metrics>();
  detail::check(mlxrt_metrics(nullptr, &out));
  return out;
}

}  // namespace mlxrt

#endif
