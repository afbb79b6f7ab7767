// The C++ wrapper, as a program would use it: ownership, errors, callbacks that throw, threads, options.
#include "check.hpp"

#include <cmath>
#include <fstream>
#include <thread>

using mlxrt::code;

static_assert(!std::is_copy_constructible_v<mlxrt::Model> && std::is_nothrow_move_constructible_v<mlxrt::Model>);
static_assert(!std::is_copy_constructible_v<mlxrt::Session> && std::is_nothrow_move_assignable_v<mlxrt::Session>);
static_assert(!std::is_copy_constructible_v<mlxrt::Request> && std::is_nothrow_move_assignable_v<mlxrt::Request>);
static_assert(!std::is_copy_constructible_v<mlxrt::Adapter> && std::is_nothrow_move_constructible_v<mlxrt::Adapter>);
static_assert(!std::is_copy_constructible_v<mlxrt::OwnedEvent> && std::is_move_constructible_v<mlxrt::OwnedEvent>);

namespace {

mlxrt::GenerateOptions greedy(std::uint32_t max_tokens) {
  mlxrt::GenerateOptions options;
  options.temperature = 0.0f;
  options.max_tokens = max_tokens;
  options.ignore_eos = true;
  return options;
}

std::string greedy_text(mlxrt::Session &session, std::uint32_t max_tokens) {
  return session.generate(mlxrt::text("Once upon"), greedy(max_tokens)).text;
}

// A folder of the fixture's whose context is not full before a test is over, however fast the machine is: with `never`,
// requests on it go on until they are ended.
struct Endless : Folder {
  Endless() {
    std::filesystem::copy(fixture("llama-f32"), path, std::filesystem::copy_options::recursive);
    std::ifstream in(path + "/config.json");
    std::string config((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    const std::string_view old = "\"max_position_embeddings\": 4096";
    config.replace(config.find(old), old.size(), "\"max_position_embeddings\": 1048576");
    in.close();
    std::ofstream(path + "/config.json") << config;
  }
};
constexpr std::uint32_t never = 1 << 20;

void errors_have_code_name_and_sentence() {
  try {
    mlxrt::Model model("/nowhere/at/all");
    CHECK(!"loaded what is not there");
  } catch (const mlxrt::error &error) {
    CHECK(error.code() == code::not_found);
    CHECK(error.name() == std::string_view("NOT_FOUND"));
    CHECK(std::string_view(error.what()).find("/nowhere/at/all") != std::string_view::npos);
  }
  // Every code of the header has its enumerator, and the library knows its name.
#define CODE(NAME, lower, value)                 \
  CHECK(static_cast<int>(code::lower) == value); \
  CHECK(mlxrt::name(code::lower) == std::string_view(NAME));
#include "codes.h"
  CHECK(mlxrt::name(static_cast<code>(12345)) == std::string_view("UNKNOWN"));
}

void handles_move_and_close() {
  mlxrt::Model model(fixture("llama-f32"));
  CHECK(static_cast<bool>(model));
  mlxrt::Session session(model);
  const std::string expected = greedy_text(session, 8);

  mlxrt::Session moved(std::move(session));
  CHECK(!session);
  CHECK(static_cast<bool>(moved));
  FAILS(session.state(), code::invalid_handle);
  FAILS(session.generate(mlxrt::text("Hello")), code::invalid_handle);
  FAILS(session.submit(mlxrt::text("Hello")), code::invalid_handle);
  FAILS(session.apply(), code::invalid_handle);
  FAILS(session.tokens(), code::invalid_handle);
  FAILS(session.message(), code::invalid_handle);
  session.cancel();

  // Assignment frees what was there.
  mlxrt::Session other(model);
  mlxrt_session *freed = other.get();
  other = std::move(moved);
  mlxrt_session_state state{};
  state.struct_size = sizeof state;
  mlxrt_error *error = mlxrt_session_info(freed, &state);
  CHECK(mlxrt_error_code(error) == MLXRT_E_INVALID_HANDLE);
  mlxrt_error_free(error);
  other = std::move(*&other);
  CHECK(static_cast<bool>(other));

  // The model may go first; twice closed is closed.
  model.close();
  model.close();
  FAILS(model.info(), code::invalid_handle);
  FAILS(model.tokenize("x"), code::invalid_handle);
  FAILS(model.metrics(), code::invalid_handle);
  FAILS(mlxrt::Session(model), code::invalid_handle);
  CHECK(other.state().tokens > 0);
  other.close();
  FAILS(other.state(), code::invalid_handle);

  // A handle that was given away is the caller's.
  mlxrt::Model again(fixture("llama-f32"));
  mlxrt_model *raw = again.release();
  FAILS(again.info(), code::invalid_handle);
  mlxrt::Model taken(raw);
  mlxrt::Session last(taken);
  CHECK(greedy_text(last, 8) == expected);
}

void links_are_followed_if_the_host_says_so() {
  Folder folder;
  for (const auto &file : std::filesystem::directory_iterator(fixture("llama-f32"))) {
    const auto target = std::filesystem::canonical(file.path());
    std::filesystem::create_symlink(target, std::filesystem::path(folder.path) / file.path().filename());
  }
  FAILS(mlxrt::Model(folder.path), code::bad_model);
  FAILS(mlxrt::Model::inspect(folder.path), code::bad_model);
  mlxrt::LoadOptions load;
  load.follow_links = true;
  CHECK(mlxrt::Model::inspect(folder.path, load).find("\"model_type\"") != std::string::npos);
  mlxrt::Model model(folder.path, load);
  mlxrt::Session session(model);
  CHECK(greedy_text(session, 5).size() > 0);
}

void texts_and_tokens() {
  const std::string inspected = mlxrt::Model::inspect(fixture("llama-f32"));
  CHECK(inspected.find("\"model_type\"") != std::string::npos);
  mlxrt::Model model(fixture("llama-f32"));
  CHECK(model.info().find("llama") != std::string::npos);
  const auto ids = model.tokenize("Hello world");
  CHECK(!ids.empty());
  CHECK(model.detokenize(ids) == "Hello world");
  CHECK(model.tokenize("").empty());
  CHECK(model.tokenize(std::string_view()).empty());
  CHECK(model.detokenize({}).empty());
  FAILS(model.detokenize({1 << 30}), code::invalid_argument);
  const auto prompt = model.render(mlxrt::chat({{"user", "Say \"hi\"\n\x01 \\ ok"}}));
  CHECK(prompt.find("Say \"hi\"\n\x01 \\ ok") != std::string::npos);
  FAILS(model.render(mlxrt::messages("[{\"role\":1}]")), code::invalid_argument);
  const auto counted = mlxrt::chat({{"user", "Hi <|im_end|>"}});
  CHECK(model.count_tokens(counted) == model.prompt_tokens(counted).size());
  CHECK(model.count_tokens(mlxrt::text("abc")) >= 3);
  FAILS(model.count_tokens(mlxrt::messages("[{\"role\":1}]")), code::invalid_argument);
  CHECK(mlxrt::json_string("a\"\\\n\x1f") == "\"a\\\"\\\\\\u000a\\u001f\"");
  CHECK(mlxrt::version() == std::string_view(VERSION));
  CHECK(mlxrt::abi_version() == MLXRT_ABI);
  CHECK(mlxrt::api() && mlxrt::api()->abi == MLXRT_ABI);
  CHECK(!mlxrt::api(MLXRT_ABI + 1));
}

void events_stream() {
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Session session(model);
  auto options = greedy(12);
  options.top_logprobs = 3;
  options.progress_tokens = 1;
  std::string text;
  std::size_t tokens = 0, progress = 0;
  const auto thread = std::this_thread::get_id();
  const mlxrt::Result result = session.generate(mlxrt::text("Once upon a time"), options, [&](const mlxrt::Event &event) {
    CHECK(std::this_thread::get_id() == thread);
    if (event.kind() == mlxrt::event_kind::progress) {
      progress++;
      CHECK(event.done() <= event.total());
      return;
    }
    text += event.text();
    tokens += event.tokens().size();
    CHECK(event.logprobs().size() == event.tokens().size());
    CHECK(event.top_count() == 3);
    CHECK(event.top_tokens().size() == 3 * event.tokens().size());
    for (std::size_t i = 0; i < event.tokens().size(); i++) {
      // Greedy takes the likeliest.
      CHECK(event.top_tokens()[3 * i] == event.tokens()[i]);
      CHECK(event.logprobs()[i] <= 0);
      CHECK(event.top_logprobs()[3 * i] == event.logprobs()[i]);
    }
  });
  CHECK(progress > 0);
  CHECK(tokens == 12 && result.generated_tokens == 12);
  CHECK(result.reason() == mlxrt::stop_reason::length);
  CHECK(result.tokens_per_second() > 0);
  CHECK(session.tokens().size() == result.prompt_tokens + 12);

  // As text only, and as a whole: the same.
  mlxrt::Session second(model), third(model);
  std::string pieces;
  second.generate(mlxrt::text("Once upon a time"), greedy(12), [&](std::string_view piece) { pieces += piece; });
  CHECK(pieces == text);
  CHECK(third.generate(mlxrt::text("Once upon a time"), greedy(12)).text == text);
  CHECK(!third.message().empty());

  // false stops, and is a result.
  int events = 0;
  const auto stopped = third.generate(mlxrt::text(" and"), greedy(50), [&](const mlxrt::Event &) { return ++events < 3; });
  CHECK(stopped.reason() == mlxrt::stop_reason::callback);
  CHECK(events == 3);
}

void options_mean_what_they_say() {
  mlxrt::Model model(fixture("llama-f32"));
  const auto run = [&](const mlxrt::GenerateOptions &options) {
    mlxrt::Session session(model);
    return session.generate(mlxrt::text("Once upon"), options);
  };
  const std::string greedily = run(greedy(10)).text;
  auto nothing = greedy(0);
  CHECK(run(nothing).result.generated_tokens == 0);
  for (const std::int32_t priority : {std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()}) {
    auto first = greedy(10);
    first.priority = priority;
    CHECK(run(first).text == greedily);
  }

  // 0 in C++ is off, or the strictest: each of these leaves only the likeliest token, or changes nothing.
  mlxrt::GenerateOptions sampled;
  sampled.max_tokens = 10;
  sampled.ignore_eos = sampled.no_model_defaults = true;
  sampled.temperature = 1.0f;
  sampled.seed = 0;
  const mlxrt::Answer zero = run(sampled);
  CHECK(run(sampled).text == zero.text);
  auto off = sampled;
  off.top_k = 0;
  off.min_p = 0.0f;
  off.xtc_probability = 0.0f;
  off.repetition_penalty = 0.0f;
  CHECK(run(off).text == zero.text);
  auto windowless = sampled;
  windowless.repetition_penalty = 5.0f;
  windowless.presence_penalty = 2;
  CHECK(run(windowless).text != zero.text);
  windowless.penalty_window = 0;
  CHECK(run(windowless).text == zero.text);
  auto narrow = sampled;
  narrow.top_p = 0.0f;
  CHECK(run(narrow).text == greedily);

  auto late = greedy(never);
  late.timeout = mlxrt::milliseconds(0);
  CHECK(run(late).result.reason() == mlxrt::stop_reason::timeout);

  // Stop strings and biases go over as they are.
  auto stop = greedy(10);
  stop.stop = {greedily.substr(greedily.size() / 2, 3)};
  const mlxrt::Answer cut = run(stop);
  CHECK(cut.result.reason() == mlxrt::stop_reason::string);
  CHECK(cut.text == greedily.substr(0, greedily.find(stop.stop[0])));
  auto biased = greedy(10);
  mlxrt::Session session(model);
  std::vector<std::int32_t> first;
  session.generate(mlxrt::text("Once upon"), greedy(1), [&](const mlxrt::Event &event) {
    first.insert(first.end(), event.tokens().begin(), event.tokens().end());
  });
  CHECK(first.size() == 1);
  biased.bias = {{first.at(0), -INFINITY}};
  bool banned = true;
  mlxrt::Session other(model);
  other.generate(mlxrt::text("Once upon"), biased, [&](const mlxrt::Event &event) {
    for (auto token : event.tokens()) banned = banned && token != first.at(0);
  });
  CHECK(banned);

  auto wrong = greedy(5);
  wrong.temperature = -1.0f;
  FAILS(run(wrong), code::invalid_argument);
  mlxrt::Input none;
  FAILS(session.generate(none), code::invalid_argument);
  FAILS(session.generate(mlxrt::tokens({-5}), greedy(3)), code::invalid_argument);
}

// A 0 that is set turns off what the model's generation_config.json asks for; what is not set leaves it on.
void zero_is_not_the_default() {
  Folder folder;
  std::filesystem::copy(fixture("llama-f32"), folder.path, std::filesystem::copy_options::recursive);
  const auto run = [&](const std::string &config, const mlxrt::GenerateOptions &options) {
    std::ofstream(folder.path + "/generation_config.json") << config;
    mlxrt::Model model(folder.path);
    mlxrt::Session session(model);
    return session.generate(mlxrt::text("Once upon"), options).text;
  };
  mlxrt::GenerateOptions options;
  options.max_tokens = 10;
  options.ignore_eos = true;
  options.seed = 7;
  const std::string sampled = run(R"({"do_sample":true,"temperature":1.0})", options);
  const std::string greedily = run(R"({"do_sample":true,"temperature":1.0,"top_k":1})", options);
  CHECK(greedily == run("{}", greedy(10)));
  CHECK(sampled != greedily);
  auto off = options;
  off.top_k = 0;
  CHECK(run(R"({"do_sample":true,"temperature":1.0,"top_k":1})", off) == sampled);
  off = options;
  off.min_p = 0.0f;
  CHECK(run(R"({"do_sample":true,"temperature":1.0,"min_p":1.0})", options) == greedily);
  CHECK(run(R"({"do_sample":true,"temperature":1.0,"min_p":1.0})", off) == sampled);
  off = options;
  off.repetition_penalty = 0.0f;
  CHECK(run(R"({"do_sample":true,"temperature":1.0,"repetition_penalty":9.0})", options) != sampled);
  CHECK(run(R"({"do_sample":true,"temperature":1.0,"repetition_penalty":9.0})", off) == sampled);
  off = options;
  off.temperature = 0.0f;
  CHECK(run(R"({"do_sample":true,"temperature":1.0})", off) == greedily);
}

struct Thrown : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void callbacks_may_throw() {
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Session session(model);
  int events = 0;
  bool caught = false;
  try {
    session.generate(mlxrt::text("Once upon"), greedy(200), [&](const mlxrt::Event &) {
      if (++events == 2) throw Thrown("from the callback");
    });
  } catch (const Thrown &thrown) {
    caught = thrown.what() == std::string_view("from the callback");
  }
  CHECK(caught && events == 2);
  // The session goes on.
  CHECK(session.state().busy == 0);
  CHECK(greedy_text(session, 5).size() > 0);

  // Not only std::exception, also from text callbacks.
  caught = false;
  try {
    session.generate(mlxrt::text(" and"), greedy(50), [](std::string_view) { throw 42; });
  } catch (int value) {
    caught = value == 42;
  }
  CHECK(caught);

  // A blocking call inside a callback is refused, and that error comes through as any other.
  FAILS(session.generate(mlxrt::text(" and"), greedy(50), [&](const mlxrt::Event &) { session.generate(mlxrt::text("x")); }),
        code::reentrant);

  // Progress of a load.
  mlxrt::LoadOptions load;
  load.progress = [](std::uint64_t, std::uint64_t) -> bool { throw Thrown("from progress"); };
  caught = false;
  try {
    mlxrt::Model other(fixture("llama-f32"), load);
  } catch (const Thrown &) {
    caught = true;
  }
  CHECK(caught);
  load.progress = [](std::uint64_t, std::uint64_t) { return false; };
  FAILS(mlxrt::Model(fixture("llama-f32"), load), code::cancelled);
  std::uint64_t done = 0, total = 1;
  load.progress = [&](std::uint64_t d, std::uint64_t t) { return done = d, total = t, true; };
  mlxrt::Model other(fixture("llama-f32"), load);
  CHECK(done == total && total > 0);
  CHECK(greedy_text(session, 5).size() > 0);
}

void cancel_and_close_from_another_thread() {
  Endless folder;
  mlxrt::Model model(folder.path);
  mlxrt::Session session(model);
  std::atomic<bool> started{false};
  std::thread canceller([&] {
    while (!started) std::this_thread::yield();
    session.cancel();
  });
  auto result = session.generate(mlxrt::text("Once upon"), greedy(never), [&](const mlxrt::Event &) { started = true; });
  canceller.join();
  CHECK(result.reason() == mlxrt::stop_reason::cancelled);
  CHECK(result.generated_tokens < never);
  CHECK(greedy_text(session, 5).size() > 0);

  started = false;
  std::thread closer([&] {
    while (!started) std::this_thread::yield();
    session.close();
  });
  result = session.generate(mlxrt::text(" and"), greedy(never), [&](const mlxrt::Event &) { started = true; });
  closer.join();
  CHECK(result.reason() == mlxrt::stop_reason::cancelled);
  FAILS(session.state(), code::invalid_handle);
}

void requests_are_pulled() {
  Endless folder;
  mlxrt::Model model(folder.path);
  mlxrt::Session plain(model), session(model);
  const std::string expected = greedy_text(plain, 12);
  std::atomic<int> notified{0};
  auto options = greedy(12);
  options.notify = [&] { notified++; };
  mlxrt::Request request = session.submit(mlxrt::text("Once upon"), options);
  // The handle's closure moves with it.
  mlxrt::Request moved = std::move(request);
  FAILS(request.next(), code::invalid_handle);
  std::string text;
  for (const mlxrt::Event &event : moved) text += event.text();
  CHECK(text == expected);
  CHECK(notified > 0);
  CHECK(moved.result().generated_tokens == 12);
  CHECK(!moved.next());
  std::optional<mlxrt::OwnedEvent> event;
  CHECK(moved.poll(event) == mlxrt::next_state::done);

  // Events outlive their request.
  auto kept = session.submit(mlxrt::text(" and"), greedy(3));
  auto first = kept.next();
  kept.close();
  CHECK(first && first->tokens().size() > 0);
  FAILS(kept.result(), code::invalid_handle);

  auto cancelled = session.submit(mlxrt::text(" and"), greedy(never));
  FAILS(cancelled.result(mlxrt::no_wait), code::timeout);
  cancelled.cancel();
  CHECK(cancelled.result().reason() == mlxrt::stop_reason::cancelled);

  // What notify throws comes out of the next call; the request goes on.
  options = greedy(4);
  options.notify = [] { throw Thrown("from notify"); };
  auto throwing = session.submit(mlxrt::text(" and"), options);
  bool caught = false;
  for (int i = 0; i < 1000 && !caught; i++) {
    try {
      throwing.poll(event, mlxrt::milliseconds(5));
    } catch (const Thrown &) {
      caught = true;
    }
  }
  CHECK(caught);
  moved = std::move(throwing);
  moved.close();
}

void adapters_are_swapped() {
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Session session(model);
  const auto ask = [&] { return session.generate(mlxrt::messages(R"([{"role":"user","content":"Hello"}])"), greedy(8)).text; };
  const std::string plain = ask();
  mlxrt::Adapter adapter(model, fixture("mlx-lora-llama", "adapters"));
  CHECK(adapter.info().find("\"lora\"") != std::string::npos);
  session.apply(adapter);
  CHECK(session.state().adapters == 1);
  const std::string adapted = ask();
  CHECK(adapted != plain);
  session.apply(adapter, 0);
  CHECK(ask() == plain);
  session.apply({{adapter, 1}});
  CHECK(ask() == adapted);
  session.apply();
  CHECK(ask() == plain);

  // A new one changes nothing, until it is set.
  mlxrt::AdapterOptions options;
  options.rank = 2;
  options.keys = {"v_proj"};
  mlxrt::Adapter made(model, options);
  session.apply(made);
  CHECK(ask() == plain);
  const std::string b = "model.layers.0.self_attn.v_proj.lora_b";
  mlxrt::Tensor tensor = made.tensor(b);
  CHECK(tensor.shape.size() == 2 && tensor.shape[0] == 2);
  CHECK(tensor.data.size() == tensor.shape[0] * tensor.shape[1]);
  for (std::size_t i = 0; i < tensor.data.size(); i++) tensor.data[i] = static_cast<float>(i % 7) - 3;
  made.set_tensor(b, tensor);
  const std::string changed = ask();
  CHECK(changed != plain);
  CHECK(made.tensor(b).data == tensor.data);
  FAILS(made.tensor("no.such"), code::not_found);
  tensor.data.pop_back();
  FAILS(made.set_tensor(b, tensor), code::invalid_argument);
  tensor.shape.assign(9, 1);
  FAILS(made.set_tensor(b, tensor), code::invalid_argument);

  Folder folder;
  made.save(folder.path);
  mlxrt::Adapter loaded(model, folder.path);
  session.apply({{loaded}});
  CHECK(ask() == changed);
  FAILS(mlxrt::Adapter(model, "/nowhere"), code::not_found);
  made.close();
  FAILS(session.apply(made), code::invalid_handle);
}

void models_are_saved() {
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Adapter adapter(model, fixture("mlx-lora-llama", "adapters"));
  const auto ask = [](mlxrt::Model &of, const std::vector<mlxrt::Scaled> &adapters = {}) {
    mlxrt::Session session(of);
    session.apply(adapters);
    return session.generate(mlxrt::messages(R"([{"role":"user","content":"Hello"}])"), greedy(8)).text;
  };
  const auto saved = [&](const std::string &path) {
    mlxrt::Model loaded(path);
    return ask(loaded);
  };
  Folder folder;
  std::uint64_t done = 0, total = 0;
  mlxrt::CallOptions options;
  options.timeout = std::chrono::minutes(5);
  options.progress = [&](std::uint64_t d, std::uint64_t t) { return done = d, total = t, true; };

  model.save(folder.path + "/plain", options);
  CHECK(done == total && total > 0);
  CHECK(saved(folder.path + "/plain") == ask(model));
  model.save(folder.path + "/one", adapter, options);
  CHECK(saved(folder.path + "/one") == ask(model, {{adapter}}));
  CHECK(ask(model, {{adapter}}) != ask(model));

  // Several, each at a scale. The first of these cannot be left out or taken at another scale unnoticed.
  mlxrt::Adapter made(model);
  const std::string b = "model.layers.0.self_attn.v_proj.lora_b";
  mlxrt::Tensor tensor = made.tensor(b);
  for (std::size_t i = 0; i < tensor.data.size(); i++) tensor.data[i] = static_cast<float>(i % 7) - 3;
  made.set_tensor(b, tensor);
  const std::string both = ask(model, {{adapter, 0.5f}, {made, -0.75f}});
  CHECK(both != ask(model, {{made, -0.75f}}) && both != ask(model, {{adapter, 0.5f}, {made}}));
  model.save(folder.path + "/both", {{adapter, 0.5f}, {made, -0.75f}});
  CHECK(saved(folder.path + "/both") == both);
  // Over what is there, out of a list that was made at run time.
  const std::vector<mlxrt::Scaled> list{{made, -0.75f}};
  model.save(folder.path + "/both", list, options);
  CHECK(saved(folder.path + "/both") == ask(model, list));
  // None in braces is none.
  model.save(folder.path + "/both", {});
  CHECK(saved(folder.path + "/both") == ask(model));

  FAILS(model.save(folder.path + "/bad", {{adapter}, {adapter}}), code::invalid_argument);
  FAILS(model.save(folder.path + "/bad", {{adapter, INFINITY}}), code::invalid_argument);
  FAILS(model.save("", adapter), code::invalid_argument);
  options.progress = [](std::uint64_t, std::uint64_t) { return false; };
  FAILS(model.save(folder.path + "/bad", adapter, options), code::cancelled);
  options.progress = [](std::uint64_t, std::uint64_t) -> bool { throw Thrown("from progress"); };
  bool caught = false;
  try {
    model.save(folder.path + "/bad", options);
  } catch (const Thrown &) {
    caught = true;
  }
  CHECK(caught);
  CHECK(!std::filesystem::exists(folder.path + "/bad"));
  made.close();
  FAILS(model.save(folder.path + "/bad", made), code::invalid_handle);
  model.close();
  FAILS(model.save(folder.path + "/bad"), code::invalid_handle);
}

void adapters_are_trained() {
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Adapter adapter(model);
  mlxrt::TrainOptions options;
  options.train = "{\"text\":\"Once upon a time there was a fox.\"}\n{\"text\":\"The fox was quick.\"}\n";
  options.steps = 6;
  options.batch_size = 2;
  options.report_every = 2;
  options.learning_rate = 1e-3f;
  options.weight_decay = 0.0f;
  int events = 0;
  double first = 0, last = 0;
  mlxrt::train(model, adapter, options, [&](const mlxrt::TrainEvent &event) {
    if (!events++) first = event.loss;
    last = event.loss;
  });
  CHECK(events >= 3);
  CHECK(last < first);
  bool caught = false;
  try {
    mlxrt::train(model, adapter, options, [](const mlxrt::TrainEvent &) { throw Thrown("enough"); });
  } catch (const Thrown &) {
    caught = true;
  }
  CHECK(caught);
  mlxrt::train(model, adapter, options, [](const mlxrt::TrainEvent &) { return false; });
  options.train = "no json";
  FAILS(mlxrt::train(model, adapter, options), code::invalid_argument);
}

void the_library() {
  mlxrt::Engine engine;
  CHECK(mlxrt::device_info().find("\"device\"") != std::string::npos);
  mlxrt::InitOptions options;
  options.memory_limit = mlxrt::unlimited;
  mlxrt::init(options);
  mlxrt::shutdown();

  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Session session(model);
  CHECK(mlxrt::memory().weight_bytes > 0);
  greedy_text(session, 3);
  CHECK(model.metrics().requests_completed == 1);
  CHECK(mlxrt::metrics().requests_completed >= 1);
  CHECK(model.metrics().requests_waiting == 0 && model.metrics().queue_ns > 0);
  CHECK(model.metrics().passes > 0 && model.metrics().pass_rows >= model.metrics().passes);
  {
    mlxrt::Suspension suspension;
    FAILS(mlxrt::Model(fixture("llama-f32")), code::suspended);
    FAILS(session.generate(mlxrt::text(" and"), greedy(3)), code::suspended);
  }
  mlxrt::suspend();
  mlxrt::resume();
  FAILS(mlxrt::resume(), code::invalid_argument);
  greedy_text(session, 3);
  // 0 is none, and not the default.
  mlxrt::MemoryLimits limits;
  limits.memory_limit = 0;
  mlxrt::set_memory(limits);
  FAILS(mlxrt::Model(fixture("llama-f32")), code::out_of_memory);
  limits.memory_limit = mlxrt::unlimited;
  mlxrt::set_memory(limits);
  mlxrt::trim_memory(2);
  CHECK(session.state().kv_bytes == 0);
  FAILS(mlxrt::trim_memory(9), code::unsupported);

  std::mutex mutex;
  std::string lines;
  mlxrt::set_log(mlxrt::log_level::error, [&](mlxrt::log_level, std::string_view line) {
    const std::lock_guard<std::mutex> lock(mutex);
    lines += line;
    throw Thrown("dropped");
  });
  mlxrt_session_free(reinterpret_cast<mlxrt_session *>(model.get()));
  mlxrt::set_log(mlxrt::log_level::error, nullptr);
  CHECK(!lines.empty());
}

// A session goes on from a file as it would have gone on, in another model handle; what is damaged is refused.
void sessions_are_saved_and_loaded() {
  Folder folder;
  const std::string path = folder.path + "/session";
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Session session(model);
  session.generate(mlxrt::tokens({5, 6, 7, 8, 9}), greedy(6));
  std::uint64_t done = 0, total = 0;
  mlxrt::CallOptions options;
  options.progress = [&](std::uint64_t d, std::uint64_t t) { return done = d, total = t, true; };
  session.save(path, options);
  CHECK(done == total && total > 0);
  const auto held = session.tokens();
  const std::string message = session.message();
  const mlxrt::Answer wanted = session.generate(mlxrt::tokens({20}), greedy(6));
  mlxrt::Model elsewhere(fixture("llama-f32"));
  mlxrt::Session loaded = mlxrt::Session::load(elsewhere, path, options);
  CHECK(loaded.tokens() == held && loaded.message() == message);
  const mlxrt::Answer answer = loaded.generate(mlxrt::tokens({20}), greedy(6));
  CHECK(answer.text == wanted.text && answer.result.cached_tokens == wanted.result.cached_tokens);

  options.progress = [](std::uint64_t, std::uint64_t) { return false; };
  FAILS(session.save(path, options), code::cancelled);
  FAILS(mlxrt::Session::load(elsewhere, path, options), code::cancelled);
  FAILS(mlxrt::Session::load(elsewhere, path + "-none"), code::not_found);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  FAILS(mlxrt::Session::load(elsewhere, path), code::bad_model);
  auto running = loaded.submit(mlxrt::tokens({5}), greedy(2000));
  FAILS(loaded.save(path), code::busy);
  running.cancel();
  running.result();
  session.close();
  FAILS(session.save(path), code::invalid_handle);
}

// What a request said of its own tokens is what a score says of them.
void scores_and_keys() {
  mlxrt::Model model(fixture("qwen3-f32"));
  mlxrt::Session session(model), other(model);
  auto options = greedy(12);
  options.logprobs = true;
  std::vector<std::int32_t> said;
  std::vector<float> logprobs;
  const mlxrt::Input prompt = mlxrt::tokens({5, 6, 7, 8, 9, 10});
  other.generate(prompt, options, [&](const mlxrt::Event &event) {
    for (const std::int32_t token : event.tokens()) said.push_back(token);
    for (const float logprob : event.logprobs()) logprobs.push_back(logprob);
  });
  const mlxrt::Input target = mlxrt::tokens(said);
  const auto same = [&](const std::vector<float> &scored) {
    CHECK(scored.size() == 12 && logprobs.size() == 12);
    for (std::size_t i = 0; i < scored.size() && i < logprobs.size(); i++) {
      CHECK(std::abs(scored[i] - logprobs[i]) < 1e-4f);
    }
  };
  mlxrt::CallOptions call;
  std::uint64_t done = 0;
  call.progress = [&](std::uint64_t now, std::uint64_t total) {
    CHECK(now <= total && total == 17);
    done = now;
    return true;
  };
  same(session.score(prompt, target, call));
  CHECK(done == 17);
  options = {};
  options.max_tokens = 0;
  session.generate(prompt, options);
  same(session.score(target));
  CHECK(session.tokens().size() == 6);
  call.progress = [](std::uint64_t, std::uint64_t) -> bool { throw Thrown("enough"); };
  bool caught = false;
  try {
    session.score(target, call);
  } catch (const Thrown &) {
    caught = true;
  }
  CHECK(caught);
  FAILS(session.score(mlxrt::text("")), code::invalid_argument);

  const mlxrt::Tensor keys = session.inspect_attention(1);
  CHECK(keys.shape == (std::vector<std::uint64_t>{1, 6, 16}) && keys.data.size() == 6 * 16);
  FAILS(session.inspect_attention(2), code::invalid_argument);
  FAILS(mlxrt::Session(model).inspect_attention(0), code::not_found);
}

// A fork goes its own way, a cut session goes on from what is left, and both answer as a fresh session would.
void sessions_are_forked_and_cut() {
  Endless folder;
  mlxrt::Model model(folder.path);
  const auto fresh = [&](const std::vector<std::int32_t> &prompt) {
    mlxrt::Session alone(model);
    auto options = greedy(6);
    options.no_prefix_cache = true;
    const mlxrt::Answer answer = alone.generate(mlxrt::tokens(prompt), options);
    CHECK(answer.result.cached_tokens == 0);
    return answer.text;
  };
  const auto with = [](std::vector<std::int32_t> tokens, std::int32_t last) { return tokens.push_back(last), tokens; };
  mlxrt::Session session(model, [] {
    mlxrt::SessionOptions options;
    options.context = 4000;
    return options;
  }());
  session.generate(mlxrt::tokens({5, 6, 7, 8, 9, 10, 11, 12, 13, 14}), greedy(6));
  const auto held = session.tokens();
  mlxrt::Session fork = session.fork();
  CHECK(fork.tokens() == held && fork.message() == session.message() && fork.state().context == 4000);
  const mlxrt::Answer one = session.generate(mlxrt::tokens({20}), greedy(6));
  const mlxrt::Answer other = fork.generate(mlxrt::tokens({30}), greedy(6));
  CHECK(one.text == fresh(with(held, 20)) && other.text == fresh(with(held, 30)));
  CHECK(other.result.cached_tokens + 2 == other.result.prompt_tokens);

  FAILS(fork.truncate(held.size() + 8), code::invalid_argument);
  fork.truncate(12);
  const std::vector<std::int32_t> front(held.begin(), held.begin() + 12);
  CHECK(fork.tokens() == front);
  FAILS(fork.message(), code::not_found);
  // Either may go first.
  session.close();
  const mlxrt::Answer third = fork.generate(mlxrt::tokens({30}), greedy(6));
  CHECK(third.text == fresh(with(front, 30)) && third.result.cached_tokens == 12);
  mlxrt::Session again = fork.fork();
  fork.truncate(0);
  CHECK(fork.tokens().empty() && again.tokens().size() == 19);

  auto running = again.submit(mlxrt::tokens({5}), greedy(never));
  FAILS(again.fork(), code::busy);
  FAILS(again.truncate(1), code::busy);
  running.cancel();
  running.result();
  FAILS(session.fork(), code::invalid_handle);
  FAILS(session.truncate(0), code::invalid_handle);
}

void texts_become_rows() {
  mlxrt::Model model(fixture("../embeddings/bert"));
  mlxrt::EmbedOptions options;
  std::uint64_t told = 0;
  options.progress = [&](std::uint64_t done, std::uint64_t) {
    told = done;
    return true;
  };
  const mlxrt::Tensor rows = model.embed({"the rain in the other town", "", "no"}, options);
  CHECK(rows.shape == std::vector<std::uint64_t>({3, 36}) && rows.data.size() == 3 * 36 && told > 0);
  options.pooling = MLXRT_POOLING_CLS;
  options.normalize = true;
  const mlxrt::Tensor first = model.embed({"no"}, options);
  CHECK(first.data != std::vector<float>(rows.data.end() - 36, rows.data.end()));
  FAILS(model.embed({}), code::invalid_argument);
  FAILS(mlxrt::Session(model), code::unsupported);
  options.progress = [](std::uint64_t, std::uint64_t) { return false; };
  FAILS(model.embed({"no"}, options), code::cancelled);
}

// What another session of the model has computed of a prompt is not computed again, unless that is asked for.
void prompts_are_shared() {
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Session first(model), second(model), third(model);
  const auto ask = [](mlxrt::Session &of, bool anew) {
    auto options = greedy(6);
    options.no_prefix_cache = anew;
    return of.generate(mlxrt::tokens({5, 6, 7, 8, 9, 10, 11, 12, 13, 14}), options);
  };
  ask(first, false);
  const mlxrt::Answer shared = ask(second, false), anew = ask(third, true);
  CHECK(shared.result.cached_tokens == 9 && anew.result.cached_tokens == 0);
  CHECK(shared.text == anew.text);
}

// Keys and values in fewer bits.
void keys_are_packed() {
  mlxrt::Model model(fixture("qwen3-4bit"));
  const auto held = [&](std::uint32_t bits, std::uint32_t group) {
    mlxrt::SessionOptions options;
    options.kv_bits = bits;
    options.kv_group_size = group;
    mlxrt::Session session(model, options);
    return session.generate(mlxrt::tokens({5, 6, 7}), greedy(3)).result.kv_bytes;
  };
  // In f32: of 32 numbers 128 bytes, or 32 and two scales.
  CHECK(held(8, 32) * 128 == held(0, 0) * 40);
  FAILS(held(3, 0), code::invalid_argument);
  FAILS(held(8, 64), code::incompatible);
}

void answers_follow_grammars() {
  mlxrt::Model model(fixture("qwen3-f32"));
  mlxrt::Session session(model);
  mlxrt::Grammar grammar(model, mlxrt::grammar_kind::json_schema, R"({"enum":["yes","no"]})");
  auto options = greedy(20);
  options.ignore_eos = false;
  options.grammar = &grammar;
  const mlxrt::Answer answer = session.generate(mlxrt::text("Yes or no?"), options);
  CHECK(answer.text == "\"yes\"" || answer.text == "\"no\"");
  CHECK(answer.result.reason() == mlxrt::stop_reason::grammar);
  FAILS(mlxrt::Grammar(model, mlxrt::grammar_kind::json_schema, R"({"not":{}})"), code::bad_grammar);
  FAILS(mlxrt::Grammar(model, mlxrt::grammar_kind::regex, "("), code::bad_grammar);
  mlxrt::Grammar json(model, mlxrt::grammar_kind::json);
  mlxrt::Grammar moved(std::move(grammar));
  CHECK(!grammar && moved && json);
  mlxrt::Model other(fixture("llama-f32"));
  mlxrt::Session stranger(other);
  options.grammar = &moved;
  FAILS(stranger.generate(mlxrt::text("Yes or no?"), options), code::incompatible);
}

void sessions_on_threads() {
  mlxrt::Model model(fixture("llama-f32"));
  mlxrt::Session alone(model);
  const std::string expected = greedy_text(alone, 10);
  std::vector<std::thread> threads;
  std::atomic<int> same{0};
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&] {
      mlxrt::Session session(model);
      same += greedy_text(session, 10) == expected;
    });
  }
  for (auto &thread : threads) thread.join();
  CHECK(same == 4);
}

