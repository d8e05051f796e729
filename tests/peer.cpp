// A scripted client of the chat: it does what a browser never does, so that a fault shows which two
// browser windows hide. `build/peer` without arguments prints how it is used.
//
// The commands are read and checked first (parse), then done from left to right (Script). Whatever
// it waits for, it reads from all its connections meanwhile (pump), unless `mute` was said.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../ws_frame.h"
#include "harness.h"

namespace {

constexpr char kUsage[] =
    "usage: peer [ADDRESS PORT] COMMAND...\n"
    "A client of the chat at ADDRESS and PORT (127.0.0.1 4000). It shakes hands, does the commands\n"
    "from left to right, prints a line for each frame that comes, says Close 1000 and waits for\n"
    "the end of the connection.\n"
    "first\n"
    "  tcp             no handshake: nothing is said but by the commands\n"
    "  lower           the names of the request's fields in lower case\n"
    "say\n"
    "  say TEXT        a text message                binary HEX      a binary message\n"
    "  big BYTES       a text of so many x           fragments N TEXT  one message in N frames\n"
    "  ping TEXT       a Ping                        pong TEXT       a Pong that nobody asked for\n"
    "  close CODE      a Close; 0: without a code    unmasked TEXT   a text frame without mask\n"
    "  raw HEX         these bytes                   line TEXT       TEXT, carriage return, newline\n"
    "  request         the opening handshake's request (for use behind tcp)\n"
    "how to say it\n"
    "  cut N           from now on N bytes at a time, 5 ms between them; 0: whole again\n"
    "  hold ... go     what is said between the two goes out together\n"
    "  times N COMMAND the command N times\n"
    "read\n"
    "  sleep S         reads for S seconds           mute            stops reading\n"
    "  wait N          for N messages more           hear            reads again\n"
    "  until TEXT      for a message with TEXT       code CODE       for a Close with this code\n"
    "  end             for the connection's end      quiet S         for S seconds without anything\n"
    "  patience S      how long each of these waits at the most (20)\n"
    "leave\n"
    "  half            a TCP FIN; reads on           reset           a RST\n"
    "  leave           close() without a Close frame\n"
    "others\n"
    "  crowd N         N more peers, who only listen and are counted\n"
    "  callers N       N more TCP connections, which say nothing\n"
    "exit status: 0 all came; 1 something did not come, or came in a quiet time; 2 usage; 3 the\n"
    "server broke the protocol; 4 no connection, refused, or the connection ended too early\n";

constexpr auto kCutPause = 5ms;
constexpr auto kCallersTime = 2s;          // for `callers` to get through
constexpr std::size_t kHeardBytes = 1024;  // of a message, that `until` looks at
constexpr std::size_t kShownBytes = 100;   // of a line that is no frame

// Ends the program with one line.
struct Stop {
    int status;
    std::string why;
};

[[noreturn]] void in_vain(const std::string& what) { throw Stop{1, what}; }
[[noreturn]] void usage_error(const std::string& what) { throw Stop{2, what}; }
[[noreturn]] void bad_server(const std::string& what) { throw Stop{3, what}; }
[[noreturn]] void too_early(const std::string& what) { throw Stop{4, what}; }

void print(const std::string& line) { std::printf("%s\n", line.c_str()); }

// --- the commands --------------------------------------------------------------------------------

struct Command {
    std::string name;
    std::string text{};   // its last argument
    double number = 0;    // its first argument, when that is a number
    int times = 1;
};

struct Kind {
    std::string_view name;
    std::string_view arguments;  // n: a whole number, s: seconds, t: text, h: hex
};

constexpr Kind kKinds[] = {
    {"tcp", ""},       {"lower", ""},    {"say", "t"},       {"binary", "h"},  {"big", "n"},
    {"ping", "t"},     {"pong", "t"},    {"close", "n"},     {"raw", "h"},     {"line", "t"},
    {"request", ""},   {"cut", "n"},     {"hold", ""},       {"go", ""},       {"sleep", "s"},
    {"mute", ""},      {"hear", ""},     {"wait", "n"},      {"until", "t"},   {"code", "n"},
    {"end", ""},       {"quiet", "s"},   {"patience", "s"},  {"half", ""},     {"reset", ""},
    {"leave", ""},     {"crowd", "n"},   {"callers", "n"},   {"unmasked", "t"},
    {"fragments", "nt"},
};

double number_in(const std::string& command, const std::string& text, bool whole) {
    double number = 0;
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, number, std::chars_format::fixed);
    const bool all = result.ec == std::errc() && result.ptr == end;
    const bool fits = number >= 0 && number <= 1e9;
    if (all && fits && (!whole || number == static_cast<double>(static_cast<long>(number)))) {
        return number;
    }
    usage_error(command + ": \"" + text + "\" is not a " + (whole ? "whole " : "") + "number");
}

