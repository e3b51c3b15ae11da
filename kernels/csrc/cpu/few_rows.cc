#include "few_rows.h"

#include <algorithm>

#include "vec.h"

namespace mix::ISA {

#ifdef __AVX512F__
namespace {

constexpr int kVecs = kFewRowsBlock / Vec::kLanes;
constexpr int64_t kAhead = 512;  // bytes; the hardware's prefetcher stops at every page
constexpr int64_t kWorthThreads = 1 << 15;

constexpr int places(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

inline void ahead(const void* p) { _mm_prefetch(static_cast<const char*>(p) + kAhead, _MM_HINT_T0); }

// sums[r][c] = x[r][k] w[k][c] summed over one block of columns. With registers left, k runs in several places at once: more
// loads are under way than one stream would have, and a sum need not wait for the one before it.
template <int Rows>
inline void block(const FewRows& what, const float* x, const float* w, Vec (&sums)[Rows][kVecs]) {
  constexpr int kSets = places(Rows);
  Vec set[kSets][Rows][kVecs];
  const auto step = [&](int64_t k, int s) {
    for (int c = 0; c < kVecs; ++c) ahead(w + k * kFewRowsBlock + c * Vec::kLanes);
    for (int r = 0; r < Rows; ++r) {
      const Vec value(x[r * what.in + k]);
      for (int c = 0; c < kVecs; ++c) set[s][r][c] = fma(value, load(w + k * kFewRowsBlock + c * Vec::kLanes), set[s][r][c]);
    }
  };
  const int64_t part = what.in / kSets;
  for (int64_t k = 0; k < part; ++k)
    for (int s = 0; s < kSets; ++s) step(s * part + k, s);
  for (int64_t k = kSets * part; k < what.in; ++k) step(k, 0);
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < kVecs; ++c) {
      sums[r][c] = set[0][r][c];
      for (int s = 1; s < kSets; ++s) sums[r][c] += set[s][r][c];
    }
}

// sum + a.even b.even + a.odd b.odd over pairs of bf16
inline __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) {
#ifdef __AVX512BF16__
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const auto even = [](__m512i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); };
  const auto odd = [&](__m512i v) { return _mm512_castsi512_ps(_mm512_and_si512(v, high)); };
  return _mm512_fmadd_ps(odd(a), odd(b), _mm512_fmadd_ps(even(a), even(b), sum));
#endif
}

template <int Rows>
inline void block(const FewRows& what, const bf16* x, const bf16* w, Vec (&sums)[Rows][kVecs]) {
  constexpr int kSets = places(Rows);
  Vec set[kSets][Rows][kVecs];
  const auto step = [&](int64_t pair, int s, const auto& value_of) {
    const bf16* row = w + pair * 2 * kFewRowsBlock;
    for (int c = 0; c < kVecs; ++c) ahead(row + 2 * c * Vec::kLanes);
    for (int r = 0; r < Rows; ++r) {
      const __m512i value = _mm512_set1_epi32(value_of(x + r * what.in + pair * 2));
      for (int c = 0; c < kVecs; ++c)
        set[s][r][c] = dot_pairs(set[s][r][c].v, value, _mm512_loadu_si512(row + 2 * c * Vec::kLanes));
    }
  };
  const auto both = [](const bf16* p) {
    int two;
    std::memcpy(&two, p, 4);
    return two;
  };
  const int64_t pairs = what.in / 2;
  const int64_t part = pairs / kSets;
  for (int64_t k = 0; k < part; ++k)
    for (int s = 0; s < kSets; ++s) step(s * part + k, s, both);
  for (int64_t k = kSets * part; k < pairs; ++k) step(k, 0, both);
  if (what.in % 2) step(pairs, 0, [](const bf16* p) { return static_cast<int>(p->bits); });
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < kVecs; ++c) {
      sums[r][c] = set[0][r][c];
      for (int s = 1; s < kSets; ++s) sums[r][c] += set[s][r][c];
    }
}

inline Vec activated(int act, Vec x) {
  switch (act) {
    case 1: return x * sigmoid(x);
    case 2: return x * normal(x).cdf;
    case 3: return x * sigmoid(Vec(1.5957691f) * fma(Vec(0.044715f) * x, x * x, x));  // 1 + tanh(z) = 2 sigmoid(2 z)
    case 4: return x * sigmoid(Vec(1.702f) * x);
    default: return x;
  }
}

template <int Rows, typename T>
void run(const FewRows& what, const T* x, const T* weights, T* y) {
  const int64_t blocks = (what.out + kFewRowsBlock - 1) / kFewRowsBlock;
  const auto* bias = static_cast<const T*>(what.bias);
  const auto* gate = static_cast<const T*>(what.gate);
  const auto* residual = static_cast<const T*>(what.residual);
  parallel_for(blocks, what.in * what.out > kWorthThreads, [&](int64_t b) {
    Vec sums[Rows][kVecs];
    block<Rows>(what, x, weights + b * what.block, sums);
    for (int c = 0; c < kVecs; ++c) {
      const int64_t column = b * kFewRowsBlock + c * Vec::kLanes;
      const int width = static_cast<int>(std::min<int64_t>(Vec::kLanes, what.out - column));
      if (width <= 0) break;
      for (int r = 0; r < Rows; ++r) {
        const int64_t i = r * what.out + column;
        Vec v = sums[r][c];
        if (bias) v += at(bias, column, width);
        v = activated(what.act, v);
        if (gate) v = v * at(gate, i, width);
        if (residual) v += at(residual, i, width);
        put(y, i, width, v);
      }
    }
  });
}

template <typename T>
bool dispatch(const FewRows& what, const T* x, const T* weights, T* y) {
  switch (what.rows) {
    case 1: return run<1>(what, x, weights, y), true;
    case 2: return run<2>(what, x, weights, y), true;
    case 3: return run<3>(what, x, weights, y), true;
    case 4: return run<4>(what, x, weights, y), true;
    default: return false;
  }
}

}  // namespace

bool few_rows_f32(const FewRows& what, const float* x, const float* w, float* y) { return dispatch(what, x, w, y); }
bool few_rows_bf16(const FewRows& what, const bf16* x, const bf16* w, bf16* y) { return dispatch(what, x, w, y); }

#else

bool few_rows_f32(const FewRows&, const float*, const float*, float*) { return false; }
bool few_rows_bf16(const FewRows&, const bf16*, const bf16*, bf16*) { return false; }

#endif

}  // namespace mix::ISA
