// The thin products by AVX-512's bf16 instruction: 16 sums, each of two products, a cycle.
//
// Ranks go by in eights and tokens likewise, so that sums stay in registers while features go by. `outer` reads thin
// numbers two tokens side by side, [t / 2, R, 2].

#include "thin.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

#include <immintrin.h>

namespace {

// Tokens and ranks at once, features of a reach, and neighbouring numbers of a rank that lie side by side.
constexpr int64_t ROWS = 8, RANKS = 8, GROUP = 32, QUAD = 4;

#define UNROLL _Pragma("GCC unroll 8")

__m512 multiplied(__m512 sums, __m512i left, __m512i right) {
    return _mm512_dpbf16_ps(sums, (__m512bh)left, (__m512bh)right);
}

// The number pair or quad at a place, in every lane.
__m512i pair_at(const bf16 *place) {
    int32_t pair;
    std::memcpy(&pair, place, sizeof pair);
    return _mm512_set1_epi32(pair);
}

__m512i quad_at(const bf16 *place) {
    int64_t quad;
    std::memcpy(&quad, place, sizeof quad);
    return _mm512_set1_epi64(quad);
}

// Eight tokens' rows. Behind the last token stands the last once more: what it gives is not used.
template <typename Number>
struct Rows {
    Number *row[ROWS];
    Rows(Number *x, int64_t token, int64_t tokens, int64_t features) {
        for (int64_t i = 0; i < ROWS; i++)
            row[i] = x + (token + i < tokens ? token + i : tokens - 1) * features;
    }
};

// S for sums over features: [R / 8][N / 4] vectors of eight ranks' quads. Ranks behind the last are zero.
Numbers quads_of(const bf16 *s, int64_t ranks, int64_t features) {
    Numbers packed(size_t(padded(ranks, RANKS) * features), bf16{0});
    for (int64_t r = 0; r < ranks; r++)
        for (int64_t n = 0; n < features; n += QUAD)
            std::memcpy(packed.data() + r / RANKS * RANKS * features + n * RANKS + r % RANKS * QUAD,
                        s + r * features + n, QUAD * sizeof(bf16));
    return packed;
}

// S for sums over ranks: [N / 32][R / 2] times 32 features' pairs of ranks.
Numbers pairs_of(const bf16 *s, int64_t ranks, int64_t features) {
    const __m512i lower = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), upper = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    int64_t pairs = padded(ranks, 2) / 2;
    Numbers packed(size_t(2 * pairs * features));
    for (int64_t r = 0; r < ranks; r += 2)
        for (int64_t n = 0; n < features; n += GROUP) {
            const bf16 *row = s + r * features + n;
            __m512i one = _mm512_loadu_si512(row);
            __m512i other = r + 1 < ranks ? _mm512_loadu_si512(row + features) : _mm512_setzero_si512();
            // Unpacked, 0 to 3, 8 to 11, 16 to 19 and 24 to 27 lie in one vector, and the rest in the other.
            __m512i some = _mm512_unpacklo_epi16(one, other), rest = _mm512_unpackhi_epi16(one, other);
            bf16 *place = packed.data() + (n / GROUP * pairs + r / 2) * 2 * GROUP;
            _mm512_storeu_si512(place, _mm512_permutex2var_epi64(some, lower, rest));
            _mm512_storeu_si512(place + GROUP, _mm512_permutex2var_epi64(some, upper, rest));
        }
    return packed;
}

// Two tokens' sums, of which neighbouring lanes are one rank's, as thin numbers.
void store_thin(__m512 first, __m512 second, const Thin &thin, int64_t token, int64_t rank) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    __m512 sums =
        _mm512_add_ps(_mm512_permutex2var_ps(first, even, second), _mm512_permutex2var_ps(first, odd, second));
    __m256i numbers = (__m256i)_mm512_cvtneps_pbh(sums);
    __m128i one = _mm256_castsi256_si128(numbers), other = _mm256_extracti128_si256(numbers, 1);
    bf16 *place = thin.by_token + token * thin.ranks + rank;
    _mm_storeu_si128((__m128i *)place, one);
    _mm_storeu_si128((__m128i *)(place + thin.ranks), other);
    bf16 *side_by_side = thin.for_outer + token * thin.ranks + 2 * rank;
    _mm_storeu_si128((__m128i *)side_by_side, _mm_unpacklo_epi16(one, other));
    _mm_storeu_si128((__m128i *)(side_by_side + RANKS), _mm_unpackhi_epi16(one, other));
}

