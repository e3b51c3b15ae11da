#include "cpu/quant.h"
#include "ops.h"

using namespace mix;
using Optional = paddle::optional<Tensor>;

// Shapes are checked in Python with kinder words; this guards the memory.
static QuantWeight weight_of(const Tensor& blocks, int64_t kind, int64_t in_width, int64_t out_width, int64_t group) {
  if (kind < 0 || kind > static_cast<int64_t>(Quant::kInt4) || in_width < 1 || out_width < 1 || group < kBlock || group % kBlock)
    PD_THROW("not a quantised weight");
  const QuantWeight weight{in<uint8_t>(blocks), in_width, out_width, group, static_cast<Quant>(kind)};
  if (blocks.dtype() != Type::UINT8 || blocks.numel() != weight.tiles() * weight.tile_bytes()) PD_THROW("a quantised weight of another size");
  return weight;
}

static Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : t.contiguous(); }

enum How : int64_t { kBest = 0, kExact = 1, kPlainCpu = 2 };  // kPlainCpu: AVX2 even where there is more, for tests

// ---- y = x w + bias + residual

static std::vector<Tensor> LinearForward(const Tensor& x_any, const Tensor& blocks, const Optional& bias, const Optional& residual_any,
                                         int64_t kind, int64_t width, int64_t group, int64_t how) {
  const Tensor x = dense(x_any);
  Dims shape = x.shape();
  const QuantWeight weight = weight_of(blocks, kind, shape.back(), width, group);
  shape.back() = width;
  Tensor y = paddle::empty(shape, x.dtype(), x.place());
  const Optional residual = residual_any ? Optional(dense(*residual_any)) : residual_any;
  if (bias && bias->numel() != width) PD_THROW("the bias does not have one value an output");
  if (residual && (residual->numel() != y.numel() || residual->dtype() != y.dtype())) PD_THROW("the residual is not like the result");
  std::vector<float> copy;
  const float* added = bias ? floats(*bias, copy) : nullptr;
  if (y.numel() == 0) return {y};
  with_type(x, [&](auto type) {
    using T = decltype(type);
    const QuantLinear<T> op{weight, y.numel() / width, in<T>(x), added, residual ? in<T>(*residual) : nullptr, out<T>(y)};
    if (how & kPlainCpu) return how & kExact ? avx2::quant_exact(op) : avx2::quant_linear(op);
    if (how & kExact) return CALL_KERNEL(quant_exact, op);
    CALL_KERNEL(quant_linear, op);
  });
  return {y};
}

static std::vector<Dims> LinearShape(Dims x, Dims, const paddle::optional<Dims>&, const paddle::optional<Dims>&, int64_t, int64_t width,
                                     int64_t, int64_t) {
  x.back() = width;
  return {x};
}
static std::vector<Type> LinearType(Type x, Type, const paddle::optional<Type>&, const paddle::optional<Type>&) { return {x}; }

PD_BUILD_OP(mix_quant_linear)
    .Inputs({"X", "Blocks", paddle::Optional("Bias"), paddle::Optional("Residual")})
    .Outputs({"Out"})
    .Attrs({"kind: int64_t", "width: int64_t", "group: int64_t", "how: int64_t"})
    .SetKernelFn(PD_KERNEL(LinearForward))
    .SetInferShapeFn(PD_INFER_SHAPE(LinearShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(LinearType));

// ---- exact values

static Type dtype_named(bool half) { return half ? Type::BFLOAT16 : Type::FLOAT32; }

static std::vector<Tensor> DenseForward(const Tensor& blocks, int64_t kind, int64_t in_width, int64_t width, int64_t group, bool half) {
  const QuantWeight weight = weight_of(blocks, kind, in_width, width, group);
  Tensor y = paddle::empty({in_width, width}, dtype_named(half), blocks.place());
  with_type(y, [&](auto type) { CALL_KERNEL(quant_dense, weight, out<decltype(type)>(y)); });
  return {y};
}
static std::vector<Dims> DenseShape(Dims, int64_t, int64_t in_width, int64_t width, int64_t, bool) { return {{in_width, width}}; }
static std::vector<Type> DenseType(Type, int64_t, int64_t, int64_t, int64_t, bool half) { return {dtype_named(half)}; }

PD_BUILD_OP(mix_quant_dense)
    .Inputs({"Blocks"})
    .Outputs({"Out"})
    .Attrs({"kind: int64_t", "in_width: int64_t", "width: int64_t", "group: int64_t", "half: bool"})
    .SetKernelFn(PD_KERNEL(DenseForward))
    .SetInferShapeFn(PD_INFER_SHAPE(DenseShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(DenseType));

static std::vector<Tensor> RowsForward(const Tensor& blocks, const Tensor& ids_any, int64_t kind, int64_t in_width, int64_t width,
                                       int64_t group, bool half) {
  const QuantWeight weight = weight_of(blocks, kind, in_width, width, group);
  const Tensor ids = dense(ids_any);
  if (ids.dtype() != Type::INT64) PD_THROW("ids must be int64");
  for (int64_t i = 0; i < ids.numel(); ++i)
    if (in<int64_t>(ids)[i] < 0 || in<int64_t>(ids)[i] >= width)
      PD_THROW("quantized_rows: id ", in<int64_t>(ids)[i], " is not within the ", width, " rows of the table");
  Dims shape = ids.shape();
  shape.push_back(in_width);
  Tensor y = paddle::empty(shape, dtype_named(half), blocks.place());
  with_type(y, [&](auto type) { CALL_KERNEL(quant_rows, weight, in<int64_t>(ids), ids.numel(), out<decltype(type)>(y)); });
  return {y};
}
static std::vector<Dims> RowsShape(Dims, Dims ids, int64_t, int64_t in_width, int64_t, int64_t, bool) {
  ids.push_back(in_width);
  return {ids};
}
static std::vector<Type> RowsType(Type, Type, int64_t, int64_t, int64_t, int64_t, bool half) { return {dtype_named(half)}; }

PD_BUILD_OP(mix_quant_rows)
    .Inputs({"Blocks", "Ids"})
    .Outputs({"Out"})
    .Attrs({"kind: int64_t", "in_width: int64_t", "width: int64_t", "group: int64_t", "half: bool"})
    .SetKernelFn(PD_KERNEL(RowsForward))
    .SetInferShapeFn(PD_INFER_SHAPE(RowsShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(RowsType));
