// The real ./server over real sockets. Section numbers of RFC 6455 where it decides.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <sstream>

#include "harness.h"

using namespace std::string_literals;

namespace {

struct Row {
    std::string name, bytes;
};

// Most cases run twice: their bytes in one piece, and one at a time.
constexpr std::array kWays{false, true};

// The server may answer and close before it has all of them.
void deliver(Peer& peer, std::string_view bytes, bool slowly) {
    const std::size_t alone = slowly ? std::min<std::size_t>(bytes.size(), 500) : 0;
    for (std::size_t i = 0; i < alone; ++i) peer.try_send(bytes.substr(i, 1));
    peer.try_send(bytes.substr(alone));
}

Peer joined(const Server& server) {
    Peer peer(server);
    peer.shake_hands();
    return peer;
}

// kRequest with one part replaced.
std::string changed(std::string_view from, std::string_view to) {
    std::string request = kRequest;
    return request.replace(request.find(from), from.size(), to);
}

// A frame whose payload reads as it is on the wire: its masking key is 0.
std::string frame(int first_byte, std::string_view payload) {
    return static_cast<char>(first_byte) + std::string(1, static_cast<char>(0x80 | payload.size())) + "\0\0\0\0"s +
           std::string(payload);
}

std::string text_frame(std::string_view payload) { return frame(0x81, payload); }

bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

// Whether the lines stand there, each after the one before.
bool has_in_order(const std::string& text, const std::vector<std::string>& lines) {
    std::size_t at = 0;
    for (const std::string& line : lines) {
        at = ("\n" + text).find("\n" + line + "\n", at);
        if (at == text.npos) MESSAGE("missing, or out of order: ", line);
        if (at == text.npos) return false;
    }
    return true;
}

// One says something, and it is the next thing that all of them hear.
void check_chat(std::vector<Peer>& peers, const std::string& line) {
    peers.front().send_frame(Opcode::text, line);
    for (Peer& peer : peers) REQUIRE(peer.text() == line);
}

// The server must end by itself.
void check_run(std::vector<std::string> arguments, int status, std::string_view out, std::string_view err) {
    CAPTURE(arguments.back());
    arguments.insert(arguments.begin(), server_path());
    Process server(arguments);
    CHECK(server.wait() == status);
    CHECK(server.out().substr(0, out.size()) == out);
    CHECK(server.err().substr(0, err.size()) == err);
    CHECK((server.out().empty() == out.empty() && server.err().empty() == err.empty()));
}

}  // namespace

TEST_SUITE("command line") {
    TEST_CASE("--help: the usage on stdout, exit 0") { check_run({"--help"}, 0, "usage: ", ""); }

    TEST_CASE("bad arguments: the usage on stderr, exit 2") {
        const std::vector<std::vector<std::string>> all{
            {"--nonsense"},      {"-x"},               {"127.0.0.1", "65536"},    {"127.0.0.1", "4294967296"},
            {"127.0.0.1", ""},   {"127.0.0.1", "abc"}, {"127.0.0.1", "0x50"},     {"127.0.0.1", "1 "},
            {"127.0.0.1", "-1"}, {"127.0.0.1", "+1"},  {"127.0.0.1", "0", "0.0"}, {"--trace", "127.0.0.1", "1.5"}};
        for (const auto& arguments : all) check_run(arguments, 2, "", "usage: ");
    }

    TEST_CASE("no arguments: 127.0.0.1 4000; an address alone: its port 4000") {
        // Another program may have that port; then this is what the server says about it.
        const std::string taken = "cannot listen on 127.0.0.1:4000: Address already in use\n";
        for (const std::vector<std::string>& command : {std::vector{server_path()}, {server_path(), "127.0.0.1"}}) {
            Process server(command);
            wait_until("the server says something", [&] { return !server.out().empty() || !server.err().empty(); });
            const bool listens = server.out().ends_with(" listening on 127.0.0.1:4000\n");
            CHECK((listens || server.err() == taken));
        }
    }

    TEST_CASE("cannot listen: one line with address, port and reason on stderr, exit 1") {
        const Server first;
        const std::string port = std::to_string(first.port());
        check_run({"127.0.0.1", port}, 1, "", "cannot listen on 127.0.0.1:" + port + ": Address already in use\n");
        check_run({"a..b", "0"}, 1, "", "cannot listen on a..b:0: ");
        // RFC 5737: an address that is nobody's.
        check_run({"192.0.2.1", "0"}, 1, "", "cannot listen on 192.0.2.1:0: Cannot assign requested address\n");
    }

    TEST_CASE("started again on the same port at once, after SIGTERM and after SIGKILL") {
        for (const int number : {SIGTERM, SIGKILL}) {
            CAPTURE(number);
            Server first;
            auto peers = join(first, 3);
            first.signal(number);
            for (Peer& peer : peers) REQUIRE(peer.closed_with() == (number == SIGTERM ? 1001 : 0));
            peers.clear();
            first.wait();
            const Server second({}, {}, {"127.0.0.1", std::to_string(first.port())});
            CHECK(second.port() == first.port());
            peers = join(second, 2);
            check_chat(peers, "here again");
        }
    }

    TEST_CASE("a host name: localhost, as in the demo") {
        Server server({}, {}, {"localhost", "0"});
        CHECK(has(server.out(), " listening on 127.0.0.1:" + std::to_string(server.port()) + "\n"));
        auto peers = join(server, 2);
        check_chat(peers, "by name");
    }

    TEST_CASE("IPv6: [::1]:port in what it prints") {
        std::ifstream file("/proc/net/if_inet6");
        const std::string addresses(std::istreambuf_iterator<char>(file), {});
        const bool there = has(addresses, "00000000000000000000000000000001 ");
        if (!there) MESSAGE("not tested: this machine has no ::1");
        if (!there) return;

        Server server({}, {}, {"::1", "0"});
        CHECK(server.out() == "Master socket  : 3 listening on [::1]:" + std::to_string(server.port()) + "\n");
        Peer peer(server.port(), "::1");
        peer.shake_hands();
        server.wait_for("\nconnect client 4 from [::1]:" + std::to_string(peer.port()) + "\nshakeHands 4\n");
        const std::string port = std::to_string(server.port());
        check_run({"::1", port}, 1, "", "cannot listen on [::1]:" + port + ": Address already in use\n");
    }

    TEST_CASE("started with closed standard descriptors or a broken pipe: no client takes their place") {
        const std::vector<std::function<void()>> all{
            [] { close(0); }, [] { close(1); }, [] { close(2); }, [] { close(0), close(1), close(2); },
            [] {
                std::array<int, 2> ends{};
                if (pipe(ends.data()) == 0) dup2(ends[1], 1), close(ends[0]), close(ends[1]);
            }};
        for (std::size_t i = 0; i < all.size(); ++i) {
            CAPTURE(i);
            Process server({server_path(), "--trace", "127.0.0.1", "0"}, all[i]);
            const int port = listening_port(server);
            std::vector<Peer> peers;
            for (int k = 0; k < 2; ++k) peers.emplace_back(port).shake_hands();
            check_chat(peers, "nothing but frames");
            check_chat(peers, "here");
            server.signal(SIGTERM);
            for (Peer& peer : peers) REQUIRE(peer.closed_with() == 1001);
            peers.clear();
            CHECK(server.wait() == 0);
        }
    }
}

