// Attacks that a server like this one must stand, each once. It is seen from outside that nobody honest is
// dropped, that the memory stays within its bound, and that the process goes on.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "harness.h"

using namespace std::string_literals;

namespace {

constexpr long kMiB = 1 << 20;

// Two peers that chat and notice nothing of the attack.
struct Honest {
    Peer a, b;
    int lines = 0;

    explicit Honest(const Server& server) : a(server), b(server) {
        a.shake_hands();
        b.shake_hands();
    }

    // What one says is heard by the other; what others say in between is skipped.
    void chat(std::size_t more = 0) {
        for (const auto& [speaker, listener] : {std::pair{&a, &b}, std::pair{&b, &a}}) {
            const std::string line = "line " + std::to_string(++lines) + std::string(more, '.');
            speaker->send_frame(Opcode::text, line);
            Peer::Frame frame;
            while (!frame.ended && frame.payload != line) frame = listener->next_frame();
            REQUIRE_FALSE(frame.ended);
        }
    }
};

// One that sends and does not read, as fast as the server takes it.
struct Attacker {
    Peer peer;
    std::string bytes;     // what it sends, again and again
    std::size_t sent = 0;

    Attacker(const Server& server, std::string what) : peer(server), bytes(std::move(what)) { peer.shake_hands(); }

