#include "cpu/norm.h"
#include "ops.h"

using namespace mix;
using paddle::Grad;

// An input that was left out comes as a tensor without elements: Paddle has no optional gradients.
static bool given(const Tensor& t) { return t.numel() > 0; }

static Tensor statistics(Dims shape, const Tensor& x) { return paddle::empty(shape, Type::FLOAT32, x.place()); }

// ---- group_norm

struct Weights {  // float copies that outlive the call
  std::vector<float> weight, bias, shift;
};

static GroupNorm group_norm_of(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& shift, int64_t groups, float eps,
                               bool silu, Weights& copies) {
  const auto shape = x.shape();
  const int64_t batch = shape[0], channels = shape.back(), rows = x.numel() == 0 ? 0 : x.numel() / (batch * channels);
  return {batch, rows, channels, groups, eps, silu, floats(weight, copies.weight), floats(bias, copies.bias), floats(shift, copies.shift)};
}

static std::vector<Tensor> GroupNormForward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& shift,
                                            int64_t groups, float eps, bool silu) {
  Weights copies;
  const GroupNorm op = group_norm_of(x, weight, bias, shift, groups, eps, silu, copies);
  Tensor y = paddle::empty_like(x), mean = statistics({op.batch, groups}, x), rstd = statistics({op.batch, groups}, x);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(group_norm, op, in<T>(x), out<T>(y), out<float>(mean), out<float>(rstd));
  });
  return {y, mean, rstd};
}

static std::vector<Tensor> GroupNormBackward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& shift,
                                             const Tensor& mean, const Tensor& rstd, const Tensor& dy, int64_t groups, float eps, bool silu) {
  Weights copies;
  const GroupNorm op = group_norm_of(x, weight, bias, shift, groups, eps, silu, copies);
  std::vector<float> d_weight(op.channels), d_bias(op.channels), d_shift(given(shift) ? op.batch * op.channels : 0);
  Tensor dx = paddle::empty_like(x);
  const GroupNormGrads grads{d_weight.data(), d_bias.data(), given(shift) ? d_shift.data() : nullptr};
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(group_norm_grad, op, in<T>(x), in<T>(dy), in<float>(mean), in<float>(rstd), out<T>(dx), grads);
  });
  return {dx, like(weight, d_weight.data()), like(bias, d_bias.data()), like(shift, d_shift.data())};
}

static std::vector<Dims> GroupNormShape(Dims x, Dims, Dims, Dims, int64_t groups, float, bool) {
  return {x, {x[0], groups}, {x[0], groups}};
}
static std::vector<Type> GroupNormType(Type x, Type, Type, Type) { return {x, Type::FLOAT32, Type::FLOAT32}; }

PD_BUILD_OP(mix_group_norm)
    .Inputs({"X", "Weight", "Bias", "Shift"})
    .Outputs({"Out", "Mean", "Rstd"})
    .Attrs({"groups: int64_t", "eps: float", "silu: bool"})
    .SetKernelFn(PD_KERNEL(GroupNormForward))
    .SetInferShapeFn(PD_INFER_SHAPE(GroupNormShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(GroupNormType));
PD_BUILD_GRAD_OP(mix_group_norm)
    .Inputs({"X", "Weight", "Bias", "Shift", "Mean", "Rstd", Grad("Out")})
    .Outputs({Grad("X"), Grad("Weight"), Grad("Bias"), Grad("Shift")})
    .Attrs({"groups: int64_t", "eps: float", "silu: bool"})
    .SetKernelFn(PD_KERNEL(GroupNormBackward));

// ---- row_norm: layer norm (centre) and RMS norm

static RowNorm row_norm_of(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, bool centre, Weights& copies) {
  const int64_t channels = x.shape().back(), rows = x.numel() == 0 ? 0 : x.numel() / channels;
  return {rows, channels, eps, centre, floats(weight, copies.weight), floats(bias, copies.bias)};
}

static std::vector<Tensor> RowNormForward(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, bool centre) {
  Weights copies;
  const RowNorm op = row_norm_of(x, weight, bias, eps, centre, copies);
  Tensor y = paddle::empty_like(x), mean = statistics({centre ? op.rows : 0}, x), rstd = statistics({op.rows}, x);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(row_norm, op, in<T>(x), out<T>(y), centre ? out<float>(mean) : nullptr, out<float>(rstd));
  });
  return {y, mean, rstd};
}