TEST_SUITE("signals") {
    // A sanitized server looks for leaks when it ends, and that takes its time.
    Clock::duration at_most(Clock::duration time) { return server_is_sanitized() ? kPatience : time; }

    TEST_CASE("SIGINT, SIGTERM: Close 1001 to every peer, exit 0") {
        for (const int number : {SIGINT, SIGTERM}) {
            CAPTURE(number);
            Server server;
            Peer half_open(server);
            half_open.send(kRequest.substr(0, 40));
            auto peers = join(server, 3);
            server.signal(number);
            for (Peer& peer : peers) REQUIRE(peer.receive_all() == "\x88\x02\x03\xE9");
            for (Peer& peer : peers) CHECK_FALSE(peer.reset());
            peers.clear();
            REQUIRE(half_open.receive_all() == "");
            CHECK(server.wait() == 0);
            CHECK(server.err() == "");
        }
    }

    TEST_CASE("SIGTERM: the Close is sent in the same round, before the server waits again") {
        Server server({"--trace"});
        Peer peer = joined(server);
        server.wait_for("\nshakeHands 4\n");
        server.signal(SIGTERM);
        REQUIRE(peer.closed_with() == 1001);
        peer.close();
        CHECK(server.wait() == 0);
        const std::string& out = server.out();
        const std::size_t told = out.find("\ndisconnect client 4: the server stops");
        REQUIRE(told != out.npos);
        CHECK(out.find("\nsend 4: 4 bytes\n", told) < out.find("\nselect():", told));
    }

    TEST_CASE("SIGTERM: exit 0 within 2 s although peers do not answer, do not read, or are inside a message") {
        Server server;
        auto peers = join(server, 4);
        const std::string megabyte(1 << 20, 'x');
        for (int i = 0; i < 4; ++i) {  // more than the kernel takes for those who do not read
            peers[0].send_frame(Opcode::text, megabyte);
            REQUIRE(peers[0].text().size() == megabyte.size());
        }
        peers[1].send("\x81\xFE\x10"s);
        const auto start = Clock::now();
        server.signal(SIGTERM);
        CHECK(server.wait() == 0);
        CHECK(Clock::now() - start < at_most(2s));
    }

    TEST_CASE("SIGINT: exit 0 within 2 s under a flood") {
        Server server({"--quiet"});
        auto peers = join(server, 8);
        const std::string flood = repeat(masked(Opcode::text, "flood"), 5000);
        std::vector<std::size_t> at(peers.size());
        std::array<char, 1 << 16> scrap;
        const auto pour = [&] {
            for (std::size_t i = 0; i < peers.size(); ++i) {
                const ssize_t sent = send(peers[i].fd(), flood.data() + at[i], flood.size() - at[i], MSG_NOSIGNAL);
                if (sent > 0) at[i] = (at[i] + static_cast<std::size_t>(sent)) % flood.size();
                for (int k = 0; k < 4 && recv(peers[i].fd(), scrap.data(), scrap.size(), 0) > 0; ++k) {}
            }
        };
        const double idle = server.cpu_seconds();
        const auto patience = Clock::now() + kPatience;
        while (server.cpu_seconds() < idle + 0.1 && !server.ended() && Clock::now() < patience) pour();
        REQUIRE_FALSE(server.ended());
        const auto start = Clock::now();
        server.signal(SIGINT);
        while (!server.ended() && Clock::now() < start + kPatience) pour();
        CHECK(Clock::now() - start < at_most(3s));  // 2 s are its own, and the flood takes the rest of the machine
        CHECK(server.wait() == 0);
    }
}

