// Packing of keys and values, and the additive bias of one tile of scores, shared by the forward and the backward kernel.
#pragma once

#include "attention.h"
#include "attention_simd.h"

// Loops over uneven work say `monotonic : dynamic`: GCC's plain `dynamic` calls entry points that Paddle's libiomp5 lacks. They would be
// taken from a libgomp that happens to be loaded, which sees one thread, and every thread would do all the work.

namespace mix::ISA {

constexpr float kLog2e = 1.44269504088896341f;

// Keys [first, last) of one head as panels of 8 keys, [panel][word of D][8]; rows beyond the end are zero. Panels are `8 * width` apart.
template <typename T, bool Pair>
void pack_panels(const T* rows, int64_t pitch, int64_t first, int64_t last, int64_t dim, float* to) {
  const int64_t width = round_up(words<Pair>(dim), 8);
  alignas(64) float stage[8 * 512];
  for (int64_t j = first; j < last; j += 8) {
    for (int64_t i = 0; i < 8; ++i) {
      if (j + i < last)
        copy_row<T, Pair>(rows + (j + i) * pitch, dim, stage + i * width, width);
      else
        std::memset(stage + i * width, 0, width * 4);
    }
    float* panel = to + j / 8 * 8 * width;
    for (int64_t d = 0; d < width; d += 8) transpose8(stage + d, width, panel + d * 8, 8);
  }
}

// Rows [first, last) of one head for products that sum over them: [8 of D][word of rows][8]; `depth` words a panel; first is even.
template <typename T, bool Pair>
void pack_columns(const T* rows, int64_t pitch, int64_t first, int64_t last, int64_t dim, int64_t depth, float* to) {
  constexpr int64_t kStep = Pair ? 2 : 1;
  const int64_t width = round_up(dim, 8);
  alignas(64) float stage[512], other[512], out[512];
  for (int64_t j = first; j < last; j += kStep) {
    float* word_row = out;
    if constexpr (Pair) {
      copy_row<T, true>(rows + j * pitch, dim, stage, width / 2);
      if (j + 1 < last)
        copy_row<T, true>(rows + (j + 1) * pitch, dim, other, width / 2);
      else
        std::memset(other, 0, width * 2);
      const uint16_t *a = reinterpret_cast<uint16_t*>(stage), *b = reinterpret_cast<uint16_t*>(other);
      uint32_t* w = reinterpret_cast<uint32_t*>(out);
      for (int64_t d = 0; d < width; ++d) w[d] = a[d] | static_cast<uint32_t>(b[d]) << 16;
    } else {
      copy_row<T, false>(rows + j * pitch, dim, out, width);
    }
    for (int64_t d = 0; d < width; d += 8) std::memcpy(to + (d * depth + j / kStep * 8), word_row + d, 32);
  }
}

// What is added to the scores of keys [key, key + kRows) and queries [query, query + kQueries), in units of log2.
class Bias {
 public:
  Bias(const Attention& a, int64_t sequence, int64_t head) : a_(a), s_(a.sequences[sequence]) {
    offset_ = sequence * a.mask.batch + head * a.mask.head;
  }

  // Whether any of these scores is touched: by the mask, by causality or by the end of the keys.
  bool touches(int64_t key, int64_t query) const {
    return a_.mask.kind != MaskKind::kNone || key + kRows > s_.keys || (a_.causal && key + kRows - 1 > query + s_.keys - s_.queries);
  }

  // Keys that the queries before `query_end` can see at all.
  int64_t visible(int64_t query_end) const {
    return a_.causal ? std::clamp<int64_t>(query_end + s_.keys - s_.queries, 0, s_.keys) : s_.keys;
  }

  void fill(int64_t key, int64_t query, float* to) const {
    const int64_t rows = std::min<int64_t>(kRows, s_.keys - key), queries = std::min<int64_t>(kQueries, s_.queries - query);
    switch (a_.mask.kind) {
      case MaskKind::kNone: std::fill(to, to + kRows * kQueries, 0.0f); break;
      case MaskKind::kBool: read(static_cast<const bool*>(a_.mask.data), key, query, rows, queries, to); break;
      case MaskKind::kFloat: read(static_cast<const float*>(a_.mask.data), key, query, rows, queries, to); break;
      case MaskKind::kBf16: read(static_cast<const bf16*>(a_.mask.data), key, query, rows, queries, to); break;
    }
    for (int64_t i = std::max<int64_t>(rows, 0); i < kRows; ++i) std::fill(to + i * kQueries, to + (i + 1) * kQueries, -kInf);
    if (!a_.causal) return;
    for (int64_t i = 0; i < rows; ++i) {  // query sees keys up to query + keys - queries
      const int64_t blind = std::clamp<int64_t>(key + i - (s_.keys - s_.queries) - query, 0, kQueries);
      std::fill(to + i * kQueries, to + i * kQueries + blind, -kInf);
    }
  }

 private:
  static float log2_of(bool keep) { return keep ? 0.0f : -kInf; }
  static float log2_of(float v) {  // a finite number, however low, does not forbid a key: where all are that low, all count
    const float x = v * kLog2e;
    return x == -kInf && v > -kInf ? -std::numeric_limits<float>::max() : x;
  }
  static float log2_of(bf16 v) { return log2_of(to_float(v)); }

  template <typename M>
  void read(const M* data, int64_t key, int64_t query, int64_t rows, int64_t queries, float* to) const {
    const M* at = data + offset_ + query * a_.mask.query + key * a_.mask.key;
    if (a_.mask.query == 0) {
      for (int64_t i = 0; i < rows; ++i) std::fill(to + i * kQueries, to + (i + 1) * kQueries, log2_of(at[i * a_.mask.key]));
      return;
    }
    for (int64_t n = 0; n < queries; ++n, at += a_.mask.query)
      for (int64_t i = 0; i < rows; ++i) to[i * kQueries + n] = log2_of(at[i * a_.mask.key]);
    for (int64_t i = 0; i < rows; ++i) std::fill(to + i * kQueries + queries, to + (i + 1) * kQueries, 0.0f);
  }

  const Attention& a_;
  const Sequence& s_;
  int64_t offset_;
};

}  // namespace mix::ISA
