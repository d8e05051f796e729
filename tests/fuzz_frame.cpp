// libFuzzer target: however the bytes of frames are cut into pieces, the decoder says the same of them; encode() makes
// the same bytes of what was decoded, and what was encoded is decoded. The first three bytes decide about the cuts.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "../ws_frame.h"

namespace {

using Event = Decoder::Event;
using Role = Decoder::Role;
using Random = std::minstd_rand;

constexpr std::size_t kNowhere = std::string_view::npos;

void require(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "broken: %s\n", what);
    std::abort();
}

struct Heard {
    std::string events;            // all that the decoder said, in order
    std::string frames;            // those that ended, encoded again
    std::uint16_t code = 0;        // of the violation
    std::string_view reason;       // of it
    std::size_t from = 0, to = 0;  // the last piece that was fed
    std::size_t held = 0;          // bytes of a message, in the end
};

// Feeds pieces of 1 to `largest` bytes.
Heard hear(std::string_view bytes, Role role, std::size_t largest, Random random) {
    Decoder decoder(role);
    Heard heard;
    while (heard.to < bytes.size() && heard.code == 0) {
        heard.from = heard.to;
        heard.to += std::min(1 + random() % largest, bytes.size() - heard.from);
        // On the heap and of its exact size, so that the sanitizer sees a read past it.
        const std::vector<char> piece(bytes.begin() + static_cast<std::ptrdiff_t>(heard.from),
                                      bytes.begin() + static_cast<std::ptrdiff_t>(heard.to));
        std::string_view input(piece.data(), piece.size());
        for (Event event = decoder.feed(input); event != Event::need_more; event = decoder.feed(input)) {
            heard.code = decoder.code();
            heard.reason = decoder.reason();
            require((event == Event::violation) == (heard.code != 0), "a violation has a code, nothing else has");
            require(!decoder.describe().empty(), "a violation can be described, too");
            if (heard.code != 0) break;
            const Header& header = decoder.header();
            const std::string part(decoder.frame_payload());
            require(header.length == part.size(), "the payload of a frame that has ended is whole");
            heard.frames += encode(header.opcode, part, header.fin, header.key);
            heard.events += std::to_string(static_cast<int>(event)) + describe(header, decoder.opcode(), part) + '\n';
            if (event != Event::fragment) heard.events += std::string(decoder.payload()) + '\n';
        }
        require(heard.code != 0 || input.empty(), "all input is taken");
    }
    if (heard.code != 0) {
        std::string_view more = bytes;
        require(decoder.feed(more) == Event::violation && more == bytes, "nothing is taken behind a violation");
        return heard;
    }
    heard.held = decoder.payload().size();
    require(heard.held <= bytes.size(), "no more is held than arrived");
    // A buffer of up to 4 KiB is kept from one message to the next.
    require(decoder.held() <= 2 * bytes.size() + 64, "nothing is set aside for announced bytes");
    return heard;
}

void check_cuts(std::string_view bytes, Role role, Random random) {
    const Heard slow = hear(bytes, role, 1, random);
    require(bytes.starts_with(slow.frames), "encode() makes the same bytes of the frames that were decoded");
    require(slow.code == 0 || slow.from >= slow.frames.size(), "a frame that has ended is no violation");
    for (const std::size_t largest : {std::size_t{3}, std::size_t{200}, bytes.size() + 1}) {
        const Heard cut = hear(bytes, role, largest, random);
        require(cut.events == slow.events && cut.frames == slow.frames, "the same frames, however they are cut");
        require(cut.code == slow.code && cut.reason == slow.reason, "the same end");
        require(cut.held == slow.held, "the same is held");
        // Answered with the piece that has the bad byte: neither later nor, which would be a guess, sooner.
        require(slow.code == 0 || (cut.from <= slow.from && slow.from < cut.to), "a violation at its first bad byte");
    }
}

// The first byte that no UTF-8 text has there; behind the end if a character is cut. By RFC 3629 4.
std::size_t first_bad(std::string_view bytes) {
    for (std::size_t at = 0; at < bytes.size();) {
        const int lead = static_cast<unsigned char>(bytes[at++]);
        const int tails = lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
        if (tails == 0 && lead > 0x7F) return at - 1;
        for (int i = 0; i < tails; ++i, ++at) {
            if (at == bytes.size()) return at;
            const int c = static_cast<unsigned char>(bytes[at]);
            const int low = i > 0 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
            const int high = i > 0 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
            if (c < low || c > high) return at;
        }
    }
    return kNowhere;
}

