// make bench: what a delivery costs ./server, and what it costs a bare floor under the same load in
// the same run. A delivery is one message that reaches one peer.
//
//   build/bench [NAME...]     only the scenarios whose names begin so
//
// The floor is a select() loop that does the same work on the wire and nothing else: it answers
// every request with the same 101, checks nothing, limits nothing and knows no chat. It shows what
// the system calls cost, so that the ratio shows what the server adds.
//
// Both run as processes of their own, each with its peers connected, and take turns in short
// slices, so that whatever else the machine does hits both. What counts is the median of the ratios
// of such pairs. This process is the load and the judge: it compares every byte that every peer
// gets, and a difference ends the run with exit status 1. A slow machine does not.

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../ws_frame.h"
#include "harness.h"

namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;
constexpr int kYes = 1;  // for setsockopt()

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// --- the floor -----------------------------------------------------------------------------------

// Bytes in memory of a fixed size, which is more than this load needs. Pages that were never
// written to cost nothing.
struct Buffer {
    std::size_t room;
    std::unique_ptr<char[]> data{new char[room]};
    std::size_t size = 0;

    char* end() { return data.get() + size; }

    void drop_front(std::size_t count) {
        size -= count;
        std::memmove(data.get(), data.get() + count, size);
    }
};

struct Connection {
    int fd;
    bool upgraded = false;  // it speaks frames
    Buffer in{4 * kMiB};    // received, but not a whole frame yet
    std::size_t sent = 0;   // so many bytes of the log
};

class Floor {
public:
    Floor() : master_(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) {
        sockaddr_in place{};
        place.sin_family = AF_INET;
        place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof place;
        auto* address = reinterpret_cast<sockaddr*>(&place);
        if (bind(master_, address, size) != 0 || listen(master_, SOMAXCONN) != 0) fail("listen");
        getsockname(master_, address, &size);
        std::printf("floor on 127.0.0.1:%d\n", ntohs(place.sin_port));
        std::fflush(stdout);
    }

    [[noreturn]] void run() {
        while (true) {
            fd_set readable;
            fd_set writable;
            int highest = fill(readable, writable);
            select(highest + 1, &readable, &writable, nullptr, nullptr);
            for (Connection& from : connections_) {
                if (FD_ISSET(from.fd, &readable)) receive(from);
            }
            for (Connection& to : connections_) flush(to);
            forget();
            if (FD_ISSET(master_, &readable)) accept_one();
        }
    }

private:
    // Everybody is waited for who may send, and who has not been sent all. Returns the highest.
    int fill(fd_set& readable, fd_set& writable) const {
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        FD_SET(master_, &readable);
        int highest = master_;
        for (const Connection& one : connections_) {
            FD_SET(one.fd, &readable);
            if (one.upgraded && one.sent < log_.size) FD_SET(one.fd, &writable);
            highest = std::max(highest, one.fd);
        }
        return highest;
    }

