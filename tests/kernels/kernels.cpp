// The kernels of src/mlx/gpu/kernels on a processor (host.h), each against plain loops in double.

#include "host.h"

#include "numbers.cu"
#include "packed.cu"
#include "embed.cu"
#include "product.cu"
#include "lows.cu"
#include "norms.cu"
#include "experts.cu"
#include "heads.cu"
#include "attention.cu"
#include "draw.cu"

#include <algorithm>
#include <random>
#include <string>

static int failures = 0, checks = 0;
static std::string what;

static void check(bool holds, const std::string& text) {
  checks++;
  if (holds) return;
  if (failures++ < 20) printf("%s: %s\n", what.c_str(), text.c_str());
}

static void near(double found, double wanted, double within, const std::string& text) {
  // (NaN is near nothing.)
  check(std::abs(found - wanted) <= within, text + " is " + std::to_string(found) + " where " + std::to_string(wanted) + " is right");
}

static std::mt19937 random_bits(7);
static double uniform() { return random_bits() / 4294967296.0; }
static float normal() { return (float)std::sqrt(-2 * std::log(uniform() + 1e-9)) * (float)std::cos(6.283185307 * uniform()); }

template <typename T>
std::vector<u16> some(size_t n, float size = 1.f) {
  std::vector<u16> all(n);
  for (u16& x : all) x = T::round(size * normal());
  return all;
}
template <typename T>
constexpr double ulp() { return std::is_same<T, Bf16>::value ? 1.0 / 128 : 1.0 / 1024; }

template <int BITS>
constexpr u32 order_of() { return width_of(BITS); }

// A weight [out, in], and what it means.
template <typename T, int BITS, int GROUP>
struct Matrix {
  u32 out, in;
  std::vector<u32> words;
  std::vector<u16> scales, biases, bias;
  std::vector<unsigned char> powers;
  std::vector<double> numbers;

  Matrix(u32 out, u32 in, bool has_bias = false) : out(out), in(in), numbers((size_t)out * in) {
    constexpr u32 WIDTH = width_of(BITS), PER = 32 / WIDTH;
    static const double E2M1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    words.resize((size_t)out * in / PER);
    for (u32& word : words) word = random_bits();
    if (BITS < 16) scales = some<T>((size_t)out * in / GROUP, 0.02f), biases = some<T>(scales.size(), 0.1f);
    if (BITS == MXFP4)
      for (size_t i = 0; i < (size_t)out * in / GROUP; i++) powers.push_back(118 + random_bits() % 10);
    if (has_bias) bias = some<T>(out);
    for (size_t at = 0; at < numbers.size(); at++) {
      if (BITS == 16) {
        const u16 bits = T::round(0.1f * normal());
        words[at / 2] = at % 2 ? (words[at / 2] & 0xffff) | (u32)bits << 16 : (words[at / 2] & 0xffff0000) | bits;
        numbers[at] = T::load(bits);
        continue;
      }
      const u32 q = words[at / PER] >> (at % PER * WIDTH) & ((1u << WIDTH) - 1);
      const size_t group = at / in * (in / GROUP) + at % in / GROUP;
      if (BITS == MXFP4)
        numbers[at] = (q & 8 ? -1 : 1) * E2M1[q & 7] * std::ldexp(1.0, powers[group] - 127);
      else
        numbers[at] = (double)T::load(scales[group]) * q + T::load(biases[group]);
    }
  }

  Weight weight(u32 number = 0, u32 first = 0) const {
    const void* all_scales = BITS == MXFP4 ? (const void*)powers.data() : scales.data();
    return {words.data(), all_scales, biases.data(), bias.empty() ? nullptr : bias.data(), out, first, number, 0, out};
  }
  // With the size of what is summed.
  std::pair<double, double> by(const std::vector<double>& x, u32 o, size_t first_row = 0) const {
    double sum = bias.empty() ? 0 : T::load(bias[first_row + o]), size = std::abs(sum);
    for (u32 i = 0; i < in; i++) {
      const double one = numbers[(first_row + o) * in + i] * x[i];
      sum += one;
      size += std::abs(one);
    }
    return {sum, size};
  }
};

// Rows that a product takes.
template <typename T, int BITS>
struct Input {
  u32 rows, width;
  std::vector<u16> placed;
  std::vector<float> sums, squares;
  std::vector<std::vector<double>> x;
  static constexpr float EPS = 1e-5f;

