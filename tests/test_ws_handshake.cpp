// The opening handshake, RFC 6455 section 4: what is accepted, with which five lines, and what is refused, with what.
#include "../ws_handshake.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "../base64.h"
#include "../sha1.h"

namespace {

using namespace std::string_literals;

// The request in the article that this server is a port of; it is RFC 6455 1.2's.
const std::string kArticle =
    "GET /chat HTTP/1.1\r\n"
    "Host: server.example.com\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Origin: http://example.com\r\n"
    "Sec-WebSocket-Protocol: chat, superchat\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "\r\n";

const std::string kFiveLines =
    "HTTP/1.1 101 Switching Protocols\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    "\r\n";

constexpr std::string_view kHost = "Host: server.example.com\r\n", kUpgrade = "Upgrade: websocket\r\n",
                           kConnection = "Connection: Upgrade\r\n",
                           kKey = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                           kVersion = "Sec-WebSocket-Version: 13\r\n";

// The answers that there are: how they begin, and what only this one has.
struct Row { std::string_view begin, has; };
constexpr Row kAccepted{"HTTP/1.1 101 Switching Protocols\r\n", ""},
    kBad{"HTTP/1.1 400 Bad Request\r\n", ""},
    kMethod{"HTTP/1.1 405 Method Not Allowed\r\n", "\r\nAllow: GET\r\n"},
    kOrdinary{"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n", "web/index.html"},
    kOtherVersion{"HTTP/1.1 426 Upgrade Required\r\n", "\r\nSec-WebSocket-Version: 13\r\n"},
    kTooLong{"HTTP/1.1 431 Request Header Fields Too Large\r\n", ""};

std::string hex(std::string_view bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes) text += {digits[static_cast<unsigned char>(c) >> 4], digits[c & 15]};
    return text;
}

// `text` with its one `from` replaced; a table whose `from` is not there is wrong itself.
std::string replaced(std::string text, std::string_view from, std::string_view to) {
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

// What became of some bytes: the response, none as long as none is known, and how many bytes were taken for it.
struct Outcome {
    std::optional<Response> response;
    std::size_t taken = 0;
    std::string text;  // of the request, as far as it was taken
};

Outcome fed(std::string_view bytes, const std::vector<std::size_t>& sizes) {
    Outcome result;
    for (std::size_t i = 0; result.taken < bytes.size() && !result.response; ++i) {
        const std::string_view next = bytes.substr(result.taken, sizes[i % sizes.size()]);
        const std::vector<char> piece(next.begin(), next.end());  // so that a sanitizer sees a read past it
        std::string_view input(piece.data(), piece.size());
        result.response = take_request(result.text, input);
        CHECK((result.response || input.empty()));
        result.taken += piece.size() - input.size();
    }
    return result;
}

// A refusal as RFC 9112 has it: complete, the connection ends, the body is one line that says why.
void check_refusal(const Response& response) {
    const std::size_t head = response.text.find("\r\n\r\n");
    REQUIRE(head != std::string::npos);
    const std::string body = response.text.substr(head + 4);
    const std::string status = response.text.substr(9, response.text.find('\r') - 9);
    CHECK(response.text.starts_with("HTTP/1.1 "));
    CHECK(response.text.find("\r\nContent-Length: " + std::to_string(body.size()) + "\r\n") < head);
    // RFC 9110 7.8: an Upgrade field is about this connection alone, and Connection says so.
    const bool upgrade = response.text.find("\r\nUpgrade: ") < head;
    CHECK(upgrade == status.starts_with("426"));
    const std::string connection = upgrade ? "Upgrade, close" : "close";
    CHECK(response.text.find("\r\nConnection: " + connection + "\r\n") < head);
    CHECK(response.text.find("\r\nContent-Type: text/plain") < head);
    CHECK(body.size() > 5);
    CHECK(body.find('\n') == body.size() - 1);
    CHECK(response.reason + '\n' == status + ": " + body);
    CHECK_FALSE(response.accepted);
}

// The outcome, after a look that it is the same however the bytes are cut, with what the server would do about it.
Outcome outcome(const std::string& bytes) {
    static std::minstd_rand random(6455);
    const Outcome whole = fed(bytes, {bytes.size()});
    for (std::size_t run = 0; run < 12; ++run) {
        std::vector<std::size_t> sizes{1};
        while (run > 0 && sizes.size() < 50) sizes.push_back(1 + random() % (run % 3 == 0 ? 3 : 400));
        const Outcome cut = fed(bytes, sizes);
        CHECK(cut.taken == whole.taken);
        CHECK(cut.text == whole.text);
        REQUIRE(cut.response.has_value() == whole.response.has_value());
        if (!whole.response) continue;
        CHECK(cut.response->accepted == whole.response->accepted);
        CHECK(cut.response->text == whole.response->text);
        CHECK(cut.response->reason == whole.response->reason);
    }
    if (whole.response && !whole.response->accepted) check_refusal(*whole.response);
    if (whole.response && whole.response->accepted) CHECK(whole.response->reason == "");
    return whole;
}

void check_answer(const std::string& bytes, const Row& row) {
    CAPTURE(bytes.substr(0, 600));
    const Outcome result = outcome(bytes);
    REQUIRE(result.response);
    CAPTURE(result.response->text);
    CHECK(result.response->accepted == (row.begin == kAccepted.begin));
    CHECK(result.response->text.starts_with(row.begin));
    CHECK(result.response->text.find(row.has) != std::string::npos);
    CHECK((result.response->text.find(kOrdinary.has) != std::string::npos) == (row.has == kOrdinary.has));
    if (row.begin != kAccepted.begin) return;
    CHECK(result.response->text == kFiveLines);
    CHECK(result.text == bytes);
}

// The article's request with `from` replaced by each of these.
void vary(std::string_view from, const Row& row, const std::vector<std::string_view>& to) {
    for (const std::string_view variant : to) check_answer(replaced(kArticle, from, variant), row);
}

// The article's request with a field more, so long that the whole has `size` bytes.
std::string request_of(std::size_t size, std::string_view request = kArticle) {
    const std::string field = "X: " + std::string(size - request.size() - 5, 'x') + "\r\n";
    return replaced(std::string(request), "\r\n", "\r\n" + field);
}

}  // namespace

