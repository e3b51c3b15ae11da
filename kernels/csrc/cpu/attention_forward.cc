// Blocked attention with a running softmax (Milakov and Gimelshein 2018; Dao et al. 2022), queries in the vector lanes.
//
// Scores of 8 keys x 48 queries are made in registers and turned into weights there; nothing of size L x M is ever stored. The running
// maximum is moved only when a score exceeds it by more than 2^kSlack, so that the sums are hardly ever rescaled.
#include <vector>

#include "attention_tile.h"

namespace mix::ISA {
namespace {

constexpr float kSlack = 8.0f;
constexpr int64_t kWave = 4 << 20;  // words of packed keys and values alive at once (16 MiB)

template <bool Pair>
struct Shape {
  explicit Shape(const Attention& a) : depth(words<Pair>(a.dim)), width(round_up(depth, 8)), rows(round_up(a.dim, 8)) {}
  int64_t depth, width, rows;  // words of D, the same padded, D padded
};

// Keys whose weights are gathered before they meet the values: the weights stay in the first-level cache.
template <bool Pair>
constexpr int64_t kGather = Pair ? 128 : 64;

// One block of queries over all keys of its sequence.
template <bool Pair, int N>
class Block {
 public:
  Block(const Attention& a, const Shape<Pair>& shape, float* scratch) : a_(a), shape_(shape) {
    q_ = scratch;
    out_ = q_ + shape.width * kQueries;
    weights_ = out_ + shape.rows * kQueries;
    bias_ = weights_ + (kGather<Pair> + kRows) * kQueries;
    scores_ = bias_ + kRows * kQueries;
    top_ = scores_ + kRows * kQueries;
    sum_ = top_ + kQueries;
    ceiling_ = sum_ + kQueries;
    shift_ = ceiling_ + kQueries;
  }
  static int64_t scratch(const Shape<Pair>& shape) {
    return (shape.width + shape.rows + kGather<Pair> + 3 * kRows + 4) * kQueries;
  }

  void run(const Bias& bias, int64_t query, int64_t keys, const float* panels, const float* columns, int64_t column_depth) {
    std::fill(out_, out_ + shape_.rows * kQueries, 0.0f);
    std::fill(top_, top_ + kQueries, -kInf);
    std::fill(ceiling_, ceiling_ + kQueries, -kInf);
    std::fill(shift_, shift_ + kQueries, 0.0f);
    std::fill(sum_, sum_ + kQueries, 0.0f);
    columns_ = columns, column_depth_ = column_depth;
    begin_ = 0, pending_ = -1;
    for (int64_t key = 0; key < keys; key += kRows) {
      const float* panel = panels + key / 8 * 8 * shape_.width + key % 8;
      if (bias.touches(key, query)) {
        bias.fill(key, query, bias_);
        tile<true>(key, panel);
      } else {
        tile<false>(key, panel);
      }
    }
    soften();
    flush(round_up(keys, kRows));
  }

  float *q_, *out_, *top_, *sum_;

