#include "ws_handshake.h"

#include <strings.h>

#include <algorithm>
#include <vector>

#include "base64.h"
#include "sha1.h"

constexpr std::string_view kGuid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";  // RFC 6455 1.3

// RFC 9110 15.5
constexpr std::string_view kBadRequest = "400 Bad Request";
constexpr std::string_view kNotAllowed = "405 Method Not Allowed";
constexpr std::string_view kUpgradeRequired = "426 Upgrade Required";
constexpr std::string_view kTooLarge = "431 Request Header Fields Too Large";  // RFC 6585 5

// --- parts of a request --------------------------------------------------------------------------

// RFC 9110 5.6.2: what methods and field names are made of.
static bool is_token(std::string_view text) {
    constexpr std::string_view allowed =
        "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    return !text.empty() && text.find_first_not_of(allowed) == text.npos;
}

static bool is_control(char c) { return (c >= '\0' && c < ' ' && c != '\t') || c == '\x7F'; }

static bool same_ignoring_case(std::string_view a, std::string_view b) {
    return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

static std::string_view trim(std::string_view text) {
    const std::size_t first = text.find_first_not_of(" \t");
    if (first == text.npos) return "";
    const std::size_t last = text.find_last_not_of(" \t");
    return text.substr(first, last + 1 - first);
}

// Takes the next part off the front of `text`, up to `separator`, which goes too.
static std::string_view take_until(std::string_view& text, std::string_view separator) {
    const std::string_view part = text.substr(0, text.find(separator));
    text.remove_prefix(std::min(text.size(), part.size() + separator.size()));
    return part;
}

// The values of all header fields of that name, in order.
static std::vector<std::string_view> values_of(std::string_view request, std::string_view name) {
    std::vector<std::string_view> values;
    take_until(request, "\r\n");
    while (!request.empty()) {
        std::string_view line = take_until(request, "\r\n");
        const std::string_view field_name = take_until(line, ":");
        if (same_ignoring_case(field_name, name)) values.push_back(trim(line));
    }
    return values;
}

// Whether a field that is a comma-separated list, perhaps spread over several lines, has this
// token.
static bool has_token(std::string_view request, std::string_view name, std::string_view token) {
    for (std::string_view list : values_of(request, name)) {
        while (!list.empty()) {
            const std::string_view part = trim(take_until(list, ","));
            if (same_ignoring_case(part, token)) return true;
        }
    }
    return false;
}

// --- is it HTTP? Each returns what is wrong, or nothing ------------------------------------------

// RFC 9112 3: "GET /chat HTTP/1.1". RFC 9110 2.5: 1.2 to 1.9 are to be understood as 1.1.
static std::string_view check_request_line(std::string_view line) {
    const std::string_view method = take_until(line, " ");
    const std::string_view target = take_until(line, " ");
    const std::string_view version = line;
    if (!is_token(method)) return "malformed request line";
    if (target.empty() || target.find('\t') != target.npos) return "malformed request line";
    if (!version.starts_with("HTTP/")) return "malformed request line";
    const bool http1 = version.size() == 8 && version.starts_with("HTTP/1.");
    const bool spoken = http1 && version[7] >= '1' && version[7] <= '9';
    return spoken ? "" : "not HTTP/1.1";
}

// RFC 9112 5: a name, and directly behind it a colon.
static std::string_view check_field(std::string_view line) {
    const std::size_t colon = line.find(':');
    const bool good = colon != line.npos && is_token(line.substr(0, colon));
    return good ? "" : "malformed header field";
}

// The line that has just ended is the request line, a field, or the blank line.
static std::string_view check_last_line(std::string_view request) {
    request.remove_suffix(2);  // its CR LF
    const std::size_t line_feed = request.rfind('\n');
    if (line_feed == request.npos) return check_request_line(request);
    const std::string_view line = request.substr(line_feed + 1);
    return line.empty() ? "" : check_field(line);
}

// RFC 9112 2.2: lines end in CR LF, and no other control character but the tab is in a request. The
// first byte of TLS (wss://) is such a character, 0x16: a client that speaks TLS is refused at
// once.
static std::string_view check_last_byte(std::string_view request) {
    const char c = request.back();
    const std::string_view before = request.substr(0, request.size() - 1);
    const bool after_cr = before.ends_with('\r');
    if (c == '\n' && !after_cr) return "a line ends in LF, not CRLF";
    if (c == '\n') return check_last_line(request);
    const bool ends_a_line = c == '\r' && !before.empty();
    const bool wrong = is_control(c) && !ends_a_line;
    if (wrong || after_cr) return "not HTTP: a control character";
    if (before.empty() && !is_token(request)) return "not HTTP: no method";
    return "";
}

// --- the answer ----------------------------------------------------------------------------------

std::optional<std::string_view> get_key(std::string_view request) {
    const auto keys = values_of(request, "Sec-WebSocket-Key");
    if (keys.size() != 1) return std::nullopt;
    const std::optional<std::string> nonce = base64_decode(keys[0]);
    if (!nonce || nonce->size() != 16) return std::nullopt;
    return keys[0];
}

std::string accept_key(std::string_view key) {
    return base64_encode(sha1(std::string(key).append(kGuid)));
}

Response answer(std::string_view request) {
    const auto hosts = values_of(request, "Host");
    if (hosts.empty()) return refusal(request, kBadRequest, "no Host");
    if (hosts.size() > 1) return refusal(request, kBadRequest, "more than one Host");
    const bool is_host = hosts[0].find_first_of(" \t/?#@") == hosts[0].npos;
    if (!is_host) return refusal(request, kBadRequest, "malformed Host");
    const bool get = request.starts_with("GET ");
    if (!get) return refusal(request, kNotAllowed, "a WebSocket is opened with GET");
    const bool upgrade = has_token(request, "Upgrade", "websocket") &&
                         has_token(request, "Connection", "Upgrade");
    constexpr std::string_view hint = "to chat, open web/index.html in a browser";
    if (!upgrade) return refusal(request, kUpgradeRequired, hint);
    const auto versions = values_of(request, "Sec-WebSocket-Version");
    const bool spoken = versions.size() == 1 && versions[0] == "13";
    if (!spoken) return refusal(request, kUpgradeRequired, "Sec-WebSocket-Version is not 13");
    const auto keys = values_of(request, "Sec-WebSocket-Key");
    if (keys.empty()) return refusal(request, kBadRequest, "no Sec-WebSocket-Key");
    if (keys.size() > 1) return refusal(request, kBadRequest, "more than one Sec-WebSocket-Key");
    const auto key = get_key(request);
    if (!key) return refusal(request, kBadRequest, "Sec-WebSocket-Key is not base64 of 16 bytes");
    const std::string text =
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Accept: " + accept_key(*key) + "\r\n\r\n";
    return {.accepted = true, .text = text, .reason = ""};
}

Response refusal(std::string_view request, std::string_view status, std::string_view why) {
    const std::string body = std::string(why) + "\n";
    std::string text = "HTTP/1.1 " + std::string(status) + "\r\n";
    if (status == kNotAllowed) text += "Allow: GET\r\n";
    const bool upgrade = status == kUpgradeRequired;  // RFC 9110 7.8: Connection lists Upgrade, too
    if (upgrade) text += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    text += "Content-Type: text/plain; charset=utf-8\r\n";
    text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    text += upgrade ? "Connection: Upgrade, close\r\n" : "Connection: close\r\n";
    text += "\r\n";
    if (!request.starts_with("HEAD ")) text += body;  // RFC 9110 9.3.2: HEAD wants no body
    const std::string reason = std::string(status) + ": " + std::string(why);
    return {.accepted = false, .text = text, .reason = reason};
}

std::optional<Response> take_request(std::string& request, std::string_view& input) {
    while (!input.empty()) {
        const bool full = request.size() == kMaxRequestBytes;
        const bool get = request.starts_with("GET ");
        if (full && get) return refusal(request, kTooLarge, "over 8 KiB of header");
        if (full) return answer(request);  // it is no GET, so this refuses it
        request += input.front();
        input.remove_prefix(1);
        const std::string_view wrong = check_last_byte(request);
        if (!wrong.empty()) return refusal(request, kBadRequest, wrong);
        if (request.ends_with("\r\n\r\n")) return answer(request);
    }
    return std::nullopt;
}
