#include "ws_frame.h"

#include <algorithm>
#include <cstring>

using Byte = unsigned char;

constexpr std::size_t kMaxControlBytes = 125;  // RFC 6455 5.5
constexpr std::size_t kTraceBytes = 32;        // of a payload shown by describe()

// For speed alone, some loops go over a block of so many bytes without a branch inside. Compilers
// turn them into vector instructions, which work on 16 bytes or more at once.
constexpr std::size_t kBlock = 64;

// --- out -----------------------------------------------------------------------------------------

// RFC 6455 5.2: a length of up to 125 stands in seven bits; 126 there means that two bytes of
// length follow, 127 that eight do, the highest byte first.
Header make_header(Opcode opcode, std::uint64_t length, bool fin, std::optional<MaskingKey> key) {
    int seven_bits = static_cast<int>(std::min<std::uint64_t>(length, 126));
    if (length > 0xFFFF) seven_bits = 127;
    int length_bytes = 0;
    if (seven_bits == 126) length_bytes = 2;
    if (seven_bits == 127) length_bytes = 8;
    Header header{.fin = fin, .opcode = opcode, .length = length, .key = key};
    header.bytes += static_cast<char>((fin ? 0x80 : 0) | static_cast<int>(opcode));
    header.bytes += static_cast<char>((key ? 0x80 : 0) | seven_bits);
    for (int byte = length_bytes - 1; byte >= 0; --byte) {
        header.bytes += static_cast<char>((length >> (8 * byte)) & 0xFF);
    }
    if (key) header.bytes.append(key->begin(), key->end());
    return header;
}

std::string encode(Opcode opcode, std::string_view payload, bool fin,
                   std::optional<MaskingKey> key) {
    std::string frame = make_header(opcode, payload.size(), fin, key).bytes;
    const std::size_t start = frame.size();
    frame += payload;
    if (key) apply_mask(std::span(frame).subspan(start), *key, 0);
    return frame;
}

std::string close_payload(std::uint16_t code) {
    std::string payload;
    if (code == kNoCode) return payload;
    payload += static_cast<char>(code >> 8);
    payload += static_cast<char>(code & 0xFF);
    return payload;
}

std::uint16_t close_code(std::string_view payload) {
    if (payload.size() < 2) return kNoCode;
    const int high = static_cast<Byte>(payload[0]);
    const int low = static_cast<Byte>(payload[1]);
    return static_cast<std::uint16_t>((high << 8) | low);
}

void apply_mask(std::span<char> bytes, const MaskingKey& key, std::uint64_t offset) {
    // Byte i of a payload is masked with byte i % 4 of the key. This is the key again and again,
    // beginning with its byte for `offset`. It fits each block: kBlock is a multiple of 4.
    const std::size_t first = static_cast<std::size_t>(offset % key.size());
    std::array<char, kBlock> pattern{};
    for (std::size_t i = 0; i < kBlock; ++i) {
        pattern[i] = static_cast<char>(key[(first + i) % key.size()]);
    }
    while (bytes.size() >= kBlock) {
        for (std::size_t i = 0; i < kBlock; ++i) bytes[i] ^= pattern[i];
        bytes = bytes.subspan(kBlock);
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] ^= pattern[i];
}

// --- for people ----------------------------------------------------------------------------------

static std::string hex(std::string_view bytes, std::string_view between) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes) {
        const Byte byte = static_cast<Byte>(c);
        if (!text.empty()) text += between;
        text += digits[byte >> 4];
        text += digits[byte & 15];
    }
    return text;
}

std::string_view opcode_name(Opcode opcode) {
    switch (opcode) {
        case Opcode::continuation: return "continuation";
        case Opcode::text: return "text";
        case Opcode::binary: return "binary";
        case Opcode::close: return "close";
        case Opcode::ping: return "ping";
        case Opcode::pong: return "pong";
    }
    return "";
}

std::string escape(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) {
        if (c == '\n') text += "\\n";
        else if (c == '\r') text += "\\r";
        else if (c == '\t') text += "\\t";
        else if (c == '"') text += "\\\"";
        else if (c == '\\') text += "\\\\";
        else if (c >= ' ' && c <= '~') text += c;
        else text += "\\x" + hex({&c, 1}, "");
    }
    return text;
}

