// One query a sequence over a cache of keys: bound by reading the cache once, so heads that share keys are done together.
#include <vector>

#include "attention_simd.h"
#include "attention.h"

namespace mix::ISA {
namespace {

constexpr int64_t kStep = 64;    // keys whose scores are held at once
constexpr float kLog2e = 1.44269504088896341f;

inline vf widen(const float* p) { return load(p); }
inline vf widen(const bf16* p) {
#if defined(__AVX512F__)
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
#else
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
#endif
}

#if defined(__AVX512F__)
inline vf low_high(vf a, vf b) { return add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); }
inline vf low_high2(vf a, vf b) { return add(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE)); }
#else
inline vf low_high(vf a, vf b) { return add(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)); }
inline vf low_high2(vf a, vf b) { return add(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE)); }
#endif

inline float total(vf v) {
  alignas(64) float each[kLanes];
  store(each, v);
  for (int step = kLanes / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) each[i] += each[i + step];
  return each[0];
}

// The first `count` < kLanes values, zeros behind them; nothing beyond is read.
template <typename C>
inline vf widen_part(const C* p, int64_t count) {
  alignas(64) C part[kLanes] = {};
  std::memcpy(part, p, count * sizeof(C));
  return widen(part);
}

// The sums of kLanes vectors, in one vector.
inline vf totals(const vf (&v)[kLanes]) {
  vf r[kLanes / 4];
#pragma GCC unroll 4
  for (int i = 0; i < kLanes / 4; ++i) {
    const vf *p = v + 4 * i, a = low_high(p[0], p[1]), b = low_high(p[2], p[3]);
    r[i] = low_high2(a, b);  // of every 128 bits, one sum a vector
  }
#if defined(__AVX512F__)
  const vf x = add(_mm512_shuffle_f32x4(r[0], r[1], 0x44), _mm512_shuffle_f32x4(r[0], r[1], 0xEE));
  const vf y = add(_mm512_shuffle_f32x4(r[2], r[3], 0x44), _mm512_shuffle_f32x4(r[2], r[3], 0xEE));
  return add(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xDD));
#else
  return add(_mm256_permute2f128_ps(r[0], r[1], 0x20), _mm256_permute2f128_ps(r[0], r[1], 0x31));
#endif
}

// Scores of H query heads (padded with zeros to `pitch`) against kLanes / H keys.
template <int H, typename C>
inline void score(const float* q, int64_t pitch, const C* const* keys, int64_t dim, float* to) {
  constexpr int K = kLanes / H;
  vf acc[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) acc[i] = all(0.0f);
  const int64_t whole = dim / kLanes * kLanes;
  auto at = [&](int64_t d, auto read) __attribute__((always_inline)) {
    vf head[H];
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) head[h] = load(q + h * pitch + d);
#pragma GCC unroll 16
    for (int j = 0; j < K; ++j) {
      const vf key = read(keys[j] + d);
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h) acc[h * K + j] = fma(head[h], key, acc[h * K + j]);
    }
  };
  for (int64_t d = 0; d < whole; d += kLanes) at(d, [](const C* p) { return widen(p); });
  if (whole < dim) at(whole, [&](const C* p) { return widen_part(p, dim - whole); });
  alignas(64) float sums[kLanes];
  store(sums, totals(acc));
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h) std::memcpy(to + h * kStep, sums + h * K, K * sizeof(float));
}

template <int H, typename C>
inline void scores_of(const float* q, int64_t pitch, const C* const* keys, int64_t count, int64_t dim, float* to) {
  for (int64_t j = 0; j < count; j += kLanes / H) score<H, C>(q, pitch, keys + j, dim, to + j);
}

// out[h] += weight[h][key] * value[key] for H heads and N vectors from d on.
template <int H, int N, typename C>
inline void mix_values(const float* weights, const C* const* values, int64_t keys, int64_t d, float* out, int64_t pitch) {
  vf acc[H][N];
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) acc[h][n] = load(out + h * pitch + d + n * kLanes);
  for (int64_t j = 0; j < keys; ++j) {
    vf row[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) row[n] = widen(values[j] + d + n * kLanes);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      const vf w = all(weights[h * kStep + j]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) acc[h][n] = fma(w, row[n], acc[h][n]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) store(out + h * pitch + d + n * kLanes, acc[h][n]);
}

