// A token's way through all layers without leaving the team of threads.
#include "decoder.h"

#include <sched.h>

#include <atomic>

#include "attention.h"
#include "vec.h"

namespace mix::ISA {
namespace {

#define INLINE static inline __attribute__((always_inline))
constexpr float kLog2e = 1.44269504088896341f;
constexpr int64_t kSteps = 14;    // most that a layer has
constexpr int kPatience = 1000;  // looks at a flag before a waiting thread gives its CPU away, some 20 microseconds

// Threads that go through the same steps together. A step is jobs: each thread has a run of its own, then it helps the others. The next
// step begins when all jobs are done. That is no barrier: a thread that was put aside by the system holds up the others by what is in its
// hands at most, and when it comes back it finds that the steps it missed have nothing left to do. Counters of different threads lie
// apart, because to pass one from core to core takes as long as half a kilobyte of weights.
class Team {
 public:
  Team(int64_t steps, int64_t threads) : threads_(threads), counters_(steps * (threads + 1)) {
    for (int64_t i = 0; i < steps * (threads + 1); ++i) new (&counters_[i]) Counter;
  }

  template <typename Body>
  void step(int64_t index, int64_t me, int64_t jobs, const Body& body) {
    Counter* at = &counters_[index * (threads_ + 1)];
    std::atomic<int64_t>& done = at[threads_].value;
    int64_t finished = 0;
    for (int64_t i = 0; i < threads_; ++i) {
      const int64_t whose = me + i < threads_ ? me + i : me + i - threads_;
      const int64_t first = jobs * whose / threads_, count = jobs * (whose + 1) / threads_ - first;
      std::atomic<int64_t>& taken = at[whose].value;
      if (i > 0 && taken.load(std::memory_order_relaxed) >= count) continue;
      for (int64_t job; (job = taken.fetch_add(1, std::memory_order_relaxed)) < count; ++finished) body(first + job);
      if (i == 0 && finished > 0) done.fetch_add(finished, std::memory_order_release), finished = 0;
    }
    if (finished > 0) done.fetch_add(finished, std::memory_order_release);
    for (int look = 0; done.load(std::memory_order_acquire) < jobs; ++look) {
      if (look > kPatience) sched_yield();
      _mm_pause();
    }
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> value{0};
  };
  int64_t threads_;
  Scratch<Counter> counters_;
};

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  Vec square;
  lanes(n, [&] LANE {
    const Vec v = at(x, i, w);
    square = fma(v, v, square);
  });
  const Vec scale(1.0f / __builtin_sqrtf(sum(square) / static_cast<float>(n) + eps));
  lanes(n, [&] LANE { put(y, i, w, at(x, i, w) * scale * at(weight, i, w)); });
}

void turn(float* x, const float* cos, const float* sin, int64_t turned, bool interleaved) {
  const int64_t half = turned / 2;
  if (interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cos[i] - b * sin[i];
      x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
    return;
  }
  lanes(half, [&] LANE {
    const Vec a = at(x, i, w), b = at(x + half, i, w), c = at(cos, i, w), s = at(sin, i, w);
    put(x, i, w, fnma(b, s, a * c));
    put(x + half, i, w, fma(a, s, b * c));
  });
}

INLINE void keep(float* to, const float* from, int64_t n) { std::memcpy(to, from, n * sizeof(float)); }
INLINE void keep(bf16* to, const float* from, int64_t n) {
  lanes(n, [&] LANE { put(to, i, w, at(from, i, w)); });
}

// What is between the matrices. With a single row every thread norms and rounds for itself, which is sooner done than said: `copies` of
// those buffers. With more rows they share that work.
struct Work {
  Work(const Decoder& op, int64_t threads)
      : op(op), chunks(quant_chunks(op.rows)), copies(op.rows == 1 ? threads : op.rows), head(decode_width(op.dim)), state(decode_state(op.dim)),
        each(op.heads / op.groups), inputs(op.heads * op.dim > op.width ? op.heads * op.dim : op.width),
        code_bytes(rounded_bytes(op.rows * ((inputs > op.inner ? inputs : op.inner) / kBlock + 1))), entering(copies * inputs),
        q(op.rows * op.heads * op.dim), k(op.rows * op.groups * op.dim), v(op.rows * op.groups * op.dim), ready(copies * op.heads * head),
        gate(op.rows * op.inner), up(op.rows * op.inner), codes(op.rows == 1 ? threads * code_bytes : code_bytes) {
    std::memset(ready.get(), 0, copies * op.heads * head * sizeof(float));
  }

  const Decoder& op;
  int64_t chunks, copies, head, state, each, inputs, code_bytes;
  Scratch<float> entering, q, k, v, ready, gate, up;
  Scratch<char> codes;

  int64_t slot(int64_t row) const {
    const int64_t position = op.lengths[row] - 1;
    return op.table ? op.table[row * op.blocks + position / op.page] * op.page + position % op.page : row * op.page + position;
  }
  int64_t first_key(int64_t row, int64_t window) const {
    const int64_t length = op.lengths[row];
    return window > 0 && length > window ? length - window : 0;
  }

