// Whether an exercise is solved, one case for each. What is missing is said in a student's words.
// The student's files and the server are found from the current directory: see run.sh.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../../ws_frame.h"
#include "../../ws_handshake.h"
#include "../harness.h"

namespace {

// Prints the messages and nothing else.
struct StudentReporter : doctest::IReporter {
    explicit StudentReporter(const doctest::ContextOptions&) {}

    void log_message(const doctest::MessageData& message) override {
        std::printf("- %s\n", message.m_string.c_str());
        std::fflush(stdout);
    }
    // What a check waits for and does not get is said by a message. An exception is another thing:
    // something failed that should work whatever the student does.
    void test_case_exception(const doctest::TestCaseException& error) override {
        std::printf("- The check was interrupted: %s\n", error.error_string.c_str());
    }
    void test_run_end(const doctest::TestRunStats& run) override {
        if (run.numTestCasesPassingFilters == 0) std::printf("- There is no such exercise.\n");
    }

    void report_query(const doctest::QueryData&) override {}
    void test_run_start() override {}
    void test_case_start(const doctest::TestCaseData&) override {}
    void test_case_reenter(const doctest::TestCaseData&) override {}
    void test_case_end(const doctest::CurrentTestCaseStats&) override {}
    void subcase_start(const doctest::SubcaseSignature&) override {}
    void subcase_end() override {}
    void log_assert(const doctest::AssertData&) override {}
    void test_case_skipped(const doctest::TestCaseData&) override {}
};

DOCTEST_REGISTER_REPORTER("student", 1, StudentReporter);

// Something is missing: the other parts of the exercise are looked at, too.
void must(bool good, const std::string& otherwise) {
    if (!good) FAIL_CHECK(otherwise);
}

// Something is missing without which the rest means nothing.
void must_first(bool good, const std::string& otherwise) {
    if (!good) FAIL(otherwise);
}

std::string read_file(const std::string& name) {
    std::ifstream file(name);
    must_first(file.good(), "There is no file " + name + ".");
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string trim(const std::string& text) {
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (first == text.npos) return "";
    return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// A student's answers, "name: answer" in each line. A line that begins with # is a comment.
std::map<std::string, std::string> read_answers(const std::string& name) {
    std::map<std::string, std::string> answers;
    std::istringstream lines(read_file(name));
    for (std::string line; std::getline(lines, line);) {
        const std::size_t colon = line.find(':');
        if (line.starts_with('#') || colon == line.npos) continue;
        answers[trim(line.substr(0, colon))] = trim(line.substr(colon + 1));
    }
    return answers;
}

std::string hex(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) {
        std::array<char, 4> digits{};
        std::snprintf(digits.data(), digits.size(), " %02x", static_cast<unsigned char>(c));
        text += digits.data();
    }
    return text.empty() ? text : text.substr(1);
}

// --- 1 -------------------------------------------------------------------------------------------

// The standard says which numbers this generator gives, so that a seed draws the same frame
// everywhere.
struct Draw {
    std::mt19937 numbers;

    std::uint32_t below(std::uint32_t limit) {
        return static_cast<std::uint32_t>(numbers()) % limit;
    }
    bool coin() { return below(2) == 1; }
    std::string word(std::size_t size) {
        std::string text;
        while (text.size() < size) text += static_cast<char>('a' + below(26));
        return text;
    }
};

// What a student has to say about a frame; and the frame.
struct Question {
    std::string name;
    std::string right;
    std::string help;
};

void ask(const std::map<std::string, std::string>& answers, const Question& question) {
    const auto found = answers.find(question.name);
    const std::string given = found == answers.end() ? "" : found->second;
    if (given.empty()) {
        FAIL_CHECK(question.name << ": no answer yet. " << question.help);
    } else {
        must(given == question.right,
             question.name + ": \"" + given + "\" is not right. " + question.help);
    }
}

}  // namespace

TEST_CASE("1") {
    const auto answers = read_answers("tests/exercises/01-frame-bits/answers.txt");
    const std::string seed = answers.contains("seed") ? answers.at("seed") : "";
    const bool number = !seed.empty() && seed.size() <= 9 &&
                        seed.find_first_not_of("0123456789") == seed.npos;
    must_first(number, "seed: choose a number of at most nine digits, for example your birthday.");

    Draw draw{std::mt19937(static_cast<std::uint32_t>(std::stoul(seed)))};
    const std::array kinds{Opcode::text, Opcode::binary, Opcode::continuation, Opcode::ping};
    const Opcode opcode = kinds[draw.below(kinds.size())];
    const bool fin = opcode == Opcode::ping || draw.coin();  // a control frame is never cut
    const std::string payload = draw.word(3 + draw.below(3));
    const MaskingKey key{static_cast<unsigned char>(draw.below(256)),
                         static_cast<unsigned char>(draw.below(256)),
                         static_cast<unsigned char>(draw.below(256)),
                         static_cast<unsigned char>(draw.below(256))};
    const std::string first = encode(opcode, payload, fin, key);
    const std::uint64_t length = 126 + draw.below(60'000);
    const bool from_client = draw.coin();
    const std::optional<MaskingKey> second_key =
        from_client ? std::optional(key) : std::nullopt;
    const std::string second = make_header(Opcode::text, length, true, second_key).bytes;

    std::printf("Frame A, from a browser:        %s\n", hex(first).c_str());
    std::printf("Frame B, its first bytes only:  %s ...\n", hex(second).c_str());
    const std::string key_bytes(key.begin(), key.end());
    const std::vector<Question> questions{
        {"A fin", fin ? "1" : "0", "It is the highest bit of the first byte: 1 or 0."},
        {"A opcode", std::to_string(static_cast<int>(opcode)),
         "It is the lower half of the first byte, as a number."},
        {"A kind", std::string(opcode_name(opcode)),
         "It is one of continuation, text, binary, close, ping, pong."},
        {"A mask", "1", "It is the highest bit of the second byte: 1 or 0."},
        {"A length", std::to_string(payload.size()),
         "It is the lower seven bits of the second byte, in decimal."},
        {"A key", hex(key_bytes), "It is the four bytes behind the length, as they are printed."},
        {"A payload", payload, "XOR the bytes behind the key with the key's bytes, one by one."},
        {"B mask", from_client ? "1" : "0", "It is the highest bit of the second byte: 1 or 0."},
        {"B length", std::to_string(length),
         "126 in the second byte says that the length is in the next two, the higher one first."},
        {"B from", from_client ? "client" : "server",
         "Only one of the two sides masks what it sends: client or server?"},
    };
    for (const Question& question : questions) ask(answers, question);
}

// --- 2 -------------------------------------------------------------------------------------------

namespace {

// Each line of a text behind four blanks.
std::string indent(const std::string& text) {
    std::string all;
    std::istringstream lines(trim(text));
    for (std::string line; std::getline(lines, line);) all += "\n    " + trim(line);
    return all;
}

}  // namespace

TEST_CASE("2") {
    const std::string folder = "tests/exercises/02-handshake-by-hand/";
    std::istringstream lines(read_file(folder + "request.txt"));
    std::string request;  // with the line ends of HTTP, which editors seldom write
    for (std::string line; std::getline(lines, line);) request += trim(line) + "\r\n";
    must_first(request.ends_with("\r\n\r\n"),
               "request.txt: a request ends with an empty line. Without it the server waits.");

    Server server;
    Peer peer(server);
    peer.send(request);
    const std::string response = peer.receive_until("\r\n\r\n");
    if (!response.starts_with("HTTP/1.1 101 ")) {
        const std::string body = peer.receive_all();
        FAIL("The server does not shake hands. It answers:" << indent(response + body));
    }
    const std::string key(get_key(request).value());
    must(key != "dGhlIHNhbXBsZSBub25jZQ==",
         "This is the key of the RFC's example. Draw 16 bytes of your own.");

    const auto answers = read_answers(folder + "accept.txt");
    const std::string accept = answers.contains("accept") ? answers.at("accept") : "";
    const std::string right = accept_key(key);
    must_first(!accept.empty(), "accept.txt: no answer yet. Which Sec-WebSocket-Accept belongs to "
                                "your key " + key + "?");
    must(accept.size() == right.size(),
         "accept.txt: 20 bytes are 28 characters of base64, and yours are " +
             std::to_string(accept.size()) + ". Were they the 40 hexadecimal digits of the hash?");
    must(accept.size() != right.size() || accept == right,
         "accept.txt: this is not the answer to your key. Did echo add a newline? Is the GUID "
         "directly behind the key, with nothing between?");
}

namespace {

// Whether the peer is sent something. No right server needs a second for it; a crowded machine may.
bool hears(Peer& peer) { return !peer.silent(8s); }

// The next thing that the server sends must be this text message.
void must_hear(Peer& peer, const std::string& text, const std::string& otherwise) {
    must_first(hears(peer), otherwise + " (Nothing came.)");
    Peer::Frame frame;
    try {
        frame = peer.next_frame();
    } catch (const std::runtime_error& error) {
        FAIL(otherwise << " (What came is no frame: " << std::string(error.what()) << ".)");
    }
    must_first(!frame.ended, otherwise + " (The server ended the connection.)");
    const Opcode opcode = frame.header.opcode;
    must_first(opcode == Opcode::text && frame.payload == text,
               otherwise + " (This came: " + describe(frame.header, opcode, frame.payload) + ".)");
}

void must_shake_hands(Peer& peer, const std::string& otherwise,
                      const std::string& target = "/chat") {
    const std::string_view fields = std::string_view(kRequest).substr(kRequest.find(" HTTP/1.1"));
    peer.send("GET " + target + std::string(fields));
    must_first(hears(peer), otherwise + " (Nothing came.)");
    const std::string response = peer.receive_until("\r\n\r\n");
    must_first(response == kResponse,
               otherwise + " (This came: " + response.substr(0, response.find("\r\n")) + ".)");
}

// Each of them says something, and each hears it.
void must_chat(std::vector<Peer*> peers, const std::string& otherwise) {
    for (Peer* speaker : peers) {
        const std::string text = "from port " + std::to_string(speaker->port());
        speaker->send_frame(Opcode::text, text);
        for (Peer* listener : peers) must_hear(*listener, text, otherwise);
    }
}

void must_hear_self(Peer& peer, const std::string& otherwise) { must_chat({&peer}, otherwise); }

}  // namespace

// --- 3 -------------------------------------------------------------------------------------------

TEST_CASE("3") {
    must_first(read_file("server.cpp").find("fd_set kept") != std::string::npos,
               "There is no `fd_set kept` in server.cpp. Begin with: "
               "patch -p1 < tests/exercises/03-kept-set/begin.patch");
    Server server;
    Peer first(server);
    must_shake_hands(first, "Not even the first client's request is answered.");
    must_chat({&first}, "One client alone does not hear itself.");
    Peer second(server);
    must_shake_hands(second, "The first client is in and chats. The second one connects after it, "
                             "and its request is never answered. In the last round select() found "
                             "the first client ready and nobody else: what is left in the set?");
    Peer third(server);
    must_shake_hands(third, "A third client's request is never answered.");
    must_chat({&first, &second, &third},
              "Three clients are in, but not each hears what another says. Who was not ready in "
              "one round must be asked again in the next.");
    second.send(masked(Opcode::close, ""));
    second.receive_all();
    second.close();
    must_chat({&first, &third}, "One of three has left, and the others are not heard any more.");
    Peer fourth(server);
    must_shake_hands(fourth, "One has left, and a newcomer gets its descriptor. Its request is "
                             "never answered.");
    must_chat({&first, &third, &fourth}, "Not each hears the newcomer.");
}

// --- 4 -------------------------------------------------------------------------------------------

namespace {

// The largest number in the lines "recv 4: 12 bytes" of --trace.
long largest_recv(const std::string& trace) {
    long largest = 0;
    std::istringstream lines(trace);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t colon = line.find(": ");
        if (!line.starts_with("recv ") || colon == line.npos) continue;
        largest = std::max(largest, std::atol(line.c_str() + colon + 2));
    }
    return largest;
}

}  // namespace

TEST_CASE("4") {
    Server server({"--trace"});
    Peer peer(server);
    peer.send(kRequest);
    must_first(hears(peer), "The handshake is never answered. Its request of " +
                                std::to_string(kRequest.size()) +
                                " bytes comes in many pieces: who keeps the first ones?");
    const std::string response = peer.receive_until("\r\n\r\n");
    must_first(response == kResponse,
               "The handshake is answered with \"" + response.substr(0, response.find("\r\n")) +
                   "\". Its request of " + std::to_string(kRequest.size()) +
                   " bytes comes in many pieces: what became of the first ones?");
    must_first(largest_recv(server.wait_for("shakeHands")) <= 7,
               "recv() still takes more than 7 bytes at once (look at ./server --trace). Begin "
               "with: patch -p1 < tests/exercises/04-seven-bytes/begin.patch");

    peer.send_frame(Opcode::text, "a");
    must_hear(peer, "a", "A message of one letter, a frame of 7 bytes, does not come back.");
    peer.send_frame(Opcode::text, "two recv()s and more");
    must_hear(peer, "two recv()s and more",
              "A message of one letter comes back, a longer one does not. Its frame comes in "
              "several pieces: what becomes of the first?");

    // Nine bytes each: a piece may hold the end of one frame and the beginning of the next. And the
    // empty ones are six bytes: a piece may hold a whole frame and more.
    std::string many;
    for (int i = 100; i < 200; ++i) {
        many += masked(Opcode::text, std::to_string(i)) + masked(Opcode::text, "");
    }
    peer.send(many);
    for (int i = 100; i < 200; ++i) {
        for (const std::string& expected : {std::to_string(i), std::string()}) {
            must_hear(peer, expected,
                      "Of many messages at once some are lost or broken. A piece may hold the end "
                      "of one frame and the beginning of the next.");
        }
    }

    Peer second(server);
    second.send(kRequest + masked(Opcode::text, "early"));
    must_first(hears(second) && second.receive_until("\r\n\r\n") == kResponse,
               "A second client's handshake is not answered when a frame follows it at once.");
    must_hear(second, "early",
              "The piece with the request's last byte may hold the beginning of a frame, too. Here "
              "it is lost.");
    must(largest_recv(server.out()) <= 7, "Some recv() takes more than 7 bytes.");
}

// --- 5 -------------------------------------------------------------------------------------------

namespace {

// Lets build/peer do to a server what a file says: its commands, in one line or in several.
void attack(const Server& server, const std::string& name) {
    std::vector<std::string> command{std::getenv("PEER"), "127.0.0.1",
                                     std::to_string(server.port())};
    const std::size_t own = command.size();
    std::istringstream lines(read_file(name));
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with('#')) continue;
        std::istringstream words(line);
        for (std::string word; words >> word;) command.push_back(word);
    }
    must_first(command.size() > own, name + ": there is no command in it.");
    Process client(command);
    const int status = client.wait();
    must_first(status != 2, name + ": " + trim(client.err()));
}

