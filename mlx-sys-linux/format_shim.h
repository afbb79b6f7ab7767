// mlx-c uses std::format with plain "{}" only; GCC 12 has no <format>. Force-included, a no-op where it exists.
#pragma once
#if defined(__cplusplus) && !__has_include(<format>)
#include <sstream>
#include <string>
#include <string_view>
namespace std {
template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  auto next = [&](const auto& arg) {
    size_t hole = pattern.find("{}");
    out << pattern.substr(0, hole) << arg;
    pattern.remove_prefix(hole == string_view::npos ? pattern.size() : hole + 2);
  };
  (next(args), ...);
  out << pattern;
  return out.str();
}
} // namespace std
#endif
