// Gradient of blocked attention, from the row statistics of the forward pass: weights are made again, never stored (Dao et al. 2022).
//
// With e = exp2(s - m) and the incoming gradient divided by the row's sum (both forms of dO are packed so), the weights' own
// normalisation drops out: dV += e^T dO, ds = e * (dO v - delta), dQ += ds K, dK += ds^T Q; the score's scale comes last.
// The order of all sums depends on shapes alone, so results do not depend on the number of threads.
#include <vector>

#include "attention_tile.h"

namespace mix::ISA {
namespace {

constexpr int64_t kKeys = 64;          // keys of one block
constexpr int64_t kSplitKeys = 1024;   // with few heads, keys are split in parts of at least so many
constexpr int64_t kEnoughUnits = 8;

template <bool Pair>
struct Sizes {
  explicit Sizes(int64_t dim)
      : depth(words<Pair>(dim)), width(round_up(depth, 8)), rows(round_up(dim, 8)), lanes(round_up(dim, kLanes)),
        queries(words<Pair>(kQueries)), keys(words<Pair>(kKeys)) {}
  int64_t depth, width;  // words of D, and padded to panels
  int64_t rows, lanes;   // D padded to rows of a product, and to vectors
  int64_t queries, keys; // words of a block along queries, along keys
};

// One block of queries of one head, in the forms that the products want.
template <bool Pair>
struct QueryBlock {
  explicit QueryBlock(const Sizes<Pair>& z, float* at) {
    q = at;
    dout = q + z.width * kQueries;
    q_rows = dout + z.width * kQueries;
    dout_rows = q_rows + z.queries * z.lanes;
    shift = dout_rows + z.queries * z.lanes;
    delta = shift + kQueries;
  }
  static int64_t size(const Sizes<Pair>& z) { return 2 * z.width * kQueries + 2 * z.queries * z.lanes + 2 * kQueries; }
  float *q, *dout;            // [word of D][query]
  float *q_rows, *dout_rows;  // [word of queries][D]
  float *shift, *delta;       // -m, and sum(dO * O) / sum
};

// The part of one key/value head that one thread works on.
struct Unit {
  int64_t sequence, group, first, last;
  int64_t part, parts;
};

// rows [query block][D] staged as words -> both packed forms
template <bool Pair>
void pack_both(const Sizes<Pair>& z, const float* stage, float* columns, float* rows) {
  for (int64_t i = 0; i < kQueries; i += 8)
    for (int64_t d = 0; d < z.width; d += 8) transpose8(stage + i * z.width + d, z.width, columns + d * kQueries + i, kQueries);
  for (int64_t i = 0; i < z.queries; ++i) {
    float* to = rows + i * z.lanes;
    std::memset(to, 0, z.lanes * 4);
    if constexpr (Pair) {
      const uint16_t* a = reinterpret_cast<const uint16_t*>(stage + 2 * i * z.width);
      const uint16_t* b = reinterpret_cast<const uint16_t*>(stage + (2 * i + 1) * z.width);
      uint32_t* w = reinterpret_cast<uint32_t*>(to);
      for (int64_t d = 0; d < std::min(2 * z.width, z.lanes); ++d) w[d] = a[d] | static_cast<uint32_t>(b[d]) << 16;
    } else {
      std::memcpy(to, stage + i * z.width, std::min(z.width, z.lanes) * 4);
    }
  }
}

template <typename T, bool Pair>
void pack_queries(const Attention& a, const AttentionGrad& g, const Sizes<Pair>& z, const Sequence& s, int64_t head, int64_t query, float* stage,
                  const QueryBlock<Pair>& to) {
  const int64_t count = std::min<int64_t>(kQueries, s.queries - query), out_at = s.out + query * a.out_pitch.row + head * a.out_pitch.head;
  const T* q = static_cast<const T*>(a.q) + s.q + query * a.q_pitch.row + head * a.q_pitch.head;
  const T *out = static_cast<const T*>(g.out) + out_at, *dout = static_cast<const T*>(g.dout) + out_at;
  std::memset(stage, 0, kQueries * z.width * 4);
  for (int64_t i = 0; i < count; ++i) copy_row<T, Pair>(q + i * a.q_pitch.row, a.dim, stage + i * z.width, z.width);
  pack_both<Pair>(z, stage, to.q, to.q_rows);
  for (int64_t i = 0; i < kQueries; ++i) {
    to.shift[i] = to.delta[i] = 0.0f;
    if (i >= count) {
      std::memset(stage + i * z.width, 0, z.width * 4);
      continue;
    }
    const float* row = g.stats + 2 * ((s.row + query + i) * a.heads + head);
    const T *o = out + i * a.out_pitch.row, *d = dout + i * a.out_pitch.row;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < a.dim; ++c) sum += to_float(o[c]) * to_float(d[c]);
    to.shift[i] = -row[0], to.delta[i] = sum * row[1];
    copy_row_scaled<T, Pair>(d, a.dim, stage + i * z.width, z.width, row[1]);
  }
  pack_both<Pair>(z, stage, to.dout, to.dout_rows);
}

template <bool Pair, int AI, int AK>
void accumulate_lanes(float* c, int64_t lanes, const float* a, const float* b, int64_t depth) {
  int64_t at = 0;
  for (; at + 3 * kLanes <= lanes; at += 3 * kLanes) accumulate<Pair, 3, AI, AK>(c + at, lanes, a, b + at, lanes, depth);
  if (lanes - at == 2 * kLanes) accumulate<Pair, 2, AI, AK>(c + at, lanes, a, b + at, lanes, depth);
  if (lanes - at == kLanes) accumulate<Pair, 1, AI, AK>(c + at, lanes, a, b + at, lanes, depth);
}

// Scratch of one unit, as pointers into one block of memory.
template <bool Pair>
struct Workspace {
  Workspace(const Sizes<Pair>& z, int64_t keys, int64_t query_blocks, Scratch& memory) {
    const int64_t panels = keys * z.width, block = QueryBlock<Pair>::size(z), columns = words<Pair>(keys) * z.rows;
    const int64_t tile = kRows * kQueries, rows = kKeys * z.queries, pairs = z.keys * kQueries;
    const int64_t sizes[] = {panels, panels, columns, query_blocks * block, query_blocks * z.rows * kQueries, kQueries * std::max(z.width, z.rows),
                             tile, tile, rows, rows, pairs, kKeys * z.lanes, kKeys * z.lanes};
    float** to[] = {&k, &v, &k_columns, &queries, &dq, &stage, &bias, &weights, &weight_rows, &dscore_rows, &dscores, &dk, &dv};
    int64_t total = 0;
    for (int64_t size : sizes) total += round_up(size, 16);
    float* at = memory.get(total);
    for (int i = 0; i < 13; ++i) *to[i] = at, at += round_up(sizes[i], 16);
  }
  float *k, *v, *k_columns, *queries, *dq, *stage, *bias, *weights, *weight_rows, *dscore_rows, *dscores, *dk, *dv;
};

// Weights and score gradients of kRows keys x one block of queries.
template <bool Pair>
void tile(const Attention& a, const Sizes<Pair>& z, const Workspace<Pair>& w, const QueryBlock<Pair>& b, const Bias& bias, int64_t key,
          int64_t query, int64_t local, int64_t in_block) {
  const vf scale = all(a.scale * kLog2e);
  const int64_t panel = local / 8 * 8 * z.width + local % 8;
  vf acc[kRows][kVectors];
  clear(acc);
  product<Pair, kRows, kVectors, 1, 8>(acc, w.k + panel, b.q, kQueries, z.depth);
  const bool biased = bias.touches(key, query);
  if (biased) bias.fill(key, query, w.bias);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      // The same two roundings as in the forward pass: a bias can be as low as the lowest float.
      const vf shift = load(b.shift + n * kLanes);
      const vf x = biased ? add(fma(acc[i][n], scale, load(w.bias + i * kQueries + n * kLanes)), shift) : fma(acc[i][n], scale, shift);
      const vf e = exp2_of<Pair>(x);
      store(w.weights + i * kQueries + n * kLanes, e);
      store_row<Pair>(w.weight_rows + (in_block + i) * z.queries, n, e);
    }
  clear(acc);
  product<Pair, kRows, kVectors, 1, 8>(acc, w.v + panel, b.dout, kQueries, z.depth);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      acc[i][n] = mul(load(w.weights + i * kQueries + n * kLanes), sub(acc[i][n], load(b.delta + n * kLanes)));
      if constexpr (Pair)
        store_row<Pair>(w.dscore_rows + (in_block + i) * z.queries, n, acc[i][n]);
      else
        store(w.dscores + (in_block + i) * kQueries + n * kLanes, acc[i][n]);
    }
  if constexpr (Pair)
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i += 2)
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) store_pair<Pair>(w.dscores + (in_block + i) / 2 * kQueries + n * kLanes, acc[i][n], acc[i + 1][n]);
}