static std::vector<Tensor> RowNormBackward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                                           const Tensor& rstd, const Tensor& dy, float eps, bool centre) {
  Weights copies;
  const RowNorm op = row_norm_of(x, weight, bias, eps, centre, copies);
  std::vector<float> d_weight(weight.numel()), d_bias(bias.numel());
  Tensor dx = paddle::empty_like(x);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(row_norm_grad, op, in<T>(x), in<T>(dy), centre ? in<float>(mean) : nullptr, in<float>(rstd), out<T>(dx),
                given(weight) ? d_weight.data() : nullptr, given(bias) ? d_bias.data() : nullptr);
  });
  return {dx, like(weight, d_weight.data()), like(bias, d_bias.data())};
}

static std::vector<Dims> RowNormShape(Dims x, Dims, Dims, float, bool centre) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < x.size(); ++i) rows = rows < 0 || x[i] < 0 ? -1 : rows * x[i];
  return {x, {centre ? rows : 0}, {rows}};
}
static std::vector<Type> RowNormType(Type x, Type, Type) {
  return {x, Type::FLOAT32, Type::FLOAT32};
}

PD_BUILD_OP(mix_row_norm)
    .Inputs({"X", "Weight", "Bias"})
    .Outputs({"Out", "Mean", "Rstd"})
    .Attrs({"eps: float", "centre: bool"})
    .SetKernelFn(PD_KERNEL(RowNormForward))
    .SetInferShapeFn(PD_INFER_SHAPE(RowNormShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(RowNormType));
PD_BUILD_GRAD_OP(mix_row_norm)
    .Inputs({"X", "Weight", "Bias", "Mean", "Rstd", Grad("Out")})
    .Outputs({Grad("X"), Grad("Weight"), Grad("Bias")})
    .Attrs({"eps: float", "centre: bool"})
    .SetKernelFn(PD_KERNEL(RowNormBackward));

// ---- rope

static Tensor turned(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, float direction) {
  Weights copies;
  const auto shape = x.shape();
  const Rope op{shape[0], shape[1], shape[2], shape[3], interleaved, cos.shape().size() == 3 && cos.shape()[0] != 1,
                floats(cos, copies.weight), floats(sin, copies.bias), direction};
  Tensor y = paddle::empty_like(x);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(rope, op, in<T>(x), out<T>(y));
  });
  return y;
}

static std::vector<Tensor> RopeForward(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved) {
  return {turned(x, cos, sin, interleaved, 1.0f)};
}
static std::vector<Tensor> RopeBackward(const Tensor& cos, const Tensor& sin, const Tensor& dy, bool interleaved) {
  return {turned(dy, cos, sin, interleaved, -1.0f)};
}
static std::vector<Dims> RopeShape(Dims x, Dims, Dims, bool) { return {x}; }
static std::vector<Type> RopeType(Type x, Type, Type) { return {x}; }

PD_BUILD_OP(mix_rope)
    .Inputs({"X", "Cos", "Sin"})
    .Outputs({"Out"})
    .Attrs({"interleaved: bool"})
    .SetKernelFn(PD_KERNEL(RopeForward))
    .SetInferShapeFn(PD_INFER_SHAPE(RopeShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(RopeType));
PD_BUILD_GRAD_OP(mix_rope)
    .Inputs({"Cos", "Sin", Grad("Out")})
    .Outputs({Grad("X")})
    .Attrs({"interleaved: bool"})
    .SetKernelFn(PD_KERNEL(RopeBackward));
