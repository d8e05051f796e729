// WebSocket frames, RFC 6455 section 5: bytes in, messages out; a message in, bytes out.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

constexpr std::uint64_t kMaxMessageBytes = 16 << 20;  // after reassembly; past it: 1009

enum class Opcode : std::uint8_t { continuation = 0, text = 1, binary = 2, close = 8, ping = 9, pong = 10 };

// Close codes of RFC 6455 7.4.1. kNoCode stands for an empty Close and is never sent.
enum CloseCode : std::uint16_t { kGoingAway = 1001, kProtocolError, kNoCode = 1005, kNotUtf8 = 1007, kTooBig = 1009 };

using MaskingKey = std::array<unsigned char, 4>;

// RFC 6455 5.2: what stands in front of a payload.
struct Header {
    bool fin = true;
    Opcode opcode = Opcode::continuation;
    std::uint64_t length = 0;       // of the payload, in bytes
    std::optional<MaskingKey> key;  // there when the payload is masked
    std::string bytes;              // the header as it is on the wire, 2 to 14 bytes
};

// The header of a frame to be sent. A server passes no key, a client must.
Header make_header(Opcode opcode, std::uint64_t length, bool fin = true, std::optional<MaskingKey> key = {});

// A whole frame, header and payload. (PHP: frame)
std::string encode(Opcode opcode, std::string_view payload, bool fin = true, std::optional<MaskingKey> key = {});

// The payload of a Close frame: two bytes of code, or nothing for kNoCode; and the way back.
std::string close_payload(std::uint16_t code);
std::uint16_t close_code(std::string_view payload);

// RFC 6455 5.3: masks or unmasks in place the part of a payload that begins `offset` bytes behind its start.
void apply_mask(std::span<char> bytes, const MaskingKey& key, std::uint64_t offset);

// "text", "binary", "close", ...; nothing for the reserved ones.
std::string_view opcode_name(Opcode opcode);

// Any bytes as printable ASCII: quotes, backslashes, controls and all past '~' become \" \\ \n \x9d ...
std::string escape(std::string_view bytes);

// A frame in one line, in the order of RFC 6455's figure: 81 02 | FIN text, 2 bytes: "Hi". `kind` is its opcode, or for
// a continuation that of its message; `payload` as much of it as there is.
std::string describe(const Header& header, Opcode kind, std::string_view payload);

// RFC 3629, fed with pieces.
class Utf8 {
public:
    bool feed(std::string_view bytes);  // false when one of them cannot be part of any UTF-8 text
    // Not inside a character.
    bool complete() const { return last_[2] < 0xC0 && last_[1] < 0xE0 && last_[0] < 0xF0; }

private:
    std::array<unsigned char, 3> last_{};  // what a byte may be depends on the three before it and on nothing else
};

// RFC 6455 5.4 to 5.6 and 7.4: fed with whatever recv() returned, hands out frames and messages. (PHP: decode)
// Memory is taken for bytes that arrived, never for a length that was only announced.
class Decoder {
public:
    enum class Role { server, client };  // a server reads masked frames, a client unmasked ones

    // The input is used up inside a frame; a frame has ended but not its message; a text or binary message has ended; a
    // Close, Ping or Pong has ended; the protocol was broken, see code() and reason(), and further input is refused.
    enum class Event { need_more, fragment, message, control, violation };

    explicit Decoder(Role role = Role::server) : role_(role) {}

    // Takes bytes off the front of `input`, up to the end of the next frame or the first bad byte.
    Event feed(std::string_view& input);

    // Of the frame that has just ended, or was found broken:
    const Header& header() const { return header_; }
    Opcode opcode() const { return header_.opcode == Opcode::continuation ? message_opcode_ : header_.opcode; }
    std::string_view frame_payload() const { return is_control() ? control_ : std::string_view(message_).substr(at_); }
    std::string_view payload() const { return is_control() ? control_ : message_; }  // of the whole message
    std::string describe() const { return ::describe(header_, opcode(), frame_payload()); }
    std::uint16_t code() const { return code_; }
    std::string_view reason() const { return reason_; }

    // Bytes kept of a message whose end has not come.
    std::size_t held() const { return message_.size(); }

private:
    bool is_control() const { return header_.opcode >= Opcode::close; }
    bool violation(CloseCode code, std::string_view reason);  // false, as are these at the first bad byte:
    bool take_header_byte(unsigned char byte);
    bool take_first_byte(unsigned char byte);
    bool take_second_byte(unsigned char byte);
    bool take_piece(std::string_view& input);
    void begin_frame();

    Role role_;
    bool in_frame_ = false;          // between the first byte of a frame and its last
    Header header_;                  // of this frame, or of the one that has just ended
    std::size_t header_size_ = 0;    // bytes that it will have
    std::size_t length_bytes_ = 0;   // of these the extended length: 0, 2 or 8
    std::uint64_t left_ = 0;         // payload bytes still to come
    Opcode message_opcode_ = Opcode::continuation;  // text or binary, or that no message has begun
    std::string message_;            // payloads of its fragments so far
    std::size_t at_ = 0;             // where in it this frame's payload begins
    Utf8 text_;                      // what it is checked with
    std::string control_;            // payload of a control frame, which may come between fragments
    Utf8 close_reason_;              // what its text is checked with
    std::uint16_t code_ = 0;         // of the violation
    std::string_view reason_;        // of the violation, a literal
};
