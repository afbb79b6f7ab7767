// A program that uses MLX itself, through its C++ interface, and opens mlxrt as a plugin. A process has one libmlx, the
// first that was loaded: here the program's own copy. Of the same version it serves both; of another version mlxrt says
// so and computes nothing.
//
//   host LIBRARY MODEL works|refuses
#include <mlx/mlx.h>

#include <dlfcn.h>
#include <mlxrt.h>

#include <fstream>
#include <iostream>
#include <set>
#include <string>
#include <thread>

namespace mx = mlx::core;

namespace {

int failures = 0;

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      failures++;                                                                  \
      std::cout << "  " << __FILE__ << ':' << __LINE__ << ": " #condition << "\n"; \
    }                                                                              \
  } while (0)

// On a stream of this thread's own.
void host_computes() {
  mx::array numbers = mx::arange(1000.0, mx::float32);
  CHECK(mx::sum(numbers).item<float>() == 499500.0f);
  mx::array ones = mx::ones({64, 64});
  CHECK(mx::max(mx::matmul(ones, ones)).item<float>() == 64.0f);
  // The host's errors stay C++ exceptions of its own.
  bool thrown = false;
  try {
    mx::eval(mx::matmul(ones, mx::ones({3, 3})));
  } catch (const std::exception &) {
    thrown = true;
  }
  CHECK(thrown);
}

std::set<std::string> mapped(const std::string &name) {
  std::set<std::string> files;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto slash = line.find('/');
    if (slash != std::string::npos && line.find("/" + name) != std::string::npos) files.insert(line.substr(slash));
  }
  return files;
}

std::int32_t collect(void *text, const mlxrt_event *event) {
  static_cast<std::string *>(text)->append(event->text, event->text_len);
  return MLXRT_RETURN_CONTINUE;
}

std::string generate(const mlxrt_api *api, mlxrt_model *model) {
  std::string text;
  mlxrt_session *session = nullptr;
  mlxrt_input input{};
  mlxrt_generate_options options{};
  input.struct_size = sizeof input;
  input.text = "Once upon a time";
  input.text_len = MLXRT_NTS;
  options.struct_size = sizeof options;
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  options.max_tokens = 60;
  CHECK(api->mlxrt_session_create(model, nullptr, &session) == nullptr);
  CHECK(api->mlxrt_generate(session, &input, &options, collect, &text, nullptr) == nullptr);
  api->mlxrt_session_free(session);
  return text;
}

void works(const mlxrt_api *api, const char *folder) {
  mlxrt_model *model = nullptr;
  mlxrt_error *error = api->mlxrt_model_load(folder, nullptr, &model);
  if (error) std::cout << "  " << api->mlxrt_error_message(error) << "\n";
  CHECK(error == nullptr);
  if (error) return;
  const std::string alone = generate(api, model);
  CHECK(!alone.empty());
  // Both at once, the host on several threads.
  for (int round = 0; round < 3; round++) {
    std::thread first([] { for (int i = 0; i < 20; i++) host_computes(); });
    std::thread second([] { for (int i = 0; i < 20; i++) host_computes(); });
    CHECK(generate(api, model) == alone);
    first.join();
    second.join();
  }
  api->mlxrt_model_free(model);
}

void refuses(const mlxrt_api *api, const char *folder) {
  mlxrt_model *model = nullptr;
  mlxrt_error *failed[] = {api->mlxrt_init(nullptr), api->mlxrt_model_load(folder, nullptr, &model)};
  for (mlxrt_error *error : failed) {
    CHECK(api->mlxrt_error_code(error) == MLXRT_E_INCOMPATIBLE);
    const std::string message = api->mlxrt_error_message(error);
    CHECK(message.find(mx::version()) != std::string::npos);
    std::cout << "  another version: " << message << "\n";
    api->mlxrt_error_free(error);
  }
  CHECK(model == nullptr);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  host_computes();
  const auto own = mapped("libmlx.so");
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) std::cout << "  " << dlerror() << "\n";
  CHECK(library != nullptr);
  if (!library) return 1;
  using get_api_fn = const mlxrt_api *(*)(std::uint32_t);
  const mlxrt_api *api = reinterpret_cast<get_api_fn>(dlsym(library, "mlxrt_get_api"))(1);
  CHECK(mapped("libmlx.so") == own && own.size() == 1);
  host_computes();
  if (std::string(argv[3]) == "works") {
    works(api, argv[2]);
  } else {
    refuses(api, argv[2]);
  }
  host_computes();
  api->mlxrt_error_free(api->mlxrt_shutdown(0, MLXRT_FOREVER));
  dlclose(library);
  host_computes();
  std::cout << "a host with its own MLX " << mx::version() << ": " << (failures ? "FAILED" : "ok") << "\n";
  return failures ? 1 : 0;
}
