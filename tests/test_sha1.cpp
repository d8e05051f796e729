// SHA-1 against FIPS 180-4 and NIST's vectors. Every digest here comes from elsewhere: FIPS, NIST, or Python's hashlib.
#include "../sha1.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace {

std::string hex(std::string_view bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes) text += {digits[static_cast<unsigned char>(c) >> 4], digits[c & 15]};
    return text;
}

// The message of n bytes in these tests: 00 01 02 ...
std::string counting(std::size_t n) {
    std::string bytes;
    for (std::size_t i = 0; i < n; ++i) bytes += static_cast<char>(i);
    return bytes;
}

// python3 -c 'import hashlib; print("".join(hashlib.sha1(bytes(range(n))).hexdigest()[:8] for n in range(201)))'
constexpr std::string_view kFirstFourBytes =
    "da39a3ee5ba93c9d3f2954640c7a623fa02a05b01cf25147868460d96dc86f1167423ebf63bf60c7494179712c7e7c38cff9611ce51f9799"
    "f741644bfb1d924156178b860a0315ec32af8a61d35b5afb602c63d2a3c6fbe525e480e945412d51ed6a9503b4fe025633e1799ecf193837"
    "7c8de247f38a076fdcd68e6143bbacb5ae5bd8efeb90bce32942c7afabf726f575db4f6ba82cb42dfc1a6968dc68db44cc9ad99eec7a6848"
    "c627c4494782f2a102d4eed9b3d99b9d9b1c0717d79097dddf7f23b1f598f3780bd98598e6c32083fd5ee7582a9c28efcfae6d868ae2d467"
    "636e2ec67cb1330f2e7804864a7713d4c98714b1aace3dd6cf8563896d942da0c6138d5169bd728ace705b7cc717ebbf86151d147446b5a6"
    "c24887925af83cfd587d4f6eac65dd94fa71e707c9efe6ddd1d05649cc3081aceb9de33239de5efd399dbc9f996a28173ef8189cd676714c"
    "4db6e3383a34d35b54f3b453b1ea9621bc6c74883d9a061992ccaa0b3eb326b5989c63e8ae94455246723e983bc5dae796d281bafa0ef181"
    "0c7ecac3649e44ec1e6634bfaf2af27322d14bc0c3164ccbc27b5bc7f44d48d9ea19a71fcda0eb9d449dfce996eebb6b670f7a86bc544e24"
    "e4ce142d1c26461e51c5b1c2848035047cc8bca144e2519a2a81372d41c89d06d3dbd6533723f8abd031c9fbe0b55043fb3998287a914d8b"
    "a271f71589d7312ae6434bc43352e41c6981ed7d763822595485385854152ac740e1b424a47fd7474ab5a4f05f9de1b32425097e1e2cf1d3"
    "25fb08a7e38c3774e06dfc04027f9a54a86906b83ba5b1a7e192f0d9e5c31d8a77237ee611e85e206a2bc12e8c696b0275a73cd23c1a0181"
    "0be0dc00b853306a5e477b0a91127981d741bec77135cdf8aca27247cee02aefcd024743c100aaa22f33512a3416bd9a67925680476d4a88"
    "9af88ed1c0733dd15b19b451aa6cc5741b3e6fa39701977137452dde5ada134627c194fdb692e7fda8df45eab9aa0fd5e308d9ea7366daa9"
    "b44ab52748a9d63f356301d2c82f4301b3d1e00b0446503bf4e0b1d038dfba53f079c407453e806d995b6f0cc7b4dbb92407f4de56b81cf3"
    "de45d7439dcc4b7363cdae0a20431c9f54d11e99";

}  // namespace

TEST_CASE("FIPS 180-4: the examples, 0, 24, 448 and 896 bits") {
    CHECK(hex(sha1("")) == "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    CHECK(hex(sha1("abc")) == "a9993e364706816aba3e25717850c26c9cd0d89d");
    CHECK(hex(sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
          "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    CHECK(hex(sha1("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrs"
                   "mnopqrstnopqrstu")) == "a49b2446a02c645bf419f995b67091253a04a259");
}

TEST_CASE("FIPS 180-4: a million times 'a'") {
    CHECK(hex(sha1(std::string(1'000'000, 'a'))) == "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

TEST_CASE("NIST SHAVS, short messages: bytes past 127 are bytes like any other") {
    CHECK(hex(sha1("\x36")) == "c1dfd96eea8cc2b62785275bca38ac261256e278");
    CHECK(hex(sha1("\x19\x5a")) == "0a1c2d555bbe431ad6288af5a54f93e0449c9232");
    CHECK(hex(sha1("\xdf\x4b\xd2")) == "bf36ed5d74727dfd5d7854ec6b1d49468d8ee8aa");
    CHECK(hex(sha1("\x54\x9e\x95\x9e")) == "b78bae6d14338ffccfd5d5b5674a275f6ef9c717");
    CHECK(hex(sha1("\xf7\xfb\x1b\xe2\x05")) == "60b7d5bb560a1acf6fa45721bd0abb419a841a89");
    CHECK(hex(sha1(counting(256))) == "4916d6bdb7f78e6803698cab32d1586ea457dfc8");
    CHECK(hex(sha1(std::string(1000, '\xff'))) == "c2fbe7c95d9be373d9bb6ee58fb3a24411e1a2a8");
}

TEST_CASE("FIPS 180-4 5.1.1: the padding, on both sides of where it needs one more block") {
    CHECK(hex(sha1(counting(55))) == "8ae2d46729cfe68ff927af5eec9c7d1b66d65ac2");
    CHECK(hex(sha1(counting(56))) == "636e2ec698dac903498e648bd2f3af641d3c88cb");
    CHECK(hex(sha1(counting(63))) == "6d942da0c4392b123528f2905c713a3ce28364bd");
    CHECK(hex(sha1(counting(64))) == "c6138d514ffa2135bfce0ed0b8fac65669917ec7");
    CHECK(hex(sha1(counting(119))) == "41c89d06001bab4ab78736b44efe7ce18ce6ae08");
    CHECK(hex(sha1(counting(120))) == "d3dbd653bd8597b7475321b60a36891278e6a04a");
}

TEST_CASE("every length from 0 to 200 bytes") {
    std::string all;
    for (std::size_t n = 0; n <= 200; ++n) {
        CAPTURE(n);
        const std::string digest = sha1(counting(n));
        CHECK(digest.size() == 20);
        CHECK(hex(digest).substr(0, 8) == kFirstFourBytes.substr(8 * n, 8));
        all += digest;
    }
    // The other 16 bytes of each; in Python: d = lambda b: hashlib.sha1(b).digest()
    // d(b"".join(d(bytes(range(n))) for n in range(201))).hex()
    CHECK(hex(sha1(all)) == "30f906e3c78b841ee4b73d0cb2850660435758b3");
}
