// Products of a few rows, as decoding makes them: each weight is read once, so memory decides, and a plain stream over it wins.
#pragma once
#include "common.h"

namespace mix {

// Weights (in, out) as oneDNN packs them with AVX-512: blocks of 64 columns one after the other, in each all rows of `in`
// (bf16: pairs of rows interleaved), padded with zeros.
struct FewRows {
  int64_t rows, in, out;
  int64_t block;  // elements from one block of columns to the next
  int act;        // 0 none, 1 SiLU, 2 GELU, 3 GELU by tanh, 4 quick GELU: kernels.dnn's numbers
  // of x's type, or null: (out) added, then after the activation (rows, out) multiplied and (rows, out) added
  const void *bias, *gate, *residual;
};
constexpr int64_t kFewRows = 4;
constexpr int64_t kFewRowsBlock = 64;

}  // namespace mix

// Whether this instruction set has the kernel; the layout is never met without AVX-512.
DECLARE_KERNEL(bool, few_rows_f32, const FewRows& what, const float* x, const float* weights, float* y)
DECLARE_KERNEL(bool, few_rows_bf16, const FewRows& what, const bf16* x, const bf16* weights, bf16* y)
