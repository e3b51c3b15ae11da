// Vectors, the register-blocked product all attention kernels are made of, and the packing it wants.
//
// A product is C[i][lane] += sum over k of A[i][k] * B[k][lane], with A broadcast and B in vectors. Its unit is a 32-bit word: one float,
// or two bf16 neighbours in k where the CPU has dot products of bf16 pairs (Pair = true). So one code serves both.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>

#include "common.h"

namespace mix::ISA {

#if defined(__AVX512F__)
using vf = __m512;
constexpr int kLanes = 16;
constexpr int kRows = 8;  // rows of A at once: 8 x 3 accumulators of 32 registers
inline vf load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, vf v) { _mm512_storeu_ps(p, v); }
inline vf all(float v) { return _mm512_set1_ps(v); }
inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
inline vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
inline vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
inline vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
inline vf max(vf a, vf b) { return _mm512_max_ps(a, b); }  // b where either is NaN
inline bool any_greater(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
inline vf pick_equal(vf a, vf b, vf yes, vf no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), no, yes); }
inline vf round_even(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vf shift_exponent(vf p, vf n) { return _mm512_scalef_ps(p, n); }
#else
using vf = __m256;
constexpr int kLanes = 8;
constexpr int kRows = 4;  // 4 x 3 accumulators of 16 registers
inline vf load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, vf v) { _mm256_storeu_ps(p, v); }
inline vf all(float v) { return _mm256_set1_ps(v); }
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
inline vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
inline vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
inline vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
inline bool any_greater(vf a, vf b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
inline vf pick_equal(vf a, vf b, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
inline vf round_even(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// p * 2^n in two halves, so that results down to the smallest normal are right; n is in [-252, 254].
inline vf shift_exponent(vf p, vf n) {
  __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
  __m256i one = _mm256_set1_epi32(127);
  vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, one), 23));
  vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23));
  return _mm256_mul_ps(_mm256_mul_ps(p, a), b);
}
#endif

constexpr int kVectors = 3;
constexpr int kQueries = kVectors * kLanes;  // queries of one block, in the lanes
constexpr float kInf = std::numeric_limits<float>::infinity();

#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

// 2^x for x in [-inf, 127], relative error 2e-7; NaN stays NaN. Coefficients: our own minimax fit (Remez) on [-0.5, 0.5].
inline vf exp2_precise(vf x) {
  x = max(all(-150.0f), x);  // below, the result is 0
  vf n = round_even(x), f = sub(x, n);
  vf p = all(1.32764720e-3f);
  p = fma(p, f, all(9.67554133e-3f));
  p = fma(p, f, all(5.55071327e-2f));
  p = fma(p, f, all(2.40221197e-1f));
  p = fma(p, f, all(6.93146967e-1f));
  p = fma(p, f, all(1.00000007f));
  return shift_exponent(p, n);
}

// 2^x for x in [-inf, 127] to 1e-4, enough where the result is rounded to bf16; NaN stays NaN.
#if defined(__AVX512F__)
inline vf exp2_rough(vf x) {
  const vf f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x), 0 for -inf
  vf p = fma(all(7.80245226e-02f), f, all(2.26067155e-01f));
  p = fma(p, f, all(6.95833540e-01f));
  p = fma(p, f, all(9.99925219e-01f));
  return _mm512_scalef_ps(p, x);
}
#endif

template <bool Rough>
inline vf exp2_of(vf x) {
#if defined(__AVX512F__)
  if constexpr (Rough) return exp2_rough(x);
#endif
  return exp2_precise(x);
}

// Words that `count` values along k take.
template <bool Pair>
constexpr int64_t words(int64_t count) {
  return Pair ? (count + 1) / 2 : count;
}
constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <bool Pair>
inline vf step(vf acc, vf a, vf b) {
#if defined(__AVX512BF16__)
  if constexpr (Pair) return _mm512_dpbf16_ps(acc, (__m512bh)b, (__m512bh)a);
#endif
  return fma(a, b, acc);
}

// acc += A B over `depth` words; A's element (i, k) lies at i * AI + k * AK, B's row k at k * width.
template <bool Pair, int R, int N, int AI, int AK>
__attribute__((always_inline)) inline void product(vf (&acc)[R][N], const float* a, const float* b, int64_t width, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k, a += AK, b += width) {
    vf row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) row[n] = load(b + n * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      vf one = all(a[i * AI]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[i][n] = step<Pair>(acc[i][n], one, row[n]);
    }
  }
}

template <int R, int N>
__attribute__((always_inline)) inline void clear(vf (&acc)[R][N]) {
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[i][n] = all(0.0f);
}

// C += A B for kRows rows of C (row pitch `pitch`), N vectors wide.
template <bool Pair, int N, int AI, int AK>
__attribute__((always_inline)) inline void accumulate(float* c, int64_t pitch, const float* a, const float* b, int64_t width, int64_t depth) {
  vf acc[kRows][N];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[i][n] = load(c + i * pitch + n * kLanes);
  product<Pair, kRows, N, AI, AK>(acc, a, b, width, depth);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + i * pitch + n * kLanes, acc[i][n]);
}

// Two rows of values along k, as one row of words.
template <bool Pair>
inline void store_pair(float* to, vf even, vf odd) {
#if defined(__AVX512BF16__)
  if constexpr (Pair) {
    alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(order), both));
  }
#endif
}

// A vector as values along k in one row.
template <bool Pair>
inline void store_row(float* to, int n, vf v) {
#if defined(__AVX512BF16__)
  if constexpr (Pair) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + n * kLanes / 2), (__m256i)_mm512_cvtneps_pbh(v));
    return;
  }
#endif
  store(to + n * kLanes, v);
}

inline void transpose8(const float* from, int64_t pitch, float* to, int64_t to_pitch) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * pitch);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_pitch, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_pitch, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

// `count` values of a row as words, zeros up to `width` words; bf16 is widened where words are floats.
template <typename T, bool Pair>
inline void copy_row(const T* from, int64_t count, float* to, int64_t width) {
  if constexpr (Pair || std::is_same_v<T, float>) {
    std::memcpy(to, from, count * sizeof(T));
    std::memset(reinterpret_cast<char*>(to) + count * sizeof(T), 0, width * 4 - count * sizeof(T));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
    for (int64_t i = count; i < width; ++i) to[i] = 0.0f;
  }
}

// The same with every value multiplied by `factor`.
template <typename T, bool Pair>
inline void copy_row_scaled(const T* from, int64_t count, float* to, int64_t width, float factor) {
  if constexpr (Pair) {
    bf16* out = reinterpret_cast<bf16*>(to);
    for (int64_t i = 0; i < count; ++i) out[i] = to_bf16(to_float(from[i]) * factor);
    for (int64_t i = count; i < 2 * width; ++i) out[i] = bf16{0};
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]) * factor;
    for (int64_t i = count; i < width; ++i) to[i] = 0.0f;
  }
}

// A growing, aligned block of floats; contents are lost when it grows.
class Scratch {
 public:
  float* get(int64_t count) {
    if (count > size_) {
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, round_up(count * 4, 4096))));
      size_ = count;
    }
    return memory_.get();
  }
  void trim(int64_t most) {
    if (size_ > most) memory_.reset(), size_ = 0;
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t size_ = 0;
};

}  // namespace mix::ISA
