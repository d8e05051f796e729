// What Chromium's console says when something is wrong at the other end. One table for two tests:
// one makes each mistake in earnest and asks a browser, the other compares the README's table with
// this one.
#pragma once

#include <string>
#include <vector>

struct Symptom {
    enum class End { keep, close, reset };

    std::string mistake;  // in words
    std::string console;  // what follows "failed: "; empty: the console says nothing
    int code = 0;         // of the page's close event; 0: there is none, the page waits
    std::string answer;   // the server's bytes; {accept} stands for the right Sec-WebSocket-Accept
    End end = End::keep;  // what becomes of the connection when they are sent
};

inline std::vector<Symptom> symptoms() {
    using enum Symptom::End;
    using namespace std::string_literals;
    const std::string status = "HTTP/1.1 101 Switching Protocols\r\n";
    const std::string upgrade = "Upgrade: websocket\r\n";
    const std::string connection = "Connection: Upgrade\r\n";
    const std::string accept = "Sec-WebSocket-Accept: {accept}\r\n";
    const std::string most = status + upgrade + connection;
    const std::string good = most + accept + "\r\n";
    const std::string hello = "\x81\x05hello";
    const std::string failed = "Error during WebSocket handshake: ";
    return {
        // --- The answer to the handshake --------------------------------------------------------
        {"It does not answer.", "", 0, ""},
        {"It leaves out the blank line behind its answer, and waits.", "", 0, most + accept},
        {"It leaves out the blank line and ends the connection.",
         failed + "net::ERR_CONNECTION_CLOSED", 1006, most + accept, close},
        {"It ends the connection before it answers.",
         "Connection closed before receiving a handshake response", 1006, "", close},
        {"It resets the connection before it answers.",
         failed + "net::ERR_CONNECTION_RESET", 1006, "", reset},
        {"It sends a message before the 101 (one handshake flag for all clients).",
         failed + "net::ERR_INVALID_HTTP_RESPONSE", 1006, hello + good},
        {"An ordinary web server answers, or the status is not 101.",
         failed + "Unexpected response code: 200", 1006,
         "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
        {"No `Upgrade` in the answer.", failed + "'Upgrade' header is missing", 1006,
         status + connection + accept + "\r\n"},
        {"No `Connection`.", failed + "'Connection' header is missing", 1006,
         status + upgrade + accept + "\r\n"},
        {"No `Sec-WebSocket-Accept`.",
         failed + "'Sec-WebSocket-Accept' header is missing", 1006, most + "\r\n"},
        {"A wrong Accept: SHA-1 as hex, the CR left on the key, another GUID.",
         failed + "Incorrect 'Sec-WebSocket-Accept' header value", 1006,
         most + "Sec-WebSocket-Accept: b37a4f2cc0624f1690f64606cf385945b2bec4ea\r\n\r\n"},
        {"A subprotocol that the page did not ask for.",
         failed + "Response must not include 'Sec-WebSocket-Protocol' header if not present in "
                  "request: chat",
         1006, most + accept + "Sec-WebSocket-Protocol: chat\r\n\r\n"},
        // --- Frames -----------------------------------------------------------------------------
        {"A NUL behind the 101 (the demo's), then a message of 3 bytes or more.",
         "A server must not mask any frames that it sends to the client.", 1006,
         good + "\0"s + "\x81\x03hi!"},
        {"A NUL behind the 101, then a message of 2 bytes.", "", 0,
         good + "\0"s + "\x81\x02hi"},
        {"It masks its frames.",
         "A server must not mask any frames that it sends to the client.", 1006,
         good + "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
        {"Text without a frame around it.", "Invalid frame header", 1006,
         good + "hello"},
        {"A reserved bit: compression that nobody has agreed to.",
         "One or more reserved bits are on: reserved1 = 1, reserved2 = 0, reserved3 = 0", 1006,
         good + "\xC1\x05hello"},
        {"An opcode that is none of the RFC's.", "Unrecognized frame opcode: 3", 1006,
         good + "\x83\x05hello"},
        {"Text that is not UTF-8: cut inside a character, each piece with FIN (the demo's pieces).",
         "Could not decode a text frame as UTF-8.", 1006,
         good + "\x81\x02\xE4\xB8" + "\x81\x01\xAD"},
        {"126 as a length in the 7 bits: the text's start is taken for the length.",
         "", 0, good + "\x81\x7E" + std::string(126, 'x')},
        {"127 as a length in the 7 bits.", "", 1006,
         good + "\x81\x7F" + std::string(127, 'x')},
        {"The length's bytes in the wrong order.", "", 0,
         good + "\x81\x7E\x7E" + "\0"s + std::string(126, 'x')},
        {"A short length in the long form.", "Invalid frame header", 1006,
         good + "\x81\x7E"s + "\0"s + "\x05hello"},
        {"A Ping of more than 125 bytes.", "Invalid frame header", 1006,
         good + "\x89\x7E"s + "\0"s + "\x7E" + std::string(126, 'x')},
        {"A continuation of no message.", "Received unexpected continuation frame.", 1006,
         good + "\x80\x05hello"},
        {"A new message before the last one's FIN.",
         "Received start of new message but previous message is unfinished.", 1006,
         good + "\x01\x05hello" + hello},
        {"A Close whose code is one byte.",
         "Received a broken close frame with an invalid size of 1 byte.", 1006, good + "\x88\x01x"},
        {"A Close with code 1006.",
         "Received a broken close frame containing a reserved status code.", 1006,
         good + "\x88\x02\x03\xEE"},
        {"A Close without a code.", "", 1005, good + "\x88"s + "\0"s, close},
        {"No Close: the server was killed, or the network has gone.", "", 1006, good, close},
    };
}

// Where the other end is ./server, or nobody at all.
struct ServerSymptom {
    std::string cause;    // in words
    std::string console;  // what follows "failed: "; empty: the console says nothing
    int code = 0;
    std::string printed;  // what ./server prints then, without the number of the client
};

namespace server_symptoms {

inline const ServerSymptom nobody{
    "Nobody listens there: ./server does not run, or has another port.",
    "Error in connection establishment: net::ERR_CONNECTION_REFUSED", 1006, ""};
inline const ServerSymptom tls{"The address begins with wss://, and ./server speaks no TLS.",
                               "Error in connection establishment: net::ERR_SSL_PROTOCOL_ERROR",
                               1006,
                               "refuse client N: 400 Bad Request: not HTTP: a control character"};
inline const ServerSymptom full{"All places are taken.",
                                "Error during WebSocket handshake: Unexpected response code: 503",
                                1006, "refuse client N: 503 Service Unavailable: no slot left"};
inline const ServerSymptom too_long{"The page sent a message of more than 16 MiB.", "", 1009,
                                    "disconnect client N: message over 16 MiB (1009)"};
inline const ServerSymptom ended{"./server was ended with Ctrl-C.", "", 1001, ""};
inline const ServerSymptom killed{"./server was killed.", "", 1006, ""};

inline std::vector<ServerSymptom> all() { return {nobody, tls, full, too_long, ended, killed}; }

}  // namespace server_symptoms
