// make bench: what a delivery costs ./server, and what it costs a bare floor under the same load in the same run.
//
//   build/bench [NAME...]     only the scenarios whose names begin so, "micro" and "idle" among them
//
// The floor is the cheapest select() loop that does the same work on the wire: it answers every upgrade with the same
// canned 101, checks nothing, limits nothing, knows no chat. Both run as processes of their own, each with its peers
// connected, and take turns in short slices, so that a noisy neighbour hits both; what counts is the median over pairs
// of slices. This process is the load generator and the judge: it compares every byte that every peer gets, and any
// difference ends the run with exit status 1. A slow machine does not.
//
// "us" is CPU time of a server, user and system, for one message to one peer; "of pairs" the least and the greatest
// ratio; "KiB/peer" what its resident memory grew by; "sends" its calls of send(), writev() or the like per delivery.

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../sha1.h"
#include "../ws_frame.h"
#include "harness.h"

namespace {

constexpr auto kSlice = 100ms;   // of load on one server, before it is the other's turn
constexpr int kPairs = 21;       // of slices, one for each server
constexpr auto kWarmUp = 100ms;  // a first slice that does not count: TCP's buffers grow, memory is taken
constexpr double kDeep = 1.15, kPaced = 1.10;     // what we allow ourselves, as a multiple of the floor
constexpr std::size_t kReceiveBytes = 256 << 10;  // for one recv(), as in the server
constexpr std::size_t kIdlePeers = 1000;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// --- the floor -------------------------------------------------------------------------------------------------------

// Memory that is neither cleared nor given back.
struct Bytes {
    std::unique_ptr<char[]> data;
    std::size_t size = 0, room = 0;

    char* tail(std::size_t more) {  // where so many more bytes fit
        if (room - size < more) {
            room = 2 * room + more;
            auto grown = std::make_unique_for_overwrite<char[]>(room);
            if (size > 0) std::memcpy(grown.get(), data.get(), size);
            data = std::move(grown);
        }
        return data.get() + size;
    }

    void drop_front(std::size_t count) {
        size -= count;
        if (size > 0) std::memmove(data.get(), data.get() + count, size);
    }
};

struct Connection {
    int fd;
    bool upgraded = false;
    std::size_t sent = 0;  // of the log
    Bytes in{};            // the start of a frame whose end has not come
};

void unmask(char* to, const char* from, std::size_t size, const char* key) {
    std::uint64_t mask = 0;
    std::memcpy(&mask, key, 4);
    std::memcpy(reinterpret_cast<char*>(&mask) + 4, key, 4);
    std::size_t at = 0;
    for (; size - at >= 8; at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, from + at, 8);
        word ^= mask;
        std::memcpy(to + at, &word, 8);
    }
    for (; at < size; ++at) to[at] = static_cast<char>(from[at] ^ key[at % 4]);
}

// Appends every whole frame to the log, unmasked; how many bytes they took.
std::size_t take_frames(const char* data, std::size_t size, Bytes& log) {
    std::size_t at = 0;
    while (size - at >= 2) {
        const char* frame = data + at;
        const unsigned seven_bits = frame[1] & 0x7F;
        const std::size_t head = seven_bits == 126 ? 4 : seven_bits == 127 ? 10 : 2;
        if (size - at < head + 4) break;
        std::size_t length = head == 2 ? seven_bits : 0;
        for (std::size_t i = 2; i < head; ++i) length = length << 8 | static_cast<unsigned char>(frame[i]);
        if (size - at - head - 4 < length) break;
        char* to = log.tail(head + length);
        std::memcpy(to, frame, head);
        to[1] &= 0x7F;
        unmask(to + head, frame + head + 4, length, frame + head);
        log.size += head + length;
        at += head + 4 + length;
    }
    return at;
}