std::string describe(const Header& header, Opcode kind, std::string_view payload) {
    std::string line = hex(header.bytes, " ") + " |";
    if (header.fin) line += " FIN";
    line += ' ';
    line += opcode_name(header.opcode);
    if (header.length) line += ", " + std::to_string(*header.length) + " bytes";
    if (header.key) line += ", key " + hex({header.bytes.end() - 4, header.bytes.end()}, " ");
    if (payload.empty()) return line;

    const std::string_view start = payload.substr(0, kTraceBytes);
    if (kind == Opcode::text) line += ": \"" + escape(start) + '"';
    else line += ": " + hex(start, " ");
    if (header.length && start.size() < *header.length) line += " ...";
    return line;
}

// --- UTF-8 ---------------------------------------------------------------------------------------

// RFC 3629 section 4, all sequences that are a character:
//
//     first    second   third    fourth
//     00..7F
//     C2..DF   80..BF
//     E0       A0..BF   80..BF              below A0: that character has a shorter form
//     E1..EC   80..BF   80..BF
//     ED       80..9F   80..BF              above 9F: a surrogate, which is no character
//     EE..EF   80..BF   80..BF
//     F0       90..BF   80..BF   80..BF     below 90: that character has a shorter form
//     F1..F3   80..BF   80..BF   80..BF
//     F4       80..8F   80..BF   80..BF     above 8F: past U+10FFFF, the last character
//
// So it depends on the three bytes before a byte whether it must be a continuation byte (80..BF) or
// must not be one. An example is the character U+674E, e6 9d 8e:
//
//     9d must be one, because the byte before it, e6, begins a character (C0 or more)
//     8e must be one, because two bytes before it e6 begins one of at least three bytes (E0)
//     the next must not: e6 is now three bytes before, and only F0 and more begin one of four
//
// And after E0, ED, F0 and F4 not every continuation byte will do, see the table.

// 1 for each byte of a block that is wrong where it stands, else 0. In front of the block are the
// three bytes before it, so byte i of the block is bytes[i + 3]. What is asked of each byte is:
//
//     wrong = is_continuation != must_be_one || never_allowed || too_low || too_high
//
// The function can be skipped at first. It computes just that, but with numbers (0 or 1), | and &
// instead of bool, || and &&: then there is no branch.
static std::array<Byte, kBlock> wrong_bytes(const std::array<Byte, 3 + kBlock>& bytes) {
    std::array<Byte, kBlock> wrong;
    for (std::size_t i = 0; i < kBlock; ++i) {
        const Byte byte = bytes[i + 3];
        const Byte before = bytes[i + 2];
        const Byte two_before = bytes[i + 1];
        const Byte three_before = bytes[i];
        const Byte must_be_one =
            Byte(before >= 0xC0) | Byte(two_before >= 0xE0) | Byte(three_before >= 0xF0);
        const Byte is_continuation = (byte & 0xC0) == 0x80;
        const Byte never_allowed = Byte((byte & 0xFE) == 0xC0) | Byte(byte > 0xF4);
        const Byte too_low = (Byte(before == 0xE0) & Byte(byte < 0xA0)) |
                             (Byte(before == 0xF0) & Byte(byte < 0x90));
        const Byte too_high = (Byte(before == 0xED) & Byte(byte > 0x9F)) |
                              (Byte(before == 0xF4) & Byte(byte > 0x8F));
        wrong[i] = (is_continuation ^ must_be_one) | never_allowed | too_low | too_high;
    }
    return wrong;
}

// Whether no byte of the block has its highest bit set. It looks at eight bytes at once.
static bool is_ascii(std::string_view block) {
    std::array<std::uint64_t, kBlock / 8> words;
    std::memcpy(words.data(), block.data(), kBlock);
    std::uint64_t any = 0;
    for (const std::uint64_t word : words) any |= word;
    return (any & 0x8080808080808080) == 0;
}

// No continuation byte is missing: the last byte does not begin a character of two bytes or more,
// the one before it none of three or more, the one before that none of four. (last_[2] is the
// last.)
bool Utf8::complete() const { return last_[2] < 0xC0 && last_[1] < 0xE0 && last_[0] < 0xF0; }

bool Utf8::feed(std::string_view bytes) {
    while (!bytes.empty()) {
        const std::string_view block = bytes.substr(0, kBlock);
        if (!feed_block(block)) return false;
        bytes.remove_prefix(block.size());
    }
    return true;
}

