// Frames, in the order of RFC 6455: framing, masks, fragments, control frames, UTF-8; then the limits and the trace.
#include "../ws_frame.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace std::string_literals;
using Event = Decoder::Event;
using Role = Decoder::Role;

constexpr std::size_t kNowhere = std::string_view::npos, kCut = kNowhere - 1, kMiB = 1 << 20;
const std::size_t kInside = std::string().capacity();  // bytes that a std::string has in itself
constexpr MaskingKey kKey{0x37, 0xfa, 0x21, 0x3d};  // of the RFC's examples

std::string x(std::string_view hex) {
    std::string bytes;
    for (std::size_t at = 0; at < hex.size(); at += 3) {
        bytes += static_cast<char>(std::stoi(std::string(hex.substr(at, 2)), nullptr, 16));
    }
    return bytes;
}

// RFC 6455 5.3, a byte at a time.
std::string masked(std::string bytes, const MaskingKey& key = kKey, std::uint64_t offset = 0) {
    for (char& c : bytes) c = static_cast<char>(c ^ key[offset++ % 4]);
    return bytes;
}

// A client's frame by hand: the header up to the key, and the whole.
std::string head(int first, std::uint64_t length) {
    const int size = length < 126 ? 0 : length < 65536 ? 2 : 8;
    const int second = size == 0 ? static_cast<int>(length) : size == 2 ? 126 : 127;
    std::string bytes{static_cast<char>(first), static_cast<char>(0x80 | second)};
    for (int shift = 8 * size - 8; shift >= 0; shift -= 8) bytes += static_cast<char>(length >> shift & 0xFF);
    return bytes.append(kKey.begin(), kKey.end());
}

std::string frame(int first, const std::string& payload) { return head(first, payload.size()) + masked(payload); }

// What a decoder made of some bytes: "ping(Hi) part(Hel) text(Hello)", with the close code at the end if there is one.
struct Heard {
    std::string events;
    bool broken = false;           // the last of them is a violation,
    std::size_t from = 0, to = 0;  // and came with the piece that has these bytes
};

Heard hear(std::string_view bytes, Role role, const std::vector<std::size_t>& sizes) {
    Decoder decoder(role);
    Heard heard;
    for (std::size_t i = 0; heard.to < bytes.size(); ++i) {
        heard.from = heard.to;
        const std::string_view next = bytes.substr(heard.from, sizes[i % sizes.size()]);
        const std::vector<char> piece(next.begin(), next.end());  // so that a sanitizer sees a read past it
        heard.to += piece.size();
        std::string_view input(piece.data(), piece.size());
        for (Event event = decoder.feed(input); event != Event::need_more; event = decoder.feed(input)) {
            if (!heard.events.empty()) heard.events += ' ';
            heard.broken = event == Event::violation;
            if (heard.broken) {
                heard.events += std::to_string(decoder.code());
                CHECK_FALSE(decoder.reason().empty());
                CHECK(decoder.feed(input) == Event::violation);  // for good
                return heard;
            }
            CHECK(decoder.header().length == decoder.frame_payload().size());
            CHECK((event == Event::control) == (decoder.opcode() >= Opcode::close));
            const std::string name(event == Event::fragment ? "part" : opcode_name(decoder.opcode()));
            const std::string part(decoder.frame_payload());
            const std::string payload = event == Event::fragment ? part : std::string(decoder.payload());
            CHECK(payload.ends_with(part));
            heard.events.append(name).append("(").append(payload).append(")");
        }
        CHECK(input.empty());
    }
    return heard;
}

// The same, after a look that it depends neither on how the bytes are cut nor on a frame in front of them; behind a
// code the index of the byte that it came with: "text(Hi) 1002@7".
std::string decoded(const std::string& bytes, Role role = Role::server) {
    static std::minstd_rand random(6455);
    const Heard slow = hear(bytes, role, {1});
    const std::string pong = role == Role::server ? frame(0x8a, "!") : x("8a 01 21");
    for (std::size_t run = 0; run < 8; ++run) {
        std::vector<std::size_t> sizes{run == 0 ? bytes.size() + pong.size() : 1 + random() % 20};
        while (run > 0 && sizes.size() < 20) sizes.push_back(1 + random() % (run % 3 == 0 ? 3 : 1 + bytes.size()));
        const Heard cut = hear(bytes, role, sizes), glued = hear(pong + bytes, role, sizes);
        CHECK(cut.events == slow.events);
        CHECK(glued.events == (slow.events.empty() ? "pong(!)" : "pong(!) " + slow.events));
        if (!slow.broken) continue;
        CHECK((cut.from <= slow.from && slow.from < cut.to));
        CHECK((glued.from <= slow.from + pong.size() && slow.from + pong.size() < glued.to));
    }
    return slow.broken ? slow.events + "@" + std::to_string(slow.from) : slow.events;
}

