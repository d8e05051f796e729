// What nobody can do to the others: the server's limits, each reached over real sockets while two bystanders chat on.
// Memory, descriptors and time on the processor are the operating system's word.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <random>

#include "harness.h"

using namespace std::string_literals;

namespace {

constexpr long kMiB = 1 << 20;

// Two peers who notice nothing of what others do to the server.
struct Bystanders {
    Peer a, b;
    int lines = 0;
    std::size_t skipped = 0;  // bytes that a heard from others while they chatted
    std::size_t texts = 0;    // of these in text messages

    explicit Bystanders(const Server& server) : a(server), b(server) { a.shake_hands(), b.shake_hands(); }

    // Each says a line that both hear; what others say in between is skipped.
    void chat(std::size_t longer = 0) {
        for (Peer* speaker : {&a, &b}) {
            const std::string line = "the bystanders' line " + std::to_string(++lines) + std::string(longer, '.');
            speaker->send_frame(Opcode::text, line);
            for (Peer* listener : {&a, &b}) {
                Peer::Frame frame = listener->next_frame();
                for (; !frame.ended && frame.payload != line; frame = listener->next_frame()) {
                    const std::size_t size = frame.header.bytes.size() + frame.payload.size();
                    if (listener == &a) skipped += size;
                    if (listener == &a && frame.header.opcode == Opcode::text) texts += size;
                }
                REQUIRE_FALSE(frame.ended);
            }
        }
    }

