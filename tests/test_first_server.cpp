// The first chat server of the course: that it chats, and that each way to break it which its last
// lines name does break it. (Its sixth is not shown: past FD_SETSIZE anything may happen.)
#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness.h"

namespace {

// It is built into the folder of this program.
struct FirstServer : Process {
    explicit FirstServer(const std::function<void()>& in_child = {})
        : Process({std::filesystem::read_symlink("/proc/self/exe").parent_path() / "first", "0"},
                  in_child) {}

    const int port = listening_port(*this);
};

// These say as much as the server takes, and read what comes, until for a second the server neither
// takes nor sends anything: then it waits in send(), for somebody else.
void talk_until_it_stands_still(const std::vector<Peer>& speakers) {
    const std::string line(64 * 1024, 'x');
    std::vector<char> buffer(1 << 18);
    std::vector<pollfd> ends;
    for (const Peer& speaker : speakers) ends.push_back({speaker.fd(), POLLIN | POLLOUT, 0});
    const auto deadline = Clock::now() + kPatience;
    while (poll(ends.data(), ends.size(), 1000) > 0) {
        if (Clock::now() > deadline) throw std::runtime_error("the server never stands still");
        for (const pollfd& end : ends) {
            if (end.revents & POLLIN) recv(end.fd, buffer.data(), buffer.size(), 0);
            if (end.revents & POLLOUT) send(end.fd, line.data(), line.size(), MSG_NOSIGNAL);
        }
    }
}

TEST_CASE("first server: what one says, all hear") {
    FirstServer server;
    server.wait_for("listening on 127.0.0.1:" + std::to_string(server.port) + "\n");
    Peer one(server.port);
    Peer two(server.port);
    one.send("hello\n");
    CHECK(two.receive(6) == "hello\n");
    CHECK(one.receive(6) == "hello\n");
    two.close();
    one.send("still here?\n");
    CHECK(one.receive(12) == "still here?\n");
    Peer three(server.port);
    three.send("yes\n");
    CHECK(one.receive(4) == "yes\n");
}

TEST_CASE("first server: 1, a browser gets its own request back") {
    const FirstServer server;
    Peer browser(server.port);
    browser.send(kRequest);
    CHECK(browser.receive(kRequest.size()) == kRequest);
}

TEST_CASE("first server: 2, half a line is mixed with another's") {
    const FirstServer server;
    Peer one(server.port);
    Peer two(server.port);
    one.send("I say: y");
    CHECK(two.receive(8) == "I say: y");
    two.send("no!\n");
    CHECK(one.receive_until("\n") == "I say: yno!\n");
}

TEST_CASE("first server: 3, one who does not read stops all the others") {
    const FirstServer server;
    std::vector<Peer> speakers;
    speakers.emplace_back(server.port);
    Peer reader(server.port);
    reader.send("all here\n");  // who speaks has been accepted, and all before it
    CHECK(speakers[0].receive(9) == "all here\n");
    talk_until_it_stands_still(speakers);
    Peer newcomer(server.port);
    newcomer.send("hello?\n");
    CHECK(newcomer.silent(500ms));
    CHECK(reader.receive_until("hello?\n").ends_with("hello?\n"));  // it reads: all goes on
}

TEST_CASE("first server: 4, who goes away while it is sent to ends the server") {
    FirstServer server;
    std::vector<Peer> speakers;
    speakers.emplace_back(server.port);
    speakers.emplace_back(server.port);
    Peer reader(server.port);
    reader.send("all here\n");
    CHECK(speakers[1].receive(9) == "all here\n");
    talk_until_it_stands_still(speakers);
    // What the two speakers have said meanwhile comes next. The server sends it to the reader, too,
    // before it looks at what the reader says: the first send() tells of the reset, the next one is
    // answered by SIGPIPE.
    reader.reset_now();
    CHECK(server.wait() == -SIGPIPE);
}

TEST_CASE("first server: 5, without a free descriptor it runs in circles") {
    const FirstServer server([] {
        const rlimit few{8, 8};
        setrlimit(RLIMIT_NOFILE, &few);
    });
    std::vector<Peer> peers;
    for (int i = 0; i < 10; ++i) peers.emplace_back(server.port);
    wait_until("half a second of the processor's time", [&] { return server.cpu_seconds() > 0.5; });
    CHECK_FALSE(server.ended());
}

}  // namespace