// What the server has said of the end of its first client.
std::string first_end(Server& server) {
    const std::string lines = server.out();
    const std::size_t start = lines.find("disconnect client ");
    if (start == lines.npos) return "nothing, it has not noticed";
    return lines.substr(start, lines.find('\n', start) - start);
}

// Two more rounds at least go by for that.
bool lives(Server& server) {
    try {
        Peer peer(server);
        peer.shake_hands();
        peer.send_frame(Opcode::text, "alive?");
        return peer.text() == "alive?";
    } catch (const std::runtime_error&) {
        return false;
    }
}

}  // namespace

// PEER is build/peer, UNPROTECTED_SERVER the server of the working tree without anything against
// SIGPIPE.
TEST_CASE("5") {
    const std::string file = "tests/exercises/05-sigpipe/attack.txt";
    const std::string own = server_path();
    setenv("SERVER", std::getenv("UNPROTECTED_SERVER"), 1);
    Server unprotected;
    attack(unprotected, file);
    const bool unharmed = lives(unprotected);
    must_first(!unharmed,
               "Step 1: your client (attack.txt) has done its worst, and the server that does "
               "nothing against SIGPIPE lives. What it says of your client's end: " +
                   first_end(unprotected));
    must_first(unprotected.wait() == -SIGPIPE, "The server ends, but not by SIGPIPE.");
    std::printf("Step 1 is done: your client has ended the unprotected server.\n");

    setenv("SERVER", own.c_str(), 1);
    const std::string source = read_file("server.cpp");
    must_first(source.find("signal(SIGPIPE, SIG_IGN)") == std::string::npos,
               "Step 2: now protect the server in another way. Take the line signal(SIGPIPE, "
               "SIG_IGN) out of server.cpp.");
    Server server;
    attack(server, file);
    must_first(lives(server), "Step 2: your client ends your own server.");
}