// Eight tokens' thin numbers of up to three eights of ranks, from sums over the features of `over`.
template <int EIGHTS>
void multiply_rows(const Rows<const bf16> &x, const bf16 *quads, int64_t features, Reach over, const Thin &thin,
                   int64_t token, int64_t rank) {
    __m512 sums[ROWS][EIGHTS];
    UNROLL for (int i = 0; i < ROWS; i++)
        UNROLL for (int eight = 0; eight < EIGHTS; eight++) sums[i][eight] = _mm512_setzero_ps();
    for (int64_t n = over.first; n < over.last; n += QUAD) {
        __m512i right[EIGHTS];
        UNROLL for (int eight = 0; eight < EIGHTS; eight++)
            right[eight] = _mm512_loadu_si512(quads + (eight * features + n) * RANKS);
        UNROLL for (int i = 0; i < ROWS; i++) {
            __m512i left = quad_at(x.row[i] + n);
            UNROLL for (int eight = 0; eight < EIGHTS; eight++)
                sums[i][eight] = multiplied(sums[i][eight], left, right[eight]);
        }
    }
    UNROLL for (int i = 0; i < ROWS; i += 2)
        UNROLL for (int eight = 0; eight < EIGHTS; eight++)
            store_thin(sums[i][eight], sums[i + 1][eight], thin, token + i, rank + eight * RANKS);
}

// The features that eight ranks reach.
Reach features_of(int64_t rank, const Reach *reach, int64_t features) {
    if (!reach) return {0, features};
    Reach over = {features, 0};
    for (int64_t n = 0; n < features; n += GROUP) {
        const Reach &ranks = reach[n / GROUP];
        if (ranks.first >= rank + RANKS || ranks.last <= rank) continue;
        if (over.first > n) over.first = n;
        over.last = n + GROUP;
    }
    return over;
}

void multiply(const bf16 *x, int64_t tokens, const bf16 *s, const Reach *reach, int64_t ranks, int64_t features,
              const Thin &thin) {
    Numbers packed = quads_of(s, ranks, features);
    std::vector<Reach> over;
    for (int64_t rank = 0; rank < ranks; rank += RANKS) over.push_back(features_of(rank, reach, features));
    int64_t eights = int64_t(over.size());
    auto alike = [&](int64_t one, int64_t other) {
        return other < eights && over[one].first == over[other].first && over[one].last == over[other].last;
    };
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token += ROWS) {
        Rows<const bf16> rows(x, token, tokens, features);
        for (int64_t eight = 0, done; eight < eights; eight += done) {
            done = !alike(eight, eight + 1) ? 1 : !alike(eight, eight + 2) ? 2 : 3;
            auto some = done == 1 ? multiply_rows<1> : done == 2 ? multiply_rows<2> : multiply_rows<3>;
            int64_t rank = eight * RANKS;
            some(rows, packed.data() + rank * features, features, over[eight], thin, token, rank);
        }
    }
}