template <int H, typename C>
inline void add_values(const float* weights, const C* const* values, int64_t keys, int64_t dim, float* out, int64_t pitch) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes) mix_values<H, 4, C>(weights, values, keys, d, out, pitch);
  for (; d + kLanes <= dim; d += kLanes) mix_values<H, 1, C>(weights, values, keys, d, out, pitch);
  if (d == dim) return;
  for (int64_t j = 0; j < keys; ++j)
    for (int h = 0; h < H; ++h)
      for (int64_t e = d; e < dim; ++e) out[h * pitch + e] += weights[h * kStep + j] * to_float(values[j][e]);
}

// The running state of one head: maximum, sum, then the unnormalised output.
constexpr int64_t kHead = 2;

// Turns the scores of one head into weights and moves the running maximum.
inline void soften(float* scores, int64_t keys, float* state, float* out, int64_t dim) {
  float top = state[0];
  for (int64_t j = 0; j < keys; ++j) top = scores[j] > top ? scores[j] : top;
  const float safe = top == -kInf ? 0.0f : top;
  if (top > state[0]) {
    const float factor = state[0] == -kInf ? 0.0f : std::exp2(state[0] - top);
    for (int64_t d = 0; d < dim; ++d) out[d] *= factor;
    state[1] *= factor, state[0] = top;
  }
  for (int64_t j = keys; j < round_up(keys, kLanes); ++j) scores[j] = -kInf;
  vf sum = all(0.0f);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const vf e = exp2_precise(sub(load(scores + j), all(safe)));
    sum = add(sum, e);
    store(scores + j, e);
  }
  state[1] += total(sum);
}

// Keys [first, last) of sequence b for the heads of one group; `state` has (2 + padded D) floats a head.
template <typename C>
void piece(const Decode& a, const float* q, int64_t b, int64_t group, int64_t first, int64_t last, float* state, int64_t pitch) {
  const int64_t each = a.heads / a.groups, row = a.groups * a.dim, width = round_up(a.dim, kLanes);
  const C *k = static_cast<const C*>(a.k) + group * a.dim, *v = static_cast<const C*>(a.v) + group * a.dim;
  std::vector<float> scores(each * kStep);
  const C *keys[kStep], *values[kStep];
  for (int64_t h = 0; h < each; ++h) {
    std::fill(state + h * pitch, state + (h + 1) * pitch, 0.0f);
    state[h * pitch] = -kInf;
  }
  for (int64_t at = first; at < last; at += kStep) {
    const int64_t count = std::min(kStep, last - at);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t key = at + j;
      const int64_t index = a.table ? a.table[b * a.blocks + key / a.block_size] * a.block_size + key % a.block_size : b * a.keys + key;
      keys[j] = k + index * row, values[j] = v + index * row;
    }
    for (int64_t j = count; j < round_up(count, kLanes); ++j) keys[j] = keys[count - 1];  // their scores are not used
    int64_t head = 0;
    for (; head + 4 <= each; head += 4) scores_of<4, C>(q + head * width, width, keys, count, a.dim, &scores[head * kStep]);
    if (each - head >= 2) scores_of<2, C>(q + head * width, width, keys, count, a.dim, &scores[head * kStep]), head += 2;
    if (each - head == 1) scores_of<1, C>(q + head * width, width, keys, count, a.dim, &scores[head * kStep]);
    for (int64_t h = 0; h < each; ++h) soften(&scores[h * kStep], count, state + h * pitch, state + h * pitch + kHead, a.dim);
    int64_t h = 0;
    float* out = state + kHead;
    for (; h + 4 <= each; h += 4) add_values<4, C>(&scores[h * kStep], values, count, a.dim, out + h * pitch, pitch);
    if (each - h >= 2) add_values<2, C>(&scores[h * kStep], values, count, a.dim, out + h * pitch, pitch), h += 2;
    if (each - h == 1) add_values<1, C>(&scores[h * kStep], values, count, a.dim, out + h * pitch, pitch);
  }
}

