// A chat server: one thread, one select(), every message to every peer. It is a port of a PHP demo,
// the class WS, with the demo's names, its shape and its order of events.
//
// One round of the loop, WS::run():
//
//   fill the fd_sets -> select() -> accept -> receive (handshake or decode -> process) -> flush
//   -> sweep
//
// Only this file makes system calls, and of those only select() waits. There are three kinds of
// failure, and each is handled in one way:
//   1. The server cannot start: one line that says why, exit 1 (die).
//   2. A client fails, by its bytes, its socket or its silence: that client goes (refuse, close,
//      drop), and nobody else notices.
//   3. EINTR, EAGAIN, EMFILE and the like are expected: they are handled where they occur.
//
// Where to begin: struct Log, struct Window, struct Client, WS::run(), and then the functions of WS
// in the order in which run() calls them. Struct Terminal, the signals and the command line can be
// skipped at first.

#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "ws_frame.h"
#include "ws_handshake.h"

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// --- limits (the limit of a request is in ws_handshake.h, that of a message in ws_frame.h) -------

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;

constexpr auto kHandshakeTime = 10s;  // from accept() to the end of the request; past it: 408
constexpr auto kPingAfter = 30s;      // without a sign of life from a peer
constexpr auto kDropAfter = 60s;      // without a sign of life from a peer
constexpr auto kStallTime = 30s;      // taking nothing while something waits; past it: dropped
constexpr auto kFarBehindTime = 10s;  // the same for a peer that is more than half the log behind
constexpr auto kClosingTime = 2s;     // without a TCP FIN or a byte taken, after the last word
constexpr auto kStoppingTime = 1s;    // for all of that together when the server ends
constexpr auto kAcceptPause = 100ms;  // when the system has no descriptor or memory for a newcomer

constexpr std::size_t kLogBytes = 48 * kMiB;      // what was said and is not sent to everybody yet
constexpr std::size_t kCommonBytes = 31 * kMiB;   // of the log, for whoever comes first
constexpr std::size_t kReservedBytes = 16 * kKiB; // of the rest of the log, for each descriptor
constexpr std::size_t kWindowBytes = 24 * kMiB;   // divided by the number of peers: one's window
constexpr std::size_t kHeldBytes = 40 * kMiB;     // half-received messages of all; past it: 1009
constexpr std::size_t kRoundBytes = kMiB;         // received in a round, in equal shares ...
constexpr std::size_t kReceiveBytes = 32 * kKiB;  // ... of at most this
constexpr std::size_t kSendBytes = kMiB;          // sent to one client in a round
constexpr std::size_t kLeastPace = kKiB;          // bytes taken that buy a stalled peer one second
constexpr std::size_t kTerminalBytes = 64 * kKiB; // lines that standard output has not taken yet
constexpr int kSocketBytes = 128 * 1024;          // of one client in the kernel, in each direction
constexpr int kAcceptsPerRound = 64;              // newcomers let in between two looks at others
constexpr int kRefusalSlots = 8;                  // descriptors kept for saying 503 in good order

// The reserve of every descriptor that there can be fits into the log. A message in the log may be
// longer than what was counted when it was received: by a header and by the room that every
// std::string has. That is less than 64 bytes.
static_assert(kCommonBytes + FD_SETSIZE * (kReservedBytes + 64) <= kLogBytes);
static_assert(kMaxMessageBytes + kReceiveBytes < kCommonBytes);

constexpr int kYes = 1;  // for setsockopt()
constexpr timespec kMoment{0, 10'000'000};  // 10 ms, for pselect()

// What clients that have left had taken goes back to the system. Without this the C library of
// Linux keeps what is freed, tens of MiB, to use it again.
void give_memory_back() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

// --- standard output (can be skipped at first) ---------------------------------------------------

// Printing may block: a terminal that was stopped with Ctrl-S or that nobody reads, and a pipe that
// is full, make write() wait, and the whole server with it. So lines are collected here and written
// when select() says that there is room. Lines that find no room here are dropped and counted.
struct Terminal {
    std::string text;         // lines that are not written yet
    std::size_t dropped = 0;  // lines since the last one that found room

    // select() calls a terminal writable when it has room for one byte, and write() would wait for
    // the others: it needs O_NONBLOCK. But that flag belongs to the open file, which the shell
    // shares. So the terminal is opened once more.
    Terminal() {
        text.reserve(2 * kTerminalBytes);  // from now on no line needs memory
        const char* name = ttyname(STDOUT_FILENO);
        if (name == nullptr) return;
        const int fd = open(name, O_WRONLY | O_NONBLOCK | O_NOCTTY);
        if (fd < 0) return;
        dup2(fd, STDOUT_FILENO);
        ::close(fd);
    }

