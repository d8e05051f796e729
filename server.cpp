// A chat server: one thread, one select(), every message to every peer. It is a port of a PHP demo,
// the class WS, with the demo's names, its shape and its order of events.
//
// One round of the loop, WS::run():
//
//   fill the fd_sets -> select() -> accept -> receive (handshake or decode -> process) -> flush
//   -> expire -> sweep
//
// Only this file makes system calls. After the start only one of them waits: pselect() in
// WS::wait(). There are three kinds of failure, and each is handled in one way:
//   1. The server cannot start: one line that says why, exit 1 (die).
//   2. A client breaks the protocol, its socket fails, or it is silent: that client is removed
//      (refuse, close, drop), and the others notice nothing.
//   3. EINTR, EAGAIN, EMFILE and the like are expected: they are handled where they occur.
//
// Words that this file uses:
//   peer       a client whose opening handshake is done
//   said       of bytes: appended to the log, from which they are sent to every peer
//   due        of bytes: to be sent to one client, and not sent yet
//   read set   the descriptors that select() watches until recv() or accept() would not wait
//   write set  the descriptors that select() watches until send() would not wait
//   TCP FIN    the other side will send no more: recv() returns 0. (FIN alone is a frame's bit.)
//   RST        the other side gave the connection up: recv() and send() fail. Bytes that were on
//              their way are lost. So we must not cause one behind a Close frame: see flush().
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
#include <cassert>
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

// Deadlines.
constexpr auto kHandshakeTime = 10s;  // from accept() to the end of the request; past it: 408
constexpr auto kPingAfter = 30s;      // a peer that is silent for so long is sent a Ping
constexpr auto kDropAfter = 60s;      // a peer that is silent for so long is dropped
constexpr auto kStallTime = 30s;      // a peer that takes nothing of what is due is dropped
constexpr auto kFarBehindTime = 15s;  // the same for a peer that is more than half the log behind
constexpr auto kClosingTime = 2s;     // a closing client must take something, or close its side
constexpr auto kStoppingTime = 1s;    // from SIGINT, SIGTERM or SIGHUP to the end of the server
constexpr auto kAcceptPause = 100ms;  // no descriptor or memory for a newcomer: accept() later

// The log has two halves. The common half (25 MiB) is for clients that say much: each may take
// kWindowBytes divided by the number of peers, so that all of them together fit into it. The other
// half is reserved: every descriptor that there can be has its own piece of it, which no other can
// take. So a client that says little is heard at once, however much others say, and however slowly
// others read.
constexpr std::size_t kLogBytes = 48 * kMiB;
constexpr std::size_t kWindowBytes = 24 * kMiB;      // divided by the number of peers
constexpr std::size_t kReservedBytes = 3584 * kKiB;  // divided by the descriptor's number ...
constexpr std::size_t kLeastReserved = 8 * kKiB;     // ... but each has at least this

// A new client gets the lowest descriptor that is free. So where there are few clients, each has
// much: 448 KiB for descriptor 8, 35 KiB for descriptor 100, 8 KiB for the last.
constexpr std::size_t reserved_for(int fd) {
    return std::max(kReservedBytes / static_cast<std::size_t>(fd), kLeastReserved);
}

// What is received in a round is counted before it is appended to the log. When the header of a
// message came in an earlier round, the log grows by that header more: at most 10 bytes.
constexpr std::size_t kHeaderBytes = 10;

constexpr std::size_t reserved_for_all() {
    std::size_t sum = 0;
    for (int fd = STDERR_FILENO + 1; fd < FD_SETSIZE; ++fd) sum += reserved_for(fd) + kHeaderBytes;
    return sum;
}

constexpr std::size_t kCommonBytes = kLogBytes - reserved_for_all();

constexpr std::size_t kHeldBytes = 40 * kMiB;      // half-received messages of all; past it: 1009
constexpr std::size_t kRoundBytes = kMiB;          // received from all clients in one round
constexpr std::size_t kReceiveBytes = 32 * kKiB;   // received from one client in one round
constexpr std::size_t kSendBytes = kMiB;           // sent to one client in one round
constexpr std::size_t kLeastPace = kKiB;           // a blocked client gains 1 s by taking this
constexpr std::size_t kTerminalBytes = 64 * kKiB;  // lines that standard output has not taken yet
constexpr int kSocketBytes = 128 * 1024;           // the kernel's send buffer of one client
constexpr int kAcceptsPerRound = 64;               // newcomers let in during one round
constexpr int kRefusalSlots = 8;                   // clients that are told 503 at the same time