    void accept_one() {
        const int fd = accept4(master_, nullptr, nullptr, SOCK_NONBLOCK);
        if (fd < 0) return;
        if (fd >= FD_SETSIZE) fail("too many connections");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &kYes, sizeof kYes);
        connections_.push_back({fd});
    }

    // The load ends this process before it closes its connections: nobody leaves.
    void receive(Connection& from) {
        const ssize_t size = recv(from.fd, from.in.end(), from.in.room - from.in.size, 0);
        if (size <= 0) return;
        if (!from.upgraded) {
            from.upgraded = send(from.fd, kResponse.data(), kResponse.size(), MSG_NOSIGNAL) > 0;
            from.sent = log_.size;
            return;
        }
        from.in.size += static_cast<std::size_t>(size);
        std::size_t taken = 0;
        std::size_t frame = 0;
        do {
            frame = take_frame(from.in.data.get() + taken, from.in.size - taken);
            taken += frame;
        } while (frame > 0);
        from.in.drop_front(taken);
    }

    // Appends a frame to the log, unmasked. Returns its bytes, or 0 when it is not whole yet.
    // RFC 6455 5.2: two bytes, a longer length in 0, 2 or 8 more, the key in 4, the payload.
    std::size_t take_frame(const char* frame, std::size_t size) {
        if (size < 2) return 0;
        std::size_t length = frame[1] & 0x7F;
        std::size_t head = 2;
        if (length == 126) head = 4;
        if (length == 127) head = 10;
        if (size < head + 4) return 0;
        if (head > 2) length = 0;
        for (std::size_t i = 2; i < head; ++i) {
            length = length << 8 | static_cast<unsigned char>(frame[i]);
        }
        const std::size_t all = head + 4 + length;
        if (size < all) return 0;
        if (log_.room - log_.size < all) fail("the log is full");
        MaskingKey key{};
        std::memcpy(key.data(), frame + head, 4);
        std::memcpy(log_.end(), frame, head);
        std::memcpy(log_.end() + head, frame + head + 4, length);
        log_.end()[1] &= 0x7F;  // not masked
        apply_mask({log_.end() + head, length}, key, 0);
        log_.size += head + length;
        return all;
    }

    // A socket that takes no more says EAGAIN.
    void flush(Connection& to) const {
        if (!to.upgraded || to.sent == log_.size) return;
        const char* rest = log_.data.get() + to.sent;
        const ssize_t sent = send(to.fd, rest, log_.size - to.sent, MSG_NOSIGNAL);
        if (sent > 0) to.sent += static_cast<std::size_t>(sent);
    }

    // When everybody has been sent everything, the log begins again.
    void forget() {
        for (const Connection& one : connections_) {
            if (one.upgraded && one.sent < log_.size) return;
        }
        log_.size = 0;
        for (Connection& one : connections_) one.sent = 0;
    }

    int master_;
    std::vector<Connection> connections_{};
    Buffer log_{64 * kMiB};  // what was said and is not sent to everybody yet
};

// --- the load ------------------------------------------------------------------------------------

constexpr std::string_view kEnglish = "The quick brown fox jumps over the lazy dog, 0123456789. ";
constexpr std::string_view kChinese = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏";

// In a turn each sender says some messages at once; the next turn begins when everybody has all.
struct Scenario {
    const char* name;
    std::size_t peers;
    std::size_t senders;
    std::size_t messages;  // of each sender in a turn
    std::size_t bytes;     // of a message; for Chinese a multiple of three
    std::string_view letters = kEnglish;
};

constexpr std::array kScenarios{
    Scenario{"100B", 50, 5, 16, 102},
    Scenario{"4KiB", 100, 5, 16, 4095},
    Scenario{"1MiB", 4, 2, 4, kMiB},
    Scenario{"500", 500, 10, 16, 102},
    Scenario{"paced", 500, 1, 1, 102},
    Scenario{"chinese-100B", 50, 5, 16, 102, kChinese},
    Scenario{"chinese-4KiB", 100, 5, 16, 4095, kChinese},
    Scenario{"1000", 1000, 5, 16, 102},
};

constexpr std::size_t kStampBytes = 12;  // a message begins with its sender and its number

std::string stamp(std::size_t sender, std::size_t number) {
    std::array<char, 32> digits{};
    std::snprintf(digits.data(), digits.size(), "%03zu%09zu", sender, number);
    return digits.data();
}

// All peers of one server. They joined before the first message, so all must get the same bytes.
class Load {
public:
    Load(int port, const Scenario& scenario)
        : scenario_(scenario), said_(scenario.senders), heard_(scenario.senders) {
        const std::size_t text_bytes = scenario.bytes - kStampBytes;
        text_ = repeat(scenario.letters, text_bytes / scenario.letters.size() + 1);
        text_.resize(text_bytes);
        head_ = make_header(Opcode::text, scenario.bytes).bytes;
        for (std::size_t i = 0; i < scenario.peers; ++i) {
            clients_.push_back({Peer(port)});
            clients_.back().peer.shake_hands();
        }
    }

