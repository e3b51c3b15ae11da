// Paddle ops over oneDNN: packing of weights, linear and conv2d with fused bias, activation and residual, and their gradients.
#include "paddle/extension.h"

#include "cpu/common.h"
#include "cpu/few_rows.h"
#include "dnn.h"
#include "dnn_conv.h"
#include "dnn_linear.h"

namespace {

using mix::Act;
using mix::Convolution;
using mix::Data;
using mix::Desc;
using mix::Dims;
using mix::Layout;
using mix::Product;
using mix::Type;
using paddle::DataType;
using paddle::Tensor;
using Optional = paddle::optional<Tensor>;

enum Kind : int64_t { kProduct, kProductPlain, kConvolution, kInputGradient, kWeightGradient, kProductByTransposed, kProductOfTransposed };

Type type_of(const Tensor& t) {
  if (t.dtype() == DataType::FLOAT32) return Type::f32;
  if (t.dtype() == DataType::BFLOAT16) return Type::bf16;
  throw std::invalid_argument("oneDNN ops take float32 and bfloat16");
}

DataType type_of(Type type) { return type == Type::f32 ? DataType::FLOAT32 : DataType::BFLOAT16; }

Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : t.contiguous(); }
Optional dense(const Optional& t) { return t ? Optional(dense(*t)) : t; }

// What the pointers handed to oneDNN must agree on; shapes are checked in Python with kinder words, this guards the memory.
void check(bool good, const char* what) {
  if (!good) throw std::invalid_argument(what);
}
void check_operands(const Tensor& x, const Tensor& weight, const Optional& bias, const Optional& residual, int64_t layout,
                    const Desc& weights, int64_t out, const Tensor& y) {
  const size_t held = weight.numel() * (layout >= 0 ? 1 : dnnl::memory::data_type_size(weights.get_data_type()));
  check(weights.get_data_type() == type_of(x) && (layout >= 0 || weight.dtype() == x.dtype()), "the weight has another dtype than the input");
  check(held >= weights.get_size(), "the weight is smaller than its shape");
  check(!bias || bias->numel() == out, "the bias does not have one value an output channel");
  check(!residual || (residual->numel() == y.numel() && residual->dtype() == y.dtype()), "the residual is not like the result");
}

Type bias_type(const Optional& bias) { return bias ? type_of(*bias) : Type::undef; }

const void* data_of(const Optional& t) { return t ? t->data() : nullptr; }
const void* shifted(const void* pointer, size_t by) { return pointer ? static_cast<const char*>(pointer) + by : nullptr; }

// Paddle turns only its own exceptions into Python's; any other would end the process.
template <typename Body>
auto guarded(const Body& body) -> decltype(body()) {
  std::string said;
  try {
    return body();
  } catch (const dnnl::error& error) {
    said = std::string("oneDNN: ") + error.what() + " (status " + std::to_string(error.status) + ")";
  } catch (const std::exception& error) {
    said = error.what();
  }
  PD_THROW(said);
}

// --- packing ----------------------------------------------------------------------------------------------------------------

// -> blob, [layout id, whether the halves of the columns lie apart]
std::vector<Tensor> Pack(const Tensor& weight_any) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor weight = dense(weight_any);
    const Dims shape = weight.shape();
    const Type type = type_of(weight);
    const bool pointwise = shape.size() == 4 && shape[2] == 1 && shape[3] == 1;
    const Layout layout = shape.size() == 2 ? mix::linear_layout(shape, type)
                          : pointwise       ? mix::pointwise_layout(shape, type)
                                            : mix::convolution_layout(shape, type);
    Tensor blob = paddle::empty({static_cast<int64_t>(layout.desc.get_size())}, DataType::UINT8);
    mix::copy(layout.plain, weight.data(), layout.desc, blob.data());
    Tensor about = paddle::empty({2}, DataType::INT64);
    about.data<int64_t>()[0] = mix::layouts().intern(layout);
    about.data<int64_t>()[1] = shape.size() == 2 && mix::halves(layout.desc, true).apart;
    return {blob, about};
  });
}

std::vector<Tensor> Unpack(const Tensor& blob, int64_t layout_id) {
  return guarded([&]() -> std::vector<Tensor> {
    const Layout& layout = mix::layouts().at(layout_id);
    Tensor weight = paddle::empty(layout.shape, type_of(layout.desc.get_data_type()));
    mix::copy(layout.desc, blob.data(), layout.plain, weight.data());
    return {weight};
  });
}

