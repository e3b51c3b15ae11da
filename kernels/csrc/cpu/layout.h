// Sums and rearrangements of channels-last maps. T is float or bf16.
#pragma once
#include "common.h"

namespace mix {
// (batch, height, width, channels) of the smaller map
struct Upsample {
  int64_t batch, height, width, channels;
};
}  // namespace mix

#define DECLARE_LAYOUT(T)                                                                                   \
  DECLARE_KERNEL(void, add, const T* a, const T* b, T* y, int64_t n)                                        \
  DECLARE_KERNEL(void, join, const T* a, const T* b, T* y, int64_t rows, int64_t a_width, int64_t b_width)  \
  DECLARE_KERNEL(void, part, const T* y, T* a, T* b, int64_t rows, int64_t a_width, int64_t b_width)        \
  DECLARE_KERNEL(void, upsample, const Upsample& op, const T* x, T* y)                                      \
  DECLARE_KERNEL(void, upsample_grad, const Upsample& op, const T* dy, T* dx)

DECLARE_LAYOUT(float)
DECLARE_LAYOUT(bf16)
