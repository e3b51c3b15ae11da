// Attention on the CPU: softmax(q k^T * scale + mask) v and its gradient, for padded batches and for packed sequences alike.
#pragma once
#include "common.h"

namespace mix {

// One sequence: where its first row lies (in elements) and how many rows there are.
struct Sequence {
  int64_t q, k, v, out;  // offsets of row 0, head 0
  int64_t row;           // index of its first query among all, for the statistics
  int64_t queries, keys;
};

struct Pitch {
  int64_t row, head;  // in elements; the last axis is dense
};

enum class MaskKind { kNone, kBool, kFloat, kBf16 };

// A mask of (B, H, L, M) with a stride of 0 along broadcast axes.
struct Mask {
  const void* data = nullptr;
  MaskKind kind = MaskKind::kNone;
  int64_t batch = 0, head = 0, query = 0, key = 0;
};

struct Attention {
  const Sequence* sequences;
  int64_t count;
  int64_t heads, groups, dim;
  const void *q, *k, *v;
  Pitch q_pitch, k_pitch, v_pitch, out_pitch;  // gradients have out_pitch (dq) and the dense pitch of k (dk, dv)
  Mask mask;
  float scale;
  bool causal;  // aligned bottom-right
};

// The per-row statistics are two floats at (row * heads + head): m, the shift used inside exp2, and 1 / sum.
struct AttentionGrad {
  const void *out, *dout;
  const float* stats;
  void *dq, *dk, *dv;
  Pitch dk_pitch;
};

// One query a sequence over cached keys: q (B, H, D), cache (B, M, G, D), or with `table` (B, blocks) a cache (blocks, size, G, D).
struct Decode {
  const void *q, *k, *v;
  void* out;
  const int32_t *lengths, *table;
  int64_t batch, heads, groups, dim, keys;  // keys: most that a sequence may have
  int64_t blocks, block_size;               // of a row of the table
  float scale;
};

constexpr int64_t kSplit = 256;  // keys of one piece of work; fixed, so results do not depend on the number of threads

}  // namespace mix

DECLARE_KERNEL(void, attention_f32, const Attention& a, void* out, float* stats)
DECLARE_KERNEL(void, attention_bf16, const Attention& a, void* out, float* stats)
DECLARE_KERNEL(void, attention_grad_f32, const Attention& a, const AttentionGrad& g)
DECLARE_KERNEL(void, attention_grad_bf16, const Attention& a, const AttentionGrad& g)
DECLARE_KERNEL(void, attention_decode, const Decode& a, bool q_bf16, bool cache_bf16)

// What attention_decode is made of, for kernels that bring their own threads. A head's vectors are padded with zeros to `width`
// floats, and q is multiplied by scale * log2(e) beforehand. A piece is the keys [first, last) of row b for the heads of one group,
// its outcome a state of decode_state floats a head; join makes one head's output from those of its pieces, `step` floats apart.
DECLARE_KERNEL(int64_t, decode_width, int64_t dim)
DECLARE_KERNEL(int64_t, decode_state, int64_t dim)
DECLARE_KERNEL(void, decode_piece, const Decode& a, bool cache_bf16, const float* q, int64_t b, int64_t group, int64_t first, int64_t last,
               float* state)
DECLARE_KERNEL(void, decode_join, const float* states, int64_t pieces, int64_t step, int64_t dim, float* out)