// --- 6 -------------------------------------------------------------------------------------------

namespace {

// The number by which the server knows a peer: its line "connect client 4 from 127.0.0.1:51234".
std::string descriptor_of(Server& server, const Peer& peer) {
    const std::string place = " from 127.0.0.1:" + std::to_string(peer.port()) + "\n";
    const std::string lines = server.wait_for(place);
    const std::size_t end = lines.rfind(place);
    const std::size_t start = lines.rfind(' ', end - 1) + 1;
    return lines.substr(start, end - start);
}

struct Member {
    Peer peer;
    std::string joined{};
    std::string left{};

    explicit Member(Server& server) : peer(server) {
        must_shake_hands(peer, "A handshake is not answered as before.");
        joined = '[' + descriptor_of(server, peer) + " joined]";
        left = '[' + descriptor_of(server, peer) + " left]";
    }
};

}  // namespace

TEST_CASE("6") {
    Server server({"--trace"});
    Member first(server);
    must_hear(first.peer, first.joined,
              "The first one should hear \"" + first.joined + "\", behind the server's response.");
    Member second(server);
    for (Member* member : {&first, &second}) {
        must_hear(member->peer, second.joined,
                  "When a second one joins, both should hear \"" + second.joined + "\".");
    }
    must_chat({&first.peer, &second.peer}, "A message should come once, and nothing else.");

    second.peer.send(masked(Opcode::close, ""));
    must_hear(first.peer, second.left, "One sends Close: the other should hear \"" + second.left +
                                           "\".");
    must(second.peer.closed_with() == kNoCode && second.peer.receive_all().empty(),
         "Who sends Close should get its Close back and nothing else.");
    second.peer.close();
    must_chat({&first.peer}, "\"" + second.left + "\" should come once.");

    Member third(server);
    for (Member* member : {&first, &third}) must_hear(member->peer, third.joined, "Who joined?");
    third.peer.shut_down_sending();
    must_hear(first.peer, third.left, "One ends its connection without Close (a window is closed, "
                                      "a computer switched off): the other should hear it.");
    Member fourth(server);
    for (Member* member : {&first, &fourth}) must_hear(member->peer, fourth.joined, "Who joined?");
    fourth.peer.reset_now();
    must_hear(first.peer, fourth.left, "One resets its connection: the other should hear it.");

    {
        Peer refused(server);
        refused.send("GET / HTTP/1.1\r\n\r\n");
        refused.receive_all();
        const Peer silent(server);
        server.wait_for(" from 127.0.0.1:" + std::to_string(silent.port()));
    }
    must_chat({&first.peer},
              "Who never shook hands has never joined, and its end is no news for anybody.");

    // Dropped while flushing: it does not take what waits for it, and not the answer to its Ping.
    // So the server does not read from it, and only send() sees that its connection was reset.
    Member deaf(server);
    for (Member* member : {&first, &deaf}) must_hear(member->peer, deaf.joined, "Who joined?");
    const std::string large(4 << 20, 'x');
    first.peer.send_frame(Opcode::text, large);
    must_first(first.peer.text() == large, "A long message does not come back as before.");
    deaf.peer.send_frame(Opcode::ping, "");
    server.wait_for("| FIN ping");
    deaf.peer.reset_now();
    must_hear(first.peer, deaf.left,
              "A client that does not read resets its connection. send() notices it, in flush(), "
              "and the client is dropped there: \"" + deaf.left + "\" should come in that same "
              "round. Who had been flushed by then?");
    must_chat({&first.peer}, "\"" + deaf.left + "\" should come once.");
}

