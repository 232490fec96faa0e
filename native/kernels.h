// What every instruction set provides: a table of kernels, and the arguments of each. Sizes are in elements unless named
// bytes; activations are float32 with contiguous rows, `*_stride` apart where a stride is given. Nothing here is owned.
#pragma once
#include <cstddef>
#include <cstdint>

#include "team.h"

namespace parity {

constexpr int64_t kPanelRows = 16;  // rows of a weight that are interleaved
constexpr int64_t kBlock = 32;      // columns that share an activation scale

enum Format : int32_t {
    kF32, kF16, kBf16,
    kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0,
    kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
    kInt4_128, kInt4_32, kZero4_128, kZero4_32, kInt8_128, kInt8_32, kMxfp4,
    kFp8_128, kFp8_32, kFp8_Power,
    kNumFormats,
    kFirstGroups = kInt4_128,      // packed from arrays, not from a file's blocks
    kFirstFloatPanels = kFp8_128,  // multiplied by activations as floats
};

// How a packed format is laid out, on disk and in panels.
struct FormatInfo {
    const char* name;
    int64_t columns;      // of a block; 0 for a plain number format
    int64_t bytes;        // of a block of one row on disk (without what it shares with others), or of one number
    int64_t panel_bytes;  // of a block of a panel
};

// A matrix of `rows` rows that fills the outputs `first` .. `first + rows` of a linear.
struct Part {
    const void* data;
    int32_t format, rows, first;
};

constexpr int kMaxParts = 5;

struct LinearArgs {
    const float* x;
    int64_t x_stride, tokens, columns;
    const float* bias;  // or null
    float* out;
    int64_t out_stride;
    int64_t num_parts;
    Part parts[kMaxParts];
    bool as_floats = false;  // activations meet packed weights as they are, and not rounded to bytes
};

// activation(gate x, up x): the parts are two matrices of as many rows, `out` has as many columns as one of them.
struct GatedLinearArgs {
    LinearArgs both;
    int32_t kind;  // as in GatedArgs
    float limit, beta, linear;
};

// out [rows, columns] = x [rows, order].
struct ReorderArgs {
    const float* x;
    int64_t x_stride, rows, columns;
    const int32_t* order;
    float* out;
};

struct EmbedArgs {
    const int32_t* tokens;
    int64_t num_tokens, columns;
    const void* data;
    int64_t format, rows;
    float* out;
};

struct PackArgs {
    const uint8_t* rows;  // the file's blocks
    int64_t format, num_rows, columns;
    uint8_t* panels;
};

// Codes of four bits (two in a byte, the low ones first) or eight, row after row, and the scales [rows / group_rows, columns /
// group_columns, both rounded up] of their groups.
struct PackGroupsArgs {
    const uint8_t* data;
    const void* scale;
    const uint8_t* zeros;  // of the same shape, or null
    int64_t format, rows, columns, group_rows, group_columns;
    int64_t scale_format;  // kF32, kF16 or kBf16; ignored where scales are copied
    uint8_t* panels;
};

// Rows at two distances: row r stands at data + r / inner * stride + r % inner * inner_stride, so that heads cut out of a
// wider product are read where they are.
struct Spaced {
    const float* data;
    int64_t stride, inner, inner_stride;
};

struct NormArgs {
    Spaced x;
    const float* residual;  // or null; added to x
    const float* weight;    // or null
    const float* bias;      // or null; then the mean is taken out too
    Spaced gate;            // or null data
    float* sum;             // x + residual, or null
    float* out;
    int64_t rows, columns;
    int64_t weights;        // rows of the weight, taken in turn
    float eps, shift;       // the weight is shift + weight
    int64_t activation;     // of the gate: 0 silu, 1 sigmoid
};

struct GatedArgs {
    const float* gate_up;
    float* out;
    int64_t rows, columns;
    int64_t kind;  // 0 silu, 1 silu with limit, 2 situ
    float limit, beta, linear;
};

struct SigmoidGateArgs {
    Spaced x, gate;
    float* out;
    int64_t rows, columns;
    int64_t one;  // whether a row has one gate
};

struct AddArgs {
    Spaced a, b;
    float* out;
    int64_t rows, columns;
};

struct CopyArgs {
    Spaced x;
    const float* factors;  // or null; one for each row
    float* out;
    int64_t rows, columns;
};

// factor * kind(scale * x)
struct ActivateArgs {
    Spaced x;
    float* out;
    int64_t rows, columns;
    int64_t kind;  // 0 silu, 1 sigmoid
    float scale, factor;
};

struct AnglesArgs {
    const int32_t* positions;
    const float* inv_freq;
    float* out;
    int64_t tokens, half, shift;
    float scale;
};

struct RopeArgs {
    const float* x;
    int64_t x_stride, x_head_stride;
    const float* angles;
    float* out;
    int64_t tokens, heads, dim, half, offset;
    int32_t interleaved, inverse;
};

// Where the rows of a batch stand in pages.
struct Places {
    const int32_t *positions, *starts, *lengths, *pages;
    int64_t num_sequences, num_tokens, max_pages, page_size;
};

// How pages keep numbers: signed bytes have a bfloat16 scale behind each row of them.
enum PageType : int32_t { kPageFloat, kPageHalf, kPageBfloat, kPageByte };

// Rows of bytes, copied; or where `columns` is not 0, `rows` times that many float32 numbers, kept as `type`.
struct WriteArgs {
    const void* values;
    void* pages;
    int64_t value_stride_bytes, row_bytes;
    int64_t every;  // tokens of an entry, written by the last of them; the page size counts entries
    int64_t rows, columns;
    int32_t type;
    Places places;
};

struct RopeWriteArgs {
    const float *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    const float* angles;
    float* out;
    void *k_pages, *v_pages;
    int32_t page_type, heads, kv_heads, k_dim, v_dim, half, offset, interleaved;
    Places places;
};

// What a row attends to: all tokens up to its own (in a window), the entries chosen for it, the tokens of chosen groups and
// of the open one, or the tokens of a window and entries pooled from older ones.
enum Seen : int32_t { kAll, kChosen, kGroups, kPooled };

struct AttendArgs {
    const float *q, *q2;  // q2 . k2 is added to the scores, with one k2 for all heads
    int64_t q_stride, q_head_stride, q2_stride, q2_head_stride;
    const void *k_pages, *k2_pages, *v_pages;
    const void* pooled;       // pages of pooled entries, or null
    const float* sinks;       // or null
    const int32_t* selected;  // or null; [tokens, num_selected], -1 is none
    float* out;
    int32_t page_type, heads, kv_heads, k_dim, k2_dim, v_dim, num_selected;
    int32_t window;    // or 0
    int32_t seen;      // of `Seen`
    int32_t every;     // tokens of a chosen group, or of a pooled entry
    int32_t segments;  // where threads share the entries of a row, the most that it can have; or 0
    float scale;
    Places places;
};

// The best entries of each row by sum_h weight_h relu(q_h . k), or the best blocks of entries. The page size counts entries.
struct SelectArgs {
    const float* q;
    const float* weights;   // [tokens, heads], or null: 1 each
    const void* k_pages;
    const int32_t* within;  // or null; [tokens, num_within], the blocks of `length` entries to choose from, -1 is none
    int32_t* out;           // [tokens, top_k], ascending, -1 where there are fewer
    int64_t q_stride, q_head_stride, weight_stride;
    int32_t page_type, heads, dim, top_k, every, num_within, length;
    int32_t blocks;  // whether blocks of `length` entries are chosen
    Places places;
};

// Entries pooled from groups of tokens. The tail holds a sequence's latest inputs at their positions modulo its width.
struct PoolArgs {
    const float *values, *gates;  // gates or null
    const float* bias;            // or null; [every, channels]
    float *tail, *out;
    const int32_t *starts, *lengths, *slots;
    int64_t value_stride, gate_stride, sequences, channels, every;
    int64_t overlap;  // whether the first half of the channels comes from the group before
};

// Experts in packed panels or plain numbers, one matrix after the other.
struct ExpertsArgs {
    const float* x;       // [tokens, columns]
    const void *gate_up, *down;
    const float* weights;   // [tokens, top_k]
    const int32_t* chosen;  // [tokens, top_k]
    float* out;
    int64_t tokens, columns, inner, experts, top_k;
    int32_t gate_up_format, down_format;
    int32_t kind;  // of the activation, as in GatedArgs
    float limit, beta, linear;
    bool as_floats = false;  // as in LinearArgs
};

// A router: experts chosen by their scores, or by a table of tokens.
struct RouteArgs {
    const float* logits;
    int64_t stride;
    const float* bias;      // or null
    const int32_t* tokens;  // null where the scores choose
    const int32_t* table;   // [vocabulary, top_k]
    float* weights;         // [rows, top_k]
    int32_t* experts;       // [rows, top_k]
    int64_t rows, columns;
    int32_t top_k, score;   // 0 softmax, 1 sigmoid, 2 sqrtsoftplus
    int32_t groups, top_groups, by_largest, renormalize;
    float scale;
};

struct ConvArgs {
    const float *x, *weight, *bias;  // bias or null
    float *state, *out;
    const int32_t *starts, *slots;
    int64_t x_stride, sequences, channels, width;
    int64_t activation;  // 0 none, 1 silu
};

struct DeltaArgs {
    const float *q, *k, *v, *decay, *beta;
    float *state, *out;
    const int32_t *starts, *slots;
    int64_t q_stride, k_stride, v_stride, sequences;
    int32_t key_heads, value_heads, k_dim, v_dim, decay_width;  // 1, or k_dim where each dimension has its own
    float scale;
};

struct DeltaGatesArgs {
    const float *a, *b, *a_log, *dt_bias;
    float *decay, *beta;
    int64_t a_stride, b_stride, rows, heads, dim;  // dim is 1 where a head has one decay
    int64_t bounded;
    float lower_bound;
};

// Several residual streams [tokens, count, columns].
struct HyperWeightsArgs {
    const float *mixed, *base, *scale;  // mixed [tokens, count], or [tokens, count (2 + count)]
    float *pre, *post, *comb;           // post and comb or null
    int64_t tokens, count, iterations;
    float eps;
};

struct HyperArgs {
    const float *streams, *y, *weights, *comb;  // read: weights alone; write: y, and comb or null
    float* out;
    int64_t tokens, count, columns;
};

// Two arrays [tokens, count, columns]: sigmoid gates and what they gate, or queries and keys.
struct StreamGateArgs {
    const float *x, *gates;
    float* out;
    int64_t tokens, count, columns;
};

constexpr int kMaxMixed = 20;

// sum_i p_i values_i, p the softmax of proj . (values_i over its root mean square, times norm)
struct MixArgs {
    const float* values[kMaxMixed];
    const float *norm, *proj;
    float* out;
    int64_t tokens, columns;
    int32_t count;
    float eps;
};

struct WindowsArgs {
    const int32_t* tokens;
    const int32_t* ids;  // or null; stand for the tokens
    int32_t* history;
    const int32_t *starts, *slots;
    int64_t sequences, width;
    int64_t* out;
};

// Rows of a table, found by hashing a row's latest tokens.
struct HashArgs {
    const int64_t *windows, *multipliers, *primes, *offsets;
    int64_t* out;
    int64_t tokens, width, heads;  // heads of each n-gram
    int64_t fill, stop;            // stop is -1 where none hides what is before it
};

// The rows of a table that are in one of its parts.
struct GatherArgs {
    const int64_t* rows;
    float* out;
    int64_t count, first;
    PackGroupsArgs table;  // as the file has it: plain numbers, or blocks, without scales beside them; `panels` is not used
};

struct SampleArgs {
    const float *logits, *temperature, *top_p, *min_p, *uniform;
    const int32_t* top_k;
    int64_t rows, columns, stride;
    int64_t* out;
};

// Reads all of `data`: how fast memory is. `out` has a number for each thread.
struct ReadArgs {
    const float* data;
    int64_t count;
    float* out;
};

using Kernel = void (*)(const void* args, Team& team);

struct Kernels {
    const char* isa;
    Kernel linear, gated_linear, reorder, embed, pack, pack_groups, norm, gated, sigmoid_gate, angles, rope, write, rope_write, attend, experts, causal_conv, gated_delta, sample, read;
    Kernel add, copy, activate, select, pool, route, delta_gates;
    Kernel hyper_weights, hyper_read, hyper_write, gated_mean, stream_gate, mix, windows, hash, gather;
    size_t (*linear_scratch)(const LinearArgs& args);
    size_t (*experts_scratch)(const ExpertsArgs& args);
    size_t (*select_scratch)(const SelectArgs& args);
    // Sets `segments`.
    size_t (*attend_scratch)(AttendArgs& args, int threads);
};

const FormatInfo& format_info(int64_t format);

}  // namespace parity
