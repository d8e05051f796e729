#include "sha1.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

constexpr std::size_t kBlockBytes = 64;

using Word = std::uint32_t;
using Hash = std::array<Word, 5>;

// FIPS 180-4 4.1.1: the function of round t.
static Word round_function(std::size_t t, Word x, Word y, Word z) {
    if (t < 20) return (x & y) ^ (~x & z);                       // Ch: x chooses y or z
    if (t >= 40 && t < 60) return (x & y) ^ (x & z) ^ (y & z);  // Maj: bit by bit the majority
    return x ^ y ^ z;                                            // Parity
}

// FIPS 180-4 4.2.1: each for 20 rounds.
constexpr std::array<Word, 4> kConstants{0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};

// FIPS 180-4 6.1.2, step 1: the 16 words of a block, and 64 more made of them.
static std::array<Word, 80> message_schedule(std::string_view block) {
    std::array<Word, 80> w{};
    for (std::size_t i = 0; i < kBlockBytes; ++i) {
        w[i / 4] = (w[i / 4] << 8) | static_cast<unsigned char>(block[i]);
    }
    for (std::size_t t = 16; t < 80; ++t) {
        w[t] = std::rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    }
    return w;
}

// FIPS 180-4 6.1.2, steps 2 to 4: one block changes the hash. The letters are the standard's.
static void hash_block(Hash& hash, std::string_view block) {
    const std::array<Word, 80> w = message_schedule(block);
    Hash v = hash;
    for (std::size_t t = 0; t < 80; ++t) {
        const auto [a, b, c, d, e] = v;
        const Word f = round_function(t, b, c, d);
        v = {std::rotl(a, 5) + f + e + kConstants[t / 20] + w[t], a, std::rotl(b, 30), c, d};
    }
    for (std::size_t i = 0; i < hash.size(); ++i) hash[i] += v[i];
}

static void append_big_endian(std::string& text, std::uint64_t number, int bytes) {
    for (int byte = bytes - 1; byte >= 0; --byte) {
        text += static_cast<char>((number >> (8 * byte)) & 0xFF);
    }
}

std::string sha1(std::string_view message) {
    // FIPS 180-4 5.1.1: a 1 bit, zeros up to 8 bytes short of a whole block, and the message's
    // length in bits.
    std::string padded(message);
    padded += '\x80';
    while (padded.size() % kBlockBytes != kBlockBytes - 8) padded += '\0';
    append_big_endian(padded, std::uint64_t{message.size()} * 8, 8);

    // FIPS 180-4 5.3.1: where every hash begins.
    Hash hash{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    for (std::size_t at = 0; at < padded.size(); at += kBlockBytes) {
        hash_block(hash, std::string_view(padded).substr(at, kBlockBytes));
    }
    std::string digest;
    for (const Word word : hash) append_big_endian(digest, word, 4);
    return digest;
}
