// Exact values of quantised weights: a panel of 16 outputs at a time, for products in float, whole weights, and single outputs.
#include "quant_simd.h"

namespace mix::ISA {
namespace {

constexpr int kRows = 4;  // rows of x that share a read of the panel

// The value of each code: scale * (code - offset) + low, rounded once, as the formats' reference formulas do.
template <Quant K>
INLINE void block_values(const Codes (&code)[8], const Scales (&scale)[2], int64_t count, float* panel) {
  for (int64_t k = 0; k < count; ++k) {
    const Scales& s = scale[k / 16];
    EACH_PART {
      const Vec value = to_vec(add_int(byte_of(code[k / 4].part[p], k % 4), all(-traits(K).offset)));
      store(panel + k * kTile + p * Vec::kLanes,
            traits(K).low ? fma(value, s.scale.part[p], s.low.part[p]) : value * s.scale.part[p]);
    }
  }
}

// A tile's values, (in, 16).
template <Quant K>
void fill_panel(const QuantWeight& w, int64_t tile, float* panel) {
  const uint8_t* at = w.data + tile * w.tile_bytes();
  const int64_t whole = w.blocks_of_super(), blocks = w.blocks();
  for (int64_t done = 0; done < blocks; done += whole) {
    const Scales super = head<K>(at);
    at += traits(K).header;
    for (int64_t b = done; b < blocks && b < done + whole; ++b) {
      Codes code[8];
      decode<K>(at + traits(K).sub, code);
      const Scales scale[2] = {of_block<K>(super, at, 0), of_block<K>(super, at, 1)};
      const int64_t left = w.in - b * kBlock;
      block_values<K>(code, scale, left < kBlock ? left : kBlock, panel + b * kBlock * kTile);
      at += traits(K).sub + 64 * traits(K).bits;
    }
  }
}

void panel_of(const QuantWeight& w, int64_t tile, float* panel) {
  with_kind(w.kind, [&](auto kind) { fill_panel<decltype(kind)::value>(w, tile, panel); });
}

template <int R, typename T>
void rows_by_panel(const QuantLinear<T>& op, const float* panel, int64_t row, int64_t tile) {
  const int64_t in = op.weight.in, column = tile * kTile, left = op.weight.out - column;
  Wide total[R];
  for (int64_t k = 0; k < in; ++k)
    for (int r = 0; r < R; ++r)
      EACH_PART total[r].part[p] = fma(Vec(to_float(op.x[(row + r) * in + k])), load(panel + k * kTile + p * Vec::kLanes), total[r].part[p]);
  for (int r = 0; r < R; ++r) finish(op, row + r, column, static_cast<int>(left < kTile ? left : kTile), total[r]);
}

template <typename T>
void multiply_exactly(const QuantLinear<T>& op) {
  const int64_t chunks = (op.rows + 255) / 256;
  over_tiles(op.weight, chunks, worth_threads(op.weight, op.rows), [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
    Scratch<float> panel(op.weight.in * kTile);
    const int64_t stop = end * 256 < op.rows ? end * 256 : op.rows;
    for (int64_t tile = first; tile < last; ++tile) {
      panel_of(op.weight, tile, panel.get());
      int64_t row = begin * 256;
      for (; row + kRows <= stop; row += kRows) rows_by_panel<kRows>(op, panel.get(), row, tile);
      for (; row < stop; ++row) rows_by_panel<1>(op, panel.get(), row, tile);
    }
  });
}

template <typename T>
void dense(const QuantWeight& weight, T* y) {
  over_tiles(weight, 1, weight.in * weight.out > 16384, [&](int64_t first, int64_t last, int64_t, int64_t) {
    Scratch<float> panel(weight.in * kTile);
    for (int64_t tile = first; tile < last; ++tile) {
      panel_of(weight, tile, panel.get());
      const int64_t column = tile * kTile, left = weight.out - column < kTile ? weight.out - column : kTile;
      for (int64_t k = 0; k < weight.in; ++k)
        lanes(left, [&] LANE { put(y + k * weight.out + column, i, w, load(&panel[k * kTile + i])); });
    }
  });
}

template <typename T>
void rows_of(const QuantWeight& weight, const int64_t* ids, int64_t count, T* y) {
  parallel_for(count, count * weight.in > 4096, [&](int64_t n) {
    Scratch<float> panel(weight.in * kTile);
    panel_of(weight, ids[n] / kTile, panel.get());
    for (int64_t k = 0; k < weight.in; ++k) y[n * weight.in + k] = from_float<T>(panel[k * kTile + ids[n] % kTile]);
  });
}

}  // namespace

#define DEFINE(T)                                                                                                                   \
  void quant_exact(const QuantLinear<T>& op) { multiply_exactly(op); }                                                             \
  void quant_dense(const QuantWeight& weight, T* y) { dense(weight, y); }                                                          \
  void quant_rows(const QuantWeight& weight, const int64_t* ids, int64_t count, T* y) { rows_of(weight, ids, count, y); }

DEFINE(float)
DEFINE(bf16)

}  // namespace mix::ISA
