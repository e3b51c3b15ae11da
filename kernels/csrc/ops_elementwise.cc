#include "cpu/elementwise.h"
#include "ops.h"

using namespace mix;

// ---- act(x): silu, gelu, gelu_tanh, quick_gelu by their number in mix::Act

static std::vector<Tensor> ActForward(const Tensor& x, int kind) {
  Tensor y = paddle::empty_like(x);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(act, static_cast<Act>(kind), in<T>(x), out<T>(y), x.numel());
  });
  return {y};
}

static std::vector<Tensor> ActBackward(const Tensor& x, const Tensor& dy, int kind) {
  Tensor dx = paddle::empty_like(x);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(act_grad, static_cast<Act>(kind), in<T>(x), in<T>(dy), out<T>(dx), x.numel());
  });
  return {dx};
}

static std::vector<Dims> ActShape(Dims x, int) { return {x}; }


PD_BUILD_OP(mix_act)
    .Inputs({"X"})
    .Outputs({"Out"})
    .Attrs({"kind: int"})
    .SetKernelFn(PD_KERNEL(ActForward))
    .SetInferShapeFn(PD_INFER_SHAPE(ActShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(same_type));
PD_BUILD_GRAD_OP(mix_act)
    .Inputs({"X", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .Attrs({"kind: int"})
    .SetKernelFn(PD_KERNEL(ActBackward));

// ---- glu(x): x (..., 2 D), one half times act(the other half)

template <typename T>
static Gated<T> halves(const Tensor& x, bool gate_first) {
  const int64_t wide = x.shape().back(), d = wide / 2, rows = wide == 0 ? 0 : x.numel() / wide;
  const T* p = in<T>(x);
  return {p + (gate_first ? d : 0), p + (gate_first ? 0 : d), wide, rows, d};
}

static Dims half(Dims x) {
  x.back() = x.back() < 0 ? x.back() : x.back() / 2;
  return x;
}

static std::vector<Tensor> GluForward(const Tensor& x, int kind, bool gate_first) {
  Tensor y = paddle::empty(half(x.shape()), x.dtype(), x.place());
  with_type(x, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(glu, static_cast<Act>(kind), halves<T>(x, gate_first), out<T>(y));
  });
  return {y};
}

static std::vector<Tensor> GluBackward(const Tensor& x, const Tensor& dy, int kind, bool gate_first) {
  Tensor dx = paddle::empty_like(x);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    const Gated<T> both = halves<T>(x, gate_first);
    T* d = out<T>(dx);
    CALL_KERNEL(glu_grad, static_cast<Act>(kind), both, in<T>(dy), d + (gate_first ? both.d : 0), d + (gate_first ? 0 : both.d));
  });
  return {dx};
}

static std::vector<Dims> GluShape(Dims x, int, bool) { return {half(x)}; }

PD_BUILD_OP(mix_glu)
    .Inputs({"X"})
    .Outputs({"Out"})
    .Attrs({"kind: int", "gate_first: bool"})
    .SetKernelFn(PD_KERNEL(GluForward))
    .SetInferShapeFn(PD_INFER_SHAPE(GluShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(same_type));
PD_BUILD_GRAD_OP(mix_glu)
    .Inputs({"X", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .Attrs({"kind: int", "gate_first: bool"})
    .SetKernelFn(PD_KERNEL(GluBackward));

// ---- glu of two tensors: act(gate) * up

template <typename T>
static Gated<T> pair(const Tensor& gate, const Tensor& up) {
  return {in<T>(up), in<T>(gate), gate.numel(), 1, gate.numel()};
}

static std::vector<Tensor> PairForward(const Tensor& gate, const Tensor& up, int kind) {
  Tensor y = paddle::empty_like(gate);
  with_type(gate, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(glu, static_cast<Act>(kind), pair<T>(gate, up), out<T>(y));
  });
  return {y};
}

static std::vector<Tensor> PairBackward(const Tensor& gate, const Tensor& up, const Tensor& dy, int kind) {
  Tensor d_gate = paddle::empty_like(gate), d_up = paddle::empty_like(up);
  with_type(gate, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(glu_grad, static_cast<Act>(kind), pair<T>(gate, up), in<T>(dy), out<T>(d_up), out<T>(d_gate));
  });
  return {d_gate, d_up};
}

static std::vector<Dims> PairShape(Dims gate, Dims, int) { return {gate}; }
static std::vector<Type> PairType(Type gate, Type) { return {gate}; }

PD_BUILD_OP(mix_glu_pair)
    .Inputs({"Gate", "Up"})
    .Outputs({"Out"})
    .Attrs({"kind: int"})
    .SetKernelFn(PD_KERNEL(PairForward))
    .SetInferShapeFn(PD_INFER_SHAPE(PairShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(PairType));
PD_BUILD_GRAD_OP(mix_glu_pair)
    .Inputs({"Gate", "Up", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Gate"), paddle::Grad("Up")})
    .Attrs({"kind: int"})
    .SetKernelFn(PD_KERNEL(PairBackward));