// False at the connection's end.
bool receive(Connection& from, Bytes& buffer, Bytes& log) {
    Bytes& in = from.in.size > 0 ? from.in : buffer;  // a frame that has begun goes on where it is
    const ssize_t size = recv(from.fd, in.tail(kReceiveBytes), kReceiveBytes, 0);
    if (size <= 0) return size < 0 && errno == EAGAIN;
    if (!from.upgraded) {
        from.upgraded = true;
        from.sent = log.size;
        return send(from.fd, kResponse.data(), kResponse.size(), MSG_NOSIGNAL) > 0;
    }
    in.size += static_cast<std::size_t>(size);
    in.drop_front(take_frames(in.data.get(), in.size, log));
    if (&in == &from.in || in.size == 0) return true;
    std::memcpy(from.in.tail(in.size), in.data.get(), in.size);
    from.in.size = std::exchange(in.size, 0);
    return true;
}

[[noreturn]] void run_floor() {
    const int master = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t address_size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    if (bind(master, any, address_size) != 0 || listen(master, SOMAXCONN) != 0) std::exit(1);
    getsockname(master, any, &address_size);
    std::printf("floor on 127.0.0.1:%d\n", ntohs(address.sin_port));
    std::fflush(stdout);

    std::vector<Connection> connections;
    Bytes buffer, log;  // the log: what all get, as far as it is not yet sent to all
    fd_set all, blocked;
    FD_ZERO(&all);
    FD_ZERO(&blocked);
    FD_SET(master, &all);
    int highest = master, blocked_count = 0;
    while (true) {
        fd_set readable = all, writable = blocked;
        select(highest + 1, &readable, blocked_count > 0 ? &writable : nullptr, nullptr, nullptr);
        for (std::size_t i = 0; i < connections.size(); ++i) {
            const int fd = connections[i].fd;
            if (!FD_ISSET(fd, &readable) || receive(connections[i], buffer, log)) continue;
            close(fd);
            FD_CLR(fd, &all);
            if (FD_ISSET(fd, &blocked)) FD_CLR(fd, &blocked), --blocked_count;
            connections.erase(connections.begin() + static_cast<std::ptrdiff_t>(i--));
        }
        std::size_t sent_to_all = log.size;
        for (Connection& to : connections) {
            const bool was_blocked = FD_ISSET(to.fd, &blocked);
            if (to.upgraded && to.sent < log.size && (!was_blocked || FD_ISSET(to.fd, &writable))) {
                const ssize_t sent = send(to.fd, log.data.get() + to.sent, log.size - to.sent, MSG_NOSIGNAL);
                to.sent += sent > 0 ? static_cast<std::size_t>(sent) : 0;
                const bool is_blocked = to.sent < log.size;
                if (is_blocked && !was_blocked) FD_SET(to.fd, &blocked), ++blocked_count;
                if (!is_blocked && was_blocked) FD_CLR(to.fd, &blocked), --blocked_count;
            }
            if (to.upgraded) sent_to_all = std::min(sent_to_all, to.sent);
        }
        // Nearly always the log is empty now. If not, less is moved than has been sent.
        if (sent_to_all >= log.size - sent_to_all) {
            log.drop_front(sent_to_all);
            for (Connection& to : connections) to.sent -= std::min(to.sent, sent_to_all);
        }
        const int fd = FD_ISSET(master, &readable) ? accept4(master, nullptr, nullptr, SOCK_NONBLOCK) : -1;
        if (fd < 0 || fd >= FD_SETSIZE) continue;
        const int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        FD_SET(fd, &all);
        highest = std::max(highest, fd);
        connections.push_back({fd});
    }
}

// --- the load --------------------------------------------------------------------------------------------------------

constexpr std::string_view kEnglish = "The quick brown fox jumps over the lazy dog, 0123456789 times. ";
constexpr std::string_view kChinese = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏";

struct Scenario {
    const char* name;
    std::size_t peers, senders;
    std::size_t window;  // messages of one sender that are under way; its own coming back makes room for the next
    std::size_t bytes;   // of a message
    double bound = 0;    // of the ratio; nothing: only to be seen
    bool paced = false;  // one message at a time: the next one when everybody has the last
    std::string_view letters = kEnglish;
};

