// A chat server: one thread, one select(), every message to every peer. It is a port of a PHP demo,
// the class WS, with the demo's names, its shape and its order of events.
//
// One round of the loop, WS::run():
//
//   fill the fd_sets -> select() -> accept -> receive (handshake or decode -> process) -> flush
//   -> expire -> sweep
//
// Only this file makes system calls. Once the server has started, only one of them waits: pselect()
// in WS::wait(). There are three kinds of failure, and each is handled in one way:
//   1. The server cannot start: one line that says why, exit 1 (die).
//   2. A client breaks the protocol, its socket fails, or it is silent: that client is removed
//      (leave), and the others notice nothing.
//   3. EINTR, EAGAIN, EMFILE and the like are expected: they are handled where they occur.
//
// Words that this file uses:
//   peer       a client whose opening handshake is done and that does not leave yet
//   to say     a client says a message: the message is appended to the log, which goes to all peers
//   due        bytes are due to a client: they are to be sent to it, and have not been sent yet
//   blocked    a client is blocked: bytes are due to it that could not be sent in the last round
//   read set   what select() watches for reading: recv() or accept() would not have to wait
//   write set  what select() watches for writing: send() would not have to wait
//   TCP FIN    the other side will send no more: recv() returns 0. (FIN alone is a frame's bit.)
//   RST        the other side gave the connection up: recv() and send() fail, and bytes that were
//              on their way are lost. TCP also sends one when a socket is closed with bytes unread.
//
// Where to begin: WS::run(), and then as the README proposes. The functions of WS stand nearly in
// the order in which run() calls them. Struct Terminal, the signals and the command line can be
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
constexpr auto kStallTime = 30s;      // a peer that takes nothing of what is due, or too little
constexpr auto kClosingTime = 2s;     // the same for a closing client; then to close its side
constexpr auto kStoppingTime = 1s;    // from SIGINT, SIGTERM or SIGHUP to the end of the server
constexpr auto kAcceptPause = 100ms;  // no descriptor or memory for a newcomer: accept() later

// The log has two parts. The common part is for clients that say much: each has a share of it,
// kShareBytes divided by the number of peers. The other part is reserved: each client has a seat,
// and each seat has a piece of this part that no other client can use. So a client that says little
// is heard at once, however much others say, and however slowly others read.
constexpr std::size_t kLogBytes = 48 * kMiB;
constexpr std::size_t kShareBytes = 24 * kMiB;       // divided by the number of peers: a share
constexpr std::size_t kReservedBytes = 2560 * kKiB;  // divided by the number of a seat ...
constexpr std::size_t kLeastReserved = 8 * kKiB;     // ... but each seat has at least this
constexpr int kSeats = FD_SETSIZE;

// A client gets the first seat that is free. So where there are few clients, each has much
// reserved: 2560 KiB for seat 1, half of that for seat 2, 25 KiB for seat 100, 8 KiB for the last.
constexpr std::size_t reserved_for(int seat) {
    return std::max(kReservedBytes / static_cast<std::size_t>(seat), kLeastReserved);
}

constexpr std::size_t reserved_for_all() {
    std::size_t sum = 0;
    for (int seat = 1; seat <= kSeats; ++seat) sum += reserved_for(seat);
    return sum;
}

constexpr std::size_t kCommonBytes = kLogBytes - reserved_for_all();

constexpr std::size_t kHeldBytes = 40 * kMiB;      // half-received messages of all; past it: 1009
constexpr std::size_t kRoundBytes = kMiB;          // received from all clients in one round
constexpr std::size_t kReceiveBytes = 64 * kKiB;   // received from one client in one round
constexpr std::size_t kSendBytes = kMiB;           // sent to one client in one round
constexpr std::size_t kLeastPace = kKiB;           // to be taken in 1 s by a client that is blocked
constexpr std::size_t kTerminalBytes = 64 * kKiB;  // lines that standard output has not taken yet
constexpr int kKeptBytes = 8 * 1024 * 1024;        // freed memory that is kept for later
constexpr int kSocketBytes = 128 * 1024;           // the kernel's send buffer of one client
constexpr int kAcceptsPerRound = 64;               // newcomers let in during one round
constexpr int kRefusalSlots = 8;                   // clients that are told 503 at the same time

static_assert(reserved_for_all() < kLogBytes);
static_assert(kShareBytes < kCommonBytes);
static_assert(kMaxMessageBytes + kReceiveBytes < kCommonBytes);

