// Attention as Paddle ops. Inputs may be strided views as long as the last axis is dense; Paddle hands dense ones to custom ops anyway.
#include "paddle/extension.h"

#include "cpu/attention.h"

using paddle::DataType;
using paddle::Tensor;

static bool IsBf16(const Tensor& t) { return t.dtype() == DataType::BFLOAT16; }

// Sequences of a padded batch (B, L, H, D).
static std::vector<mix::Sequence> Padded(const Tensor& q, const Tensor& k) {
  const auto qs = q.shape(), ks = k.shape();
  std::vector<mix::Sequence> all(qs[0]);
  const int64_t q_step = qs[1] * qs[2] * qs[3], k_step = ks[1] * ks[2] * ks[3];
  for (int64_t n = 0; n < qs[0]; ++n) all[n] = {n * q_step, n * k_step, n * k_step, n * q_step, n * qs[1], qs[1], ks[1]};
  return all;
}

// Sequences of a pack (T, H, D) with boundaries (N + 1,).
static std::vector<mix::Sequence> Packed(const Tensor& q, const Tensor& k, const Tensor& cu_q, const Tensor& cu_k) {
  const int32_t *a = cu_q.data<int32_t>(), *b = cu_k.data<int32_t>();
  const int64_t q_row = q.shape()[1] * q.shape()[2], k_row = k.shape()[1] * k.shape()[2], count = cu_q.numel() - 1;
  PD_CHECK(cu_k.numel() == count + 1, "cu_q and cu_k must have the same length");
  std::vector<mix::Sequence> all(std::max<int64_t>(count, 0));
  for (int64_t n = 0; n < count; ++n) {
    PD_CHECK(a[n] >= 0 && a[n] <= a[n + 1] && a[n + 1] <= q.shape()[0] && b[n] >= 0 && b[n] <= b[n + 1] && b[n + 1] <= k.shape()[0],
             "cu_q and cu_k must rise from 0 and end within q and k");
    all[n] = {a[n] * q_row, b[n] * k_row, b[n] * k_row, a[n] * q_row, a[n], a[n + 1] - a[n], b[n + 1] - b[n]};
  }
  return all;
}

static mix::Attention Describe(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<mix::Sequence>& all, double scale, bool causal) {
  mix::Attention a{};
  const auto qs = q.shape(), ks = k.shape();
  const size_t heads = qs.size() - 2;
  a.sequences = all.data(), a.count = all.size();
  a.heads = qs[heads], a.groups = ks[heads], a.dim = qs[heads + 1];
  a.q = q.data(), a.k = k.data(), a.v = v.data();
  a.q_pitch = a.out_pitch = {a.heads * a.dim, a.dim};
  a.k_pitch = a.v_pitch = {a.groups * a.dim, a.dim};
  a.scale = static_cast<float>(scale), a.causal = causal;
  return a;
}

static mix::Mask MaskOf(const paddle::optional<Tensor>& mask, const Tensor& q, const Tensor& k) {
  mix::Mask m;
  if (!mask) return m;
  const auto shape = mask->shape();
  const int64_t full[4] = {q.shape()[0], q.shape()[2], q.shape()[1], k.shape()[1]};
  int64_t stride[4], step = 1;
  for (int i = 3; i >= 0; --i) {
    PD_CHECK(shape[i] == full[i] || shape[i] == 1, "the mask must broadcast to (B, H, L, M)");
    stride[i] = shape[i] == 1 ? 0 : step;
    step *= shape[i];
  }
  m.data = mask->data();
  m.kind = mask->dtype() == DataType::BOOL ? mix::MaskKind::kBool : IsBf16(*mask) ? mix::MaskKind::kBf16 : mix::MaskKind::kFloat;
  m.batch = stride[0], m.head = stride[1], m.query = stride[2], m.key = stride[3];
  return m;
}