constexpr std::array kScenarios{
    Scenario{"100B", 50, 5, 16, 100, kDeep},
    Scenario{"4KiB", 100, 5, 16, 4096, kDeep},
    Scenario{"1MiB", 4, 2, 4, 1 << 20, kDeep},  // 8 MiB under way: far from the 64 at which the server drops a peer
    Scenario{"500", 500, 10, 16, 100, kDeep},
    Scenario{"paced", 500, 1, 1, 100, kPaced, true},
    Scenario{"chinese-100B", 50, 5, 16, 102, kDeep, false, kChinese},
    Scenario{"chinese-4KiB", 100, 5, 16, 4095, kDeep, false, kChinese},
    Scenario{"grow-10", 10, 5, 16, 100},
    Scenario{"grow-100", 100, 5, 16, 100},
    Scenario{"grow-1000", 1000, 5, 16, 100},
    Scenario{"grow-paced-10", 10, 1, 1, 100, 0, true},
    Scenario{"grow-paced-100", 100, 1, 1, 100, 0, true},
    Scenario{"grow-paced-1000", 1000, 1, 1, 100, 0, true},
};

constexpr MaskingKey kKey{0x37, 0xFA, 0x21, 0x3D};
constexpr std::size_t kStampBytes = 12;  // at the start of a message: its sender's number and its own, in decimal

// `size` bytes; in Chinese whole characters when it is a multiple of three.
std::string text_of(std::string_view letters, std::size_t size) {
    return repeat(letters, size / letters.size() + 1).substr(0, size);
}

std::array<char, kStampBytes> stamp(std::size_t sender, std::uint64_t number) {
    std::array<char, kStampBytes> digits;
    std::uint64_t rest = sender * 1'000'000'000 + number;
    for (std::size_t i = kStampBytes; i-- > 0; rest /= 10) digits[i] = static_cast<char>('0' + rest % 10);
    return digits;
}

// All peers of one server. They joined before the first message, so that they all must get the same bytes: whoever is
// first to get them has each frame compared with what was sent, the others have theirs compared with his.
class Load {
public:
    Load(int port, const Scenario& of) : scenario_(of), next_(of.senders) {
        const std::string payload = std::string(kStampBytes, '0') + text_of(of.letters, of.bytes - kStampBytes);
        frame_ = encode(Opcode::text, payload);
        masked_ = encode(Opcode::text, payload, true, kKey);
        epoll_ = epoll_create1(EPOLL_CLOEXEC);
        for (std::size_t i = 0; i < of.peers; ++i) {
            clients_.push_back({Peer(port)});
            clients_.back().peer.shake_hands();
            epoll_event event{};
            event.events = EPOLLIN | EPOLLOUT | EPOLLET;
            event.data.u64 = i;
            if (epoll_ctl(epoll_, EPOLL_CTL_ADD, clients_.back().peer.fd(), &event) != 0) fail("epoll_ctl");
        }
        // Senders are spread over the peers, so that the server meets them in the middle of its round too.
        for (std::size_t i = 0; i < of.senders; ++i) clients_[i * of.peers / of.senders].sender = static_cast<int>(i);
    }

    ~Load() { close(epoll_); }
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;

    // So long under load, and then until everybody has everything; how many messages reached somebody.
    std::uint64_t run(Clock::duration time) {
        const auto end = Clock::now() + time;
        stream_.clear();
        senders_.clear();
        stream_start_ = checked_ = sent_ = received_ = 0;
        for (Client& client : clients_) client.received = client.frames = 0;
        bool over = false;
        while (!over || !all_received()) {
            for (Client& client : clients_) if (client.sender >= 0) send(client, !over);
            std::array<epoll_event, 256> events;
            const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 20'000);
            if (count <= 0) fail("a delivery is missing");
            for (int i = 0; i < count; ++i) {
                const epoll_event& event = events[static_cast<std::size_t>(i)];
                if (event.events != EPOLLOUT) receive(clients_[event.data.u64]);
            }
            if (stream_.size() > kKept) forget();
            over = over || Clock::now() >= end;
        }
        return sent_ * clients_.size();
    }

private:
    static constexpr std::size_t kKept = 32 << 20;  // of the stream, at least

