#include "ws_frame.h"

#include <algorithm>
#include <cstring>

using Byte = unsigned char;

constexpr std::size_t kMaxControlBytes = 125;  // RFC 6455 5.5
constexpr std::size_t kPieceBytes = 16 << 10;  // unmasked, then checked, while it is still in the cache
constexpr std::size_t kTraceBytes = 32;        // of a payload shown by describe()

// Loops over a block have a constant number of turns and no branch: compilers make vector instructions of them.
constexpr std::size_t kBlock = 64;

static std::string hex(std::string_view bytes, std::string_view between) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes) {
        if (!text.empty()) text += between;
        text += {digits[static_cast<Byte>(c) >> 4], digits[c & 15]};
    }
    return text;
}

// RFC 6455 7.4 and the IANA registry: codes that may stand in a Close frame.
static bool may_be_sent(std::uint16_t code) {
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

// Whether no byte of the block has its highest bit set: eight bytes at a time.
static bool is_ascii(std::string_view block) {
    std::array<std::uint64_t, kBlock / 8> words;
    std::memcpy(words.data(), block.data(), kBlock);
    std::uint64_t any = 0;
    for (const std::uint64_t word : words) any |= word;
    return (any & 0x8080808080808080) == 0;
}

// --- out ------------------------------------------------------------------------------------------------------------

Header make_header(Opcode opcode, std::uint64_t length, bool fin, std::optional<MaskingKey> key) {
    Header header{fin, opcode, length, key, {}};
    const int length_bytes = length <= 125 ? 0 : length <= 0xFFFF ? 2 : 8;
    const auto seven_bits = length_bytes == 0 ? static_cast<int>(length) : length_bytes == 2 ? 126 : 127;
    header.bytes += static_cast<char>((fin ? 0x80 : 0) | static_cast<int>(opcode));
    header.bytes += static_cast<char>((key ? 0x80 : 0) | seven_bits);
    for (int at = length_bytes - 1; at >= 0; --at) header.bytes += static_cast<char>(length >> 8 * at & 0xFF);
    if (key) header.bytes.append(key->begin(), key->end());
    return header;
}

std::string encode(Opcode opcode, std::string_view payload, bool fin, std::optional<MaskingKey> key) {
    std::string frame = make_header(opcode, payload.size(), fin, key).bytes;
    const std::size_t start = frame.size();
    frame += payload;
    if (key) apply_mask(std::span(frame).subspan(start), *key, 0);
    return frame;
}

std::string close_payload(std::uint16_t code) {
    return code == kNoCode ? "" : std::string{static_cast<char>(code >> 8), static_cast<char>(code & 0xFF)};
}

std::uint16_t close_code(std::string_view payload) {
    if (payload.size() < 2) return kNoCode;
    return static_cast<std::uint16_t>(static_cast<Byte>(payload[0]) << 8 | static_cast<Byte>(payload[1]));
}

void apply_mask(std::span<char> bytes, const MaskingKey& key, std::uint64_t offset) {
    std::array<char, kBlock> pattern{};
    for (std::size_t i = 0; i < kBlock; ++i) pattern[i] = static_cast<char>(key[(offset + i) % key.size()]);

    for (; bytes.size() >= kBlock; bytes = bytes.subspan(kBlock)) {
        for (std::size_t i = 0; i < kBlock; ++i) bytes[i] ^= pattern[i];
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] ^= pattern[i];
}

// --- for people -----------------------------------------------------------------------------------------------------

std::string_view opcode_name(Opcode opcode) {
    static constexpr std::string_view data[8]{"continuation", "text", "binary"}, control[8]{"close", "ping", "pong"};
    const auto number = static_cast<std::size_t>(opcode);
    return number < 8 ? data[number] : control[number - 8];
}

std::string escape(std::string_view bytes) {
    constexpr std::string_view special = "\n\r\t\"\\", letters = "nrt\"\\";
    std::string text;
    for (const char c : bytes) {
        const std::size_t which = special.find(c);
        if (which != std::string_view::npos) text += {'\\', letters[which]};
        else if (c >= ' ' && c <= '~') text += c;
        else text += "\\x" + hex({&c, 1}, "");
    }
    return text;
}

std::string describe(const Header& header, Opcode kind, std::string_view payload) {
    std::string line = hex(header.bytes, " ") + " |" + (header.fin ? " FIN " : " ");
    line += opcode_name(header.opcode);
    if (header.bytes.size() >= 2) line += ", " + std::to_string(header.length) + " bytes";
    if (header.key) line += ", key " + hex(std::string_view(header.bytes).substr(header.bytes.size() - 4), " ");
    if (payload.empty()) return line;

    const std::string_view start = payload.substr(0, kTraceBytes);
    line += kind == Opcode::text ? ": \"" + escape(start) + '"' : ": " + hex(start, " ");
    return start.size() < header.length ? line + " ..." : line;
}

// --- UTF-8 ----------------------------------------------------------------------------------------------------------

// RFC 3629 for 64 bytes and the three before them: 1 where a byte may not be. A byte is a continuation exactly when one
// of the three before it asks for one, and four first bytes narrow what may come second. No byte needs to know more.
static std::array<Byte, kBlock> wrong_bytes(const std::array<Byte, 3 + kBlock>& b) {
    std::array<Byte, kBlock> wrong;
    for (std::size_t i = 0; i < kBlock; ++i) {
        const Byte c = b[i + 3], before = b[i + 2];
        const Byte continues = (c & 0xC0) == 0x80;
        const Byte is_due = Byte(before >= 0xC0) | Byte(b[i + 1] >= 0xE0) | Byte(b[i] >= 0xF0);
        const Byte never = Byte((c & 0xFE) == 0xC0) | Byte(c > 0xF4);
        const Byte too_low = (Byte(before == 0xE0) & Byte(c < 0xA0)) | (Byte(before == 0xF0) & Byte(c < 0x90));
        const Byte too_high = (Byte(before == 0xED) & Byte(c > 0x9F)) | (Byte(before == 0xF4) & Byte(c > 0x8F));
        wrong[i] = (continues ^ is_due) | never | too_low | too_high;
    }
    return wrong;
}

bool Utf8::feed(std::string_view bytes) {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), kBlock))) {
        const std::size_t size = std::min(bytes.size(), kBlock);
        if (size == kBlock && is_ascii(bytes) && complete()) {
            last_ = {};
            continue;
        }
        std::array<Byte, 3 + kBlock> block{last_[0], last_[1], last_[2]};
        std::memcpy(block.data() + 3, bytes.data(), size);
        if (std::memchr(wrong_bytes(block).data(), 1, size)) return false;
        std::memcpy(last_.data(), block.data() + size, last_.size());
    }
    return true;
}