 private:
  // Scores of kRows keys. Their weights are left for the next call, which makes them between its products: the two keep different
  // units of the CPU busy.
  template <bool Biased>
  __attribute__((always_inline)) inline void tile(int64_t key, const float* panel) {
    vf acc[kRows][N];
    clear(acc);
    score(acc, panel);
    const vf scale = all(a_.scale * kLog2e), factor = Biased ? all(1.0f) : scale;
    vf top[N];
    bool rises = false;
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      if constexpr (Biased)
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) acc[i][n] = fma(acc[i][n], scale, load(bias_ + i * kQueries + n * kLanes));
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) store(scores_ + i * kQueries + n * kLanes, acc[i][n]);
      vf most = max(acc[1][n], acc[0][n]);
#pragma GCC unroll 8
      for (int i = 2; i < kRows; i += 2) most = max(max(acc[i][n], acc[i + 1][n]), most);
      top[n] = mul(most, factor);
      rises |= any_greater(top[n], load(ceiling_ + n * kLanes));
    }
    if (__builtin_expect(rises, 0)) {
      flush(key);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) rescale(n, top[n]);
    } else if (key - begin_ >= kGather<Pair>) {
      flush(key);
    }
    pending_ = key, factor_ = Biased ? 1.0f : a_.scale * kLog2e;
  }

  // acc = this tile's products, and the weights of the pending tile on the way.
  __attribute__((always_inline)) inline void score(vf (&acc)[kRows][N], const float* panel) {
    constexpr int kSteps = kRows / 2 * N;
    const float* q = q_;
    int64_t done = 0;
    if (pending_ >= 0) {
      if (shape_.depth >= kSteps) {
        const vf factor = all(factor_);
#pragma GCC unroll 1
        for (int i = 0; i < kRows; i += 2)
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) {
            product<Pair, kRows, N, 1, 8>(acc, panel, q, kQueries, 1);
            panel += 8, q += kQueries;
            soften_pair(i, n, factor);
          }
        done = kSteps;
      } else {
        soften();
      }
    }
    product<Pair, kRows, N, 1, 8>(acc, panel, q, kQueries, shape_.depth - done);
  }

  // Weights of two keys of the pending tile; the score's scale is folded into the exponent.
  __attribute__((always_inline)) inline void soften_pair(int i, int n, vf factor) {
    const float* from = scores_ + i * kQueries + n * kLanes;
    float* to = weights_ + (pending_ - begin_ + i) / (Pair ? 2 : 1) * kQueries + n * kLanes;
    const vf shift = load(shift_ + n * kLanes);
    const vf a = exp2_of<Pair>(fma(load(from), factor, shift)), b = exp2_of<Pair>(fma(load(from + kQueries), factor, shift));
    store(sum_ + n * kLanes, add(load(sum_ + n * kLanes), add(a, b)));
    if constexpr (Pair) {
      store_pair<Pair>(to, a, b);
    } else {
      store(to, a);
      store(to + kQueries, b);
    }
  }

  __attribute__((noinline)) void soften() {
    if (pending_ < 0) return;
    for (int i = 0; i < kRows; i += 2)
      for (int n = 0; n < N; ++n) soften_pair(i, n, all(factor_));
  }

  __attribute__((noinline)) void rescale(int n, vf top) {
    const vf before = load(top_ + n * kLanes), after = max(top, before);
    vf factor = exp2_precise(sub(before, pick_equal(after, all(-kInf), all(0.0f), after)));
    factor = pick_equal(before, all(-kInf), all(0.0f), factor);
    store(top_ + n * kLanes, after);
    store(ceiling_ + n * kLanes, add(after, all(kSlack)));
    store(shift_ + n * kLanes, sub(all(0.0f), pick_equal(after, all(-kInf), all(0.0f), after)));
    store(sum_ + n * kLanes, mul(load(sum_ + n * kLanes), factor));
    for (int64_t d = 0; d < shape_.rows; ++d) {
      float* row = out_ + d * kQueries + n * kLanes;
      store(row, mul(load(row), factor));
    }
  }

  // Adds the weights of keys [begin_, end) times their values to the output.
  __attribute__((noinline)) void flush(int64_t end) {
    const int64_t depth = words<Pair>(end - begin_), first = begin_ / (Pair ? 2 : 1);
    if (depth > 0)
      for (int64_t d = 0; d < shape_.rows; d += kRows)
        accumulate<Pair, N, 1, 8>(out_ + d * kQueries, kQueries, columns_ + (d / 8 * 8 * column_depth_ + d % 8 + first * 8), weights_, kQueries,
                                  depth);
    begin_ = end;
  }

  const Attention& a_;
  const Shape<Pair>& shape_;
  float *weights_, *bias_, *scores_;
  float *ceiling_, *shift_;  // top + kSlack, and what is added inside the exponent: -top, or 0 where no key was seen
  const float* columns_;
  int64_t column_depth_, begin_, pending_;
  float factor_;
};

template <typename T, bool Pair, int N>
void block(const Attention& a, const Shape<Pair>& shape, int64_t sequence, int64_t head, int64_t query, const float* panels,
           const float* columns, int64_t column_depth, T* out, float* stats, Scratch& memory) {
  const Sequence& s = a.sequences[sequence];
  const int64_t stage_size = kQueries * std::max(shape.width, shape.rows);
  float* stage = memory.get(stage_size + Block<Pair, N>::scratch(shape));
  Block<Pair, N> b(a, shape, stage + stage_size);
  const int64_t queries = std::min<int64_t>(kQueries, s.queries - query);
  const T* q = static_cast<const T*>(a.q) + s.q + query * a.q_pitch.row + head * a.q_pitch.head;
  const Bias bias(a, sequence, head);

  for (int64_t i = 0; i < N * kLanes; ++i) {
    if (i < queries)
      copy_row<T, Pair>(q + i * a.q_pitch.row, a.dim, stage + i * shape.width, shape.width);
    else
      std::memset(stage + i * shape.width, 0, shape.width * 4);
  }
  for (int64_t i = 0; i < N * kLanes; i += 8)
    for (int64_t d = 0; d < shape.width; d += 8) transpose8(stage + i * shape.width + d, shape.width, b.q_ + d * kQueries + i, kQueries);

  b.run(bias, query, bias.visible(query + queries), panels, columns, column_depth);

  for (int n = 0; n < N; ++n) {  // a row without any key gives zeros (but NaN stays NaN: its maximum never rose either)
    const vf top = load(b.top_ + n * kLanes), sum = load(b.sum_ + n * kLanes), none = all(-kInf);
    const vf inverse = pick_equal(top, none, mul(sum, all(0.0f)), div(all(1.0f), sum));
    store(b.sum_ + n * kLanes, inverse);
    store(b.top_ + n * kLanes, pick_equal(top, none, all(0.0f), top));
    for (int64_t d = 0; d < shape.rows; ++d) {
      float* row = b.out_ + d * kQueries + n * kLanes;
      store(row, mul(load(row), inverse));
    }
  }
  for (int64_t i = 0; i < N * kLanes; i += 8)
    for (int64_t d = 0; d < shape.rows; d += 8) transpose8(b.out_ + d * kQueries + i, kQueries, stage + i * shape.rows + d, shape.rows);
  T* to = out + s.out + query * a.out_pitch.row + head * a.out_pitch.head;
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t d = 0; d < a.dim; ++d) to[i * a.out_pitch.row + d] = from_float<T>(stage[i * shape.rows + d]);
  if (stats == nullptr) return;
  for (int64_t i = 0; i < queries; ++i) {
    float* at = stats + 2 * ((s.row + query + i) * a.heads + head);
    at[0] = b.top_[i], at[1] = b.sum_[i];
  }
}

