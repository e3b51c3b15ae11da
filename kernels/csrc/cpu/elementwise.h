#pragma once
#include "common.h"

DECLARE_KERNEL(void, silu_f32, const float* x, float* y, int64_t n)
DECLARE_KERNEL(void, silu_bf16, const bf16* x, bf16* y, int64_t n)
