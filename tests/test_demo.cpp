// What the PHP demo gets wrong, fault by fault: an experiment fails with the fault, and it succeeds
// with the same demo without that fault, and with ./server. Where there is no PHP, this is skipped.
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "harness.h"

namespace {

namespace fs = std::filesystem;

// A server that an experiment is made with.
struct Target {
    Process& process;
    int port;
    std::chrono::milliseconds patience;  // for what should come: short where it is known not to
};

using Experiment = std::function<bool(const Target&)>;
using InChild = std::function<void()>;

std::optional<std::string> find_php() {
    const char* path = std::getenv("PATH");
    std::istringstream folders(path ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
        const std::string php = folder + "/php";
        if (access(php.c_str(), X_OK) != 0) continue;
        const std::string question = "extension_loaded('sockets') && PHP_VERSION_ID >= 80000";
        Process asked({php, "-r", "exit(" + question + " ? 0 : 1);"});
        if (asked.wait() == 0) return php;
    }
    return {};
}

std::vector<std::string> demo(const std::string& php, const std::vector<std::string>& faults) {
    // What PHP says about an error belongs to what is seen.
    std::vector<std::string> command{php, "-d", "display_errors=stderr", "-d", "log_errors=0"};
    command.push_back(fs::path(__FILE__).parent_path() / "demo.php");
    command.insert(command.end(), {"127.0.0.1", "0"});
    command.insert(command.end(), faults.begin(), faults.end());
    return command;
}

// An experiment that cannot go on, because the server has gone, has failed.
bool succeeds(const Experiment& experiment, const Target& target) {
    try {
        return experiment(target);
    } catch (const std::exception&) {
        return false;
    }
}

// `says`: what the demo says when the fault ends it; empty when it goes on.
void check(const std::string& fault, const Experiment& experiment, std::string_view says = "",
           const InChild& in_child = {}) {
    static const std::optional<std::string> php = find_php();
    if (!php) {
        MESSAGE("skipped: there is no PHP 8 with its sockets extension (php-cli)");
        return;
    }
    {
        Process broken(demo(*php, {fault}), in_child);
        const Target target{broken, listening_port(broken), 1s};
        CHECK_FALSE(succeeds(experiment, target));
        if (!says.empty()) {
            CHECK(broken.wait() == 255);
            CHECK(broken.err().find(says) != std::string::npos);
        }
    }
    {
        Process mended(demo(*php, {}), in_child);
        CHECK(succeeds(experiment, {mended, listening_port(mended), kPatience}));
    }
    Server server({}, in_child);
    CHECK(succeeds(experiment, {server, server.port(), kPatience}));
}

// --- steps of experiments ---

// Whether the 101 comes, and its proof of the key.
bool is_let_in(Peer& peer, const Target& target, const std::string& request = kRequest) {
    peer.send(request);
    if (peer.silent(target.patience)) return false;
    return peer.receive_until("\r\n\r\n") == kResponse;
}

bool hears(Peer& peer, const Target& target, std::string_view text) {
    return !peer.silent(target.patience) && peer.text() == text;
}

bool chats(const Target& target, const std::string& text) {
    Peer peer(target.port);
    if (!is_let_in(peer, target)) return false;
    peer.send_frame(Opcode::text, text);
    return hears(peer, target, text);
}

// --- the faults, in the order of the demo's lines ---

TEST_CASE("demo: echo, a Socket is no string") {
    const std::optional<std::string> php = find_php();
    if (!php) {
        MESSAGE("skipped: there is no PHP 8 with its sockets extension (php-cli)");
        return;
    }
    Process broken(demo(*php, {"echo"}));
    CHECK(broken.wait() == 255);
    const std::string says = "Object of class Socket could not be converted to string";
    CHECK(broken.err().find(says) != std::string::npos);
    Process mended(demo(*php, {}));
    CHECK(mended.wait_for("\n") == "Master socket  : 127.0.0.1:0\n");
    CHECK(Server().out().starts_with("Master socket  : 3 listening on 127.0.0.1:"));
}

TEST_CASE("demo: backlog, two may wait to be accepted") {
    check("backlog", [](const Target& target) {
        target.process.signal(SIGSTOP);  // it accepts nobody meanwhile
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<std::uint16_t>(target.port));
        std::vector<pollfd> callers;
        for (int i = 0; i < 10; ++i) {
            const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
            callers.push_back({fd, POLLOUT, 0});
        }
        const auto deadline = Clock::now() + target.patience;
        const auto connected = [&] {
            poll(callers.data(), callers.size(), 0);
            return std::ranges::all_of(
                callers, [](const pollfd& caller) { return caller.revents == POLLOUT; });
        };
        while (!connected() && Clock::now() < deadline) poll(nullptr, 0, 5);
        const bool all = connected();
        for (const pollfd& caller : callers) close(caller.fd);
        return all;
    });
}

TEST_CASE("demo: kept-set, socket_select() overwrites the list") {
    check("kept-set", [](const Target& target) {
        // When the first one speaks, only it is ready.
        Peer first(target.port);
        if (!is_let_in(first, target)) return false;
        Peer second(target.port);
        return is_let_in(second, target);
    });
}

TEST_CASE("demo: accept, a failure is false and not < 0") {
    const InChild few_descriptors = [] {
        const rlimit few{40, 40};
        setrlimit(RLIMIT_NOFILE, &few);
    };
    const Experiment crowd = [](const Target& target) {
        std::vector<Peer> peers;
        for (int i = 0; i < 60; ++i) peers.emplace_back(target.port);
        if (!is_let_in(peers[0], target)) return false;
        for (int i = 0; i < 60; ++i) {  // each is a round of the server, which accepts one
            peers[0].send_frame(Opcode::ping, "");
            peers[0].next_frame();
        }
        peers.clear();
        const auto deadline = Clock::now() + kPatience;
        while (Clock::now() < deadline) {  // until it has noticed that they have gone
            Peer newcomer(target.port);
            newcomer.send(kRequest);
            if (newcomer.receive_until("\r\n\r\n") == kResponse) return true;
        }
        return false;
    };
    const std::string says = "socket_select(): Argument #1 ($read) must only have elements of type";
    check("accept", crowd, says, few_descriptors);
}

