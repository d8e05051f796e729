// The scripted client, so that what leans on it can rely on it.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "harness.h"

namespace {

// It is built into the folder of this program.
std::string beside(const std::string& name) {
    return std::filesystem::read_symlink("/proc/self/exe").parent_path() / name;
}

struct Run {
    int status;
    std::string out;
    std::string err;
};

Run peer(int port, std::vector<std::string> words) {
    words.insert(words.begin(), {beside("peer"), "127.0.0.1", std::to_string(port)});
    Process process(words);
    const int status = process.wait();
    return {status, process.out(), process.err()};
}

const std::string k101 = "<- HTTP/1.1 101 Switching Protocols\n";
const std::string kBye = "<- 88 02 | FIN close, 2 bytes: 03 e8\nend: TCP FIN\n";

TEST_CASE("peer: a message, and what comes back, a line for each frame") {
    const Server server;
    const Run run = peer(server.port(), {"say", "李靖", "wait", "1"});
    CHECK(run.status == 0);
    const std::string heard = "<- 81 06 | FIN text, 6 bytes: \"\\xe6\\x9d\\x8e\\xe9\\x9d\\x96\"\n";
    CHECK(run.out == k101 + heard + kBye);
}

TEST_CASE("peer: in pieces, in fragments, and all in one") {
    const Server server;
    const std::string heard = "<- 81 02 | FIN text, 2 bytes: \"hi\"\n";
    const std::vector<std::string> cut{"lower", "cut", "7", "say", "hi", "until", "i"};
    const std::vector<std::string> fragments{"fragments", "2", "hi", "wait", "1"};
    const std::vector<std::string> together{"tcp", "hold", "request", "say", "hi", "go", "wait", "1"};
    for (const std::vector<std::string>& words : {cut, fragments, together}) {
        const Run run = peer(server.port(), words);
        CHECK(run.out == k101 + heard + kBye);
        CHECK(run.status == 0);
    }
}

TEST_CASE("peer: a crowd counts what it hears") {
    const Server server;
    const Run run = peer(server.port(), {"crowd", "5", "times", "3", "big", "1000", "wait", "3"});
    CHECK(run.status == 0);
    CHECK(run.out.find("crowd: 5 of 5 came in\n") != run.out.npos);
    CHECK(run.out.ends_with("crowd: 3 to 3 messages each, 0 have been disconnected\n"));
}

TEST_CASE("peer: the exit status tells how it went") {
    Server server;
    using Words = std::vector<std::string>;
    const auto status = [&](const Words& words) { return peer(server.port(), words).status; };
    CHECK(status({"raw", "8a00", "code", "1002"}) == 0);
    CHECK(status({"raw", "8a00", "code", "1003"}) == 1);
    CHECK(status({"quiet", "0.1"}) == 0);
    CHECK(status({"say", "x", "quiet", "20"}) == 1);
    CHECK(status({"patience", "0.1", "wait", "1"}) == 1);
    CHECK(status({"raw", "8a00", "wait", "1"}) == 4);
    const SilentPort nobody;
    CHECK(peer(nobody.number(), {"say", "x"}).status == 4);
    const std::vector<Words> mistakes{{},           {"bogus"},           {"say"},       {"cut", "x"},
                                      {"raw", "1"}, {"say", "x", "tcp"}, {"times", "2"}};
    for (const Words& wrong : mistakes) {
        const Run run = peer(server.port(), wrong);
        CHECK(run.status == 2);
        CHECK(run.err.starts_with("peer: "));
    }
}

TEST_CASE("peer: it is not heard any more in the three ways to leave") {
    Server server;
    CHECK(peer(server.port(), {"half"}).out == k101 + "end: TCP FIN\n");
    server.wait_for("ended without Close");
    const std::vector<std::string> killer{"mute",    "times", "8",     "big",
                                          "1000000", "half",  "sleep", "0.5", "reset"};
    CHECK(peer(server.port(), killer).status == 0);
    CHECK(peer(server.port(), {"leave"}).status == 0);
    CHECK(peer(server.port(), {"say", "x", "wait", "1"}).status == 0);
}

}  // namespace
