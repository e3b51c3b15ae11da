// 16 floats or 64 bytes at a time, whatever the registers hold: the tile of quantised kernels. Only for files compiled with -DISA=...
#pragma once

#include "quant.h"
#include "vec.h"

namespace mix::ISA {

constexpr int kParts = kTile / Vec::kLanes;
#define EACH_PART _Pragma("GCC unroll 2") for (int p = 0; p < kParts; ++p)
#define INLINE static inline __attribute__((always_inline))

// ---- one register of integers

#ifdef __AVX512F__

using Int = __m512i;
constexpr bool kBytesSigned = false;  // 8-bit codes stay unsigned, their offset is made good by sums of x
INLINE Int load_int(const uint8_t* p) { return _mm512_loadu_si512(p); }
INLINE Int and_int(Int a, int byte) { return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(byte))); }
INLINE Int or_int(Int a, Int b) { return _mm512_or_si512(a, b); }
INLINE Int xor_int(Int a, int byte) { return _mm512_xor_si512(a, _mm512_set1_epi8(static_cast<char>(byte))); }
template <int N>
INLINE Int up(Int a) { return N == 0 ? a : _mm512_slli_epi16(a, N); }
template <int N>
INLINE Int down(Int a) { return N == 0 ? a : _mm512_srli_epi16(a, N); }
INLINE Int all(int32_t x) { return _mm512_set1_epi32(x); }
INLINE Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
INLINE Int byte_of(Int a, int j) { return _mm512_and_si512(_mm512_srli_epi32(a, 8 * j), _mm512_set1_epi32(0xff)); }
INLINE Vec to_vec(Int a) { return _mm512_cvtepi32_ps(a); }
// acc += products of four neighbouring bytes; codes unsigned, x signed
template <bool kEightBits>
INLINE Int dot(Int acc, Int codes, int32_t x) { return _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(x)); }
INLINE Vec halves_to_vec(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
INLINE Vec bytes_to_vec(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
INLINE Vec signed_to_vec(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
INLINE void store_bytes(int8_t* p, Vec whole) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(whole.v)));
}

#else