constexpr int kYes = 1;                     // for setsockopt()
constexpr timespec kMoment{0, 10'000'000};  // 10 ms, for pselect()

// What the C library of Linux does with memory that was freed. While clients chat it shall keep up
// to kKeptBytes: otherwise it gives the memory of each long message back to the system, and takes
// it anew for the next one, which costs more than to copy the message. (M_MMAP_THRESHOLD: larger
// blocks are never kept.) When clients have left, all of it is given back.
#ifdef __GLIBC__
void keep_freed_memory() {
    mallopt(M_TRIM_THRESHOLD, kKeptBytes);
    mallopt(M_MMAP_THRESHOLD, 4 * kKeptBytes);
}
void give_memory_back() { malloc_trim(0); }
#else
void keep_freed_memory() {}
void give_memory_back() {}
#endif

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

    void line(std::initializer_list<std::string_view> parts) {
        if (!may_add_line()) return;
        for (const std::string_view part : parts) text += part;
        text += '\n';
    }

    // Counts a line for which there is no room. After it all are dropped, until their number has
    // been printed: the gap is always seen.
    bool may_add_line() {
        const bool room = dropped == 0 && text.size() <= kTerminalBytes;
        if (!room) ++dropped;
        return room;
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
            if (dropped == 0 || text.size() > kTerminalBytes / 2) continue;
            const std::string count = std::to_string(dropped);
            dropped = 0;
            line({"(", count, " lines dropped)"});
        }
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
// buffer of fixed size. After the last byte of the buffer comes its first one again: it is a ring.
//
//            oldest                              end
//   ...=======|-----------------------------------|
//    forgotten       ^ position of some peer       the next message goes here
struct Log {
    // The system gives a page of memory when it is first written to: what was never used costs
    // nothing. (A std::vector would write zeros.)
    std::unique_ptr<char[]> buffer{new char[kLogBytes]};
    std::uint64_t start = 0;   // a position whose byte is the first of the buffer
    std::uint64_t oldest = 0;  // position of the first byte that some client needs, or the end
    std::uint64_t end = 0;     // position at which the next byte will be appended

    std::size_t size() const { return static_cast<std::size_t>(end - oldest); }

    // By their shares, clients may fill the log up to kCommonBytes. This is how much there is still
    // room for. (All bytes in the log count, whoever said them.)
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

    // Nobody needs a byte before this position any more. When nobody needs any byte, the log is
    // empty, and the next message can go to the start of the buffer: that memory was used a moment
    // ago, so it is still in the processor's cache.
    void forget(std::uint64_t before) {
        oldest = before;
        if (oldest == end) start = end;
    }
};

// A client's window is how many bytes it said that are still in the log, because some peer has not
// been sent them yet. To know it exactly, each message would have to be remembered. Two sums are
// enough. They count what was said before and after a position of the log, the mark:
//
//        |---- said_before ----|---- said_since ----|
//                             mark               log.end
//
// When everybody has been sent the log up to the mark, nothing of said_before is in the log any
// more. Then a new mark is set, at the end of the log, and what was said_since is now before it.
//
// An example: the mark is at 100. A client says 30 bytes: said_since is 30. When everybody has been
// sent the log up to 100, the log's end is at 500. So the mark is set to 500, said_before is 30,
// and said_since is 0. When everybody has been sent the log up to 500, said_before is 0. (Perhaps
// those 30 bytes had been sent to everybody before that. So bytes() may be too large, never too
// small.)
//
// There is one window for each seat, for all clients that have the seat, one after the other. If a
// client that comes back had a new one, it could fill the log by leaving again and again.
struct Window {
    bool taken = false;  // a client has this seat
    std::uint64_t mark = 0;
    std::size_t said_before = 0;
    std::size_t said_since = 0;