  Input(u32 rows, u32 width, bool normed) : rows(rows), width(width), placed(rows * width), sums(rows * width / TILE), x(rows) {
    for (u32 row = 0; row < rows; row++)
      for (u32 i = 0; i < width; i++) {
        const u16 bits = T::round(normal());
        placed[row * width + place_of(i, order_of<BITS>())] = bits;
        sums[(row * width + i) / TILE] += T::load(bits);
        x[row].push_back(T::load(bits));
      }
    if (!normed) return;
    for (size_t i = 0; i < sums.size(); i++) squares.push_back(1.f + (float)uniform() * 16);
    for (u32 row = 0; row < rows; row++) {
      double sum = 0;
      for (u32 i = 0; i < width / TILE; i++) sum += squares[row * width / TILE + i];
      for (double& one : x[row]) one /= std::sqrt(sum / width + EPS);
    }
  }
  Of of(u32 split) const {
    return {placed.data(), sums.data(), squares.empty() ? nullptr : squares.data(), EPS, rows, width, split, 0, 1, nullptr, nullptr, 1};
  }
};

static dim3 blocks_of(u32 tiles, u32 warps) { return {(tiles + WARPS / warps - 1) / (WARPS / warps), 1, 1}; }

template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
void launch_project(Of of, Weight a, Weight b, Weight c, u32 width, float* y, u32 split) {
  const u32 tiles = (a.out + TILE - 1) / TILE + (b.out + TILE - 1) / TILE + (c.out + TILE - 1) / TILE;
  host::launch(blocks_of(tiles, split), 32 * WARPS, [&] { project<T, BITS, GROUP, INPUTS, AHEAD>(of, a, b, c, width, y); });
}

template <typename T>
struct To {
  u32 rows, width;
  std::vector<float> h, before, sums, squares;
  std::vector<u16> normed, norm;
  u32 order;
  To(u32 rows, u32 width, u32 order)
      : rows(rows), width(width), h(rows * width), sums(rows * width / TILE, NAN), squares(sums), normed(rows * width, 0x7fff),
        norm(some<T>(width)), order(order) {
    for (float& x : h) x = normal();
    before = h;
  }
  Residual residual() { return {h.data(), normed.data(), sums.data(), squares.data(), norm.data(), 0.5f, order}; }
  // What comes along with h is that of h.
  void check_rest() {
    for (u32 row = 0; row < rows; row++)
      for (u32 tile = 0; tile < width / TILE; tile++) {
        double sum = 0, square = 0;
        for (u32 i = tile * TILE; i < (tile + 1) * TILE; i++) {
          const float x = h[row * width + i];
          const u16 own = normed[row * width + place_of(i, order)];
          check(own == T::round(x * T::load(norm[i])), "normed");
          sum += T::load(own);
          square += x * x;
        }
        near(sums[row * width / TILE + tile], sum, 1e-4 * (1 + std::abs(sum)), "a sum");
        near(squares[row * width / TILE + tile], square, 1e-4 * square, "a square");
      }
  }
};