// --- 7 -------------------------------------------------------------------------------------------

namespace {

// Whether it becomes true, with the patience of wait_until().
bool becomes(const std::function<bool()>& condition) {
    try {
        wait_until("a condition of an exercise", condition);
        return true;
    } catch (const std::runtime_error&) {
        return false;
    }
}

}  // namespace

TEST_CASE("7") {
    Server server;
    Peer red(server);
    Peer blue(server);
    const std::vector<std::pair<Peer*, std::string>> places{{&red, "/red"}, {&blue, "/blue?x=1"}};
    for (const auto& [peer, target] : places) {
        must_shake_hands(*peer, "A handshake is not answered as before.", target);
        const std::string start = "shakeHands " + descriptor_of(server, *peer);
        server.wait_for(start);
        const auto printed = [&] {
            return server.out().find('\n', server.out().find(start)) != std::string::npos;
        };
        must_first(becomes(printed), "The line \"" + start + "\" does not end.");
        const std::string line = start + " in " + target;
        must_first(server.out().find(line + "\n") != std::string::npos,
                   "Step 1: the server does not print \"" + line + "\".");
    }
    std::printf("Step 1 is done.\n");

    Peer other_red(server);
    must_shake_hands(other_red, "A second one is not let into a room.", "/red");
    const std::string both = "Step 2: two are in the same room, and not each hears the other.";
    must_chat({&red, &other_red}, both);
    Peer redder(server);
    must_shake_hands(redder, "A third room is not opened.", "/redder");
    must_chat({&red, &other_red}, "Step 2: what is said in one room is heard in another.");
    for (Peer* peer : {&blue, &redder}) {
        must_hear_self(*peer, "Step 2: what is said in one room is heard in another.");
    }
    must_chat({&red, &other_red}, "Step 2: what is said in one room is heard in another.");
    must(server.wait_for("send file").find(" to 2 clients") != std::string::npos,
         "The line \"send file ...\" should name the number of those in the room.");

    // The answer to one alone, its Pong, stands between the messages of its room.
    blue.send(masked(Opcode::ping, "p") + masked(Opcode::text, "behind"));
    must(blue.receive(3) == "\x8A\x01p", "The Pong to somebody in a room does not come first.");
    must_hear(blue, "behind", "A message behind a Ping does not come.");

    // A reader who does not read holds its own room, at the most.
    const std::string large(8 << 20, 'x');
    red.send_frame(Opcode::text, large);
    must_hear(red, large, "A long message does not come back.");
    other_red.send_frame(Opcode::ping, "late");
    must_hear_self(blue, "Somebody in one room does not read, and another room stands still.");
    must_hear(other_red, large, "Who reads late does not get all.");
    must(other_red.receive(6) == "\x8A\x04late",
         "Somebody sends a Ping while much waits for it. Its Pong does not come behind that.");

    // A room ends with its last client.
    red.close();
    other_red.close();
    Peer again(server);
    must_shake_hands(again, "All have left a room, and a newcomer is not let in.", "/red");
    must_chat({&again}, "All have left a room, and a newcomer does not hear itself there.");

    const long before = server.virtual_bytes();
    for (int i = 0; i < 200; ++i) {
        Peer visitor(server);
        must_shake_hands(visitor, "Visitor " + std::to_string(i + 1) +
                                      " of 200, each in a room of its own and each gone before the "
                                      "next, is not let in.",
                         "/room" + std::to_string(i));
        visitor.send(masked(Opcode::close, ""));
        visitor.receive_all();
    }
    must(becomes([&] { return server.virtual_bytes() < before + (1L << 30); }),
         "200 visitors were in 200 rooms and have left, and the server keeps more than a GiB for "
         "them (`ps -o vsz`). What becomes of an empty room?");
    must_hear_self(blue, "After all that a room does not chat any more.");
}

