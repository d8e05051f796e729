// The opening handshake, RFC 6455 section 4.2: the client's request in, the server's response out.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

constexpr std::size_t kMaxRequestBytes = 8 << 10;  // with its blank line; past it: 431

struct Response {
    bool accepted = false;  // from here on the connection speaks WebSocket
    std::string text;       // complete, as it goes to the client
    std::string reason;     // of a refusal, to be printed: "400 Bad Request: no Host"
};

// The client's Sec-WebSocket-Key; nothing when there is not exactly one, or when it is not base64
// of 16 bytes. `request` ends with its blank line. RFC 6455 4.2.1. (PHP: getKey)
std::optional<std::string_view> get_key(std::string_view request);

// The Sec-WebSocket-Accept that proves to the client that its key was read. RFC 6455 4.2.2.
// (PHP: encry)
std::string accept_key(std::string_view key);

// The answer to a request that ends with its blank line: 101, or the first refusal that applies.
// (take_request() cuts a request that is too long. If it is no GET, this refuses it all the same.)
Response answer(std::string_view request);

// A complete HTTP response that turns the client away. `request` is what has come of its request,
// `status` is code and phrase, as in "400 Bad Request"; `why` becomes the body.
Response refusal(std::string_view request, std::string_view status, std::string_view why);

// Moves bytes from the front of `input`, whatever recv() returned, to the end of `request`, up to
// its blank line; what is left in `input` are frames. The response comes with the blank line, or
// before it, as soon as a byte or a line is wrong, or the request is too long.
std::optional<Response> take_request(std::string& request, std::string_view& input);
