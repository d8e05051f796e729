// A chat server: one thread, one select(), every message to every peer. The PHP demo's class WS, grown up.
//
//   fill the fd_sets -> select() -> accept -> receive (handshake or decode -> process) -> flush -> sweep
//
// Only this file makes system calls, and of those only select() ever waits. Failures come in three tiers:
//   1. it cannot start: say why and exit (die);
//   2. a client fails, by its bytes, its socket or its silence: it goes (refuse, close, drop) and nobody else notices;
//   3. EINTR, EAGAIN, EMFILE and their like are expected: handled where they occur.

#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "ws_frame.h"
#include "ws_handshake.h"

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// --- limits (a request's is in ws_handshake.h, a message's in ws_frame.h) --------------------------------------------

constexpr auto kHandshakeTime = 10s;                // from accept() to the complete request; past it: 408
constexpr auto kPingAfter = 30s;                    // without a byte from a peer
constexpr auto kDropAfter = 60s;                    // without a byte from a peer
constexpr auto kClosingTime = 2s;                   // for the peer's half of a close; half of it when the server ends
constexpr auto kAcceptPause = 100ms;                // when the system has no descriptor or memory for a connection
constexpr std::size_t kMaxWaitingBytes = 64 << 20;  // for one peer that does not read; past it he is dropped
constexpr std::size_t kMaxHeldBytes = 256 << 20;    // half-received messages of all peers; past it: 1009 to the largest
constexpr std::size_t kRoundBytes = 4 << 20;        // received in one round from all clients, in equal shares ...
constexpr std::size_t kBlockBytes = 256 << 10;      // ... of at most this; smaller messages share such a block
constexpr std::size_t kOwnCost = 128;               // of keeping something for one client alone, besides its bytes
constexpr std::size_t kMaxPieces = 64;              // handed to one writev()
constexpr std::size_t kTerminalBytes = 64 << 10;    // lines that standard output has not taken yet
constexpr auto kLongMessagePause = 1s;              // between such, while a peer has half of what may wait for him
constexpr int kAcceptsPerRound = 64;                // newcomers let in between two looks at everybody else
constexpr int kRefusalSlots = 8;                    // descriptors kept for saying 503 in good order

constexpr int kYes = 1;  // for setsockopt()

// --- standard output -------------------------------------------------------------------------------------------------

// One more descriptor that may not be ready: behind it is a terminal stopped with Ctrl-S, or a full pipe. Lines wait
// here until it is ready; those that find no room are dropped and counted.
struct Terminal {
    std::string text;         // what waits
    std::size_t dropped = 0;  // lines since the last one that found room

    Terminal() {
        text.reserve(2 * kTerminalBytes);
        // Our own way to the terminal: O_NONBLOCK on the one that was handed to us would hold for the shell as well.
        const char* name = ttyname(STDOUT_FILENO);
        const int fd = name ? open(name, O_WRONLY | O_NONBLOCK | O_NOCTTY) : -1;
        if (fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0) ::close(fd);
    }

    void line(std::initializer_list<std::string_view> parts) {
        if (dropped > 0 || text.size() > kTerminalBytes) return void(++dropped);
        for (const auto part : parts) text += part;
        text += '\n';
    }

    // Writes what can be written now. What select() calls writable takes PIPE_BUF bytes.
    void flush() {
        while (!text.empty() && writable()) {
            const ssize_t sent = write(STDOUT_FILENO, text.data(), std::min<std::size_t>(text.size(), PIPE_BUF));
            if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
            text.erase(0, sent < 0 ? text.npos : static_cast<std::size_t>(sent));  // nobody reads any more: not kept
            if (dropped == 0 || text.size() > kTerminalBytes / 2) continue;
            text.append("(").append(std::to_string(dropped)).append(" lines dropped)\n");
            dropped = 0;
        }
    }

    static bool writable() {
        fd_set out;
        FD_ZERO(&out);
        FD_SET(STDOUT_FILENO, &out);
        timeval at_once{};
        return select(STDOUT_FILENO + 1, nullptr, &out, nullptr, &at_once) == 1;
    }
};

// --- what everybody gets ---------------------------------------------------------------------------------------------