TEST_CASE("RFC 6455 1.3: the ladder from the key to the accept value, rung by rung") {
    const std::string guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const std::string digest = sha1("dGhlIHNhbXBsZSBub25jZQ==" + guid);  // of the text: the key is not decoded first
    CHECK(hex(digest) == "b37a4f2cc0624f1690f64606cf385945b2bec4ea");
    CHECK(base64_encode(digest) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");      // of the 20 bytes, not of their hex
    CHECK(get_key(kArticle) == "dGhlIHNhbXBsZSBub25jZQ==");
    CHECK(accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    // printf %s KEY258EAFA5-... | openssl sha1 -binary | base64
    CHECK(accept_key("x3JJHMbDL1EzLkh9GBhXDw==") == "HSmrc0sMlYUkAGmm5OPpG2HaGWk=");
    CHECK(accept_key("AQIDBAUGBwgJCgsMDQ4PEA==") == "C/0nmHhBztSRGR1CwL6Tf4ZjwpY=");
    CHECK(accept_key("AAAAAAAAAAAAAAAAAAAAAA==") == "ICX+Yqv66kxgM0FcWaLWlFLwTAI=");
    CHECK(accept_key("/////////////////////w==") == "XXpj4jYzLM2yUE0C7TIgMwTQh2g=");
}

TEST_CASE("RFC 6455 4.2.2: the article's request gets exactly five lines, no chr(0), no subprotocol, no extension") {
    check_answer(kArticle, kAccepted);
    const std::string offers = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    check_answer(replaced(kArticle, "\r\n\r\n", "\r\n" + offers), kAccepted);
    CHECK(answer(kArticle).text == kFiveLines);
}

TEST_CASE("RFC 6455 4.2.1: what may be different about a request that is accepted") {
    vary("/chat", kAccepted, {"/", "*", "?", "/?room=1&x=%20#frag", "ws://localhost:80/", "/\xe6\x9d\x8e",
                              "\x80\xff\"<>"});
    vary("Host: server.example.com", kAccepted, {"HOST:a", "host:\t[::1]:4000 ", "hOsT:", "Host: 127.0.0.1:4000"});
    vary("Upgrade: websocket", kAccepted,
         {"upgrade: WebSocket", "UPGRADE:\t WEBSOCKET \t", "Upgrade:websocket,,foo", "Upgrade: h2c, websocket",
          "Upgrade: h2c\r\nUpgrade: websocket", "Upgrade:\r\nX: y\r\nuPGRADE: , websocket ,"});
    vary("Connection: Upgrade", kAccepted,
         {"Connection: keep-alive, Upgrade", "connection:upgrade", "Connection: UPGRADE\t,\tkeep-alive",
          "Connection: keep-alive\r\nX: y\r\nCONNECTION: Upgrade", "Connection: , , Upgrade"});
    vary("Sec-WebSocket-Key: ", kAccepted, {"SEC-WEBSOCKET-KEY:", "sec-websocket-key: \t ", "Sec-Websocket-Key:\t"});
    vary("25jZQ==", kAccepted, {"25jZQ== ", "25jZQ==\t \t"});
    vary("Sec-WebSocket-Version: 13", kAccepted, {"sec-websocket-version:13 ", "SEC-WEBSOCKET-VERSION:\t 13\t"});
    vary("Origin: http://example.com\r\n", kAccepted, {"", "Origin: null\r\n", "Origin:\r\n", "X:y\r\nX:y\r\n"});
    vary("Origin: http://example.com", kAccepted, {"X: \xe6\x9d\x8e\x80\xff", "X: a:b::\t\"<>\\",
                                                   "!#$%&'*+-.^_`|~09AZaz:"});
    vary("Sec-WebSocket-Protocol: chat, superchat\r\n", kAccepted, {"", "Sec-WebSocket-Protocol: \r\n"});
}

TEST_CASE("RFC 9112: not HTTP, a malformed line, HTTP/1.0, missing or double Host: 400") {
    vary("HTTP/1.1", kBad, {"HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1", "HTTP/1.", "HTTP/1.1 ", "HTTP/1.1x",
                            "http/1.1", "HTTP/11.1", "HTTP/1.11", "HTTPS/1.1", "/1.1", "", " HTTP/1.1",
                            "\tHTTP/1.1"});
    vary("GET /chat HTTP/1.1", kBad, {"GET HTTP/1.1", "GET", "GET ", "", " ", "/chat HTTP/1.1", "GET /chat"});
    vary("GET ", kBad, {"", " ", "GET  ", "GET\t", " GET ", "G(T ", "GET, ", "G\xc3\x89T "});
    vary("/chat", kBad, {"/a b", "/ch\tat", "", " "});
    vary("Host: server.example.com\r\n", kBad, {"", "Hos: a\r\n", "Host: a\r\nHost: b\r\n",
                                                "Host: a\r\nhost: a\r\n"});
    vary("server.example.com", kBad, {"a b", "a\tb", "a/b", "user@a", "a?b", "a#b"});
    vary("Origin: http:", kBad, {"Origin : http:", "Origin\t:", " Origin:", "\tOrigin:", ":", "Origin http",
                                 ": http:", "X Y:", "Host :", "(x):", ":\r\nX:", "X Y:\r\nX:", "(x):\r\nX:",
                                 "Ori gin:", "Ori(gin:", "\xe6\x9d\x8e:", "\"Origin\":", "Origin: \r\n http:",
                                 "Origin:\r\n\tb:"});
}

TEST_CASE("RFC 9112: what no request can have is refused with the byte that it is, not at the end") {
    struct Case { std::string bytes; std::size_t at; };
    const std::string get = "GET / HTTP/1.1\r\n";  // 16 bytes
    for (const Case& c : {
             Case{"\x16\x03\x01\x02\x00\x01\x00\x01"s, 0}, {"\0"s, 0}, {"GET /\0 HTTP/1.1\r\n"s, 5},
             {get + "A: \0\r\n"s, 19}, {"GET /\x01 ", 5}, {"GET /\x7f ", 5}, {"GET /\x1b[31m", 5},
             {get + "A: \b\r\n", 19}, {get + "A:\v\r\n", 18}, {"GET / HTTP/1.1\n", 14}, {"\n", 0}, {get + "\n", 16},
             {get + "Host: a\n\n", 23}, {"GET / HTTP/1.1\r ", 15}, {"\rGET", 0}, {get + "A: b\r\r\n", 21},
             {get + "A: b\rc\r\n", 21}, {get + "A: \rb", 20}, {get + "\rA", 17}, {"hello\r\n", 6},
             {"GET / HTTP/1.0\r\nHost", 15}, {"SSH-2.0-OpenSSH_9.2\r\n", 20}, {"\x81\x80\r\n", 0}, {" GET", 0},
             {get + " folded: x\r\n", 27}, {get + "no colon\r\nHost", 25}, {get + ": x\r\n\r\n", 20}}) {
        check_answer(c.bytes, kBad);
        check_answer(c.bytes.substr(0, c.at + 1), kBad);
        CHECK_FALSE(outcome(c.bytes.substr(0, c.at)).response);  // cut short by that byte, all is still well
    }
}

TEST_CASE("RFC 9110: methods other than GET: 405; an ordinary GET: 426 with the way to the page") {
    vary("GET ", kMethod, {"POST ", "OPTIONS ", "PUT ", "get ", "GETT ", "GE ", "!#$%&'*+-.^_`|~ "});
    check_answer("GET / HTTP/1.1\r\nHost: localhost:4000\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n", kOrdinary);
    vary("Upgrade: websocket\r\n", kOrdinary, {"", "Upgrade: h2c\r\n", "Upgrade:\r\n", "X-Upgrade: websocket\r\n"});
    vary("websocket", kOrdinary, {"websockets", "web socket", "webs", "\"websocket\"", "websocket websocket"});
    vary("Connection: Upgrade\r\n", kOrdinary,
         {"", "Connection: keep-alive\r\n", "Connection: Upgraded\r\n", "Connection: keep-alive Upgrade\r\n",
          "Connection: close; Upgrade\r\n", "Connections: Upgrade\r\n", "Connection: a\r\nConnection:\r\n"});
}

TEST_CASE("RFC 9110 9.3.2: the response to HEAD is the same without its body, whatever is wrong") {
    struct Case { std::string get, head; };
    const std::string post = replaced(kArticle, "GET", "POST");
    const std::string head = replaced(kArticle, "GET", "HEAD");
    for (const Case& c : {Case{post, head},
                          {replaced(post, kHost, ""), replaced(head, kHost, "")},
                          {replaced(post, "1.1", "1.0"), replaced(head, "1.1", "1.0")},
                          {replaced(post, "Origin:", "Ori gin:"), replaced(head, "Origin:", "Ori gin:")},
                          {request_of(8193, post), request_of(8193, head)}}) {
        const auto with_body = outcome(c.get).response;
        std::string text = c.head;
        std::string request;
        std::string_view input = text;
        const auto without = take_request(request, input);
        REQUIRE(with_body);
        REQUIRE(without);
        CHECK(without->text == with_body->text.substr(0, with_body->text.find("\r\n\r\n") + 4));
        CHECK(without->reason == with_body->reason);
        CHECK_FALSE(without->accepted);
    }
}

TEST_CASE("RFC 6455 4.4: versions other than 13: 426 with the one that is spoken") {
    vary("Sec-WebSocket-Version: 13\r\n", kOtherVersion, {"", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n",
                                                            "Sec-WebSocket-Version: \r\n", "Version: 13\r\n"});
    vary(": 13", kOtherVersion, {": 8", ": 7", ": 0", ": 1", ": 3", ": 12", ": 14", ": 130", ": 113", ": 013",
                                 ": 13.0", ": +13", ": 1 3", ": x"});
}

TEST_CASE("RFC 6455 4.2.1: a key that is missing, double, or not base64 of 16 bytes: 400") {
    vary("dGhlIHNhbXBsZSBub25jZQ==", kBad,
         {"", "=", "Zm9v", "dGhlIHNhbXBsZSBub25j", "AQIDBAUGBwgJCgsMDQ4P", "AQIDBAUGBwgJCgsMDQ4PEBE=",  // 0 to 17 bytes
          "AQIDBAUGBwgJCgsMDQ4PEBES", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ===",
          "dGhlIHNhbXBsZSBub25jZQ==,", "dGhlIHNhbXBs ZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ!==",
          "____________________-w==", "dGhlIHNhbXBsZSBub25j\xe6\x9d==",
          "dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZSBub25jZf==",  // pad bits that are not zero
          "dGhlIHNhbXBsZSBub25jZQ==, AAAAAAAAAAAAAAAAAAAAAA==", "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key:",
          "dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="});
    vary(kKey, kBad, {"", "Sec-WebSocket-Keys: dGhlIHNhbXBsZSBub25jZQ==\r\n"});
    CHECK(get_key(replaced(kArticle, kKey, "")) == std::nullopt);
    CHECK(get_key(replaced(kArticle, kKey, std::string(kKey) + std::string(kKey))) == std::nullopt);
    CHECK(get_key(replaced(kArticle, "ZQ==", "ZR==")) == std::nullopt);
}

TEST_CASE("a request that is wrong in several ways gets the answer of the first check") {
    const auto without = [](std::string text, std::initializer_list<std::string_view> lines) {
        for (const std::string_view line : lines) text = replaced(text, line, "");
        return text;
    };
    const std::string post = replaced(kArticle, "GET", "POST");
    check_answer(replaced(post, "1.1", "1.0"), kBad);
    check_answer(without(post, {kHost}), kBad);
    check_answer(replaced(post, "Origin:", "Ori gin:"), kBad);
    check_answer(without(kArticle, {kHost, kUpgrade}), kBad);
    check_answer(without(post, {kUpgrade, kConnection, kVersion, kKey}), kMethod);
    check_answer(without(kArticle, {kUpgrade, kVersion, kKey}), kOrdinary);
    check_answer(without(kArticle, {kConnection, kVersion, kKey}), kOrdinary);
    check_answer(without(kArticle, {kVersion, kKey}), kOtherVersion);
    check_answer(without(kArticle, {kKey}), kBad);
    check_answer(request_of(8193, post), kMethod);
    check_answer(request_of(8193, replaced(kArticle, "1.1", "1.0")), kBad);
    check_answer(request_of(9000, replaced(kArticle, kHost, "Ho st: a\r\n")), kTooLong);  // it stands behind the 8 KiB
    check_answer(replaced(request_of(9000), "X:", "X"), kTooLong);
    check_answer(request_of(8192, without(kArticle, {kKey})), kBad);
}

TEST_CASE("a header block of 8192 bytes is read, one of 8193 is not") {
    check_answer(request_of(8191), kAccepted);
    check_answer(request_of(8192), kAccepted);
    check_answer(request_of(8193), kTooLong);
    check_answer(request_of(100'000), kTooLong);
    check_answer(replaced(kArticle, "/chat", std::string(8192 - kArticle.size() + 5, '/')), kAccepted);
    check_answer(replaced(kArticle, "/chat", std::string(8192 - kArticle.size() + 6, '/')), kTooLong);
    CHECK_FALSE(outcome(request_of(9000).substr(0, 8192)).response);
    check_answer(request_of(9000).substr(0, 8193), kTooLong);  // as soon as there is one byte more
    const std::string get = "GET /";
    CHECK_FALSE(outcome(get + std::string(8187, 'x')).response);
    check_answer(get + std::string(8188, 'x'), kTooLong);
    check_answer(std::string(8193, 'x'), kBad);  // no HTTP at all, whatever its length
}

TEST_CASE("frames glued to the request stay in the input, a request cut short waits") {
    const std::string hi = "\x81\x82\x01\x02\x03\x04\x49\x6b";
    for (const std::string& frames : {hi, hi + hi, "\r\n"s, "\n"s, "\0"s, kArticle, std::string(9000, '\x81')}) {
        for (const std::string& request : {kArticle, request_of(8192)}) {
            const Outcome result = outcome(request + frames);
            REQUIRE(result.response);
            CHECK(result.response->text == kFiveLines);
            CHECK(result.taken == request.size());
            CHECK(result.text == request);
        }
    }
    for (std::size_t size = 0; size < kArticle.size(); ++size) {
        const Outcome result = outcome(kArticle.substr(0, size));
        CHECK_FALSE(result.response);
        CHECK(result.taken == size);
    }
}

TEST_CASE("RFC 9110: a refusal is a complete HTTP response") {
    for (const std::string_view status : {"400 Bad Request", "405 Method Not Allowed", "408 Request Timeout",
                                          "426 Upgrade Required", "503 Service Unavailable"}) {
        const Response response = refusal("GET / HT", status, "the reason");
        check_refusal(response);
        CHECK(response.text.starts_with(std::string("HTTP/1.1 ").append(status).append("\r\n")));
        CHECK(response.text.ends_with("\r\n\r\nthe reason\n"));
        CHECK(response.reason == std::string(status).append(": the reason"));
    }
}