template <typename T>
void write_rows(const float* from, int64_t pitch, int64_t count, int64_t dim, float factor, T* to, int64_t to_pitch) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < dim; ++d) to[i * to_pitch + d] = from_float<T>(from[i * pitch + d] * factor);
}

// dq of one block, [D][query] -> rows of floats or of T.
template <bool Pair, typename T>
void write_queries(const Sizes<Pair>& z, const float* dq, float* stage, int64_t count, int64_t dim, float factor, T* to, int64_t to_pitch) {
  for (int64_t i = 0; i < kQueries; i += 8)
    for (int64_t d = 0; d < z.rows; d += 8) transpose8(dq + d * kQueries + i, kQueries, stage + i * z.rows + d, z.rows);
  write_rows<T>(stage, z.rows, count, dim, factor, to, to_pitch);
}

// All keys of one unit against all queries of its heads. Where keys are split, dq goes to `partial` ((row * heads + head) * D).
template <typename T, bool Pair>
void run_unit(const Attention& a, const AttentionGrad& g, const Unit& u, float* partial, Scratch& memory) {
  const Sizes<Pair> z(a.dim);
  const Sequence& s = a.sequences[u.sequence];
  const int64_t each = a.heads / a.groups, blocks = (s.queries + kQueries - 1) / kQueries, keys = round_up(u.last - u.first, kKeys);
  const Workspace<Pair> w(z, keys, each * blocks, memory);
  const T* k = static_cast<const T*>(a.k) + s.k + u.group * a.k_pitch.head + u.first * a.k_pitch.row;
  const T* v = static_cast<const T*>(a.v) + s.v + u.group * a.v_pitch.head + u.first * a.v_pitch.row;
  const int64_t count = u.last - u.first, column_depth = words<Pair>(keys), block_size = QueryBlock<Pair>::size(z);
  std::memset(w.k, 0, keys * z.width * 4);
  std::memset(w.v, 0, keys * z.width * 4);
  std::memset(w.k_columns, 0, column_depth * z.rows * 4);
  pack_panels<T, Pair>(k, a.k_pitch.row, 0, count, a.dim, w.k);
  pack_panels<T, Pair>(v, a.v_pitch.row, 0, count, a.dim, w.v);
  pack_columns<T, Pair>(k, a.k_pitch.row, 0, count, a.dim, column_depth, w.k_columns);
  std::memset(w.dq, 0, each * blocks * z.rows * kQueries * 4);
  for (int64_t i = 0; i < each * blocks; ++i)
    pack_queries<T, Pair>(a, g, z, s, u.group * each + i / blocks, i % blocks * kQueries, w.stage, QueryBlock<Pair>(z, w.queries + i * block_size));

  T* dk = static_cast<T*>(g.dk) + s.k + u.group * g.dk_pitch.head + u.first * g.dk_pitch.row;
  T* dv = static_cast<T*>(g.dv) + s.v + u.group * g.dk_pitch.head + u.first * g.dk_pitch.row;
  for (int64_t first = 0; first < count; first += kKeys) {
    const int64_t here = std::min(kKeys, count - first), tiles = round_up(here, kRows);
    std::memset(w.dk, 0, kKeys * z.lanes * 4);
    std::memset(w.dv, 0, kKeys * z.lanes * 4);
    for (int64_t i = 0; i < each * blocks; ++i) {
      const int64_t query = i % blocks * kQueries;
      const Bias bias(a, u.sequence, u.group * each + i / blocks);
      if (bias.visible(std::min(query + kQueries, s.queries)) <= u.first + first) continue;
      const QueryBlock<Pair> b(z, w.queries + i * block_size);
      for (int64_t j = 0; j < tiles; j += kRows) tile<Pair>(a, z, w, b, bias, u.first + first + j, query, first + j, j);
      const float* dscore_rows = Pair ? w.dscore_rows : w.dscores;  // floats serve in both roles
      constexpr int kPitch = Pair ? kQueries / 2 : kQueries;
      for (int64_t j = 0; j < tiles; j += kRows) {
        accumulate_lanes<Pair, kPitch, 1>(w.dv + j * z.lanes, z.lanes, w.weight_rows + j * kPitch, b.dout_rows, z.queries);
        accumulate_lanes<Pair, kPitch, 1>(w.dk + j * z.lanes, z.lanes, dscore_rows + j * kPitch, b.q_rows, z.queries);
      }
      for (int64_t d = 0; d < z.rows; d += kRows)
        accumulate<Pair, kVectors, 1, 8>(w.dq + (i * z.rows + d) * kQueries, kQueries,
                                         w.k_columns + d / 8 * 8 * column_depth + d % 8 + first / (Pair ? 2 : 1) * 8, w.dscores, kQueries,
                                         words<Pair>(tiles));
    }
    write_rows<T>(w.dk, z.lanes, here, a.dim, a.scale, dk + first * g.dk_pitch.row, g.dk_pitch.row);
    write_rows<T>(w.dv, z.lanes, here, a.dim, 1.0f, dv + first * g.dk_pitch.row, g.dk_pitch.row);
  }
  for (int64_t i = 0; i < each * blocks; ++i) {
    const int64_t query = i % blocks * kQueries, head = u.group * each + i / blocks, rows = std::min<int64_t>(kQueries, s.queries - query);
    const float* dq = w.dq + i * z.rows * kQueries;
    if (partial != nullptr) {
      write_queries<Pair, float>(z, dq, w.stage, rows, a.dim, a.scale, partial + ((s.row + query) * a.heads + head) * a.dim, a.heads * a.dim);
    } else {
      T* to = static_cast<T*>(g.dq) + s.out + query * a.out_pitch.row + head * a.out_pitch.head;
      write_queries<Pair, T>(z, dq, w.stage, rows, a.dim, a.scale, to, a.out_pitch.row);
    }
  }
}