std::string bytes_of_hex(const std::string& command, std::string hex) {
    std::erase(hex, ' ');
    std::string bytes;
    for (std::size_t at = 0; at < hex.size(); at += 2) {
        const std::string two = hex.substr(at, 2);
        int byte = 0;
        const auto result = std::from_chars(two.data(), two.data() + 2, byte, 16);
        if (two.size() != 2 || two[0] == '-' || result.ptr != two.data() + 2) {
            usage_error(command + ": \"" + hex + "\" is not hex, two digits a byte");
        }
        bytes += static_cast<char>(byte);
    }
    return bytes;
}

// Takes one command and its arguments off the words.
Command take_command(std::deque<std::string>& words) {
    Command command{.name = words.front()};
    words.pop_front();
    const auto known = [&](const Kind& kind) { return kind.name == command.name; };
    const auto* kind = std::find_if(std::begin(kKinds), std::end(kKinds), known);
    if (kind == std::end(kKinds)) usage_error("no such command: " + command.name);
    for (const char type : kind->arguments) {
        if (words.empty()) usage_error(command.name + ": something is missing behind it");
        if (type == 't') command.text = words.front();
        else if (type == 'h') command.text = bytes_of_hex(command.name, words.front());
        else command.number = number_in(command.name, words.front(), type == 'n');
        words.pop_front();
    }
    if (command.name == "fragments" && command.number < 1) usage_error("fragments: 1 at the least");
    if (command.name == "close" && command.number > 65535) usage_error("close: 65535 at the most");
    return command;
}

std::vector<Command> parse(std::deque<std::string> words) {
    std::vector<Command> commands;
    while (!words.empty()) {
        double times = 1;
        if (words.front() == "times") {
            words.pop_front();
            if (words.size() < 2) usage_error("times: a number and a command are missing");
            times = number_in("times", words.front(), true);
            words.pop_front();
        }
        commands.push_back(take_command(words));
        commands.back().times = static_cast<int>(times);
        const std::string& name = commands.back().name;
        const bool first = commands.size() == 1;
        if ((name == "tcp" || name == "lower") && !first) usage_error(name + " must come first");
    }
    if (commands.empty()) usage_error("no command");
    return commands;
}

// --- one connection ------------------------------------------------------------------------------

struct Connection {
    Peer peer;
    bool loud;                    // what comes is printed
    bool asked = false;           // kRequest was sent: its answer is known to the byte
    bool peer_of_chat = false;    // the 101 has come
    bool refused = false;         // an answer other than 101 has come
    bool ended = false;
    bool reset = false;           // it ended with a RST
    bool shut = false;            // we have sent our TCP FIN, or closed
    std::string head{};           // of an HTTP response whose blank line has not come
    std::string status{};         // its first line
    Decoder decoder{Decoder::Role::client};
    std::size_t messages = 0;                   // data messages so far
    std::deque<std::string> heard{};            // their beginnings; those not waited for
    std::optional<std::uint16_t> close_code{};  // of the Close that came
    std::size_t events = 0;                     // anything that came, the end too

    bool open() const { return !ended && !shut; }
    bool readable() const { return !ended && peer.fd() >= 0; }

    void show(const std::string& line) const {
        if (loud) print(line);
    }

    void receive() {
        std::array<char, 65536> buffer;
        const ssize_t size = recv(peer.fd(), buffer.data(), buffer.size(), 0);
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
        ++events;
        if (size > 0) return take({buffer.data(), static_cast<std::size_t>(size)});
        ended = true;
        reset = size < 0;
        if (!head.empty()) show("<- \"" + escape(head) + '"');
        show(reset ? "end: RST" : "end: TCP FIN");
    }