    bool has_room() {
        const bool room = dropped == 0 && text.size() <= kTerminalBytes;
        if (!room) ++dropped;
        return room;
    }

    void line(std::initializer_list<std::string_view> parts) {
        if (!has_room()) return;
        for (const std::string_view part : parts) text += part;
        text += '\n';
    }

    // Writes what can be written without waiting. A pipe that select() calls writable takes
    // PIPE_BUF bytes at once.
    void flush() {
        while (!text.empty() && writable()) {
            const std::size_t size = std::min<std::size_t>(text.size(), PIPE_BUF);
            const ssize_t written = write(STDOUT_FILENO, text.data(), size);
            if (written < 0 && (errno == EAGAIN || errno == EINTR)) return;
            if (written < 0) text.clear();  // nobody will read it
            else text.erase(0, static_cast<std::size_t>(written));
            if (dropped > 0 && text.size() <= kTerminalBytes / 2) tell_dropped();
        }
    }

    void tell_dropped() {
        const std::string count = std::to_string(dropped);
        dropped = 0;
        line({"(", count, " lines dropped)"});
    }

    static bool writable() {
        fd_set out;
        FD_ZERO(&out);
        FD_SET(STDOUT_FILENO, &out);
        timeval at_once{};
        return select(STDOUT_FILENO + 1, nullptr, &out, nullptr, &at_once) == 1;
    }
};

// --- the log -------------------------------------------------------------------------------------

// All that is said is one sequence of bytes, the same for every peer. Each message is encoded once
// and kept once. A position in the sequence is a number that only grows; a peer remembers up to
// which position it has been sent. What lies between the slowest peer and the end is kept, in a
// buffer of fixed size that is used as a ring: its first byte follows its last.
//
//            oldest                              end
//   ...=======|-----------------------------------|
//    forgotten       ^ position of some peer       the next message goes here
struct Log {
    // The system gives a page of memory when it is first written to: what was never used costs
    // nothing. (A std::vector would write zeros.)
    std::unique_ptr<char[]> buffer{new char[kLogBytes]};
    std::uint64_t start = 0;   // a position whose byte is the first of the buffer
    std::uint64_t oldest = 0;  // somebody has not been sent the bytes from here on
    std::uint64_t end = 0;     // behind the last byte

    std::size_t under_way() const { return static_cast<std::size_t>(end - oldest); }

    std::size_t place_of(std::uint64_t position) const {
        return static_cast<std::size_t>((position - start) % kLogBytes);
    }

    // There is room for it: see WS::allowance().
    void append(std::string_view bytes) {
        while (!bytes.empty()) {
            const std::size_t place = place_of(end);
            const std::size_t size = std::min(bytes.size(), kLogBytes - place);
            std::memcpy(&buffer[place], bytes.data(), size);
            bytes.remove_prefix(size);
            end += size;
        }
    }

    // The bytes from one position up to another, or as many of them as lie together.
    std::string_view view(std::uint64_t from, std::uint64_t to) const {
        const std::size_t place = place_of(from);
        const std::uint64_t size = std::min<std::uint64_t>(to - from, kLogBytes - place);
        return {&buffer[place], static_cast<std::size_t>(size)};
    }

    // When everybody has been sent everything, the next message goes to the start of the buffer:
    // those bytes were used a moment ago and are still in the processor's cache.
    void forget(std::uint64_t before) {
        oldest = before;
        if (oldest == end) start = end;
    }
};

// How many bytes of the log one descriptor has said and somebody has not been sent yet. It is not
// known to the byte, but it is never more than bytes(): all that was said before `mark` is out when
// the oldest byte of the log has passed `mark`.
struct Window {
    std::uint64_t mark = 0;
    std::size_t before = 0;  // bytes said before the mark
    std::size_t since = 0;   // bytes said since

    std::size_t bytes() const { return before + since; }

    void update(const Log& log) {
        if (log.oldest < mark) return;
        before = log.oldest == log.end ? 0 : since;
        since = 0;
        mark = log.end;
    }
};

// --- one socket ----------------------------------------------------------------------------------

// A client's life. The deadlines are constants above.
//
//    accept()
//       |
//       v
//     open, no handshake  ---- refuse(): a bad request, no slot, kHandshakeTime ------.
//       |                                                                             |
//       | do_handshake(): 101                                                         |
//       v                                                                             v
//     open, handshake: a peer  ---- close(): Close came or is sent ------------->  closing
//       |                      ---- leave(): its TCP FIN came ------------------>     |
//       |                                                                             |
//       | drop(): reset, silent (kDropAfter),          its TCP FIN came and all is    |
//       | takes nothing (kStallTime)                   sent, or kClosingTime is over  |
//       v                                                                             v
//     gone  <-------------------------------------------------------------------------'
//       |
//       v
//     sweep() closes the socket
enum class State { open, closing, gone };