// dq = the sum of its parts in their order. Where keys are split, q and dq are dense: row * heads * D.
template <typename T>
void sum_parts(const Attention& a, const AttentionGrad& g, const float* partial, int64_t parts, int64_t rows) {
  const int64_t size = rows * a.heads * a.dim;
  T* dq = static_cast<T*>(g.dq);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < size; ++i) {
    float sum = 0.0f;
    for (int64_t p = 0; p < parts; ++p) sum += partial[p * size + i];
    dq[i] = from_float<T>(sum);
  }
}

template <typename T>
void clear_rows(T* to, const Pitch& pitch, int64_t rows, int64_t heads, int64_t dim) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t h = 0; h < heads; ++h) std::memset(static_cast<void*>(to + i * pitch.row + h * pitch.head), 0, dim * sizeof(T));
}

template <typename T, bool Pair>
void backward(const Attention& a, const AttentionGrad& g) {
  std::vector<Unit> units;
  int64_t rows = 0, parts = 1;
  for (int64_t n = 0; n < a.count; ++n) rows = std::max(rows, a.sequences[n].row + a.sequences[n].queries);
  // One sequence with few heads (a VAE's attention) would leave threads idle: its keys are split, dq is summed from parts.
  if (a.count == 1 && a.groups < kEnoughUnits)
    parts = std::clamp<int64_t>(a.sequences[0].keys / kSplitKeys, 1, (kEnoughUnits + a.groups - 1) / a.groups);
  for (int64_t n = 0; n < a.count; ++n) {
    const Sequence& s = a.sequences[n];
    T *dq = static_cast<T*>(g.dq) + s.out, *dk = static_cast<T*>(g.dk) + s.k, *dv = static_cast<T*>(g.dv) + s.v;
    if (s.keys == 0) clear_rows(dq, a.out_pitch, s.queries, a.heads, a.dim);
    if (s.queries == 0) clear_rows(dk, g.dk_pitch, s.keys, a.groups, a.dim), clear_rows(dv, g.dk_pitch, s.keys, a.groups, a.dim);
    if (s.keys == 0 || s.queries == 0) continue;
    const int64_t step = round_up((s.keys + parts - 1) / parts, kKeys);
    for (int64_t group = 0; group < a.groups; ++group)
      for (int64_t p = 0; p < parts; ++p)
        units.push_back({n, group, std::min(p * step, s.keys), std::min((p + 1) * step, s.keys), p, parts});
  }
  std::unique_ptr<float[]> partial(parts > 1 ? new float[parts * rows * a.heads * a.dim] : nullptr);
  const int64_t count = units.size();
#pragma omp parallel if (count > 1)
  {
    Scratch memory;
#pragma omp for schedule(monotonic : dynamic, 1)
    for (int64_t i = 0; i < count; ++i)
      run_unit<T, Pair>(a, g, units[i], partial ? partial.get() + units[i].part * rows * a.heads * a.dim : nullptr, memory);
  }
  if (parts > 1) sum_parts<T>(a, g, partial.get(), parts, rows);
}

}  // namespace

void attention_grad_f32(const Attention& a, const AttentionGrad& g) { backward<float, false>(a, g); }
void attention_grad_bf16(const Attention& a, const AttentionGrad& g) { backward<bf16, kPairs>(a, g); }

}  // namespace mix::ISA
