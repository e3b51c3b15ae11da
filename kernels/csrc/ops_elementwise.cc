#include "paddle/extension.h"

#include "cpu/elementwise.h"

static std::vector<paddle::Tensor> Silu(const paddle::Tensor& x) {
  auto y = paddle::empty_like(x);
  if (x.dtype() == paddle::DataType::FLOAT32)
    CALL_KERNEL(silu_f32, x.data<float>(), y.data<float>(), x.numel());
  else
    CALL_KERNEL(silu_bf16, static_cast<const mix::bf16*>(x.data()), static_cast<mix::bf16*>(y.data()), x.numel());
  return {y};
}

static std::vector<std::vector<int64_t>> SameShape(std::vector<int64_t> x) { return {x}; }
static std::vector<paddle::DataType> SameType(paddle::DataType x) { return {x}; }

PD_BUILD_OP(mix_silu)
    .Inputs({"X"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(Silu))
    .SetInferShapeFn(PD_INFER_SHAPE(SameShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SameType));