  // A head's query, turned, scaled and padded.
  void turn_query(const DecoderLayer& layer, int64_t row, int64_t h, float* to) {
    std::memcpy(to, &q[(row * op.heads + h) * op.dim], op.dim * sizeof(float));
    if (layer.q_norm) rms_norm(to, layer.q_norm, op.eps, op.dim, to);
    turn(to, op.cos + row * op.turned / 2, op.sin + row * op.turned / 2, op.turned, op.interleaved);
    const Vec scale(op.scale * kLog2e);
    lanes(op.dim, [&] LANE { put(to, i, w, at(to, i, w) * scale); });
  }

  // A group's new key, turned, and its value go into the cache.
  template <typename C>
  void put_key(const DecoderLayer& layer, int64_t row, int64_t group) {
    const int64_t from = (row * op.groups + group) * op.dim, to = (slot(row) * op.groups + group) * op.dim;
    if (layer.k_norm) rms_norm(&k[from], layer.k_norm, op.eps, op.dim, &k[from]);
    turn(&k[from], op.cos + row * op.turned / 2, op.sin + row * op.turned / 2, op.turned, op.interleaved);
    keep(static_cast<C*>(layer.keys) + to, &k[from], op.dim);
    keep(static_cast<C*>(layer.values) + to, &v[from], op.dim);
  }
  void keep_key(const DecoderLayer& layer, int64_t row, int64_t group) {
    op.cache_bf16 ? put_key<bf16>(layer, row, group) : put_key<float>(layer, row, group);
  }
};

// Jobs of a step of products that share their input: runs of tiles, small enough to share them out evenly.
class Products {
 public:
  Products(const Work& work, int64_t threads) : work_(work), threads_(threads) {}
  void add(const DecoderMatrix& m, float* y, const float* residual = nullptr) {
    Part& part = parts_[count_++];
    part.op = {m.weight, work_.op.rows, nullptr, m.bias, residual, y};
    const int64_t tiles = m.weight.tiles(), most = (384 << 10) / (m.weight.tile_bytes() + 1);
    part.size = (tiles + 6 * threads_ - 1) / (6 * threads_);
    if (part.size > most) part.size = most < 1 ? 1 : most;
    part.begin = jobs_;
    jobs_ += (tiles + part.size - 1) / part.size;
  }
  int64_t jobs() const { return jobs_; }
  // The tiles [first, last) of a job of the first matrix
  void range(int64_t job, int64_t& first, int64_t& last) const {
    const int64_t tiles = parts_[0].op.weight.tiles();
    first = job * parts_[0].size;
    last = first + parts_[0].size < tiles ? first + parts_[0].size : tiles;
  }
  void run_tiles(int64_t first, int64_t last, const Rounded& x) const { quant_tiles(parts_[0].op, x, first, last, 0, work_.chunks); }
  void run(int64_t job, const Rounded& x) const {
    int64_t i = count_ - 1;
    while (parts_[i].begin > job) --i;
    const Part& part = parts_[i];
    const int64_t first = (job - part.begin) * part.size, tiles = part.op.weight.tiles();
    quant_tiles(part.op, x, first, first + part.size < tiles ? first + part.size : tiles, 0, work_.chunks);
  }

 private:
  struct Part {
    QuantLinear<float> op;
    int64_t size, begin;
  };
  const Work& work_;
  int64_t threads_, count_ = 0, jobs_ = 0;
  Part parts_[3];
};

// One thread's way through the layers.
class Pass {
 public:
  Pass(Work& work, Team& team, int64_t me, int64_t threads, float* states, int64_t most)
      : work_(work), op_(work.op), team_(team), me_(me), threads_(threads), states_(states), most_(most),
        own_(work.op.rows == 1 ? me : 0), entering_(&work.entering[own_ * work.inputs]), ready_(&work.ready[own_ * work.op.heads * work.head]) {}

  void layer(const DecoderLayer& layer) {
    attention(layer);
    mlp(layer);
  }

 private:
  template <typename Body>
  void step(int64_t jobs, const Body& body) { team_.step(step_++, me_, jobs, body); }

  // body(row) makes the rows of `x` that enter a matrix; then they are rounded for it.
  template <typename Body>
  Rounded rounded(const DecoderMatrix& next, const float* x, const Body& body) {
    const int64_t blocks = next.weight.blocks();
    const Rounded codes = rounded_at(&work_.codes[own_ * work_.code_bytes], op_.rows, blocks);
    const QuantLinear<float> product{next.weight, op_.rows, x, nullptr, nullptr, nullptr};
    if (op_.rows == 1) {
      body(0);
      quant_round(product, codes, 0, 0, blocks);
      return codes;
    }
    step(op_.rows, body);
    step(work_.chunks, [&](int64_t chunk) { quant_round(product, codes, chunk, 0, blocks); });
    return codes;
  }
  Rounded normed(const DecoderMatrix& next, const float* weight) {
    return rounded(next, entering_, [&](int64_t row) {
      rms_norm(op_.x + row * op_.width, weight, op_.eps, op_.width, entering_ + row * op_.width);
    });
  }
  void multiply(const Products& products, const Rounded& codes) {
    step(products.jobs(), [&](int64_t job) { products.run(job, codes); });
  }