    // Turns for so long; how many deliveries they were.
    double run(Clock::duration time) {
        const auto end = Clock::now() + time;
        std::size_t messages = 0;
        while (messages == 0 || Clock::now() < end) {
            turn();
            messages += scenario_.senders * scenario_.messages;
        }
        return static_cast<double>(messages * scenario_.peers);
    }

private:
    struct Client {
        Peer peer;
        std::string out{};         // is to be sent ...
        std::size_t sent = 0;      // ... and so much of it has been
        std::size_t received = 0;  // bytes in this turn
    };

    void turn() {
        const std::size_t frame = head_.size() + scenario_.bytes;
        const std::size_t due = frame * scenario_.messages * scenario_.senders;
        stream_.clear();
        for (Client& client : clients_) client.received = 0;
        for (std::size_t i = 0; i < scenario_.senders; ++i) speak(i);
        std::vector<pollfd> waits(clients_.size());
        std::size_t complete = 0;
        while (complete < clients_.size()) {
            std::ranges::transform(clients_, waits.begin(), what_to_wait_for);
            if (poll(waits.data(), waits.size(), 20'000) <= 0) fail("a delivery is missing");
            for (std::size_t i = 0; i < clients_.size(); ++i) {
                if ((waits[i].revents & POLLOUT) != 0) send(clients_[i]);
                if ((waits[i].revents & ~POLLOUT) == 0) continue;
                receive(clients_[i]);
                if (clients_[i].received > due) fail("more came than was said");
                if (clients_[i].received == due) ++complete;
            }
        }
        check();
    }

    static pollfd what_to_wait_for(const Client& client) {
        const bool sends = client.sent < client.out.size();
        return {client.peer.fd(), static_cast<short>(sends ? POLLIN | POLLOUT : POLLIN), 0};
    }

    // Senders are spread over the peers, so that the server meets them anywhere in its round.
    void speak(std::size_t sender) {
        Client& client = clients_[sender * scenario_.peers / scenario_.senders];
        client.out.clear();
        client.sent = 0;
        for (std::size_t i = 0; i < scenario_.messages; ++i) {
            client.out += masked(Opcode::text, stamp(sender, said_[sender]) + text_);
            ++said_[sender];
        }
        send(client);
    }

    static void send(Client& client) {
        const std::string_view rest = std::string_view(client.out).substr(client.sent);
        const ssize_t size = ::send(client.peer.fd(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (size > 0) client.sent += static_cast<std::size_t>(size);
    }

    // Who is first to get some bytes has them compared by check(). The others must get the same.
    void receive(Client& client) {
        const ssize_t received = recv(client.peer.fd(), buffer_.data(), buffer_.size(), 0);
        if (received <= 0) fail("a peer was dropped");
        const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(received));
        const std::size_t known = std::min(bytes.size(), stream_.size() - client.received);
        if (stream_.compare(client.received, known, bytes.substr(0, known)) != 0) {
            fail("two peers got different bytes");
        }
        stream_ += bytes.substr(known);
        client.received += bytes.size();
    }

    // Whole messages of senders that there are, each sender's in the order in which it said them.
    void check() {
        std::string_view rest = stream_;
        while (!rest.empty()) {
            const std::string number(rest.substr(std::min(head_.size(), rest.size()), 3));
            const std::size_t sender = std::strtoul(number.c_str(), nullptr, 10);
            if (sender >= heard_.size()) fail("a message of nobody");
            const std::string begin = head_ + stamp(sender, heard_[sender]);
            ++heard_[sender];
            const bool right = rest.substr(0, begin.size()) == begin &&
                               rest.substr(begin.size(), text_.size()) == text_;
            if (!right) fail("a message is out of turn or damaged");
            rest.remove_prefix(begin.size() + text_.size());
        }
    }

    const Scenario scenario_;
    std::vector<Client> clients_{};
    std::vector<std::size_t> said_;   // messages of each sender so far
    std::vector<std::size_t> heard_;  // and those that came back
    std::string head_{};              // the frame's header, as it must come
    std::string text_{};              // behind the stamp
    std::string stream_{};            // what everybody gets in this turn, as far as somebody got it
    std::vector<char> buffer_ = std::vector<char>(256 * kKiB);
};

// --- what it costs -------------------------------------------------------------------------------

constexpr auto kSlice = 100ms;   // of load on one server, before it is the other's turn
constexpr auto kWarmUp = 100ms;  // a first slice that does not count: buffers grow
constexpr int kPairs = 21;       // of slices, one for each server
constexpr std::size_t kIdlePeers = 1000;

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

// ./server, or this program as the floor in its place.
std::unique_ptr<Server> start(bool floor) {
    const std::string real = server_path();
    if (floor) setenv("SERVER", "/proc/self/exe", 1);
    auto server = std::make_unique<Server>(std::vector<std::string>{floor ? "--floor" : "--quiet"});
    setenv("SERVER", real.c_str(), 1);
    return server;
}

// One of the two and its load. The process ends before its peers close their connections.
struct Contender {
    bool floor;
    std::optional<Load> load{};
    std::unique_ptr<Server> server = start(floor);
    std::vector<double> costs{};  // microseconds of CPU time for a delivery, of each slice

    double cpu_seconds() const {  // user and system
        clockid_t clock{};
        timespec time{};
        const bool known = clock_getcpuclockid(server->pid(), &clock) == 0;
        if (!known || clock_gettime(clock, &time) != 0) fail("no CPU clock of the server");
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
    }

    void run_slice() {
        const double before = cpu_seconds();
        const double deliveries = load->run(kSlice);
        costs.push_back((cpu_seconds() - before) * 1e6 / deliveries);
    }
};

void measure(const Scenario& scenario) {
    std::array<Contender, 2> both{Contender{false}, Contender{true}};
    for (Contender& one : both) {
        one.load.emplace(one.server->port(), scenario);
        one.load->run(kWarmUp);
    }
    std::vector<double> ratios;
    for (std::size_t i = 0; i < kPairs; ++i) {
        both[i % 2].run_slice();
        both[1 - i % 2].run_slice();
        ratios.push_back(both[0].costs.back() / both[1].costs.back());
    }
    const auto [least, most] = std::ranges::minmax(ratios);
    std::printf("| %-14s | %5zu | %7zu | %9.3f | %8.3f | %5.2f | %4.2f-%4.2f |\n", scenario.name,
                scenario.peers, scenario.senders, median(both[0].costs), median(both[1].costs),
                median(ratios), least, most);
    std::fflush(stdout);
}

void measure_idle() {
    const auto server = start(false);
    const long before = server->resident_bytes();
    const std::vector<Peer> peers = join(*server, kIdlePeers);
    const auto grown = static_cast<double>(server->resident_bytes() - before);
    std::printf("\nAn idle peer takes %.2f KiB (of %zu).\n", grown / kKiB / kIdlePeers, kIdlePeers);
}

}  // namespace

int main(int argc, char* argv[]) try {
    const std::vector<std::string_view> wanted(argv + 1, argv + argc);
    if (!wanted.empty() && wanted[0] == "--floor") Floor().run();
    raise_descriptor_limit();
    const auto chosen = [&](std::string_view name) {
        const auto begins = [&](std::string_view word) { return name.starts_with(word); };
        return wanted.empty() || std::ranges::any_of(wanted, begins);
    };
    std::puts("| scenario       | peers | senders | server us | floor us | ratio | of pairs  |");
    std::puts("| :------------- | ----: | ------: | --------: | -------: | ----: | --------: |");
    for (const Scenario& scenario : kScenarios) {
        if (chosen(scenario.name)) measure(scenario);
    }
    if (chosen("idle")) measure_idle();
    std::printf("\nEvery byte of every delivery was compared.\n");
} catch (const std::exception& error) {
    std::fprintf(stderr, "bench: %s\n", error.what());
    return 1;
}
