// Normalisations and rotary embedding, with gradients. Data is T (float or bf16), weights and statistics are float.
#pragma once
#include "common.h"

namespace mix {

// x (batch, rows, groups * width), channels last. weight and bias (channels); shift (batch, channels) or null is added to x first.
struct GroupNorm {
  int64_t batch, rows, channels, groups;
  float eps;
  bool silu;
  const float *weight, *bias, *shift;
};
struct GroupNormGrads {
  float *weight, *bias;  // (channels)
  float* shift;          // (batch, channels) or null
};

// x (rows, channels). bias null: none; weight null: none. centre false: RMS norm, which has no mean.
struct RowNorm {
  int64_t rows, channels;
  float eps;
  bool centre;
  const float *weight, *bias;
};

// x (batch, length, heads, width); cos and sin (length, width / 2), or one such table for each of the batch.
struct Rope {
  int64_t batch, length, heads, width;
  bool interleaved, per_batch;
  const float *cos, *sin;
  float direction;  // 1, or -1 for the gradient, which turns back
};
}  // namespace mix

// mean, rstd: (batch, groups) or (rows); for RMS norm mean is not touched.
#define DECLARE_NORM(T)                                                                                                        \
  DECLARE_KERNEL(void, group_norm, const GroupNorm& op, const T* x, T* y, float* mean, float* rstd)                            \
  DECLARE_KERNEL(void, group_norm_grad, const GroupNorm& op, const T* x, const T* dy, const float* mean, const float* rstd,    \
                 T* dx, const GroupNormGrads& grads)                                                                           \
  DECLARE_KERNEL(void, row_norm, const RowNorm& op, const T* x, T* y, float* mean, float* rstd)                                \
  DECLARE_KERNEL(void, row_norm_grad, const RowNorm& op, const T* x, const T* dy, const float* mean, const float* rstd, T* dx, \
                 float* d_weight, float* d_bias)                                                                               \
  DECLARE_KERNEL(void, rope, const Rope& op, const T* x, T* y)

DECLARE_NORM(float)
DECLARE_NORM(bf16)