template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
void products(const char* name) {
  for (u32 rows : {1u, 3u, 8u})
    for (u32 split : {1u, 2u, 4u}) {
      what = std::string(name) + ", " + std::to_string(rows) + " rows, split " + std::to_string(split);
      const u32 in = 2 * INPUTS * AHEAD;
      Input<T, BITS> input(rows, in, true);
      {
        Matrix<T, BITS, GROUP> a(40, in, true), b(16, in), c(32, in);
        const u32 width = 88;
        std::vector<float> y(rows * width, NAN);
        launch_project<T, BITS, GROUP, INPUTS, AHEAD>(input.of(split), a.weight(), b.weight(1, 40), c.weight(2, 56), width, y.data(), split);
        for (u32 row = 0; row < rows; row++)
          for (u32 o = 0; o < width; o++) {
            const auto [right, size] = o < 40 ? a.by(input.x[row], o) : o < 56 ? b.by(input.x[row], o - 40) : c.by(input.x[row], o - 56);
            near(y[row * width + o], right, 1e-4 * size + 1e-5, "a projection");
          }
      }
      Input<T, BITS> plain(rows, in, false);
      {
        Matrix<T, BITS, GROUP> weight(48, in, true);
        To<T> to(rows, 48, 8);
        host::launch(blocks_of(3, split), 32 * WARPS, [&] { residual<T, BITS, GROUP, INPUTS, AHEAD>(plain.of(split), weight.weight(), to.residual()); });
        for (u32 row = 0; row < rows; row++)
          for (u32 o = 0; o < 48; o++) {
            const auto [right, size] = weight.by(plain.x[row], o);
            near(to.h[row * 48 + o], to.before[row * 48 + o] + 0.5 * right, 1e-4 * size + 1e-5, "a residual");
          }
        to.check_rest();
      }
    }
  // An MLP's, and the output layer.
  what = std::string(name) + ", gated";
  const u32 in = 2 * INPUTS * AHEAD, rows = 5, out = 48;
  Input<T, BITS> input(rows, in, true);
  Matrix<T, BITS, GROUP> gate(out, in, true), up(out, in, true);
  std::vector<u16> y(rows * out);
  std::vector<float> sums(rows * out / TILE);
  const Inner inner = {y.data(), sums.data(), nullptr, 4, 1.702f, 7.f};
  host::launch(blocks_of(3, 4), 32 * WARPS, [&] { gated<T, BITS, GROUP, INPUTS, AHEAD, 3>(input.of(2), gate.weight(), up.weight(1), inner); });
  for (u32 row = 0; row < rows; row++)
    for (u32 o = 0; o < out; o++) {
      const double g = std::min(gate.by(input.x[row], o).first, 7.0), u = std::clamp(up.by(input.x[row], o).first, -7.0, 7.0);
      const double right = (u + 1) * g / (1 + std::exp(-1.702 * g));
      near(T::load(y[row * out + place_of(o, 4)]), right, ulp<T>() * std::abs(right) + 2e-3, "what is gated");
    }
  what = std::string(name) + ", head";
  std::vector<u16> logits(rows * 40);
  std::vector<Largest> largest(rows * 3);
  std::vector<u32> best(rows);
  std::vector<float> levels(2 * rows);
  Inputs inputs = {};
  inputs.logits = logits.data();
  for (u32 row = 0; row < rows; row++) inputs.best[row] = &best[row], inputs.levels[row] = &levels[2 * row];
  Matrix<T, BITS, GROUP> last(40, in);
  host::launch(blocks_of(3, 2), 32 * WARPS, [&] { head<T, BITS, GROUP, INPUTS, AHEAD>(input.of(2), last.weight(), &inputs, largest.data()); });
  host::launch({rows, 1, 1}, 256, [&] { pick(&inputs, largest.data(), 3); });
  for (u32 row = 0; row < rows; row++) {
    float most = -INFINITY;
    u32 first = 0;
    for (u32 o = 0; o < 40; o++) {
      const auto [right, size] = last.by(input.x[row], o);
      const float logit = T::load(logits[row * 40 + o]);
      near(logit, right, ulp<T>() * std::abs(right) + 1e-4 * size, "a logit");
      if (logit > most) most = logit, first = o;
    }
    check(best[row] == first && levels[2 * row] == most && levels[2 * row + 1] == most, "the largest logit");
  }
}