    std::size_t bytes(const Log& log) {
        if (log.oldest >= mark) {
            said_before = said_since;
            said_since = 0;
            mark = log.end;
        }
        if (log.oldest == log.end) said_before = 0;  // all has been sent; said_since is 0
        return said_before + said_since;
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
//    the log:    |=== position ... own_at ===|       |=== own_at ... end ===|
//    for it:                                 [ own ]
//
// To a client that is closing nothing is due after `own`: for it the log ends at own_at. To a
// client without handshake nothing of the log is due: its position and own_at are both 0.
struct Client {
    int fd;
    bool handshake = false;            // done: it speaks frames. (In PHP one flag for all clients.)
    State state = State::open;
    bool ended = false;                // its TCP FIN has come: there is nothing to receive
    bool blocked = false;              // not all that is due could be sent: it is in the write set
    bool pinged = false;               // a Ping was sent since its last sign of life
    Clock::time_point deadline;        // what happens then depends on its state, see expire()
    int seat = 0;                      // 1 or more; 0 for a newcomer that is told 503
    std::string request{};             // the opening handshake as far as it has come
    std::optional<Decoder> decoder{};  // from the handshake until it is closing
    std::uint64_t position = 0;        // in the log: it has been sent the bytes before
    std::uint64_t own_at = 0;          // in the log: `own` is sent here, between two messages
    std::string own{};                 // bytes for it alone: a response, Pings, Pongs, a Close
    bool own_begun = false;            // a part of `own` has been sent, the rest has not

    bool is_peer() const { return handshake && state == State::open; }

    // Of a message that has not ended: what it needs of the log, and of memory. See ws_frame.h.
    std::size_t pending() const { return decoder ? decoder->pending() : 0; }
    std::size_t held() const { return decoder ? decoder->held() : 0; }
};

// --- signals, addresses (can be skipped at first) ------------------------------------------------

// SIGINT, SIGTERM and SIGHUP must end a wait that may otherwise last 30 s. If they could come at
// any time, one might come after the last look at `caught` and before select(), which would then
// wait all the same. So these signals are blocked, and pselect() lets them in while it waits.
constexpr std::array kStopSignals{SIGINT, SIGTERM, SIGHUP};

sigset_t stop_signals;  // these three; without SIGHUP when the server was started as nohup ./server
volatile sig_atomic_t caught = 0;

extern "C" void on_signal(int) { caught = 1; }

// Returns the signal mask for pselect(): the mask with which the server was started, without the
// three signals.
sigset_t block_signals() {
    sigset_t outside;
    sigemptyset(&stop_signals);
    for (const int number : kStopSignals) {
        const bool was_ignored = signal(number, on_signal) == SIG_IGN;
        if (number == SIGHUP && was_ignored) signal(SIGHUP, SIG_IGN);  // it stays ignored
        else sigaddset(&stop_signals, number);
    }
    sigprocmask(SIG_BLOCK, &stop_signals, &outside);
    for (const int number : kStopSignals) sigdelset(&outside, number);
    return outside;
}

// When a descriptor is ready at once, pselect() may return without letting a signal in. Under a
// flood that is so in every round. Such a signal is still pending, and sigtimedwait() takes it.
bool signalled() {
    constexpr timespec at_once{};
    return caught != 0 || sigtimedwait(&stop_signals, nullptr, &at_once) > 0;
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

// When a host name has several addresses, the first IPv4 address is taken, as in the demo, where
// localhost is 127.0.0.1. If that one cannot be had, no other is tried: a server that silently
// listens somewhere else is harder to find than one that says what is wrong.
int open_master(const std::string& address, const std::string& port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const int failed = getaddrinfo(address.c_str(), port.c_str(), &hints, &found);
    if (failed == EAI_SYSTEM) die(address, port, strerror(errno));
    if (failed != 0) die(address, port, gai_strerror(failed));
    const addrinfo* ipv4 = found;
    while (ipv4 != nullptr && ipv4->ai_family != AF_INET) ipv4 = ipv4->ai_next;
    const int master = listen_on(ipv4 != nullptr ? *ipv4 : *found);
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
    std::vector<Window> windows = std::vector<Window>(kSeats + 1);  // by seat
    int last_served = -1;               // descriptor of the last client received from
    std::vector<char> buffer = std::vector<char>(kReceiveBytes);  // for recv()
    Terminal terminal;
    sigset_t signals_outside;           // the signal mask while pselect() waits
    Clock::time_point now = Clock::now();  // of this round
    Clock::time_point accept_again = now;  // until then the master is not in the read set
    bool stopping = false;              // SIGINT, SIGTERM or SIGHUP came
    Clock::time_point stop_time = Clock::time_point::max();  // then no client is waited for

public:
    WS(const std::string& address, const std::string& port, bool quietly, bool traced)
        : master(open_master(address, port)), quiet(quietly), tracing(traced) {
        signals_outside = block_signals();
        // Clients have descriptors below `slots`. One descriptor more stays free, so that accept()
        // can take a newcomer out of the listen queue even when there is no slot for it.
        rlimit files{};
        getrlimit(RLIMIT_NOFILE, &files);
        slots = static_cast<int>(std::min<rlim_t>(FD_SETSIZE, files.rlim_cur - 1));

        sockaddr_storage place{};
        socklen_t size = sizeof place;
        getsockname(master, reinterpret_cast<sockaddr*>(&place), &size);
        terminal.line({"Master socket  : ", std::to_string(master), " listening on ",
                       numeric(place, size)});
        terminal.flush();
    }

    // Returns after SIGINT, SIGTERM or SIGHUP, when everybody has been told, or stop_time has come.
    void run() {
        while (!stopping || (!sockets.empty() && now < stop_time)) {
            fd_set readable;
            fd_set writable;
            const int highest = fill(readable, writable);
            const int ready = wait(highest, readable, writable);
            if (FD_ISSET(master, &readable)) connect();
            receive_all(readable, ready);
            flush_all(writable);
            expire_all();
            sweep();
            terminal.flush();
        }
        ::close(master);
    }

private:
    Window& window_of(int seat) { return windows[static_cast<std::size_t>(seat)]; }

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
            else sign_of_life(client);  // we do not look, so we cannot say that it is silent
            if (client.blocked) FD_SET(fd, &writable);
            highest = std::max(highest, fd);
        }
        return highest;
    }

    // How many bytes may be received from a client now; 0: it is not in the read set. All that is
    // received may become messages, and when a long message ends, all of it goes into the log at
    // once. So there must be room for it in the log before it is received.
    //
    // An example: there are 20 peers, and one of them reads slowly. Each peer has a share of 1.2
    // MiB. The client in seat 10 has 256 KiB reserved. When it only chats, it is always read. If it
    // says 3 MiB in short messages, it is not read any more when 1.2 MiB of them have not been sent
    // to the slow peer. If it says a message of 5 MiB, it is read while the log has room for 16
    // MiB. If others have filled the log, it can still say 256 KiB.
    std::size_t allowance(const Client& client) {
        if (client.ended) return 0;
        if (client.state != State::open) return kReceiveBytes;  // only to see its TCP FIN
        if (!client.own.empty()) return 0;  // it has not taken its answers: it gets no others
        const std::size_t said = window_of(client.seat).bytes(log);
        const std::size_t pending = client.pending();
        const std::size_t share = kShareBytes / std::max<std::size_t>(peers, 1);
        const std::size_t reserved = reserved_for(client.seat);
        const std::size_t room = log.common_room();

        // 1. It has not used up its share, and the log has room for what has come of its message
        //    and for this recv().
        const bool within_share = said + pending < share && pending + kReceiveBytes <= room;
        if (within_share) return std::min(share - said - pending, kReceiveBytes);
        // 2. With this message it would use up its share, without it it has not. A message may be
        //    longer than a share. So it may go on if the log has room for the longest message. (How
        //    long this one will be is not known, because more fragments may come.)
        const bool longest_fits = said < share && kMaxMessageBytes + kReceiveBytes <= room;
        if (longest_fits) return kReceiveBytes;
        // 3. It has not used up what is reserved for its seat. By rules 1 and 2 clients fill the
        //    log up to kCommonBytes at the most. The rest of the log is as large as all that is
        //    reserved, so there is room.
        if (said + pending < reserved) return std::min(reserved - said - pending, kReceiveBytes);
        return 0;
    }

    // The only call that waits: for a descriptor, a deadline or a signal. Returns how many
    // descriptors are ready.
    int wait(int highest, fd_set& readable, fd_set& writable) {
        const timespec limit = timeout();
        int ready = pselect(highest + 1, &readable, &writable, nullptr, &limit, &signals_outside);
        if (ready < 0) {
            // A signal came: EINTR. Any other error says that the kernel has no memory: it is tried
            // again after a moment, not at once.
            if (errno != EINTR) pselect(0, nullptr, nullptr, nullptr, &kMoment, nullptr);
            FD_ZERO(&readable);  // when select() fails, the sets are not defined
            FD_ZERO(&writable);
            ready = 0;
        }
        now = Clock::now();
        if (!stopping && signalled()) {
            stopping = true;
            stop_time = now + kStoppingTime;
        }
        if (tracing) trace_select(ready, highest, readable, writable);
        return ready;
    }

    // The time until the next deadline; kPingAfter when nobody has one.
    timespec timeout() const {
        auto next = std::min(now + kPingAfter, stop_time);
        if (now < accept_again) next = std::min(next, accept_again);
        for (const auto& [fd, client] : sockets) next = std::min(next, client.deadline);
        const std::chrono::nanoseconds left = std::max<Clock::duration>(next - Clock::now(), 0ns);
        return {static_cast<time_t>(left / 1s), static_cast<long>((left % 1s).count())};
    }

    // --- accept ----------------------------------------------------------------------------------

    // Takes newcomers out of the listen queue, where the kernel keeps connections that nobody has
    // accepted.
    void connect() {
        for (int newcomers = 0; newcomers < kAcceptsPerRound; ++newcomers) {
            sockaddr_storage address{};
            socklen_t size = sizeof address;
            const int fd = accept(master, reinterpret_cast<sockaddr*>(&address), &size);
            if (fd < 0) {
                const bool usual = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
                // Any other error says that there is no descriptor or no memory for the newcomer.
                // It stays in the listen queue, and select() would return at once, again and again.
                // So the master is left out of the read set for a while.
                if (!usual) accept_again = now + kAcceptPause;
                return;
            }
            fcntl(fd, F_SETFL, O_NONBLOCK);
            // Without TCP_NODELAY, a small frame is held back until the last one is acknowledged.
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &kYes, sizeof kYes);
            try {
                welcome(Client{.fd = fd, .deadline = now + kHandshakeTime}, numeric(address, size));
            } catch (const std::bad_alloc&) {
                ::close(fd);
            }
        }
    }