// --- 8 -------------------------------------------------------------------------------------------

namespace {

constexpr std::size_t kCrowd = 4000;

void use_server(const std::string& path) { setenv("SERVER", path.c_str(), 1); }

// The line in which a server that was built with -fsanitize says where it made a mistake, when it
// has ended because of one.
std::string last_line(Server& server) {
    if (!becomes([&] { return server.ended(); })) return "";
    const std::string text = server.err();
    const std::size_t start = text.rfind("SUMMARY");
    if (start == text.npos) return "The server has ended.";
    return "The server has ended: " + text.substr(start, text.find('\n', start) - start);
}

// Lets more peers in, until there are so many.
void crowd(Server& server, std::vector<Peer>& peers, std::size_t count) {
    while (peers.size() < count) {
        Peer& peer = peers.emplace_back(server);
        const bool answered = peer.try_send(kRequest) && hears(peer);
        const std::string response = answered ? peer.receive_until("\r\n\r\n") : "";
        if (response == kResponse) continue;
        FAIL("Client " << peers.size() << " is not let in. "
             << (response.empty() ? last_line(server) : response.substr(0, response.find("\r\n"))));
    }
}

// Microseconds for a Ping and its Pong beside so many others, who are silent: what a round costs.
// The best of three times.
double round_trip(std::size_t others) {
    constexpr int kPings = 500;
    Server server({"--quiet"});
    std::vector<Peer> idle;
    crowd(server, idle, others);
    Peer peer(server);
    must_shake_hands(peer, "One more is not let in.");
    const std::string ping = masked(Opcode::ping, "");
    double best = 0;
    for (int run = 0; run < 3; ++run) {
        const auto start = Clock::now();
        for (int i = 0; i < kPings; ++i) {
            peer.send(ping);
            must_first(peer.receive(2).size() == 2, "A Ping is not answered.");
        }
        const std::chrono::duration<double, std::micro> time = Clock::now() - start;
        if (run == 0 || time.count() / kPings < best) best = time.count() / kPings;
    }
    return best;
}

}  // namespace