// A model that thinks, calls a tool, and says something about what that gave.
void thinking_and_calls_are_told_apart() {
  mlxrt::Model model(fixture("script", "."));
  mlxrt::Session session(model);
  const mlxrt::Input ask = mlxrt::messages(R"([{"role":"user","content":"How warm is it in Oslo?"}])",
                                           R"([{"type":"function","function":{"name":"weather"}}])");
  const mlxrt::Answer answer = session.generate(ask);
  CHECK(answer.thinking == "Let me look it up.");
  CHECK(answer.text == "I ask:");
  CHECK(answer.tool_calls.size() == 1);
  CHECK(answer.tool_calls.at(0).find(R"("name":"weather","arguments":{"city":"Oslo"}})") != std::string::npos);
  CHECK(answer.result.reason() == mlxrt::stop_reason::tool_call);
  CHECK(answer.result.thinking_tokens == 6);
  CHECK(session.message().find(R"("reasoning_content":"Let me look it up.")") != std::string::npos);
  mlxrt::GenerateOptions options;
  options.thinking_budget = 2;
  const mlxrt::Answer cut = session.generate(ask, options);
  CHECK(cut.thinking == "Let me" && cut.result.thinking_tokens == 2);
  options.thinking_budget = 0;
  CHECK(session.generate(ask, options).thinking.empty());
}