// All messages are one sequence of bytes, the same for every peer. Each is encoded once and kept once; a peer only
// remembers his position, how far he has been sent. What lies behind the slowest is forgotten.
struct Broadcast {
    std::map<std::uint64_t, std::string> blocks;  // by the position of their first byte
    std::uint64_t end = 0;                        // position behind the last byte

    // Nothing has changed if memory fails on the way.
    void append(std::string_view header, std::string payload) {
        const std::size_t size = header.size() + payload.size();
        if (payload.size() >= kBlockBytes) {  // moved, not copied
            std::string& head = blocks[end];
            blocks[end + header.size()] = std::move(payload);
            head = header;
        } else {
            if (blocks.empty() || blocks.rbegin()->second.size() >= kBlockBytes) blocks[end];
            std::string& bytes = blocks.rbegin()->second;
            if (bytes.capacity() - bytes.size() < size) bytes.reserve(2 * bytes.size() + size);
            bytes.append(header).append(payload);
        }
        end += size;
    }

    // The bytes from one position to another, or as many of them as lie together.
    iovec piece(std::uint64_t from, std::uint64_t to) {
        auto& [start, bytes] = *std::prev(blocks.upper_bound(from));
        return {bytes.data() + (from - start), std::min(to, start + bytes.size()) - from};
    }

    void forget(std::uint64_t before) {
        const auto behind = [&](const auto& block) { return block.first + block.second.size() <= before; };
        while (!blocks.empty() && behind(*blocks.begin())) blocks.erase(blocks.begin());
    }
};

// --- one socket ------------------------------------------------------------------------------------------------------

struct Client {
    int fd;
    bool handshake = false;            // done: this is a peer, it speaks frames (the demo has one flag for all)
    bool closing = false;              // the last word is said: what else it sends is not looked at
    bool ended = false;                // its FIN has come: there is nothing to receive
    bool blocked = false;              // the kernel did not take all that is due: ask select() when it will
    bool pinged = false;               // since its last byte
    bool gone = false;                 // to be closed and erased by sweep()
    Clock::time_point deadline;        // for the handshake, the next byte or the end of the close: see expire()
    std::string request{};             // the opening handshake as far as it has come
    std::optional<Decoder> decoder{};  // there while it is a peer
    std::uint64_t position = 0;        // in the broadcast: sent up to here ...
    std::uint64_t last = 0;            // ... and, when closing, only up to there
    std::map<std::uint64_t, std::string> own{};  // bytes for it alone, by the position at which they go
    std::uint64_t own_sent = 0;        // bytes sent of the first of these
    std::size_t own_bytes = 0;         // not sent of them all

    // What it makes us keep, besides what it shares with all others.
    std::size_t held() const { return gone ? 0 : own_bytes + (decoder ? decoder->held() : 0); }
};

// --- the server ------------------------------------------------------------------------------------------------------

// SIGINT and SIGTERM are blocked but while pselect() waits, so that none slips in between a look at this flag and the
// wait. With descriptors always ready pselect() may never let one in: signalled() asks for those still outside, too.
volatile sig_atomic_t caught = 0;

extern "C" void on_signal(int) { caught = 1; }

bool signalled() {
    sigset_t pending;
    sigpending(&pending);
    return caught != 0 || sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1;
}

std::string join(const std::string& address, const std::string& port) {
    return (address.find(':') == address.npos ? address : '[' + address + ']') + ':' + port;
}

std::string numeric(const sockaddr_storage& address, socklen_t size) {
    std::array<char, NI_MAXHOST> host{};
    std::array<char, NI_MAXSERV> port{};
    getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(), host.size(), port.data(), port.size(),
                NI_NUMERICHOST | NI_NUMERICSERV);
    return join(host.data(), port.data());
}

