// A conversation at the terminal: type, read, type again; an empty line or Ctrl-D ends it. A second argument is the only
// question.
//
//   chat MODEL_FOLDER [QUESTION]
#include <iostream>
#include <mlxrt.hpp>
#include <string>
#include <vector>

int main(int argc, char **argv) try {
  mlxrt::Model model(argc > 1 ? argv[1] : "demo/model");
  mlxrt::Session session(model);
  std::vector<mlxrt::Message> history;
  mlxrt::GenerateOptions options;
  options.max_tokens = 300;

  std::string question = argc > 2 ? argv[2] : "";
  while (!question.empty() || (argc < 3 && (std::cout << "> " << std::flush) && std::getline(std::cin, question) &&
                               !question.empty())) {
    history.push_back({"user", question});
    std::string answer;
    // The whole history each time: what the session already holds of it is not computed again.
    const mlxrt::Result result = session.generate(mlxrt::chat(history), options, [&](std::string_view text) {
      answer += text;
      std::cout << text << std::flush;
    });
    std::cout << "\n[" << result.cached_tokens << " of " << result.prompt_tokens << " tokens known, "
              << result.tokens_per_second() << " tokens a second]\n";
    history.push_back({"assistant", answer});
    question.clear();
  }
} catch (const mlxrt::error &error) {
  std::cerr << error.name() << ": " << error.what() << "\n";
  return 1;
}