void calls_are_chosen_bound_and_told() {
  mlxrt::Model model(fixture("script", "."));
  mlxrt::Session session(model);
  mlxrt::Input ask = mlxrt::messages(
      R"([{"role":"user","content":"How warm is it in Oslo?"}])",
      R"([{"name":"weather","parameters":{"type":"object","required":["city"],"properties":{"city":{"const":"Bergen"}}}}])");
  mlxrt::GenerateOptions options;
  options.strict_tools = options.tool_deltas = true;
  std::string deltas;
  std::string text, call;
  session.generate(ask, options, [&](const mlxrt::Event &event) {
    if (event.kind() == mlxrt::event_kind::text) text += event.text();
    if (event.kind() == mlxrt::event_kind::tool_call) call += event.text();
    if (event.kind() == mlxrt::event_kind::tool_delta) deltas += event.text();
    return true;
  });
  CHECK(text == "I ask:");
  CHECK(call.find(R"("arguments":{"city":"Bergen"}})") != std::string::npos);
  CHECK(deltas.find(R"({"index":0,"id":")") == 0);
  ask.tool_choice = R"("required")";
  CHECK(session.generate(ask).text.empty());
  ask.tool_choice = R"({"name":"clock"})";
  FAILS(session.generate(ask), code::invalid_argument);
}

}  // namespace

