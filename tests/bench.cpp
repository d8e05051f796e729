// make bench: what a delivery costs ./server, and what it costs a bare floor under the same load in
// the same run. A delivery is one message that reaches one peer.
//
//   build/bench [NAME]     all scenarios, or only that of this name
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

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../ws_frame.h"
#include "harness.h"

namespace {

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// --- the floor -----------------------------------------------------------------------------------

// More than this load needs. Memory that is never written to costs nothing.
constexpr std::size_t kInBytes = 4 << 20;

struct Connection {
    int fd;
    bool upgraded = false;                           // it has been sent the 101: it speaks frames
    std::unique_ptr<char[]> in{new char[kInBytes]};  // received, but not a whole frame yet
    std::size_t in_bytes = 0;                        // so many
    std::size_t sent = 0;                            // so many bytes of the log
};

// It can be so short because it knows its load: everybody joins before the first message, the
// frames are right, and nobody leaves before all is measured.
class Floor {
public:
    Floor() {
        sockaddr_in place{};  // port 0: any that is free
        place.sin_family = AF_INET;
        place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (bind(master_, reinterpret_cast<sockaddr*>(&place), sizeof place) != 0) fail("bind");
        if (listen(master_, SOMAXCONN) != 0) fail("listen");
    }

    [[noreturn]] void run() {
        while (true) {
            fd_set readable;
            fd_set writable;
            const int highest = fill(readable, writable);
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
    // Who may say something, and who has not been sent all yet. Returns the highest descriptor.
    int fill(fd_set& readable, fd_set& writable) const {
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        FD_SET(master_, &readable);
        int highest = master_;
        for (const Connection& one : connections_) {
            FD_SET(one.fd, &readable);
            if (one.sent < log_.size()) FD_SET(one.fd, &writable);
            highest = std::max(highest, one.fd);
        }
        return highest;
    }

    void accept_one() {
        const int fd = accept4(master_, nullptr, nullptr, SOCK_NONBLOCK);
        if (fd < 0) return;
        if (fd >= FD_SETSIZE) fail("too many connections");
        const int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connections_.push_back({fd});
    }

    void receive(Connection& from) {
        char* const free = from.in.get() + from.in_bytes;
        const ssize_t received = recv(from.fd, free, kInBytes - from.in_bytes, 0);
        if (received < 0) return;
        if (received == 0) std::exit(0);  // the first one leaves: all has been measured
        if (!from.upgraded) {
            send(from.fd, kResponse.data(), kResponse.size(), MSG_NOSIGNAL);
            from.upgraded = true;
            return;
        }
        from.in_bytes += static_cast<std::size_t>(received);
        std::string_view rest(from.in.get(), from.in_bytes);
        while (take_frame(rest)) {}
        std::memmove(from.in.get(), rest.data(), rest.size());
        from.in_bytes = rest.size();
    }

    // Moves the first frame to the log, unmasked. Returns false when it is not whole yet.
    // RFC 6455 5.2: two bytes, a longer length in 0, 2 or 8 more, the key in 4, the payload.
    bool take_frame(std::string_view& bytes) {
        if (bytes.size() < 2) return false;
        std::size_t length = bytes[1] & 0x7F;
        std::size_t length_bytes = 0;
        if (length == 126) length_bytes = 2;
        if (length == 127) length_bytes = 8;
        const std::size_t header = 2 + length_bytes;
        MaskingKey key{};
        if (bytes.size() < header + key.size()) return false;
        if (length_bytes > 0) length = number_in(bytes.substr(2, length_bytes));
        const std::size_t whole = header + key.size() + length;
        if (bytes.size() < whole) return false;

        const std::size_t start = log_.size();
        std::memcpy(key.data(), &bytes[header], key.size());
        log_ += bytes.substr(0, header);
        log_[start + 1] &= 0x7F;  // the highest bit would say that a key follows
        log_ += bytes.substr(header + key.size(), length);
        apply_mask(std::span(log_).subspan(start + header), key, 0);
        bytes.remove_prefix(whole);
        return true;
    }

    // The highest byte comes first.
    static std::size_t number_in(std::string_view bytes) {
        std::size_t number = 0;
        for (const char c : bytes) number = number * 256 + static_cast<unsigned char>(c);
        return number;
    }

    // When the socket is full, send() takes a part or nothing. The rest is tried again later.
    void flush(Connection& to) const {
        if (to.sent == log_.size()) return;
        const ssize_t sent = send(to.fd, &log_[to.sent], log_.size() - to.sent, MSG_NOSIGNAL);
        if (sent > 0) to.sent += static_cast<std::size_t>(sent);
    }

    // When everybody has been sent everything, the log begins again.
    void forget() {
        for (const Connection& one : connections_) {
            if (one.sent < log_.size()) return;
        }
        log_.clear();
        for (Connection& one : connections_) one.sent = 0;
    }

    const int master_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    std::vector<Connection> connections_{};
    std::string log_{};  // what was said and has not been sent to everybody yet
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
    Scenario{"1MiB", 4, 2, 4, 1 << 20},
    Scenario{"500", 500, 10, 16, 102},
    Scenario{"paced", 500, 1, 1, 102},
    Scenario{"chinese-100B", 50, 5, 16, 102, kChinese},
    Scenario{"chinese-4KiB", 100, 5, 16, 4095, kChinese},
    Scenario{"1000", 1000, 5, 16, 102},
};

// All peers of one server. They joined before the first message, so all must get the same bytes.
class Load {
public:
    Load(int port, const Scenario& scenario) : scenario_(scenario) {
        while (message_.size() < scenario.bytes) message_ += scenario.letters;
        message_.resize(scenario.bytes);
        for (std::size_t i = 0; i < scenario.peers; ++i) {
            clients_.push_back({Peer(port)});
            clients_.back().peer.shake_hands();
        }
    }

    // Turns for so long, but at least one. Returns how many deliveries they were.
    double run(Clock::duration time) {
        const auto end = Clock::now() + time;
        std::size_t deliveries = 0;
        while (deliveries == 0 || Clock::now() < end) {
            turn();
            deliveries += scenario_.senders * scenario_.messages * scenario_.peers;
        }
        return static_cast<double>(deliveries);
    }

private:
    struct Client {
        Peer peer;
        std::string out{};         // its messages of this turn
        std::string_view rest{};   // what of them has not been sent yet
        std::size_t received = 0;  // bytes in this turn
    };

    void turn() {
        stream_.clear();
        due_.clear();
        for (Client& client : clients_) client.received = 0;
        // Senders are spread over the peers, so that the server meets them anywhere in its round.
        for (std::size_t i = 0; i < scenario_.senders; ++i) {
            speak(clients_[i * scenario_.peers / scenario_.senders]);
        }
        const std::size_t due = due_.size() * due_.front().size();
        std::size_t left = due * clients_.size();
        std::vector<pollfd> waits(clients_.size());
        while (left > 0) {
            for (std::size_t i = 0; i < clients_.size(); ++i) {
                const int events = clients_[i].rest.empty() ? POLLIN : POLLIN | POLLOUT;
                waits[i] = {clients_[i].peer.fd(), static_cast<short>(events), 0};
            }
            if (poll(waits.data(), waits.size(), 20'000) <= 0) fail("a delivery is missing");
            for (std::size_t i = 0; i < clients_.size(); ++i) {
                Client& client = clients_[i];
                if ((waits[i].revents & POLLOUT) != 0) client.peer.send_some(client.rest);
                if ((waits[i].revents & POLLIN) != 0) left -= receive(client);
                if (client.received > due) fail("more came than was said");
            }
        }
        check();
    }

    // Each message begins with a number of its own: twelve bytes, like four Chinese letters.
    void speak(Client& client) {
        std::string& due = due_.emplace_back();
        client.out.clear();
        for (std::size_t i = 0; i < scenario_.messages; ++i) {
            ++number_;
            message_.replace(0, 12, std::to_string(number_));
            client.out += masked(Opcode::text, message_);
            due += encode(Opcode::text, message_);
        }
        client.rest = client.out;
        client.peer.send_some(client.rest);
    }

    // Who is first to get some bytes has them compared by check(). The others must get the same.
    std::size_t receive(Client& client) {
        const std::string bytes = client.peer.receive_some();
        const std::size_t known = std::min(bytes.size(), stream_.size() - client.received);
        if (stream_.compare(client.received, known, bytes, 0, known) != 0) fail("two peers differ");
        stream_.append(bytes, known);
        client.received += bytes.size();
        return bytes.size();
    }

    // The messages of different senders come in any order, but each sender's in its own.
    void check() const {
        const std::size_t frame = due_.front().size() / scenario_.messages;
        const auto first_frame = [&](std::string_view frames) { return frames.substr(0, frame); };
        std::vector<std::string_view> due(due_.begin(), due_.end());
        std::string_view rest = stream_;
        while (!rest.empty()) {
            const auto sender = std::ranges::find(due, rest.substr(0, frame), first_frame);
            if (sender == due.end()) fail("a message is damaged or out of turn");
            sender->remove_prefix(frame);
            rest.remove_prefix(frame);
        }
    }

    const Scenario scenario_;
    std::vector<Client> clients_{};
    std::string message_{};           // the last one
    std::size_t number_ = 100'000'000'000;
    std::vector<std::string> due_{};  // of each sender its frames of this turn, as they must come
    std::string stream_{};            // what everybody gets in this turn, as far as somebody got it
};

// --- what it costs -------------------------------------------------------------------------------

// A scenario must be over before the server sends its first Ping, to a peer silent for 30 s.
constexpr auto kSlice = 100ms;  // of load on one of the two, before it is the other's turn
constexpr int kPairs = 21;      // of slices, one for each of the two

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

// A slice of load: microseconds of CPU time that the process took for a delivery.
double cost(const Process& process, Load& load) {
    const double before = process.cpu_seconds();
    const double deliveries = load.run(kSlice);
    return (process.cpu_seconds() - before) * 1e6 / deliveries;
}

void measure(const Scenario& scenario) {
    const Server server({"--quiet"});
    const Process floor({"/proc/self/exe", "--floor"});
    Load server_load(server.port(), scenario);
    Load floor_load(listening_port(floor), scenario);
    cost(server, server_load);  // does not count, for buffers grow
    cost(floor, floor_load);
    std::vector<double> server_costs;
    std::vector<double> floor_costs;
    std::vector<double> ratios;
    for (int i = 0; i < kPairs; ++i) {
        server_costs.push_back(cost(server, server_load));
        floor_costs.push_back(cost(floor, floor_load));
        ratios.push_back(server_costs.back() / floor_costs.back());
    }
    const auto [least, most] = std::ranges::minmax(ratios);
    std::printf("| %-14s | %5zu | %7zu | %9.3f | %8.3f | %5.2f | %4.2f-%4.2f |\n", scenario.name,
                scenario.peers, scenario.senders, median(server_costs), median(floor_costs),
                median(ratios), least, most);
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char* argv[]) try {
    const std::string_view wanted = argc > 1 ? argv[1] : "";
    if (wanted == "--floor") Floor().run();
    raise_descriptor_limit();
    std::puts("| scenario       | peers | senders | server us | floor us | ratio | of pairs  |");
    std::puts("| :------------- | ----: | ------: | --------: | -------: | ----: | --------: |");
    for (const Scenario& scenario : kScenarios) {
        if (wanted.empty() || wanted == scenario.name) measure(scenario);
    }
    std::puts("\nEvery byte of every delivery was compared.");
} catch (const std::exception& error) {
    std::fprintf(stderr, "bench: %s\n", error.what());
    return 1;
}