    // One says it so many times, and it is all that both hear.
    void say(std::string_view text, std::size_t times) {
        a.send(repeat(masked(Opcode::text, text), times));
        const std::string heard = repeat(encode(Opcode::text, text), times);
        for (Peer* listener : {&a, &b}) REQUIRE((listener->receive(heard.size()) == heard));
    }
};

// The most memory that the server ever had, but for what it had when it was new.
void check_memory(const Server& server, long when_new, long limit) {
    const long taken = (server.peak_bytes() - when_new) / kMiB;
    if (server_is_sanitized()) MESSAGE("not checked, for a sanitized server takes more memory: ", taken, " MiB");
    else CHECK(taken < limit);
}

// Nothing happens for a while, and a busy loop would be at work all that time.
void check_idle(const Process& server, Peer& undisturbed) {
    const double before = server.cpu_seconds();
    REQUIRE(undisturbed.silent(600ms));
    CHECK(server.cpu_seconds() - before <= 0.1);
}

std::size_t count(std::string_view text, std::string_view part) {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++found;
    return found;
}

// A client's header with the masking key 0; a payload may follow, or not.
std::string header(Opcode opcode, std::uint64_t length, bool fin = true) {
    return make_header(opcode, length, fin, MaskingKey{}).bytes;
}

// Sends and does not read, however much there is to read; false when the connection is broken.
bool push(Peer& peer, std::string_view bytes) {
    while (!bytes.empty()) {
        pollfd end{peer.fd(), POLLOUT, 0};
        REQUIRE(poll(&end, 1, 20000) == 1);
        if (!peer.send_some(bytes)) return false;
    }
    return true;
}

// Sends the same again and again and does not read, until nothing has been taken while the bystanders chatted five
// times: the server receives nothing from it any more. How many bytes that were. (A chat may take less time than the
// kernel needs to move what was sent: it waits for an ACK or paces. So the kernel has 20 ms, too.)
std::size_t push_until_held(Peer& peer, std::string_view bytes, Bystanders& bystanders) {
    std::size_t sent = 0, at = 0;
    for (int held = 0; held < 5; ++held) {
        for (;;) {
            const ssize_t taken = send(peer.fd(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (taken < 0) break;
            sent += static_cast<std::size_t>(taken);
            at = (at + static_cast<std::size_t>(taken)) % bytes.size();
            held = 0;
        }
        REQUIRE((errno == EAGAIN || errno == EWOULDBLOCK));
        bystanders.chat();
        pollfd room{peer.fd(), POLLOUT, 0};
        poll(&room, 1, 20);
        REQUIRE(sent < 200 * kMiB);
    }
    return sent;
}

// Peers who read nothing, and more than 24 MiB that are due to them: the common part of the log is
// full. The first two say one long message, and nothing else. Then others say their share, until that is hardly anything.
struct FullLog {
    std::vector<Peer> never_read;

    FullLog(const Server& server, Bystanders& bystanders) : never_read(join(server, 2)) {
        REQUIRE(push(never_read[0], masked(Opcode::binary, long_message())));
        while (bystanders.skipped < 16 * kMiB) bystanders.chat();
        const std::string more = repeat(masked(Opcode::binary, std::string(10'000, 'm')), 100);
        std::size_t before = 0;
        do {
            before = bystanders.skipped;
            never_read.emplace_back(server).shake_hands();
            push_until_held(never_read.back(), more, bystanders);
        } while (bystanders.skipped - before > kMiB);
    }

    static std::string long_message() { return std::string(16 * kMiB, 'f'); }
};

// Whether a newcomer whose request is sent becomes a peer; if not, it hears why.
bool let_in(Peer& newcomer) {
    const std::string head = newcomer.receive_until("\r\n\r\n");
    if (head == kResponse) return true;
    REQUIRE(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    REQUIRE(head.find("\r\nContent-Length: " + std::to_string(newcomer.receive_all().size()) + "\r\n") != head.npos);
    return false;
}

// So many connect before one of them reads or leaves. Those who are let in.
std::vector<Peer> crowd(const Server& server, std::size_t size) {
    std::vector<Peer> all, in;
    for (std::size_t i = 0; i < size; ++i) all.emplace_back(server).try_send(kRequest);
    for (Peer& peer : all) {
        if (let_in(peer)) in.push_back(std::move(peer));
    }
    return in;
}

// This process needs as many descriptors as there are connections.
std::size_t connections_allowed() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    return static_cast<std::size_t>(files.rlim_cur) - 50;
}

std::function<void()> limited(int resource, rlim_t most) {
    return [=] {
        const rlimit limit{most, most};
        setrlimit(static_cast<decltype(RLIMIT_NOFILE)>(resource), &limit);
    };
}

}  // namespace

TEST_SUITE("limits: descriptors") {
    void check_crowd(const std::function<void()>& in_child, std::size_t size, std::size_t least) {
        if (size > connections_allowed()) {
            MESSAGE("not tested: ulimit -n allows no ", size, " connections at once");
            return;
        }
        Server server({"--quiet"}, in_child);
        Bystanders bystanders(server);
        auto in = crowd(server, size);
        CHECK(in.size() >= least);
        CHECK(in.size() < size);
        bystanders.chat();
        check_idle(server, bystanders.a);

        const auto one_more = [&] {
            Peer newcomer(server);
            newcomer.try_send(kRequest);
            if (!let_in(newcomer)) return false;
            in.push_back(std::move(newcomer));
            return true;
        };
        CHECK_FALSE(one_more());
        for (int i = 0; i < 3; ++i) {
            in.erase(in.begin());
            wait_until("the slot that became free is filled", one_more);
            CHECK_FALSE(one_more());
        }
        bystanders.chat();
        for (Peer& peer : in) peer.send_frame(Opcode::ping, "");  // they are all still there, and heard both of them
        in.back().text();
    }

    TEST_CASE("1100 connections: 1000 peers or more, the others hear 503, and so do later ones until a slot is free") {
        check_crowd({}, 1100, 1000);
    }

    TEST_CASE("the same at ulimit -n 1024") { check_crowd(limited(RLIMIT_NOFILE, 1024), 1100, 1000); }

    TEST_CASE("200 connections at ulimit -n 64: 30 peers or more") { check_crowd(limited(RLIMIT_NOFILE, 64), 200, 30); }

    TEST_CASE("5000 connects and closes leave no descriptor behind, and no place taken") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const int before = server.descriptors();
        for (int i = 0; i < 5000; ++i) {
            Peer peer(server);
            if (i % 3 == 1) peer.send(kRequest.substr(0, 50));
            if (i % 3 == 2) peer.send(kRequest + masked(Opcode::binary, "and gone"));
            if (i % 7 == 0) peer.reset_now();
            if (i % 500 == 0) bystanders.chat();
        }
        bystanders.chat();
        wait_until("all descriptors are closed", [&] { return server.descriptors() == before; });
        Peer newcomer(server);
        newcomer.shake_hands();
    }

    TEST_CASE("a storm of RSTs, at any point") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const int before = server.descriptors();
        const std::vector<std::string> points{
            "", "GET ", "nonsense\r\n\r\n", kRequest, kRequest + "\x81", kRequest + masked(Opcode::text, "bye"),
            kRequest + masked(Opcode::close, "")};
        for (int round = 0; round < 50; ++round) {
            std::vector<Peer> storm;
            for (const std::string& bytes : points) storm.emplace_back(server).send(bytes);
            if (round % 2 == 0) bystanders.chat();  // and these lines are due to those who will not take them
            for (Peer& peer : storm) peer.reset_now();
        }
        bystanders.chat();
        wait_until("all descriptors are closed", [&] { return server.descriptors() == before; });
    }

    TEST_CASE("a closing handshake that nobody finishes ends after 2 s, whatever still comes") {
        Server server;
        Bystanders bystanders(server);
        const int before = server.descriptors();
        auto peers = join(server, 2);
        const auto start = Clock::now();
        peers[0].send(masked(Opcode::close, "\x03\xE8"));
        peers[1].send("\x81\x02");
        peers.emplace_back(server).send("nonsense\r\n\r\n");
        CHECK(peers[0].receive_all() == "\x88\x02\x03\xE8");
        CHECK(peers[1].receive_all() == "\x88\x02\x03\xEA");
        peers[2].refusal();
        while (peers[1].try_send("more") && Clock::now() < start + kPatience) bystanders.chat();
        CHECK(Clock::now() - start > 1500ms);
        CHECK(Clock::now() - start < 10s);
        wait_until("all descriptors are closed", [&] { return server.descriptors() == before; });
    }

    TEST_CASE("who is closing and takes something, but then no more, is gone 2 s later") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const int before = server.descriptors();
        auto leaver = join(server, 1), speaker = join(server, 1);
        REQUIRE(push(speaker[0], masked(Opcode::binary, std::string(16 * kMiB, 'm'))));
        while (bystanders.skipped < 16 * kMiB) bystanders.chat();
        speaker.clear();
        leaver[0].shut_down_sending();
        bystanders.chat();
        REQUIRE(leaver[0].receive(256 * 1024).size() == 256 * 1024);
        const auto start = Clock::now();
        wait_until("it is gone", [&] { return server.descriptors() == before; });
        CHECK(Clock::now() - start > 1s);
        CHECK(Clock::now() - start < 15s);
        bystanders.chat();
    }

    TEST_CASE("a FIN from one who does not read makes no busy loop") {
        Server server;
        Bystanders bystanders(server);
        auto never_reads = join(server, 1);
        bystanders.say(std::string(kMiB, 'm'), 4);
        never_reads[0].shut_down_sending();
        server.wait_for("\ndisconnect client 6: ");
        check_idle(server, bystanders.a);
        bystanders.chat();
    }
}

TEST_SUITE("limits: sockets") {
    // A descriptor of our own for a socket of the server: its options are those that the server has set. -1 where
    // the system does not allow it.
    int borrow(const Server& server, int fd) {
#if defined(SYS_pidfd_open) && defined(SYS_pidfd_getfd)
        const int process = static_cast<int>(syscall(SYS_pidfd_open, server.pid(), 0));
        const int borrowed = static_cast<int>(syscall(SYS_pidfd_getfd, process, fd, 0));
        close(process);
        return borrowed;
#else
        static_cast<void>(server);
        static_cast<void>(fd);
        return -1;
#endif
    }

    int option(int fd, int level, int name) {
        int value = -1;
        socklen_t size = sizeof value;
        REQUIRE(getsockopt(fd, level, name, &value, &size) == 0);
        return value;
    }

    TEST_CASE("a client's socket: TCP_NODELAY, so that nothing small waits, and a bounded send buffer in the kernel") {
        const Server server;
        Bystanders bystanders(server);
        const int socket = borrow(server, 4);
        if (socket < 0) {
            MESSAGE("not tested: this system does not show another process's sockets");
            return;
        }
        CHECK(option(socket, IPPROTO_TCP, TCP_NODELAY) != 0);
        // Linux doubles what is asked for, for its own needs.
        CHECK(option(socket, SOL_SOCKET, SO_SNDBUF) == 256 * 1024);
#ifdef SO_BUF_LOCK
        // A receive buffer of fixed size can stop both directions: see listen_on() in server.cpp.
        constexpr int receive_lock = 2;  // SOCK_RCVBUF_LOCK
        CHECK((option(socket, SOL_SOCKET, SO_BUF_LOCK) & receive_lock) == 0);
#endif
        CHECK((fcntl(socket, F_GETFL) & O_NONBLOCK) != 0);
        close(socket);
    }

    TEST_CASE("no descriptor for a newcomer: it waits, there is no busy loop, and it is let in when there is one") {
        Server server;
        Bystanders bystanders(server);
        const auto allow = [&](rlim_t files) {
            rlimit limit{};
            REQUIRE(prlimit(server.pid(), RLIMIT_NOFILE, nullptr, &limit) == 0);
            limit.rlim_cur = files;
            REQUIRE(prlimit(server.pid(), RLIMIT_NOFILE, &limit, nullptr) == 0);
        };
        allow(6);  // 0 to 5 are in use
        Peer newcomer(server);
        newcomer.send(kRequest);
        check_idle(server, bystanders.a);
        bystanders.chat();
        CHECK(newcomer.silent(0ms));
        allow(64);
        REQUIRE(newcomer.receive(kResponse.size()) == kResponse);
        newcomer.send_frame(Opcode::text, "in at last");
        CHECK(newcomer.text() == "in at last");
    }

    TEST_CASE("refused without a slot, all of them leave: no descriptor stays") {
        Server server({"--quiet"}, limited(RLIMIT_NOFILE, 64));
        Bystanders bystanders(server);
        const int before = server.descriptors();
        for (int round = 0; round < 3; ++round) {
            auto in = crowd(server, 200);
            bystanders.chat();
            in.clear();
            wait_until("all descriptors are closed", [&] { return server.descriptors() == before; });
        }
    }

    TEST_CASE("200 flood, one says a line: it is heard behind no more than one round of theirs") {
        Server server({"--quiet"});
        auto peers = join(server, 201);
        const std::string flood = repeat(masked(Opcode::binary, std::string(1000, 'f')), 1000);
        server.signal(SIGSTOP);  // so that all of it waits at the same time
        std::size_t waiting = 0;
        for (std::size_t i = 0; i + 1 < peers.size(); ++i) {
            const ssize_t sent = send(peers[i].fd(), flood.data(), flood.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            REQUIRE(sent > 0);
            waiting += static_cast<std::size_t>(sent);
        }
        CHECK(waiting > 16 * kMiB);
        Peer& one = peers.back();
        one.send_frame(Opcode::text, "me, too");
        server.signal(SIGCONT);
        std::size_t before = 0;
        for (;;) {
            const Peer::Frame frame = one.next_frame();
            REQUIRE_FALSE(frame.ended);
            if (frame.header.opcode == Opcode::text) break;
            before += frame.payload.size();
        }
        CHECK(before < 2 * kMiB);
    }

    TEST_CASE("what ended a connection is printed: a RST") {
        Server server;
        Bystanders bystanders(server);
        Peer peer(server);
        peer.shake_hands();
        peer.reset_now();
        server.wait_for("\ndisconnect client 6: Connection reset by peer\n");
        bystanders.chat();
    }
}

TEST_SUITE("limits: handshake and message") {
    TEST_CASE("8 KiB of header are read, and 431 answers the first byte more") {
        const Server server;
        Bystanders bystanders(server);
        const std::string filler = "GET /" + std::string(8192 - kRequest.size() - 1, 'x');
        for (const bool over : {false, true}) {
            Peer peer(server);
            const std::string request = filler + (over ? "xx" : "x") + kRequest.substr(5);
            REQUIRE(request.size() == (over ? 8193 : 8192));
            peer.send(request.substr(0, 8000));
            bystanders.chat();
            peer.try_send(request.substr(8000));
            if (over) CHECK(peer.refusal().starts_with("HTTP/1.1 431 "));
            else CHECK(let_in(peer));
        }
        Peer endless(server);
        endless.try_send("GET / HTTP/1.1\r\nHost: x\r\n" + repeat("X: y\r\n", 50000));
        CHECK(endless.refusal().starts_with("HTTP/1.1 431 "));
        CHECK_FALSE(endless.reset());
        bystanders.chat();
    }

    TEST_CASE("16 MiB in fragments are a message; one byte more is 1009 as soon as a header says so") {
        const Server server;
        Bystanders bystanders(server);
        const std::string half(8 * kMiB, 'h');
        Peer peer(server);
        peer.shake_hands();
        peer.send(masked(Opcode::text, half, false) + masked(Opcode::continuation, half, false));
        bystanders.chat();
        peer.send(masked(Opcode::continuation, ""));
        for (Peer* listener : {&bystanders.a, &bystanders.b}) CHECK((listener->text() == half + half));
        peer.send(masked(Opcode::binary, half, false) + masked(Opcode::continuation, half, false));
        bystanders.chat();
        peer.send(header(Opcode::continuation, 1));
        CHECK(peer.closed_with() == 1009);
        bystanders.chat();
    }

    TEST_CASE("slowloris: 300 that trickle, in their handshake or in a frame") {
        const Server server;
        Bystanders bystanders(server);
        std::vector<Peer> slow;
        const std::string message = masked(Opcode::text, std::string(100, 's'));
        for (int i = 0; i < 300; ++i) {
            slow.emplace_back(server);
            if (i % 2 == 1) slow.back().shake_hands();
        }
        for (std::size_t at = 0; at < 40; ++at) {
            for (std::size_t i = 0; i < slow.size(); ++i) slow[i].send((i % 2 == 0 ? kRequest : message).substr(at, 1));
            bystanders.chat();
        }
    }

    // The connection must end in time, however it ends.
    using Make = std::function<std::string(std::mt19937&)>;

    void check_random(const Server& server, Bystanders& bystanders, const Make& make) {
        for (unsigned seed = 1; seed <= 200; ++seed) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            Peer peer(server);
            peer.try_send(make(random));
            peer.shut_down_sending();
            if (seed % 4 == 0) peer.reset_now();
            else peer.receive_all();
            if (seed % 20 == 0) bystanders.chat();
        }
    }

    std::string random_bytes(std::mt19937& random) {
        std::string bytes(random() % 3000, '\0');
        for (char& byte : bytes) byte = static_cast<char>(random());
        return bytes;
    }

    std::string spoilt(std::mt19937& random, std::string bytes) {
        for (auto changes = random() % 5; changes > 0; --changes) {
            bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
        }
        return bytes.substr(0, random() % (bytes.size() + 1));
    }

    TEST_CASE("random bytes before and after the handshake, and good ones with some bits changed") {
        Server server({"--trace"});
        Bystanders bystanders(server);
        const std::string frames = masked(Opcode::text, "李", false) + masked(Opcode::ping, "now") +
                                   masked(Opcode::continuation, "靖") + masked(Opcode::binary, std::string(300, 'b')) +
                                   masked(Opcode::close, "\x03\xE8" "bye");
        check_random(server, bystanders, [](std::mt19937& random) { return random_bytes(random); });
        check_random(server, bystanders, [](std::mt19937& random) { return kRequest + random_bytes(random); });
        check_random(server, bystanders, [](std::mt19937& random) { return spoilt(random, kRequest); });
        check_random(server, bystanders, [&](std::mt19937& random) { return kRequest + spoilt(random, frames); });
        bystanders.chat();
        for (const char c : server.out()) REQUIRE((c == '\n' || (c >= ' ' && c <= '~')));
    }
}

TEST_SUITE("limits: memory") {
    TEST_CASE("those who never read hold up a flood, and nothing else") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const long when_new = server.resident_bytes();
        const auto never_read = join(server, 8);
        auto flooder = join(server, 1);
        const std::string messages = repeat(masked(Opcode::binary, std::string(10'000, 'f')), 1000);
        const std::size_t sent = push_until_held(flooder[0], messages, bystanders);
        CHECK(sent > kMiB);
        CHECK(sent < 16 * kMiB);  // its window, and what the kernels at both ends take
        check_memory(server, when_new, 48);
    }

    TEST_CASE("100 MiB for one who is always some MiB behind: the log begins again at its start, to the byte") {
        Server server({"--quiet"});
        auto peers = join(server, 2);
        Peer behind(server);
        behind.shake_hands();
        // Each is different all through: bytes of an older one would be seen.
        const auto message = [](std::size_t number) { return repeat(std::to_string(number), kMiB / 3); };
        std::size_t next = 100;
        for (std::size_t said = 100; said < 200; ++said) {
            peers[0].send_frame(Opcode::binary, message(said));
            for (Peer& peer : peers) REQUIRE((peer.next_frame().payload == message(said)));
            // Something of the log is always due to it, so that the log never begins anew meanwhile.
            if (said >= 103) REQUIRE((behind.next_frame().payload == message(next++)));
        }
        while (next < 200) REQUIRE((behind.next_frame().payload == message(next++)));
    }

    TEST_CASE("a message that just fits into its sender's share is received in large pieces to its end") {
        Server server({"--trace"});
        auto peers = join(server, 3);
        const std::string message(8 * kMiB - 16, 'm');  // the share is 24 MiB for three
        peers[0].send_frame(Opcode::binary, message);
        for (Peer& peer : peers) REQUIRE((peer.next_frame().payload == message));
        CHECK(count(server.out(), "\nrecv 4: ") < 2000);
    }

    TEST_CASE("senders come and go while one hardly reads: together they say no more than there is room for") {
        Server server({"--quiet"});
        Peer slow(server);
        slow.shake_hands();
        Bystanders bystanders(server);
        const int before = server.descriptors();
        const auto next_binary = [&] {
            Peer::Frame frame;
            while (!frame.ended && frame.header.opcode != Opcode::binary) frame = slow.next_frame();
            REQUIRE(frame.payload.size() == kMiB);
            REQUIRE(frame.payload.find_first_not_of(frame.payload[0]) == std::string::npos);
            return frame.payload[0];
        };
        std::vector<Peer> in_their_places;  // so that each sender has a descriptor, and a share, of its own
        std::string heard;
        for (char name = 'a'; name < 'm'; ++name) {
            auto sender = join(server, 1);
            const std::string message = masked(Opcode::binary, std::string(kMiB, name));
            push_until_held(sender[0], message, bystanders);
            sender.clear();
            wait_until("the sender has left", [&] {
                bystanders.chat();  // who is held is not read: that it has gone is seen when it is sent something
                return server.descriptors() <= before + static_cast<int>(in_their_places.size());
            });
            in_their_places.emplace_back(server);
            heard += next_binary();
        }
        in_their_places.clear();
        bystanders.a.send_frame(Opcode::binary, std::string(kMiB, 'z'));
        while (heard.back() != 'z') heard += next_binary();
        CHECK(std::ranges::is_sorted(heard));
        CHECK(heard.size() > 24);
    }

    TEST_CASE("the common part of the log is full: who says little is heard at once, though nobody makes room") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const FullLog full(server, bystanders);
        const int before = server.descriptors();
        for (int i = 0; i < 150; ++i) bystanders.chat(1000);
        CHECK(server.descriptors() == before);  // nobody was dropped meanwhile, which would have made room
    }

    TEST_CASE("the common part of the log is full: long messages wait, however little their senders have said") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const FullLog full(server, bystanders);
        auto senders = join(server, 2);
        const std::string message = masked(Opcode::binary, FullLog::long_message());
        for (Peer& sender : senders) CHECK(push_until_held(sender, message, bystanders) < message.size());
        bystanders.chat();
    }

    TEST_CASE("the common part of the log is full: who comes back is let in, and may say a little") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        FullLog full(server, bystanders);
        const int before = server.descriptors();
        full.never_read.erase(full.never_read.end() - 2);
        wait_until("who said all that it may has left", [&] { return server.descriptors() < before; });
        Peer again(server);  // the window of its seat is full, so it gets another seat
        again.send(kRequest + masked(Opcode::text, std::string(20'000, 'a')));
        REQUIRE(again.receive(kResponse.size()) == kResponse);
        const int with_it = server.descriptors();
        while (bystanders.texts == 0) bystanders.chat();
        CHECK(server.descriptors() == with_it);  // nobody was dropped meanwhile, which would have made room
    }

    TEST_CASE("the common part of the log is full: even who has one of the last seats may say 8 KiB") {
        if (connections_allowed() < 1000) {
            MESSAGE("not tested: ulimit -n allows no 1000 connections at once");
            return;
        }
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const FullLog full(server, bystanders);
        std::vector<Peer> no_peers;
        while (no_peers.size() < 980) no_peers.emplace_back(server);
        auto last = join(server, 1);
        const int before = server.descriptors();
        last[0].send(repeat(masked(Opcode::text, std::string(1000, 'l')), 8));
        while (bystanders.texts < 8000) bystanders.chat();
        CHECK(server.descriptors() == before);  // nobody was dropped meanwhile, which would have made room
    }

    TEST_CASE("a TCP FIN from one for whom half of the log waits: all of it is still sent") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        FullLog full(server, bystanders);
        Peer& late = full.never_read[1];
        late.shut_down_sending();
        bystanders.chat();
        const std::string all = late.receive_all(), first = encode(Opcode::binary, FullLog::long_message());
        CHECK(all.size() > 24 * kMiB);
        CHECK(all.find(first) != all.npos);
        CHECK_FALSE(late.reset());
    }

    TEST_CASE("while one reads nothing a peer may say its share, and no more when a part of that was read") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        auto others = join(server, 2);  // four peers: 6 MiB for each
        std::vector<Peer> no_peers;
        for (int i = 0; i < 4; ++i) no_peers.emplace_back(server);  // they have no share
        const std::string small = repeat(masked(Opcode::text, "small!"), 10'000);  // 8 bytes each in the log
        push_until_held(others[0], small, bystanders);
        const std::size_t said = bystanders.skipped;
        CHECK(said > 6 * kMiB - 64 * 1024);
        CHECK(said < 7 * kMiB);
        for (Peer& peer : others) REQUIRE(peer.receive(256 * 1024).size() == 256 * 1024);
        push_until_held(others[0], small, bystanders);
        CHECK(bystanders.skipped - said < 2 * kMiB);
    }

    TEST_CASE("two long messages end at once, and there is room for one: the other waits, and is heard later") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        auto slow = join(server, 1);
        REQUIRE(push(slow[0], masked(Opcode::binary, std::string(9 * kMiB, 's'))));
        while (bystanders.skipped < 9 * kMiB) bystanders.chat();
        auto senders = join(server, 2);
        for (Peer& sender : senders) {
            sender.send(masked(Opcode::binary, std::string(16 * kMiB, 'm'), false) + masked(Opcode::ping, ""));
            while (sender.next_frame().header.opcode != Opcode::pong) {}  // the server has received it all
        }
        server.signal(SIGSTOP);  // so that both ends come in one round
        for (Peer& sender : senders) sender.send_frame(Opcode::continuation, "");
        server.signal(SIGCONT);
        const std::size_t before = bystanders.skipped, message = 10 + 16 * kMiB;
        while (bystanders.skipped == before) bystanders.chat();
        for (int i = 0; i < 5; ++i) bystanders.chat();
        CHECK(bystanders.skipped - before == message);
        for (Peer* peer : {&slow[0], &senders[0], &senders[1]}) {
            while (peer->next_frame().payload.size() < 16 * kMiB) {}
        }
        while (bystanders.skipped == before + message) bystanders.chat();
        CHECK(bystanders.skipped - before == 2 * message);
    }

    TEST_CASE("a Close comes behind the Pongs that were not taken, and does not break the one that is half sent") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        auto pingers = join(server, 10);  // where the kernel cuts the Pongs depends on their length
        std::vector<std::string> payloads;
        for (Peer& pinger : pingers) {
            payloads.emplace_back(125 - 10 * payloads.size(), 'p');
            push_until_held(pinger, repeat(masked(Opcode::ping, payloads.back()), 1000), bystanders);
        }
        bystanders.chat();  // this is due to them, too, but not when they are closing
        server.signal(SIGTERM);
        int closed = 0;
        for (std::size_t i = 0; i < pingers.size(); ++i) {
            std::size_t pongs = 0;
            Peer::Frame frame = pingers[i].next_frame();
            for (; !frame.ended && frame.header.opcode != Opcode::close; frame = pingers[i].next_frame()) {
                const bool pong = frame.header.opcode == Opcode::pong;
                REQUIRE((pong ? frame.payload == payloads[i] : frame.payload.starts_with("the bystanders' line ")));
                pongs += pong ? 1 : 0;
            }
            CHECK(pongs > 100);
            if (frame.ended) continue;  // that took it more than the second that the server gives
            CHECK(close_code(frame.payload) == 1001);
            CHECK(pingers[i].receive_all() == "");
            ++closed;
        }
        CHECK(closed > 0);
    }

    TEST_CASE("300 read at once what is longer than a share: the next message is heard at once, too") {
        Server server({"--quiet"});
        auto peers = join(server, 300);  // a share is 82 KiB, and the last has a reserve of 12 KiB
        const std::string message(100'000, 'm');
        for (int i = 0; i < 5; ++i) {
            peers.back().send_frame(Opcode::binary, message);
            for (Peer& peer : peers) REQUIRE((peer.next_frame().payload == message));
        }
    }

    TEST_CASE("a million empty messages for one who does not read") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const long when_new = server.resident_bytes();
        const auto never_reads = join(server, 1);
        for (int i = 0; i < 10; ++i) bystanders.say("", 100'000);
        check_memory(server, when_new, 64 + 32);
        bystanders.chat();
    }

    TEST_CASE("Pings without end, with messages between them or long ones, from one who does not read the Pongs") {
        const std::string longest(125, 'p');
        for (const auto& pings : {masked(Opcode::ping, "") + masked(Opcode::text, ""), masked(Opcode::ping, longest)}) {
            Server server({"--quiet"});
            Bystanders bystanders(server);
            const long when_new = server.resident_bytes();
            auto never_reads = join(server, 1);
            push_until_held(never_reads[0], repeat(pings, 50'000), bystanders);
            check_memory(server, when_new, 16);
            bystanders.chat();
        }
    }

    TEST_CASE("two messages of 16 MiB that end at once reach all who read") {
        const Server server;
        auto peers = join(server, 5);
        const std::string frame = masked(Opcode::binary, std::string(16 * kMiB, 'e'));
        for (Peer* peer : {&peers[0], &peers[1]}) peer->send(std::string_view(frame).substr(0, frame.size() - 1));
        for (Peer* peer : {&peers[0], &peers[1]}) peer->send(std::string_view(frame).substr(frame.size() - 1));
        const std::string all = repeat(encode(Opcode::binary, std::string(16 * kMiB, 'e')), 2);
        for (std::size_t at = 0; at < all.size(); at += kMiB) {
            const std::string expected = all.substr(at, kMiB);
            for (Peer& peer : peers) REQUIRE((peer.receive(expected.size()) == expected));
        }
    }

    TEST_CASE("nothing is set aside for 500 messages of 16 MiB that were only announced") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        auto announcers = join(server, 500);
        const long when_new = server.resident_bytes(), asked_for = server.virtual_bytes();
        for (Peer& peer : announcers) peer.send(header(Opcode::text, 16 * kMiB) + "a");
        for (Peer& peer : announcers) peer.send("b");
        bystanders.chat();
        check_memory(server, when_new, 16);
        if (!server_is_sanitized()) CHECK((server.virtual_bytes() - asked_for) / kMiB < 64);  // used or not
    }

    TEST_CASE("half-received messages take 40 MiB and no more; the one that holds most goes first, with 1009") {
        Server server;
        Bystanders bystanders(server);
        const long when_new = server.resident_bytes();
        auto holders = join(server, 12);
        const int port_of_most = holders[3].port();
        const auto hold = [&](Peer& peer, std::size_t mebibytes) {
            push(peer, header(Opcode::text, 16 * kMiB) + std::string(mebibytes * kMiB, 'h'));
            bystanders.chat();
        };
        // Memory grows by doubling: 12 MiB take 12 to 16, 3 MiB take 3 to 6.
        hold(holders[3], 12);
        for (const std::size_t i : {0u, 1u, 2u, 4u}) hold(holders[i], 3);
        CHECK(count(server.out(), "(1009)\n") == 0);
        for (const std::size_t i : {5u, 6u, 7u, 8u, 9u, 10u}) hold(holders[i], 3);
        CHECK(holders[3].closed_with() == 1009);
        const std::string log = server.wait_for(" (1009)\n");  // it is printed when the round ends
        const std::string connected = " from 127.0.0.1:" + std::to_string(port_of_most) + "\n";
        const std::size_t line = log.rfind("connect client ", log.find(connected));
        const std::string most = log.substr(line + 15, log.find(" from", line) - line - 15);
        CHECK(log.substr(log.find("\ndisconnect client ") + 19, most.size() + 1) == most + ":");
        check_memory(server, when_new, 40 + 32);
        bystanders.chat();
    }

    TEST_CASE("half-received messages of those who are closing do not count: each one too many goes with 1009") {
        Server server;
        Bystanders bystanders(server);
        auto holders = join(server, 6);
        for (Peer& peer : holders) {  // 9 MiB take 16, so there is room for two; and nobody finishes its closing
            REQUIRE(push(peer, header(Opcode::binary, 16 * kMiB) + std::string(9 * kMiB, 'h')));
        }
        wait_until("only two are left", [&] { return count(server.out(), "(1009)\n") == 4; });
        bystanders.chat();
    }

    TEST_CASE("500 have taken their Pongs, and no memory is kept for them") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        auto pingers = join(server, 500);
        const long when_new = server.resident_bytes();
        const std::string longest(125, 'p');
        const std::string pings = repeat(masked(Opcode::ping, longest), 250);
        const std::string pongs = repeat(encode(Opcode::pong, longest), 250);
        for (Peer& peer : pingers) {
            peer.send(pings);
            REQUIRE((peer.receive(pongs.size()) == pongs));
        }
        bystanders.chat();
        check_memory(server, when_new, 6);
    }

    TEST_CASE("a failing allocation costs one client, not the process") {
        if (server_is_sanitized()) MESSAGE("not tested: a sanitized server needs more memory than it would be given");
        if (server_is_sanitized()) return;
        Server server({}, limited(RLIMIT_AS, 100 * kMiB));
        auto giants = join(server, 20);
        for (Peer& peer : giants) push(peer, header(Opcode::text, 16 * kMiB) + std::string(15 * kMiB, 'g'));
        server.wait_for("\ndisconnect client ");
        giants.clear();
        Bystanders(server).chat();
        server.signal(SIGTERM);
        CHECK(server.wait() == 0);
    }
}

TEST_SUITE("limits: standard output") {
    // Numbers in "(12 lines dropped)", all together.
    std::size_t dropped_lines(const std::string& out) {
        std::size_t sum = 0;
        for (std::size_t at = out.find("\n("); at != out.npos; at = out.find("\n(", at + 1)) {
            sum += std::strtoul(out.c_str() + at + 2, nullptr, 10);
        }
        return sum;
    }

    TEST_CASE("a full pipe delays nobody; the lines that found no room are counted") {
        Server server;
        Bystanders bystanders(server);
        server.wait_for("shakeHands 5\n");
        server.stop_reading();
        const std::size_t lines = 20'000;
        for (std::size_t i = 0; i < lines / 100; ++i) bystanders.say("loud", 100);
        check_idle(server, bystanders.a);
        server.go_on_reading();
        wait_until("every line is printed or counted",
                   [&] { return count(server.out(), "\nsend file ") + dropped_lines(server.out()) >= lines; });
        bystanders.say("heard again", 1);
        server.wait_for("\nsend file 4: text, 11 bytes, to 2 clients\n");
        CHECK(dropped_lines(server.out()) > 0);
        CHECK(count(server.out(), "text, 4 bytes, to 2 clients\n") + dropped_lines(server.out()) == lines);

        server.stop_reading();  // nor does it keep the process from ending
        bystanders.say("loud", lines / 4);
        server.signal(SIGTERM);
        CHECK(bystanders.a.closed_with() == 1001);
        for (Peer* peer : {&bystanders.a, &bystanders.b}) peer->close();  // or the server would give them a second to go
        CHECK(server.wait() == 0);
    }

    TEST_CASE("nobody reads standard output any more: the chat goes on, and there is no busy loop") {
        std::array<int, 2> ends{};
        REQUIRE(pipe(ends.data()) == 0);
        Process process({server_path(), "--trace", "127.0.0.1", "0"}, [&] { dup2(ends[1], STDOUT_FILENO); });
        close(ends[1]);
        Peer peer(listening_port(process));
        peer.shake_hands();
        close(ends[0]);
        for (int i = 0; i < 10; ++i) {
            peer.send_frame(Opcode::text, "a line for nobody");
            REQUIRE(peer.text() == "a line for nobody");
        }
        check_idle(process, peer);
        process.signal(SIGTERM);
        CHECK(peer.closed_with() == 1001);
        peer.close();
        CHECK(process.wait() == 0);
    }

    TEST_CASE("a terminal stopped with Ctrl-S delays nobody; Ctrl-Q brings the lines and the count of those dropped") {
        const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        REQUIRE(terminal >= 0);
        REQUIRE(grantpt(terminal) == 0);
        REQUIRE(unlockpt(terminal) == 0);
        fcntl(terminal, F_SETFL, O_NONBLOCK);
        const std::string name = ptsname(terminal);
        Process process({server_path(), "127.0.0.1", "0"}, [&] {
            dup2(open(name.c_str(), O_RDWR | O_NOCTTY), STDOUT_FILENO);
            for (int fd = 3; fd < 10; ++fd) close(fd);
        });
        std::string out;
        const auto shows = [&](std::string_view text) {
            std::array<char, 1> byte;
            while (read(terminal, byte.data(), 1) == 1) out += byte[0];
            return out.find(text) != out.npos;
        };
        wait_until("it listens", [&] { return shows("Master socket"); });
        Peer peer(listening_port(process));
        peer.shake_hands();
        wait_until("it shows the handshake", [&] { return shows("shakeHands 4"); });
        REQUIRE(write(terminal, "\x13", 1) == 1);
        for (int i = 0; i < 100; ++i) {
            peer.send(repeat(masked(Opcode::text, "x"), 100));
            REQUIRE(peer.receive(300) == repeat("\x81\x01x", 100));
        }
        REQUIRE_FALSE(shows("lines dropped"));
        REQUIRE(write(terminal, "\x11", 1) == 1);
        wait_until("the count", [&] { return shows(" lines dropped)"); });
        peer.send_frame(Opcode::text, "the last");
        wait_until("the last line", [&] { return shows("text, 8 bytes"); });
        CHECK(count(out, "text, 1 bytes, to 1 clients") + dropped_lines(out) == 10'000);
        close(terminal);  // and a terminal that goes away ends nothing
        peer.send_frame(Opcode::text, "a line for nobody");
        CHECK(peer.text() == "the last");
        CHECK(peer.text() == "a line for nobody");
        peer.send_frame(Opcode::text, "another");
        CHECK(peer.text() == "another");
    }
}

TEST_SUITE("slow") {
    double seconds_since(Clock::time_point start) {
        return std::chrono::duration<double>(Clock::now() - start).count();
    }

    TEST_CASE("408 after 10 s, however much of it trickles in") {
        const Server server;
        Bystanders bystanders(server);
        std::vector<Peer> slow;
        const auto start = Clock::now();
        for (int i = 0; i < 100; ++i) slow.emplace_back(server);
        for (std::size_t at = 0; slow[0].silent(100ms) && seconds_since(start) < 30; ++at) {
            for (std::size_t i = 0; i < slow.size() / 2; ++i) slow[2 * i].try_send(kRequest.substr(at, 1));
            bystanders.chat();
        }
        CHECK(seconds_since(start) > 9);
        CHECK(seconds_since(start) < 15);
        for (Peer& peer : slow) {
            REQUIRE(peer.refusal().starts_with("HTTP/1.1 408 Request Timeout\r\n"));
            CHECK_FALSE(peer.reset());
        }
        bystanders.chat();
    }

    TEST_CASE("who takes nothing for 30 s while something waits for it is dropped; who takes a little is not") {
        Server server;
        Bystanders bystanders(server);
        auto readers = join(server, 2);  // descriptors 6 and 7
        const auto joined = Clock::now();
        while (seconds_since(joined) < 4) {  // the 30 s begin when it does not take something, not with its last word
            bystanders.chat();
            for (Peer& reader : readers) reader.text(), reader.text();
            REQUIRE(bystanders.a.silent(500ms));
        }
        const auto start = Clock::now();
        bystanders.say(std::string(kMiB, 'm'), 5);
        std::string heard;
        while (count(server.out(), "\ndisconnect client 6: ") == 0 && seconds_since(start) < 60) {
            bystanders.chat();
            readers[0].try_send(masked(Opcode::pong, "I am here"));  // what it says is not what it takes
            const std::string some = readers[1].receive(8 * 1024);
            heard += some;
            REQUIRE(bystanders.a.silent(500ms));
        }
        CHECK(seconds_since(start) > 29);
        server.wait_for("\ndisconnect client 6: takes nothing of what waits for it\n");
        CHECK(count(server.out(), "\ndisconnect client ") == 1);
        const std::string message = encode(Opcode::text, std::string(kMiB, 'm'));
        REQUIRE(heard.size() < 5 * message.size());
        heard += readers[1].receive(5 * message.size() - heard.size());
        CHECK((heard == repeat(message, 5)));
    }

    TEST_CASE("nobody else is there: a silent peer is sent its Ping at 30 s all the same") {
        const Server server;
        Peer alone(server);
        alone.shake_hands();
        const auto start = Clock::now();
        while (alone.silent(1s) && seconds_since(start) < 50) {}
        CHECK(seconds_since(start) > 29);
        CHECK(seconds_since(start) < 45);
        CHECK(alone.next_frame().header.opcode == Opcode::ping);
    }

    TEST_CASE("who takes nothing while half of the log waits for it is dropped after 30 s, and then there is room") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        const FullLog full(server, bystanders);
        const auto start = Clock::now();
        const int before = server.descriptors();
        while (server.descriptors() == before && seconds_since(start) < 90) {
            bystanders.chat();
            bystanders.a.silent(100ms);  // whether it is or not: those who flood go on as soon as there is room
        }
        CHECK(seconds_since(start) > 25);
        CHECK(seconds_since(start) < 50);
        bystanders.chat(2 * kMiB);
    }

    TEST_CASE("who is closing and takes some now and then is sent all, although that takes longer than 2 s") {
        Server server({"--quiet"});
        Bystanders bystanders(server);
        auto leaver = join(server, 1), speaker = join(server, 1);
        const std::string message(16 * kMiB, 'm');
        REQUIRE(push(speaker[0], masked(Opcode::binary, message)));
        while (bystanders.skipped < 16 * kMiB) bystanders.chat();
        leaver[0].shut_down_sending();
        std::string come;  // lines of the bystanders are around the message
        const auto start = Clock::now();
        while (seconds_since(start) < 7) {
            const std::string some = leaver[0].receive(256 * 1024);
            REQUIRE(some.size() == 256 * 1024);
            REQUIRE(bystanders.a.silent(500ms));
            come += some;
        }
        const std::string rest = leaver[0].receive_all();
        CHECK(rest.size() > 8 * kMiB);
        come += rest;
        CHECK((come.find(encode(Opcode::binary, message)) != come.npos));
    }

    TEST_CASE("the server does not run for 31 s: who has read meanwhile is not dropped") {
        Server server;
        Bystanders bystanders(server);
        auto reader = join(server, 1);
        bystanders.say(std::string(kMiB, 'm'), 4);
        const std::string all = repeat(encode(Opcode::text, std::string(kMiB, 'm')), 4);
        server.signal(SIGSTOP);
        REQUIRE(bystanders.a.silent(31s));
        const std::string some = reader[0].receive(256 * 1024);
        server.signal(SIGCONT);
        CHECK((some + reader[0].receive(all.size() - some.size()) == all));
        bystanders.chat();
    }

    TEST_CASE("silence: a Ping at 30 s, the end at 60 s, and neither for those who answer or talk") {
        Server server;
        struct Watched {
            const char* what;
            Peer peer;
            bool answers;
            double pinged = 0, ended = 0;
        };
        const auto start = Clock::now();
        Bystanders bystanders(server);
        std::vector<Watched> all;
        for (const char* what : {"says nothing", "stops inside a frame", "answers"}) {
            all.push_back({what, Peer(server), what == "answers"s});
            all.back().peer.shake_hands();
        }
        all[1].peer.send("\x81\x85");
        while (seconds_since(start) < 65) {
            bystanders.chat();
            for (auto& [what, peer, answers, pinged, ended] : all) {
                while (ended == 0 && !peer.silent(0ms)) {
                    const Peer::Frame frame = peer.next_frame();
                    if (frame.ended) ended = seconds_since(start);
                    if (frame.header.opcode != Opcode::ping || frame.ended) continue;
                    if (pinged == 0) pinged = seconds_since(start);
                    if (answers) peer.send_frame(Opcode::pong, frame.payload);
                }
            }
            REQUIRE(bystanders.a.silent(200ms));  // no Ping for them
        }
        for (const Watched& one : all) {
            CAPTURE(one.what);
            CHECK(one.pinged > 29);
            CHECK(one.pinged < 40);
            CHECK((one.answers ? one.ended == 0 : one.ended > 59));
        }
        CHECK(count(server.out(), "\ndisconnect client ") == 2);
        CHECK(count(server.out(), ": silent for 60 s\n") == 2);
    }
}