TEST_SUITE("what it prints") {
    TEST_CASE("the demo's words, byte for byte, at once and into a pipe") {
        Server server;
        const std::string port = std::to_string(server.port());
        std::string expected = "Master socket  : 3 listening on 127.0.0.1:" + port + "\n";
        CHECK(server.out() == expected);
        std::vector<Peer> peers;
        for (const char* number : {"4", "5", "6"}) {
            peers.push_back(joined(server));
            expected += "connect client "s + number + " from 127.0.0.1:" + std::to_string(peers.back().port()) + "\n";
            expected += "shakeHands "s + number + "\n";
        }
        peers[0].send_frame(Opcode::text, "李靖");
        peers[1].text();  // so that the next one comes after it
        peers[1].send_frame(Opcode::binary, "");
        expected += "send file 4: text, 6 bytes, to 3 clients\nsend file 5: binary, 0 bytes, to 3 clients\n";
        CHECK(server.wait_for("to 3 clients\nsend file 5: binary, 0 bytes, to 3 clients\n") == expected);

        peers[0].send(frame(0x88, "\x03\xE9"));
        expected += "disconnect client 4: closed by peer (1001)\n";
        CHECK(server.wait_for("(1001)\n") == expected);
        peers[1].send_frame(Opcode::text, "x");
        expected += "send file 5: text, 1 bytes, to 2 clients\n";
        CHECK(server.wait_for("to 2 clients\n") == expected);
        peers[1].send("\x81\x01"s);
        CHECK(server.wait_for(" (1002)\n").starts_with(expected + "disconnect client 5: "));
        peers[2].shut_down_sending();
        server.wait_for("\ndisconnect client 6: ");
    }

    TEST_CASE("a refused handshake: why") {
        Server server;
        Peer peer(server);
        peer.send(changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""));
        server.wait_for("\nrefuse client 4: 400 Bad Request: no Sec-WebSocket-Key\n");
        REQUIRE(has(peer.refusal(), "\r\n\r\nno Sec-WebSocket-Key\n"));
        Peer second(server);
        server.wait_for("\nconnect client 5 from ");
        CHECK_FALSE(has(server.out(), "shakeHands"));
    }

    TEST_CASE("--quiet: the first line only") {
        Server server({"--quiet"});
        auto peers = join(server, 2);
        check_chat(peers, "hush");
        peers[0].send(frame(0x88, ""));
        REQUIRE(peers[0].closed_with() == kNoCode);
        Peer refused(server);
        refused.send("nonsense\r\n\r\n");
        refused.refusal();
        server.signal(SIGTERM);
        peers.clear();
        refused.close();  // or the server would give it a second to go
        CHECK(server.wait() == 0);
        CHECK(server.out() == "Master socket  : 3 listening on 127.0.0.1:" + std::to_string(server.port()) + "\n");
    }

    TEST_CASE("nothing from the network reaches the terminal unescaped") {
        Server server({"--trace"});
        Peer peer(server);
        peer.send(changed("/chat", "/\x9B\xFF\"\\"));
        REQUIRE(peer.receive_until("\r\n\r\n") == kResponse);
        peer.send(text_frame("\x1B]0;owned\x07\r\n\x7F\xC2\x9B") + frame(0x89, "\x1B[2J") + frame(0x82, "\x1B[2J"));
        peer.send(frame(0x88, "\x03\xE8\x1B[2J"));
        REQUIRE(peer.closed_with() == 1000);
        Peer(server).send("GET /\x1B[2J HTTP/1.1\r\n\r\n");
        server.wait_for("\nrefuse client ");
        for (const char c : server.out()) CHECK((c == '\n' || (c >= ' ' && c <= '~')));
        CHECK(has(server.out(), "\\x1b]0;owned\\x07"));
    }
}