// From one packed layout to another, by way of the plain weight: straight, oneDNN goes element by element.
std::vector<Tensor> Repack(const Tensor& blob, int64_t from, int64_t to) {
  return guarded([&]() -> std::vector<Tensor> {
    const Layout &old = mix::layouts().at(from), &wanted = mix::layouts().at(to);
    check(old.plain == wanted.plain, "the layouts are of different weights");
    Tensor plain = paddle::empty(old.shape, type_of(old.desc.get_data_type()));
    mix::copy(old.desc, blob.data(), old.plain, plain.data());
    Tensor moved = paddle::empty({static_cast<int64_t>(wanted.desc.get_size())}, DataType::UINT8);
    mix::copy(wanted.plain, plain.data(), wanted.desc, moved.data());
    return {moved};
  });
}

// --- products ---------------------------------------------------------------------------------------------------------------

// Where one product of a few rows finds blocks of 64 columns in a packed weight, read them as a stream; else false.
bool few_rows(const Product& p, const Desc& weights, const Data& data) {
  if (p.rows > mix::kFewRows || (p.bias != p.type && p.bias != Type::undef) || !mix::streams(weights)) return false;
  const mix::FewRows what{p.rows, p.in, p.out, mix::streamed_block(weights), static_cast<int>(p.act),
                          data.bias, p.gate ? data.extra[0] : nullptr,
                          p.residual ? data.extra[p.gate] : nullptr};
  if (p.type == Type::f32)
    return CALL_KERNEL(few_rows_f32, what, static_cast<const float*>(data.src), static_cast<const float*>(data.weights),
                       static_cast<float*>(data.dst));
  return CALL_KERNEL(few_rows_bf16, what, static_cast<const mix::bf16*>(data.src), static_cast<const mix::bf16*>(data.weights),
                     static_cast<mix::bf16*>(data.dst));
}

void product(const Product& p, int64_t layout, const Desc& given, const Data& data) {
  const bool packed = layout >= 0;
  if (packed && few_rows(p, given, data)) return;
  // A plain half of a wider weight has the wider one's row length, which the key has to tell from a whole weight.
  auto key = p.key(packed ? kProduct : kProductPlain, packed ? layout : given.get_strides()[0]);
  if (!packed) key.add(given.get_strides()[1]);
  mix::execute(*mix::cache().get(key, [&] { return mix::make_product(p, given, packed); }), data);
}

// GEGLU as two products, so that the double-width result is never written: gate = gelu(x w2 + b2), y = (x w1 + b1) * gate + residual.
void geglu(Product p, int64_t layout, const Desc& weights, const Data& data, DataType type) {
  const mix::Halves halves = mix::halves(weights, layout >= 0);
  if (!halves.apart) throw std::invalid_argument("geglu: the packed weight's halves do not lie apart");
  p.out /= 2;
  const size_t bias_size = p.bias == Type::undef ? 0 : dnnl::memory::data_type_size(p.bias);
  Tensor kept = paddle::empty({p.rows, p.out}, type);
  Product gate = p, value = p;
  gate.act = Act::kGelu;
  gate.residual = false;
  value.act = Act::kNone;
  value.gate = true;
  Data first, second;
  first.src = second.src = data.src;
  first.weights = shifted(data.weights, halves.offset);
  second.weights = data.weights;
  first.bias = shifted(data.bias, p.out * bias_size);
  second.bias = data.bias;
  first.dst = kept.data();
  second.extra[0] = kept.data();
  second.extra[1] = data.extra[0];
  second.dst = data.dst;
  product(gate, layout, halves.desc, first);
  product(value, layout, halves.desc, second);
}

std::vector<Tensor> Linear(const Tensor& x_any, const Tensor& weight_any, const Optional& bias_any, const Optional& residual_any,
                           int64_t act, int64_t layout) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor x = dense(x_any), weight = dense(weight_any);
    const Optional bias = dense(bias_any), residual = dense(residual_any);
    const Type type = type_of(x);
    Dims shape = x.shape();
    const int64_t in = shape.back();
    const Desc weights = layout >= 0 ? mix::layouts().at(layout).desc : mix::row_major(weight.shape()[0], weight.shape()[1], type);
    const int64_t out = weights.get_dims()[1];
    const bool gated = static_cast<Act>(act) == Act::kGeglu;
    const int64_t rows = in ? x.numel() / in : 0;
    shape.back() = gated ? out / 2 : out;
    Tensor y = paddle::empty(shape, x.dtype());
    if (y.numel() == 0) return {y};
    check(in == weights.get_dims()[0], "the weight does not fit the input");
    check_operands(x, weight, bias, residual, layout, weights, out, y);
    const Product p{rows, in, out, type, bias_type(bias), static_cast<Act>(act), false, static_cast<bool>(residual)};
    Data data;
    data.src = x.data();
    data.weights = weight.data();
    data.bias = data_of(bias);
    data.extra[0] = data_of(residual);
    data.dst = y.data();
    gated ? geglu(p, layout, weights, data, x.dtype()) : product(p, layout, weights, data);
    return {y};
  });
}