struct Client {
    int fd;
    bool handshake = false;            // done: it speaks frames (the demo has one flag for all)
    State state = State::open;
    bool ended = false;                // its TCP FIN has come: there is nothing to receive
    bool blocked = false;              // the kernel did not take all that is due: wait until it can
    bool pinged = false;               // since its last sign of life
    Clock::time_point deadline;        // of the state it is in, see expire()
    Clock::time_point stalled{};       // while blocked: when it must have taken more
    std::string request{};             // the opening handshake as far as it has come
    std::optional<Decoder> decoder{};  // since the handshake, until it is closing

    // It is sent: the log up to own_at, own, the log up to its end (closing: to last), last_word.
    std::uint64_t position = 0;        // in the log: it has been sent the bytes before
    std::uint64_t own_at = 0;          // in the log: a place between two messages
    std::string own{};                 // answers to it alone: the 101, Pongs, our Ping
    std::uint64_t last = 0;            // in the log: the end when it began closing
    std::string last_word{};           // a Close frame or a refusal

    std::size_t held() const { return decoder ? decoder->held() : 0; }
};

// --- signals, addresses (can be skipped at first) ------------------------------------------------

// SIGINT, SIGTERM and SIGHUP are blocked, so that none comes between a look at `caught` and
// select(). They are let in while pselect() waits. When some descriptor is always ready, pselect()
// may never let them in: so signalled() also asks for signals that are still blocked.
volatile sig_atomic_t caught = 0;

extern "C" void on_signal(int) { caught = 1; }

// Returns the signal mask for pselect(): the one from before, in which these signals come through.
sigset_t block_signals() {
    sigset_t stop;
    sigset_t outside;
    sigemptyset(&stop);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
        const auto before = signal(number, on_signal);
        const bool nohup = number == SIGHUP && before == SIG_IGN;  // nohup ./server
        if (nohup) signal(number, SIG_IGN);
        else sigaddset(&stop, number);
    }
    sigprocmask(SIG_BLOCK, &stop, &outside);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigdelset(&outside, number);
    return outside;
}

bool signalled() {
    sigset_t pending;
    sigpending(&pending);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
        if (sigismember(&pending, number) == 1) return true;
    }
    return caught != 0;
}

std::string join(const std::string& address, const std::string& port) {
    const bool ipv6 = address.find(':') != address.npos;
    return (ipv6 ? '[' + address + ']' : address) + ':' + port;
}

std::string numeric(const sockaddr_storage& address, socklen_t size) {
    std::array<char, NI_MAXHOST> host{};
    std::array<char, NI_MAXSERV> port{};
    getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(), host.size(),
                port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV);
    return join(host.data(), port.data());
}

std::string seconds(std::chrono::seconds time) { return std::to_string(time.count()) + " s"; }

[[noreturn]] void die(const std::string& address, const std::string& port, const char* why) {
    std::fprintf(stderr, "cannot listen on %s: %s\n", join(address, port).c_str(), why);
    std::exit(1);
}

// The socket that listens. When a host name has several addresses, the first IPv4 address is taken,
// as in the demo, where localhost is 127.0.0.1. No second one is tried: a server that silently
// listens somewhere else is harder to find than one that says what is wrong.
int open_master(const std::string& address, const std::string& port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const int failed = getaddrinfo(address.c_str(), port.c_str(), &hints, &found);
    if (failed == EAI_SYSTEM) die(address, port, strerror(errno));
    if (failed != 0) die(address, port, gai_strerror(failed));
    const addrinfo* place = found;
    while (place->ai_family != AF_INET && place->ai_next != nullptr) place = place->ai_next;
    if (place->ai_family != AF_INET) place = found;

    const int master = socket(place->ai_family, SOCK_STREAM, 0);
    if (master >= FD_SETSIZE) die(address, port, "no descriptor below FD_SETSIZE is free");
    // SO_REUSEADDR: the port can be used again although old connections are in TIME_WAIT.
    // The buffers are those of each client: accept() takes them over from the master.
    const bool listening =
        master >= 0 &&
        setsockopt(master, SOL_SOCKET, SO_REUSEADDR, &kYes, sizeof kYes) == 0 &&
        setsockopt(master, SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof kSocketBytes) == 0 &&
        setsockopt(master, SOL_SOCKET, SO_RCVBUF, &kSocketBytes, sizeof kSocketBytes) == 0 &&
        bind(master, place->ai_addr, place->ai_addrlen) == 0 &&
        listen(master, SOMAXCONN) == 0 &&
        // A newcomer may have gone again before accept(), which would then wait for the next one.
        fcntl(master, F_SETFL, O_NONBLOCK) == 0;
    if (!listening) die(address, port, strerror(errno));
    freeaddrinfo(found);
    return master;
}