// Eight tokens' 32 features of y, at `y`, plus thin numbers times `pairs` of S.
void add_rows(const Rows<bf16> &y, int64_t n, int64_t rows, const bf16 *thin, int64_t thin_ranks, const bf16 *s,
              int64_t pairs) {
    __m512 low[ROWS], high[ROWS];
    UNROLL for (int i = 0; i < ROWS; i++) {
        __m512i numbers = _mm512_loadu_si512(y.row[i] + n);
        __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(numbers));
        __m512i second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(numbers, 1));
        low[i] = _mm512_castsi512_ps(_mm512_slli_epi32(first, 16));
        high[i] = _mm512_castsi512_ps(_mm512_slli_epi32(second, 16));
    }
    for (int64_t pair = 0; pair < pairs; pair++) {
        __m512i first = _mm512_loadu_si512(s + pair * 2 * GROUP);
        __m512i second = _mm512_loadu_si512(s + pair * 2 * GROUP + GROUP);
        UNROLL for (int i = 0; i < ROWS; i++) {
            __m512i of_token = pair_at(thin + i * thin_ranks + 2 * pair);
            low[i] = multiplied(low[i], of_token, first);
            high[i] = multiplied(high[i], of_token, second);
        }
    }
    UNROLL for (int i = 0; i < ROWS; i++)
        if (i < rows) _mm512_storeu_si512(y.row[i] + n, (__m512i)_mm512_cvtne2ps_pbh(high[i], low[i]));
}

void add(bf16 *y, int64_t tokens, const Thin &thin, const bf16 *s, const Reach *reach, int64_t ranks,
         int64_t features) {
    Numbers packed = pairs_of(s, ranks, features);
    int64_t pairs = padded(ranks, 2) / 2;
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token += ROWS) {
        Rows<bf16> rows(y, token, tokens, features);
        for (int64_t n = 0; n < features; n += GROUP) {
            int64_t first = reach ? reach[n / GROUP].first / 2 : 0;
            int64_t last = reach ? padded(reach[n / GROUP].last, 2) / 2 : pairs;
            if (first >= last) continue;
            add_rows(rows, n, tokens - token, thin.by_token + token * thin.ranks + 2 * first, thin.ranks,
                     packed.data() + (n / GROUP * pairs + first) * 2 * GROUP, last - first);
        }
    }
}

// Eight ranks' sums over all tokens in 32 features, of which x points at the first token's.
void outer_block(const Thin &thin, int64_t rank, const bf16 *x, int64_t tokens, int64_t features, float *sums) {
    // Two rows side by side lie in fours: 0 to 3 and 8 to 11 of each 16 in one vector, the rest in the other.
    const __m512i lower = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
    __m512 some[RANKS], others[RANKS];
    UNROLL for (int r = 0; r < RANKS; r++) some[r] = others[r] = _mm512_setzero_ps();
    for (int64_t token = 0; token < tokens; token += 2) {
        __m512i first = _mm512_loadu_si512(x + token * features);
        __m512i second = token + 1 < tokens ? _mm512_loadu_si512(x + (token + 1) * features) : _mm512_setzero_si512();
        __m512i left = _mm512_unpacklo_epi16(first, second), right = _mm512_unpackhi_epi16(first, second);
        const bf16 *of_ranks = thin.for_outer + token * thin.ranks + 2 * rank;
        UNROLL for (int r = 0; r < RANKS; r++) {
            __m512i of_rank = pair_at(of_ranks + 2 * r);
            some[r] = multiplied(some[r], of_rank, left);
            others[r] = multiplied(others[r], of_rank, right);
        }
    }
    UNROLL for (int r = 0; r < RANKS; r++) {
        _mm512_storeu_ps(sums + r * features, _mm512_permutex2var_ps(some[r], lower, others[r]));
        _mm512_storeu_ps(sums + r * features + GROUP / 2, _mm512_permutex2var_ps(some[r], upper, others[r]));
    }
}

void outer(const Thin &thin, const bf16 *x, int64_t tokens, const Reach *reach, int64_t ranks, int64_t features,
           float *sums) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < features; n += GROUP) {
        Reach of_group = reach ? reach[n / GROUP] : Reach{0, ranks};
        for (int64_t rank = of_group.first / RANKS * RANKS; rank < of_group.last; rank += RANKS)
            outer_block(thin, rank, x + n, tokens, features, sums + rank * features + n);
    }
}

constexpr Unit VECTORS = {multiply, add, outer};

}  // namespace

const Unit *thin_vectors() { return &VECTORS; }

#else

const Unit *thin_vectors() { return nullptr; }

#endif