// dx = dy w^T
std::vector<Tensor> LinearInputGradient(const Tensor& dy_any, const Tensor& weight_any) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor dy = dense(dy_any), weight = dense(weight_any);
    const Type type = type_of(dy);
    const int64_t in = weight.shape()[0], out = weight.shape()[1], rows = dy.numel() / out;
    Dims shape = dy.shape();
    shape.back() = in;
    Tensor dx = paddle::empty(shape, dy.dtype());
    if (dx.numel() == 0) return {dx};
    const auto made = mix::cache().get(mix::Key(kProductByTransposed, rows, in, out, type), [&] {
      return mix::make_plain_product(mix::row_major(rows, out, type), Desc({out, in}, type, Dims{1, out}));
    });
    Data data;
    data.src = dy.data();
    data.weights = weight.data();
    data.dst = dx.data();
    mix::execute(*made, data);
    return {dx};
  });
}

// dw = x^T dy
std::vector<Tensor> LinearWeightGradient(const Tensor& x_any, const Tensor& dy_any) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor x = dense(x_any), dy = dense(dy_any);
    const Type type = type_of(dy);
    const int64_t in = x.shape().back(), out = dy.shape().back(), rows = x.numel() / in;
    if (rows == 0) return {paddle::full({in, out}, 0, dy.dtype())};
    Tensor dw = paddle::empty({in, out}, dy.dtype());
    const auto made = mix::cache().get(mix::Key(kProductOfTransposed, rows, in, out, type), [&] {
      return mix::make_plain_product(Desc({in, rows}, type, Dims{1, in}), mix::row_major(rows, out, type));
    });
    Data data;
    data.src = x.data();
    data.weights = dy.data();
    data.dst = dw.data();
    mix::execute(*made, data);
    return {dw};
  });
}

// db: the sum of dy over all axes but the last
std::vector<Tensor> BiasGradient(const Tensor& dy_any) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor dy = dense(dy_any);
    const int64_t out = dy.shape().back(), rows = out ? dy.numel() / out : 0;
    Tensor db = paddle::empty({out}, dy.dtype());
    if (type_of(dy) == Type::f32) {
      const auto* from = static_cast<const float*>(dy.data());
      auto* to = static_cast<float*>(db.data());
      mix::sum_rows(rows, out, [&](int64_t i) { return from[i]; }, [&](int64_t i, float v) { to[i] = v; });
    } else {
      const auto* from = static_cast<const mix::bf16*>(dy.data());
      auto* to = static_cast<mix::bf16*>(db.data());
      mix::sum_rows(rows, out, [&](int64_t i) { return mix::to_float(from[i]); }, [&](int64_t i, float v) { to[i] = mix::to_bf16(v); });
    }
    return {db};
  });
}

// --- convolutions -----------------------------------------------------------------------------------------------------------

// x (B, Y, X, in) and a weight's shape (out, in, kh, kw); window: stride, top, bottom, left, right.
Convolution convolution(const Dims& x, const Dims& weight, const std::vector<int64_t>& window, Type type) {
  return {x[0], x[1], x[2], x[3], weight[0], weight[2], weight[3], {window[0], window[1], window[2], window[3], window[4]}, type, Type::undef};
}

// The id of the layout that this convolution wants its weight in. On CPUs with AMX it depends on the picture's size.
std::vector<Tensor> Conv2dWants(const Tensor& x, const Optional& bias, const std::vector<int64_t>& window, int64_t act, bool residual,
                                int64_t layout) {
  return guarded([&]() -> std::vector<Tensor> {
    const Layout& now = mix::layouts().at(layout);
    Convolution c = convolution(x.shape(), now.shape, window, type_of(x));
    c.bias = bias_type(bias);
    c.act = static_cast<Act>(act);
    c.residual = residual;
    mix::Made scrap;
    Tensor wanted = paddle::empty({1}, DataType::INT64);
    wanted.data<int64_t>()[0] = mix::layouts().intern({mix::describe(c, scrap).weights_desc(), now.plain, now.shape});
    return {wanted};
  });
}

