#include "base64.h"

#include <algorithm>
#include <cstdint>

using Byte = unsigned char;

static constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// Three bytes are 24 bits are four characters; what the last group lacks is zero bits, then '='.
std::string base64_encode(std::string_view bytes) {
    std::string text;
    for (; !bytes.empty(); bytes.remove_prefix(std::min<std::size_t>(bytes.size(), 3))) {
        std::uint32_t bits = 0;
        for (std::size_t i = 0; i < 3; ++i) bits = bits << 8 | static_cast<Byte>(i < bytes.size() ? bytes[i] : '\0');
        for (std::size_t i = 0; i < 4; ++i) text += i <= bytes.size() ? kAlphabet[bits >> (18 - 6 * i) & 63] : '=';
    }
    return text;
}

std::optional<std::string> base64_decode(std::string_view text) {
    if (text.size() % 4 != 0) return std::nullopt;
    text.remove_suffix(text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0);

    std::string bytes;
    std::uint32_t bits = 0;  // what has been read and not yet written, in the low `count` bits
    unsigned count = 0;
    for (const char c : text) {
        const std::size_t value = kAlphabet.find(c);
        if (value == kAlphabet.npos) return std::nullopt;
        bits = bits << 6 | static_cast<std::uint32_t>(value);
        count += 6;
        if (count < 8) continue;
        count -= 8;
        bytes += static_cast<char>(bits >> count & 0xFF);
    }
    if ((bits & ((1u << count) - 1)) != 0) return std::nullopt;  // RFC 4648 3.5: the pad bits must be zero
    return bytes;
}