// Experts: the choice, what is gated, and what comes together.
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD, int ROUTER>
void experts(const char* name, u32 count, u32 top_k, u32 score, bool normalise) {
  what = std::string(name) + ", score " + std::to_string(score);
  const u32 rows = 3, in = 2 * INPUTS * AHEAD, inner = 2 * INPUTS * AHEAD;
  Input<T, BITS> input(rows, in, true);
  Matrix<T, ROUTER, 64> router(count, in, true), own_gate(1, in);
  std::vector<float> wanted(count), logits(rows * (count + 1)), weights(rows * top_k), shared(rows);
  for (float& x : wanted) x = 0.1f * normal();
  std::vector<u32> counts(rows), chosen(rows * top_k);
  const Choice how = {score == 2 ? wanted.data() : nullptr, count, top_k, score, normalise, 1.5f};
  const Chosen to = {chosen.data(), weights.data(), shared.data(), top_k};
  host::launch({(count + 1 + WARPS - 1) / WARPS, rows, 1}, 32 * WARPS, [&] {
    route<T, ROUTER, order_of<BITS>()>(input.of(1), 64, router.weight(), own_gate.weight(), how, logits.data(), counts.data(), to);
  });
  for (u32 row = 0; row < rows; row++) {
    std::vector<double> scores(count);
    double sum = 0, most = -INFINITY;
    for (u32 e = 0; e < count; e++) most = std::max(most, scores[e] = router.by(input.x[row], e).first);
    for (double& x : scores) sum += score == 0 ? x = std::exp(x - most) : 0;
    for (double& x : scores) x = score == 0 ? x / sum : score == 2 ? 1 / (1 + std::exp(-x)) : x;
    std::vector<u32> order(count);
    for (u32 e = 0; e < count; e++) order[e] = e;
    auto rank = [&](u32 e) { return scores[e] + (score == 2 ? wanted[e] : 0); };
    std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) { return rank(a) > rank(b); });
    double total = 0;
    for (u32 k = 0; k < top_k; k++) total += score == 1 ? std::exp(scores[order[k]]) : scores[order[k]];
    for (u32 k = 0; k < top_k; k++) {
      check(chosen[row * top_k + k] == order[k], "an expert");
      const double one = score == 1 ? std::exp(scores[order[k]]) / total : scores[order[k]] / (normalise ? total : 1);
      near(weights[row * top_k + k], 1.5 * one, 1e-4, "an expert's weight");
    }
    near(shared[row], 1 / (1 + std::exp(-own_gate.by(input.x[row], 0).first)), 1e-4, "the shared expert's weight");
    check(counts[row] == 0, "a count is left");
  }
  Matrix<T, BITS, GROUP> gate(count * inner, in, true), up(count * inner, in, true), down(count * 32, inner, true);
  auto of_one = [&](Matrix<T, BITS, GROUP>& all, u32 out) {
    Weight weight = all.weight();
    weight.out = out;
    return weight;
  };
  std::vector<u16> y(rows * top_k * inner);
  std::vector<float> sums(y.size() / TILE);
  const Inner between = {y.data(), sums.data(), nullptr, order_of<BITS>(), 0.f, 0.f};
  const u32 tiles = inner / TILE;
  host::launch({(tiles + 1) / 2, top_k, rows}, 32 * WARPS, [&] {
    gated_experts<T, BITS, GROUP, INPUTS, AHEAD, 0>(input.of(2), of_one(gate, inner), of_one(up, inner), to, between);
  });
  To<T> all(rows, 32, 8);
  Of of = input.of(2);
  of.x = y.data(), of.sums = sums.data(), of.squares = nullptr, of.inputs = inner;
  host::launch({2, rows, 1}, 32 * WARPS, [&] { combine<T, BITS, GROUP, INPUTS, AHEAD>(of, of_one(down, 32), to, all.residual()); });
  for (u32 row = 0; row < rows; row++) {
    std::vector<double> right(32), size(32);
    for (u32 k = 0; k < top_k; k++) {
      const u32 pair = row * top_k + k, expert = chosen[pair];
      std::vector<double> middle(inner);
      for (u32 i = 0; i < inner; i++) {
        const double g = gate.by(input.x[row], i, (size_t)expert * inner).first, u = up.by(input.x[row], i, (size_t)expert * inner).first;
        const double exact = weights[pair] * u * g / (1 + std::exp(-g));
        middle[i] = T::load(y[pair * inner + place_of(i, order_of<BITS>())]);
        near(middle[i], exact, ulp<T>() * std::abs(exact) + 2e-3, "what an expert gates");
      }
      for (u32 o = 0; o < 32; o++) {
        auto [sum, whole] = down.by(middle, o, (size_t)expert * 32);
        // Its bias counts as much as it does.
        const double bias = T::load(down.bias[(size_t)expert * 32 + o]);
        right[o] += sum - bias + weights[pair] * bias;
        size[o] += whole;
      }
    }
    for (u32 o = 0; o < 32; o++) near(all.h[row * 32 + o], all.before[row * 32 + o] + 0.5 * right[o], 1e-4 * size[o] + 1e-5, "experts together");
  }
  all.check_rest();
}