    void take(std::string_view bytes) {
        if (peer_of_chat) return take_frames(bytes);
        head += bytes;
        const std::string_view http = std::string_view("HTTP/").substr(0, head.size());
        if (!head.starts_with(http)) return take_lines();
        const std::size_t blank = head.find("\r\n\r\n");
        if (blank == head.npos) return;
        const std::string response = head.substr(0, blank + 2);
        const std::string rest = head.substr(blank + 4);
        head.clear();
        take_response(response);
        if (peer_of_chat) take_frames(rest);
        else if (!rest.empty()) take(rest);
    }

    // Neither a frame nor a response: the body of a response, or a frame before the handshake.
    void take_lines() {
        if (asked && !refused) bad_server("no HTTP response: \"" + escape(head) + '"');
        while (!head.empty()) {
            const std::size_t end = std::min(head.find('\n'), head.size() - 1);
            const std::string line = escape(head.substr(0, std::min(end + 1, kShownBytes)));
            show("<- \"" + line + (end < kShownBytes ? "\"" : "\" ..."));
            head.erase(0, end + 1);
        }
    }

    void take_response(const std::string& response) {
        status = response.substr(0, response.find('\r'));
        show("<- " + escape(status));
        peer_of_chat = status.starts_with("HTTP/1.1 101 ");
        refused = !peer_of_chat;
        const std::string accept = "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        if (peer_of_chat && asked && response.find(accept) == response.npos) {
            bad_server("the 101 does not prove that the key was read: \"" + escape(response) + '"');
        }
    }

    void take_frames(std::string_view bytes) {
        while (true) {
            const Decoder::Event event = decoder.feed(bytes);
            if (event == Decoder::Event::need_more) return;
            if (event == Decoder::Event::violation) {
                const std::string line = decoder.describe();
                bad_server("a bad frame, " + line + ": " + std::string(decoder.reason()));
            }
            show("<- " + decoder.describe());
            if (event == Decoder::Event::message) {
                ++messages;
                if (loud) heard.emplace_back(decoder.payload().substr(0, kHeardBytes));
            }
            const Opcode opcode = decoder.header().opcode;
            if (opcode == Opcode::close) close_code = ::close_code(decoder.payload());
            // Every client must answer a Ping. If there is no room for 127 bytes, nobody reads.
            const bool answer = opcode == Opcode::ping && open();
            if (answer) {
                const std::string pong = masked(Opcode::pong, decoder.payload());
                [[maybe_unused]] const ssize_t sent =
                    ::send(peer.fd(), pong.data(), pong.size(), MSG_NOSIGNAL);
            }
        }
    }
};

// --- the script ----------------------------------------------------------------------------------

class Script {
public:
    Script(const std::string& address, int port) : address_(address), port_(port) {}

    ~Script() {
        for (const int fd : callers_) ::close(fd);
    }
    Script(const Script&) = delete;
    Script& operator=(const Script&) = delete;

    int run(const std::vector<Command>& commands) {
        connections_.push_back({.peer = Peer(port_, address_.c_str()), .loud = true});
        const std::string& first = commands.front().name;
        if (first == "lower") lower_ = true;
        if (first != "tcp") shake_hands(me());
        for (const Command& command : commands) {
            for (int time = 0; time < command.times; ++time) perform(command);
        }
        finish();
        return status_;
    }

private:
    enum class AtEnd { say_close, wait, nothing };

    Connection& me() { return connections_.front(); }

    // --- what each command does ---