// --- the server ----------------------------------------------------------------------------------

class WS {
    const int master;                   // the socket that listens
    const bool quiet;                   // prints the first line only
    const bool tracing;                 // prints each frame and each system call, too
    std::map<int, Client> sockets;      // by descriptor
    int slots = 0;                      // descriptors of clients are less; the last hear 503
    std::size_t peers = 0;              // clients that are open and whose handshake is done
    Log log;                            // what everybody is sent
    std::vector<Window> windows{FD_SETSIZE};  // by descriptor: coming back gives no new one
    int last_served = -1;               // descriptor of the last client received from
    std::vector<char> buffer = std::vector<char>(kReceiveBytes);  // for recv()
    Terminal terminal;
    const sigset_t signals_outside = block_signals();  // the mask while pselect() waits
    Clock::time_point now = Clock::now();  // of this round
    Clock::time_point accept_again = now;  // the master is not in the read set before
    bool stopping = false;              // SIGINT, SIGTERM or SIGHUP came
    Clock::time_point stop_time{};      // when stopping: nobody is waited for any longer

public:
    WS(const std::string& address, const std::string& port, bool quietly, bool traced)
        : master(open_master(address, port)), quiet(quietly), tracing(traced) {
        rlimit files{};
        getrlimit(RLIMIT_NOFILE, &files);
        // One descriptor stays free, so that accept() can take in those who are refused.
        slots = static_cast<int>(std::min<rlim_t>(FD_SETSIZE, files.rlim_cur - 1));

        sockaddr_storage own{};
        socklen_t size = sizeof own;
        getsockname(master, reinterpret_cast<sockaddr*>(&own), &size);
        terminal.line({"Master socket  : ", std::to_string(master), " listening on ",
                       numeric(own, size)});
        terminal.flush();
    }

    // Returns after SIGINT, SIGTERM or SIGHUP, when everybody has been told.
    void run() {
        while (!stopping || !sockets.empty()) {
            fd_set readable;
            fd_set writable;
            const int highest = fill(readable, writable);
            wait(highest, readable, writable);
            if (!stopping && FD_ISSET(master, &readable)) connect_all();
            receive_all(readable);
            flush_all(writable);
            sweep();
            terminal.flush();
        }
        ::close(master);
    }

private:
    // --- select() --------------------------------------------------------------------------------

    // Fills the sets anew in each round, because select() overwrites what it is given. (The demo
    // gives it $sockets itself.) Returns the highest descriptor in them.
    int fill(fd_set& readable, fd_set& writable) {
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        int highest = master;
        if (!terminal.text.empty()) FD_SET(STDOUT_FILENO, &writable);
        if (!stopping && now >= accept_again) FD_SET(master, &readable);
        for (auto& [fd, client] : sockets) {
            if (allowance(client) > 0) FD_SET(fd, &readable);
            else sign_of_life(client);  // it may be sending: we do not look
            if (client.blocked) FD_SET(fd, &writable);
            highest = std::max(highest, fd);
        }
        return highest;
    }

    // How many bytes may be received from a client now; 0: it is not in the read set. What is
    // received may all become messages, and the end of a long one makes a message of all that is
    // held of it. So that there is always room for it in the log:
    //   - what stays within the sender's window must fit into kCommonBytes;
    //   - a message that does not waits until the longest would fit: long ones are all alike;
    //   - kReservedBytes of each descriptor are never taken by another. Who says little is heard
    //     at once, however much others say, and however slowly others read.
    // An example with 10 peers, each of which has a share of 2.4 MiB, while some peer reads slowly.
    // Who chats is received from as long as less than 31 MiB of the log are under way; who is
    // inside a message of 5 MiB, as long as it is less than 15 MiB. Both stop when they have said
    // their 2.4 MiB and it is not out. And when 31 MiB are under way, each may still say 16 KiB.
    std::size_t allowance(const Client& client) {
        if (client.ended) return 0;
        if (client.state != State::open) return kReceiveBytes;  // only to see its TCP FIN
        if (!client.own.empty()) return 0;  // it does not take its answers: no further questions
        Window& window = windows[static_cast<std::size_t>(client.fd)];
        window.update(log);
        const std::size_t share = kWindowBytes / std::max<std::size_t>(peers, 1);
        const std::size_t said = window.bytes() + client.held();
        const std::size_t room = kCommonBytes - std::min(kCommonBytes, log.under_way());
        if (said < share) {
            if (client.held() + kReceiveBytes <= room) return std::min(share - said, kReceiveBytes);
        } else if (window.bytes() < share) {
            if (kMaxMessageBytes + kReceiveBytes <= room) return kReceiveBytes;
        }
        if (said < kReservedBytes) return std::min(kReservedBytes - said, kReceiveBytes);
        // A request is not said to anybody. Byte by byte, because frames may follow it.
        return client.handshake ? 0 : 1;
    }