// Adapters beside a product of two weights: another one for each row, and none.
template <typename T>
void adapters() {
  what = "adapters";
  const u32 rows = 4, in = 2048 + 256, ranks[] = {8, 64, 0, 16};
  Input<T, 4> input(rows, in, true);
  Matrix<T, 4, 64> a(32, in), b(16, in);
  const Matrix<T, 4, 64>* weights[] = {&a, &b};
  std::vector<std::vector<u16>> kept;
  std::vector<std::vector<Low>> tables(rows, std::vector<Low>(2, Low{nullptr, nullptr, 0.f, 0}));
  Inputs inputs = {};
  kept.reserve(2 * 2 * rows);
  for (u32 row = 0; row < rows; row++) {
    for (u32 number = 0; number < 2 && ranks[row] > 0; number++) {
      kept.push_back(some<T>(in * ranks[row], 0.1f));
      kept.push_back(some<T>(ranks[row] * weights[number]->out, 0.1f));
      tables[row][number] = {kept[kept.size() - 2].data(), kept.back().data(), 0.5f, ranks[row]};
    }
    inputs.lows[row] = row == 2 ? nullptr : tables[row].data();
  }
  const u32 parts = (in + LOW_PART - 1) / LOW_PART;
  std::vector<float> lows(MAX_ROWS * 2 * parts * MAX_RANK, NAN), y(rows * 48, NAN);
  Of of = input.of(2);
  of.numbers = 2, of.adapted = &inputs, of.lows = lows.data(), of.parts = parts;
  host::launch({parts, 2, rows}, 256, [&] { low<T>(of, 4, lows.data()); });
  launch_project<T, 4, 64, 128, 2>(of, a.weight(), b.weight(1, 32), Weight{}, 48, y.data(), 2);
  for (u32 row = 0; row < rows; row++)
    for (u32 o = 0; o < 48; o++) {
      const u32 number = o >= 32, own = o - 32 * number, out = weights[number]->out;
      auto [right, size] = weights[number]->by(input.x[row], own);
      const Low& low = tables[row][number];
      for (u32 r = 0; r < low.rank; r++) {
        double sum = 0;
        for (u32 i = 0; i < in; i++) sum += input.x[row][i] * T::load(low.a[(size_t)i * low.rank + r]);
        right += 0.5 * sum * T::load(low.b[(size_t)r * out + own]);
      }
      near(y[row * 48 + o], right, 1e-4 * size + 1e-3, "a projection with an adapter");
    }
}

// Sessions: how many tokens are there, rows of this step, and whether the cache is a ring that has turned.
struct Session {
  u32 before, rows;
  bool ring;
};

