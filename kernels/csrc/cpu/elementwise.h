// Activations and their gated forms, with gradients. T is float or bf16; arithmetic is float.
#pragma once
#include "common.h"

namespace mix {
enum class Act { kSilu, kGelu, kGeluTanh, kQuickGelu };

// rows of d gated elements; a row of `value`, `gate` and of their gradients starts every `stride` elements.
template <typename T>
struct Gated {
  const T* value;
  const T* gate;
  int64_t stride, rows, d;
};
}  // namespace mix

#define DECLARE_ELEMENTWISE(T)                                                                            \
  DECLARE_KERNEL(void, act, Act kind, const T* x, T* y, int64_t n)                                        \
  DECLARE_KERNEL(void, act_grad, Act kind, const T* x, const T* dy, T* dx, int64_t n)                     \
  DECLARE_KERNEL(void, glu, Act kind, const Gated<T>& in, T* y)                                           \
  DECLARE_KERNEL(void, glu_grad, Act kind, const Gated<T>& in, const T* dy, T* d_value, T* d_gate)

DECLARE_ELEMENTWISE(float)
DECLARE_ELEMENTWISE(bf16)