static_assert(reserved_for_all() < kLogBytes);
static_assert(kWindowBytes < kCommonBytes);
static_assert(kMaxMessageBytes + kReceiveBytes < kCommonBytes);

constexpr int kYes = 1;                     // for setsockopt()
constexpr timespec kMoment{0, 10'000'000};  // 10 ms, for pselect()

// Gives freed memory back to the system when clients have left. Without this the C library of
// Linux keeps it, tens of MiB, to use it again.
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

    // select() calls a terminal writable when it has room for one byte, and then write() would wait
    // until there is room for the others. O_NONBLOCK prevents that. But it belongs to the open
    // file, which the server shares with the shell: the shell's read() would fail, too. So the
    // terminal is opened a second time, for the server alone. When that fails, nothing changes.
    Terminal() {
        text.reserve(2 * kTerminalBytes);  // from now on no line needs memory
        const char* name = ttyname(STDOUT_FILENO);
        if (name == nullptr) return;  // it is no terminal
        const int fd = open(name, O_WRONLY | O_NONBLOCK | O_NOCTTY);
        if (fd < 0) return;
        dup2(fd, STDOUT_FILENO);
        ::close(fd);
    }

    // Counts a line for which there is no room. After it all are dropped, until their number has
    // been printed: the gap is always seen.
    bool may_add_line() {
        const bool room = dropped == 0 && text.size() <= kTerminalBytes;
        if (!room) ++dropped;
        return room;
    }

    void line(std::initializer_list<std::string_view> parts) {
        if (!may_add_line()) return;
        for (const std::string_view part : parts) text += part;
        text += '\n';
    }

    // Writes what can be written without waiting. A pipe that select() calls writable takes
    // PIPE_BUF bytes at once, but perhaps no more.
    void flush() {
        while (!text.empty() && is_writable()) {
            const std::size_t size = std::min<std::size_t>(text.size(), PIPE_BUF);
            const ssize_t written = write(STDOUT_FILENO, text.data(), size);
            if (written < 0 && (errno == EAGAIN || errno == EINTR)) return;
            if (written < 0) text.clear();  // nobody can read it any more
            else text.erase(0, static_cast<std::size_t>(written));
            if (dropped > 0 && text.size() <= kTerminalBytes / 2) tell_dropped();
        }
    }

    void tell_dropped() {
        const std::string count = std::to_string(dropped);
        dropped = 0;
        line({"(", count, " lines dropped)"});
    }

    static bool is_writable() {
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
    std::uint64_t oldest = 0;  // of the first byte that some client still needs; else the end
    std::uint64_t end = 0;     // of the next byte that will be appended

    std::size_t size() const { return static_cast<std::size_t>(end - oldest); }

    // Free bytes of the common half. The log does not remember which half a byte belongs to, so all
    // bytes count as common. The result may be too small, never too large.
    std::size_t common_room() const { return kCommonBytes - std::min(kCommonBytes, size()); }

    std::size_t place_of(std::uint64_t position) const {
        return static_cast<std::size_t>((position - start) % kLogBytes);
    }

    // There always is room: a client is received from only when there is. See WS::allowance().
    void append(std::string_view bytes) {
        assert(bytes.size() <= kLogBytes - size());
        while (!bytes.empty()) {
            const std::size_t place = place_of(end);
            const std::size_t piece = std::min(bytes.size(), kLogBytes - place);
            std::memcpy(&buffer[place], bytes.data(), piece);
            bytes.remove_prefix(piece);
            end += piece;
        }
    }

    // The bytes from one position up to another, or as many of them as lie together.
    std::string_view view(std::uint64_t from, std::uint64_t to) const {
        const std::size_t place = place_of(from);
        const std::uint64_t size = std::min<std::uint64_t>(to - from, kLogBytes - place);
        return {&buffer[place], static_cast<std::size_t>(size)};
    }

    // Nobody needs a byte before this position any more. When nobody needs any byte, the next
    // message goes to the start of the buffer: those bytes were used a moment ago and are still in
    // the processor's cache.
    void forget(std::uint64_t before) {
        oldest = before;
        if (oldest == end) start = end;
    }
};

// How much one descriptor has said that somebody has not been sent yet. The messages are not
// remembered one by one. There are two sums, split at a position of the log:
//
//        |---- said_before ----|---- said_since ----|
//                             mark               log.end
//
// When the oldest byte of the log has passed the mark, all of said_before has been sent to
// everybody: said_since becomes said_before, and the mark moves to the end. So bytes() may be more
// than the truth, never less.
struct Window {
    std::uint64_t mark = 0;
    std::size_t said_before = 0;
    std::size_t said_since = 0;