bool Utf8::feed_block(std::string_view block) {
    if (block.size() == kBlock && complete() && is_ascii(block)) {
        last_ = {};
        return true;
    }
    // The last bytes of the block before, then this block. If it is a short one, zeros follow, and
    // what wrong_bytes() says of them is not looked at.
    std::array<Byte, 3 + kBlock> bytes{last_[0], last_[1], last_[2]};
    std::memcpy(&bytes[3], block.data(), block.size());
    std::memcpy(last_.data(), &bytes[block.size()], last_.size());
    const std::array<Byte, kBlock> wrong = wrong_bytes(bytes);
    return std::memchr(wrong.data(), 1, block.size()) == nullptr;
}

// --- in ------------------------------------------------------------------------------------------

Opcode Decoder::opcode() const {
    return header_.opcode == Opcode::continuation ? message_opcode_ : header_.opcode;
}

std::string_view Decoder::frame_payload() const {
    if (is_control()) return control_;
    return std::string_view(message_).substr(frame_start_);
}

Decoder::Event Decoder::feed(std::string_view& input) {
    if (code_ != 0) return Event::violation;
    // All of a frame has come; or there has been none yet, and all is 0.
    const bool ended = header_.bytes.size() == header_bytes_ && left_ == 0;
    if (ended) begin_frame();
    // Between two messages, the next one can use the memory of the last one. But when the input is
    // empty, there may be no next one for long, and the memory is given back.
    if (!inside_message() && input.empty()) std::string().swap(message_);
    while (header_.bytes.size() < header_bytes_) {
        if (input.empty()) return Event::need_more;
        const Byte byte = static_cast<Byte>(input.front());
        input.remove_prefix(1);
        if (!take_header_byte(byte)) return Event::violation;
    }
    while (left_ > 0) {
        if (input.empty()) return Event::need_more;
        if (!take_piece(input)) return Event::violation;
    }
    if (is_control()) return Event::control;
    return header_.fin ? Event::message : Event::fragment;
}

// The next byte is the first one of a frame. header_ is still the header of the frame before it.
void Decoder::begin_frame() {
    const bool message_ended = header_.fin && !is_control();
    if (message_ended) {
        message_opcode_ = Opcode::continuation;
        message_.clear();
        text_ = {};
    }
    header_ = {};
    header_bytes_ = 2;
    length_bytes_ = 0;
    frame_start_ = message_.size();
    control_.clear();
    close_reason_ = {};
}

bool Decoder::broken(std::string_view reason, std::uint16_t code) {
    code_ = code;
    reason_ = reason;
    return false;
}

// A header is two bytes, then 0, 2 or 8 of length, then 0 or 4 of key. The second byte tells how
// many of each. Without extended length, the length is known as soon as the second byte is
// there.
bool Decoder::take_header_byte(Byte byte) {
    header_.bytes += static_cast<char>(byte);
    const std::size_t size = header_.bytes.size();
    if (size == 1) return check_first_byte(byte);
    if (size == 2 && !check_second_byte(byte)) return false;
    if (size == 3 && length_bytes_ == 8 && byte >= 0x80) return broken("length over 2^63-1");
    if (size == 2 + length_bytes_ && !check_length()) return false;
    if (size == header_bytes_ && role_ == Role::server) take_key();
    return true;
}

// FIN, three reserved bits, and the opcode in the lower four.
bool Decoder::check_first_byte(Byte byte) {
    header_.fin = (byte & 0x80) != 0;
    header_.opcode = static_cast<Opcode>(byte & 0x0F);
    const bool continues = header_.opcode == Opcode::continuation;
    if ((byte & 0x70) != 0) return broken("reserved bit set");
    if (opcode_name(header_.opcode).empty()) return broken("reserved opcode");
    if (is_control() && !header_.fin) return broken("fragmented control frame");
    if (is_control()) return true;
    if (continues && !inside_message()) return broken("continuation of no message");
    if (continues) return true;
    if (inside_message()) return broken("new message inside a fragmented one");
    message_opcode_ = header_.opcode;
    return true;
}

