// All layers of a Llama-like decoder for one new token a row, in one team of threads: norm, q k v, rope, cache, attention, o, norm, gate
// and up, SwiGLU, down, with both residuals. Weights are quantised; everything between is float.
#pragma once
#include "quant.h"

namespace mix {

struct DecoderMatrix {
  QuantWeight weight;
  const float* bias;  // may be null
};

struct DecoderLayer {
  const float *attn_norm, *mlp_norm, *q_norm, *k_norm;  // the last two over a head; may be null
  DecoderMatrix q, k, v, o, gate, up, down;
  void *keys, *values;  // (pages, page size, G, D)
  int64_t window;       // keys that a row sees, itself included; 0: all
};

// x (rows, C) is read and written. Row i is token lengths[i] - 1 of its text, and its text's keys lie in the pages table[i] (in page i
// where there is no table). Rows of one text may follow each other: each sees what is before it.
struct Decoder {
  const DecoderLayer* layers;
  int64_t count, rows, width, heads, groups, dim, inner;
  float* x;
  const int32_t *lengths, *table;  // table (rows, blocks)
  int64_t blocks, page;            // page: tokens of a page
  bool cache_bf16, interleaved;
  const float *cos, *sin;  // (rows, turned / 2)
  int64_t turned;          // numbers of a head that are turned
  float eps, scale;
};

}  // namespace mix

DECLARE_KERNEL(void, decoder, const Decoder& op)