    std::size_t bytes() const { return said_before + said_since; }

    void update(const Log& log) {
        if (log.oldest < mark) return;
        said_before = said_since;
        said_since = 0;
        mark = log.end;
        if (log.oldest == log.end) said_before = 0;  // everything has been sent
    }
};

// --- one socket ----------------------------------------------------------------------------------

// A client's life. The deadlines are constants above.
//
//    accept()
//       |
//       v
//     open, no handshake  ---- refuse(): a bad request, no slot, kHandshakeTime ---.
//       |                 ---- leave(): its TCP FIN came ------------------------. |
//       | do_handshake(): 101                                                    | |
//       v                                                                        v v
//     open, handshake: a peer  ---- close(): Close came or is sent ----------->  closing
//                              ---- leave(): its TCP FIN came --------------->     |
//                                                                                  |
//     From each of these drop() leads to gone: the socket failed, there is no      |
//     memory, or a deadline has passed (a peer's: kDropAfter, kStallTime).         |
//                                                                                  |
//     gone  <----------------------------------------------------------------------'
//       |        all is sent and its TCP FIN came, or kClosingTime has passed
//       v
//     sweep() closes the socket
enum class State { open, closing, gone };

// What is due to a client is sent in this order:
//
//    the log:  |=== position ... own_at ===|       |=== own_at ... end ===|
//    alone:                                [ own ]
//
// A client that is closing is due nothing after `own`, whose last bytes are a Close frame. To a
// client without handshake nothing of the log is due: its position and own_at are both 0.
struct Client {
    int fd;
    bool handshake = false;            // done: it speaks frames. (The PHP demo has one for all.)
    State state = State::open;
    bool ended = false;                // its TCP FIN has come: there is nothing to receive
    bool blocked = false;              // not all that is due could be sent: it is in the write set
    bool pinged = false;               // a Ping was sent since its last sign of life
    Clock::time_point deadline;        // what happens then depends on its state, see expire()
    std::string request{};             // the opening handshake as far as it has come
    std::optional<Decoder> decoder{};  // from the handshake until it is closing
    std::uint64_t position = 0;        // in the log: it has been sent the bytes before
    std::uint64_t own_at = 0;          // in the log: `own` is sent here, between two messages
    std::string own{};                 // bytes for it alone: the 101 or a refusal, Pongs, a Close

    // Of the message that has not ended: bytes that have come, and bytes of memory taken for them.
    std::size_t pending() const { return decoder ? decoder->pending() : 0; }
    std::size_t held() const { return decoder ? decoder->held() : 0; }
};

// --- signals, addresses (can be skipped at first) ------------------------------------------------

// SIGINT, SIGTERM and SIGHUP must end a wait that may otherwise last 30 s. If they could come at
// any time, one might come behind the last look at `caught` and in front of select(), which would
// then wait all the same. So they are blocked, and pselect() lets them in while it waits.
constexpr std::array kStopSignals{SIGINT, SIGTERM, SIGHUP};

volatile sig_atomic_t caught = 0;

extern "C" void on_signal(int) { caught = 1; }

bool is_ignored(int number) {
    struct sigaction now {};
    sigaction(number, nullptr, &now);
    return now.sa_handler == SIG_IGN;
}

// Returns the signal mask for pselect(): the one from before, in which these signals come through.
sigset_t block_signals() {
    sigset_t stop;
    sigset_t outside;
    sigemptyset(&stop);
    for (const int number : kStopSignals) {
        if (number == SIGHUP && is_ignored(SIGHUP)) continue;  // started as nohup ./server
        signal(number, on_signal);
        sigaddset(&stop, number);
    }
    sigprocmask(SIG_BLOCK, &stop, &outside);
    for (const int number : kStopSignals) sigdelset(&outside, number);
    return outside;
}

// When a descriptor is ready at once, pselect() may return without letting a signal in. Under a
// flood that is so in every round. Such a signal is pending.
bool signalled() {
    sigset_t pending;
    sigpending(&pending);
    for (const int number : kStopSignals) {
        if (sigismember(&pending, number) == 1) return true;
    }
    return caught != 0;
}

