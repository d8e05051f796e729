#include "ws_handshake.h"

#include <algorithm>
#include <vector>

#include "base64.h"
#include "sha1.h"

constexpr std::string_view kGuid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";  // RFC 6455 1.3

// RFC 9110 5.6.2: what methods and field names are made of. (isalnum() would ask the locale.)
static bool is_token(std::string_view text) {
    constexpr char allowed[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    return !text.empty() && text.find_first_not_of(allowed) == text.npos;
}

static bool same_ignoring_case(std::string_view a, std::string_view b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    return std::ranges::equal(a, b, {}, lower, lower);
}

static std::string_view trim(std::string_view text) {
    const std::size_t first = std::min(text.find_first_not_of(" \t"), text.size());
    return text.substr(first, text.find_last_not_of(" \t") + 1 - first);
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
        if (same_ignoring_case(take_until(line, ":"), name)) values.push_back(trim(line));
    }
    return values;
}

// Whether a field that is a comma-separated list, perhaps spread over several lines, has this token.
static bool has_token(std::string_view request, std::string_view name, std::string_view token) {
    bool found = false;
    for (std::string_view list : values_of(request, name)) {
        while (!list.empty()) found |= same_ignoring_case(trim(take_until(list, ",")), token);
    }
    return found;
}

// RFC 9112 3: what is wrong with "GET /chat HTTP/1.1", or nothing. Later versions of HTTP/1 are meant to be understood.
static std::string_view check_request_line(std::string_view line) {
    const std::string_view method = take_until(line, " "), target = take_until(line, " ");
    const bool is_target = !target.empty() && target.find('\t') == target.npos;
    if (!is_token(method) || !is_target || !line.starts_with("HTTP/")) return "malformed request line";
    const bool spoken = line.size() == 8 && line.starts_with("HTTP/1.") && line[7] >= '1' && line[7] <= '9';
    return spoken ? "" : "not HTTP/1.1";
}

// RFC 9112 2.2: lines end in CRLF. NUL and its like are in no request, but in the TLS that somebody may be speaking.
static std::string_view check_last_byte(std::string_view request) {
    const char c = request.back();
    const bool after_cr = request.substr(0, request.size() - 1).ends_with('\r');
    if (c == '\n' && !after_cr) return "a line ends in LF, not CRLF";
    const bool control = (c >= '\0' && c < ' ' && c != '\t' && c != '\r' && c != '\n') || c == '\x7F';
    if (control || (after_cr && c != '\n')) return "not HTTP: a control character";
    if (request.size() == 1 && !is_token(request)) return "not HTTP: no method";
    if (c != '\n') return "";
    request.remove_suffix(2);
    const std::size_t start = request.rfind('\n') + 1;
    std::string_view line = request.substr(start);
    if (start == 0) return check_request_line(line);
    const bool field = line.find(':') != line.npos && is_token(take_until(line, ":"));  // RFC 9112 5
    return field || line.empty() ? "" : "malformed header field";
}

std::optional<std::string_view> get_key(std::string_view request) {
    const auto keys = values_of(request, "Sec-WebSocket-Key");
    if (keys.size() != 1) return std::nullopt;
    const auto nonce = base64_decode(keys.front());
    return nonce && nonce->size() == 16 ? std::optional(keys.front()) : std::nullopt;
}

std::string accept_key(std::string_view key) { return base64_encode(sha1(std::string(key).append(kGuid))); }

Response answer(std::string_view request) {
    const auto hosts = values_of(request, "Host"), versions = values_of(request, "Sec-WebSocket-Version");
    const bool upgrade = has_token(request, "Upgrade", "websocket") && has_token(request, "Connection", "Upgrade");
    const bool spoken = versions.size() == 1 && versions[0] == "13";
    const auto key = get_key(request);
    if (hosts.size() != 1) return refusal("400 Bad Request", hosts.empty() ? "no Host" : "more than one Host");
    if (hosts[0].find_first_of(" \t/?#@") != request.npos) return refusal("400 Bad Request", "malformed Host");
    if (!request.starts_with("GET ")) return refusal("405 Method Not Allowed", "a WebSocket is opened with GET");
    if (!upgrade) return refusal("426 Upgrade Required", "to chat with this server, open web/index.html in a browser");
    if (!spoken) return refusal("426 Upgrade Required", "Sec-WebSocket-Version is not 13");
    if (values_of(request, "Sec-WebSocket-Key").empty()) return refusal("400 Bad Request", "no Sec-WebSocket-Key");
    if (!key) return refusal("400 Bad Request", "Sec-WebSocket-Key is not one base64 of 16 bytes");
    return {true,
            "HTTP/1.1 101 Switching Protocols\r\n"
            "Upgrade: websocket\r\n"
            "Connection: Upgrade\r\n"
            "Sec-WebSocket-Accept: " + accept_key(*key) + "\r\n\r\n",
            {}};
}

Response refusal(std::string_view status, std::string_view why) {
    const std::string body = std::string(why) + '\n';
    std::string text = "HTTP/1.1 " + std::string(status) + "\r\n";
    if (status.starts_with("405")) text += "Allow: GET\r\n";
    if (status.starts_with("426")) text += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    text += "Content-Type: text/plain; charset=utf-8\r\n";
    text += "Content-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + body;
    return {false, text, std::string(status).append(": ").append(why)};
}

std::optional<Response> take_request(std::string& request, std::string_view& input) {
    while (!input.empty()) {
        const bool full = request.size() == kMaxRequestBytes;
        if (full && !request.starts_with("GET ")) return answer(request);
        if (full) return refusal("431 Request Header Fields Too Large", "over 8 KiB of header");
        request += input.front();
        input.remove_prefix(1);
        const std::string_view wrong = check_last_byte(request);
        if (!wrong.empty()) return refusal("400 Bad Request", wrong);
        if (request.ends_with("\r\n\r\n")) return answer(request);
    }
    return std::nullopt;
}