    // A newcomer becomes a client if its descriptor is below `slots`. In the last kRefusalSlots of
    // these, and when there is no seat for it, it is told 503, and keeps its place until it leaves
    // or kClosingTime is over. From `slots` on it is told 503, and its socket is closed at once.
    void welcome(Client client, const std::string& address) {
        const int fd = client.fd;
        print({"connect client ", std::to_string(fd), " from ", address});
        if (fd < slots - kRefusalSlots) client.seat = free_seat();
        if (client.seat == 0) {
            refuse(client, refusal("", "503 Service Unavailable", "no slot left"));
            flush(client);
        }
        if (fd >= slots) {
            ::close(fd);
            return;
        }
        const int seat = client.seat;
        sockets.emplace(fd, std::move(client));
        window_of(seat).taken = true;
    }

    // Returns the first seat that is free and in whose window there is room; 0: there is none. (A
    // client that has left may have said so much that a newcomer in its seat could say nothing.)
    int free_seat() {
        for (int seat = 1; seat <= kSeats; ++seat) {
            Window& window = window_of(seat);
            if (!window.taken && window.bytes(log) < reserved_for(seat)) return seat;
        }
        return 0;
    }

    // --- receive ---------------------------------------------------------------------------------

    // All that is received in one round is limited, so that no round takes long; each client may
    // have an equal part of it. Begins after the client that was the last to be received from:
    // otherwise those with low descriptors would always be the first to find room in the log.
    void receive_all(const fd_set& readable, int ready) {
        const std::size_t most = kRoundBytes / static_cast<std::size_t>(std::max(ready, 1));
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
        if (client.state != State::open) return;  // after its Close or a refusal
        std::string_view input(buffer.data(), static_cast<std::size_t>(received));
        if (!client.handshake) do_handshake(client, input);
        if (!client.is_peer()) return;
        sign_of_life(client);
        decode(client, input);
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
        print({"shakeHands ", std::to_string(client.fd)});

        // What was said before is not for it. The response is sent now. Frames may follow in the
        // same input, and a Pong for them would move own_at, and the response with it, to the end
        // of the log: after what they say. A new socket has room for its 129 bytes; if not,
        // something is wrong.
        client.position = log.end;
        send_later(client, response->text);
        flush(client);
        if (client.blocked) drop(client, "no room for the response");
    }