std::string join(const std::string& address, const std::string& port) {
    const bool ipv6 = address.find(':') != address.npos;
    if (ipv6) return '[' + address + "]:" + port;
    return address + ':' + port;
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

// When a host name has several addresses, the first IPv4 address is taken, as in the demo, where
// localhost is 127.0.0.1. If that one cannot be had, no other is tried: a server that silently
// listens somewhere else is harder to find than one that says what is wrong.
const addrinfo* choose(const addrinfo* found) {
    for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
        if (one->ai_family == AF_INET) return one;
    }
    return found;
}

// Returns -1 with errno when one of the calls fails.
int listen_on(const addrinfo& place) {
    const int master = socket(place.ai_family, SOCK_STREAM, 0);
    // SO_REUSEADDR: the port can be had again at once. Otherwise the system keeps it for a minute
    // while connections of the last server are in TIME_WAIT.
    // SO_SNDBUF is for the clients: accept() makes sockets that are set like the master. (SO_RCVBUF
    // is not set. A receive buffer of fixed size makes Linux drop segments when a client is not
    // read for a while, with the acknowledgments in them: then it cannot be sent to, either.)
    // O_NONBLOCK: a newcomer may give up between select() and accept(), and accept() would wait for
    // the next one.
    const bool listening =
        master >= 0 &&
        setsockopt(master, SOL_SOCKET, SO_REUSEADDR, &kYes, sizeof kYes) == 0 &&
        setsockopt(master, SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof kSocketBytes) == 0 &&
        bind(master, place.ai_addr, place.ai_addrlen) == 0 &&
        listen(master, SOMAXCONN) == 0 &&
        fcntl(master, F_SETFL, O_NONBLOCK) == 0;
    return listening ? master : -1;
}

int open_master(const std::string& address, const std::string& port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const int failed = getaddrinfo(address.c_str(), port.c_str(), &hints, &found);
    if (failed == EAI_SYSTEM) die(address, port, strerror(errno));
    if (failed != 0) die(address, port, gai_strerror(failed));
    const int master = listen_on(*choose(found));
    if (master < 0) die(address, port, strerror(errno));
    if (master >= FD_SETSIZE) die(address, port, "no descriptor below FD_SETSIZE is free");
    freeaddrinfo(found);
    return master;
}

// --- the server ----------------------------------------------------------------------------------

