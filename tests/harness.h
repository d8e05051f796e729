// What the tests over real sockets share: a ./server of their own, and a client of it that speaks through ws_frame.
// All waits are for events and end at a deadline; nothing sleeps and hopes. What fails throws, and says what.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "../ws_frame.h"

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kPatience = 20s;  // for an event on a slow, busy machine; no test passes by waiting it out

extern const std::string kRequest;   // a complete opening handshake, the article's own
extern const std::string kResponse;  // and the answer to it

std::string server_path();      // SERVER in the environment, or ./server
bool server_is_sanitized();     // the memory that it takes is not its own then
void raise_descriptor_limit();  // of this process and its children, as far as is allowed

// Until `condition` holds; throws past the deadline. For what the system says only when it is asked.
void wait_until(const char* what, const std::function<bool()>& condition);

// A child process, ended and waited for when it leaves its scope, and killed when this process dies.
class Process {
public:
    // `in_child` runs between fork() and exec().
    explicit Process(const std::vector<std::string>& command, const std::function<void()>& in_child = {});
    ~Process();
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    pid_t pid() const { return pid_; }
    void signal(int number) const;
    bool ended() const;
    int wait();                                   // for its end: the exit status, or minus the signal that ended it
    std::string wait_for(std::string_view text);  // until stdout has `text`: all of stdout so far
    const std::string& out();                     // stdout so far
    const std::string& err();                     // stderr so far
    double cpu_seconds() const;                   // user and system
    void stop_reading() { reading_ = false; }     // its stdout fills up from now on
    void go_on_reading() { reading_ = true; }

private:
    void drain(Clock::duration patience);  // waits for output at most so long
    std::string last_words() const;        // for a failure's text

    pid_t pid_ = -1;
    int out_fd_ = -1, err_fd_ = -1;
    bool reading_ = true;
    std::string out_, err_;
};

// The TCP port on which the process listens: for servers whose output nobody can read.
int listening_port(const Process& process);

// A TCP port of 127.0.0.1 on which nobody listens, and nobody else can while this object lives.
class SilentPort {
public:
    SilentPort();
    ~SilentPort();
    SilentPort(const SilentPort&) = delete;
    SilentPort& operator=(const SilentPort&) = delete;
    int number() const { return number_; }

private:
    int fd_ = -1, number_ = 0;
};

// The real ./server on a free port of 127.0.0.1.
class Server : public Process {
public:
    explicit Server(std::vector<std::string> options = {}, const std::function<void()>& in_child = {},
                    const std::vector<std::string>& place = {"127.0.0.1", "0"});
    int port() const { return port_; }
    long resident_bytes() const { return status_bytes("VmRSS:"); }
    long peak_bytes() const { return status_bytes("VmHWM:"); }  // the most that was ever resident
    long virtual_bytes() const { return status_bytes("VmSize:"); }
    int descriptors() const;                                    // open ones

private:
    long status_bytes(std::string_view field) const;

    int port_ = 0;
};

// A TCP connection, and a WebSocket once it has shaken hands.
class Peer {
public:
    explicit Peer(int port, const char* address = "127.0.0.1");
    explicit Peer(const Server& server) : Peer(server.port()) {}
    ~Peer();
    Peer(Peer&& other) noexcept;
    Peer& operator=(Peer&& other) noexcept;

    int fd() const { return fd_; }
    int port() const;                             // its own
    bool send_some(std::string_view& bytes);      // takes off the front what goes at once; false as below
    bool try_send(std::string_view bytes);        // false when the connection is broken
    void send(std::string_view bytes);            // all of them, reading meanwhile so that nobody blocks
    void send_slowly(std::string_view bytes);     // byte by byte, each in a segment of its own
    void send_frame(Opcode opcode, std::string_view payload, bool fin = true);
    std::string receive(std::size_t size);        // exactly so many bytes, less at the end of the connection
    std::string receive_some();                   // what has come, at least one byte
    std::string receive_until(std::string_view end);
    std::string receive_all();                    // to the end of the connection
    std::string refusal();                        // the same: an HTTP response, which must be a complete refusal
    bool reset() const { return reset_; }         // the end was a RST, not a FIN
    bool silent(std::chrono::milliseconds time);  // nothing to receive for so long (for what must not come)

    void shake_hands();  // sends kRequest, checks the answer
    struct Frame {
        bool ended = false;  // there is none: the connection's end came instead
        Header header{};
        std::string payload{};
    };
    Frame next_frame();           // the server's next one
    std::string text();           // of the next frame, which must be a text message
    std::uint16_t closed_with();  // skips to the Close frame: its code (kNoCode: empty); 0: none came
    void shut_down_sending();     // FIN
    void reset_now();             // RST
    void close();

private:
    bool fill(Clock::time_point deadline);  // false at the end of the connection
    std::string_view unread() const { return std::string_view(in_).substr(at_); }
    std::string take(std::size_t size);

    int fd_ = -1;
    bool ended_ = false, reset_ = false;
    std::string in_;      // received
    std::size_t at_ = 0;  // of this looked at
    Decoder decoder_{Decoder::Role::client};
};

// So many peers, all in the chat.
std::vector<Peer> join(const Server& server, std::size_t count);

std::string masked(Opcode opcode, std::string_view payload, bool fin = true);  // a client's frame, whole
std::string repeat(std::string_view text, std::size_t times);