class WS {
public:
    // Prints quietly: the first line only; with a trace: a line for each frame.
    WS(const std::string& address, const std::string& port, bool quietly, bool traced)
        : quiet(quietly), tracing(traced) {
        const auto die = [&](const char* why) {
            std::fprintf(stderr, "cannot listen on %s: %s\n", join(address, port).c_str(), why);
            std::exit(1);
        };
        addrinfo hints{}, *found = nullptr;
        hints.ai_socktype = SOCK_STREAM;
        hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
        const int failed = getaddrinfo(address.c_str(), port.c_str(), &hints, &found);
        if (failed != 0) die(gai_strerror(failed));
        const addrinfo* place = found;  // IPv4 where there is a choice: in the demo, too, localhost is 127.0.0.1
        while (place->ai_family != AF_INET && place->ai_next != nullptr) place = place->ai_next;

        sigset_t stop;
        sigemptyset(&stop);
        for (const int number : {SIGINT, SIGTERM}) sigaddset(&stop, number), signal(number, on_signal);
        sigprocmask(SIG_BLOCK, &stop, nullptr);

        master = socket(place->ai_family, SOCK_STREAM, 0);
        if (master < 0 || setsockopt(master, SOL_SOCKET, SO_REUSEADDR, &kYes, sizeof kYes) != 0 ||
            bind(master, place->ai_addr, place->ai_addrlen) != 0 || listen(master, SOMAXCONN) != 0 ||
            fcntl(master, F_SETFL, O_NONBLOCK) != 0) {
            die(strerror(errno));
        }
        freeaddrinfo(found);

        rlimit files{};
        getrlimit(RLIMIT_NOFILE, &files);
        slots = static_cast<int>(std::min<rlim_t>(FD_SETSIZE, files.rlim_cur - 1));  // one stays free for accept()

        sockaddr_storage own{};
        socklen_t size = sizeof own;
        getsockname(master, reinterpret_cast<sockaddr*>(&own), &size);
        terminal.line({"Master socket  : ", std::to_string(master), " listening on ", numeric(own, size)});
        terminal.flush();
    }

    // Until SIGINT or SIGTERM.
    void run() {
        sigset_t no_signals;
        sigemptyset(&no_signals);
        while (!stopping || !sockets.empty()) {
            fd_set readable, writable;
            const int highest = fill(readable, writable);
            const auto wait = timeout();
            const int ready = pselect(highest + 1, &readable, &writable, nullptr, wait ? &*wait : nullptr, &no_signals);
            now = Clock::now();
            if (ready < 0) readable = writable = fd_set{};  // a signal: the sets say nothing
            stopping = stopping || signalled();
            for (int i = 0; i < kAcceptsPerRound && !stopping && FD_ISSET(master, &readable) && connect(); ++i) {}
            receive_all(readable, ready);
            limit_held();
            flush_all(writable);
            sweep();
            terminal.flush();
        }
        ::close(master);
    }

private:
    // What select() is asked, anew each round: it overwrites what it is given. (The demo gives it $sockets itself.)
    int fill(fd_set& readable, fd_set& writable) const {
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        if (!terminal.text.empty()) FD_SET(STDOUT_FILENO, &writable);
        if (!stopping && now >= accept_again) FD_SET(master, &readable);
        for (const auto& [fd, client] : sockets) {
            const bool later = now < long_again && client.held() > kRoundBytes;
            if (!client.ended && !later) FD_SET(fd, &readable);
            if (client.blocked) FD_SET(fd, &writable);
        }
        return sockets.empty() ? master : std::max(master, sockets.rbegin()->first);
    }

    // Until the next deadline; for ever when nobody has one.
    std::optional<timespec> timeout() const {
        auto next = Clock::time_point::max();
        for (const auto pause : {accept_again, long_again}) next = now < pause ? std::min(next, pause) : next;
        for (const auto& [fd, client] : sockets) next = std::min(next, client.deadline);
        if (next == Clock::time_point::max()) return std::nullopt;
        const std::chrono::nanoseconds left = std::max(next - Clock::now(), Clock::duration::zero());
        return timespec{static_cast<time_t>(left / 1s), static_cast<long>((left % 1s).count())};
    }