class WS {
    const int master;                   // the socket that listens
    const bool quiet;                   // prints the first line only
    const bool tracing;                 // prints each frame and each system call, too
    std::map<int, Client> sockets;      // by descriptor
    int slots = 0;                      // clients have descriptors below this
    std::size_t peers = 0;              // clients that are open and whose handshake is done
    Log log;                            // what everybody is sent
    // By descriptor: a client that came back would otherwise get an empty window while what it said
    // before still fills the log.
    std::vector<Window> windows = std::vector<Window>(FD_SETSIZE);
    int last_served = -1;               // descriptor of the last client received from
    std::vector<char> buffer = std::vector<char>(kReceiveBytes);  // for recv()
    Terminal terminal;
    sigset_t signals_outside;           // the signal mask while pselect() waits
    Clock::time_point now = Clock::now();  // of this round
    Clock::time_point accept_again = now;  // until then the master is not in the read set
    bool stopping = false;              // SIGINT, SIGTERM or SIGHUP came
    Clock::time_point stop_time{};      // when stopping: from then on no client is waited for

public:
    WS(const std::string& address, const std::string& port, bool quietly, bool traced)
        : master(open_master(address, port)), quiet(quietly), tracing(traced) {
        signals_outside = block_signals();
        // Clients in the map have descriptors below `slots`; the last few of them only wait there
        // with their 503, see welcome(). One descriptor stays free even then, so that accept() can
        // still take a newcomer out of the listen queue.
        rlimit files{};
        getrlimit(RLIMIT_NOFILE, &files);
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
            expire_all();
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
            windows[static_cast<std::size_t>(fd)].update(log);
            if (allowance(client) > 0) FD_SET(fd, &readable);
            else sign_of_life(client);  // we do not look, so we cannot say that it is silent
            if (client.blocked) FD_SET(fd, &writable);
            highest = std::max(highest, fd);
        }
        return highest;
    }

    // How many bytes may be received from a client now; 0: it is not in the read set. All that is
    // received may become messages; and when a long message ends, all that has come of it goes into
    // the log at once. The log must have room for that before it is received. There are three ways
    // to have room, asked for in this order:
    //   1. The client has not used up its share, and the common half has room for what has come of
    //      its message and for this recv().
    //   2. Its message is longer than its share, what it said before is not, and the common half
    //      has room for the longest message that there can be. (If room for its own length were
    //      enough, shorter messages of others would use that up each time, and it would wait.)
    //   3. It has not used up what is reserved for its descriptor. There is always room for that.
    // An example: there are 10 peers, and one of them reads slowly. Each has a share of 2.4 MiB.
    // A client that chats is always read. One that says 3 MiB in short messages is not read any
    // more when 2.4 MiB of them have not been sent to the slow peer. One that says a message of
    // 5 MiB is read while there are less than 9.3 MiB in the log.
    std::size_t allowance(const Client& client) const {
        if (client.ended) return 0;
        if (client.state != State::open) return kReceiveBytes;  // only to see its TCP FIN
        if (!client.own.empty()) return 0;  // it has not taken its answers: it gets no others
        const std::size_t pending = client.pending();
        const std::size_t said = windows[static_cast<std::size_t>(client.fd)].bytes();
        const std::size_t counted = said + pending;
        const std::size_t share = kWindowBytes / std::max<std::size_t>(peers, 1);
        const std::size_t reserved = reserved_for(client.fd);
        const std::size_t room = log.common_room();

        const bool within_share = counted < share && pending + kReceiveBytes <= room;
        if (within_share) return std::min(share - counted, kReceiveBytes);
        const bool longest_fits = said < share && kMaxMessageBytes + kReceiveBytes <= room;
        if (longest_fits) return kReceiveBytes;
        if (counted < reserved) return std::min(reserved - counted, kReceiveBytes);
        // A request goes to nobody. It is received byte by byte, because frames may follow it.
        return client.handshake ? 0 : 1;
    }

    // The only call that waits: for a descriptor, a deadline or a signal.
    void wait(int highest, fd_set& readable, fd_set& writable) {
        const std::optional<timespec> patience = timeout();
        const timespec* limit = patience ? &patience.value() : nullptr;
        const int ready =
            pselect(highest + 1, &readable, &writable, nullptr, limit, &signals_outside);
        if (ready < 0) {
            // A signal came, or the kernel has no memory: then try again, but not at once.
            if (errno != EINTR) pselect(0, nullptr, nullptr, nullptr, &kMoment, nullptr);
            FD_ZERO(&readable);  // when select() fails, the sets are not defined
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
        for (const auto& [fd, client] : sockets) next = std::min(next, deadline_of(client));
        if (next == Clock::time_point::max()) return std::nullopt;
        const auto left = std::max<Clock::duration>(next - Clock::now(), 0ns);
        const auto whole = std::chrono::floor<std::chrono::seconds>(left);
        const std::chrono::nanoseconds rest = left - whole;
        return timespec{static_cast<time_t>(whole.count()), static_cast<long>(rest.count())};
    }

    // --- accept ----------------------------------------------------------------------------------

    void connect_all() {
        for (int newcomers = 0; newcomers < kAcceptsPerRound; ++newcomers) {
            if (!connect()) return;
        }
    }

    // Takes one newcomer out of the listen queue, where the kernel keeps connections that nobody
    // has accepted. Returns false when there is none.
    bool connect() {
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        const int accepted = accept(master, reinterpret_cast<sockaddr*>(&address), &size);
        if (accepted < 0) {
            const bool usual = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
            // Any other error says that there is no descriptor or no memory for the newcomer. It
            // stays in the listen queue, and select() would return at once, again and again. So the
            // master is left out of the read set for a while.
            if (!usual) accept_again = now + kAcceptPause;
            return false;
        }
        const int fd = with_room_in_its_window(accepted);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &kYes, sizeof kYes);  // small frames go at once
        try {
            welcome(Client{.fd = fd, .deadline = now + kHandshakeTime}, numeric(address, size));
        } catch (const std::bad_alloc&) {
            ::close(fd);
        }
        return true;
    }

    // A client that has left may have said so much that the window of its descriptor is still full.
    // A newcomer with that descriptor could say nothing. It gets the next one that is better.
    int with_room_in_its_window(int fd) {
        for (int other = fd; other < slots - kRefusalSlots; ++other) {
            Window& window = windows[static_cast<std::size_t>(other)];
            window.update(log);
            if (sockets.contains(other) || window.bytes() >= reserved_for(other)) continue;
            if (other == fd) return fd;
            const int moved = fcntl(fd, F_DUPFD, other);
            if (moved < 0) return fd;
            ::close(fd);
            return moved;
        }
        return fd;
    }

    void welcome(Client client, const std::string& address) {
        const int fd = client.fd;
        say({"connect client ", std::to_string(fd), " from ", address});
        if (fd >= slots - kRefusalSlots) {
            refuse(client, refusal("", "503 Service Unavailable", "no slot left"));
        }
        if (fd < slots) {
            sockets.emplace(fd, std::move(client));
            return;
        }
        // There is not even a slot in which to wait until it has read the 503. It gets what the
        // kernel takes at once.
        flush(client);
        ::close(fd);
    }

    // --- receive ---------------------------------------------------------------------------------

    // Begins behind the client that was the last to be received from in the round before. Otherwise
    // those with low descriptors would always be the first to find room in the log.
    void receive_all(const fd_set& readable) {
        std::size_t senders = 0;
        for (const auto& [fd, client] : sockets) {
            if (FD_ISSET(fd, &readable)) ++senders;
        }
        const std::size_t most = kRoundBytes / std::max<std::size_t>(senders, 1);
        auto next = sockets.upper_bound(last_served);
        for (std::size_t i = 0; i < sockets.size(); ++i) {
            if (next == sockets.end()) next = sockets.begin();
            Client& client = next->second;
            ++next;
            if (!FD_ISSET(client.fd, &readable)) continue;
            try {
                // allowance() is asked again: others may have taken the room since fill().
                receive(client, std::min(allowance(client), most));
            } catch (const std::bad_alloc&) {
                drop(client, "out of memory");
            }
        }
    }

    void receive(Client& client, std::size_t size) {
        if (size == 0) return;
        const ssize_t received = recv(client.fd, buffer.data(), size, 0);
        trace_call("recv", client.fd, received);
        if (received < 0) {
            if (errno != EAGAIN && errno != EINTR) drop(client, strerror(errno));
            return;
        }
        last_served = client.fd;
        if (received == 0) {
            client.ended = true;  // it sends no more; but it may still read what is due to it
            leave(client, "disconnect", "connection ended without Close");
            return;
        }
        if (client.state != State::open) return;  // nothing counts that comes behind a Close
        std::string_view input(buffer.data(), static_cast<std::size_t>(received));
        if (!client.handshake) do_handshake(client, input);
        if (client.handshake) decode(client, input);
    }

    void do_handshake(Client& client, std::string_view& input) {
        const std::optional<Response> response = take_request(client.request, input);
        if (!response) return;
        trace_lines("<-", client.fd, client.request);
        if (!response->accepted) {
            refuse(client, *response);
            return;
        }
        trace_lines("->", client.fd, response->text);
        std::string().swap(client.request);  // gives its memory back
        client.decoder.emplace();
        client.handshake = true;
        ++peers;
        say({"shakeHands ", std::to_string(client.fd)});

        // What was said before is not for it. The response is sent now, because no byte of the log
        // may come before it. A new socket has room for its 129 bytes; else something is wrong.
        client.position = log.end;
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
        if (event == Decoder::Event::violation) {
            close(client, decoder.code(), decoder.reason());
        } else if (event == Decoder::Event::message) {
            broadcast(client, decoder.opcode(), payload);
        } else if (decoder.opcode() == Opcode::ping) {
            send_frame(client, Opcode::pong, payload);
        } else if (decoder.opcode() == Opcode::close) {
            close(client, close_code(payload), "closed by peer");
        }
        // A Pong needs no answer, nor does a fragment: its message has not ended.
    }

    // Says a message: it goes into the log once, and from there to every peer, its sender too.
    void broadcast(const Client& sender, Opcode opcode, std::string_view payload) {
        const Header header = make_header(opcode, payload.size());
        if (!quiet) {
            say({"send file ", std::to_string(sender.fd), ": ", opcode_name(opcode), ", ",
                 std::to_string(payload.size()), " bytes, to ", std::to_string(peers), " clients"});
        }
        if (tracing) terminal.line({"-> all: ", describe(header, opcode, payload)});
        log.append(header.bytes);
        log.append(payload);
        Window& window = windows[static_cast<std::size_t>(sender.fd)];
        window.said_since += header.bytes.size() + payload.size();
    }

    // The memory of half-received messages is limited for all together, or a thousand clients could
    // fill sixteen gigabytes. Before this recv() the sum was within the limit. Since then one
    // client took more memory. The client that holds most holds at least as much as that client, so
    // the sum is within the limit again when it is closed.
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

    // A byte came from a peer, or it is not read by our own choice. A blocked peer is judged by
    // what it takes, in note_taken(), so for it this does nothing.
    void sign_of_life(Client& client) {
        if (!client.handshake || client.state != State::open || client.blocked) return;
        client.deadline = now + kPingAfter;
        client.pinged = false;
    }

    // When expire() must act. When a peer is far behind, others cannot say much until it goes, so
    // it has less time: kFarBehindTime instead of the kStallTime that is in its deadline.
    Clock::time_point deadline_of(const Client& client) const {
        if (stopping) return std::min(client.deadline, stop_time);
        const bool waits = client.blocked && client.state == State::open;
        const bool far_behind = waits && log.end - client.position > kLogBytes / 2;
        if (far_behind) return client.deadline - (kStallTime - kFarBehindTime);
        return client.deadline;
    }

    // After receive_all() and flush_all(): what has come or could be sent in this round counts,
    // even when the process did not run for a minute before.
    void expire_all() {
        for (auto& [fd, client] : sockets) {
            try {
                if (stopping) say_goodbye(client);
                if (now >= deadline_of(client)) expire(client);
            } catch (const std::bad_alloc&) {
                drop(client, "out of memory");
            }
        }
    }

    void expire(Client& client) {
        if (client.state != State::open) {
            drop(client, "");  // it had its time to read the last word and to close its side
        } else if (!client.handshake) {
            const std::string why = "no complete request within " + seconds(kHandshakeTime);
            refuse(client, refusal(client.request, "408 Request Timeout", why));
        } else if (client.blocked) {
            drop(client, "takes nothing of what waits for it");
        } else if (client.pinged) {
            drop(client, "silent for " + seconds(kDropAfter));
        } else {
            client.pinged = true;
            client.deadline = now + (kDropAfter - kPingAfter);
            send_frame(client, Opcode::ping, "");
        }
        flush(client);
    }

    void say_goodbye(Client& client) {
        if (client.state != State::open) return;
        if (client.handshake) close(client, kGoingAway, "the server stops");
        else drop(client, "the server stops");
        flush(client);
    }

    // --- flush -----------------------------------------------------------------------------------

    // Adds bytes that are due to one client alone. They are sent when the round ends, and after all
    // that has been said so far: the place of `own` moves to the end of the log. It cannot move
    // when a part of `own` may have been sent already, because nothing may come inside a frame.
    // (That is rare. A client that has not taken its answers is not received from, so only the
    // server can have something to say to it then: a Close.)
    void send(Client& client, std::string_view bytes) {
        const bool may_be_half_sent =
            client.blocked && !client.own.empty() && client.position == client.own_at;
        client.own += bytes;
        if (client.handshake && !may_be_half_sent) client.own_at = log.end;
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

    // Sends what is due to a client, until all is sent, the kernel takes no more, or it was
    // kSendBytes. No byte is copied: send() takes it from the log, and what could not be sent is
    // still there. Mostly this is one send().
    void flush(Client& client) {
        if (client.state == State::gone || next_piece(client).empty()) return;
        std::size_t taken = 0;
        while (taken < kSendBytes) {
            const std::string_view piece = next_piece(client).substr(0, kSendBytes - taken);
            if (piece.empty()) break;
            const ssize_t sent = ::send(client.fd, piece.data(), piece.size(), 0);
            trace_call("send", client.fd, sent);
            if (sent < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)) break;
            if (sent < 0) {
                drop(client, strerror(errno));
                return;
            }
            advance(client, static_cast<std::size_t>(sent));
            taken += static_cast<std::size_t>(sent);
        }
        const bool was_blocked = client.blocked;
        client.blocked = !next_piece(client).empty();
        note_taken(client, was_blocked, taken);
        client.own.shrink_to_fit();  // there may be a thousand
        // After its last word, tell the client that nothing more comes, and read on until it closes
        // its side, too. close() now, with bytes of the client unread, would make TCP send a RST.
        // That could overtake the last word, and the client would never see it.
        if (client.state == State::closing && !client.blocked) shutdown(client.fd, SHUT_WR);
    }

    // The position up to which the log is due to a client.
    std::uint64_t due(const Client& client) const {
        const bool open_peer = client.handshake && client.state == State::open;
        return open_peer ? log.end : client.own_at;
    }

    // The position up to which the log is sent next: the place of `own`, if there is any.
    std::uint64_t next_stop(const Client& client) const {
        return client.own.empty() ? due(client) : client.own_at;
    }

    // What is sent next; empty when nothing is due. See the figure at struct Client.
    std::string_view next_piece(const Client& client) const {
        const std::uint64_t stop = next_stop(client);
        if (client.position < stop) return log.view(client.position, stop);
        return client.own;
    }

    // The first `sent` bytes of next_piece() have been sent.
    void advance(Client& client, std::size_t sent) {
        if (client.position < next_stop(client)) client.position += sent;
        else client.own.erase(0, sent);
    }

    // Sets the deadline of a client that is or was blocked. A blocked client gains one second for
    // every kLeastPace bytes that it takes, up to `patience` from now. (If any byte gave it the
    // full patience, one byte in 29 s would keep it here for ever, and the log full.)
    void note_taken(Client& client, bool was_blocked, std::size_t taken) {
        const bool open = client.state == State::open;
        const std::chrono::seconds patience = open ? kStallTime : kClosingTime;
        const std::chrono::milliseconds gained(1000 * taken / kLeastPace);
        if (client.blocked && was_blocked) {
            client.deadline = std::min(now + patience, client.deadline + gained);
        } else if (client.blocked || was_blocked) {  // it begins to wait, or it has caught up
            client.deadline = now + patience;
            client.pinged = false;
        }
    }

    // --- the end of a client ---------------------------------------------------------------------

    // From here on it is no peer. What is due to it is still sent, then `last_word`, and then it
    // has kClosingTime to close its side.
    void leave(Client& client, std::string_view verb, std::string_view why,
               std::string_view last_word = "") {
        if (client.state != State::open) return;
        say({verb, " client ", std::to_string(client.fd), ": ", why});
        send(client, last_word);
        client.state = State::closing;
        if (client.handshake) --peers;
        client.decoder.reset();
        client.deadline = now + kClosingTime;
    }

    void refuse(Client& client, const Response& response) {
        trace_lines("->", client.fd, response.text);
        leave(client, "refuse", response.reason, response.text);
    }

    void close(Client& client, std::uint16_t code, std::string_view why) {
        if (client.state != State::open) return;
        trace_frame(client.fd, Opcode::close, close_payload(code));
        const std::string reason = std::string(why) + " (" + std::to_string(code) + ")";
        leave(client, "disconnect", reason, encode(Opcode::close, close_payload(code)));
    }

    void drop(Client& client, std::string_view why) {
        leave(client, "disconnect", why);
        client.state = State::gone;
    }

    // The one place that closes the socket of a client and erases it; all others only mark. (A
    // newcomer that finds no slot never becomes a client.) Then the log forgets what everybody has.
    void sweep() {
        const std::size_t clients = sockets.size();
        auto next = sockets.begin();
        while (next != sockets.end()) {
            const Client& client = next->second;
            const bool all_done = client.ended && !client.blocked;
            if (client.state == State::gone || all_done) {
                ::close(client.fd);
                next = sockets.erase(next);
            } else {
                ++next;
            }
        }
        if (sockets.size() < clients) give_memory_back();

        std::uint64_t oldest = log.end;
        for (const auto& [fd, client] : sockets) {
            if (client.position < due(client)) oldest = std::min(oldest, client.position);
        }
        log.forget(oldest);
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

    // What select() returned. Standard output is not shown: it is ready because of these lines.
    void trace_select(int ready, int highest, const fd_set& readable, const fd_set& writable) {
        const int hidden = FD_ISSET(STDOUT_FILENO, &writable) ? 1 : 0;
        if (ready > 0 && ready == hidden) return;
        if (!terminal.may_add_line()) return;
        // Directly into the terminal's text, which has room: no memory is needed here.
        terminal.text += "select():";
        if (ready <= 0) terminal.text += " nothing";
        const bool any = add_descriptors(" read", highest, readable);
        add_descriptors(any ? ", write" : " write", highest, writable);
        terminal.text += '\n';
    }

    // Returns whether there is any descriptor in the set, standard output aside.
    bool add_descriptors(std::string_view name, int highest, const fd_set& set) {
        bool any = false;
        for (int fd = STDERR_FILENO + 1; fd <= highest; ++fd) {
            if (!FD_ISSET(fd, &set)) continue;
            if (!any) terminal.text += name;
            any = true;
            terminal.text += ' ';
            terminal.text += std::to_string(fd);
        }
        return any;
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

// Whoever starts the server may have closed descriptor 0, 1 or 2. Then the master or a client would
// get it, and what is printed would go there. So they are opened: open() gives the lowest one that
// is free.
void open_standard_descriptors() {
    int fd = open("/dev/null", O_RDWR);
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
    // Two signals would end the process: SIGPIPE, when the other side of a socket has gone, and
    // SIGXFSZ, when the file behind standard output may not grow. Now send() and write() fail.
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    try {
        WS(address, port, quiet, tracing).run();
    } catch (const std::bad_alloc&) {
        die(address, port, strerror(ENOMEM));
    }
}