// The keys and values of one key/value head of one sequence, and where they are packed.
struct Unit {
  int64_t sequence, group, panels, columns;
};
struct Item {
  int64_t unit, head, query;
};

template <typename T, bool Pair>
void wave(const Attention& a, const Shape<Pair>& shape, const std::vector<Unit>& units, float* packed, T* out, float* stats) {
  constexpr int64_t kChunk = 256;
  std::vector<Item> packing, work;
  for (int64_t u = 0; u < static_cast<int64_t>(units.size()); ++u) {
    const Sequence& s = a.sequences[units[u].sequence];
    for (int64_t key = 0; key < s.keys; key += kChunk) packing.push_back({u, 0, key});
    for (int64_t h = 0, each = a.heads / a.groups; h < each; ++h)
      for (int64_t query = 0; query < s.queries; query += kQueries) work.push_back({u, units[u].group * each + h, query});
  }
  auto pack = [&](int64_t i) {
    const Unit& u = units[packing[i].unit];
    const Sequence& s = a.sequences[u.sequence];
    const int64_t first = packing[i].query, last = std::min(first + kChunk, s.keys), depth = words<Pair>(round_up(s.keys, 8));
    const T* k = static_cast<const T*>(a.k) + s.k + u.group * a.k_pitch.head;
    const T* v = static_cast<const T*>(a.v) + s.v + u.group * a.v_pitch.head;
    pack_panels<T, Pair>(k, a.k_pitch.row, first, last, a.dim, packed + u.panels);
    pack_columns<T, Pair>(v, a.v_pitch.row, first, last, a.dim, depth, packed + u.columns);
    if (last < s.keys) return;
    for (int64_t d = 0; d < shape.rows; d += 8) {  // weights of the missing keys are 0, and so must be what they meet
      const int64_t full = words<Pair>(s.keys);
      std::fill(packed + u.columns + d * depth + full * 8, packed + u.columns + (d + 8) * depth, 0.0f);
    }
  };
  auto compute = [&](int64_t i) {
    static thread_local Scratch memory;
    const Item& item = work[i];
    const Unit& u = units[item.unit];
    const Sequence& s = a.sequences[u.sequence];
    const int64_t depth = words<Pair>(round_up(s.keys, 8)), left = s.queries - item.query;
    const float *panels = packed + u.panels, *columns = packed + u.columns;
    if (left > 2 * kLanes)
      block<T, Pair, 3>(a, shape, u.sequence, item.head, item.query, panels, columns, depth, out, stats, memory);
    else if (left > kLanes)
      block<T, Pair, 2>(a, shape, u.sequence, item.head, item.query, panels, columns, depth, out, stats, memory);
    else
      block<T, Pair, 1>(a, shape, u.sequence, item.head, item.query, panels, columns, depth, out, stats, memory);
  };
  const int64_t packs = packing.size(), blocks = work.size();
#pragma omp parallel if (blocks > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < packs; ++i) pack(i);
#pragma omp for schedule(monotonic : dynamic, 1)
    for (int64_t i = 0; i < blocks; ++i) compute(i);
  }
}

template <typename T, bool Pair>
void forward(const Attention& a, T* out, float* stats) {
  static thread_local Scratch memory;
  const Shape<Pair> shape(a);
  std::vector<Unit> units;
  int64_t used = 0;
  auto flush = [&] {
    if (!units.empty()) wave<T, Pair>(a, shape, units, memory.get(used), out, stats);
    units.clear(), used = 0;
  };
  for (int64_t n = 0; n < a.count; ++n) {
    const int64_t keys = round_up(a.sequences[n].keys, 8), size = keys * shape.width + words<Pair>(keys) * shape.rows;
    for (int64_t g = 0; g < a.groups; ++g) {
      if (used > 0 && used + size > kWave) flush();
      units.push_back({n, g, used, used + keys * shape.width});
      used += size;
    }
  }
  flush();
  memory.trim(kWave);
}

}  // namespace

void attention_f32(const Attention& a, void* out, float* stats) { forward<float, false>(a, static_cast<float*>(out), stats); }
void attention_bf16(const Attention& a, void* out, float* stats) { forward<bf16, kPairs>(a, static_cast<bf16*>(out), stats); }

}  // namespace mix::ISA