// The bit MASK, and seven bits: a length of up to 125, or 126 or 127, which say how many bytes of
// length follow.
bool Decoder::check_second_byte(Byte byte) {
    const bool masked = (byte & 0x80) != 0;
    const std::size_t seven_bits = byte & 0x7F;
    const bool is_close = header_.opcode == Opcode::close;
    if (seven_bits < 126) header_.length = seven_bits;
    if (masked && role_ == Role::client) return broken("masked frame");
    if (!masked && role_ == Role::server) return broken("unmasked frame");
    const bool over = is_control() && seven_bits > kMaxControlBytes;
    if (over) return broken("control frame over 125 bytes");
    if (is_close && seven_bits == 1) return broken("Close with half a code");
    if (seven_bits == 126) length_bytes_ = 2;
    if (seven_bits == 127) length_bytes_ = 8;
    header_bytes_ = 2 + length_bytes_ + (masked ? sizeof(MaskingKey) : 0);
    return true;
}

// The last byte of the length has come.
bool Decoder::check_length() {
    if (length_bytes_ > 0) {
        std::uint64_t length = 0;
        for (const char c : header_.bytes.substr(2)) length = length * 256 + static_cast<Byte>(c);
        header_.length = length;
    }
    const std::uint64_t length = *header_.length;
    const bool fits_in_less = (length_bytes_ == 2 && length < 126) ||
                              (length_bytes_ == 8 && length <= 0xFFFF);
    if (fits_in_less) return broken("length not in its shortest form");
    const bool too_big = !is_control() && length > kMaxMessageBytes - message_.size();
    if (too_big) return broken("message over 16 MiB", kTooBig);
    left_ = static_cast<std::size_t>(length);
    return check_end();  // a frame of length 0 may end here
}

// The last byte of the key has come.
void Decoder::take_key() {
    MaskingKey key;
    std::copy(header_.bytes.end() - 4, header_.bytes.end(), key.begin());
    header_.key = key;
}

// Moves the next piece of the payload out of the input: it is copied behind what came before,
// unmasked there, and checked.
bool Decoder::take_piece(std::string_view& input) {
    const std::string_view piece = input.substr(0, left_);
    if (!is_control()) make_room(piece.size());
    std::string& to = is_control() ? control_ : message_;
    const std::size_t start = to.size();
    to += piece;
    const std::uint64_t offset = *header_.length - left_;
    if (header_.key) apply_mask(std::span(to).subspan(start), *header_.key, offset);
    left_ -= piece.size();
    input.remove_prefix(piece.size());

    const std::string_view taken = std::string_view(to).substr(start);
    if (header_.opcode == Opcode::close && !check_close(start)) return false;
    if (opcode() == Opcode::text && !text_.feed(taken)) return broken("not UTF-8", kNotUtf8);
    return check_end();
}

// RFC 6455 5.5.1: a code, which must be one that may be sent (7.4 and the IANA registry), then
// text. `start`: the payload's first byte that has not been checked.
bool Decoder::check_close(std::size_t start) {
    if (control_.size() < 2) return true;
    const std::uint16_t code = close_code(control_);
    const bool standard = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014);
    const bool private_use = code >= 3000 && code <= 4999;
    if (!standard && !private_use) return broken("Close code not allowed");
    const std::size_t text_start = std::max<std::size_t>(start, 2);  // the code is no text
    const std::string_view text = std::string_view(control_).substr(text_start);
    if (!close_reason_.feed(text)) return broken("not UTF-8", kNotUtf8);
    return true;
}

// When the last byte of a payload has come: a text must not end inside a character.
bool Decoder::check_end() {
    if (left_ > 0 || !header_.fin) return true;
    const bool text_cut = opcode() == Opcode::text && !text_.complete();
    const bool reason_cut = header_.opcode == Opcode::close && !close_reason_.complete();
    if (text_cut || reason_cut) return broken("not UTF-8", kNotUtf8);
    return true;
}

// Room for bytes that have arrived; the length that was announced takes none. When the room must
// grow, it is doubled: if it grew by each piece alone, each piece would copy all that came before
// it. But it does not become larger than the message can become.
void Decoder::make_room(std::size_t bytes) {
    const std::size_t need = message_.size() + bytes;
    if (need <= message_.capacity()) return;
    const std::size_t most = header_.fin ? message_.size() + left_ : kMaxMessageBytes;
    const std::size_t twice = 2 * message_.capacity();
    std::string bigger;  // it is empty, so reserve() takes no more than it is asked for
    bigger.reserve(std::min(most, std::max(need, twice)));
    bigger += message_;
    message_.swap(bigger);
}