    // Sends what the kernel takes now; false when that was nothing.
    bool push() {
        const std::size_t before = sent;
        for (;;) {
            const std::string_view rest = std::string_view(bytes).substr(sent % bytes.size());
            const ssize_t taken = ::send(peer.fd(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (taken < 0) break;
            sent += static_cast<std::size_t>(taken);
        }
        return sent > before;
    }

    // Reads what has come, and does not look at it.
    void drain() {
        std::array<char, 1 << 16> scrap;
        while (::recv(peer.fd(), scrap.data(), scrap.size(), MSG_DONTWAIT) > 0) {}
    }
};

// Until the server has taken nothing from any of them while the honest chatted five times.
void attack(std::vector<Attacker>& attackers, Honest& honest) {
    const auto deadline = Clock::now() + kPatience;
    for (int quiet = 0; quiet < 5 && Clock::now() < deadline; ++quiet) {
        for (Attacker& one : attackers) {
            if (one.push()) quiet = 0;
        }
        honest.chat();
    }
}

void check_peak(const Server& server, long when_new, long mebibytes) {
    const long taken = (server.peak_bytes() - when_new) / kMiB;
    if (server_is_sanitized()) MESSAGE("not checked, for a sanitized server takes more memory: ", taken, " MiB");
    else CHECK(taken < mebibytes);
}

std::function<void()> limited(int resource, rlim_t most) {
    return [=] {
        const rlimit limit{most, most};
        setrlimit(static_cast<decltype(RLIMIT_NOFILE)>(resource), &limit);
    };
}

}  // namespace

TEST_SUITE("attacks: answers that nobody takes") {
    TEST_CASE("100 peers send empty Pings and empty messages and read nothing") {
        Server server({"--quiet"});
        Honest honest(server);
        const long when_new = server.resident_bytes();
        const std::string both = masked(Opcode::ping, "") + masked(Opcode::text, "");
        std::vector<Attacker> attackers;
        for (int i = 0; i < 100; ++i) attackers.emplace_back(server, repeat(both, 1000));
        attack(attackers, honest);
        check_peak(server, when_new, 48);
        attackers.clear();
        honest.chat();
    }

    TEST_CASE("200 000 numbered Pings whose Pongs are read late: each is answered once, in order, to the byte") {
        Server server({"--quiet"});
        Honest honest(server);
        const long when_new = server.resident_bytes();
        const int all = 200'000;
        std::string pings;
        for (int i = 0; i < all; ++i) pings += masked(Opcode::ping, std::to_string(1'000'000 + i));
        Peer peer(server);
        peer.shake_hands();
        std::size_t sent = 0;
        for (int next = 0; next < all; ) {
            const std::string_view rest = std::string_view(pings).substr(sent);
            const ssize_t taken = ::send(peer.fd(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (taken > 0) sent += static_cast<std::size_t>(taken);
            if (taken > 0) continue;
            // The server takes no more, or all is sent: now read some of what waits.
            for (int i = 0; i < 1000 && next < all; ++i) {
                const Peer::Frame pong = peer.next_frame();
                REQUIRE(pong.header.opcode == Opcode::pong);
                REQUIRE(pong.payload == std::to_string(1'000'000 + next));
                ++next;
            }
        }
        check_peak(server, when_new, 8);
        honest.chat();
    }
}

TEST_SUITE("attacks: floods and those who do not read them") {
    TEST_CASE("who does not run for a while gets every byte of a flood, in order") {
        Server server({"--quiet"});
        Honest honest(server);
        Peer sleeper(server);
        sleeper.shake_hands();
        std::string numbered;
        for (int i = 0; i < 1000; ++i) numbered += masked(Opcode::binary, std::to_string(1000 + i) + std::string(9996, '.'));
        std::vector<Attacker> flooders;
        flooders.emplace_back(server, numbered);
        attack(flooders, honest);
        const std::size_t messages = flooders[0].sent / (numbered.size() / 1000);
        REQUIRE(messages > 100);
        std::size_t next = 0;
        const auto deadline = Clock::now() + kPatience;
        while (next < messages) {
            flooders[0].drain();  // all read now: else these would hold up the flood, too
            honest.chat();
            REQUIRE(Clock::now() < deadline);
            while (!sleeper.silent(0ms)) {
                const Peer::Frame frame = sleeper.next_frame();
                REQUIRE_FALSE(frame.ended);
                if (frame.header.opcode != Opcode::binary) continue;
                REQUIRE(frame.payload.size() == 10'000);
                REQUIRE(frame.payload.substr(0, 4) == std::to_string(1000 + next % 1000));
                ++next;
            }
        }
        honest.chat();
    }

    TEST_CASE("a reader that closes, with much of a flood still due to it, holds no more than the log") {
        Server server({"--quiet"});
        Honest honest(server);
        const long when_new = server.resident_bytes();
        std::vector<Attacker> flooders;
        flooders.emplace_back(server, repeat(masked(Opcode::binary, std::string(50'000, 'f')), 100));
        for (int round = 0; round < 10; ++round) {
            auto closing = join(server, 10);
            attack(flooders, honest);
            for (std::size_t i = 0; i < closing.size(); ++i) {
                if (i % 2 == 0) closing[i].shut_down_sending();
                else closing[i].try_send(masked(Opcode::close, "\x03\xE8"));
            }
            honest.chat();
            flooders[0].push();
            honest.chat();
        }
        check_peak(server, when_new, 56);
    }

    TEST_CASE("they join, say all they may and leave, again and again, beside one who reads slowly: others are heard") {
        Server server({"--quiet"});
        const int when_new = server.descriptors();
        Honest honest(server);
        Peer slow(server);
        slow.shake_hands();
        const std::string flood = repeat(masked(Opcode::binary, std::string(4000, 'f')), 100);
        std::vector<Peer> in_their_places;  // so that each has a descriptor, and a window, of its own
        for (int i = 0; i < 60; ++i) {
            std::vector<Attacker> one;
            one.emplace_back(server, flood);
            attack(one, honest);
            one.clear();
            in_their_places.emplace_back(server);
        }
        // 64 KiB are said by each, and of all that waits the slow one takes less.
        for (int i = 0; i < 64; ++i) {
            honest.chat(1000);
            REQUIRE(slow.receive(1000).size() == 1000);
        }
        // Nobody had to wait until the slow one was dropped.
        const int all = when_new + 3 + static_cast<int>(in_their_places.size());
        wait_until("who said so much has left", [&] { return server.descriptors() <= all; });
        CHECK(server.descriptors() == all);
    }

    TEST_CASE("who comes in place of one that has said too much and left is heard at once") {
        Server server({"--quiet"});
        const int when_new = server.descriptors();
        Honest honest(server);
        Peer slow(server);
        slow.shake_hands();
        std::vector<Attacker> flooder;
        flooder.emplace_back(server, repeat(masked(Opcode::binary, std::string(4000, 'f')), 100));
        attack(flooder, honest);
        flooder[0].peer.reset_now();
        wait_until("it has left", [&] {
            honest.chat();  // while it is not read, its leaving is seen when there is something to send to it
            return server.descriptors() == when_new + 3;
        });
        Peer newcomer(server);
        newcomer.shake_hands();
        newcomer.send_frame(Opcode::text, "here I am");
        Peer::Frame frame;
        while (!frame.ended && frame.payload != "here I am") frame = honest.a.next_frame();
        CHECK_FALSE(frame.ended);
        CHECK(server.descriptors() == when_new + 4);  // nor did it wait until the slow one was dropped
    }

    TEST_CASE("a TCP FIN, and then it reads: all that was due to it before is still sent") {
        Server server;
        Honest honest(server);
        Peer late(server);
        late.shake_hands();
        const std::string message(kMiB, 'm');
        for (int i = 0; i < 4; ++i) {
            honest.a.send_frame(Opcode::binary, message);
            for (Peer* listener : {&honest.a, &honest.b}) REQUIRE(listener->next_frame().payload.size() == message.size());
        }
        late.shut_down_sending();
        server.wait_for(": connection ended without Close\n");
        const std::string expected = repeat(encode(Opcode::binary, message), 4);
        CHECK((late.receive_all() == expected));
        CHECK_FALSE(late.reset());
    }

    TEST_CASE("300 MiB that are said and read leave the memory as it was") {
        Server server({"--quiet"});
        Honest honest(server);
        const long when_new = server.resident_bytes();
        const std::string message(kMiB, 'm');
        for (int i = 0; i < 300; ++i) {
            honest.a.send_frame(Opcode::binary, message);
            for (Peer* listener : {&honest.a, &honest.b}) REQUIRE(listener->next_frame().payload.size() == message.size());
        }
        check_peak(server, when_new, 16);
    }
}

TEST_SUITE("attacks: half-received messages") {
    TEST_CASE("the memory of 300 half messages goes back to the system when their senders leave") {
        Server server({"--quiet"});
        Honest honest(server);
        const long when_new = server.resident_bytes();
        auto holders = join(server, 300);
        const std::string half = masked(Opcode::binary, std::string(60'000, 'h'), false) + masked(Opcode::ping, "");
        const auto hold = [&](Peer& peer) {
            peer.send(half);
            while (peer.next_frame().header.opcode != Opcode::pong) {}  // the server has it
        };
        for (Peer& peer : holders) hold(peer);
        CHECK((server.resident_bytes() - when_new) / kMiB > 16);
        Honest newcomers(server);
        hold(newcomers.a);  // this lies behind what the others hold: their memory is not at the heap's end
        const auto back = [&] { return (server.resident_bytes() - when_new) / kMiB < 6; };
        holders.clear();
        if (server_is_sanitized()) MESSAGE("not checked: a sanitized server keeps what is freed");
        else wait_until("the memory is back", back);
        honest.chat();
    }
}

TEST_SUITE("attacks: bytes that end a process") {
    TEST_CASE("violations under --trace: what has not come is not shown") {
        Server server({"--trace"});
        Honest honest(server);
        struct Case {
            std::string bytes, line;
        };
        for (const Case& c : {Case{"\x82\xFF\x80", ": 82 ff 80 | FIN binary\n"},
                              {"\x82\xFE\0\x7D"s, ": 82 fe 00 7d | FIN binary, 125 bytes\n"},
                              {"\x81\x02", ": 81 02 | FIN text, 2 bytes\n"},
                              {"\xC1", ": c1 | FIN text\n"},
                              {"\x89\xFE", ": 89 fe | FIN ping\n"},
                              {masked(Opcode::text, "\xE6", false) + "\x80\x80", ": 80 80 | FIN continuation, 0 bytes\n"}}) {
            CAPTURE(c.line);
            Peer peer(server);
            peer.shake_hands();
            peer.send(c.bytes);
            CHECK(peer.closed_with() != 0);
            server.wait_for(c.line);
        }
        honest.chat();
    }

    TEST_CASE("1021 descriptors that are open already: it says that none below FD_SETSIZE is free, or it serves") {
        raise_descriptor_limit();
        for (const int inherited : {FD_SETSIZE + 5, FD_SETSIZE}) {
            Process process({server_path(), "127.0.0.1", "0"}, [=] {
                while (open("/dev/null", O_RDONLY) < inherited - 1) {
                    if (errno == EMFILE) break;
                }
            });
            CHECK(process.wait() == 1);
            CHECK(process.out() == "");
            CHECK(process.err().starts_with("cannot listen on 127.0.0.1:0: "));
            CHECK(process.err().find('\n') == process.err().size() - 1);
        }
        rlimit files{};
        getrlimit(RLIMIT_NOFILE, &files);
        if (files.rlim_cur < FD_SETSIZE + 40) {
            MESSAGE("not checked: no descriptor past FD_SETSIZE is allowed here");
            return;
        }
        // The master has one of the last descriptors of an fd_set; who comes then is told that there is no slot.
        Server server({"--quiet"}, [] {
            while (open("/dev/null", O_RDONLY) < FD_SETSIZE - 3) {}
        });
        Peer newcomer(server);
        newcomer.try_send(kRequest);
        CHECK(newcomer.receive_all().starts_with("HTTP/1.1 503 "));
        CHECK_FALSE(server.ended());
    }

    TEST_CASE("no memory at the start: one line, exit 1") {
        if (server_is_sanitized()) {
            MESSAGE("not tested: a sanitized server needs more memory than it would be given");
            return;
        }
        Process process({server_path(), "127.0.0.1", "0"}, limited(RLIMIT_AS, 30 * kMiB));
        CHECK(process.wait() == 1);
        CHECK(process.err() == "cannot listen on 127.0.0.1:0: Cannot allocate memory\n");
    }

    TEST_CASE("SIGHUP says goodbye to everybody, unless it was ignored from the start, as nohup does") {
        Server server({}, [] { ::signal(SIGHUP, SIG_DFL); });  // these tests may run under nohup, too
        Honest honest(server);
        server.signal(SIGHUP);
        CHECK(honest.a.closed_with() == 1001);
        CHECK(honest.b.closed_with() == 1001);
        honest.a.close();
        honest.b.close();
        CHECK(server.wait() == 0);

        Server stays({}, [] { ::signal(SIGHUP, SIG_IGN); });
        Honest others(stays);
        stays.signal(SIGHUP);
        others.chat();
        stays.signal(SIGTERM);
        CHECK(others.a.closed_with() == 1001);
    }

    TEST_CASE("standard output is a file that may not grow: the chat goes on") {
        Server server({"--trace"}, limited(RLIMIT_FSIZE, 0));  // a pipe is no file: this one is seen to start
        Honest(server).chat();

        std::FILE* file = std::tmpfile();  // has no name: nothing is left of it
        REQUIRE(file != nullptr);
        const int fd = fcntl(fileno(file), F_DUPFD, 256);  // one that is open in the child, too
        REQUIRE(fd >= 256);
        const auto read_file = [&] {
            std::string text(10'000, '\0');
            const ssize_t size = pread(fd, text.data(), text.size(), 0);
            text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
            return text;
        };
        Process process({server_path(), "--trace", "127.0.0.1", "0"}, [&] {
            dup2(fd, STDOUT_FILENO);
            ::close(fd);
            limited(RLIMIT_FSIZE, 4096)();
        });
        wait_until("it listens", [&] { return read_file().find('\n') != std::string::npos; });
        const std::string first = read_file();
        const std::size_t colon = first.rfind(':', first.find('\n'));
        const int port = std::atoi(first.c_str() + colon + 1);
        Peer peer(port);
        peer.shake_hands();
        for (int i = 0; i < 200; ++i) {
            peer.send_frame(Opcode::text, "a line that finds no room in the file");
            REQUIRE(peer.text() == "a line that finds no room in the file");
        }
        CHECK(read_file().size() <= 4096);
        CHECK_FALSE(process.ended());
        ::close(fd);
        std::fclose(file);
    }

    TEST_CASE("a terminal that nobody reads delays nobody") {
        const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        REQUIRE(terminal >= 0);
        REQUIRE(grantpt(terminal) == 0);
        REQUIRE(unlockpt(terminal) == 0);
        fcntl(terminal, F_SETFL, O_NONBLOCK);
        const std::string name = ptsname(terminal);
        Process process({server_path(), "127.0.0.1", "0"}, [&] {
            const int fd = open(name.c_str(), O_RDWR | O_NOCTTY);
            dup2(fd, STDOUT_FILENO);
            ::close(fd);
        });
        std::string first;
        wait_until("it listens", [&] {
            char byte = 0;
            while (first.find('\n') == first.npos && ::read(terminal, &byte, 1) == 1) first += byte;
            return first.find('\n') != first.npos;
        });
        Peer peer(std::atoi(first.c_str() + first.rfind(':') + 1));
        peer.shake_hands();
        for (int i = 0; i < 100; ++i) {  // 10 000 lines: far more than a terminal and the server keep
            peer.send(repeat(masked(Opcode::text, "x"), 100));
            REQUIRE(peer.receive(300) == repeat("\x81\x01x", 100));
        }
        process.signal(SIGTERM);
        CHECK(peer.closed_with() == 1001);
        peer.close();
        CHECK(process.wait() == 0);
        ::close(terminal);
    }

    TEST_CASE("SIGTERM while 200 readers are inside messages of 16 MiB: exit 0") {
        Server server({"--quiet"});
        auto readers = join(server, 200);
        Peer speaker(server);
        speaker.shake_hands();
        speaker.send_frame(Opcode::binary, std::string(16 * kMiB, 'b'));
        CHECK(speaker.next_frame().payload.size() == 16 * kMiB);
        const auto start = Clock::now();
        server.signal(SIGTERM);
        CHECK(server.wait() == 0);
        CHECK(Clock::now() - start < 10s);  // 2 s are its own; the rest is for a machine that does much else
    }
}