    void perform(const Command& command) {
        const std::string& name = command.name;
        const std::string& text = command.text;
        const auto number = static_cast<std::size_t>(command.number);
        if (name == "say") say(masked(Opcode::text, text));
        if (name == "big") say(masked(Opcode::text, std::string(number, 'x')));
        if (name == "binary") say(masked(Opcode::binary, text));
        if (name == "ping") say(masked(Opcode::ping, text));
        if (name == "pong") say(masked(Opcode::pong, text));
        if (name == "unmasked") say(encode(Opcode::text, text));
        if (name == "fragments") say(fragments(text, number));
        if (name == "close") close_frame(number);
        if (name == "raw") say(text);
        if (name == "line") say(text + "\r\n");
        if (name == "request") say(request(me()));
        if (name == "cut") cut_ = number;
        if (name == "hold") hold_ = true;
        if (name == "go") go();
        if (name == "mute") mute();
        if (name == "hear") deaf_ = false;
        if (name == "sleep") read_for(command.number);
        if (name == "quiet") quiet(command.number);
        if (name == "patience") patience_ = seconds(command.number);
        if (name == "wait") wait_for_messages(number);
        if (name == "until") wait_for_text(text);
        if (name == "code") wait_for_code(number);
        if (name == "end") wait_for_end();
        if (name == "half") half();
        if (name == "reset") leave(true);
        if (name == "leave") leave(false);
        if (name == "crowd") crowd(number);
        if (name == "callers") callers(number);
    }

    void shake_hands(Connection& connection) {
        send(connection, request(connection));
        const bool came = read_until(patience_, [&] {
            return connection.peer_of_chat || connection.refused || connection.ended;
        });
        if (connection.refused) too_early("refused: " + connection.status);
        if (connection.ended) too_early("the connection ended in the opening handshake");
        if (!came && connection.head.empty()) in_vain("no answer to the opening handshake");
        if (!came) in_vain("no blank line behind the answer: \"" + escape(connection.head) + '"');
    }

    std::string request(Connection& connection) const {
        connection.asked = true;
        if (!lower_) return kRequest;
        std::string text = kRequest;
        bool in_name = false;  // the first line has no field's name
        for (char& letter : text) {
            if (in_name && letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter + 32);
            if (letter == ':') in_name = false;
            if (letter == '\n') in_name = true;
        }
        return text;
    }

