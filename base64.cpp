#include "base64.h"

#include <cstddef>
#include <cstdint>

using Byte = unsigned char;

static constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// Three bytes are 24 bits, which are four characters of 6 bits. The last group may have only one
// byte or two: the bits that it lacks are zero, and the characters that it lacks are '='.
std::string base64_encode(std::string_view bytes) {
    std::string text;
    for (std::size_t at = 0; at < bytes.size(); at += 3) {
        const std::string_view group = bytes.substr(at, 3);
        std::uint32_t bits = 0;
        for (std::size_t i = 0; i < 3; ++i) {
            bits <<= 8;
            if (i < group.size()) bits |= static_cast<Byte>(group[i]);
        }
        for (std::size_t i = 0; i < 4; ++i) {
            const bool lacks = i > group.size();
            const std::uint32_t six_bits = (bits >> (18 - 6 * i)) & 63;
            text += lacks ? '=' : kAlphabet[six_bits];
        }
    }
    return text;
}

std::optional<std::string> base64_decode(std::string_view text) {
    std::string bytes;
    std::uint32_t bits = 0;  // the low `count` bits are read and not yet written; others are old
    unsigned count = 0;
    for (const char c : text.substr(0, text.find('='))) {
        const std::size_t value = kAlphabet.find(c);
        if (value == kAlphabet.npos) return std::nullopt;
        bits = (bits << 6) | static_cast<std::uint32_t>(value);
        count += 6;
        if (count < 8) continue;
        count -= 8;
        bytes += static_cast<char>((bits >> count) & 0xFF);
    }
    // Bytes have one base64 text only. If this is not the one, its padding is wrong, or the bits
    // left over at its end are not zero (RFC 4648 3.5).
    if (base64_encode(bytes) != text) return std::nullopt;
    return bytes;
}
