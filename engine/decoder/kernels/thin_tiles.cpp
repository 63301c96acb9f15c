// The thin products by Intel's tile unit (AMX): 16 x 32 bf16 times 32 x 16 bf16 into 16 x 16 floats.
//
// Ranks are padded to tiles, and zeros are multiplied like any other number. A tile's right operand wants two neighbours
// of the summed dimension side by side ("paired"). `outer` reads thin numbers a row a rank, [R, t]; what is rounded up
// is zero.

#include "thin.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

// The compiler does not know that tile instructions touch memory.
#define LOAD_TILE(tile, place, stride)    \
    do {                                  \
        asm volatile("" ::: "memory");    \
        _tile_loadd(tile, place, stride); \
    } while (0)
#define STORE_TILE(tile, place, stride)    \
    do {                                   \
        _tile_stored(tile, place, stride); \
        asm volatile("" ::: "memory");     \
    } while (0)

namespace {

constexpr int64_t TILE = 16, DEPTH = 32, BLOCK = 128;

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
    TileConfig() {
        for (int tile = 0; tile < 8; tile++) row_bytes[tile] = 64, rows[tile] = 16;
    }
};

// Tiles are a thread's own state; oneDNN sets its own whenever it needs them.
struct Tiles {
    Tiles() {
        TileConfig config;
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
};

// S[R, N], summed over N: [N / 32][R / 16] tiles of 16 pairs by 16 ranks. Rows from `ranks` on are zero.
Numbers paired_along(const bf16 *s, int64_t ranks, int64_t tiles, int64_t features) {
    Numbers packed(size_t(features * tiles * TILE), bf16{0});
    auto *pairs = reinterpret_cast<uint32_t *>(packed.data());
    for (int64_t r = 0; r < ranks; r++) {
        auto *row = reinterpret_cast<const uint32_t *>(s + r * features);
        for (int64_t depth = 0; depth < features / DEPTH; depth++) {
            uint32_t *tile = pairs + (depth * tiles + r / TILE) * TILE * TILE + r % TILE;
            for (int64_t pair = 0; pair < TILE; pair++) tile[pair * TILE] = row[depth * TILE + pair];
        }
    }
    return packed;
}

// Two rows' 16 numbers side by side.
__m512i paired(const bf16 *first, const bf16 *second) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)first));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// S[R, N], summed over R: [N / 16][R / 32] tiles of 16 pairs of ranks by 16 features.
Numbers paired_across(const bf16 *s, int64_t ranks, int64_t ranks_padded, int64_t features) {
    Numbers packed(size_t(ranks_padded * features)), nothing(size_t(features), bf16{0});
    int64_t depths = ranks_padded / DEPTH;
    for (int64_t pair = 0; pair < ranks_padded / 2; pair++) {
        const bf16 *first = 2 * pair < ranks ? s + 2 * pair * features : nothing.data();
        const bf16 *second = 2 * pair + 1 < ranks ? s + (2 * pair + 1) * features : nothing.data();
        for (int64_t n = 0; n < features; n += TILE)
            _mm512_storeu_si512(
                packed.data() + ((n / TILE * depths + pair / TILE) * TILE + pair % TILE) * DEPTH,
                paired(first + n, second + n));
    }
    return packed;
}

// 32 tokens' thin numbers: x[32, N] S^T, with S paired along N.
void multiply_rows(const bf16 *x, int64_t features, const Numbers &s, int64_t ranks, const Thin &thin, int64_t token) {
    const __m512i column = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(TILE));
    alignas(64) float sums[DEPTH][TILE];
    int64_t tiles = padded(ranks, TILE) / TILE;
    for (int64_t tile = 0; tile < tiles; tile++) {
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t depth = 0; depth < features / DEPTH; depth++) {
            LOAD_TILE(4, x + depth * DEPTH, features * 2);
            LOAD_TILE(5, x + TILE * features + depth * DEPTH, features * 2);
            LOAD_TILE(6, s.data() + (depth * tiles + tile) * TILE * DEPTH, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 5, 6);
        }
        STORE_TILE(0, sums[0], 64);
        STORE_TILE(1, sums[TILE], 64);
        for (int64_t row = 0; row < DEPTH; row++)
            _mm256_storeu_si256((__m256i *)(thin.by_token + (token + row) * thin.ranks + tile * TILE),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(sums[row])));
        for (int64_t r = 0; r < TILE && tile * TILE + r < ranks; r++) {
            __m512 first = _mm512_i32gather_ps(column, sums[0] + r, 4);
            __m512 second = _mm512_i32gather_ps(column, sums[TILE] + r, 4);
            _mm512_storeu_si512(thin.for_outer + (tile * TILE + r) * thin.tokens + token,
                                (__m512i)_mm512_cvtne2ps_pbh(second, first));
        }
    }
}

// thin = x[t, N] S[R, N]^T.
void multiply(const bf16 *x, int64_t tokens, const bf16 *s, const Reach *, int64_t ranks, int64_t features,
              const Thin &thin) {
    Numbers packed = paired_along(s, ranks, padded(ranks, TILE) / TILE, features);
    std::memset(thin.by_token, 0, size_t(2 * thin.tokens * thin.ranks) * sizeof(bf16));
    int64_t whole = tokens / DEPTH * DEPTH;
#pragma omp parallel
    {
        Tiles tiles_in_use;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < whole; t += DEPTH) multiply_rows(x + t * features, features, packed, ranks, thin, t);
    }
    if (whole == tokens) return;
    Numbers rest(size_t(DEPTH * features), bf16{0});
    std::memcpy(rest.data(), x + whole * features, size_t((tokens - whole) * features) * sizeof(bf16));
    Tiles tiles_in_use;
    multiply_rows(rest.data(), features, packed, ranks, thin, whole);
}