// SELECT_SERVER is the server as it was when it called pselect(), STRICT_SERVER the server of the
// working tree, built so that a wrong index or a wild pointer ends it.
TEST_CASE("8") {
    const bool beside = read_file("server.cpp").find("pselect(highest") == std::string::npos;
    const std::string with_select = std::getenv("SELECT_SERVER");
    const std::string with_poll = server_path();
    std::printf("A Ping and its Pong, in microseconds, beside so many silent clients:\n");
    std::printf("  clients   select()%s\n", beside ? "    poll()" : "");
    for (const std::size_t others : {std::size_t{10}, std::size_t{100}, std::size_t{900}}) {
        std::printf("  %7zu", others);
        use_server(with_select);
        if (std::ifstream(with_select).good()) std::printf("  %9.1f", round_trip(others));
        else std::printf("          ?");
        use_server(with_poll);
        if (beside) std::printf(" %9.1f", round_trip(others));
        std::printf("\n");
        std::fflush(stdout);
    }

    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    must_first(files.rlim_cur > kCrowd + 100,
               "Your system does not allow so many open files: `ulimit -Hn` says " +
                   std::to_string(files.rlim_cur) + ", and 4100 are needed. See the page.");
    use_server(std::getenv("STRICT_SERVER"));
    Server server({"--quiet"});
    std::vector<Peer> peers;
    crowd(server, peers, kCrowd);
    for (const std::size_t speaker : {std::size_t{0}, kCrowd / 2, kCrowd - 1}) {
        const std::string text = "from client " + std::to_string(speaker + 1);
        peers[speaker].send_frame(Opcode::text, text);
        for (Peer& peer : peers) {
            must_hear(peer, text, "All are in, but not all hear what one says.");
        }
    }
    for (std::size_t i = 0; i < kCrowd; i += 2) peers[i].close();
    peers[kCrowd - 1].send_frame(Opcode::text, "still here");
    for (std::size_t i = 1; i < kCrowd; i += 2) {
        must_hear(peers[i], "still here", "Half of them have left, and the others do not chat.");
    }
    peers.clear();

    // Descriptors are still limited, if not by FD_SETSIZE.
    Server small({"--quiet"}, [] {
        const rlimit few{64, 64};
        setrlimit(RLIMIT_NOFILE, &few);
    });
    for (int i = 0; i < 64; ++i) peers.emplace_back(small).send(kRequest);
    std::size_t in = 0;
    for (Peer& peer : peers) {
        must_first(hears(peer), "With `ulimit -n 64` some get no answer at all.");
        if (peer.receive_until("\r\n\r\n") == kResponse) ++in;
    }
    must(in >= 30 && in < 64, "With `ulimit -n 64` not those many are let in who can be, and the "
                              "others refused with 503: " + std::to_string(in) + " of 64 are in.");
    use_server(with_poll);
    if (beside) std::printf("4000 clients:  %9.1f\n", round_trip(kCrowd));
}