std::optional<MaskingKey> some_key(Role role, Random& random) {
    if (role == Role::client) return {};
    MaskingKey key;
    for (unsigned char& byte : key) byte = static_cast<unsigned char>(random() % 4 == 0 ? 0 : random());
    return key;
}

// A message in fragments, with Pings between them; what a decoder has to say about it; where its bytes are on the wire.
struct Stream {
    std::string wire, events;
    std::vector<std::size_t> places;  // of each byte of the payload, then where it shows that there are no more
};

Stream stream_of(Opcode kind, std::string_view payload, Role role, Random& random) {
    Stream stream;
    const auto add = [&](Opcode opcode, std::string_view part, bool fin, Event event, std::string_view whole) {
        const Header header = make_header(opcode, part.size(), fin, some_key(role, random));
        const Opcode is = opcode == Opcode::continuation ? kind : opcode;
        stream.wire += encode(opcode, part, fin, header.key);
        stream.events += std::to_string(static_cast<int>(event)) + describe(header, is, part) + '\n';
        if (event != Event::fragment) stream.events.append(whole).append("\n");
    };
    std::string_view left = payload;
    for (bool first = true, fin = false; !fin; first = false) {
        const std::string_view part = left.substr(0, random() % 3 == 0 ? random() % 5 : random() % 2000);
        left.remove_prefix(part.size());
        fin = left.empty() && random() % 3 != 0;
        const std::size_t start = stream.wire.size();
        add(first ? kind : Opcode::continuation, part, fin, fin ? Event::message : Event::fragment, payload);
        const std::size_t end = stream.wire.size();
        for (std::size_t i = part.size(); i > 0; --i) stream.places.push_back(end - i);
        if (fin) stream.places.push_back(part.empty() ? start + 1 : end - 1);
        const std::string_view ping = payload.substr(0, random() % 126);
        if (!fin && random() % 3 == 0) add(Opcode::ping, ping, true, Event::control, ping);
    }
    return stream;
}

void check_identity(std::string_view payload, Opcode kind, Role role, Random random) {
    const Stream stream = stream_of(kind, payload, role, random);
    const Heard heard = hear(stream.wire, role, 1 + random() % 3000, random);
    const std::size_t bad = kind == Opcode::text ? first_bad(payload) : kNowhere;
    require(heard.code == (bad == kNowhere ? 0 : 1007), "what is not UTF-8 is answered 1007, all else is good");
    require(stream.events.starts_with(heard.events), "what was encoded is decoded");
    if (bad == kNowhere) return require(heard.events == stream.events && heard.held == 0, "to its end");
    require(heard.from <= stream.places[bad] && stream.places[bad] < heard.to, "a violation at its first bad byte");
}

// The bytes as the reason in a Close.
void check_close(std::string_view reason, Role role, Random random) {
    const std::string payload = close_payload(kGoingAway).append(reason);
    const std::string wire = encode(Opcode::close, payload, true, some_key(role, random));
    const Heard heard = hear(wire, role, 1 + random() % 50, random);
    const std::size_t bad = first_bad(reason), at = wire.size() - reason.size() + std::min(bad, reason.size() - 1);
    require(heard.code == (bad == kNowhere ? 0 : 1007), "the reason in a Close is UTF-8 or answered 1007");
    if (bad == kNowhere) require(heard.events.ends_with('\n' + payload + '\n'), "it is decoded");
    else require(heard.from <= at && at < heard.to, "it is answered at its first bad byte");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 3) return 0;
    const std::string bytes(data + 3, data + size);
    const Role role = data[0] % 4 == 0 ? Role::client : Role::server;
    const Random random(1u + data[0] + 256u * data[1] + 65536u * data[2]);
    check_cuts(bytes, role, random);
    check_identity(bytes, Opcode::binary, role, random);
    check_identity(bytes, Opcode::text, role, random);
    check_close(std::string_view(bytes).substr(0, 123), role, random);
    return 0;
}