// RFC 3629 4, character by character: where the first byte is that cannot be there, and whether the last one is whole.
struct Verdict { std::size_t bad; bool whole; };
Verdict by_the_table(std::string_view bytes) {
    const auto in = [](int value, int low, int high) { return value >= low && value <= high; };
    for (std::size_t at = 0; at < bytes.size();) {
        const int lead = static_cast<unsigned char>(bytes[at++]);
        const int tails = in(lead, 0xC2, 0xDF) ? 1 : in(lead, 0xE0, 0xEF) ? 2 : in(lead, 0xF0, 0xF4) ? 3 : 0;
        if (tails == 0 && lead > 0x7F) return {at - 1, false};
        for (int i = 0; i < tails; ++i, ++at) {
            if (at == bytes.size()) return {kNowhere, false};
            const int low = i > 0 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
            const int high = i > 0 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
            if (!in(static_cast<unsigned char>(bytes[at]), low, high)) return {at, false};
        }
    }
    return {kNowhere, true};
}

// Whether Utf8 says the same of bytes that come in two pieces.
bool judged_well(std::string_view bytes, const Verdict& verdict, std::size_t cut = kNowhere) {
    Utf8 utf8;
    const bool first = utf8.feed(bytes.substr(0, cut));
    if (first != (verdict.bad == kNowhere || verdict.bad >= cut)) return false;
    if (first && cut < bytes.size() && utf8.feed(bytes.substr(cut)) != (verdict.bad == kNowhere)) return false;
    return verdict.bad != kNowhere || utf8.complete() == verdict.whole;
}

// Every byte behind `bytes`, and more behind those with which a first character is not whole; what is judged wrongly.
std::string judged_wrongly(const std::string& bytes) {
    std::string wrong;
    for (int value = 0; value < 256; ++value) {
        if (bytes.size() == 3 && value % 32 != 0 && value % 32 != 31) continue;  // the edges will do for a fourth
        const std::string more = bytes + static_cast<char>(value);
        const Verdict verdict = by_the_table(more);
        if (!judged_well(more, verdict)) wrong += escape(more) + ' ';
        const bool goes_on = more.size() == 1 || (more[0] & 0x80 && !verdict.whole);
        if (verdict.bad == kNowhere && goes_on) wrong += judged_wrongly(more);
    }
    return wrong;
}

}  // namespace

TEST_CASE("RFC 6455 5.1: a client's frames are masked, a server's are not") {
    CHECK(decoded(x("81 80 00 00 00 00")) == "text()");
    CHECK(decoded(x("81 00")) == "1002@1");
    CHECK(decoded(x("81 00"), Role::client) == "text()");
    CHECK(decoded(x("81 80 00 00 00 00"), Role::client) == "1002@1");
    CHECK(decoded(x("82 fe"), Role::client) == "1002@1");
    CHECK(decoded(x("88 02 03 e8"), Role::client) == "close(\x03\xe8)");
}



