// Matrix products: y = act(x w + b) + residual with plain or packed weights, GEGLU in two products, and the gradients.
#pragma once

#include <algorithm>

#include "dnn.h"

namespace mix {

// One product (rows, in) x (in, out). The weight is described by `given`; `want` leaves the choice of layout to oneDNN.
struct Product {
  int64_t rows, in, out;
  Type type, bias;  // bias undef: none
  Act act = Act::kNone;
  bool gate = false, residual = false;

  Key key(int64_t kind, int64_t weights) const {
    return Key(kind, rows, in, out, type, bias, act, gate, residual, weights);
  }
};

inline Desc row_major(int64_t rows, int64_t columns, Type type) { return Desc({rows, columns}, type, Dims{columns, 1}); }

inline dnnl::matmul::primitive_desc describe(const Product& p, const Desc& weights, Made& made) {
  made.src = row_major(p.rows, p.in, p.type);
  made.dst = row_major(p.rows, p.out, p.type);
  const auto attr = attributes(made, made.dst, p.act, p.gate, p.residual);
  if (p.bias == Type::undef) return dnnl::matmul::primitive_desc(engine(), made.src, weights, made.dst, attr);
  made.bias = Desc({1, p.out}, p.bias, Tag::ab);
  return dnnl::matmul::primitive_desc(engine(), made.src, weights, made.bias, made.dst, attr);
}

inline Desc any_weights(const Product& p) {
  Made scrap;
  return describe(p, Desc({p.in, p.out}, p.type, Tag::any), scrap).weights_desc();
}

inline Made make_product(const Product& p, const Desc& given, bool packed) {
  Made made;
  // Row-major weights run as they are, at nearly the speed of packed ones; a packed weight that does not suit is moved.
  auto desc = describe(p, packed ? Desc({p.in, p.out}, p.type, Tag::any) : given, made);
  made.weights = desc.weights_desc();
  made.weights_plain = given;
  if (made.weights != given) made.weights_in = reorder(given, made.weights);
  made.scratch = desc.scratchpad_desc();
  made.run = dnnl::matmul(desc);
  return made;
}

constexpr int64_t kTypicalRows = 2048;

// The layout that a linear weight (in, out) is packed into.
inline Layout linear_layout(const Dims& shape, Type type) {
  const Product typical{kTypicalRows, shape[0], shape[1], type, Type::undef};
  return {any_weights(typical), row_major(shape[0], shape[1], type), shape};
}

// 1x1 convolutions are products too; the plain weight is (out, in, 1, 1), i.e. the transpose.
inline Layout pointwise_layout(const Dims& shape, Type type) {
  const Product typical{kTypicalRows, shape[1], shape[0], type, Type::undef};
  return {any_weights(typical), Desc({shape[1], shape[0]}, type, Dims{1, shape[1]}), shape};
}

// Whether a packed weight is blocks of 64 columns with the rows in order in each (bf16: in pairs), as cpu/few_rows.h reads it.
inline bool streams(const Desc& weights) {
  const auto blocks = weights.get_inner_blks(), axes = weights.get_inner_idxs();
  const bool pairs = weights.get_data_type() == Type::bf16;
  if (blocks != (pairs ? Dims{16, 64, 2} : Dims{16, 64}) || axes != (pairs ? Dims{0, 1, 0} : Dims{0, 1})) return false;
  return weights.get_strides()[0] == (pairs ? 32 : 16) * 64 && weights.get_submemory_offset() == 0;
}
inline int64_t streamed_block(const Desc& weights) { return weights.get_strides()[1]; }

// The two halves of the columns of a weight, if each is laid out as a weight of its own would be.
struct Halves {
  bool apart = false;
  Desc desc;          // of either half
  size_t offset = 0;  // bytes from the first to the second
};

inline Halves halves(const Desc& weights, bool packed) {
  const int64_t in = weights.get_dims()[0], out = weights.get_dims()[1];
  const Type type = weights.get_data_type();
  if (out % 2) return {};
  const Dims half{in, out / 2};
  if (!packed) {
    const auto strides = weights.get_strides();
    return {true, Desc(half, type, strides), static_cast<size_t>(out / 2 * strides[1]) * dnnl::memory::data_type_size(type)};
  }
  const Desc own = any_weights({kTypicalRows, in, out / 2, type, Type::undef});
  const Desc first = weights.submemory_desc(half, {0, 0}, true), second = weights.submemory_desc(half, {0, out / 2}, true);
  if (!first || !second || first != own) return {};
  return {true, own, static_cast<size_t>(second.get_submemory_offset()) * dnnl::memory::data_type_size(type)};
}

// A product of any strides for gradients: (rows, inner) x (inner, columns) -> dense rows.
inline Made make_plain_product(const Desc& left, const Desc& right) {
  Made made;
  made.src = left;
  made.weights = made.weights_plain = right;
  made.dst = row_major(left.get_dims()[0], right.get_dims()[1], left.get_data_type());
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::primitive_desc desc(engine(), made.src, made.weights, made.dst, attr);
  made.scratch = desc.scratchpad_desc();
  made.run = dnnl::matmul(desc);
  return made;
}

// Sum over the rows of (rows, columns), in float32; `load` turns an element into a float, `store` keeps a sum.
template <typename Load, typename Store>
inline void sum_rows(int64_t rows, int64_t columns, const Load& load, const Store& store) {
  constexpr int64_t kBlock = 64;
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < columns; first += kBlock) {
    const int64_t width = std::min(kBlock, columns - first);
    float sums[kBlock] = {};
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < width; ++i) sums[i] += load(row * columns + first + i);
    for (int64_t i = 0; i < width; ++i) store(first + i, sums[i]);
  }
}

}  // namespace mix