    static std::string fragments(const std::string& text, std::size_t count) {
        std::string frames;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t from = text.size() * i / count;
            const std::size_t to = text.size() * (i + 1) / count;
            const Opcode opcode = i == 0 ? Opcode::text : Opcode::continuation;
            frames += masked(opcode, text.substr(from, to - from), i + 1 == count);
        }
        return frames;
    }

    void close_frame(std::size_t code) {
        const auto number = code == 0 ? kNoCode : static_cast<std::uint16_t>(code);
        say(masked(Opcode::close, close_payload(number)));
        at_end_ = AtEnd::wait;
    }

    void go() {
        hold_ = false;
        say(held_);
        held_.clear();
    }

    // With a small buffer the server notices soon that nobody reads.
    void mute() {
        const int small = 4096;
        setsockopt(me().peer.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        deaf_ = true;
    }

    void quiet(double time) {
        const std::size_t before = me().events;
        read_until(seconds(time), [&] { return me().events > before; });
        if (me().events > before) in_vain("something came in the quiet time");
    }

    void wait_for_messages(std::size_t count) {
        const auto enough = [&] { return me().heard.size() >= count; };
        wait_for("messages, " + std::to_string(count) + " of them", enough);
        me().heard.erase(me().heard.begin(), me().heard.begin() + static_cast<long>(count));
    }

    void wait_for_text(const std::string& text) {
        wait_for("a message with \"" + text + '"', [&] {
            while (!me().heard.empty()) {
                const bool found = me().heard.front().find(text) != std::string::npos;
                me().heard.pop_front();
                if (found) return true;
            }
            return false;
        });
    }

    void wait_for_code(std::size_t code) {
        wait_for("a Close frame", [&] { return me().close_code.has_value(); });
        if (*me().close_code == code) return;
        in_vain("Close " + std::to_string(*me().close_code) + ", not " + std::to_string(code));
    }

    template <typename Condition>
    void wait_for(const std::string& what, Condition condition) {
        bool came = false;
        read_until(patience_, [&] {
            came = condition();
            return came || me().ended;
        });
        if (came) return;
        if (me().ended) too_early("the connection ended before what was waited for: " + what);
        in_vain("did not come: " + what);
    }

    void wait_for_end() {
        const bool came = read_until(patience_, [&] { return me().ended || !me().readable(); });
        if (!came) in_vain("the server does not close the connection");
    }

    void half() {
        me().peer.shut_down_sending();
        me().shut = true;
        at_end_ = AtEnd::wait;
    }

    void leave(bool with_reset) {
        if (with_reset) me().peer.reset_now();
        else me().peer.close();
        me().shut = true;
        at_end_ = AtEnd::nothing;
    }

    // Stops at the first one that does not come in.
    void crowd(std::size_t count) {
        std::size_t in = 0;
        std::string problem;
        while (in < count && problem.empty()) {
            try {
                connections_.push_back({.peer = Peer(port_, address_.c_str()), .loud = false});
                shake_hands(connections_.back());
                ++in;
            } catch (const Stop& stop) {
                problem = stop.why;
            } catch (const std::exception& error) {
                problem = error.what();
            }
        }
        std::string line = "crowd: " + std::to_string(in) + " of " + std::to_string(count);
        line += " came in";
        if (!problem.empty()) line += "; the next one: " + problem;
        if (!problem.empty()) status_ = 4;
        if (connections_.size() > 1 + in + in_crowd_) connections_.pop_back();
        in_crowd_ += in;
        print(line);
    }

    // All at once, and none waits for another: that is what a listen queue is for.
    void callers(std::size_t count) {
        addrinfo hints{};
        hints.ai_flags = AI_NUMERICHOST;
        hints.ai_socktype = SOCK_STREAM;
        addrinfo* where = nullptr;
        const std::string port = std::to_string(port_);
        if (getaddrinfo(address_.c_str(), port.c_str(), &hints, &where) != 0) return;
        const std::size_t before = callers_.size();
        for (std::size_t i = 0; i < count; ++i) {
            const int fd = socket(where->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            if (fd < 0) break;
            callers_.push_back(fd);
            ::connect(fd, where->ai_addr, where->ai_addrlen);
        }
        freeaddrinfo(where);
        std::size_t through = 0;
        read_until(seconds(kCallersTime.count()), [&] {
            const auto connected = [](int fd) {
                pollfd one{fd, POLLOUT, 0};
                return poll(&one, 1, 0) == 1 && (one.revents & POLLERR) == 0;
            };
            const auto from = callers_.begin() + static_cast<long>(before);
            through = static_cast<std::size_t>(std::count_if(from, callers_.end(), connected));
            return through == count;
        });
        print("callers: " + std::to_string(through) + " of " + std::to_string(count) +
              " connected");
        if (through < count) status_ = 4;
    }

    void finish() {
        if (!held_.empty()) go();
        if (at_end_ != AtEnd::nothing && !deaf_) {
            if (at_end_ == AtEnd::say_close) say_goodbye();
            wait_for_end();
        }
        if (in_crowd_ > 0) tell_of_the_crowd();
    }

    // Behind `tcp` the answer to a request may not have come yet, or there was no request.
    void say_goodbye() {
        if (me().asked) {
            read_until(patience_, [&] {
                return me().peer_of_chat || me().refused || me().ended;
            });
        }
        if (me().peer_of_chat && me().open()) close_frame(1000);
    }

    void tell_of_the_crowd() {
        std::size_t least = connections_.back().messages;
        std::size_t most = least;
        std::size_t ended = 0;
        for (std::size_t i = 1; i < connections_.size(); ++i) {
            least = std::min(least, connections_[i].messages);
            most = std::max(most, connections_[i].messages);
            if (connections_[i].ended) ++ended;
        }
        print("crowd: " + std::to_string(least) + " to " + std::to_string(most) +
              " messages each, " + std::to_string(ended) + " have been disconnected");
    }

    // --- sending ---

    void say(const std::string& bytes) {
        if (hold_) held_ += bytes;
        else send(me(), bytes);
    }

    void send(Connection& connection, std::string_view bytes) {
        if (connection.shut) usage_error("nothing can be said behind half, reset and leave");
        while (cut_ > 0 && bytes.size() > cut_) {
            send_whole(connection, bytes.substr(0, cut_));
            bytes.remove_prefix(cut_);
            read_for(std::chrono::duration<double>(kCutPause).count());
        }
        send_whole(connection, bytes);
    }

    void send_whole(Connection& connection, std::string_view bytes) {
        const auto deadline = Clock::now() + patience_;
        while (!bytes.empty()) {
            const ssize_t sent =
                ::send(connection.peer.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent >= 0) {
                bytes.remove_prefix(static_cast<std::size_t>(sent));
                continue;
            }
            if (errno != EAGAIN) broken(connection, std::strerror(errno));
            if (Clock::now() > deadline) in_vain("the server does not receive");
            pump(20ms, &connection);
        }
    }

    // The server may have said why before it closed.
    [[noreturn]] void broken(Connection& connection, const char* error) {
        for (int i = 0; i < 100 && connection.readable(); ++i) pump(10ms);
        too_early(std::string("the connection ended while something was said: ") + error);
    }

    // --- reading ---

    static Clock::duration seconds(double number) {
        return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(number));
    }

    void read_for(double time) {
        read_until(seconds(time), [] { return false; });
    }

    // Returns whether the condition came true in time.
    template <typename Condition>
    bool read_until(Clock::duration time, Condition condition) {
        const auto deadline = Clock::now() + time;
        while (!condition()) {
            const auto left = deadline - Clock::now();
            if (left <= 0ms) return false;
            pump(std::min<Clock::duration>(left, 20ms));
        }
        return true;
    }

    // Waits for something to read, or for room to write to one connection, and reads it.
    void pump(Clock::duration time, const Connection* writing = nullptr) {
        std::vector<pollfd> descriptors;
        for (const Connection& connection : connections_) {
            const bool reads = connection.readable() && (!deaf_ || !connection.peer_of_chat);
            pollfd one{reads ? connection.peer.fd() : -1, POLLIN, 0};
            if (&connection == writing) {
                one.fd = connection.peer.fd();
                one.events = static_cast<short>(reads ? POLLIN | POLLOUT : POLLOUT);
            }
            descriptors.push_back(one);
        }
        const auto wait = std::chrono::ceil<std::chrono::milliseconds>(time);
        poll(descriptors.data(), descriptors.size(), static_cast<int>(wait.count()));
        for (std::size_t i = 0; i < descriptors.size(); ++i) {
            const bool reads = (descriptors[i].events & POLLIN) != 0;
            const bool something = (descriptors[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
            if (reads && something) connections_[i].receive();
        }
    }

    std::string address_;
    int port_;
    std::deque<Connection> connections_;  // the first is the script's own, the others are the crowd
    std::size_t in_crowd_ = 0;
    std::vector<int> callers_;
    AtEnd at_end_ = AtEnd::say_close;
    bool lower_ = false;
    bool deaf_ = false;
    std::size_t cut_ = 0;                 // bytes said at a time; 0: all
    bool hold_ = false;
    std::string held_;                    // said since `hold`
    Clock::duration patience_ = kPatience;
    int status_ = 0;
};

bool is_address(const std::string& word) {
    const bool digit = word.find_first_of("0123456789") == 0;
    return digit || word.find(':') != word.npos || word == "localhost";
}

int main_of(std::deque<std::string> words) {
    std::string address = "127.0.0.1";
    int port = 4000;
    if (words.size() >= 2 && is_address(words[0])) {
        if (words[0] != "localhost") address = words[0];
        const double number = number_in("PORT", words[1], true);
        if (number < 1 || number > 65535) usage_error("PORT is 1 to 65535");
        port = static_cast<int>(number);
        words.erase(words.begin(), words.begin() + 2);
    }
    const std::vector<Command> commands = parse(words);
    raise_descriptor_limit();
    try {
        return Script(address, port).run(commands);
    } catch (const std::exception& error) {
        too_early(error.what());
    }
}

}  // namespace

int main(int argc, char* argv[]) {
    signal(SIGPIPE, SIG_IGN);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    const std::deque<std::string> words(argv + 1, argv + argc);
    const bool help = argc == 2 && words[0] == "--help";
    if (help || words.empty()) {
        std::fputs(kUsage, help ? stdout : stderr);
        return help ? 0 : 2;
    }
    try {
        return main_of(words);
    } catch (const Stop& stop) {
        std::fprintf(stderr, "peer: %s\n", stop.why.c_str());
        if (stop.status == 2) std::fputs("peer: without arguments it prints its usage\n", stderr);
        return stop.status;
    }
}
