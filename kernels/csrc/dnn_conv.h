// Channels-last convolutions and their gradients. Activations are plain NHWC, so nothing but weights is ever reordered.
#pragma once

#include <algorithm>

#include "dnn.h"

namespace mix {

struct Window {
  int64_t stride, top, bottom, left, right;
};

struct Convolution {
  int64_t batch, height, width, in, out, kernel_height, kernel_width;
  Window window;
  Type type, bias;  // bias undef: none
  Act act = Act::kNone;
  bool residual = false;

  int64_t out_height() const { return (height + window.top + window.bottom - kernel_height) / window.stride + 1; }
  int64_t out_width() const { return (width + window.left + window.right - kernel_width) / window.stride + 1; }
  Desc src() const { return Desc({batch, in, height, width}, type, Tag::nhwc); }
  Desc dst() const { return Desc({batch, out, out_height(), out_width()}, type, Tag::nhwc); }
  Desc weights(Tag tag) const { return Desc({out, in, kernel_height, kernel_width}, type, tag); }
  Dims strides() const { return {window.stride, window.stride}; }
  Dims before() const { return {window.top, window.left}; }
  Dims after() const { return {window.bottom, window.right}; }
  Key key(int64_t kind, int64_t layout) const {
    return Key(kind, batch, height, width, in, out, kernel_height, kernel_width, window.stride, window.top, window.bottom,
               window.left, window.right, type, bias, act, residual, layout);
  }
};

inline dnnl::convolution_forward::primitive_desc describe(const Convolution& c, Made& made) {
  made.src = c.src();
  made.dst = c.dst();
  const auto attr = attributes(made, made.dst, c.act, false, c.residual);
  constexpr auto kind = dnnl::prop_kind::forward_inference;
  constexpr auto how = dnnl::algorithm::convolution_direct;
  const Desc weights = c.weights(Tag::any);
  if (c.bias == Type::undef)
    return {engine(), kind, how, made.src, weights, made.dst, c.strides(), c.before(), c.after(), attr};
  made.bias = Desc({c.out}, c.bias, Tag::x);
  return {engine(), kind, how, made.src, weights, made.bias, made.dst, c.strides(), c.before(), c.after(), attr};
}

inline Made make_convolution(const Convolution& c, const Desc& given) {
  Made made;
  const auto desc = describe(c, made);
  made.weights = desc.weights_desc();
  made.weights_plain = given;
  if (made.weights != given) made.weights_in = reorder(given, made.weights);
  made.scratch = desc.scratchpad_desc();
  made.run = dnnl::convolution_forward(desc);
  return made;
}

// The layout that a weight (out, in, kh, kw) is packed into at first: for the size at which layers of this width usually work.
// With AVX-512 it is the same over all of Stable Diffusion's shapes; with AMX it isn't, see mix_dnn_conv2d_wants.
inline Layout convolution_layout(const Dims& shape, Type type) {
  const int64_t wide = std::max(shape[0], shape[1]), side = wide <= 512 ? 64 : wide <= 960 ? 32 : 16;
  const int64_t y = shape[2] / 2, x = shape[3] / 2;
  Convolution typical{2, side + shape[2], side + shape[3], shape[1], shape[0], shape[2], shape[3], {1, y, y, x, x}, type, Type::undef};
  Made scrap;
  return {describe(typical, scrap).weights_desc(), typical.weights(Tag::oihw), shape};
}

// Gradient of the input from dst's: `made.dst` is the output's gradient, `made.src` what is written.
inline Made make_input_gradient(const Convolution& c) {
  Made made, scrap;
  const auto hint = describe(c, scrap);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::convolution_backward_data::primitive_desc desc(engine(), dnnl::algorithm::convolution_direct, c.src(), c.weights(Tag::any),
                                                             c.dst(), c.strides(), c.before(), c.after(), hint, attr);
  made.src = desc.diff_src_desc();
  made.dst = desc.diff_dst_desc();
  made.weights = desc.weights_desc();
  made.weights_plain = c.weights(Tag::oihw);
  if (made.weights != made.weights_plain) made.weights_in = reorder(made.weights_plain, made.weights);
  made.scratch = desc.scratchpad_desc();
  made.run = dnnl::convolution_backward_data(desc);
  return made;
}

inline Made make_weight_gradient(const Convolution& c) {
  Made made, scrap;
  const auto hint = describe(c, scrap);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  constexpr auto how = dnnl::algorithm::convolution_direct;
  const Desc any = c.weights(Tag::any);
  if (c.bias != Type::undef) made.bias = Desc({c.out}, c.bias, Tag::x);
  using Pd = dnnl::convolution_backward_weights::primitive_desc;
  const Pd desc = c.bias == Type::undef
                      ? Pd(engine(), how, c.src(), any, c.dst(), c.strides(), c.before(), c.after(), hint, attr)
                      : Pd(engine(), how, c.src(), any, made.bias, c.dst(), c.strides(), c.before(), c.after(), hint, attr);
  made.src = desc.src_desc();
  made.dst = desc.diff_dst_desc();
  made.weights = desc.diff_weights_desc();
  made.weights_plain = c.weights(Tag::oihw);
  if (made.weights != made.weights_plain) made.weights_out = reorder(made.weights, made.weights_plain);
  made.scratch = desc.scratchpad_desc();
  made.run = dnnl::convolution_backward_weights(desc);
  return made;
}

}  // namespace mix