static std::vector<Tensor> Run(const mix::Attention& a, const Tensor& q, bool want_stats) {
  Tensor out = paddle::empty_like(q);
  const int64_t rows = q.numel() / std::max<int64_t>(a.heads * a.dim, 1);
  Tensor stats = paddle::empty({want_stats ? rows : 0, a.heads, 2}, DataType::FLOAT32, q.place());
  float* at = want_stats ? stats.data<float>() : nullptr;
  if (q.numel() > 0) {
    if (IsBf16(q))
      CALL_KERNEL(attention_bf16, a, out.data(), at);
    else
      CALL_KERNEL(attention_f32, a, out.data(), at);
  }
  return {out, stats};
}

static std::vector<Tensor> RunGrad(const mix::Attention& a, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                                   const Tensor& stats, const Tensor& dout) {
  Tensor dq = paddle::empty_like(q), dk = paddle::empty_like(k), dv = paddle::empty_like(v);
  const mix::AttentionGrad g{out.data(), dout.data(), stats.data<float>(), dq.data(), dk.data(), dv.data(), a.k_pitch};
  if (IsBf16(q))
    CALL_KERNEL(attention_grad_bf16, a, g);
  else
    CALL_KERNEL(attention_grad_f32, a, g);
  return {dq, dk, dv};
}

static std::vector<Tensor> Forward(const Tensor& q, const Tensor& k, const Tensor& v, const paddle::optional<Tensor>& mask, double scale,
                                   bool causal, bool want_stats) {
  const auto all = Padded(q, k);
  mix::Attention a = Describe(q, k, v, all, scale, causal);
  a.mask = MaskOf(mask, q, k);
  return Run(a, q, want_stats);
}

static std::vector<Tensor> Backward(const Tensor& q, const Tensor& k, const Tensor& v, const paddle::optional<Tensor>& mask, const Tensor& out,
                                    const Tensor& stats, const Tensor& dout, double scale, bool causal) {
  const auto all = Padded(q, k);
  mix::Attention a = Describe(q, k, v, all, scale, causal);
  a.mask = MaskOf(mask, q, k);
  return RunGrad(a, q, k, v, out, stats, dout);
}

static std::vector<Tensor> VarlenForward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_q, const Tensor& cu_k, double scale,
                                         bool causal, bool want_stats) {
  const auto all = Packed(q, k, cu_q, cu_k);
  return Run(Describe(q, k, v, all, scale, causal), q, want_stats);
}

static std::vector<Tensor> VarlenBackward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_q, const Tensor& cu_k,
                                          const Tensor& out, const Tensor& stats, const Tensor& dout, double scale, bool causal) {
  const auto all = Packed(q, k, cu_q, cu_k);
  return RunGrad(Describe(q, k, v, all, scale, causal), q, k, v, out, stats, dout);
}

static std::vector<Tensor> DecodeOne(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lengths,
                                     const paddle::optional<Tensor>& table, double scale) {
  Tensor out = paddle::empty_like(q);
  const auto qs = q.shape(), ks = k.shape();
  mix::Decode a{};
  a.q = q.data(), a.k = k.data(), a.v = v.data(), a.out = out.data();
  a.lengths = lengths.data<int32_t>(), a.table = table ? table->data<int32_t>() : nullptr;
  a.batch = qs[0], a.heads = qs[2], a.groups = ks[2], a.dim = qs[3];
  a.blocks = table ? table->shape()[1] : 0, a.block_size = table ? ks[1] : 0;
  a.keys = table ? a.blocks * a.block_size : ks[1];
  a.scale = static_cast<float>(scale);
  for (int64_t b = 0; b < a.batch; ++b) {
    PD_CHECK(a.lengths[b] >= 0 && a.lengths[b] <= a.keys, "a length lies outside of the cache");
    for (int64_t i = 0; table && i * a.block_size < a.lengths[b]; ++i) {
      const int32_t at = a.table[b * a.blocks + i];
      PD_CHECK(at >= 0 && at < ks[0], "a block of block_table lies outside of the cache");
    }
  }
  CALL_KERNEL(attention_decode, a, IsBf16(q), IsBf16(k));
  return {out};
}

using Shape = std::vector<int64_t>;

