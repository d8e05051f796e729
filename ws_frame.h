// WebSocket frames, RFC 6455 section 5: bytes in, messages out; a message in, bytes out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

constexpr std::uint64_t kMaxMessageBytes = 16 << 20;  // after reassembly; past it: 1009
constexpr std::size_t kMaxHeaderBytes = 10;           // of a frame that is not masked

// RFC 6455 11.8. From 8 on they are control frames: short, never fragmented, and allowed between
// the fragments of a message.
enum class Opcode : std::uint8_t { continuation, text, binary, close = 8, ping, pong };

// Codes of a Close frame, RFC 6455 7.4.1. kNoCode stands for a Close without one, and is never
// sent.
constexpr std::uint16_t kGoingAway = 1001;
constexpr std::uint16_t kProtocolError = 1002;
constexpr std::uint16_t kNoCode = 1005;
constexpr std::uint16_t kNotUtf8 = 1007;
constexpr std::uint16_t kTooBig = 1009;

using MaskingKey = std::array<unsigned char, 4>;

// RFC 6455 5.2: what stands in front of a payload. While a header is being received, `length`
// and `key` have no value until all their bytes have come.
struct Header {
    bool fin = true;
    Opcode opcode = Opcode::continuation;
    std::optional<std::uint64_t> length{};  // of the payload, in bytes
    std::optional<MaskingKey> key{};        // when the payload is masked
    std::string bytes{};                    // the header as it is on the wire, 2 to 14 bytes
};

// The header of a frame to be sent. A server passes no key, a client must. RFC 6455 5.2.
Header make_header(Opcode opcode, std::uint64_t length, bool fin = true,
                   std::optional<MaskingKey> key = {});

// A whole frame, header and payload. (PHP: frame)
std::string encode(Opcode opcode, std::string_view payload, bool fin = true,
                   std::optional<MaskingKey> key = {});

// The payload of a Close frame: two bytes of code, or nothing for kNoCode. close_code() reads it.
std::string close_payload(std::uint16_t code);
std::uint16_t close_code(std::string_view payload);

// RFC 6455 5.3: masks a part of a payload in place, or unmasks it, which is the same. `offset` says
// how many bytes of the payload come before that part.
void apply_mask(std::span<char> bytes, const MaskingKey& key, std::uint64_t offset);

// "text", "binary", "close", ...; nothing for the reserved opcodes.
std::string_view opcode_name(Opcode opcode);

// Any bytes as printable ASCII: \" \\ \n \r \t, and \x9d for what cannot be printed.
std::string escape(std::string_view bytes);

// A frame in one line, in the order of RFC 6455's figure:
//     81 02 | FIN text, 2 bytes: "Hi"
// `kind` is its opcode, for a continuation that of its message. `payload` is what has come of it.
std::string describe(const Header& header, Opcode kind, std::string_view payload);

// RFC 3629: says whether bytes are UTF-8. They come in pieces, which may end inside a character.
class Utf8 {
public:
    // False when one of these bytes cannot stand where it stands in any UTF-8 text.
    bool feed(std::string_view bytes);
    // Whether the bytes so far end with a whole character.
    bool complete() const;

private:
    bool feed_block(std::string_view block);

    std::array<unsigned char, 3> last_{};  // the last three bytes: they say what may come next
};

// RFC 6455 5.4 to 5.6 and 7.4: is fed with whatever recv() returned, and hands out frames and
// messages. (PHP: decode)
class Decoder {
public:
    enum class Role { server, client };  // a server reads masked frames, a client unmasked ones

    // need_more: the input is used up. fragment: a frame has ended, its message has not. message: a
    // text or binary message has ended. control: a Close, Ping or Pong has ended. violation: the
    // protocol was broken, see code() and reason(), and nothing more is taken.
    enum class Event { need_more, fragment, message, control, violation };

    explicit Decoder(Role role = Role::server) : role_(role) {}

    // Takes bytes off the front of `input`, up to the end of the next frame. A violation is found
    // as soon as the bytes that have come show it.
    Event feed(std::string_view& input);

    // The frame that has just ended, or that broke the protocol; until the next feed().
    const Header& header() const { return header_; }
    Opcode opcode() const;                   // for a continuation that of its message
    std::string_view frame_payload() const;  // of this frame
    std::string_view payload() const { return is_control() ? control_ : message_; }
    std::string describe() const { return ::describe(header_, opcode(), frame_payload()); }
    std::uint16_t code() const { return code_; }         // of the violation
    std::string_view reason() const { return reason_; }  // of the violation, a literal

    // Of a message that has not ended. pending(): bytes of the payload that have come, and some for
    // the header with which it will be sent. held(): bytes of memory that it has taken.
    std::size_t pending() const { return inside_message() ? kMaxHeaderBytes + message_.size() : 0; }
    std::size_t held() const { return message_.capacity(); }

private:
    bool inside_message() const { return message_opcode_ != Opcode::continuation; }
    bool is_control() const { return header_.opcode >= Opcode::close; }
    void begin_frame();

    // These return false when the protocol was broken.
    bool broken(std::string_view reason, std::uint16_t code = kProtocolError);
    bool take_header_byte(unsigned char byte);
    bool check_first_byte(unsigned char byte);
    bool check_second_byte(unsigned char byte);
    bool check_length();
    bool take_piece(std::string_view& input);
    bool check_close(std::size_t start);
    bool check_end();

    void take_key();
    void make_room(std::size_t bytes);

    Role role_;
    Header header_;                  // of this frame, as far as it has come
    std::size_t length_bytes_ = 0;   // of the extended length in the header: 0, 2 or 8
    std::size_t header_bytes_ = 0;   // of the whole header; its second byte tells it
    std::size_t left_ = 0;           // bytes of the payload that have not come
    Opcode message_opcode_ = Opcode::continuation;  // text or binary; else no message has begun
    std::string message_;            // the payloads of its frames so far
    std::size_t frame_start_ = 0;    // where in it the payload of this frame begins
    Utf8 text_;                      // checks message_, when it is text
    std::string control_;            // the payload of a control frame
    Utf8 close_reason_;              // checks the text in a Close
    std::uint16_t code_ = 0;
    std::string_view reason_;
};
