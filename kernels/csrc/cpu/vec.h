// One SIMD register of floats with loads and stores of float and bf16, partial ones for tails, and exp, sigmoid, tanh, Phi, erf.
//
// Only for files compiled with -DISA=...: everything lives in mix::ISA and is internal to the instruction set, so that the
// linker can never hand AVX-512 code to a CPU without it. Lanes: 16 with AVX-512, 8 with AVX2.
#pragma once

#include <immintrin.h>

#include <cstdlib>
#include <new>

#include "common.h"

namespace mix::ISA {

#ifdef __AVX512F__

struct Vec {
  static constexpr int kLanes = 16;
  __m512 v;
  Vec() : v(_mm512_setzero_ps()) {}
  Vec(__m512 x) : v(x) {}
  Vec(float x) : v(_mm512_set1_ps(x)) {}
};

static inline __mmask16 tail(int n) { return static_cast<__mmask16>((1u << n) - 1); }
static inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
static inline __m256i narrow(__m512 x) {  // round to nearest even
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  up = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), up, quiet);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
#endif
}

static inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
static inline Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(tail(n), p); }
static inline Vec load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline Vec load(const bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(tail(n), p)); }
static inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
static inline void store(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, tail(n), x.v); }
static inline void store(bf16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x.v)); }
static inline void store(bf16* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, tail(n), narrow(x.v)); }

static inline Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
static inline Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
static inline Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
static inline Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
static inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }    // a b + c
static inline Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }  // c - a b
static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }                  // b when either is NaN
static inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a.v, b.v); }
static inline Vec abs(Vec a) { return _mm512_abs_ps(a.v); }
static inline Vec sqrt(Vec a) { return _mm512_sqrt_ps(a.v); }
static inline Vec negative_to(Vec sign, Vec if_negative, Vec otherwise) {
  return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(sign.v)), otherwise.v, if_negative.v);
}
static inline Vec swap_pairs(Vec a) { return _mm512_permute_ps(a.v, 0xB1); }  // (1, 0, 3, 2, ...)
static inline Vec round(Vec a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline Vec scale2(Vec a, Vec n) { return _mm512_scalef_ps(a.v, n.v); }  // a 2^n
static inline Vec reciprocal(Vec a) {  // 1 / a to an ulp or two, for a neither 0, infinite nor denormal
  __m512 r = _mm512_rcp14_ps(a.v);
  return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1.0f)), r);
}
static inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
static inline float largest(Vec a) { return _mm512_reduce_max_ps(a.v); }

#else  // AVX2

struct Vec {
  static constexpr int kLanes = 8;
  __m256 v;
  Vec() : v(_mm256_setzero_ps()) {}
  Vec(__m256 x) : v(x) {}
  Vec(float x) : v(_mm256_set1_ps(x)) {}
};

static inline __m256i tail(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline __m256 widen(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
static inline __m128i narrow(__m256 x) {  // round to nearest even
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

static inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
static inline Vec load(const float* p, int n) { return _mm256_maskload_ps(p, tail(n)); }
static inline Vec load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
static inline Vec load(const bf16* p, int n) {
  bf16 whole[8] = {};
  std::memcpy(whole, p, n * sizeof(bf16));
  return load(whole);
}
static inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.v); }
static inline void store(float* p, Vec x, int n) { _mm256_maskstore_ps(p, tail(n), x.v); }
static inline void store(bf16* p, Vec x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x.v)); }
static inline void store(bf16* p, Vec x, int n) {
  bf16 whole[8];
  store(whole, x);
  std::memcpy(p, whole, n * sizeof(bf16));
}