static std::vector<Shape> ForwardShape(Shape q, Shape k, Shape v, const paddle::optional<Shape>& mask, double scale, bool causal, bool want_stats) {
  return {q, {want_stats ? q[0] * q[1] : 0, q[2], 2}};
}
static std::vector<DataType> ForwardType(DataType q, DataType k, DataType v, const paddle::optional<DataType>& mask) {
  return {q, DataType::FLOAT32};
}
static std::vector<Shape> VarlenShape(Shape q, Shape k, Shape v, Shape cu_q, Shape cu_k, double scale, bool causal, bool want_stats) {
  return {q, {want_stats ? q[0] : 0, q[1], 2}};
}
static std::vector<DataType> VarlenType(DataType q, DataType k, DataType v, DataType cu_q, DataType cu_k) { return {q, DataType::FLOAT32}; }

PD_BUILD_OP(mix_attention)
    .Inputs({"Q", "K", "V", paddle::Optional("Mask")})
    .Outputs({"Out", "Stats"})
    .Attrs({"scale: double", "causal: bool", "want_stats: bool"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(ForwardShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ForwardType));

static std::vector<Shape> BackwardShape(Shape q, Shape k, Shape v, const paddle::optional<Shape>& mask, Shape out, Shape stats, Shape dout,
                                        double scale, bool causal) {
  return {q, k, v};
}
static std::vector<DataType> BackwardType(DataType q, DataType k, DataType v, const paddle::optional<DataType>& mask, DataType out, DataType stats,
                                          DataType dout) {
  return {q, k, v};
}

PD_BUILD_OP(mix_attention_grad)
    .Inputs({"Q", "K", "V", paddle::Optional("Mask"), "Out", "Stats", "DOut"})
    .Outputs({"DQ", "DK", "DV"})
    .Attrs({"scale: double", "causal: bool"})
    .SetKernelFn(PD_KERNEL(Backward))
    .SetInferShapeFn(PD_INFER_SHAPE(BackwardShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(BackwardType));

PD_BUILD_OP(mix_attention_varlen)
    .Inputs({"Q", "K", "V", "CuQ", "CuK"})
    .Outputs({"Out", "Stats"})
    .Attrs({"scale: double", "causal: bool", "want_stats: bool"})
    .SetKernelFn(PD_KERNEL(VarlenForward))
    .SetInferShapeFn(PD_INFER_SHAPE(VarlenShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(VarlenType));

static std::vector<Shape> VarlenBackwardShape(Shape q, Shape k, Shape v, Shape cu_q, Shape cu_k, Shape out, Shape stats, Shape dout, double scale,
                                              bool causal) {
  return {q, k, v};
}
static std::vector<DataType> VarlenBackwardType(DataType q, DataType k, DataType v, DataType cu_q, DataType cu_k, DataType out, DataType stats,
                                                DataType dout) {
  return {q, k, v};
}

PD_BUILD_OP(mix_attention_varlen_grad)
    .Inputs({"Q", "K", "V", "CuQ", "CuK", "Out", "Stats", "DOut"})
    .Outputs({"DQ", "DK", "DV"})
    .Attrs({"scale: double", "causal: bool"})
    .SetKernelFn(PD_KERNEL(VarlenBackward))
    .SetInferShapeFn(PD_INFER_SHAPE(VarlenBackwardShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(VarlenBackwardType));

static std::vector<Shape> DecodeShape(Shape q, Shape k, Shape v, Shape lengths, const paddle::optional<Shape>& table, double scale) { return {q}; }
static std::vector<DataType> DecodeType(DataType q, DataType k, DataType v, DataType lengths, const paddle::optional<DataType>& table) {
  return {q};
}

PD_BUILD_OP(mix_attention_decode)
    .Inputs({"Q", "K", "V", "Lengths", paddle::Optional("Table")})
    .Outputs({"Out"})
    .Attrs({"scale: double"})
    .SetKernelFn(PD_KERNEL(DecodeOne))
    .SetInferShapeFn(PD_INFER_SHAPE(DecodeShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(DecodeType));