    // Lets one newcomer in; false when there is none.
    bool connect() {
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        const int fd = accept(master, reinterpret_cast<sockaddr*>(&address), &size);
        // A connection that there is no room for makes select() return at once, again and again: look away a while.
        if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) accept_again = now + kAcceptPause;
        if (fd < 0) return false;

        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &kYes, sizeof kYes);
        Client client{.fd = fd, .deadline = now + kHandshakeTime};
        try {
            say({"connect client ", std::to_string(fd), " from ", numeric(address, size)});
            if (fd >= slots - kRefusalSlots) refuse(client, refusal("503 Service Unavailable", "no slot left"));
            if (fd < slots) return sockets.emplace(fd, std::move(client)).second;
            flush(client);  // no descriptor for an orderly end: what the kernel takes at once is all that it gets
        } catch (const std::bad_alloc&) {
        }
        ::close(fd);
        return true;
    }

    // --- receive -----------------------------------------------------------------------------------------------------

    void receive_all(const fd_set& readable, int ready) {
        const std::size_t share = std::min(kBlockBytes, kRoundBytes / static_cast<std::size_t>(std::max(ready, 1)));
        const std::uint64_t enough = broadcast.end + kRoundBytes;  // each long message ends a round
        for (auto& [fd, client] : sockets) {
            try {
                if (FD_ISSET(fd, &readable) && broadcast.end < enough) receive(client, share);
                if (now >= client.deadline) expire(client);
                if (stopping) say_goodbye(client);
            } catch (const std::bad_alloc&) {
                drop(client, "out of memory");
            }
        }
    }

    void receive(Client& client, std::size_t share) {
        const ssize_t size = recv(client.fd, buffer.data(), share, 0);
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (size < 0) return drop(client, strerror(errno));
        client.ended = size == 0;  // by its FIN; what is due to it may still arrive
        if (client.ended) return leave(client, "disconnect", "connection ended without Close");
        std::string_view input(buffer.data(), static_cast<std::size_t>(size));
        if (!client.closing && !client.handshake) do_handshake(client, input);
        if (!client.closing && client.handshake) decode(client, input);
    }

    void do_handshake(Client& client, std::string_view& input) {
        const auto response = take_request(client.request, input);
        if (!response) return;
        trace_lines("<-", client.fd, client.request);
        if (!response->accepted) return refuse(client, *response);
        trace_lines("->", client.fd, response->text);
        send(client, response->text);
        client.handshake = true;
        std::string().swap(client.request);  // and its memory
        client.decoder.emplace();
        ++peers;
        say({"shakeHands ", std::to_string(client.fd)});
    }

    void decode(Client& client, std::string_view input) {
        client.deadline = now + kPingAfter;
        client.pinged = false;
        while (!client.closing) {
            Decoder& decoder = *client.decoder;
            const auto event = decoder.feed(input);
            if (event == Decoder::Event::need_more) return;
            if (tracing) trace("<-", client.fd, describe(decoder.header(), decoder.opcode(), decoder.frame_payload()));
            process(client, event);
        }
    }

    // A message goes to every peer; a control frame or a violation has its answer.
    void process(Client& client, Decoder::Event event) {
        Decoder& decoder = *client.decoder;
        const Opcode opcode = decoder.opcode();
        if (event == Decoder::Event::fragment) return;
        if (event == Decoder::Event::violation) return close(client, decoder.code(), decoder.reason());
        std::string payload = decoder.take_payload();
        if (opcode == Opcode::ping) return send_frame(client, Opcode::pong, payload);
        if (opcode == Opcode::close) return close(client, close_code(payload), "closed by peer");
        if (opcode == Opcode::pong) return;

        const Header header = make_header(opcode, payload.size());
        if (!quiet) say({"send file ", std::to_string(client.fd), ": ", opcode_name(opcode), ", ",
                         std::to_string(payload.size()), " bytes, to ", std::to_string(peers), " clients"});
        if (tracing) terminal.line({"-> all: ", describe(header, opcode, payload)});
        // Many that long at once would be more than may wait for a peer, however well he reads.
        if (payload.size() > kRoundBytes) long_again = now + kLongMessagePause;
        broadcast.append(header.bytes, std::move(payload));
    }

    void expire(Client& client) {
        if (client.closing || client.pinged) return drop(client, "silent for 60 s");
        if (!client.handshake) return refuse(client, refusal("408 Request Timeout", "no complete request within 10 s"));
        send_frame(client, Opcode::ping, "");
        client.pinged = true;
        client.deadline = now + (kDropAfter - kPingAfter);
    }

    void say_goodbye(Client& client) {
        if (!client.handshake) drop(client, "the server stops");
        else close(client, kGoingAway, "the server stops");
        client.deadline = std::min(client.deadline, now + kClosingTime / 2);
    }

    // What all of them make us keep is limited too, or a thousand clients could fill sixteen gigabytes.
    void limit_held() {
        std::size_t total = 0;
        for (const auto& [fd, client] : sockets) total += client.held();
        while (total > kMaxHeldBytes) {
            const auto held = [](const auto& entry) { return entry.second.held(); };
            Client& most = std::ranges::max_element(sockets, {}, held)->second;
            total -= most.held();
            close(most, kTooBig, "holds most of 256 MiB");
            most.gone = most.held() > kBlockBytes;  // answers to it, which it does not read
        }
    }

    // --- send --------------------------------------------------------------------------------------------------------

    // For one client alone: queued here, behind the messages that came before, and flushed when the round ends.
    void send(Client& client, std::string_view bytes) {
        if (!client.handshake) client.position = broadcast.end;  // what was said before is not for it
        client.own[broadcast.end] += bytes;
        client.own_bytes += bytes.size();
    }

    void send_frame(Client& client, Opcode opcode, std::string_view payload) {
        if (tracing) trace("->", client.fd, describe(make_header(opcode, payload.size()), opcode, payload));
        send(client, encode(opcode, payload));
    }

    // The position up to which messages go to this client.
    std::uint64_t due(const Client& c) const { return c.closing ? c.last : c.handshake ? broadcast.end : c.position; }

    // Bytes due and not sent, the room that keeping them takes included.
    std::size_t waiting(const Client& c) const { return due(c) - c.position + c.own_bytes + c.own.size() * kOwnCost; }

    void flush_all(const fd_set& writable) {
        for (auto& [fd, client] : sockets) {
            if (!client.blocked || FD_ISSET(fd, &writable)) flush(client);
            if (waiting(client) > kMaxWaitingBytes) drop(client, "does not read: 64 MiB wait for it");
        }
    }

    // All that is due to a client, in one call and straight from where it is kept.
    void flush(Client& client) {
        std::array<iovec, kMaxPieces> pieces;
        std::size_t n = 0;
        std::uint64_t at = client.position;
        const auto messages = [&](std::uint64_t to) {
            for (; at < to && n < kMaxPieces; at += pieces[n++].iov_len) pieces[n] = broadcast.piece(at, to);
        };
        for (auto& [place, bytes] : client.own) {
            messages(place);
            if (n == kMaxPieces) break;
            const std::size_t skip = n == 0 ? client.own_sent : 0;
            pieces[n++] = {bytes.data() + skip, bytes.size() - skip};
        }
        messages(due(client));
        if (n == 0 || client.gone) return;

        // One piece is the rule, and send() is the shorter way into the kernel.
        const ssize_t sent = n == 1 ? ::send(client.fd, pieces[0].iov_base, pieces[0].iov_len, 0)
                                    : writev(client.fd, pieces.data(), static_cast<int>(n));
        if (sent < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS) return drop(client, strerror(errno));
        auto left = static_cast<std::size_t>(std::max<ssize_t>(sent, 0));
        for (std::size_t i = 0; left > 0; ++i) left -= advance(client, std::min(left, pieces[i].iov_len));
        client.blocked = waiting(client) > 0;
        // After the last word half-close, and read on until the client closes too: close() might send a RST now, which
        // overtakes the word.
        if (client.closing && !client.blocked) shutdown(client.fd, SHUT_WR);
    }

    // Of the piece that was next, so much has been sent.
    std::size_t advance(Client& client, std::size_t sent) {
        const auto own = client.own.begin();
        const bool own_turn = own != client.own.end() && own->first == client.position;
        (own_turn ? client.own_sent : client.position) += sent;
        if (own_turn) client.own_bytes -= sent;
        if (own_turn && client.own_sent == own->second.size()) {
            client.own_sent = 0;
            client.own.erase(own);
        }
        return sent;
    }

    // --- the end of a client -----------------------------------------------------------------------------------------

    // From here on it is no peer. What is due to it is still sent, and it has a moment to close its side.
    void leave(Client& client, std::string_view verb, std::string_view why) {
        if (client.closing) return;
        say({verb, " client ", std::to_string(client.fd), ": ", why});
        if (client.handshake) --peers;
        client.last = due(client);
        client.closing = true;
        client.decoder.reset();
        client.deadline = now + kClosingTime;
    }

    void refuse(Client& client, const Response& response) {
        trace_lines("->", client.fd, response.text);
        send(client, response.text);
        leave(client, "refuse", response.reason);
    }

    void close(Client& client, std::uint16_t code, std::string_view why) try {
        if (client.closing) return;
        send_frame(client, Opcode::close, close_payload(code));
        leave(client, "disconnect", std::string(why) + " (" + std::to_string(code) + ")");
    } catch (const std::bad_alloc&) {
        drop(client, "out of memory");
    }

    void drop(Client& client, std::string_view why) {
        leave(client, "disconnect", why);
        client.gone = true;
    }

    // The one place that closes and erases; all others only mark.
    void sweep() {
        std::uint64_t oldest = broadcast.end;
        for (auto it = sockets.begin(); it != sockets.end();) {
            const Client& client = it->second;
            const bool done = client.gone || (client.ended && waiting(client) == 0);
            if (done) ::close(client.fd);
            else if (waiting(client) > 0) oldest = std::min(oldest, client.position);
            it = done ? sockets.erase(it) : std::next(it);
        }
        broadcast.forget(oldest);
        if (broadcast.end - oldest < kMaxWaitingBytes / 2) long_again = now;
    }

    // --- what it prints ----------------------------------------------------------------------------------------------

    void say(std::initializer_list<std::string_view> parts) { if (!quiet) terminal.line(parts); }

    void trace(std::string_view arrow, int fd, std::string_view what) {
        terminal.line({arrow, " ", std::to_string(fd), ": ", what});
    }

    void trace_lines(std::string_view arrow, int fd, std::string_view text) {
        for (std::size_t at = 0, end = 0; tracing && at < text.size(); at = end + 2) {
            end = std::min(text.find("\r\n", at), text.size());
            trace(arrow, fd, escape(text.substr(at, end - at)));
        }
    }

    const bool quiet, tracing;
    int master = -1;
    std::map<int, Client> sockets;         // by descriptor
    int slots = 0;                         // clients have descriptors below this, and the last of them hear 503
    std::size_t peers = 0;                 // clients whose handshake is done and that are not leaving
    Broadcast broadcast;
    Terminal terminal;
    std::vector<char> buffer = std::vector<char>(kBlockBytes);
    Clock::time_point now = Clock::now();  // of this round
    Clock::time_point accept_again = now;  // the master is not watched before,
    Clock::time_point long_again = now;    // nor, before this, are those whose message is a long one
    bool stopping = false;
};

