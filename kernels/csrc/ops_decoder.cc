#include "cpu/decoder.h"
#include "ops.h"

using namespace mix;
using Tensors = std::vector<Tensor>;
using Numbers = std::vector<int64_t>;

// Lists hold one entry a layer, or a fixed number of them one layer after the other. Shapes are checked in Python with kinder words;
// this guards the memory.

static constexpr int kMatrices = 7;  // q, k, v, o, gate, up, down
static constexpr int kNorms = 4;     // attention, mlp, and over a head q and k (without elements where a layer has none)

static DecoderMatrix matrix_of(const Tensor& blocks, const Tensor& bias, const int64_t* about) {
  if (about[0] < 0 || about[0] > static_cast<int64_t>(Quant::kInt4) || about[1] < 1 || about[2] < 1 || about[3] < kBlock || about[3] % kBlock)
    PD_THROW("not a quantised weight");
  const QuantWeight weight{in<uint8_t>(blocks), about[1], about[2], about[3], static_cast<Quant>(about[0])};
  if (blocks.dtype() != Type::UINT8 || blocks.numel() != weight.tiles() * weight.tile_bytes()) PD_THROW("a quantised weight of another size");
  const bool some = bias.numel() != 0;
  if (some && (bias.dtype() != Type::FLOAT32 || bias.numel() != weight.out)) PD_THROW("a bias that is not float32 with one value an output");
  return {weight, some ? in<float>(bias) : nullptr};
}

static const float* norm_of(const Tensor& t, int64_t width) {
  if (t.numel() == 0) return nullptr;
  if (t.dtype() != Type::FLOAT32 || t.numel() != width) PD_THROW("the weights of a norm that are not float32 or of another size");
  return in<float>(t);
}

static void fits(const DecoderMatrix& m, int64_t from, int64_t to) {
  if (m.weight.in != from || m.weight.out != to) PD_THROW("a matrix (", m.weight.in, ", ", m.weight.out, ") where (", from, ", ", to, ") is wanted");
}

static void check(const Decoder& op, const DecoderLayer& l) {
  const int64_t all = op.heads * op.dim, shared = op.groups * op.dim;
  if (!l.attn_norm || !l.mlp_norm) PD_THROW("a layer without norms");
  fits(l.q, op.width, all), fits(l.k, op.width, shared), fits(l.v, op.width, shared), fits(l.o, all, op.width);
  fits(l.gate, op.width, op.inner), fits(l.up, op.width, op.inner), fits(l.down, op.inner, op.width);
}

static void check_rows(const Decoder& op, int64_t pages) {
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t length = op.lengths[row];
    if (length < 1 || length > (op.table ? op.blocks : 1) * op.page) PD_THROW("a length of ", length, " lies outside of the cache");
    if (!op.table && row >= pages) PD_THROW("more rows than the cache has");
    for (int64_t i = 0; op.table && i * op.page < length; ++i)
      if (op.table[row * op.blocks + i] < 0 || op.table[row * op.blocks + i] >= pages) PD_THROW("a page of the table lies outside of the cache");
  }
}

// The caches are written in place, though Paddle is told of no such output: see mix_adamw.
static Tensors Step(const Tensor& x, const Tensors& norms, const Tensors& blocks, const Tensors& biases, const Tensors& keys,
                    const Tensors& values, const Tensor& lengths, const Tensor& table, const Tensor& cos, const Tensor& sin,
                    const Numbers& abouts, const Numbers& windows, bool interleaved, double eps, double scale) {
  const int64_t count = keys.size();
  if (norms.size() != static_cast<size_t>(count * kNorms) || blocks.size() != static_cast<size_t>(count * kMatrices) ||
      biases.size() != blocks.size() || values.size() != keys.size() || windows.size() != keys.size() || abouts.size() != 4 * blocks.size() ||
      count < 1)
    PD_THROW("the lists of a decoder do not have the same number of layers");
  const Dims cache = keys[0].shape(), xs = x.shape();
  Tensor y = paddle::empty(xs, Type::FLOAT32, x.place());
  Decoder op{};
  op.count = count, op.rows = xs[0], op.width = xs[1];
  op.page = cache[1], op.groups = cache[2], op.dim = cache[3];
  op.heads = abouts[2] / op.dim, op.inner = abouts[4 * 4 + 2];
  op.x = out<float>(y), op.lengths = in<int32_t>(lengths), op.table = table.numel() ? in<int32_t>(table) : nullptr;
  op.blocks = op.table ? table.shape()[1] : 0;
  op.cache_bf16 = keys[0].dtype() == Type::BFLOAT16, op.interleaved = interleaved;
  op.cos = in<float>(cos), op.sin = in<float>(sin), op.turned = 2 * cos.shape()[1];
  op.eps = static_cast<float>(eps), op.scale = static_cast<float>(scale);
  if (x.dtype() != Type::FLOAT32 || lengths.dtype() != Type::INT32 || lengths.numel() != op.rows || cos.dtype() != Type::FLOAT32 ||
      cos.numel() != op.rows * op.turned / 2 || sin.dtype() != Type::FLOAT32 || sin.numel() != cos.numel() || op.turned > op.dim ||
      op.heads % op.groups || (op.table && (table.dtype() != Type::INT32 || table.shape()[0] != op.rows)))
    PD_THROW("the rows, their lengths, pages and angles do not fit");
  check_rows(op, cache[0]);
  std::vector<DecoderLayer> layers(count);
  for (int64_t i = 0; i < count; ++i) {
    DecoderLayer& l = layers[i];
    DecoderMatrix* matrices[] = {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down};
    for (int m = 0; m < kMatrices; ++m) {
      const int64_t at = i * kMatrices + m;
      *matrices[m] = matrix_of(blocks[at], biases[at], &abouts[4 * at]);
    }
    l.attn_norm = norm_of(norms[kNorms * i], op.width), l.mlp_norm = norm_of(norms[kNorms * i + 1], op.width);
    l.q_norm = norm_of(norms[kNorms * i + 2], op.dim), l.k_norm = norm_of(norms[kNorms * i + 3], op.dim);
    if (keys[i].shape() != cache || values[i].shape() != cache || keys[i].dtype() != keys[0].dtype() || values[i].dtype() != keys[0].dtype())
      PD_THROW("the caches of the layers are not alike");
    l.keys = const_cast<void*>(keys[i].data()), l.values = const_cast<void*>(values[i].data());
    l.window = windows[i];
    check(op, l);
  }
  op.layers = layers.data();
  std::memcpy(op.x, in<float>(x), x.numel() * sizeof(float));
  CALL_KERNEL(decoder, op);
  return {y};
}

PD_BUILD_OP(mix_decoder)
    .Inputs({"X", paddle::Vec("Norms"), paddle::Vec("Blocks"), paddle::Vec("Biases"), paddle::Vec("Keys"), paddle::Vec("Values"), "Lengths",
             "Table", "Cos", "Sin"})
    .Outputs({"Out"})
    .Attrs({"abouts: std::vector<int64_t>", "windows: std::vector<int64_t>", "interleaved: bool", "eps: double", "scale: double"})
    .SetKernelFn(PD_KERNEL(Step));