    struct Client {
        Peer peer;
        int sender = -1;             // its number as a sender
        std::uint64_t received = 0;  // bytes in this slice
        std::size_t frames = 0;      // of a sender: frames in this slice that it has been through
        std::uint64_t sent = 0;      // messages ...
        std::uint64_t back = 0;      // ... and those of them that came back
        std::string out{};           // bytes that the kernel has not taken ...
        std::size_t out_at = 0;      // ... from here on
    };

    bool all_received() const { return received_ == sent_ * frame_.size() * clients_.size(); }

    void send(Client& client, bool more) {
        while (more && client.sent - client.back < scenario_.window && (!scenario_.paced || all_received())) {
            auto digits = stamp(static_cast<std::size_t>(client.sender), client.sent++);
            for (std::size_t i = 0; i < kStampBytes; ++i) digits[i] = static_cast<char>(digits[i] ^ kKey[i % 4]);
            std::memcpy(masked_.data() + frame_.size() + 4 - scenario_.bytes, digits.data(), kStampBytes);
            client.out += masked_;
            ++sent_;
        }
        if (client.out.empty()) return;
        const std::string_view rest = std::string_view(client.out).substr(client.out_at);
        const ssize_t size = ::send(client.peer.fd(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (size < 0 && errno != EAGAIN) fail("a peer was dropped");
        client.out_at += size > 0 ? static_cast<std::size_t>(size) : 0;
        if (client.out_at == client.out.size()) client.out.clear(), client.out_at = 0;
    }

    void receive(Client& client) {
        ssize_t size = 0;
        do {
            size = recv(client.peer.fd(), buffer_.data(), buffer_.size(), 0);
            if (size == 0 || (size < 0 && errno != EAGAIN)) fail("a peer was dropped");
            if (size > 0) take(client, static_cast<std::size_t>(size));
        } while (size == static_cast<ssize_t>(buffer_.size()));
    }

    void take(Client& client, std::size_t size) {
        const std::size_t at = client.received - stream_start_, known = std::min(size, stream_.size() - at);
        if (std::memcmp(stream_.data() + at, buffer_.data(), known) != 0) fail("two peers got different bytes");
        stream_.append(buffer_.data() + known, size - known);
        check();
        client.received += size;
        received_ += size;
        while (client.sender >= 0 && (client.frames + 1) * frame_.size() <= client.received) {
            if (senders_[client.frames++] == client.sender) ++client.back;
        }
    }

    // What nobody had before: whole frames, of a sender that there is, each with the number that is next.
    void check() {
        const std::size_t head = frame_.size() - scenario_.bytes;
        for (; stream_start_ + stream_.size() - checked_ >= frame_.size(); checked_ += frame_.size()) {
            const char* frame = stream_.data() + (checked_ - stream_start_);
            const auto digit = [&](std::size_t i) { return static_cast<std::size_t>(frame[head + i] - '0'); };
            const std::size_t sender = 100 * digit(0) + 10 * digit(1) + digit(2);
            if (sender >= next_.size()) fail("a message of nobody");
            const auto digits = stamp(sender, next_[sender]++);
            std::memcpy(frame_.data() + head, digits.data(), kStampBytes);
            if (std::memcmp(frame_.data(), frame, frame_.size()) != 0) fail("a message is out of turn or damaged");
            senders_.push_back(static_cast<int>(sender));
        }
    }

    void forget() {
        std::uint64_t oldest = checked_;
        for (const Client& client : clients_) oldest = std::min(oldest, client.received);
        stream_.erase(0, oldest - stream_start_);
        stream_start_ = oldest;
    }

    const Scenario scenario_;
    int epoll_ = -1;
    std::vector<Client> clients_;
    std::string frame_, masked_;        // one message, as it must come and as it is sent
    std::vector<std::uint64_t> next_;   // the number that each sender's next message must bear
    std::string stream_;                // what all get in this slice, as far as somebody got it ...
    std::uint64_t stream_start_ = 0;    // ... from this byte on
    std::uint64_t checked_ = 0;         // bytes of it compared with what was sent
    std::vector<int> senders_;          // of the frames in this slice
    std::uint64_t sent_ = 0;            // messages in this slice
    std::uint64_t received_ = 0;        // bytes in this slice, by all
    std::vector<char> buffer_ = std::vector<char>(kReceiveBytes);
};

// --- what it costs ---------------------------------------------------------------------------------------------------

double cpu_seconds(pid_t pid) {  // user and system
    clockid_t clock{};
    timespec time{};
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) fail("no CPU clock of the server");
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// Calls that send, by a process that is traced, and so much slower, until another one ends.
double count_sends(pid_t pid, pid_t until) {
    constexpr std::array<std::uint64_t, 4> senders{SYS_write, SYS_writev, SYS_sendto, SYS_sendmsg};
    double calls = 0;
    int status = 0;
    for (pid_t who = 0; (who = waitpid(-1, &status, __WALL)) != until;) {
        if (who != pid || !WIFSTOPPED(status)) fail("a server has ended");
        __ptrace_syscall_info call{};
        ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof call, &call);
        if (call.op == PTRACE_SYSCALL_INFO_ENTRY && std::ranges::count(senders, call.entry.nr) > 0) ++calls;
        ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    }
    if (status != 0) fail("the load's process failed");
    return calls;
}

double median(std::vector<double> values) {
    std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
    return values[values.size() / 2];
}

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

std::unique_ptr<Server> start_server() { return std::make_unique<Server>(std::vector<std::string>{"--quiet"}); }

// This program itself, in the server's place.
std::unique_ptr<Server> start_floor() {
    const std::string real = server_path();
    setenv("SERVER", "/proc/self/exe", 1);
    auto floor = std::make_unique<Server>(std::vector<std::string>{"--floor"});
    setenv("SERVER", real.c_str(), 1);
    return floor;
}

// One of the two, its load, and a value for each slice.
struct Contender {
    std::unique_ptr<Server> server;
    long memory_before = server->resident_bytes();
    std::unique_ptr<Load> load{};
    std::vector<double> cpu{};    // microseconds a delivery
    std::vector<double> rate{};   // deliveries a second
    std::uint64_t deliveries = 0;