TEST_CASE("demo: return, one leaves and all is over") {
    check("return", [](const Target& target) {
        Peer(target.port).close();
        Peer stays(target.port);
        return is_let_in(stays, target);
    });
}

TEST_CASE("demo: commented, nobody is answered") {
    check("commented", [](const Target& target) {
        Peer peer(target.port);
        return is_let_in(peer, target);
    });
}

TEST_CASE("demo: bare-socket, a name without its dollar sign") {
    const Experiment handshake = [](const Target& target) {
        Peer peer(target.port);
        return is_let_in(peer, target);
    };
    check("bare-socket", handshake, "Undefined constant \"socket\"");
}

TEST_CASE("demo: bare-decode, a method called as a function") {
    const Experiment message = [](const Target& target) { return chats(target, "hi"); };
    check("bare-decode", message, "Call to undefined function decode()");
}

TEST_CASE("demo: one-flag, the second one's request is taken for a frame") {
    check("one-flag", [](const Target& target) {
        Peer first(target.port);
        if (!is_let_in(first, target)) return false;
        Peer second(target.port);
        return is_let_in(second, target);
    });
}

TEST_CASE("demo: nul, a byte behind the 101") {
    check("nul", [](const Target& target) {
        Peer peer(target.port);
        if (!is_let_in(peer, target)) return false;
        peer.send_frame(Opcode::ping, "x");
        return peer.receive(3) == "\x8A\x01x";
    });
}

TEST_CASE("demo: one-request, a request in two pieces") {
    check("one-request", [](const Target& target) {
        Peer peer(target.port);
        const std::size_t middle = kRequest.find("Sec-WebSocket-Key");
        peer.send(kRequest.substr(0, middle));
        // The server must have looked at the first piece before the second one comes. Another one's
        // handshake, which begins later and is answered, tells.
        Peer other(target.port);
        other.send(kRequest);
        if (other.receive_until("\r\n\r\n") != kResponse) return false;
        return is_let_in(peer, target, kRequest.substr(middle));
    });
}

TEST_CASE("demo: case, field names in small letters") {
    check("case", [](const Target& target) {
        std::string request = kRequest;
        const std::string name = "Sec-WebSocket-Key";
        request.replace(request.find(name), name.size(), "sec-websocket-key");
        Peer peer(target.port);
        return is_let_in(peer, target, request);
    });
}

TEST_CASE("demo: anything, what is no handshake is let in, too") {
    check("anything", [](const Target& target) {
        Peer peer(target.port);
        peer.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        return peer.receive_until("\r\n").starts_with("HTTP/1.1 4");
    });
}

TEST_CASE("demo: one-frame, two frames in one piece") {
    check("one-frame", [](const Target& target) {
        Peer peer(target.port);
        if (!is_let_in(peer, target)) return false;
        peer.send(masked(Opcode::text, "one") + masked(Opcode::text, "two"));
        return hears(peer, target, "one") && hears(peer, target, "two");
    });
}

TEST_CASE("demo: one-frame, a message longer than its recv()") {
    check("one-frame", [](const Target& target) { return chats(target, std::string(5000, 'x')); });
}

TEST_CASE("demo: no-opcode, a Ping and a Close are taken for texts") {
    check("no-opcode", [](const Target& target) {
        Peer peer(target.port);
        if (!is_let_in(peer, target)) return false;
        peer.send_frame(Opcode::ping, "x");
        peer.send_frame(Opcode::close, close_payload(1000));
        const bool pong = peer.next_frame().header.opcode == Opcode::pong;
        return pong && peer.closed_with() == 1000;
    });
}

TEST_CASE("demo: pieces, 50 Chinese characters are cut inside one") {
    check("pieces", [](const Target& target) { return chats(target, repeat("靖", 50)); });
}

TEST_CASE("demo: no-send, nobody hears anything") {
    check("no-send", [](const Target& target) { return chats(target, "hi"); });
}

TEST_CASE("demo: blocking, one who does not read stops the others") {
    check("blocking", [](const Target& target) {
        Peer reader(target.port);
        if (!is_let_in(reader, target)) return false;
        Peer sender(target.port);
        if (!is_let_in(sender, target)) return false;
        // 12 MB do not fit into what the kernel keeps for somebody who does not read.
        const std::string message = masked(Opcode::text, std::string(60000, 'x'));
        std::size_t echoed = 0;
        for (int i = 0; i < 200; ++i) {
            const auto deadline = Clock::now() + target.patience;
            std::string_view rest = message;
            std::vector<char> buffer(1 << 18);
            while (!rest.empty()) {
                pollfd end{sender.fd(), POLLIN | POLLOUT, 0};
                const auto left = (deadline - Clock::now()) / 1ms;
                if (left <= 0 || poll(&end, 1, static_cast<int>(left)) == 0) return false;
                const ssize_t sent = send(sender.fd(), rest.data(), rest.size(), MSG_NOSIGNAL);
                if (sent > 0) rest.remove_prefix(static_cast<std::size_t>(sent));
                const ssize_t size = recv(sender.fd(), buffer.data(), buffer.size(), 0);
                if (size > 0) echoed += static_cast<std::size_t>(size);
            }
        }
        Peer other(target.port);
        return echoed > 0 && is_let_in(other, target);
    });
}

}  // namespace