    void decode(Client& client, std::string_view input) {
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
        if (!quiet) {  // asked here, because these texts take time
            print({"send file ", std::to_string(sender.fd), ": ", opcode_name(opcode), ", ",
                 std::to_string(payload.size()), " bytes, to ", std::to_string(peers), " clients"});
        }
        if (tracing) terminal.line({"-> all: ", describe(header, opcode, payload)});
        log.append(header.bytes);
        log.append(payload);
        window_of(sender.seat).said_since += header.bytes.size() + payload.size();
    }

    // The memory of half-received messages is limited for all together, or a thousand clients could
    // fill sixteen gigabytes. Before this recv() the sum was within the limit; then one client took
    // more. The client that holds most holds at least as much as that one took, so when it is
    // closed, the sum is within the limit again.
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
        if (!client.is_peer() || client.blocked) return;
        client.deadline = now + kPingAfter;
        client.pinged = false;
    }

    // This comes after receive_all() and flush_all(): when the process itself did not run for a
    // minute, what has come meanwhile and what a client can take now count first.
    void expire_all() {
        for (auto& [fd, client] : sockets) {
            try {
                if (stopping) say_goodbye(client);
                if (now >= client.deadline) expire(client);
            } catch (const std::bad_alloc&) {
                drop(client, "out of memory");
            }
        }
    }

    void expire(Client& client) {
        if (client.state != State::open) {
            drop(client, "");  // it had its time to read the last bytes and to close its side
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

    // Adds bytes that are due to one client alone to the end of its `own`, which goes out with the
    // next flush(), after all that has been said until now: own_at moves to the end of the log. It
    // cannot move when a part of `own` has been sent, because the rest must follow at once. (That
    // is rare. A client that has not taken its answers is not received from, so only the server can
    // have something to say to it then: a Close. What was said after own_at is then not sent to it
    // any more, see due().)
    void send_later(Client& client, std::string_view bytes) {
        client.own += bytes;
        if (client.handshake && !client.own_begun) client.own_at = log.end;
    }

    void send_frame(Client& client, Opcode opcode, std::string_view payload) {
        trace_frame(client.fd, opcode, payload);
        send_later(client, encode(opcode, payload));
    }

    void flush_all(const fd_set& writable) {
        for (auto& [fd, client] : sockets) {
            if (!client.blocked || FD_ISSET(fd, &writable)) flush(client);
        }
    }

    // Sends what is due to a client, until all is sent, the kernel takes no more, or kSendBytes
    // have been sent. No byte is copied: send() takes it from the log, and what could not be sent
    // is still there. Mostly this is one send().
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
        client.own.shrink_to_fit();  // it may have been large, and there may be 1000 clients
        // After the last bytes for a client, shutdown() makes TCP send a FIN. Then the client is
        // read until it closes its side, too. If the socket were closed now, with bytes of the
        // client unread, TCP would send a RST. That could overtake those last bytes, and they would
        // be lost.
        if (client.state == State::closing && !client.blocked) shutdown(client.fd, SHUT_WR);
    }

    // The position up to which the log is due to a client: to a peer all of it, to a client that is
    // closing what comes before own_at.
    std::uint64_t due(const Client& client) const {
        return client.is_peer() ? log.end : client.own_at;
    }

    // The position up to which the log is sent next: own_at when there is something in `own`, else
    // all that is due.
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
        if (client.position < next_stop(client)) {
            client.position += sent;
        } else {
            client.own.erase(0, sent);
            client.own_begun = !client.own.empty();
        }
    }

    // Sets the deadline of a client that is or was blocked. While it stays blocked, it has one
    // second more for every kLeastPace bytes that it takes, up to `latest`. (If it had the full
    // time for any byte that it takes, one byte in 29 s would keep it here for ever, and the log
    // full.)
    void note_taken(Client& client, bool was_blocked, std::size_t taken) {
        const bool open = client.state == State::open;
        const Clock::time_point latest = now + (open ? kStallTime : kClosingTime);
        const std::chrono::milliseconds gained(1000 * taken / kLeastPace);
        if (client.blocked && !was_blocked) {  // it begins to be blocked
            client.deadline = latest;
        } else if (client.blocked) {  // it stays blocked
            client.deadline = std::min(client.deadline + gained, latest);
        } else if (was_blocked) {  // all has been sent to it at last
            client.deadline = now + (open ? kPingAfter : kClosingTime);
            client.pinged = false;
        }
    }

    // --- the end of a client ---------------------------------------------------------------------

    // Each client ends here. From now on it is no peer, and what others say now is not due to it.
    // What is due up to `own` is still sent, with `last_bytes` at the end of `own`. It has
    // kClosingTime to take that, and then to close its side; see note_taken().
    void leave(Client& client, std::string_view verb, std::string_view why,
               std::string_view last_bytes = "") {
        if (client.state != State::open) return;
        print({verb, " client ", std::to_string(client.fd), ": ", why});
        send_later(client, last_bytes);  // also when it is nothing: this moves own_at
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
    // newcomer that finds no slot never becomes a client.) Then the log forgets what has been sent
    // to everybody.
    void sweep() {
        const std::size_t clients = sockets.size();
        auto next = sockets.begin();
        while (next != sockets.end()) {
            const Client& client = next->second;
            const bool all_done = client.ended && !client.blocked;
            if (client.state == State::gone || all_done) {
                ::close(client.fd);
                window_of(client.seat).taken = false;
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

    void print(std::initializer_list<std::string_view> parts) {
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
    keep_freed_memory();
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