TEST_CASE("RFC 6455 5.2: each length has its shortest header, out and in") {
    struct Case { std::uint64_t length; std::string plain, with_key; };
    for (const Case& c : {
             Case{0, "82 00", "82 80"}, {1, "82 01", "82 81"}, {125, "82 7d", "82 fd"},
             {126, "82 7e 00 7e", "82 fe 00 7e"}, {127, "82 7e 00 7f", "82 fe 00 7f"},
             {256, "82 7e 01 00", "82 fe 01 00"}, {65535, "82 7e ff ff", "82 fe ff ff"},
             {65536, "82 7f 00 00 00 00 00 01 00 00", "82 ff 00 00 00 00 00 01 00 00"},
             {70'000, "82 7f 00 00 00 00 00 01 11 70", "82 ff 00 00 00 00 00 01 11 70"}}) {
        CAPTURE(c.length);
        const std::string payload(static_cast<std::size_t>(c.length), '\xe9'), plain = x(c.plain), with_key = x(c.with_key) + x("37 fa 21 3d");
        CHECK(make_header(Opcode::binary, c.length).bytes == plain);
        CHECK(make_header(Opcode::binary, c.length, true, kKey).bytes == with_key);
        CHECK(encode(Opcode::binary, payload) == plain + payload);
        CHECK(encode(Opcode::binary, payload, true, kKey) == with_key + masked(payload));
        CHECK(decoded(plain + payload, Role::client) == "binary(" + payload + ")");
        CHECK(decoded(with_key + masked(payload)) == "binary(" + payload + ")");
    }
    CHECK(make_header(Opcode::text, 0x0123456789abcdef, false).bytes == x("01 7f 01 23 45 67 89 ab cd ef"));
    CHECK(make_header(Opcode::continuation, 0x7fffffffffffffff).bytes == x("80 7f 7f ff ff ff ff ff ff ff"));

    Decoder decoder;
    const std::string bytes = x("01 fe 01 00 00 01 02 ff 61");
    std::string_view input = bytes;
    CHECK(decoder.feed(input) == Event::need_more);
    CHECK_FALSE(decoder.header().fin);
    CHECK(decoder.header().opcode == Opcode::text);
    CHECK(decoder.header().length == 256);
    CHECK((decoder.header().key == MaskingKey{0x00, 0x01, 0x02, 0xff}));
    CHECK(decoder.header().bytes == x("01 fe 01 00 00 01 02 ff"));
    CHECK(decoder.frame_payload() == "a");
}

TEST_CASE("RFC 6455 5.2: a header that breaks the protocol is answered at the byte that shows it") {
    struct Case { std::string_view outcome; std::vector<std::string_view> headers; };
    for (const Case& c : {
             Case{"1002@0", {"c1", "a1", "91", "f2", "c9", "48", "09", "08", "0a", "00", "80"}},
             {"1002@1", {"81 00", "81 05 48", "82 7e", "89 00", "88 02", "89 fe 00 7e", "8a ff", "88 fe", "88 81 00"}},
             {"1002@2", {"81 ff 80", "82 ff ff ff ff ff ff ff ff ff", "02 ff 80"}},  // over 2^63-1
             {"1002@3", {"81 fe 00 7d", "82 fe 00 00", "01 fe 00 01"}},              // not in the shortest form
             {"1002@9", {"82 ff 00 00 00 00 00 00 ff ff", "81 ff 00 00 00 00 00 00 00 7e"}},
             {"1009@9", {"82 ff 7f ff ff ff ff ff ff ff", "81 ff 00 00 00 01 00 00 00 00"}},
             {"", {"81 fe 00 7e", "82 ff 00 00 00 00 00 01 00 00", "81 ff 00 00 00 00 01 00 00 00"}},
             {"part() 1002@6", {"01 80 00 00 00 00 81", "02 80 00 00 00 00 02", "01 80 00 00 00 00 41"}},
             {"part() ping() 1002@12", {"01 80 00 00 00 00 89 80 00 00 00 00 82"}},
             {"text() 1002@6", {"81 80 00 00 00 00 80", "81 80 00 00 00 00 00"}},
             {"ping() 1002@6", {"89 80 00 00 00 00 00", "89 80 00 00 00 00 83"}}}) {
        for (const std::string_view header : c.headers) {
            CAPTURE(header);
            CHECK(decoded(x(header)) == c.outcome);
        }
    }
    for (int value = 0; value < 256; ++value) {
        const int opcode = value & 15;
        const bool good = (value & 0x70) == 0 && (opcode == 1 || opcode == 2 || (value >= 0x88 && value <= 0x8a));
        for (const Role role : {Role::server, Role::client}) {
            CHECK(decoded(std::string(1, static_cast<char>(value)), role) == (good ? "" : "1002@0"));
        }
    }
}

TEST_CASE("RFC 6455 5.3: every frame has a key of its own; any part of a payload can be unmasked by itself") {
    CHECK(decoded(x("01 82 01 02 03 04 49 6b 80 82 ff 00 00 00 de 21")) == "part(Hi) text(Hi!!)");
    for (const std::size_t offset : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u, 62u, 63u, 64u, 65u}) {
        for (std::size_t size = 0; size <= 200; ++size) {
            std::string original;
            for (std::size_t i = 0; i < size + 3; ++i) original += static_cast<char>(i * 37 + offset);
            std::string bytes = original;
            apply_mask(std::span(bytes).subspan(offset % 3, size), kKey, offset + (std::uint64_t{5} << 32));
            const std::string middle = masked(original.substr(offset % 3, size), kKey, offset);
            CHECK(bytes == original.substr(0, offset % 3) + middle + original.substr(offset % 3 + size));
        }
    }
}

TEST_CASE("RFC 6455 5.4: fragments, with control frames between them") {
    const std::string ping = frame(0x89, "?"), pong = frame(0x8a, "");
    CHECK(decoded(frame(0x01, "Hel") + frame(0x80, "lo")) == "part(Hel) text(Hello)");
    CHECK(decoded(frame(0x02, "\xff") + frame(0x00, "\xc0\x80") + frame(0x80, "\0"s)) ==
          "part(\xff) part(\xc0\x80) binary(\xff\xc0\x80\0)"s);
    CHECK(decoded(frame(0x01, "") + frame(0x00, "") + frame(0x80, "")) == "part() part() text()");
    CHECK(decoded(frame(0x01, "") + frame(0x80, "x") + frame(0x82, "y")) == "part() text(x) binary(y)");
    CHECK(decoded(ping + frame(0x01, "a") + ping + frame(0x00, "b") + pong + ping + frame(0x80, "c") + ping) ==
          "ping(?) part(a) ping(?) part(b) pong() ping(?) text(abc) ping(?)");
    CHECK(decoded(frame(0x01, "a") + frame(0x88, "") + frame(0x80, "b")) == "part(a) close() text(ab)");
    std::string pieces, all, events;
    for (int i = 0; i < 300; ++i) {
        pieces += frame(i == 0 ? 1 : i == 299 ? 0x80 : 0, "x");
        events += i == 299 ? "text(" + all + "x)" : "part(x) ";
        all += 'x';
    }
    CHECK(decoded(pieces) == events);
    CHECK(decoded(pieces + pieces) == events + " " + events);
}

TEST_CASE("RFC 6455 5.5: control frames have up to 125 bytes, of any kind but in a Close") {
    const std::string longest = std::string(124, '\xff') + '\0';
    CHECK(decoded(frame(0x89, longest) + frame(0x8a, longest)) == "ping(" + longest + ") pong(" + longest + ")");
    CHECK(decoded(frame(0x89, std::string(126, 'x'))) == "1002@1");
    const std::string reason = "\x03\xe8" + std::string(123, 'x');
    CHECK(decoded(frame(0x88, reason) + frame(0x88, "")) == "close(" + reason + ") close()");
}

TEST_CASE("RFC 6455 5.5.1: the reason in a Close is UTF-8, answered at its first bad byte") {
    CHECK(decoded(frame(0x88, "\x03\xe8\xe6\x9d\x8e\xe9\x9d\x96")) == "close(\x03\xe8\xe6\x9d\x8e\xe9\x9d\x96)");
    CHECK(decoded(frame(0x88, "\x03\xe8ok\xff more")) == "1007@10");
    CHECK(decoded(frame(0x88, "\x03\xe8\xed\xa0\x80")) == "1007@9");
    CHECK(decoded(frame(0x88, "\x03\xe8\xe6\x9d")) == "1007@9");  // cut in a character
    CHECK(decoded(frame(0x88, "\x03\xed\xff")) == "1002@7");      // the code comes first
    CHECK(decoded(frame(0x01, "\xe6") + frame(0x88, "\x03\xe8\x9d")) == "part(\xe6) 1007@15");  // a text of its own
    CHECK(decoded(frame(0x01, "\xe6") + frame(0x88, "\x03\xe8!") + frame(0x80, "\x9d\x8e")) ==
          "part(\xe6) close(\x03\xe8!) text(\xe6\x9d\x8e)");
}

TEST_CASE("RFC 6455 5.7: the examples, in and out") {
    const std::string short_one(256, '\x9d'), long_one(65536, '\x9d');
    struct Case { std::string bytes, events; Role role; };
    for (const Case& c : {
             Case{x("81 05 48 65 6c 6c 6f"), "text(Hello)", Role::client},
             {x("81 85 37 fa 21 3d 7f 9f 4d 51 58"), "text(Hello)", Role::server},
             {x("01 03 48 65 6c 80 02 6c 6f"), "part(Hel) text(Hello)", Role::client},
             {x("89 05 48 65 6c 6c 6f"), "ping(Hello)", Role::client},
             {x("8a 85 37 fa 21 3d 7f 9f 4d 51 58"), "pong(Hello)", Role::server},
             {x("82 7e 01 00") + short_one, "binary(" + short_one + ")", Role::client},
             {x("82 7f 00 00 00 00 00 01 00 00") + long_one, "binary(" + long_one + ")", Role::client}}) {
        CHECK(decoded(c.bytes, c.role) == c.events);
        CHECK(decoded(c.bytes + c.bytes, c.role) == c.events + " " + c.events);
    }
    CHECK(encode(Opcode::text, "Hello") == x("81 05 48 65 6c 6c 6f"));
    CHECK(encode(Opcode::text, "Hello", true, kKey) == x("81 85 37 fa 21 3d 7f 9f 4d 51 58"));
    CHECK(encode(Opcode::text, "Hel", false) == x("01 03 48 65 6c"));
    CHECK(encode(Opcode::continuation, "lo") == x("80 02 6c 6f"));
    CHECK(encode(Opcode::ping, "Hello") == x("89 05 48 65 6c 6c 6f"));
    CHECK(encode(Opcode::pong, "Hello", true, kKey) == x("8a 85 37 fa 21 3d 7f 9f 4d 51 58"));
    CHECK(encode(Opcode::binary, short_one) == x("82 7e 01 00") + short_one);
    CHECK(encode(Opcode::binary, long_one) == x("82 7f 00 00 00 00 00 01 00 00") + long_one);
}

TEST_CASE("RFC 6455 7.4: a Close has no code or one that may be sent, judged with its second byte") {
    for (std::uint32_t code = 0; code <= 0xffff; ++code) {
        const std::string payload{static_cast<char>(code >> 8), static_cast<char>(code & 0xff)};
        const bool low = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014);
        const bool good = low || (code >= 3000 && code <= 4999);
        const Heard heard = hear(frame(0x88, payload + "reason!"), Role::server, {7, 1, 99});
        CHECK(heard.events == (good ? "close(" + payload + "reason!)" : "1002"));
        if (!good) CHECK(heard.to == 8);
        CHECK(close_code(payload) == code);
        if (code != 1005) CHECK(close_payload(static_cast<std::uint16_t>(code)) == payload);
    }
    CHECK(close_payload(kNoCode) == "");
    CHECK(close_code("") == 1005);
    CHECK(close_code("\x03") == 1005);
    CHECK(close_code("\x03\xe9going away") == 1001);
    CHECK(decoded(frame(0x88, "\x03\xed")) == "1002@7");
    CHECK(decoded(frame(0x88, "\x03")) == "1002@1");
}