template <typename T, int DIM, int GROUP>
void attends(u32 heads, u32 kv_heads, u32 turned, bool traditional, bool norms, float softcap, bool has_sinks, std::vector<Session> sessions, u32 parts_at_most) {
  what = "attention of " + std::to_string(DIM) + ", " + std::to_string(heads) + " heads on " + std::to_string(kv_heads);
  const u32 capacity = 400, all = heads + 2 * kv_heads, per = heads / kv_heads;
  u32 rows = 0;
  std::vector<std::vector<u16>> keys, values;
  std::vector<Place> places;
  std::vector<u32> of_row;
  for (u32 s = 0; s < sessions.size(); s++) {
    keys.push_back(some<T>(kv_heads * capacity * DIM)), values.push_back(some<T>(kv_heads * capacity * DIM));
    for (u32 i = 0; i < sessions[s].rows; i++) {
      const u32 at = sessions[s].before + i;
      places.push_back({nullptr, nullptr, (u64)capacity * DIM, sessions[s].ring ? at % 300 : at, sessions[s].ring ? 300 : at + 1, at, 0});
      of_row.push_back(s);
    }
    rows += sessions[s].rows;
  }
  for (u32 row = 0; row < rows; row++) places[row].keys = keys[of_row[row]].data(), places[row].values = values[of_row[row]].data();
  const auto keys_before = keys, values_before = values;
  std::vector<float> qkv(rows * all * DIM);
  for (float& x : qkv) x = 2 * normal();
  std::vector<double> frequencies(turned / 2);
  for (u32 i = 0; i < frequencies.size(); i++) frequencies[i] = std::pow(10000.0, -2.0 * i / std::max(turned, 1u));
  const auto q_norm = some<T>(DIM), k_norm = some<T>(DIM), sinks = some<T>(heads);
  const HeadsOf of_heads = {heads, kv_heads, turned, traditional, 0.5f, 1.1f, 1e-6f, frequencies.data(), norms ? q_norm.data() : nullptr, norms ? k_norm.data() : nullptr};
  const float scale = 1.f / std::sqrt((float)DIM);
  const AttentionOf of = {parts_at_most, scale, softcap, has_sinks ? sinks.data() : nullptr};
  const u32 groups = kv_heads * ((per + GROUP - 1) / GROUP);
  std::vector<u16> y(rows * heads * DIM, 0x7fff);
  std::vector<float> sums(y.size() / TILE, NAN), found((size_t)rows * heads * parts_at_most * (DIM + 2), NAN);
  std::vector<u32> counts(rows * groups);
  host::launch({parts_at_most, groups, rows}, threads_of<DIM>(), [&] {
    attention<T, DIM, GROUP>(of_heads, of, places.data(), qkv.data(), y.data(), 4, sums.data(), found.data(), counts.data());
  });
  auto made = [&](u32 row, u32 head, const u16* norm, bool turns) {
    std::vector<double> x(DIM);
    double square = 0;
    for (u32 i = 0; i < DIM; i++) square += std::pow(x[i] = qkv[(row * all + head) * DIM + i], 2);
    if (norm)
      for (u32 i = 0; i < DIM; i++) x[i] *= T::load(norm[i]) / std::sqrt(square / DIM + 1e-6);
    for (u32 i = 0; turns && i < turned / 2; i++) {
      const double angle = places[row].position * 0.5 * frequencies[i];
      double &a = x[traditional ? 2 * i : i], &b = x[traditional ? 2 * i + 1 : i + turned / 2];
      const double c = 1.1 * std::cos(angle), s = 1.1 * std::sin(angle), first = a * c - b * s;
      b = a * s + b * c;
      a = first;
    }
    return x;
  };
  // The cache: rows' own places, and nothing else.
  for (u32 s = 0; s < sessions.size(); s++) {
    auto own_keys = keys_before[s], own_values = values_before[s];
    for (u32 row = 0; row < rows; row++) {
      if (of_row[row] != s) continue;
      for (u32 h = 0; h < kv_heads; h++) {
        const auto k = made(row, heads + h, norms ? k_norm.data() : nullptr, true), v = made(row, heads + kv_heads + h, nullptr, false);
        for (u32 i = 0; i < DIM; i++) {
          const size_t at = ((size_t)h * capacity + places[row].at) * DIM + i;
          near(T::load(keys[s][at]), k[i], ulp<T>() * std::abs(k[i]) + 1e-5, "a key");
          near(T::load(values[s][at]), v[i], ulp<T>() * std::abs(v[i]) + 1e-5, "a value");
          own_keys[at] = keys[s][at], own_values[at] = values[s][at];
        }
      }
    }
    check(own_keys == keys[s] && own_values == values[s], "something else in the cache was written");
  }
  for (u32 row = 0; row < rows; row++)
    for (u32 head = 0; head < heads; head++) {
      const auto q = made(row, head, norms ? q_norm.data() : nullptr, true);
      const u16 *k = keys[of_row[row]].data() + head / per * capacity * DIM, *v = values[of_row[row]].data() + head / per * capacity * DIM;
      std::vector<double> scores, right(DIM);
      double most = has_sinks ? T::load(sinks[head]) : -INFINITY;
      for (u32 key = 0; key < places[row].seen; key++) {
        double score = 0;
        for (u32 i = 0; i < DIM; i++) score += q[i] * scale * T::load(k[key * DIM + i]);
        if (softcap > 0) score = softcap * std::tanh(score / softcap);
        scores.push_back(score);
        most = std::max(most, score);
      }
      double sum = has_sinks ? std::exp(T::load(sinks[head]) - most) : 0;
      for (u32 key = 0; key < scores.size(); key++) {
        const double weight = std::exp(scores[key] - most);
        sum += weight;
        for (u32 i = 0; i < DIM; i++) right[i] += weight * T::load(v[key * DIM + i]);
      }
      for (u32 tile = 0; tile < DIM / TILE; tile++) {
        double own = 0;
        for (u32 i = tile * TILE; i < (tile + 1) * TILE; i++) {
          const float x = T::load(y[row * heads * DIM + place_of(head * DIM + i, 4)]);
          near(x, right[i] / sum, ulp<T>() * std::abs(right[i] / sum) + 2e-4, "what a head attends to");
          own += x;
        }
        near(sums[(row * heads + head) * DIM / TILE + tile], own, 1e-4 * (1 + std::abs(own)), "a sum");
      }
    }
  for (u32 count : counts) check(count == 0, "a count is left");
}