// --- 9 -------------------------------------------------------------------------------------------

namespace {

std::size_t count(const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
    return found;
}

// The first line that begins so, from its `skip`th on, when it has come; else nothing.
std::string printed_line(Server& server, const std::string& beginning, std::size_t skip = 0) {
    const std::string& text = server.out();
    std::size_t start = text.find(beginning);
    for (; skip > 0 && start != text.npos; --skip) start = text.find(beginning, start + 1);
    if (start == text.npos) return "";
    const std::size_t end = text.find('\n', start);
    return end == text.npos ? "" : text.substr(start, end - start);
}

}  // namespace

TEST_CASE("9") {
    constexpr std::size_t kLarge = 4 << 20;
    Server server;
    Peer reader(server);
    Peer slow(server);
    for (Peer* peer : {&reader, &slow}) must_shake_hands(*peer, "A handshake is not answered.");
    // Without that its buffer in the kernel would grow when it reads, and take the second message.
    const int bytes = 64 * 1024;
    setsockopt(slow.fd(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    const std::string number = descriptor_of(server, slow);
    const std::string slow_line = "slow client " + number + ": ";
    const std::string fine_line = "caught up client " + number;
    const std::string large(kLarge, 'x');

    for (const std::size_t time : {0U, 1U}) {
        const std::string again = time == 0 ? "" : "A second time: ";
        reader.send_frame(Opcode::text, large);
        must_hear(reader, large, again + "Who reads does not get a long message.");
        // Nobody says anything more: nothing but a deadline makes select() return.
        must_first(becomes([&] { return !printed_line(server, slow_line, time).empty(); }),
                   again + "A client does not read, 4 MiB wait for it, and nobody says anything "
                   "else. The line \"" + slow_line + "... bytes wait\" should come after two "
                   "seconds; it does not come in twenty. What can make select() return then?");
        const std::string line = printed_line(server, slow_line, time);
        const std::size_t waits = std::strtoul(line.c_str() + slow_line.size(), nullptr, 10);
        must(line == slow_line + std::to_string(waits) + " bytes wait",
             again + "The line should be \"" + slow_line + "... bytes wait\" and is \"" + line +
                 "\".");
        must(waits > kLarge / 2 && waits <= kLarge + 10,
             again + "Of the 4 MiB a part is in the buffers of the kernel, and the rest waits. "
             "It is not " + std::to_string(waits) + " bytes.");
        must_first(printed_line(server, fine_line, time).empty(),
                   again + "Who has taken nothing has not caught up.");
        must_hear_self(reader, again + "Who reads does not chat any more.");

        // It reads a part, and the server sends more: that is not all yet.
        const std::string frame = encode(Opcode::text, large);
        std::string received = slow.receive(kLarge / 2);
        must_hear_self(reader, again + "Who reads does not chat any more.");
        must_first(printed_line(server, fine_line, time).empty(),
                   again + "Who has read a half has not caught up.");
        received += slow.receive(frame.size() - received.size());
        must_first(received == frame,
                   again + "Who reads late does not get all that waits for it.");
        for (int i = 0; i < 2; ++i) {
            must_first(hears(slow) && slow.text() != "",
                       again + "Who reads late does not get all that waits for it.");
        }
        must_first(becomes([&] { return !printed_line(server, fine_line, time).empty(); }),
                   again + "Now it has read all. The line \"" + fine_line + "\" should come.");
        must(count(server.out(), slow_line) == time + 1, again + "The line \"" + slow_line +
                                                             "...\" should come once.");
    }
    must(count(server.out(), "slow client ") == 2, "Somebody who reads is called slow.");
}
