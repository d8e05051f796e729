// Base64 against RFC 4648: what is written, and how strictly it is read.
#include "../base64.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// The bytes 00 01 02 ... ff: python3 -c 'import base64; print(base64.b64encode(bytes(range(256))).decode())'
constexpr std::string_view kAllBytes =
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJT"
    "VFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaan"
    "qKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7"
    "/P3+/w==";

std::string counting(std::size_t n) {
    std::string bytes;
    for (std::size_t i = 0; i < n; ++i) bytes += static_cast<char>(i);
    return bytes;
}

// RFC 4648 4 the naive way: a string of '0' and '1', cut in sixes, filled with zeros, padded to a multiple of four.
std::string by_bits(std::string_view bytes) {
    std::string bits, text;
    for (const char c : bytes) {
        for (int bit = 7; bit >= 0; --bit) bits += (c >> bit & 1) != 0 ? '1' : '0';
    }
    while (bits.size() % 6 != 0) bits += '0';
    for (std::size_t at = 0; at < bits.size(); at += 6) text += kAlphabet[std::stoul(bits.substr(at, 6), nullptr, 2)];
    while (text.size() % 4 != 0) text += '=';
    return text;
}

}  // namespace

TEST_CASE("RFC 4648 10: the test vectors, both ways") {
    struct Vector { std::string_view bytes, text; };
    const Vector vectors[] = {{"", ""},           {"f", "Zg=="},       {"fo", "Zm8="},        {"foo", "Zm9v"},
                              {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};
    for (const auto& [bytes, text] : vectors) {
        CHECK(base64_encode(bytes) == text);
        CHECK(base64_decode(text) == std::string(bytes));
    }
}

TEST_CASE("RFC 4648 4: all 256 byte values, both ways") {
    CHECK(base64_encode(counting(256)) == kAllBytes);
    CHECK(base64_decode(kAllBytes) == counting(256));
}

TEST_CASE("RFC 4648 4: every length from 0 to 100, both ways") {
    for (std::size_t n = 0; n <= 100; ++n) {
        CAPTURE(n);
        const std::string bytes = counting(200).substr(200 - n);  // with bytes past 127
        CHECK(base64_encode(bytes) == by_bits(bytes));
        CHECK(base64_decode(by_bits(bytes)) == bytes);
    }
}

TEST_CASE("RFC 4648 3.3: only the alphabet's 64 characters are read, at whatever place") {
    for (std::size_t at = 0; at < 8; ++at) {
        for (int value = 0; value < 256; ++value) {
            CAPTURE(at);
            CAPTURE(value);
            std::string text = "AAAAAAAA";
            text[at] = static_cast<char>(value);
            const bool is_padding = value == '=' && at == 7;
            CHECK(base64_decode(text).has_value() == (is_padding || kAlphabet.find(text[at]) != kAlphabet.npos));
        }
    }
}

TEST_CASE("RFC 4648 3.2, 3.3: white space, missing, extra and misplaced padding are refused") {
    for (const std::string_view text : {
             "A", "AA", "AA=", "AAA", "AAAAA", "AAAAAA", "AAAAAA=", "AAAAAAA",                           // missing
             "=", "==", "===", "====", "A===", "AA===", "AA======", "AAA==", "AAAA=", "AAAA==", "AAAA====",  // extra
             "AA==AA==", "AAA=AAA=", "=AA=", "A=A=", "AA=A", "AAAA=AAA", "=AAA",                             // inside
             " AAAA", "AAAA ", "AAA ", "AAAA\n", "AAA\r", "AAAA\r\n", "AA==\r\n\r\n", "AA AA", "AA= =", "A\tAA",
             "AA-_", "AAA,", "AAA.", "AAA\x80", "AAA\xff"}) {
        CAPTURE(text);
        CHECK(base64_decode(text) == std::nullopt);
    }
    CHECK(base64_decode(std::string_view("Zm9\0", 4)) == std::nullopt);
    CHECK(base64_decode(std::string_view("\0\0\0\0", 4)) == std::nullopt);
}

TEST_CASE("RFC 4648 3.5: the pad bits must be zero, so that bytes have one text only") {
    for (const char c : kAlphabet) {
        CAPTURE(c);
        const bool four_zeros = std::string_view("AQgw").find(c) != std::string_view::npos;
        const bool two_zeros = std::string_view("AEIMQUYcgkosw048").find(c) != std::string_view::npos;
        CHECK(base64_decode(std::string{'Z', c, '=', '='}).has_value() == four_zeros);
        CHECK(base64_decode(std::string{'Z', 'm', c, '='}).has_value() == two_zeros);
    }
}
