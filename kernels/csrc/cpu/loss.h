// Cross entropy over a large vocabulary.
#pragma once
#include "common.h"

// logits (rows, vocabulary), labels (rows); rows whose label is `ignored` count for nothing.
// loss[row] = lse[row] - logits[row, label]; the gradient of scale * sum(loss) is scale (softmax - one hot), also in place.
#define DECLARE_LOSS(T)                                                                                                          \
  DECLARE_KERNEL(void, cross_entropy, const T* logits, const int64_t* labels, int64_t ignored, int64_t rows, int64_t vocabulary, \
                 float* loss, float* lse)                                                                                        \
  DECLARE_KERNEL(void, cross_entropy_grad, const T* logits, const int64_t* labels, int64_t ignored, int64_t rows,                \
                 int64_t vocabulary, const float* lse, float scale, T* d_logits)

DECLARE_LOSS(float)
DECLARE_LOSS(bf16)
