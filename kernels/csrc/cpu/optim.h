// AdamW over many tensors at once.
#pragma once
#include "common.h"

namespace mix {

// A stretch of one tensor; moments are float, parameters and gradients float or bf16.
struct AdamwPiece {
  void* param;
  const void* grad;
  float *mean, *square;
  int64_t count;
  bool param_half, grad_half;
};

struct Adamw {
  float beta1, beta2, eps;
  float rate;   // lr / (1 - beta1^step)
  float root;   // 1 / sqrt(1 - beta2^step)
  float decay;  // 1 - lr * weight_decay
};
}  // namespace mix

DECLARE_KERNEL(void, adamw, const Adamw& op, const AdamwPiece* pieces, int64_t count)