template <typename T>
void draws(const char* name) {
  typedef typename RowOf<T>::Number Number;
  for (u32 n : {1u, 7u, 1001u, 5000u})
    for (u32 combination = 0; combination < 64; combination++) {
      auto bit = [&](u32 i) { return combination >> i & 1; };
      what = std::string("draws of ") + name + ", " + std::to_string(n) + ", " + std::to_string(combination);
      std::vector<Number> logits(n);
      // Of one length many are equal.
      const float step = n == 1001 ? 0.5f : 0.f;
      for (Number& x : logits) {
        const float own = 4 * normal();
        x = T::round(bit(5) && uniform() < 0.3 ? -INFINITY : step > 0 ? step * std::round(own / step) : own);
      }
      logits[random_bits() % n] = T::round(9.f);
      u32 token = ~0u;
      float levels[2] = {NAN, NAN};
      const u32 parts = (n + EACH_PART - 1) / EACH_PART;
      DrawState state = {};
      std::vector<u64> masses(BINS), counts(BINS);
      std::vector<Largest> best(parts), own(parts);
      std::vector<float> sums(parts);
      const DrawRoom room = {&state, masses.data(), counts.data(), best.data(), own.data(), sums.data()};
      DrawOf of = {logits.data(), nullptr, n, 0, {(u32)random_bits(), (u32)random_bits()}, bit(0) ? 1.4f : 0.7f,
                         bit(1) ? bit(4) ? 0.5f : 0.95f : 0.f, bit(2) ? std::log(bit(4) ? 0.2f : 0.01f) : 1.f, bit(3) ? bit(4) ? 3u : 40u : 0u, &token, levels};
      const dim3 grid = {parts, 1, 1};
      host::launch(grid, DRAW_THREADS, [&] { measure<T>(of, room); });
      if (of.top_p > 0 || of.top_k > 0) {
        host::launch(grid, DRAW_THREADS, [&] { narrow<T, 0>(of, room); });
        host::launch(grid, DRAW_THREADS, [&] { narrow<T, 1>(of, room); });
        if (RowOf<T>::DIGITS == 3) host::launch(grid, DRAW_THREADS, [&] { narrow<T, RowOf<T>::DIGITS - 1>(of, room); });
      }
      // Token by token, the most likely first.
      std::vector<u32> order(n);
      for (u32 i = 0; i < n; i++) order[i] = i;
      auto logprob = [&](u32 i) { return T::load(T::round(T::load(logits[i]) - state.total)); };
      std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) { return logprob(a) > logprob(b); });
      double all = 0, above = 0;
      for (u32 i = 0; i < n; i++) all += std::exp((double)logprob(i));
      std::vector<u32> kept;
      double before = 0;
      for (u32 k = 0; k < n; k++) {
        const float own = logprob(order[k]);
        // Equals are kept or dropped together by all but top_k.
        if (k == 0 || own < logprob(order[k - 1])) above = before;
        before += std::exp((double)own);
        if (of.top_p > 0 && above >= of.top_p * all) break;
        if (of.min_p <= 0 && own < T::load(T::round(logprob(order[0]) + T::load(T::round(of.min_p))))) break;
        if (of.top_k > 0 && k >= of.top_k) break;
        if (own == -INFINITY) break;
        kept.push_back(order[k]);
      }
      // Which are kept shows in what is drawn, where few are.
      for (u32 seed = 0; seed < (of.top_k == 3 ? 20 : 1); seed++) {
        of.key[1] += seed;
        host::launch(grid, DRAW_THREADS, [&] { draw<T>(of, room); });
        float value = -INFINITY;
        u32 right = ~0u;
        for (u32 i : kept) {
          const float one = logprob(i) * of.sharpness + gumbel(of.key, n, i);
          if (one > value || (one == value && i < right)) value = one, right = i;
        }
        check(token == right, "drew " + std::to_string(token) + " where " + std::to_string(right) + " is right");
      }
      const float most = T::load(*std::max_element(logits.begin(), logits.end(), [](Number a, Number b) { return T::load(a) < T::load(b); }));
      check(levels[0] == most && levels[1] == most, "levels");
      for (u32 i = 0; i < BINS; i++) check(masses[i] == 0 && counts[i] == 0, "a bin is left");
    }
}