  void attention(const DecoderLayer& layer) {
    const Rounded x = normed(layer.q, layer.attn_norm);
    Products qkv(work_, threads_);
    qkv.add(layer.q, work_.q.get());
    qkv.add(layer.k, work_.k.get());
    qkv.add(layer.v, work_.v.get());
    multiply(qkv, x);
    if (op_.rows > 1)
      step(op_.rows, [&](int64_t row) {
        for (int64_t h = 0; h < op_.heads; ++h) work_.turn_query(layer, row, h, ready_ + (row * op_.heads + h) * work_.head);
        for (int64_t g = 0; g < op_.groups; ++g) work_.keep_key(layer, row, g);
      });
    look(layer);
    const Rounded seen = rounded(layer.o, entering_, [&](int64_t row) { join(layer, row); });
    Products o(work_, threads_);
    o.add(layer.o, op_.x, op_.x);
    multiply(o, seen);
  }

  // Jobs are (piece, row, group); `most_` pieces are as many as any row has.
  void look(const DecoderLayer& layer) {
    Decode a{};
    a.k = layer.keys, a.v = layer.values, a.lengths = op_.lengths, a.table = op_.table;
    a.batch = op_.rows, a.heads = op_.heads, a.groups = op_.groups, a.dim = op_.dim;
    a.keys = op_.page, a.blocks = op_.blocks, a.block_size = op_.page;
    const int64_t each = work_.each, pairs = op_.rows * op_.groups;
    step(pairs * most_, [&](int64_t job) {
      const int64_t piece = job / pairs, pair = job % pairs, row = pair / op_.groups, group = pair % op_.groups, length = op_.lengths[row];
      const int64_t first = work_.first_key(row, layer.window) + piece * kSplit;
      if (first >= length) return;
      const int64_t last = first + kSplit < length ? first + kSplit : length;
      float* q = ready_ + (row * op_.heads + group * each) * work_.head;
      if (op_.rows == 1) {  // only the last piece looks at the new key
        for (int64_t h = 0; h < each; ++h) work_.turn_query(layer, 0, group * each + h, q + h * work_.head);
        if (last == length) work_.keep_key(layer, 0, group);
      }
      decode_piece(a, op_.cache_bf16, q, row, group, first, last, states_ + (pair * most_ + piece) * each * work_.state);
    });
  }

  void join(const DecoderLayer& layer, int64_t row) {
    const int64_t seen = op_.lengths[row] - work_.first_key(row, layer.window), pieces = (seen + kSplit - 1) / kSplit;
    const int64_t step = work_.each * work_.state;
    for (int64_t h = 0; h < op_.heads; ++h) {
      const int64_t pair = row * op_.groups + h / work_.each;
      const float* states = states_ + pair * most_ * step + h % work_.each * work_.state;
      decode_join(states, pieces, step, op_.dim, entering_ + (row * op_.heads + h) * op_.dim);
    }
  }

  void mlp(const DecoderLayer& layer) {
    const Rounded x = normed(layer.gate, layer.mlp_norm);
    Products gate(work_, threads_), up(work_, threads_);
    gate.add(layer.gate, work_.gate.get());
    up.add(layer.up, work_.up.get());
    step(gate.jobs(), [&](int64_t job) {
      int64_t first, last;
      gate.range(job, first, last);
      gate.run_tiles(first, last, x);
      up.run_tiles(first, last, x);
      const int64_t end = last * kTile < op_.inner ? last * kTile : op_.inner;
      for (int64_t row = 0; row < op_.rows; ++row) open_gate(row * op_.inner + first * kTile, end - first * kTile);
    });
    const Rounded through = rounded(layer.down, work_.gate.get(), [](int64_t) {});
    Products down(work_, threads_);
    down.add(layer.down, op_.x, op_.x);
    multiply(down, through);
  }
  void open_gate(int64_t from, int64_t count) {
    float *gate = &work_.gate[from], *up = &work_.up[from];
    lanes(count, [&] LANE {
      const Vec g = at(gate, i, w);
      put(gate, i, w, g * sigmoid(g) * at(up, i, w));
    });
  }

  Work& work_;
  const Decoder& op_;
  Team& team_;
  int64_t me_, threads_;
  float* states_;
  int64_t most_, own_;
  float *entering_, *ready_;
  int64_t step_ = 0;
};

}  // namespace

void decoder(const Decoder& op) {
  const int64_t threads = omp_get_max_threads();
  Work work(op, threads);
  int64_t most = 1;
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t pieces = (op.lengths[row] + kSplit - 1) / kSplit;
    most = pieces > most ? pieces : most;
  }
  Scratch<float> states(op.rows * op.heads * most * work.state);
  Team team(op.count * kSteps, threads);
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    // where fewer threads come than were asked for, those that are there do the work of the others
    Pass pass(work, team, omp_get_thread_num(), threads, states.get(), most);
    for (int64_t i = 0; i < op.count; ++i) pass.layer(op.layers[i]);
  }
}

}  // namespace mix::ISA