    void join(const Scenario& scenario) {
        load = std::make_unique<Load>(server->port(), scenario);
        deliveries += load->run(kWarmUp);
    }

    void run_slice() {
        const double cpu_before = cpu_seconds(server->pid());
        const auto start = Clock::now();
        const auto count = static_cast<double>(load->run(kSlice));
        rate.push_back(count / seconds(Clock::now() - start));
        cpu.push_back((cpu_seconds(server->pid()) - cpu_before) * 1e6 / count);
        deliveries += static_cast<std::uint64_t>(count);
    }

    // The last slice, by a process of its own, while this one counts calls. -1 where tracing is not allowed.
    double sends_per_delivery() {
        const pid_t pid = server->pid();
        std::array<int, 2> ends{};
        if (ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_TRACESYSGOOD) != 0) return -1;
        if (ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) != 0 || pipe(ends.data()) != 0) fail("ptrace");
        const pid_t child = fork();
        if (child == 0) run_last_slice(ends[1]);
        const double calls = count_sends(pid, child);
        std::uint64_t count = 0;
        if (read(ends[0], &count, sizeof count) != sizeof count) fail("the load's process says nothing");
        for (const int end : ends) close(end);
        ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr);
        waitpid(pid, nullptr, __WALL);
        ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
        deliveries += count;
        return calls / static_cast<double>(count);
    }

    [[noreturn]] void run_last_slice(int answer) try {
        const std::uint64_t count = load->run(2 * kSlice);
        _exit(write(answer, &count, sizeof count) == sizeof count ? 0 : 1);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench: %s\n", error.what());
        _exit(1);
    }

    double memory_per_peer(std::size_t peers) const {
        return static_cast<double>(server->resident_bytes() - memory_before) / 1024 / static_cast<double>(peers);
    }
};