    // The only call that waits: for a descriptor, a deadline or a signal.
    void wait(int highest, fd_set& readable, fd_set& writable) {
        const auto patience = timeout();
        const timespec* limit = patience ? &*patience : nullptr;
        const int ready =
            pselect(highest + 1, &readable, &writable, nullptr, limit, &signals_outside);
        if (ready < 0) {
            // A signal came, or the kernel has no memory: then try again, but not at once.
            if (errno != EINTR) pselect(0, nullptr, nullptr, nullptr, &kMoment, nullptr);
            FD_ZERO(&readable);  // what they say now means nothing
            FD_ZERO(&writable);
        }
        now = Clock::now();
        if (!stopping && signalled()) {
            stopping = true;
            stop_time = now + kStoppingTime;
        }
        if (tracing) trace_select(ready, highest, readable, writable);
    }

    // The time until the next deadline; nothing when nobody has one.
    std::optional<timespec> timeout() const {
        auto next = Clock::time_point::max();
        if (now < accept_again) next = accept_again;
        for (const auto& [fd, client] : sockets) {
            next = std::min(next, client.deadline);
            if (client.blocked) next = std::min(next, stall_deadline(client));
        }
        if (next == Clock::time_point::max()) return std::nullopt;
        const auto left = std::max<Clock::duration>(next - Clock::now(), 0ns);
        return timespec{static_cast<time_t>(left / 1s), static_cast<long>(left % 1s / 1ns)};
    }

    // --- accept ----------------------------------------------------------------------------------

    void connect_all() {
        int newcomers = 0;
        while (newcomers < kAcceptsPerRound && connect()) ++newcomers;
    }