// Tokens to rows, one of them nobody's.
template <typename T, int BITS, int GROUP>
void embeds() {
  what = "embed, " + std::to_string(BITS);
  const u32 vocab = 50, width = 128, tokens[] = {3, 49, 1u << 31};
  Matrix<T, BITS, GROUP> weight(vocab, width);
  To<T> to(3, width, 8);
  Inputs inputs = {};
  inputs.tokens = tokens;
  const Weight of = weight.weight();
  host::launch({3, 1, 1}, 256, [&] { embed<T, BITS>(&inputs, (const u32*)of.w, of.scales, of.biases, GROUP, vocab, width, 3.f, to.residual()); });
  for (u32 row = 0; row < 3; row++)
    for (u32 i = 0; i < width; i++) {
      const double right = 3 * weight.numbers[std::min(tokens[row], vocab - 1) * width + i];
      near(to.h[row * width + i], right, 1e-5 * (1 + std::abs(right)), "a number");
    }
  to.check_rest();
}

// Norms of whole rows.
void norms() {
  const u32 rows = 2, width = 320;
  auto by_of = [&](const std::vector<float>& x, u32 row, double eps) {
    double square = 0;
    for (u32 i = 0; i < width; i++) square += std::pow(x[row * width + i], 2);
    return 1 / std::sqrt(square / width + eps);
  };
  what = "normalise";
  To<F16> f16(rows, width, 4);
  host::launch({rows, 1, 1}, 256, [&] { normalise<F16>(width, 0.25f, f16.residual()); });
  check(f16.h == f16.before, "h changed");
  for (u32 row = 0; row < rows; row++)
    for (u32 i = 0; i < width; i++) {
      const double right = f16.h[row * width + i] * by_of(f16.h, row, 0.25) * F16::load(f16.norm[i]);
      near(F16::load(f16.normed[row * width + place_of(i, 4)]), right, ulp<F16>() * std::abs(right) + 1e-6, "a number");
    }
  what = "add_normed";
  To<Bf16> to(rows, width, 16);
  std::vector<float> y(rows * width);
  for (float& x : y) x = normal();
  const auto post = some<Bf16>(width);
  host::launch({rows, 1, 1}, 256, [&] { add_normed<Bf16>(width, 0.25f, post.data(), y.data(), to.residual()); });
  for (u32 row = 0; row < rows; row++)
    for (u32 i = 0; i < width; i++) {
      const u32 at = row * width + i;
      near(to.h[at], to.before[at] + 0.5 * y[at] * by_of(y, row, 0.25) * Bf16::load(post[i]), 1e-5, "a number");
    }
  to.check_rest();
}

int main() {
  embeds<Bf16, 4, 64>();
  embeds<F16, 8, 32>();
  embeds<F16, 16, 1>();
  embeds<Bf16, MXFP4, 32>();
  norms();
  products<Bf16, 4, 64, 128, 2>("4 bits");
  products<F16, 4, 128, 128, 1>("4 bits, groups of 128");
  products<Bf16, 4, 64, 64, 3>("4 bits, odd widths");
  products<Bf16, 8, 64, 64, 2>("8 bits");
  products<Bf16, 16, 1, 32, 4>("bf16");
  products<F16, 16, 1, 32, 2>("f16");
  products<Bf16, MXFP4, 32, 128, 1>("mxfp4");
  products<Bf16, MXFP4, 32, 64, 5>("mxfp4, odd widths");
  experts<Bf16, 4, 64, 128, 1, 8>("experts in 4 bits", 12, 3, 0, true);
  experts<Bf16, MXFP4, 32, 64, 3, 8>("experts in mxfp4", 40, 4, 1, false);
  experts<F16, 16, 1, 32, 4, 16>("experts in f16", 70, 9, 2, true);
  adapters<Bf16>();
  attends<Bf16, 64, 2>(4, 2, 64, false, true, 0, false, {{5, 1, false}, {97, 4, false}, {350, 1, false}}, 8);
  attends<Bf16, 128, 4>(8, 2, 64, true, false, 20, true, {{0, 1, false}, {300, 3, false}, {399, 1, false}}, 5);
  attends<F16, 80, 1>(3, 3, 80, false, false, 0, false, {{161, 2, false}, {159, 1, false}}, 4);
  attends<Bf16, 256, 4>(6, 1, 256, false, true, 0, true, {{700, 1, true}, {60, 2, false}}, 3);
  attends<Bf16, 64, 4>(3, 1, 0, false, false, 0, false, {{330, 2, false}, {305, 1, true}}, 64);
  draws<Bf16>("bf16");
  draws<F16>("f16");
  draws<F32>("f32");
  printf("%d checks, %d failed\n", checks, failures);
  return failures > 0;
}