// --- in -------------------------------------------------------------------------------------------------------------

Decoder::Event Decoder::feed(std::string_view& input) {
    if (code_ != 0) return Event::violation;
    if (!in_frame_ && input.empty()) return Event::need_more;
    if (!in_frame_) begin_frame();
    for (; header_.bytes.size() < header_size_; input.remove_prefix(1)) {
        if (input.empty()) return Event::need_more;
        if (!take_header_byte(static_cast<Byte>(input.front()))) return Event::violation;
    }
    while (left_ > 0) {
        if (input.empty()) return Event::need_more;
        if (!take_piece(input)) return Event::violation;
    }
    in_frame_ = false;
    if (is_control()) return Event::control;
    return header_.fin ? Event::message : Event::fragment;
}

void Decoder::begin_frame() {
    if (!is_control() && header_.fin) {  // the frame before was the last of its message
        message_opcode_ = Opcode::continuation;
        message_.clear();
    }
    in_frame_ = true;
    at_ = message_.size();
    control_.clear();
    header_ = {};
    header_size_ = 2;
    length_bytes_ = 0;
}

bool Decoder::violation(CloseCode code, std::string_view reason) {
    code_ = code;
    reason_ = reason;
    return false;
}

bool Decoder::take_header_byte(Byte byte) {
    header_.bytes += static_cast<char>(byte);
    const std::size_t size = header_.bytes.size();
    if (size == 1) return take_first_byte(byte);
    if (size == 2 && !take_second_byte(byte)) return false;
    if (size > 2 + length_bytes_) (*header_.key)[size - 3 - length_bytes_] = byte;
    else if (size > 2) header_.length = header_.length << 8 | byte;
    if (size == 3 && length_bytes_ == 8 && byte >= 0x80) return violation(kProtocolError, "length over 2^63-1");
    if (size != 2 + length_bytes_) return true;

    const std::uint64_t least = length_bytes_ == 2 ? 126 : length_bytes_ == 8 ? 0x10000 : 0;
    if (header_.length < least) return violation(kProtocolError, "length not in its shortest form");
    const std::uint64_t room = kMaxMessageBytes - message_.size();
    if (!is_control() && header_.length > room) return violation(kTooBig, "message over 16 MiB");
    left_ = header_.length;
    const bool ends_text = header_.length == 0 && header_.fin && opcode() == Opcode::text;
    return !ends_text || text_.complete() || violation(kNotUtf8, "not UTF-8");
}