    // Lets one newcomer in; false when there is none.
    bool connect() {
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        const int fd = accept(master, reinterpret_cast<sockaddr*>(&address), &size);
        if (fd < 0) {
            const bool usual = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
            // Else there is no descriptor or no memory for it. It stays in the listen queue, and
            // select() would return at once, again and again: leave the master out for a while.
            if (!usual) accept_again = now + kAcceptPause;
            return false;
        }
        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &kYes, sizeof kYes);  // small frames go at once
        try {
            welcome(Client{.fd = fd, .deadline = now + kHandshakeTime}, numeric(address, size));
        } catch (const std::bad_alloc&) {
            ::close(fd);
        }
        return true;
    }

    void welcome(Client client, const std::string& address) {
        say({"connect client ", std::to_string(client.fd), " from ", address});
        if (client.fd >= slots - kRefusalSlots) {
            refuse(client, refusal("", "503 Service Unavailable", "no slot left"));
        }
        if (client.fd < slots) {
            sockets.emplace(client.fd, std::move(client));
            return;
        }
        // There is no slot to end in good order: it gets what the kernel takes at once.
        flush(client);
        ::close(client.fd);
    }

    // --- receive ---------------------------------------------------------------------------------

    // Begins behind the client that was the last to be received from in the round before. Else low
    // descriptors would always find the log's room first.
    void receive_all(const fd_set& readable) {
        std::size_t senders = 1;
        for (const auto& [fd, client] : sockets) senders += FD_ISSET(fd, &readable) ? 1 : 0;
        const std::size_t share = kRoundBytes / senders;
        auto next = sockets.upper_bound(last_served);
        for (std::size_t left = sockets.size(); left > 0; --left) {
            if (next == sockets.end()) next = sockets.begin();
            serve(next->second, readable, share);
            ++next;
        }
    }

    void serve(Client& client, const fd_set& readable, std::size_t share) {
        try {
            // Asked again: others may have taken the room since fill().
            const std::size_t size = std::min(allowance(client), share);
            if (FD_ISSET(client.fd, &readable) && size > 0) receive(client, size);
            if (stopping) say_goodbye(client);
            expire(client);
        } catch (const std::bad_alloc&) {
            drop(client, "out of memory");
        }
    }

    void receive(Client& client, std::size_t size) {
        const ssize_t received = recv(client.fd, buffer.data(), size, 0);
        trace_call("recv", client.fd, received);
        if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (received < 0) return drop(client, strerror(errno));
        last_served = client.fd;
        client.ended = received == 0;  // by its TCP FIN; what is due to it may still arrive
        if (client.ended) return leave(client, "disconnect", "connection ended without Close");
        if (client.state != State::open) return;
        std::string_view input(buffer.data(), static_cast<std::size_t>(received));
        if (!client.handshake) do_handshake(client, input);
        if (client.handshake) decode(client, input);
    }

    void do_handshake(Client& client, std::string_view& input) {
        const std::optional<Response> response = take_request(client.request, input);
        if (!response) return;
        trace_lines("<-", client.fd, client.request);
        if (!response->accepted) return refuse(client, *response);
        trace_lines("->", client.fd, response->text);
        std::string().swap(client.request);  // gives its memory back
        client.decoder.emplace();
        client.handshake = true;
        ++peers;
        say({"shakeHands ", std::to_string(client.fd)});

        // Sent now, because nothing may come before it. A new socket always has room for it.
        client.position = log.end;  // what was said before is not for it
        send(client, response->text);
        flush(client);
        if (client.blocked) drop(client, "no room for the response");
    }

    void decode(Client& client, std::string_view input) {
        sign_of_life(client);
        const std::size_t held_before = client.held();
        while (client.state == State::open) {
            Decoder& decoder = *client.decoder;
            const Decoder::Event event = decoder.feed(input);
            if (event == Decoder::Event::need_more) break;
            if (tracing) trace("<-", client.fd, decoder.describe());
            process(client, event);
        }
        if (client.held() > held_before) limit_held();
    }

    // A message goes to every peer; a control frame or a violation has its answer.
    void process(Client& client, Decoder::Event event) {
        const Decoder& decoder = *client.decoder;
        const std::string_view payload = decoder.payload();
        if (event == Decoder::Event::fragment) return;
        if (event == Decoder::Event::violation) {
            return close(client, decoder.code(), decoder.reason());
        }
        switch (decoder.opcode()) {
            case Opcode::ping: return send_frame(client, Opcode::pong, payload);
            case Opcode::pong: return;
            case Opcode::close: return close(client, close_code(payload), "closed by peer");
            default: return broadcast(client, decoder.opcode(), payload);
        }
    }

    void broadcast(const Client& sender, Opcode opcode, std::string_view payload) {
        const Header header = make_header(opcode, payload.size());
        if (!quiet) {
            say({"send file ", std::to_string(sender.fd), ": ", opcode_name(opcode), ", ",
                 std::to_string(payload.size()), " bytes, to ", std::to_string(peers), " clients"});
        }
        if (tracing) terminal.line({"-> all: ", describe(header, opcode, payload)});
        log.append(header.bytes);
        log.append(payload);
        windows[static_cast<std::size_t>(sender.fd)].since += header.bytes.size() + payload.size();
    }

    // The memory of half-received messages is limited for all together, or a thousand clients could
    // fill sixteen gigabytes. This is called when one message has grown, and the largest is at
    // least as large: so it is enough that one client goes.
    void limit_held() {
        std::size_t total = 0;
        Client* most = nullptr;
        for (auto& [fd, client] : sockets) {
            total += client.held();
            if (most == nullptr || client.held() > most->held()) most = &client;
        }
        if (total <= kHeldBytes) return;
        close(*most, kTooBig, "the half-received messages of all are too large");
    }

    // --- deadlines -------------------------------------------------------------------------------

    // A byte from a peer, or a byte taken by one that was blocked; and who is not read may be
    // sending.
    void sign_of_life(Client& client) {
        if (!client.handshake || client.state != State::open) return;
        client.deadline = now + kPingAfter;
        client.pinged = false;
    }

    // When a client that was blocked must have taken more than it has.
    Clock::time_point stall_deadline(const Client& client) const {
        const bool far_behind = log.end - client.position > kLogBytes / 2;
        return far_behind ? client.stalled - (kStallTime - kFarBehindTime) : client.stalled;
    }

    void expire(Client& client) {
        if (client.blocked && now >= stall_deadline(client)) {
            drop(client, "takes nothing of what waits for it");
        }
        if (now < client.deadline) return;
        if (client.state != State::open) return drop(client, "");
        if (!client.handshake) {
            const std::string why = "no complete request within " + seconds(kHandshakeTime);
            return refuse(client, refusal(client.request, "408 Request Timeout", why));
        }
        if (client.pinged) return drop(client, "silent for " + seconds(kDropAfter));
        send_frame(client, Opcode::ping, "");
        client.pinged = true;
        client.deadline = now + (kDropAfter - kPingAfter);
    }

    void say_goodbye(Client& client) {
        if (!client.handshake) drop(client, "the server stops");
        close(client, kGoingAway, "the server stops");
        client.deadline = std::min(client.deadline, stop_time);
    }

    // --- flush -----------------------------------------------------------------------------------

    // An answer to one client alone. It is sent when the round ends, behind all that has been said
    // so far. None of `own` has been sent yet: who has something in it is not received from.
    void send(Client& client, std::string_view bytes) {
        client.own += bytes;
        client.own_at = log.end;
    }

    void send_frame(Client& client, Opcode opcode, std::string_view payload) {
        trace_frame(client.fd, opcode, payload);
        send(client, encode(opcode, payload));
    }

    void flush_all(const fd_set& writable) {
        for (auto& [fd, client] : sockets) {
            if (!client.blocked || FD_ISSET(fd, &writable)) flush(client);
        }
    }

    // Sends what is due to a client, until all is sent or the kernel takes no more. It is sent from
    // where it is kept; the rest waits there. Mostly this is one send().
    void flush(Client& client) {
        if (client.state == State::gone || next_piece(client).empty()) return;
        std::size_t taken = 0;
        while (taken < kSendBytes) {
            const std::string_view piece = next_piece(client).substr(0, kSendBytes - taken);
            if (piece.empty()) break;
            const ssize_t sent = ::send(client.fd, piece.data(), piece.size(), 0);
            trace_call("send", client.fd, sent);
            if (sent < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)) break;
            if (sent < 0) return drop(client, strerror(errno));
            advance(client, static_cast<std::size_t>(sent));
            taken += static_cast<std::size_t>(sent);
        }
        be_patient(client, taken);
        client.blocked = !next_piece(client).empty();
        if (client.blocked) client.own.shrink_to_fit();  // a thousand may be blocked
        // After the last word half-close, and read on until the client closes, too: close() might
        // send a RST now, which would overtake the last word.
        if (client.state == State::closing && !client.blocked) shutdown(client.fd, SHUT_WR);
    }

    // The log is due up to here.
    std::uint64_t due(const Client& client) const {
        if (client.state != State::open) return client.last;
        return client.handshake ? log.end : client.position;
    }

    // The log is sent next up to here: own_at while there is something of its own.
    std::uint64_t next_stop(const Client& client) const {
        return client.own.empty() ? due(client) : client.own_at;
    }

    // What is sent next; empty when nothing is due.
    std::string_view next_piece(const Client& client) const {
        const std::uint64_t stop = next_stop(client);
        if (client.position < stop) return log.view(client.position, stop);
        return client.own.empty() ? client.last_word : client.own;
    }

    // So many bytes of that piece have been sent.
    void advance(Client& client, std::size_t sent) {
        if (client.position < next_stop(client)) client.position += sent;
        else if (!client.own.empty()) client.own.erase(0, sent);
        else client.last_word.erase(0, sent);
    }

    // Bytes taken by a client that was blocked are a sign of life, and they give it more time, at
    // kLeastPace: else one byte now and then would keep the log full for ever.
    void be_patient(Client& client, std::size_t taken) {
        const Clock::time_point full = now + kStallTime;
        if (!client.blocked) client.stalled = full;
        if (!client.blocked || taken == 0) return;
        const std::chrono::milliseconds earned(1000 * taken / kLeastPace);
        client.stalled = std::min(full, client.stalled + earned);
        if (client.state == State::closing) client.deadline = now + kClosingTime;
        else sign_of_life(client);
    }

    // --- the end of a client ---------------------------------------------------------------------

    // From here on it is no peer. What is due to it is still sent, and it has a moment to close its
    // side.
    void leave(Client& client, std::string_view verb, std::string_view why) {
        if (client.state != State::open) return;
        say({verb, " client ", std::to_string(client.fd), ": ", why});
        client.last = due(client);
        client.state = State::closing;
        if (client.handshake) --peers;
        client.decoder.reset();
        client.deadline = now + kClosingTime;
    }

    void refuse(Client& client, const Response& response) {
        trace_lines("->", client.fd, response.text);
        client.last_word = response.text;
        leave(client, "refuse", response.reason);
    }

    void close(Client& client, std::uint16_t code, std::string_view why) {
        if (client.state != State::open) return;
        trace_frame(client.fd, Opcode::close, close_payload(code));
        client.last_word = encode(Opcode::close, close_payload(code));
        leave(client, "disconnect", std::string(why) + " (" + std::to_string(code) + ")");
    }

    void drop(Client& client, std::string_view why) {
        leave(client, "disconnect", why);
        client.state = State::gone;
    }

    // The one place that closes and erases; all others only mark.
    void sweep() {
        const std::size_t clients = sockets.size();
        std::uint64_t oldest = log.end;
        for (auto next = sockets.begin(); next != sockets.end();) {
            const Client& client = next->second;
            if (client.state == State::gone || (client.ended && !client.blocked)) {
                ::close(client.fd);
                next = sockets.erase(next);
                continue;
            }
            if (client.position < due(client)) oldest = std::min(oldest, client.position);
            ++next;
        }
        log.forget(oldest);
        if (sockets.size() < clients) give_memory_back();
    }

    // --- what it prints --------------------------------------------------------------------------

    void say(std::initializer_list<std::string_view> parts) {
        if (!quiet) terminal.line(parts);
    }

    void trace(std::string_view arrow, int fd, std::string_view what) {
        if (tracing) terminal.line({arrow, " ", std::to_string(fd), ": ", what});
    }

    void trace_frame(int fd, Opcode opcode, std::string_view payload) {
        if (!tracing) return;
        trace("->", fd, describe(make_header(opcode, payload.size()), opcode, payload));
    }

    void trace_lines(std::string_view arrow, int fd, std::string_view text) {
        while (tracing && !text.empty()) {
            const std::size_t end = std::min(text.find("\r\n"), text.size());
            trace(arrow, fd, escape(text.substr(0, end)));
            text.remove_prefix(std::min(end + 2, text.size()));
        }
    }

    // What recv() or send() returned. Leaves errno as it was.
    void trace_call(std::string_view name, int fd, ssize_t size) {
        if (!tracing) return;
        const int error = errno;
        const std::string bytes = std::to_string(size) + " bytes";
        const std::string_view result = size < 0 ? strerror(error) : std::string_view(bytes);
        terminal.line({name, " ", std::to_string(fd), ": ", result});
        errno = error;
    }

    // What select() returned. Standard output is left out: it is there because of these lines.
    void trace_select(int ready, int highest, const fd_set& readable, const fd_set& writable) {
        if (!terminal.has_room()) return;
        std::string& text = terminal.text;
        const std::size_t start = text.size();
        text += "select():";
        const std::size_t empty = text.size();
        append_descriptors(" read", highest, readable);
        append_descriptors(text.size() == empty ? " write" : ", write", highest, writable);
        const bool none = text.size() == empty;
        if (none) text += " nothing";
        text += '\n';
        if (none && ready > 0) text.resize(start);
    }

    void append_descriptors(std::string_view name, int highest, const fd_set& set) {
        for (int fd = STDERR_FILENO + 1; fd <= highest; ++fd) {
            if (!FD_ISSET(fd, &set)) continue;
            terminal.text += name;
            terminal.text += ' ';
            terminal.text += std::to_string(fd);
            name = "";
        }
    }
};