using Int = __m256i;
constexpr bool kBytesSigned = true;  // maddubs saturates with unsigned 8-bit codes; |w| times x with w's sign does not
INLINE Int load_int(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
INLINE Int and_int(Int a, int byte) { return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(byte))); }
INLINE Int or_int(Int a, Int b) { return _mm256_or_si256(a, b); }
INLINE Int xor_int(Int a, int byte) { return _mm256_xor_si256(a, _mm256_set1_epi8(static_cast<char>(byte))); }
template <int N>
INLINE Int up(Int a) { return N == 0 ? a : _mm256_slli_epi16(a, N); }
template <int N>
INLINE Int down(Int a) { return N == 0 ? a : _mm256_srli_epi16(a, N); }
INLINE Int all(int32_t x) { return _mm256_set1_epi32(x); }
INLINE Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
INLINE Int byte_of(Int a, int j) { return _mm256_and_si256(_mm256_srli_epi32(a, 8 * j), _mm256_set1_epi32(0xff)); }
INLINE Vec to_vec(Int a) { return _mm256_cvtepi32_ps(a); }
template <bool kEightBits>
INLINE Int dot(Int acc, Int codes, int32_t x) {
  const __m256i xs = _mm256_set1_epi32(x);
  const __m256i pairs = kEightBits ? _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(xs, codes))
                                   : _mm256_maddubs_epi16(codes, xs);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE Vec halves_to_vec(const uint8_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
INLINE Vec bytes_to_vec(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
INLINE Vec signed_to_vec(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
INLINE void store_bytes(int8_t* p, Vec whole) {
  const __m256i wide = _mm256_cvtps_epi32(whole.v);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

#endif

// ---- a tile's width

struct Wide {  // 16 floats
  Vec part[kParts];
};
struct Codes {  // 64 bytes, or 16 integers
  Int part[kParts];
};

#define PER_PART(expression)       \
  Wide out;                        \
  EACH_PART out.part[p] = expression; \
  return out

INLINE Wide wide_halves(const uint8_t* at) { PER_PART(halves_to_vec(at + p * 2 * Vec::kLanes)); }
INLINE Wide wide_bytes(const uint8_t* at) { PER_PART(bytes_to_vec(at + p * Vec::kLanes)); }
INLINE Wide wide_signed(const uint8_t* at) { PER_PART(signed_to_vec(at + p * Vec::kLanes)); }
INLINE Wide wide_floats(const float* at) { PER_PART(load(at + p * Vec::kLanes)); }
INLINE Wide operator*(const Wide& a, const Wide& b) { PER_PART(a.part[p] * b.part[p]); }
INLINE Wide negative(const Wide& a) { PER_PART(-a.part[p]); }
#undef PER_PART

// ---- weights

// Scales of a super, and of one of its blocks; `low` only where the kind has one.
struct Scales {
  Wide scale, low;
};

template <Quant K>
INLINE Scales head(const uint8_t* at) {
  Scales s;
  if constexpr (K == Quant::kInt8) {
    s.scale = wide_floats(reinterpret_cast<const float*>(at));
  } else {
    s.scale = wide_halves(at);
  }
  if constexpr (K == Quant::kInt4) s.low = negative(s.scale * wide_bytes(at + 32));
  if constexpr (traits(K).low && K != Quant::kInt4) s.low = wide_halves(at + 32);
  return s;
}

// `half` matters for kinds with a scale for 16 inputs.
template <Quant K>
INLINE Scales of_block(const Scales& super, const uint8_t* at, int half) {
  if constexpr (K == Quant::kQ4_K || K == Quant::kQ5_K) {
    return {super.scale * wide_bytes(at), negative(super.low * wide_bytes(at + kTile))};
  } else if constexpr (K == Quant::kQ6_K) {
    return {super.scale * wide_signed(at + kTile * half), {}};
  } else {
    return super;
  }
}

template <int B, int G>
INLINE Int high_bits(const uint8_t* at, Int code) {  // codes of group G with their bits above the fourth
  if constexpr (B == 5) {
    const Int bits = load_int(at);
    return or_int(code, and_int(G < 4 ? up<G < 4 ? 4 - G : 0>(bits) : down<G < 4 ? 0 : G - 4>(bits), 0x10));
  } else if constexpr (B == 6) {
    const Int bits = load_int(at + 64 * (G / 4));
    return or_int(code, and_int(G % 4 < 2 ? up<G % 4 < 2 ? 4 - 2 * (G % 4) : 0>(bits) : down<G % 4 < 2 ? 0 : 2 * (G % 4) - 4>(bits), 0x30));
  } else {
    return code;
  }
}

template <int B, int G>
INLINE void group_of(const uint8_t* at, int part, Codes (&code)[8]) {
  const uint8_t* mine = at + part * (64 / kParts);
  if constexpr (B == 8) {
    code[G].part[part] = load_int(mine + 64 * G);
    code[G + 4].part[part] = load_int(mine + 64 * (G + 4));
  } else {
    const Int both = load_int(mine + 64 * G);
    code[G].part[part] = high_bits<B, G>(mine + 256, and_int(both, 0x0f));
    code[G + 4].part[part] = high_bits<B, G + 4>(mine + 256, and_int(down<4>(both), 0x0f));
  }
}

// The 8 groups of a block; `at` points to its codes, behind the sub-scales.
template <Quant K>
INLINE void decode(const uint8_t* at, Codes (&code)[8]) {
  EACH_PART {
    group_of<traits(K).bits, 0>(at, p, code);
    group_of<traits(K).bits, 1>(at, p, code);
    group_of<traits(K).bits, 2>(at, p, code);
    group_of<traits(K).bits, 3>(at, p, code);
  }
}

// body(std::integral_constant-like kind) for a kind known at run time.
template <Quant K>
struct KindOf {
  static constexpr Quant value = K;
};
template <typename Body>
static void with_kind(Quant kind, const Body& body) {
  switch (kind) {
    case Quant::kQ8_0: return body(KindOf<Quant::kQ8_0>{});
    case Quant::kQ4_0: return body(KindOf<Quant::kQ4_0>{});
    case Quant::kQ4_1: return body(KindOf<Quant::kQ4_1>{});
    case Quant::kQ5_0: return body(KindOf<Quant::kQ5_0>{});
    case Quant::kQ5_1: return body(KindOf<Quant::kQ5_1>{});
    case Quant::kQ4_K: return body(KindOf<Quant::kQ4_K>{});
    case Quant::kQ5_K: return body(KindOf<Quant::kQ5_K>{});
    case Quant::kQ6_K: return body(KindOf<Quant::kQ6_K>{});
    case Quant::kInt8: return body(KindOf<Quant::kInt8>{});
    case Quant::kInt4: return body(KindOf<Quant::kInt4>{});
  }
}

// Whether a product is worth waking the other threads for: below some 15 microseconds it is not.
static inline bool worth_threads(const QuantWeight& weight, int64_t rows) {
  return weight.tiles() * weight.tile_bytes() > (512 << 10) || rows * weight.in * weight.out > (1 << 20);
}

// body(first tile, last tile, first chunk, last chunk) over all pairs, in parallel: weights of a job fit into the L2 cache.
template <typename Body>
static void over_tiles(const QuantWeight& weight, int64_t chunks, bool worth, const Body& body) {
  const int64_t threads = worth ? omp_get_max_threads() : 1, tiles = weight.tiles();
  int64_t size = threads == 1 && chunks == 1 ? tiles : (384 << 10) / (weight.tile_bytes() + 1);
  const int64_t fair = (tiles + threads - 1) / threads;
  size = size < 1 ? 1 : size > fair ? fair : size;
  const int64_t groups = (tiles + size - 1) / size;
  int64_t parts = groups >= threads ? 1 : (2 * threads + groups - 1) / groups;
  if (parts > chunks) parts = chunks;
// monotonic: plain dynamic is a call that libiomp5 lacks
#pragma omp parallel for schedule(monotonic : dynamic, 1) if (threads > 1)
  for (int64_t job = 0; job < groups * parts; ++job) {
    const int64_t first = job / parts * size, part = job % parts;
    body(first, first + size < tiles ? first + size : tiles, chunks * part / parts, chunks * (part + 1) / parts);
  }
}

// Write 16 outputs of a row, with bias and residual; `width` < 16 at the end.
template <typename T>
INLINE void finish(const QuantLinear<T>& op, int64_t row, int64_t column, int width, const Wide& sum) {
  EACH_PART {
    const int64_t at_column = column + p * Vec::kLanes, place = row * op.weight.out + at_column;
    const int left = width - p * Vec::kLanes, w = left > Vec::kLanes ? Vec::kLanes : left;
    if (w <= 0) break;
    Vec value = sum.part[p];
    if (op.bias) value = value + at(op.bias + at_column, 0, w);
    if (op.residual) value = value + at(op.residual + place, 0, w);
    put(op.y + place, 0, w, value);
  }
}

}  // namespace mix::ISA