bool Decoder::take_first_byte(Byte byte) {
    header_.fin = (byte & 0x80) != 0;
    header_.opcode = static_cast<Opcode>(byte & 0x0F);
    const bool continues = header_.opcode == Opcode::continuation;
    const bool inside = message_opcode_ != Opcode::continuation;
    if ((byte & 0x70) != 0) return violation(kProtocolError, "reserved bit set");
    if (opcode_name(header_.opcode).empty()) return violation(kProtocolError, "reserved opcode");
    if (is_control()) return header_.fin || violation(kProtocolError, "fragmented control frame");
    if (continues && !inside) return violation(kProtocolError, "continuation of no message");
    if (!continues && inside) return violation(kProtocolError, "new message inside a fragmented one");
    if (!continues) message_opcode_ = header_.opcode;
    return true;
}

bool Decoder::take_second_byte(Byte byte) {
    const bool masked = (byte & 0x80) != 0;
    const unsigned seven_bits = byte & 0x7F;
    if (masked != (role_ == Role::server)) return violation(kProtocolError, masked ? "masked frame" : "unmasked frame");
    if (is_control() && seven_bits > kMaxControlBytes) return violation(kProtocolError, "control frame over 125 bytes");
    if (header_.opcode == Opcode::close && seven_bits == 1) return violation(kProtocolError, "Close with half a code");
    if (masked) header_.key.emplace();
    length_bytes_ = seven_bits == 126 ? 2 : seven_bits == 127 ? 8 : 0;
    header_size_ = 2 + length_bytes_ + (masked ? header_.key->size() : 0);
    header_.length = length_bytes_ == 0 ? seven_bits : 0;
    return true;
}

bool Decoder::take_piece(std::string_view& input) {
    std::string& to = is_control() ? control_ : message_;
    const std::size_t start = to.size();
    // Little is copied when room grows fourfold, and never is it more than four times what has arrived.
    const auto room = std::min<std::uint64_t>(start + left_, 4 * (start + input.size()));
    if (room > 2 * to.capacity()) to.reserve(room);
    to += input.substr(0, std::min<std::uint64_t>(left_, kPieceBytes));
    if (header_.key) apply_mask(std::span(to).subspan(start), *header_.key, header_.length - left_);
    left_ -= to.size() - start;
    input.remove_prefix(to.size() - start);

    const std::string_view arrived = to;
    const bool is_close = header_.opcode == Opcode::close && arrived.size() >= 2, last = left_ == 0 && header_.fin;
    if (is_close && !may_be_sent(close_code(arrived))) return violation(kProtocolError, "Close code not allowed");
    if (!is_close && opcode() != Opcode::text) return true;
    Utf8& check = is_close ? close_reason_ : text_;
    const bool good = check.feed(arrived.substr(is_close ? std::max<std::size_t>(start, 2) : start));
    return (good && (!last || check.complete())) || violation(kNotUtf8, "not UTF-8");
}