// --- the command line ------------------------------------------------------------------------------------------------

constexpr char kUsage[] =
    "usage: ./server [OPTIONS] [ADDRESS [PORT]]\n"
    "  ADDRESS  IPv4, IPv6 or host name to listen on (127.0.0.1), 0.0.0.0 for every interface\n"
    "  PORT     0 to 65535 (4000), 0 for any that is free\n"
    "  --quiet  prints the first line only; --trace: a line for each frame too; --help: this\n";

bool is_port(const std::string& text) {
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
    return digits && text.size() <= 5 && std::stoi(text) <= 65535;
}

}  // namespace

int main(int argc, char* argv[]) {
    std::vector<std::string> args(argv + 1, argv + argc);
    const auto take = [&](std::string_view option) { return std::erase(args, option) > 0; };
    const bool help = take("--help"), quiet = take("--quiet"), trace = take("--trace");
    const std::string address = args.size() > 0 ? args[0] : "127.0.0.1", port = args.size() > 1 ? args[1] : "4000";
    const bool wrong = args.size() > 2 || address.starts_with('-') || !is_port(port);
    if (help || wrong) return std::fputs(kUsage, help ? stdout : stderr), help ? 0 : 2;

    // The first three descriptors are taken: no client becomes standard output because somebody had closed that.
    int fd = 0;
    while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDWR);
    ::close(fd);
    // Writing to somebody who has gone is that client's failure, not the end of the process.
    signal(SIGPIPE, SIG_IGN);
    // glibc keeps for later what was freed once as a whole: else each long message has its pages from the system anew.
    std::string().reserve(kMaxMessageBytes);
    WS(address, port, quiet, trace).run();
}