// --- the command line (can be skipped at first) --------------------------------------------------

constexpr char kUsage[] =
    "usage: ./server [OPTIONS] [ADDRESS [PORT]]\n"
    "  ADDRESS  IPv4, IPv6 or host name to listen on (127.0.0.1), 0.0.0.0 for every interface\n"
    "  PORT     0 to 65535 (4000), 0 for any that is free\n"
    "  --quiet  prints the first line only\n"
    "  --trace  prints each frame and each call of select(), recv() and send(), too\n"
    "  --help   prints this\n";

bool is_port(const std::string& text) {
    const bool digits = text.find_first_not_of("0123456789") == text.npos;
    return digits && !text.empty() && text.size() <= 5 && std::stoi(text) <= 65535;
}

// Descriptors 0, 1 and 2 are in use from now on: no client becomes standard output because somebody
// had closed that.
void open_standard_descriptors() {
    int fd = 0;
    while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDWR);
    ::close(fd);
}

}  // namespace

int main(int argc, char* argv[]) {
    std::vector<std::string> words(argv + 1, argv + argc);
    const bool help = std::erase(words, "--help") > 0;
    const bool quiet = std::erase(words, "--quiet") > 0;
    const bool tracing = std::erase(words, "--trace") > 0;
    const std::string address = words.size() > 0 ? words[0] : "127.0.0.1";
    const std::string port = words.size() > 1 ? words[1] : "4000";
    const bool wrong = words.size() > 2 || address.starts_with('-') || !is_port(port);
    if (help || wrong) {
        std::fputs(kUsage, help ? stdout : stderr);
        return help ? 0 : 2;
    }
    open_standard_descriptors();
    // These two would end the process. Now send() and write() fail instead, when the other side
    // has gone, or when the file behind standard output may not grow.
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    try {
        WS(address, port, quiet, tracing).run();
    } catch (const std::bad_alloc&) {
        die(address, port, strerror(ENOMEM));
    }
}