TEST_SUITE("opening handshake") {
    TEST_CASE("4.2.2: the demo's five lines, and nothing behind them") {
        const Server server;
        const std::string key = "Key: dGhlIHNhbXBsZSBub25jZQ==";
        const std::vector<std::string> all{
            kRequest, changed("Sec-WebSocket-Key:", "sec-websocket-key:"), changed("Connection:", "CONNECTION:"),
            changed("Upgrade: websocket", "Upgrade: WebSocket"), changed("Key: ", "Key:"), changed(key, key + " \t "),
            changed("Key: ", "Key: \t "), changed("Connection: Upgrade", "Connection: keep-alive, ,\tupgrade "),
            changed("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: foo,websocket"), changed("/chat", "/?a=b&c=%20#d"),
            changed("/chat", "http://127.0.0.1:4000/"), changed("Origin:", "Sec-WebSocket-Extensions: foo\r\nOrigin:")};
        for (const std::string& request : all) {
            for (const bool slowly : kWays) {
                INFO(request, slowly ? "byte by byte" : "at once");
                Peer peer(server);
                deliver(peer, request, slowly);
                peer.send(frame(0x89, "?"));
                REQUIRE(peer.receive(kResponse.size()) == kResponse);
                REQUIRE(peer.receive(3) == "\x8A\x01?");
            }
        }
    }

    TEST_CASE("frames in the same segment are served, whole or not") {
        const Server server;
        auto listener = joined(server);
        const std::string both = kRequest + text_frame("first") + text_frame("second");
        for (std::size_t cut = kRequest.size() - 1; cut < both.size(); ++cut) {
            CAPTURE(cut);
            Peer peer(server);
            peer.send(both.substr(0, cut));
            peer.send(both.substr(cut));
            REQUIRE(peer.receive(kResponse.size()) == kResponse);
            for (const char* line : {"first", "second"}) REQUIRE(peer.text() == line);
            for (const char* line : {"first", "second"}) REQUIRE(listener.text() == line);
        }
    }

    TEST_CASE("refusals are complete, and end in a FIN") {
        const std::string nonce = "dGhlIHNhbXBsZSBub25jZQ==", key = "Sec-WebSocket-Key: " + nonce + "\r\n";
        const std::string host = "Host: server.example.com\r\n", version = "Sec-WebSocket-Version: 13\r\n";
        struct Refused {
            std::string status, also;  // what the response has
            std::vector<std::string> requests;
        };
        const std::vector<Refused> all{
            {"400 Bad Request", "",
             {"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03"s, "hello\r\n\r\n", text_frame("a frame"), "\r\n\r\n",
              changed("GET /chat HTTP", "GET HTTP"), changed("/chat", "/chat /room"), changed("HTTP/1.1", "HTTP/1.0"),
              changed("Origin: ", "Origin "), changed("Host:", "Host :"), changed("Origin: ", "Origin:\r\n "),
              changed("1.1\r\n", "1.1\n"), changed("1.1\r\n", "1.1\r"), "GET / HTTP/1.1\nHost: x\n\n",
              changed("e", "\0"s), changed(host, ""), changed(host, host + host), "POST / HTTP/1.1\r\n\r\n"}},
            {"405 Method Not Allowed", "\r\nAllow: GET\r\n",
             {changed("GET", "POST"), changed("GET", "get"), "PUT / HTTP/1.1\r\nHost: x\r\n\r\n"}},
            {"426 Upgrade Required", "\r\nUpgrade: websocket\r\n",
             {changed("Upgrade: websocket\r\n", ""), changed("Connection: Upgrade\r\n", ""), changed("websocket", "x"),
              changed("Connection: Upgrade", "Connection: x"), "GET / HTTP/1.1\r\nHost: x\r\n" + version + "\r\n"}},
            {"426 Upgrade Required", "web/index.html", {"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}},
            {"426 Upgrade Required", "\r\n" + version,
             {changed(version, ""), changed(": 13", ": 8"), changed(": 13", ": 130"),
              "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"}},
            {"400 Bad Request", "",
             {changed(key, ""), changed(key, key + key), changed(nonce, ""), changed(nonce, "dGhlIHNhbXBsZSBub25j"),
              changed(nonce, "dGhlIHNhbXBsZSBub25j!Q==")}},
            {"431 Request Header Fields Too Large", "", {changed("Origin: ", "Origin: " + std::string(8192, 'x'))}}};
        const Server server;
        auto bystanders = join(server, 2);
        for (const Refused& row : all) {
            for (const std::string& request : row.requests) {
                for (const int cut : {0, 1, 2}) {
                    INFO(escape(request.substr(0, 300)), ", cut ", cut);
                    Peer peer(server);
                    deliver(peer, request + (cut == 2 ? repeat(text_frame("junk"), 50000) : ""), cut == 1);
                    const std::string answer = peer.refusal();
                    CHECK(answer.starts_with("HTTP/1.1 " + row.status + "\r\n"));
                    CHECK(has(answer, row.also));
                    CHECK_FALSE(peer.reset());  // however much came behind it
                }
            }
        }
        check_chat(bystanders, "nobody else heard of it");
    }

    TEST_CASE("RFC 9110 9.3.2: the response to HEAD ends behind its header") {
        const Server server;
        Peer peer(server);
        peer.send(changed("GET", "HEAD"));
        const std::string answer = peer.receive_all();
        CHECK(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        CHECK(has(answer, "\r\nAllow: GET\r\n"));
        CHECK(answer.find("\r\n\r\n") == answer.size() - 4);
        CHECK_FALSE(peer.reset());
    }
}

TEST_SUITE("frames") {
    TEST_CASE("5.2: three encodings of the length, sent on byte for byte as one unmasked frame") {
        struct Length {
            std::size_t size;
            std::string header;
        };
        const std::vector<Length> all{
            {0, "\x81\0"s},          {1, "\x81\x01"},          {125, "\x81\x7D"},
            {126, "\x81\x7E\0\x7E"s}, {127, "\x81\x7E\0\x7F"s}, {65535, "\x81\x7E\xFF\xFF"},
            {65536, "\x81\x7F\0\0\0\0\0\x01\0\0"s}, {16 << 20, "\x81\x7F\0\0\0\0\x01\0\0\0"s}};
        const Server server;
        auto peers = join(server, 2);
        for (const Length& row : all) {
            for (const bool slowly : kWays) {
                INFO(row.size, slowly ? ", byte by byte" : ", at once");
                const std::string payload(row.size, 'x'), expected = row.header + payload;
                deliver(peers[0], masked(Opcode::text, payload), slowly);
                for (Peer& peer : peers) REQUIRE((peer.receive(expected.size()) == expected));
            }
        }
    }

    TEST_CASE("5.5.2, 5.5.3: a Ping's Pong has its payload, also between fragments; Pongs are ignored") {
        const Server server;
        auto peers = join(server, 2);
        const std::string longest(125, 'p');
        for (const bool slowly : kWays) {
            CAPTURE(slowly);
            const std::string unasked = frame(0x8A, "") + frame(0x8A, "unasked");
            deliver(peers[0], frame(0x89, "") + frame(0x89, "\xFF\0"s) + unasked + frame(0x89, longest), slowly);
            REQUIRE(peers[0].receive(133) == "\x8A\0\x8A\x02\xFF\0\x8A\x7D"s + longest);
            const std::string between = frame(0x89, "between") + unasked;
            deliver(peers[0], frame(0x01, "李\xE9") + between + frame(0x80, "\x9D\x96"), slowly);
            REQUIRE(peers[0].receive(17) == "\x8A\x07" "between\x81\x06李靖");
            REQUIRE(peers[1].receive(8) == "\x81\x06李靖");
            const std::string mixed = frame(0x89, "1") + text_frame("2") + frame(0x89, "3") + text_frame("4");
            deliver(peers[0], mixed, slowly);
            // A Pong comes behind what was said before its Ping; Pongs that go out together may come later.
            std::string pongs, all;
            while (all.size() < 4) {
                const Peer::Frame frame = peers[0].next_frame();
                if (frame.header.opcode == Opcode::pong) pongs += frame.payload;
                all += frame.payload;
            }
            CHECK(pongs == "13");
            CHECK(all.find('2') < all.find('3'));
            CHECK(all.find('2') < all.find('4'));
            REQUIRE(peers[1].receive(6) == "\x81\x01" "2\x81\x01" "4");
        }
    }

    TEST_CASE("5.4: fragments become one message; what is not text is not checked") {
        const Server server;
        auto peers = join(server, 2);
        for (const bool slowly : kWays) {
            CAPTURE(slowly);
            deliver(peers[0], frame(0x02, "\xFF") + frame(0x00, "") + frame(0x00, "\xC0\x80"), slowly);
            deliver(peers[0], frame(0x80, "\0"s) + frame(0x01, "") + frame(0x80, ""), slowly);
            for (Peer& peer : peers) REQUIRE(peer.receive(8) == "\x82\x04\xFF\xC0\x80\0\x81\0"s);
        }
    }

    // What is wrong with it is known at the last byte of `bytes`; `rest` would be the rest of the frame.
    struct Violation {
        std::string name, bytes, rest;
        int code;
    };

    std::vector<Violation> violations() {
        const std::string key = "\0\0\0\0"s, start = frame(0x01, "a"), cut = frame(0x01, "\xE6\x9D");
        std::vector<Violation> all{
            {"unmasked text", "\x81\x02", "Hi", 1002},
            {"unmasked Close", "\x88\0"s, "", 1002},
            {"16-bit length of 125", "\x82\xFE\0\x7D"s, key + std::string(125, 'x'), 1002},
            {"64-bit length of 65535", "\x82\xFF\0\0\0\0\0\0\xFF\xFF"s, key + "xyz", 1002},
            {"length of 2^63", "\x82\xFF\x80"s, "\0\0\0\0\0\0\0"s + key, 1002},
            {"Ping in fragments", "\x09", "\x80" + key, 1002},
            {"Pong in fragments", "\x0A", "\x80" + key, 1002},
            {"Close in fragments", "\x08", "\x80" + key, 1002},
            {"Ping of 126 bytes", "\x89\xFE", "\0\x7E"s + key + std::string(126, 'x'), 1002},
            {"Close of 64-bit length", "\x88\xFF", "\0\0\0\0\0\x01\0\0"s, 1002},
            {"continuation of nothing", "\x80", "\x81" + key + "x", 1002},
            {"continuation of nothing, more to come", std::string(1, '\0'), "\x81" + key + "x", 1002},
            {"continuation behind a message's end", start + frame(0x80, "b") + "\x80", "\x80" + key, 1002},
            {"text inside a text", start + "\x81", "\x80" + key, 1002},
            {"binary fragment inside a text", start + "\x02", "\x80" + key, 1002},
            {"Close of one byte", "\x88\x81", key + "\x03", 1002},
            {"text ends inside a character", text_frame("a\xE6\x9D"), "", 1007},
            {"the last fragment does", cut + frame(0x80, "\xE6"), "", 1007},
            {"the last fragment is empty", cut + frame(0x80, ""), "", 1007},
            {"a character goes on wrongly in the next fragment", cut + "\x80\x85" + key + "a", "bcde", 1007},
            {"and behind a Ping", cut + frame(0x89, "\x8E") + "\x80\x85" + key + "a", "bcde", 1007},
            {"Close reason not UTF-8", "\x88\x85" + key + "\x03\xE8\xFF", "ab", 1007},
            {"Close reason ends inside a character", frame(0x88, "\x03\xE8\xE6\x9D"), "", 1007},
            {"16 MiB and a byte", "\x82\xFF\0\0\0\0\x01\0\0\x01"s, key + "x", 1009},
            {"2^63-1 bytes of text", "\x81\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF"s, key + "x", 1009},
            {"16 MiB in the second fragment", start + "\x80\xFF\0\0\0\0\x01\0\0\0"s, key + "x", 1009}};
        for (const int bit : {0x40, 0x20, 0x10}) {
            const std::string first(1, static_cast<char>(0x81 | bit));
            all.push_back({"reserved bit " + std::to_string(bit), first, "\x80" + key, 1002});
        }
        for (const int opcode : {3, 4, 5, 6, 7, 11, 12, 13, 14, 15}) {
            const std::string first(1, static_cast<char>(0x80 | opcode));
            all.push_back({"reserved opcode " + std::to_string(opcode), first, "\x80" + key, 1002});
        }
        for (const int code : {0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535}) {
            const std::string bytes{static_cast<char>(code >> 8), static_cast<char>(code & 0xFF)};
            all.push_back({"Close code " + std::to_string(code), "\x88\x85" + key + bytes, "why", 1002});
        }
        for (const char* bytes : {"\x80", "\xC0", "\xE0\x80", "\xED\xA0", "\xF0\x80", "\xF4\x90", "\xF5", "\xE6z"}) {
            all.push_back({"UTF-8 " + escape(bytes), "\x81\xA8" + key + "ok" + bytes, "and so on", 1007});
        }
        return all;
    }

    TEST_CASE("7.4: each violation has its code, however it is cut, and costs nobody else anything") {
        const Server server;
        auto bystanders = join(server, 2);
        for (const Violation& bad : violations()) {
            for (const int cut : {0, 1, 2, 3}) {
                constexpr std::array cuts{"at once", "byte by byte", "behind a message", "up to the first bad byte"};
                INFO(bad.name, ", ", cuts[static_cast<std::size_t>(cut)]);
                Peer peer = joined(server);
                deliver(peer, (cut == 2 ? text_frame("good") : "") + bad.bytes + (cut == 3 ? "" : bad.rest), cut == 1);
                if (cut == 2) REQUIRE(peer.text() == "good");
                for (Peer& bystander : bystanders) {
                    if (cut == 2) REQUIRE(bystander.text() == "good");
                    if (has(bad.name, "behind a message's end")) REQUIRE(bystander.text() == "ab");
                }
                REQUIRE(peer.closed_with() == bad.code);
                REQUIRE(peer.receive_all() == "");
                CHECK_FALSE(peer.reset());
            }
        }
        check_chat(bystanders, "still here");
    }

    TEST_CASE("7.1.1: what follows a bad frame, however much, turns the Close into no RST") {
        const Server server;
        auto bystanders = join(server, 2);
        for (const std::string& bad : {"\x81\x02Hi"s, frame(0x88, ""), frame(0x88, "\x03\xE8"), text_frame("\xFF")}) {
            CAPTURE(escape(bad));
            Peer peer = joined(server);
            CHECK(peer.try_send(bad + repeat(text_frame("not looked at"), 500000)));
            REQUIRE(peer.closed_with() != 0);
            REQUIRE(peer.receive_all() == "");
            CHECK_FALSE(peer.reset());
        }
        Peer peer = joined(server);
        peer.send(frame(0x01, "never ") + frame(0x88, "\x03\xE8") + frame(0x80, "finished"));
        REQUIRE(peer.closed_with() == 1000);
        check_chat(bystanders, "nothing of that");
    }

    TEST_CASE("7.4: a Close is answered with its code, an empty one empty, and the server ends TCP") {
        const Server server;
        for (const int code : {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999, 0}) {
            for (const bool slowly : kWays) {
                INFO(code, slowly ? ", byte by byte" : ", at once");
                Peer peer = joined(server);
                const std::string bytes{static_cast<char>(code >> 8), static_cast<char>(code & 0xFF)};
                deliver(peer, frame(0x88, code == 0 ? "" : bytes + "再见"), slowly);
                const std::string answer = peer.receive_all();
                CHECK(answer[0] == '\x88');
                CHECK(answer.substr(2, 2) == (code == 0 ? "" : bytes));
                CHECK_FALSE(peer.reset());
            }
        }
    }

    TEST_CASE("7.1.1: the server ends its side at once, and its socket is open until the client has ended the other") {
        const Server server;
        const int before = server.descriptors();
        const auto start = Clock::now();
        const std::string close = frame(0x88, "\x03\xE8"), no_text = text_frame("\xFF");
        for (const std::string& last : {kRequest + close, kRequest + frame(0x88, ""), kRequest + "\x81\x02",
                                        kRequest + no_text, "nonsense\r\n\r\n"s}) {
            CAPTURE(escape(last));
            Peer peer(server);
            peer.send(last);
            peer.receive_all();  // returns at the TCP FIN
            CHECK_FALSE(peer.reset());
            CHECK(server.descriptors() == before + 1);
            peer.close();
            wait_until("the server's end is closed, too", [&] { return server.descriptors() == before; });
        }
        CHECK(Clock::now() - start < 5s);  // not 2 s for each
    }
}

TEST_SUITE("chat") {
    TEST_CASE("李靖: every message to every peer, the sender included, text as text and binary as binary") {
        const Server server;
        auto peers = join(server, 3);
        for (const bool slowly : kWays) {
            CAPTURE(slowly);
            deliver(peers[0], masked(Opcode::text, "李靖") + masked(Opcode::binary, "\0\xFF"s), slowly);
            for (Peer& peer : peers) REQUIRE(peer.receive(12) == "\x81\x06李靖\x82\x02\0\xFF"s);
        }
    }

    TEST_CASE("one order, the same for all") {
        const Server server;
        auto peers = join(server, 6);
        for (int i = 0; i < 100; ++i) {
            for (std::size_t k = 0; k < peers.size(); ++k) {
                peers[k].send_frame(Opcode::text, std::to_string(k) + " says " + std::to_string(i));
            }
        }
        std::vector<std::string> first;
        for (std::size_t i = 0; i < 100 * peers.size(); ++i) first.push_back(peers[0].text());
        for (std::size_t k = 1; k < peers.size(); ++k) {
            for (const std::string& line : first) REQUIRE(peers[k].text() == line);
        }
        std::array<int, 6> next{};  // of each sender, in the order in which he sent them
        for (const std::string& line : first) {
            const int sender = line[0] - '0', number = next[static_cast<std::size_t>(sender)]++;
            CHECK(line == std::to_string(sender) + " says " + std::to_string(number));
        }
    }

    TEST_CASE("fragments of two senders interleaved become two messages") {
        const Server server;
        auto peers = join(server, 3);
        for (const bool slowly : kWays) {
            CAPTURE(slowly);
            deliver(peers[0], frame(0x01, "from "), slowly);
            deliver(peers[1], frame(0x02, "\xFF"), slowly);
            deliver(peers[0], frame(0x00, "the "), slowly);
            deliver(peers[1], frame(0x80, "\xFE"), slowly);
            for (Peer& peer : peers) REQUIRE(peer.receive(4) == "\x82\x02\xFF\xFE");
            deliver(peers[0], frame(0x80, "first"), slowly);
            for (Peer& peer : peers) REQUIRE(peer.text() == "from the first");
        }
    }

    TEST_CASE("who has not finished the handshake receives no frame; who comes later, only later ones") {
        const Server server;
        auto peers = join(server, 2);
        Peer silent(server), half(server);
        for (std::size_t i = 0; i + 1 < kRequest.size(); ++i) {
            half.send(kRequest.substr(i, 1));
            if (i % 10 == 0) check_chat(peers, "line " + std::to_string(i));
        }
        CHECK(silent.silent(50ms));
        CHECK(half.silent(0ms));
        half.send("\n");
        REQUIRE(half.receive(kResponse.size()) == kResponse);
        peers.push_back(std::move(half));
        check_chat(peers, "after");
        silent.send(kRequest);
        REQUIRE(silent.receive(kResponse.size()) == kResponse);
        peers.push_back(std::move(silent));
        check_chat(peers, "all together");
    }

    TEST_CASE("one's handshake says nothing about another's: a frame without one is not HTTP") {
        const Server server;
        auto peers = join(server, 2);
        Peer stranger(server);
        stranger.send(masked(Opcode::text, "let me in"));
        REQUIRE(stranger.refusal().starts_with("HTTP/1.1 400 "));
        Peer second_request = joined(server);  // and no second one is read as such
        second_request.send(kRequest);
        REQUIRE(second_request.closed_with() == 1002);
        check_chat(peers, "just us");
    }

    TEST_CASE("what was complete before the end counts: in front of a Close, a FIN or a bad frame") {
        const std::vector<Row> all{
            {"Close", frame(0x88, "\x03\xE8")}, {"bad frame", "\x81\x02"}, {"FIN", ""}, {"FIN in a frame", "\x81\x85"}};
        const Server server;
        auto peers = join(server, 2);
        for (const Row& end : all) {
            for (const bool slowly : kWays) {
                INFO(end.name, slowly ? ", byte by byte" : ", at once");
                Peer leaver = joined(server);
                const std::string bytes = text_frame("last") + text_frame("words") + end.bytes;
                if (slowly) leaver.send_slowly(bytes);
                else CHECK(send(leaver.fd(), bytes.data(), bytes.size(), MSG_MORE) > 0);  // kept back until ...
                leaver.shut_down_sending();                                               // ... the FIN joins them
                for (Peer* peer : {&peers[0], &peers[1], &leaver}) {
                    REQUIRE(peer->text() == "last");
                    REQUIRE(peer->text() == "words");
                }
                leaver.receive_all();
                CHECK_FALSE(leaver.reset());
                check_chat(peers, "he has left");
            }
        }
        Peer leaver = joined(server);  // and what is due to him still arrives
        const std::string large(4 << 20, 'x');
        leaver.send_frame(Opcode::binary, large);
        leaver.shut_down_sending();
        REQUIRE((leaver.receive_all() == encode(Opcode::binary, large)));
        CHECK_FALSE(leaver.reset());
    }

    TEST_CASE("leaving by Close, FIN or RST, at any point, disturbs nobody") {
        Server server;
        auto peers = join(server, 2);
        const std::string half_a_request = kRequest.substr(0, 30);
        for (const std::string& said : {""s, "\x81"s, "\x81\x85\0\0\0\0He"s, frame(0x01, "half"), half_a_request}) {
            for (const int way : {0, 1, 2}) {
                INFO(escape(said), ", way ", way);
                Peer leaver(server);
                if (said != half_a_request) leaver.shake_hands();
                leaver.send(said);
                if (way == 0) leaver.shut_down_sending(), leaver.receive_all();
                if (way == 1) leaver.reset_now();
                if (way == 2) leaver.close();
                check_chat(peers, "two are left");
            }
        }
        wait_until("nobody else is in", [&] { return server.descriptors() == 6; });
        peers[0].send_frame(Opcode::text, "just us");
        server.wait_for("text, 7 bytes, to 2 clients\n");
    }

    TEST_CASE("who has not shaken hands holds up nobody: 40 MiB are said and read meanwhile") {
        const Server server({"--quiet"});
        Peer silent(server);
        auto peers = join(server, 2);
        const std::string large(1 << 20, 'x');
        for (int i = 0; i < 40; ++i) {
            peers[0].send_frame(Opcode::binary, large);
            for (Peer& peer : peers) REQUIRE((peer.next_frame().payload == large));
        }
        CHECK(silent.silent(0ms));  // no 408: all that took less than its deadline
    }

    TEST_CASE("fifty connect while the server does not run: nobody has to try again") {
        const Server server;
        auto peers = join(server, 2);
        server.signal(SIGSTOP);
        std::vector<Peer> waiting;
        for (int i = 0; i < 50; ++i) waiting.emplace_back(server);  // returns when the kernel has taken it in
        server.signal(SIGCONT);
        for (Peer& peer : waiting) peer.shake_hands();
        std::move(waiting.begin(), waiting.end(), std::back_inserter(peers));
        check_chat(peers, "all of us");
    }

    TEST_CASE("a reader that has said its TCP FIN and then resets leaves the server alive") {
        const Server server({"--quiet"});
        auto peers = join(server, 2);
        for (int i = 0; i < 3; ++i) {
            // More waits for it than the kernels take, so that the server has to send again.
            Peer leaver = joined(server);
            const std::string large(8 << 20, 'x');
            peers[0].send_frame(Opcode::binary, large);
            for (Peer& peer : peers) REQUIRE((peer.next_frame().payload == large));
            leaver.shut_down_sending();
            check_chat(peers, "it has half-closed");
            leaver.reset_now();
            check_chat(peers, "and is gone");
        }
    }
}

TEST_SUITE("--trace") {
    TEST_CASE("the handshake and a line for each frame, in both directions, in their order") {
        Server server({"--trace"});
        auto peers = join(server, 2);
        peers[0].send_frame(Opcode::text, "Hi \"李\"");
        REQUIRE(peers[0].text() == "Hi \"李\"");
        peers[0].send(frame(0x02, "\x01") + frame(0x89, "now") + frame(0x80, "\xFF"));
        REQUIRE(peers[0].receive(5) == "\x8A\x03now");
        peers[0].send_frame(Opcode::binary, std::string(300, '\x05'));
        peers[0].send(frame(0x88, "\x03\xE8"));
        REQUIRE(peers[0].closed_with() == 1000);
        const std::string start = "05 05 05 05 05 05 05 05";
        CHECK(has_in_order(server.wait_for("closed by peer (1000)\n"),
                           {"<- 4: GET /chat HTTP/1.1", "<- 4: Sec-WebSocket-Version: 13",
                            "-> 4: HTTP/1.1 101 Switching Protocols",
                            "-> 4: Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "shakeHands 4",
                            "<- 5: GET /chat HTTP/1.1", "shakeHands 5",
                            R"(<- 4: 81 88 37 fa 21 3d | FIN text, 8 bytes, key 37 fa 21 3d: "Hi \"\xe6\x9d\x8e\"")",
                            R"(-> all: 81 08 | FIN text, 8 bytes: "Hi \"\xe6\x9d\x8e\"")",
                            "<- 4: 02 81 00 00 00 00 | binary, 1 bytes, key 00 00 00 00: 01",
                            "<- 4: 89 83 00 00 00 00 | FIN ping, 3 bytes, key 00 00 00 00: 6e 6f 77",
                            "-> 4: 8a 03 | FIN pong, 3 bytes: 6e 6f 77",
                            "<- 4: 80 81 00 00 00 00 | FIN continuation, 1 bytes, key 00 00 00 00: ff",
                            "-> all: 82 02 | FIN binary, 2 bytes: 01 ff",
                            "<- 4: 88 82 00 00 00 00 | FIN close, 2 bytes, key 00 00 00 00: 03 e8",
                            "-> 4: 88 02 | FIN close, 2 bytes: 03 e8"}));
        CHECK(has(server.out(), "\n<- 4: 82 fe 01 2c 37 fa 21 3d | FIN binary, 300 bytes, key 37 fa 21 3d: " + start));
        CHECK(has(server.out(), "\n-> all: 82 7e 01 2c | FIN binary, 300 bytes: " + start));
    }

    TEST_CASE("nobody says anything: select() does not return, nor does it for one who has room to be sent to") {
        Server server({"--trace"});
        auto peers = join(server, 2);
        check_chat(peers, "one line each");
        server.wait_for("send 5: 15 bytes\n");
        const std::size_t before = server.out().size();
        REQUIRE(peers[0].silent(300ms));
        CHECK(server.out().size() - before < 200);  // a busy loop says it a hundred times
    }

    TEST_CASE("the same lines however the frames are cut") {
        std::string first;
        for (const bool slowly : kWays) {
            Server server({"--trace"});
            Peer peer(server);
            deliver(peer, kRequest + text_frame("Hi") + frame(0x01, "a") + frame(0x80, "b") + "\x81\x02Hi", slowly);
            REQUIRE(peer.receive(kResponse.size()) == kResponse);
            REQUIRE(peer.closed_with() == 1002);
            // The frames alone: what recv() and send() returned does depend on the cuts.
            std::istringstream all(server.wait_for(" (1002)\n"));
            std::string frames;
            for (std::string line; std::getline(all, line);) {
                if (line.starts_with("<- ") || line.starts_with("-> ")) frames += line + '\n';
            }
            CHECK(has(frames, "-> all: 81 02 | FIN text, 2 bytes: \"ab\"\n"));
            if (slowly) CHECK(frames == first);
            first = frames;
        }
    }
}
