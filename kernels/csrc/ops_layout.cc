#include "cpu/layout.h"
#include "ops.h"

using namespace mix;
using paddle::Grad;

// ---- a + b, of one shape. No gradient: where one is wanted, the plain op serves.

static std::vector<Tensor> AddForward(const Tensor& a, const Tensor& b) {
  Tensor y = paddle::empty_like(a);
  with_type(a, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(add, in<T>(a), in<T>(b), out<T>(y), a.numel());
  });
  return {y};
}
static std::vector<Dims> AddShape(Dims a, Dims) { return {a}; }
static std::vector<Type> PairType(Type a, Type) { return {a}; }

PD_BUILD_OP(mix_add)
    .Inputs({"A", "B"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(AddForward))
    .SetInferShapeFn(PD_INFER_SHAPE(AddShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(PairType));

// ---- (..., C) and (..., D) -> (..., C + D)

static int64_t rows_of(const Tensor& t) { return t.numel() == 0 ? 0 : t.numel() / t.shape().back(); }

static Dims joined(Dims a, const Dims& b) {
  a.back() = a.back() < 0 || b.back() < 0 ? -1 : a.back() + b.back();
  return a;
}

static std::vector<Tensor> ConcatForward(const Tensor& a, const Tensor& b) {
  Tensor y = paddle::empty(joined(a.shape(), b.shape()), a.dtype(), a.place());
  with_type(a, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(join, in<T>(a), in<T>(b), out<T>(y), rows_of(y), a.shape().back(), b.shape().back());
  });
  return {y};
}
static std::vector<Tensor> ConcatBackward(const Tensor& a, const Tensor& b, const Tensor& dy) {
  Tensor da = paddle::empty_like(a), db = paddle::empty_like(b);
  with_type(a, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(part, in<T>(dy), out<T>(da), out<T>(db), rows_of(dy), a.shape().back(), b.shape().back());
  });
  return {da, db};
}
static std::vector<Dims> ConcatShape(Dims a, Dims b) { return {joined(a, b)}; }

PD_BUILD_OP(mix_concat)
    .Inputs({"A", "B"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(ConcatForward))
    .SetInferShapeFn(PD_INFER_SHAPE(ConcatShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(PairType));
PD_BUILD_GRAD_OP(mix_concat)
    .Inputs({"A", "B", Grad("Out")})
    .Outputs({Grad("A"), Grad("B")})
    .SetKernelFn(PD_KERNEL(ConcatBackward));

// ---- (B, Y, X, C) -> (B, 2 Y, 2 X, C)

static Dims doubled(Dims x) {
  for (size_t i = 1; i < 3; ++i) x[i] = x[i] < 0 ? -1 : 2 * x[i];
  return x;
}
static Upsample upsample_of(const Dims& x) { return {x[0], x[1], x[2], x[3]}; }

static std::vector<Tensor> UpsampleForward(const Tensor& x) {
  Tensor y = paddle::empty(doubled(x.shape()), x.dtype(), x.place());
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(upsample, upsample_of(x.shape()), in<T>(x), out<T>(y));
  });
  return {y};
}
static std::vector<Tensor> UpsampleBackward(const Tensor& dy) {
  Dims small = dy.shape();
  small[1] /= 2;
  small[2] /= 2;
  Tensor dx = paddle::empty(small, dy.dtype(), dy.place());
  with_type(dy, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(upsample_grad, upsample_of(small), in<T>(dy), out<T>(dx));
  });
  return {dx};
}
static std::vector<Dims> UpsampleShape(Dims x) { return {doubled(x)}; }

PD_BUILD_OP(mix_upsample)
    .Inputs({"X"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(UpsampleForward))
    .SetInferShapeFn(PD_INFER_SHAPE(UpsampleShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(same_type));
PD_BUILD_GRAD_OP(mix_upsample)
    .Inputs({Grad("Out")})
    .Outputs({Grad("X")})
    .SetKernelFn(PD_KERNEL(UpsampleBackward));
