// Linear layers over quantised weights: kinds, the interleaved layout that Python packs (kernels/quant_layout.py), and the ops.
//
// A weight (in, out) lies in tiles of 16 outputs. A tile is a row of supers; a super is a header and then its blocks of 32 inputs:
//   header  one value an output (16 of each): see Traits
//   block   [sub-scales][codes]: byte 64 g + 4 r + j of the codes belongs to output r and input 4 g + j, so that a 32-bit lane
//           holds the four neighbours that a dot-product instruction wants. 4-bit codes: groups g and g + 4 share a byte (low and
//           high half). Bit 4 (5-bit kinds) follows in 64 bytes, group g at bit g; bits 4 and 5 (6-bit) in two times 64 bytes,
//           group g of 4 at bits 2 g.
#pragma once
#include "common.h"

namespace mix {

enum class Quant : int64_t { kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K, kInt8, kInt4 };

struct Traits {
  int bits, offset;                    // a code stands for code - offset
  int header, sub, supers;             // bytes of a header, of a block's sub-scales, blocks of a super (0: see blocks_of_super)
  bool low;                            // whether weights are scale * code + low
};

inline constexpr Traits traits(Quant kind) {
  switch (kind) {
    case Quant::kQ8_0: return {8, 128, 32, 0, 1, false};  // float16 scale
    case Quant::kQ4_0: return {4, 8, 32, 0, 1, false};
    case Quant::kQ4_1: return {4, 0, 64, 0, 1, true};     // float16 scale, float16 low
    case Quant::kQ5_0: return {5, 16, 32, 0, 1, false};
    case Quant::kQ5_1: return {5, 0, 64, 0, 1, true};
    case Quant::kQ4_K: return {4, 0, 64, 32, 8, true};    // times uint8 sub-scale and sub-low, the low is subtracted
    case Quant::kQ5_K: return {5, 0, 64, 32, 8, true};
    case Quant::kQ6_K: return {6, 32, 32, 32, 8, false};  // times int8 sub-scales, one for 16 inputs
    case Quant::kInt8: return {8, 128, 64, 0, 0, false};  // float32 scale of the whole output
    default: return {4, 0, 48, 0, 0, true};               // kInt4: float16 scale, uint8 zero point; scale * (code - zero)
  }
}

constexpr int kTile = 16, kBlock = 32;

struct QuantWeight {
  const uint8_t* data;
  int64_t in, out, group;  // group: of kInt4, a multiple of 32
  Quant kind;

  int64_t tiles() const { return (out + kTile - 1) / kTile; }
  int64_t blocks() const { return (in + kBlock - 1) / kBlock; }
  int64_t blocks_of_super() const {
    return kind == Quant::kInt8 ? blocks() : kind == Quant::kInt4 ? group / kBlock : traits(kind).supers;
  }
  int64_t supers() const { return blocks() == 0 ? 0 : (blocks() + blocks_of_super() - 1) / blocks_of_super(); }
  int64_t block_bytes() const { return traits(kind).sub + 64 * traits(kind).bits; }
  int64_t tile_bytes() const { return supers() * (traits(kind).header + blocks_of_super() * block_bytes()); }
};

// y (rows, out) = x (rows, in) w + bias + residual; bias (out) and residual (rows, out) may be null.
template <typename T>
struct QuantLinear {
  QuantWeight weight;
  int64_t rows;
  const T* x;
  const float* bias;
  const T* residual;
  T* y;
};

// x in 8 bits, in blocks of 32 inputs. Rows go in chunks; of a chunk of R rows whose first is f, block b of row r lies at f blocks + b R + r.
struct Rounded {
  int64_t blocks;
  int8_t* codes;         // 32 each
  float *step, *sum;     // x = step * code; sum of the rounded x
  int32_t* halves;       // sums of the codes of a block's first and second half
};
// Bytes behind the pointers for so many blocks of all rows together, and the pointers into such memory, aligned to 64.
inline constexpr int64_t rounded_bytes(int64_t blocks) { return blocks * (kBlock + 4 * sizeof(float)) + 4 * 64; }
inline Rounded rounded_at(char* memory, int64_t rows, int64_t blocks) {
  const int64_t n = rows * blocks;
  const auto take = [&](int64_t bytes) {
    char* at = memory;
    memory += (bytes + 63) / 64 * 64;
    return at;
  };
  Rounded to{blocks, reinterpret_cast<int8_t*>(take(n * kBlock)), nullptr, nullptr, nullptr};
  to.step = reinterpret_cast<float*>(take(n * sizeof(float)));
  to.sum = reinterpret_cast<float*>(take(n * sizeof(float)));
  to.halves = reinterpret_cast<int32_t*>(take(n * 2 * sizeof(int32_t)));
  return to;
}

}  // namespace mix

// What quant_linear is made of, for kernels that bring their own threads: into how many chunks rows go, rounding blocks [from, to)
// of the rows of a chunk, and tiles [first, last) of the product for chunks [begin, end).
DECLARE_KERNEL(int64_t, quant_chunks, int64_t rows)
DECLARE_KERNEL(void, quant_round, const QuantLinear<float>& op, const Rounded& x, int64_t chunk, int64_t from, int64_t to)
DECLARE_KERNEL(void, quant_tiles, const QuantLinear<float>& op, const Rounded& x, int64_t first, int64_t last, int64_t begin, int64_t end)

// quant_linear rounds x to 8 bits in blocks of 32; quant_exact multiplies x as it is with the weights' exact values, in float.
// quant_dense: the weight (in, out). quant_rows: outputs `ids` of it, (count, in).
#define DECLARE_QUANT(T)                                                                        \
  DECLARE_KERNEL(void, quant_linear, const QuantLinear<T>& op)                                  \
  DECLARE_KERNEL(void, quant_exact, const QuantLinear<T>& op)                                   \
  DECLARE_KERNEL(void, quant_dense, const QuantWeight& weight, T* y)                            \
  DECLARE_KERNEL(void, quant_rows, const QuantWeight& weight, const int64_t* ids, int64_t count, T* y)

DECLARE_QUANT(float)
DECLARE_QUANT(bf16)
