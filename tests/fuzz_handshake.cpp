// libFuzzer target: however the bytes of a request are cut into pieces, the answer is the same and so is what is left
// for the frames; who is accepted gets the accept value of the key that was sent. The first five bytes decide about the
// cuts, and whether the rest is the whole input or replaces a part of a good request.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "../base64.h"
#include "../ws_handshake.h"

namespace {

using Random = std::minstd_rand;

const std::string kGood =
    "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX: \r\nSec-WebSocket-Version: 13\r\n\r\n";

void require(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "broken: %s\n", what);
    std::abort();
}

struct Outcome {
    std::optional<Response> response;
    std::string request;
    std::size_t taken = 0;
};

// Feeds pieces of 1 to `largest` bytes until there is an answer.
Outcome fed(std::string_view bytes, std::size_t largest, Random random) {
    Outcome outcome;
    while (outcome.taken < bytes.size() && !outcome.response) {
        const std::string_view next = bytes.substr(outcome.taken, 1 + random() % largest);
        const std::vector<char> piece(next.begin(), next.end());  // the sanitizer sees a read past it
        std::string_view input(piece.data(), piece.size());
        outcome.response = take_request(outcome.request, input);
        outcome.taken += piece.size() - input.size();
        require(outcome.response || input.empty(), "without an answer all input is taken");
    }
    return outcome;
}

void check_accepted(const Outcome& outcome) {
    const std::string& request = outcome.request;
    require(outcome.taken == request.size(), "what is behind the blank line is left");
    require(request.find("\r\n\r\n") == request.size() - 4, "a request ends with its first blank line");
    std::string small = request;
    for (char& c : small) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
    for (const char* name : {"\r\nhost:", "\r\nsec-websocket-key:"}) {
        const std::size_t at = small.find(name);
        require(at != small.npos && at == small.rfind(name), "who is accepted has sent one Host and one key");
    }
    const auto key = get_key(request);
    require(key.has_value(), "the key is found");
    const auto nonce = base64_decode(*key);
    require(nonce && nonce->size() == 16 && base64_encode(*nonce) == *key, "it is base64 of 16 bytes");
    const std::string start = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    const std::string accept = "Sec-WebSocket-Accept: " + accept_key(*key) + "\r\n\r\n";
    require(outcome.response->text == start + accept, "the answer is the five lines");
    require(answer(request).text == outcome.response->text, "answer() says the same");
    require(outcome.response->reason.empty(), "and there is nothing to complain about");
}

void check_refused(const Response& response, bool is_head) {
    const std::size_t head = response.text.find("\r\n\r\n");
    require(response.text.starts_with("HTTP/1.1 4") && head != std::string::npos, "a refusal is a response");
    const std::string body = response.text.substr(head + 4);
    if (is_head) {
        require(body.empty(), "which for HEAD ends with its header");
    } else {
        const std::size_t length = response.text.find("\r\nContent-Length: " + std::to_string(body.size()) + "\r\n");
        require(length < head, "which has its length");
        require(body.find('\n') == body.size() - 1, "and says in one line why");
    }
    require(response.text.substr(9, 3) == response.reason.substr(0, 3), "as does the log");
    const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
    require(std::ranges::all_of(response.reason, printable), "of which nothing hurts a terminal");
}

void check(std::string_view bytes, Random random) {
    const Outcome slow = fed(bytes, 1, random);
    for (const std::size_t largest : {std::size_t{3}, std::size_t{500}, bytes.size() + 1}) {
        const Outcome cut = fed(bytes, largest, random);
        require(cut.taken == slow.taken && cut.request == slow.request, "the same bytes are taken, whatever the cuts");
        require(cut.response.has_value() == slow.response.has_value(), "the same answer, or none");
        if (!cut.response) continue;
        require(cut.response->text == slow.response->text, "the same text");
        require(cut.response->reason == slow.response->reason, "the same in the log");
        require(cut.response->accepted == slow.response->accepted, "the same for the connection");
    }
    require(slow.request.size() <= kMaxRequestBytes, "no more is kept than the limit");
    require(bytes.starts_with(slow.request), "what is kept is what came");
    if (!slow.response) require(slow.request.find("\r\n\r\n") == std::string::npos, "a whole request has an answer");
    else if (slow.response->accepted) check_accepted(slow);
    else check_refused(*slow.response, slow.request.starts_with("HEAD "));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 5) return 0;
    const std::string bytes(data + 5, data + size);
    const Random random(1u + data[0] + 256u * data[1]);
    std::string request = bytes;
    if (data[0] % 4 != 0) {
        request = kGood;
        request.replace(data[1] % kGood.size(), data[2] % 64, bytes);
    }
    // Some of its lines twice.
    if (data[0] % 16 == 1) request.insert(data[1] % request.size(), kGood, data[3] % kGood.size(), data[4]);
    // A field that brings the block to about 8 KiB, where the limit is.
    const std::size_t field = request.find("X: ");
    if (data[0] % 16 == 3 && field < 8000) request.insert(field + 3, 7800 + data[3] + data[4], 'x');
    check(request, random);

    const auto decoded = base64_decode(bytes);
    require(base64_decode(base64_encode(bytes)) == bytes, "base64: decoding undoes encoding");
    require(!decoded || base64_encode(*decoded) == bytes, "base64: bytes have one text only");
    return 0;
}