int main(int argc, char **argv) {
  return run_tests(
      {
          {"errors_have_code_name_and_sentence", errors_have_code_name_and_sentence},
          {"handles_move_and_close", handles_move_and_close},
          {"links_are_followed_if_the_host_says_so", links_are_followed_if_the_host_says_so},
          {"texts_and_tokens", texts_and_tokens},
          {"events_stream", events_stream},
          {"options_mean_what_they_say", options_mean_what_they_say},
          {"zero_is_not_the_default", zero_is_not_the_default},
          {"callbacks_may_throw", callbacks_may_throw},
          {"cancel_and_close_from_another_thread", cancel_and_close_from_another_thread},
          {"requests_are_pulled", requests_are_pulled},
          {"adapters_are_swapped", adapters_are_swapped},
          {"models_are_saved", models_are_saved},
          {"adapters_are_trained", adapters_are_trained},
          {"the_library", the_library},
          {"sessions_are_saved_and_loaded", sessions_are_saved_and_loaded},
          {"sessions_are_forked_and_cut", sessions_are_forked_and_cut},
          {"scores_and_keys", scores_and_keys},
          {"prompts_are_shared", prompts_are_shared},
          {"keys_are_packed", keys_are_packed},
          {"answers_follow_grammars", answers_follow_grammars},
          {"texts_become_rows", texts_become_rows},
          {"sessions_on_threads", sessions_on_threads},
          {"thinking_and_calls_are_told_apart", thinking_and_calls_are_told_apart},
          {"calls_are_chosen_bound_and_told", calls_are_chosen_bound_and_told},
      },
      argc, argv);
}