TEST_CASE("RFC 6455 8.1: text is UTF-8, whole, across pieces and fragments; the first bad byte is answered") {
    struct Case { std::string text; std::size_t bad; };  // Markus Kuhn's list, and RFC 3629's boundaries
    for (const Case& c : {
             Case{"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", kNowhere}, {"\0\x01\x7f\xc2\x80\xdf\xbf"s, kNowhere},
             {"\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf", kNowhere}, {"\xef\xbf\xbe\xef\xb7\x90", kNowhere},
             {"\xf0\x90\x80\x80\xf1\x80\x80\x80\xf4\x8f\xbf\xbf", kNowhere},
             {"\x80", 0}, {"\xbf", 0}, {"a\x80\xbf", 1}, {"\xc3\xa9\xa9", 2}, {"\xe2\x82\xac\x80", 3},
             {"\xf0\x9d\x84\x9e\x80", 4}, {"\xfe", 0}, {"\xff", 0}, {"\xf8\x80\x80\x80\xaf", 0}, {"\xfc\x80", 0},
             {"\xc0\x80", 0}, {"\xc0\xaf", 0}, {"\xc1\xbf", 0}, {"\xe0\x80\xaf", 1}, {"\xe0\x9f\xbf", 1},  // overlong
             {"\xf0\x80\x80\xaf", 1}, {"\xf0\x8f\xbf\xbf", 1},
             {"\xed\xa0\x80", 1}, {"\xed\xbf\xbf", 1}, {"\xed\xa0\x80\xed\xb0\x80", 1},  // surrogates
             {"\xf4\x90\x80\x80", 1}, {"\xf5\x80\x80\x80", 0}, {"\xf7\xbf\xbf\xbf", 0},  // past U+10FFFF
             {"\xc3 ", 1}, {"\xe2 ", 1}, {"\xe2\x82 ", 2}, {"\xf0 ", 1}, {"\xf0\x9d ", 2}, {"\xf0\x9d\x84 ", 3},
             {"\xc3\xc3\xa9", 1}, {"\xe2\x82\xe2\x82\xac", 2}, {"\xf0\x9d\x84\xf0", 3}, {"\xe2\x82\xc0", 2},
             {"\xc3", kCut}, {"a\xe2", kCut}, {"\xe2\x82", kCut}, {"\xf0", kCut}, {"\xf0\x9d\x84", kCut}}) {
        CAPTURE(escape(c.text));
        // A character that is cut by the message's end is answered with the message's last byte.
        const std::size_t bad = c.bad == kCut ? c.text.size() - 1 : c.bad;
        const std::string good = "text(" + c.text + ")";
        CHECK(decoded(frame(0x81, c.text)) == (bad == kNowhere ? good : "1007@" + std::to_string(6 + bad)));
        CHECK(decoded(frame(0x82, c.text)) == "binary(" + c.text + ")");

        const std::string unfinished = head(0x81, 100'000) + masked(c.text);
        CHECK(decoded(unfinished) == (c.bad >= kCut ? "" : "1007@" + std::to_string(14 + c.bad)));

        std::string fragments, events;  // a byte each, and a Ping between
        for (std::size_t i = 0; i < c.text.size(); ++i) {
            const bool last = i + 1 == c.text.size();
            fragments += frame((i == 0 ? 1 : 0) | (last ? 0x80 : 0), c.text.substr(i, 1)) + frame(0x89, "");
            if (i < bad && !last) events += "part(" + c.text.substr(i, 1) + ") ping() ";
        }
        events += bad == kNowhere ? good + " ping()" : "1007@" + std::to_string(13 * bad + 6);
        CHECK(decoded(fragments) == events);
        if (c.bad != kCut) continue;
        const std::string second_byte = std::to_string(6 + c.text.size() + 1);  // it says that the end has come
        CHECK(decoded(frame(0x01, c.text) + head(0x80, 0)) == "part(" + c.text + ") 1007@" + second_byte);
    }
    CHECK(decoded(frame(0x81, "\xc3\xa9") + frame(0x81, "\xa9")) == "text(\xc3\xa9) 1007@14");  // each begins anew
}

TEST_CASE("RFC 3629: all sequences of up to four bytes, as far as they are not bad before") {
    CHECK(judged_wrongly("") == "");
}

TEST_CASE("RFC 3629: the same at every place in and across blocks of 64 bytes, in one piece and in two") {
    constexpr std::string_view edges = "a\x80\x8f\x90\x9f\xa0\xbf\xc2\xe0\xe1\xed\xf0\xf4";
    std::minstd_rand random(3629);
    std::string wrong;
    for (std::size_t at = 0; at <= 66; ++at) {
        for (const std::string_view fill : {"aa", "\xc3\xa9"}) {
            std::string bytes = at % 2 == 0 ? "" : "a";
            while (bytes.size() < 140) bytes += fill;
            for (std::size_t i = at % 3; i < edges.size() * edges.size() * edges.size(); i += 3) {
                bytes[at] = edges[i % 13];
                bytes[at + 1] = edges[i / 13 % 13];
                bytes[at + 2] = edges[i / 169];
                bytes[at + 3] = random() % 3 == 0 ? 'a' : edges[random() % 13];
                const Verdict verdict = by_the_table(bytes);
                const bool good = judged_well(bytes, verdict) && judged_well(bytes, verdict, random() % bytes.size());
                if (!good) wrong = escape(bytes);
            }
        }
    }
    CHECK(wrong == "");
}

TEST_CASE("RFC 6455 10.4: a message has up to 16 MiB, fragments together; more is answered as soon as a header says so") {
    CHECK(kMaxMessageBytes == 16 * kMiB);
    CHECK(decoded(head(0x82, 16 * kMiB)) == "");
    CHECK(decoded(head(0x82, 16 * kMiB + 1)) == "1009@9");
    CHECK(decoded(head(0x01, 16 * kMiB + 1)) == "1009@9");
    CHECK(decoded(frame(0x02, "x") + head(0x80, 16 * kMiB)) == "part(x) 1009@16");
    CHECK(decoded(frame(0x02, "x") + frame(0x89, "xx") + head(0x00, 16 * kMiB - 1)) == "part(x) ping(xx)");

    const std::string giant(16 * kMiB - 1, 'g'), part = frame(0x01, giant) + frame(0x89, "!!");
    const auto most = hear(part + frame(0x00, "h") + frame(0x80, "") + head(0x82, 16 * kMiB), Role::server, {65'536});
    CHECK((most.events == "part(" + giant + ") ping(!!) part(h) text(" + giant + "h)"));  // and then as much again
    const auto over = hear(part + frame(0x00, "h") + frame(0x80, "i"), Role::server, {part.size() + 7, 1});
    CHECK((over.events == "part(" + giant + ") ping(!!) part(h) 1009"));
    CHECK(over.from == part.size() + 7 + 1);
}

TEST_CASE("nothing is set aside for bytes that were only announced") {
    for (const std::size_t arrived : {0u, 1u, 16u, 100u, 1000u, 16'384u, 100'000u, 1'000'000u}) {
        for (const std::size_t piece : {100u, 65'536u}) {
            CAPTURE(arrived);
            Decoder decoder;
            const std::string bytes = head(0x82, 16 * kMiB) + std::string(arrived, 'x');
            for (std::size_t at = 0; at < bytes.size(); at += piece) {
                std::string_view input = std::string_view(bytes).substr(at, piece);
                REQUIRE(decoder.feed(input) == Event::need_more);
            }
            CHECK(decoder.payload().size() == arrived);
            CHECK(decoder.held() <= 2 * arrived + 64);
            if (arrived == 0) CHECK(decoder.held() == kInside);
        }
    }
}

TEST_CASE("memory for a message: it doubles with what arrives, the last step is exact, it is given back") {
    for (const std::size_t piece : {std::size_t{1}, std::size_t{7000}, std::size_t{65'536}}) {
        for (const bool fin : {true, false}) {
            CAPTURE(piece);
            CAPTURE(fin);
            const std::size_t length = piece == 1 ? 100'000 : 16 * kMiB;
            const std::string payload(length, 'x');
            Decoder decoder;
            const auto feed = [&decoder](std::string_view bytes) {
                const Event event = decoder.feed(bytes);
                CHECK(bytes.empty());
                return event;
            };
            CHECK(feed(head(fin ? 0x82 : 0x02, length)) == Event::need_more);
            CHECK(decoder.held() == kInside);  // it was only announced
            std::size_t before = 0, steps = 0, arrived = 0;
            Event event = Event::need_more;
            while (arrived < length) {
                const std::string next = payload.substr(arrived, piece);
                event = feed(masked(next, kKey, arrived));
                arrived += next.size();
                if (decoder.held() == before) continue;
                const bool exact = fin && decoder.held() == length;
                if (!exact) CHECK(decoder.held() >= std::min(2 * before, 16 * kMiB));
                CHECK(decoder.held() <= std::max(2 * arrived, std::size_t{64}));
                CHECK(decoder.held() <= 16 * kMiB);
                before = decoder.held();
                ++steps;
            }
            CHECK(event == (fin ? Event::message : Event::fragment));
            CHECK(steps <= 20);
            if (fin || length == 16 * kMiB) CHECK(decoder.held() == length);
            CHECK((decoder.payload() == payload));
            if (!fin) CHECK(feed(head(0x80, 0)) == Event::message);
            CHECK((decoder.payload() == payload));
            CHECK(feed("") == Event::need_more);
            CHECK(decoder.held() == kInside);
        }
    }
}

TEST_CASE("held() is the memory of a message that has not ended: no control frame, nothing behind its end") {
    Decoder decoder;
    const auto held_after = [&decoder](const std::string& bytes) {
        std::string_view input = bytes;
        while (decoder.feed(input) != Event::need_more) REQUIRE(decoder.code() == 0);
        return decoder.held();
    };
    CHECK(held_after("") == kInside);
    CHECK(held_after(frame(0x81, "abc")) == kInside);
    CHECK(held_after(frame(0x82, std::string(4096, 'x'))) == kInside);
    CHECK(held_after(frame(0x82, std::string(4096, 'x')) + frame(0x89, "a Ping at once")) == kInside);
    CHECK(held_after(frame(0x82, std::string(4096, 'x')) + "\x82") == 4096);  // the next one follows at once
    CHECK(held_after(head(0x82, 1).substr(1) + "x") == kInside);
    CHECK(held_after(frame(0x02, std::string(5000, 'x'))) >= 5000);  // its end has not come
    CHECK(held_after(frame(0x89, std::string(125, '!'))) >= 5000);
    CHECK(held_after(frame(0x80, "")) == kInside);
    CHECK(held_after(head(0x89, 125) + "xx") == kInside);  // half a Ping is no message
}

TEST_CASE("a violation shows the bytes that have come and none that has not: no half length, no half key") {
    struct Case { std::string bytes, line; Role role = Role::server; };
    for (const Case& c : {
             Case{x("82 ff 80"), "82 ff 80 | FIN binary"},
             {x("81 00"), "81 00 | FIN text, 0 bytes"},
             {x("81 85"), "81 85 | FIN text, 5 bytes", Role::client},
             {x("82 7e"), "82 7e | FIN binary"},
             {x("89 fe"), "89 fe | FIN ping"},
             {x("88 81"), "88 81 | FIN close, 1 bytes"},
             {x("c1"), "c1 | FIN text"},
             {x("82 fe 00 7d"), "82 fe 00 7d | FIN binary, 125 bytes"},
             {x("82 ff 00 00 00 00 00 00 ff ff"), "82 ff 00 00 00 00 00 00 ff ff | FIN binary, 65535 bytes"},
             {x("82 ff 00 00 00 00 01 00 00 01"), "82 ff 00 00 00 00 01 00 00 01 | FIN binary, 16777217 bytes"},
             {frame(0x01, "\xe6") + x("80 80"), "80 80 | FIN continuation, 0 bytes"},
             {frame(0x81, "a\xff"), "81 82 37 fa 21 3d | FIN text, 2 bytes, key 37 fa 21 3d: \"a\\xff\""}}) {
        CAPTURE(c.line);
        for (const std::size_t piece : {std::size_t{1}, c.bytes.size()}) {
            Decoder decoder(c.role);
            Event event = Event::need_more;
            for (std::size_t at = 0; at < c.bytes.size(); at += piece) {
                std::string_view input = std::string_view(c.bytes).substr(at, piece);
                do event = decoder.feed(input); while (event != Event::violation && !input.empty());
            }
            CHECK(event == Event::violation);
            CHECK(decoder.describe() == c.line);
        }
    }
}

TEST_CASE("what nobody took is gone with the next frame") {
    Decoder decoder;
    const std::string bytes = frame(0x89, "one") + frame(0x8a, "2") + frame(0x81, "three") + frame(0x82, "4");
    std::string_view input = bytes;
    for (const std::string_view payload : {"one", "2", "three", "4"}) {
        CHECK(decoder.feed(input) != Event::need_more);
        CHECK(decoder.frame_payload() == payload);
    }
    CHECK(std::string(decoder.payload()) == "4");
}

TEST_CASE("any bytes are printable, one frame is one line") {
    CHECK(escape("") == "");
    CHECK(escape(" Hello, ~!") == " Hello, ~!");
    CHECK(escape("\"\\\n\r\t") == R"(\"\\\n\r\t)");
    CHECK(escape("\0\x1b[31m\x7f\x80\xff"s) == R"(\x00\x1b[31m\x7f\x80\xff)");
    CHECK(escape("\xe6\x9d\x8e") == R"(\xe6\x9d\x8e)");

    const auto line = [](Opcode opcode, std::string_view payload, bool fin, std::optional<MaskingKey> key = {}) {
        return describe(make_header(opcode, payload.size(), fin, key), opcode, payload);
    };
    CHECK(line(Opcode::text, "Hello", true, kKey) ==
          R"(81 85 37 fa 21 3d | FIN text, 5 bytes, key 37 fa 21 3d: "Hello")");
    CHECK(line(Opcode::text, "Hi\n", false) == R"(01 03 | text, 3 bytes: "Hi\n")");
    CHECK(line(Opcode::binary, "\xde\xad", true) == "82 02 | FIN binary, 2 bytes: de ad");
    CHECK(line(Opcode::ping, "", true) == "89 00 | FIN ping, 0 bytes");
    CHECK(line(Opcode::pong, "", true, kKey) == "8a 80 37 fa 21 3d | FIN pong, 0 bytes, key 37 fa 21 3d");
    CHECK(line(Opcode::close, "\x03\xe8", true) == "88 02 | FIN close, 2 bytes: 03 e8");
    const Header last = make_header(Opcode::continuation, 2);
    CHECK(describe(last, Opcode::text, "lo") == R"(80 02 | FIN continuation, 2 bytes: "lo")");
    CHECK(describe(last, Opcode::binary, "lo") == "80 02 | FIN continuation, 2 bytes: 6c 6f");
    CHECK(describe(last, Opcode::binary, "l") == "80 02 | FIN continuation, 2 bytes: 6c ...");  // half of it
    const std::string x32(32, 'x');
    CHECK(line(Opcode::text, x32, true) == "81 20 | FIN text, 32 bytes: \"" + x32 + '"');
    CHECK(line(Opcode::text, x32 + "x", true) == "81 21 | FIN text, 33 bytes: \"" + x32 + "\" ...");
    CHECK(describe(make_header(Opcode::text, 256), Opcode::text, "") == "81 7e 01 00 | FIN text, 256 bytes");
    CHECK(describe({true, Opcode::text, {}, {}, "\xc1"}, Opcode::text, "") == "c1 | FIN text");  // refused at once

    constexpr std::array<std::string_view, 16> names{"continuation", "text", "binary", "", "",     "",
                                                     "",             "",     "close",  "ping", "pong"};
    for (std::size_t i = 0; i < names.size(); ++i) CHECK(opcode_name(static_cast<Opcode>(i)) == names[i]);
}