std::string number(double value, const char* format) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), format, value);
    return value < 0 ? "-" : text.data();
}

void print_row(const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) std::printf(i == 0 ? "| %-16s |" : " %9s |", cells[i].c_str());
    std::printf("\n");
    std::fflush(stdout);
}

void print_head(const std::vector<std::string>& cells) {
    std::printf("\n");
    print_row(cells);
    std::printf("| :--------------- |");
    for (std::size_t i = 1; i < cells.size(); ++i) std::printf(" --------: |");
    std::printf("\n");
}

std::uint64_t measure(const Scenario& scenario) {
    Contender server{start_server()}, floor{start_floor()};
    server.join(scenario);
    floor.join(scenario);
    std::vector<double> ratios;
    for (int i = 0; i < kPairs; ++i) {
        (i % 2 == 0 ? server : floor).run_slice();
        (i % 2 == 0 ? floor : server).run_slice();
        ratios.push_back(server.cpu.back() / floor.cpu.back());
    }
    const double ratio = median(ratios), bound = scenario.bound;
    const auto [least, most] = std::ranges::minmax(ratios);
    const char* figures = median(server.cpu) < 10 ? "%.3f" : "%.1f";
    print_row({scenario.name, std::to_string(scenario.peers), std::to_string(scenario.senders),
               number(median(server.cpu), figures), number(median(floor.cpu), figures), number(ratio, "%.2f"),
               number(least, "%.2f") + number(most, "-%.2f"),
               bound == 0 ? "" : number(bound, ratio <= bound ? "%.2f ok" : "%.2f over"),
               number(median(server.rate), "%.0f"), number(median(floor.rate), "%.0f"),
               number(server.memory_per_peer(scenario.peers), "%.1f"),
               number(server.sends_per_delivery(), "%.4f"), number(floor.sends_per_delivery(), "%.4f")});
    return server.deliveries + floor.deliveries;
}

