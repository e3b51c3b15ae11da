// y = x w for a quantised w: x is rounded to 8 bits in blocks of 32, products are integer dot products, sums are floats.
//
// Rows of x go in chunks of 8, 4, 2 or 1, and a row's sums are made in one order whatever the chunk and the thread: a result
// does not depend on what else is in the batch.
#include "quant_simd.h"

namespace mix::ISA {
namespace {

#ifdef __AVX512F__
constexpr int kMost = 8;  // rows of a chunk: their sums and a block's codes are held in registers
constexpr int kSideBySide = 4;
#else
constexpr int kMost = 4;
constexpr int kSideBySide = 2;
#endif

int64_t chunks_of(int64_t rows) { return rows / kMost + __builtin_popcountll(rows % kMost); }

struct Chunk {
  int64_t first;
  int rows;
};
Chunk chunk_at(int64_t rows, int64_t index) {
  const int64_t whole = rows / kMost;
  if (index < whole) return {index * kMost, kMost};
  int64_t first = whole * kMost;
  int left = static_cast<int>(rows % kMost), size = kMost / 2;
  for (int64_t skip = index - whole;; size /= 2) {
    if ((left & size) == 0) continue;
    if (skip-- == 0) return {first, size};
    first += size;
    left -= size;
  }
}

template <typename T>
INLINE void round_block(const T* x, const Rounded& to, int64_t place) {
  constexpr int kVecs = kBlock / Vec::kLanes, kHalf = kVecs / 2;
  Vec value[kVecs], most, check;
  for (int i = 0; i < kVecs; ++i) {
    value[i] = load(x + i * Vec::kLanes);
    most = max(abs(value[i]), most);
    check = fma(value[i], Vec(0.0f), check);  // NaN when anything is infinite or NaN
  }
  const float size = largest(most);
  const bool finite = sum(check) == 0.0f, tiny = size < 1e-35f;
  const Vec inverse(tiny || !finite ? 0.0f : 127.0f / size);
  int32_t half[2] = {0, 0};
  for (int h = 0; h < 2; ++h) {
    Vec codes;  // sums of whole numbers below 2^24 are exact
    for (int i = h * kHalf; i < (h + 1) * kHalf; ++i) {
      const Vec code = finite ? round(value[i] * inverse) : Vec();
      store_bytes(&to.codes[place * kBlock + i * Vec::kLanes], code);
      codes += code;
    }
    half[h] = static_cast<int32_t>(sum(codes));
    to.halves[2 * place + h] = half[h];
  }
  to.step[place] = finite ? (tiny ? 0.0f : size / 127.0f) : __builtin_nanf("");
  to.sum[place] = to.step[place] * static_cast<float>(half[0] + half[1]);
}

template <typename T>
void round_chunk(const QuantLinear<T>& op, const Rounded& to, int64_t index, int64_t from, int64_t end) {
  const int64_t in = op.weight.in, whole = in / kBlock;
  const Chunk chunk = chunk_at(op.rows, index);
  for (int r = 0; r < chunk.rows; ++r) {
    const T* x = op.x + (chunk.first + r) * in;
    const int64_t place = chunk.first * to.blocks + r;
    for (int64_t b = from; b < (end < whole ? end : whole); ++b) round_block(x + b * kBlock, to, place + b * chunk.rows);
    if (end <= whole) continue;
    T rest[kBlock] = {};
    std::memcpy(rest, x + whole * kBlock, (in - whole * kBlock) * sizeof(T));
    round_block(rest, to, place + whole * chunk.rows);
  }
}

INLINE int32_t four(const int8_t* p) {
  int32_t out;
  std::memcpy(&out, p, 4);
  return out;
}

// One block's codes by the rows of a chunk. Halves: a scale for the first 16 inputs and one for the others. Rows go four
// abreast, because one row's dot products wait for each other.
template <Quant K, int R>
INLINE void block_by_rows(const Codes (&code)[8], const Scales (&scale)[2], const int8_t* x, const float* step, const float* sum,
                          const int32_t* halves, Wide (&total)[R]) {
  constexpr bool kEight = traits(K).bits == 8, kStarts = traits(K).offset != 0 && !(kEight && kBytesSigned);
  constexpr int kHalves = K == Quant::kQ6_K ? 2 : 1, kAbreast = R < kSideBySide ? R : kSideBySide;
#pragma GCC unroll 8
  for (int first = 0; first < R; first += kAbreast)
    EACH_PART {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        Int acc[kAbreast];
#pragma GCC unroll 8
        for (int i = 0; i < kAbreast; ++i) {
          const int32_t* of = halves + 2 * (first + i);  // makes good that codes are stored with an offset
          acc[i] = kStarts ? all(-traits(K).offset * (kHalves == 2 ? of[h] : of[0] + of[1])) : all(0);
        }
#pragma GCC unroll 8
        for (int g = h * 4; g < (kHalves == 2 ? h * 4 + 4 : 8); ++g)
#pragma GCC unroll 8
          for (int i = 0; i < kAbreast; ++i)
            acc[i] = dot<kEight>(acc[i], code[g].part[p], four(x + (first + i) * kBlock + 4 * g));
#pragma GCC unroll 8
        for (int i = 0; i < kAbreast; ++i) {
          const int r = first + i;
          const Vec product = K == Quant::kInt8 ? to_vec(acc[i]) : to_vec(acc[i]) * scale[h].scale.part[p];
          total[r].part[p] = fma(product, Vec(step[r]), total[r].part[p]);
          if (traits(K).low && h == 0) total[r].part[p] = fma(scale[0].low.part[p], Vec(sum[r]), total[r].part[p]);
        }
      }
    }
}

template <Quant K, int R, typename T>
void tile_by_chunk(const QuantLinear<T>& op, const Rounded& x, int64_t tile, int64_t first_row) {
  const QuantWeight& w = op.weight;
  const uint8_t* at = w.data + tile * w.tile_bytes();
  const int64_t whole = K == Quant::kInt8 || K == Quant::kInt4 ? w.blocks_of_super() : traits(K).supers;
  const int64_t place = first_row * x.blocks;
  const int8_t* codes = &x.codes[place * kBlock];
  const float *step = &x.step[place], *sum = &x.sum[place];
  const int32_t* halves = &x.halves[place * 2];
  Wide total[R];
  Scales super;
  for (int64_t done = 0; done < x.blocks; done += whole) {
    super = head<K>(at);
    at += traits(K).header;
    const int64_t n = x.blocks - done < whole ? x.blocks - done : whole;
    for (int64_t b = 0; b < n; ++b) {
      Codes code[8];
      decode<K>(at + traits(K).sub, code);
      if constexpr (traits(K).bits == 8 && kBytesSigned)
        for (int g = 0; g < 8; ++g) EACH_PART code[g].part[p] = xor_int(code[g].part[p], 0x80);
      const Scales scale[2] = {of_block<K>(super, at, 0), of_block<K>(super, at, 1)};
      block_by_rows<K, R>(code, scale, codes, step, sum, halves, total);
      at += traits(K).sub + 64 * traits(K).bits;
      codes += R * kBlock;
      step += R;
      sum += R;
      halves += 2 * R;
    }
  }
  const int64_t column = tile * kTile, left = w.out - column;
  for (int r = 0; r < R; ++r) {
    if constexpr (K == Quant::kInt8) total[r] = total[r] * super.scale;
    finish(op, first_row + r, column, static_cast<int>(left < kTile ? left : kTile), total[r]);
  }
}

template <Quant K, typename T>
void tiles(const QuantLinear<T>& op, const Rounded& x, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const auto one = [&](int64_t tile, int64_t index) {
    const Chunk chunk = chunk_at(op.rows, index);
    switch (chunk.rows) {
      case 8: return tile_by_chunk<K, kMost, T>(op, x, tile, chunk.first);
      case 4: return tile_by_chunk<K, 4, T>(op, x, tile, chunk.first);
      case 2: return tile_by_chunk<K, 2, T>(op, x, tile, chunk.first);
      default: return tile_by_chunk<K, 1, T>(op, x, tile, chunk.first);
    }
  };
  if (op.rows <= kMost) {  // weights come from memory: each tile once
    for (int64_t tile = first; tile < last; ++tile)
      for (int64_t index = begin; index < end; ++index) one(tile, index);
  } else {  // the job's weights stay in the L2 cache, a chunk of x in the L1 cache
    for (int64_t index = begin; index < end; ++index)
      for (int64_t tile = first; tile < last; ++tile) one(tile, index);
  }
}

template <typename T>
void multiply(const QuantLinear<T>& op) {
  const int64_t blocks = op.weight.blocks(), chunks = chunks_of(op.rows);
  Scratch<char> memory(rounded_bytes(op.rows * blocks));
  const Rounded x = rounded_at(memory.get(), op.rows, blocks);
  parallel_for(chunks, op.rows * op.weight.in > 16384, [&](int64_t chunk) { round_chunk(op, x, chunk, 0, blocks); });
  with_kind(op.weight.kind, [&](auto kind) {
    over_tiles(op.weight, chunks, worth_threads(op.weight, op.rows), [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
      tiles<decltype(kind)::value, T>(op, x, first, last, begin, end);
    });
  });
}

}  // namespace

void quant_linear(const QuantLinear<float>& op) { multiply(op); }
void quant_linear(const QuantLinear<bf16>& op) { multiply(op); }

int64_t quant_chunks(int64_t rows) { return chunks_of(rows); }
void quant_round(const QuantLinear<float>& op, const Rounded& x, int64_t chunk, int64_t from, int64_t to) {
  round_chunk(op, x, chunk, from, to);
}
void quant_tiles(const QuantLinear<float>& op, const Rounded& x, int64_t first, int64_t last, int64_t begin, int64_t end) {
  with_kind(op.weight.kind, [&](auto kind) { tiles<decltype(kind)::value, float>(op, x, first, last, begin, end); });
}

}  // namespace mix::ISA