// y[t, N] += thin[t, R] S[R, N].
void add(bf16 *y, int64_t tokens, const Thin &thin, const bf16 *s, const Reach *, int64_t ranks, int64_t features) {
    int64_t depths = thin.ranks / DEPTH;
    Numbers packed = paired_across(s, ranks, thin.ranks, features);
#pragma omp parallel
    {
        Tiles tiles_in_use;
        alignas(64) float sums[TILE][2 * TILE];
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t += TILE) {
            int64_t rows = tokens - t < TILE ? tokens - t : TILE;
            for (int64_t n = 0; n < features; n += 2 * TILE) {
                const bf16 *left = packed.data() + n * thin.ranks, *right = left + TILE * thin.ranks;
                _tile_zero(0);
                _tile_zero(1);
                for (int64_t depth = 0; depth < depths; depth++) {
                    LOAD_TILE(4, thin.by_token + t * thin.ranks + depth * DEPTH, thin.ranks * 2);
                    LOAD_TILE(6, left + depth * TILE * DEPTH, 64);
                    LOAD_TILE(7, right + depth * TILE * DEPTH, 64);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                }
                STORE_TILE(0, sums[0], 128);
                STORE_TILE(1, sums[0] + TILE, 128);
                for (int64_t row = 0; row < rows; row++) {
                    bf16 *place = y + (t + row) * features + n;
                    __m512i numbers = _mm512_loadu_si512(place);
                    __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(numbers));
                    __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(numbers, 1));
                    __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(low, 16));
                    __m512 second = _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
                    first = _mm512_add_ps(first, _mm512_load_ps(sums[row]));
                    second = _mm512_add_ps(second, _mm512_load_ps(sums[row] + TILE));
                    _mm512_storeu_si512(place, (__m512i)_mm512_cvtne2ps_pbh(second, first));
                }
            }
        }
    }
}

// sums[R, 32 of N] += thin^T x over some tokens from `token` on. The sums stay in tiles meanwhile, for two tiles of
// ranks at a time.
void outer_block(const Thin &thin, int64_t token, int64_t tokens, int64_t rank_tiles, const bf16 *x, int64_t features,
                 float *sums) {
    const __m512i even = _mm512_set1_epi32(0x00200000), step = _mm512_set1_epi32(0x00010001);
    const __m512i counted = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    // Numbers 0 to 15 of both rows by turns, and 16 to 31.
    const __m512i lower_half = _mm512_add_epi16(even, _mm512_mullo_epi32(counted, step));
    const __m512i upper_half = _mm512_add_epi16(lower_half, _mm512_set1_epi16(TILE));
    const __m512i nothing = _mm512_setzero_si512();
    alignas(64) bf16 left[TILE * DEPTH], right[TILE * DEPTH];
    for (int64_t r = 0; r < rank_tiles; r += 2) {
        bool both = r + 1 < rank_tiles;
        float *upper = sums + r * TILE * features, *lower = upper + TILE * features;
        LOAD_TILE(0, upper, features * 4);
        LOAD_TILE(1, upper + TILE, features * 4);
        if (both) {
            LOAD_TILE(2, lower, features * 4);
            LOAD_TILE(3, lower + TILE, features * 4);
        }
        for (int64_t t = 0; t < tokens; t += DEPTH) {
            for (int64_t pair = 0; pair < TILE; pair++) {
                const bf16 *place = x + (t + 2 * pair) * features;
                __m512i first = t + 2 * pair < tokens ? _mm512_loadu_si512(place) : nothing;
                __m512i second = t + 2 * pair + 1 < tokens ? _mm512_loadu_si512(place + features) : nothing;
                _mm512_store_si512(left + pair * DEPTH, _mm512_permutex2var_epi16(first, lower_half, second));
                _mm512_store_si512(right + pair * DEPTH, _mm512_permutex2var_epi16(first, upper_half, second));
            }
            const bf16 *of_ranks = thin.for_outer + r * TILE * thin.tokens + token + t;
            LOAD_TILE(4, of_ranks, thin.tokens * 2);
            LOAD_TILE(6, left, 64);
            LOAD_TILE(7, right, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (both) {
                LOAD_TILE(5, of_ranks + TILE * thin.tokens, thin.tokens * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        STORE_TILE(0, upper, features * 4);
        STORE_TILE(1, upper + TILE, features * 4);
        if (both) {
            STORE_TILE(2, lower, features * 4);
            STORE_TILE(3, lower + TILE, features * 4);
        }
    }
}

// sums[R, N] = thin^T x[t, N], R rounded up to 16. Tokens go by in blocks that stay in cache.
void outer(const Thin &thin, const bf16 *x, int64_t tokens, const Reach *, int64_t ranks, int64_t features,
           float *sums) {
    int64_t rank_tiles = padded(ranks, TILE) / TILE;
    std::memset(sums, 0, size_t(rank_tiles * TILE * features) * sizeof(float));
#pragma omp parallel
    {
        Tiles tiles_in_use;
        for (int64_t t = 0; t < tokens; t += BLOCK) {
            int64_t count = tokens - t < BLOCK ? tokens - t : BLOCK;
#pragma omp for schedule(static) nowait
            for (int64_t n = 0; n < features; n += 2 * TILE)
                outer_block(thin, t, count, rank_tiles, x + t * features + n, features, sums + n);
        }
    }
}

constexpr Unit TILES = {multiply, add, outer};

}  // namespace

// The system must let a process use tiles.
const Unit *thin_tiles() {
    constexpr long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0 ? &TILES : nullptr;
}

#else

const Unit *thin_tiles() { return nullptr; }

#endif