void measure_idle() {
    print_head({"1000 idle peers", "KiB/peer", "CPU/1 s"});
    for (const bool real : {true, false}) {
        const auto server = real ? start_server() : start_floor();
        const long before = server->resident_bytes();
        const std::vector<Peer> peers = join(*server, kIdlePeers);
        const double memory = static_cast<double>(server->resident_bytes() - before) / 1024 / kIdlePeers;
        usleep(200'000);  // until the last newcomer's round is over
        const double before_idling = cpu_seconds(server->pid());
        usleep(1'000'000);
        const double cpu = cpu_seconds(server->pid()) - before_idling;
        print_row({real ? "server" : "floor", number(memory, "%.2f"), number(cpu * 1e6, "%.0f us")});
    }
}

// --- the rooms one by one --------------------------------------------------------------------------------------------

volatile std::size_t sink;  // so that nothing is done in vain in a compiler's eyes

// GB of payload a second, the best of a few tries: nothing but noise makes it slower.
double speed(std::size_t bytes, const std::function<void()>& work) {
    double best = 0;
    for (int i = 0; i < 5; ++i) {
        const auto start = Clock::now();
        std::size_t rounds = 0;
        while (Clock::now() - start < 20ms) work(), ++rounds;
        best = std::max(best, static_cast<double>(bytes * rounds) / seconds(Clock::now() - start) / 1e9);
    }
    return best;
}

// As the server calls it: with what one recv() may return.
double decoder_speed(Opcode opcode, const std::string& payload) {
    const std::size_t frames = std::max<std::size_t>(1, kReceiveBytes / payload.size());
    const std::string input = repeat(masked(opcode, payload), frames);
    Decoder decoder;
    return speed(frames * payload.size(), [&] {
        for (std::size_t at = 0; at < input.size(); at += kReceiveBytes) {
            std::string_view piece = std::string_view(input).substr(at, kReceiveBytes);
            while (decoder.feed(piece) == Decoder::Event::message) sink = std::string(decoder.payload()).size();
            if (decoder.code() != 0) fail("the decoder refuses a good frame");
        }
    });
}

void measure_rooms() {
    print_head({"GB/s", "100 B", "4 KiB", "1 MiB"});
    const auto row = [](const char* name, const auto& speed_of) {
        std::vector<std::string> cells{name};
        for (const std::size_t size : {99u, 4095u, (1u << 20) - 1}) cells.push_back(number(speed_of(size), "%.2f"));
        print_row(cells);
    };
    // Small ones in a batch: looking at the clock takes as long as copying a hundred bytes.
    const auto batched = [](std::size_t size, const auto& work) {
        const std::size_t batch = std::max<std::size_t>(1, kReceiveBytes / size);
        return speed(batch * size, [&] { for (std::size_t i = 0; i < batch; ++i) work(); });
    };
    const auto ascii = [](std::size_t size) { return text_of(kEnglish, size); };
    const auto chinese = [](std::size_t size) { return text_of(kChinese, size); };

    row("memcpy", [&](std::size_t size) {
        const std::string from = ascii(size);
        std::string to(size, ' ');
        return batched(size, [&] {
            std::memcpy(to.data(), from.data(), size);
            sink = static_cast<std::size_t>(to[0]);
        });
    });
    row("decoder, ASCII", [&](std::size_t size) { return decoder_speed(Opcode::text, ascii(size)); });
    row("decoder, Chinese", [&](std::size_t size) { return decoder_speed(Opcode::text, chinese(size)); });
    row("decoder, binary", [&](std::size_t size) { return decoder_speed(Opcode::binary, ascii(size)); });
    row("encoder", [&](std::size_t size) {
        const std::string payload = ascii(size);
        std::string out;
        return batched(size, [&] {
            if (out.size() > kReceiveBytes) out.clear();
            out.append(make_header(Opcode::text, size).bytes).append(payload);
            sink = out.size();
        });
    });
    row("apply_mask", [&](std::size_t size) {
        std::string bytes = ascii(size);
        return batched(size, [&] {
            apply_mask(bytes, kKey, 0);
            sink = static_cast<std::size_t>(bytes[0]);
        });
    });
    for (const bool is_ascii : {true, false}) {
        row(is_ascii ? "Utf8, ASCII" : "Utf8, Chinese", [&](std::size_t size) {
            const std::string bytes = is_ascii ? ascii(size) : chinese(size);
            return batched(size, [&] { sink = Utf8().feed(bytes); });
        });
    }
    row("SHA-1", [&](std::size_t size) {
        const std::string bytes = ascii(size);
        return batched(size, [&] { sink = static_cast<std::size_t>(sha1(bytes)[0]); });
    });
}

}  // namespace

int main(int argc, char* argv[]) try {
    const std::vector<std::string_view> wanted(argv + 1, argv + argc);
    if (!wanted.empty() && wanted[0] == "--floor") run_floor();
    raise_descriptor_limit();
    const auto chosen = [&](std::string_view name) {
        const auto begins = [&](std::string_view word) { return name.starts_with(word); };
        return wanted.empty() || std::ranges::any_of(wanted, begins);
    };

    std::uint64_t deliveries = 0;
    print_head({"scenario", "peers", "senders", "server us", "floor us", "ratio", "of pairs", "bound", "server /s",
                "floor /s", "KiB/peer", "sends", "floor"});
    for (const Scenario& scenario : kScenarios) if (chosen(scenario.name)) deliveries += measure(scenario);
    if (chosen("idle")) measure_idle();
    if (chosen("micro")) measure_rooms();
    std::printf("\n%llu deliveries verified\n", static_cast<unsigned long long>(deliveries));
} catch (const std::exception& error) {
    std::fprintf(stderr, "bench: %s\n", error.what());
    return 1;
}
