#include "sha1.h"

#include <array>
#include <bit>
#include <cstdint>

constexpr std::size_t kBlockBytes = 64;

using Hash = std::array<std::uint32_t, 5>;

// FIPS 180-4 6.1.2: one block of 64 bytes changes the hash.
static void hash_block(Hash& hash, std::string_view block) {
    constexpr std::array<std::uint32_t, 4> k{0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
    std::array<std::uint32_t, 80> w{};
    for (std::size_t i = 0; i < kBlockBytes; ++i) w[i / 4] = w[i / 4] << 8 | static_cast<unsigned char>(block[i]);
    for (std::size_t t = 16; t < 80; ++t) w[t] = std::rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);

    Hash v = hash;
    const auto& [a, b, c, d, e] = v;
    for (std::size_t t = 0; t < 80; ++t) {
        const auto f = t < 20 ? (b & c) ^ (~b & d) : t < 40 || t >= 60 ? b ^ c ^ d : (b & c) ^ (b & d) ^ (c & d);
        v = {std::rotl(a, 5) + f + e + k[t / 20] + w[t], a, std::rotl(b, 30), c, d};
    }
    for (std::size_t i = 0; i < hash.size(); ++i) hash[i] += v[i];
}

static void append_big_endian(std::string& text, std::uint64_t number, int bytes) {
    for (int shift = 8 * bytes - 8; shift >= 0; shift -= 8) text += static_cast<char>(number >> shift & 0xFF);
}

std::string sha1(std::string_view message) {
    // FIPS 180-4 5.1.1: a 1 bit, zeros up to 8 bytes short of a whole block, and the message's length in bits.
    std::string padded(message);
    padded += '\x80';
    while (padded.size() % kBlockBytes != kBlockBytes - 8) padded += '\0';
    append_big_endian(padded, std::uint64_t{message.size()} * 8, 8);

    Hash hash{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    for (std::string_view rest = padded; !rest.empty(); rest.remove_prefix(kBlockBytes)) hash_block(hash, rest);

    std::string digest;
    for (const std::uint32_t word : hash) append_big_endian(digest, word, 4);
    return digest;
}