static inline Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
static inline Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
static inline Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
static inline Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
static inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
static inline Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a.v, b.v, c.v); }
static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
static inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a.v, b.v); }
static inline Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
static inline Vec sqrt(Vec a) { return _mm256_sqrt_ps(a.v); }
static inline Vec negative_to(Vec sign, Vec if_negative, Vec otherwise) {
  return _mm256_blendv_ps(otherwise.v, if_negative.v, sign.v);
}
static inline Vec swap_pairs(Vec a) { return _mm256_permute_ps(a.v, 0xB1); }
static inline Vec round(Vec a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline Vec scale2(Vec a, Vec n) {  // in two steps, as 2^n itself may be out of range where a 2^n is not
  __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
  __m256i bias = _mm256_set1_epi32(127);
  Vec first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  Vec second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return a * first * second;
}
static inline Vec reciprocal(Vec a) { return Vec(1.0f) / a; }
static inline float sum(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float largest(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#endif

static inline Vec operator-(Vec a) { return Vec(0.0f) - a; }
static inline Vec& operator+=(Vec& a, Vec b) { return a = a + b; }

// e^x within 2 ulp over the whole range, infinite above 88.7, 0 below -104, NaN stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2,
// ln 2 in two parts so that r is exact, and a polynomial for e^r whose coefficients are those of Cephes' expf.
static inline Vec exp(Vec x) {
  x = min(Vec(89.0f), max(Vec(-104.0f), x));
  Vec n = round(x * Vec(1.44269504f));
  Vec r = fnma(n, Vec(-2.12194440e-4f), fnma(n, Vec(0.693359375f), x));
  Vec p = fma(Vec(1.9875691500e-4f), r, Vec(1.3981999507e-3f));
  p = fma(p, r, Vec(8.3334519073e-3f));
  p = fma(p, r, Vec(4.1665795894e-2f));
  p = fma(p, r, Vec(1.6666665459e-1f));
  p = fma(p, r, Vec(5.0000001201e-1f));
  p = fma(p, r * r, r + Vec(1.0f));
  return scale2(p, n);
}

// 1 / (1 + e^-x). The bound keeps 1 + e^-x in reciprocal's range; what it cuts off is below 2e-38.
static inline Vec sigmoid(Vec x) { return reciprocal(Vec(1.0f) + exp(min(Vec(87.0f), -x))); }

static inline Vec tanh(Vec x) { return fma(Vec(2.0f), sigmoid(x + x), Vec(-1.0f)); }  // to 2e-7 absolute

// The normal distribution: phi(x) and Phi(x), sharing one exp. Phi(-t) = e^(-t^2/2) u R(u), u = 1 / (1 + p t), is the form of
// Abramowitz and Stegun 26.2.17 with eight terms fitted to a relative error of 2e-7, so that Phi keeps its digits in the tail.
struct Normal {
  Vec pdf, cdf;
};
static inline Normal normal(Vec x) {
  Vec t = min(Vec(16.0f), abs(x));  // beyond that both are 0 in float32, and t*t stays in exp's range
  Vec bell = exp(t * t * Vec(-0.5f));
  Vec u = reciprocal(fma(t, Vec(0.305f), Vec(1.0f)));
  Vec r = fma(Vec(0.0367013291f), u, Vec(-0.152996972f));
  r = fma(r, u, Vec(0.185731322f));
  r = fma(r, u, Vec(-0.0379895531f));
  r = fma(r, u, Vec(0.121028051f));
  r = fma(r, u, Vec(0.103419073f));
  r = fma(r, u, Vec(0.122467078f));
  r = fma(r, u, Vec(0.121639721f));
  Vec below = bell * u * r;  // Phi(-t)
  return {bell * Vec(0.398942280f), negative_to(x, below, Vec(1.0f) - below)};
}

static inline Vec erf(Vec x) { return fma(Vec(2.0f), normal(x * Vec(1.41421356f)).cdf, Vec(-1.0f)); }  // to 2e-7 absolute

// lanes(n, [&] LANE { ... }): whole registers first, then one partial; at(p, i, w) and put(p, i, w, x) load and store there.
// Inlining is forced, so that in the main loop w is a constant and no mask is left.
#define LANE (int64_t i, int w) __attribute__((always_inline))
template <typename Body>
static inline __attribute__((always_inline)) void lanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) body(i, Vec::kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}
template <typename T>
static inline __attribute__((always_inline)) Vec at(const T* p, int64_t i, int width) {
  return width == Vec::kLanes ? load(p + i) : load(p + i, width);
}
template <typename T>
static inline __attribute__((always_inline)) void put(T* p, int64_t i, int width, Vec x) {
  width == Vec::kLanes ? store(p + i, x) : store(p + i, x, width);
}

// Working memory of a kernel. Not std::vector: its members would be shared between instruction sets by the linker.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t n) : data_(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 127) / 64 * 64))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  T* data_;
};

}  // namespace mix::ISA