std::vector<Tensor> Conv2d(const Tensor& x_any, const Tensor& weight_any, const Optional& bias_any, const Optional& residual_any,
                           const std::vector<int64_t>& window, int64_t act, int64_t layout) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor x = dense(x_any), weight = dense(weight_any);
    const Optional bias = dense(bias_any), residual = dense(residual_any);
    const Dims shape = layout >= 0 ? mix::layouts().at(layout).shape : weight.shape();
    Convolution c = convolution(x.shape(), shape, window, type_of(x));
    c.bias = bias_type(bias);
    c.act = static_cast<Act>(act);
    c.residual = static_cast<bool>(residual);
    Tensor y = paddle::empty({c.batch, c.out_height(), c.out_width(), c.out}, x.dtype());
    if (y.numel() == 0) return {y};
    const Desc weights = layout >= 0 ? mix::layouts().at(layout).desc : c.weights(mix::Tag::oihw);
    check(c.in == shape[1], "the weight does not fit the input");
    check_operands(x, weight, bias, residual, layout, weights, c.out, y);
    Data data;
    data.src = x.data();
    data.weights = weight.data();
    data.bias = data_of(bias);
    data.extra[0] = data_of(residual);
    data.dst = y.data();
    const auto made = mix::cache().get(c.key(kConvolution, layout), [&] { return mix::make_convolution(c, weights); });
    mix::execute(*made, data);
    return {y};
  });
}

// 1x1, stride 1, no padding: a product over the pixels.
std::vector<Tensor> Pointwise(const Tensor& x_any, const Tensor& weight_any, const Optional& bias_any, const Optional& residual_any,
                              int64_t act, int64_t layout) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor x = dense(x_any), weight = dense(weight_any);
    const Optional bias = dense(bias_any), residual = dense(residual_any);
    const Type type = type_of(x);
    Dims shape = x.shape();
    const int64_t in = shape[3];
    const Dims whole = layout >= 0 ? mix::layouts().at(layout).shape : weight.shape();
    const int64_t out = whole[0];
    const Desc weights = layout >= 0 ? mix::layouts().at(layout).desc : Desc({in, out}, type, Dims{1, in});
    shape[3] = out;
    Tensor y = paddle::empty(shape, x.dtype());
    if (y.numel() == 0) return {y};
    check(in == weights.get_dims()[0], "the weight does not fit the input");
    check_operands(x, weight, bias, residual, layout, weights, out, y);
    const Product p{x.numel() / in, in, out, type, bias_type(bias), static_cast<Act>(act), false, static_cast<bool>(residual)};
    Data data;
    data.src = x.data();
    data.weights = weight.data();
    data.bias = data_of(bias);
    data.extra[0] = data_of(residual);
    data.dst = y.data();
    product(p, layout, weights, data);
    return {y};
  });
}

std::vector<Tensor> Conv2dInputGradient(const Tensor& dy_any, const Tensor& weight_any, const std::vector<int64_t>& x_shape,
                                        const std::vector<int64_t>& window) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor dy = dense(dy_any), weight = dense(weight_any);
    const Convolution c = convolution(x_shape, weight.shape(), window, type_of(dy));
    Tensor dx = paddle::empty(x_shape, dy.dtype());
    if (dy.numel() == 0) return {paddle::full(x_shape, 0, dy.dtype())};
    const auto made = mix::cache().get(c.key(kInputGradient, -1), [&] { return mix::make_input_gradient(c); });
    const size_t scratch = mix::aligned(made->scratch.get_size());
    char* work = mix::arena(scratch + made->weights.get_size());
    const void* weights = weight.data();
    if (made->weights_in) {
      auto in = mix::at(made->weights_plain, weights), out = mix::at(made->weights, work + scratch);
      made->weights_in.execute(mix::stream(), in, out);
      weights = work + scratch;
    }
    made->run.execute(mix::stream(), {{DNNL_ARG_DIFF_DST, mix::at(made->dst, dy.data())},
                                      {DNNL_ARG_WEIGHTS, mix::at(made->weights, weights)},
                                      {DNNL_ARG_DIFF_SRC, mix::at(made->src, dx.data())},
                                      {DNNL_ARG_SCRATCHPAD, mix::at(made->scratch, work)}});
    return {dx};
  });
}