// One head's output from the states of its pieces, in their order.
template <typename T>
void join(const float* states, int64_t pieces, int64_t step, int64_t dim, T* out) {
  float top = -kInf, sum = 0.0f;
  for (int64_t p = 0; p < pieces; ++p) top = std::max(top, states[p * step]);
  std::vector<float> acc(dim, 0.0f);
  for (int64_t p = 0; p < pieces; ++p) {
    const float* state = states + p * step;
    const float factor = state[0] == -kInf ? (state[1] == 0.0f ? 0.0f : state[1]) : std::exp2(state[0] - top);  // NaN scores leave a NaN sum
    sum += state[1] * factor;
    for (int64_t d = 0; d < dim; ++d) acc[d] += state[kHead + d] * factor;
  }
  for (int64_t d = 0; d < dim; ++d) out[d] = from_float<T>(sum == 0.0f ? 0.0f : acc[d] / sum);
}

template <typename T, typename C>
void decode(const Decode& a) {
  const int64_t each = a.heads / a.groups, pitch = kHead + round_up(a.dim, kLanes), step = each * pitch;
  const int64_t width = round_up(a.dim, kLanes);
  std::vector<float> q(a.batch * a.heads * width, 0.0f);
  for (int64_t i = 0; i < a.batch * a.heads; ++i)
    for (int64_t d = 0; d < a.dim; ++d) q[i * width + d] = to_float(static_cast<const T*>(a.q)[i * a.dim + d]) * a.scale * kLog2e;
  struct Work {
    int64_t batch, group, first, at;
  };
  std::vector<Work> work;
  std::vector<int64_t> begin;  // of the states of (batch, group)
  int64_t used = 0, keys = 0;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t g = 0; g < a.groups; ++g) {
      begin.push_back(used);
      for (int64_t first = 0; first < a.lengths[b]; first += kSplit, used += step) work.push_back({b, g, first, used});
      keys += a.lengths[b];
    }
  begin.push_back(used);
  std::unique_ptr<float[]> states(new float[std::max<int64_t>(used, 1)]);
  const int64_t pieces = work.size(), rows = a.batch * a.groups;
#pragma omp parallel if (keys * each * a.dim > 32768)
  {
#pragma omp for schedule(monotonic : dynamic, 1)
    for (int64_t i = 0; i < pieces; ++i) {
      const Work& w = work[i];
      const int64_t last = std::min<int64_t>(w.first + kSplit, a.lengths[w.batch]);
      piece<C>(a, q.data() + (w.batch * a.heads + w.group * each) * width, w.batch, w.group, w.first, last, states.get() + w.at, pitch);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t h = 0; h < each; ++h)
        join<T>(states.get() + begin[i] + h * pitch, (begin[i + 1] - begin[i]) / step, step, a.dim,
                static_cast<T*>(a.out) + (i * each + h) * a.dim);
  }
}

}  // namespace

void attention_decode(const Decode& a, bool q_bf16, bool cache_bf16) {
  if (q_bf16)
    cache_bf16 ? decode<bf16, bf16>(a) : decode<bf16, float>(a);
  else
    cache_bf16 ? decode<float, bf16>(a) : decode<float, float>(a);
}

int64_t decode_width(int64_t dim) { return round_up(dim, kLanes); }
int64_t decode_state(int64_t dim) { return kHead + round_up(dim, kLanes); }
void decode_piece(const Decode& a, bool cache_bf16, const float* q, int64_t b, int64_t group, int64_t first, int64_t last, float* state) {
  const int64_t pitch = decode_state(a.dim);
  cache_bf16 ? piece<bf16>(a, q, b, group, first, last, state, pitch) : piece<float>(a, q, b, group, first, last, state, pitch);
}
void decode_join(const float* states, int64_t pieces, int64_t step, int64_t dim, float* out) { join<float>(states, pieces, step, dim, out); }

}  // namespace mix::ISA