std::vector<Tensor> Conv2dWeightGradient(const Tensor& x_any, const Tensor& dy_any, const std::vector<int64_t>& w_shape,
                                         const std::vector<int64_t>& window) {
  return guarded([&]() -> std::vector<Tensor> {
    const Tensor x = dense(x_any), dy = dense(dy_any);
    const Convolution c = convolution(x.shape(), w_shape, window, type_of(dy));
    if (dy.numel() == 0) return {paddle::full(w_shape, 0, dy.dtype())};
    Tensor dw = paddle::empty(w_shape, dy.dtype());
    const auto made = mix::cache().get(c.key(kWeightGradient, -1), [&] { return mix::make_weight_gradient(c); });
    const size_t scratch = mix::aligned(made->scratch.get_size());
    char* work = mix::arena(scratch + made->weights.get_size());
    void* target = made->weights_out ? static_cast<void*>(work + scratch) : dw.data();
    made->run.execute(mix::stream(), {{DNNL_ARG_SRC, mix::at(made->src, x.data())},
                                      {DNNL_ARG_DIFF_DST, mix::at(made->dst, dy.data())},
                                      {DNNL_ARG_DIFF_WEIGHTS, mix::at(made->weights, target)},
                                      {DNNL_ARG_SCRATCHPAD, mix::at(made->scratch, work)}});
    if (made->weights_out) {
      auto in = mix::at(made->weights, target), out = mix::at(made->weights_plain, dw.data());
      made->weights_out.execute(mix::stream(), in, out);
    }
    return {dw};
  });
}

}  // namespace

PD_BUILD_OP(mix_dnn_pack).Inputs({"Weight"}).Outputs({"Blob", "About"}).SetKernelFn(PD_KERNEL(Pack));
PD_BUILD_OP(mix_dnn_unpack).Inputs({"Blob"}).Outputs({"Weight"}).Attrs({"layout: int64_t"}).SetKernelFn(PD_KERNEL(Unpack));
PD_BUILD_OP(mix_dnn_repack)
    .Inputs({"Blob"})
    .Outputs({"Moved"})
    .Attrs({"from: int64_t", "to: int64_t"})
    .SetKernelFn(PD_KERNEL(Repack));
PD_BUILD_OP(mix_dnn_linear)
    .Inputs({"X", "Weight", paddle::Optional("Bias"), paddle::Optional("Residual")})
    .Outputs({"Out"})
    .Attrs({"act: int64_t", "layout: int64_t"})
    .SetKernelFn(PD_KERNEL(Linear));
PD_BUILD_OP(mix_dnn_linear_dx).Inputs({"DY", "Weight"}).Outputs({"DX"}).SetKernelFn(PD_KERNEL(LinearInputGradient));
PD_BUILD_OP(mix_dnn_linear_dw).Inputs({"X", "DY"}).Outputs({"DW"}).SetKernelFn(PD_KERNEL(LinearWeightGradient));
PD_BUILD_OP(mix_dnn_db).Inputs({"DY"}).Outputs({"DB"}).SetKernelFn(PD_KERNEL(BiasGradient));
PD_BUILD_OP(mix_dnn_conv2d)
    .Inputs({"X", "Weight", paddle::Optional("Bias"), paddle::Optional("Residual")})
    .Outputs({"Out"})
    .Attrs({"window: std::vector<int64_t>", "act: int64_t", "layout: int64_t"})
    .SetKernelFn(PD_KERNEL(Conv2d));
PD_BUILD_OP(mix_dnn_conv2d_wants)
    .Inputs({"X", paddle::Optional("Bias")})
    .Outputs({"Wanted"})
    .Attrs({"window: std::vector<int64_t>", "act: int64_t", "residual: bool", "layout: int64_t"})
    .SetKernelFn(PD_KERNEL(Conv2dWants));
PD_BUILD_OP(mix_dnn_pointwise)
    .Inputs({"X", "Weight", paddle::Optional("Bias"), paddle::Optional("Residual")})
    .Outputs({"Out"})
    .Attrs({"act: int64_t", "layout: int64_t"})
    .SetKernelFn(PD_KERNEL(Pointwise));
PD_BUILD_OP(mix_dnn_conv2d_dx)
    .Inputs({"DY", "Weight"})
    .Outputs({"DX"})
    .Attrs({"x_shape: std::vector<int64_t>", "window: std::vector<int64_t>"})
    .SetKernelFn(PD_KERNEL(Conv2dInputGradient));
PD_BUILD_OP(mix_dnn_conv2d_dw)
    .Inputs({"X", "DY"})
    .Outputs({"DW"})
    .Attrs({"w_shape: std::vector<int64_t>", "window: std::vector<int64_t>"})
    .SetKernelFn(PD_KERNEL(Conv2dWeightGradient));
