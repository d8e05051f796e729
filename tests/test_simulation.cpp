// A simulation: random clients against a model. The seed decides all that they do; it is printed when something is
// wrong, and SEED=... in the environment plays it again. SECONDS=... is how long one seed runs.
//
// Some 25 clients join, chat, ping, read slowly or not at all, and leave in every way that there is. The model knows
// what each may see: one piece of one order of messages, the same for all, to the byte.
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "harness.h"

using namespace std::string_literals;

namespace {

constexpr std::size_t kMiB = 1 << 20;
constexpr std::size_t kClients = 25;
// The server has 40 MiB for messages that it has received in part, and takes up to twice the bytes that came. When
// there is more, the largest goes with a Close 1009. That is another test's: here it must not happen.
constexpr std::size_t kLongBytes = 70'000;
constexpr std::size_t kLongVolume = 6 * kMiB;  // of long messages on their way from all: no other long one begins

constexpr std::size_t kVolume = 6 * kMiB;  // of messages on their way from one client: it says no more meanwhile

using Random = std::mt19937;

// What was said, by its number.
struct Message {
    std::size_t speaker;     // number of its connection
    Opcode opcode;
    std::size_t size;
    std::size_t begun;       // the tick in which its first byte was handed to the kernel; 0: not yet
};

// A payload is the message's number in 8 digits, then a text that goes on and on, from some place of it.
constexpr std::size_t kTagBytes = 8;

// Instead of a number, for what was heard and has no room for one. Those look all alike.
constexpr std::size_t kAlike = std::string::npos;

const std::string& endless() {
    static const std::string text = [] {
        std::string all;
        Random random(6455);
        while (all.size() < 5 * kMiB) {
            const bool wide = random() % 4 == 0;
            all += wide ? "李靖" : std::string(1 + random() % 20, static_cast<char>('a' + random() % 26));
        }
        return all;
    }();
    return text;
}

// Ends with a whole character, as a text must.
std::size_t fitting(std::size_t size) {
    const std::string& text = endless();
    while (size < text.size() && (text[size] & 0xC0) == 0x80) --size;
    return size;
}

std::string payload_of(std::size_t number, std::size_t size) {
    if (size < kTagBytes) return std::string(size, '-');
    std::string tag = std::to_string(number);
    tag.insert(0, kTagBytes - tag.size(), '0');
    return tag + endless().substr(0, size - kTagBytes);
}

bool is_payload_of(std::string_view payload, std::size_t size) {
    if (size < kTagBytes) return payload == std::string(size, '-');
    const std::string_view rest = std::string_view(endless()).substr(0, size - kTagBytes);
    return payload.size() == size && payload.substr(kTagBytes) == rest;
}

// How a connection is ended by its client.
enum class End { none, close, half_close, reset, vanish, violation };

// One connection of a client; the next one of the same client is another.
struct Connection {
    int fd = -1;
    std::size_t number = 0;
    bool connected = false;      // the 101 has come
    std::size_t joined = 0;      // in which tick
    std::string out;             // to be sent
    std::size_t out_at = 0;      // of this the kernel has so much
    std::deque<std::pair<std::size_t, std::size_t>> begins;  // a message's number, and where in `out` it begins
    std::string in;              // the response, as far as it has come
    Decoder decoder{Decoder::Role::client};
    std::vector<std::size_t> heard;         // numbers of messages
    std::vector<std::size_t> said;          // numbers of its own
    std::size_t echoes = 0;                 // of these have come back
    std::deque<std::string> pings;          // payloads of those that are not answered
    std::size_t pings_sent = 0;
    std::size_t cut = 0;         // bytes given to send() at once; 0: all
    std::size_t pace = 0;        // bytes taken from recv() in a tick; 0: none
    std::size_t mute_until = 0;  // a tick
    End end = End::none;         // begun by us
    std::uint16_t code = 0;      // of the Close that we sent, or that must come
    bool shut = false;           // our TCP FIN or RST is on its way, or will be when `out` is sent
    bool closed = false;         // a Close has come
    bool over = false;           // TCP FIN or RST has come
};

// SEED, SECONDS in the environment.
unsigned long setting(const char* name, unsigned long otherwise) {
    const char* value = std::getenv(name);
    const bool given = value != nullptr && *value != '\0';
    return given ? std::strtoul(value, nullptr, 10) : otherwise;
}

class Simulation {
public:
    // lenient: system calls fail, so that a client may be dropped; but what it gets is right all the same.
    Simulation(Server& server, unsigned long seed, bool lenient)
        : server_(server), random_(static_cast<Random::result_type>(seed)), lenient_(lenient), now_(kClients) {}

    ~Simulation() {
        for (auto& one : all_) {
            if (one->fd >= 0) ::close(one->fd);
        }
    }

    void run(std::chrono::milliseconds time) {
        connect(0);
        settle("the chronicler is not let in", [](const Connection& one) { return one.connected; });
        const auto end = Clock::now() + time;
        while (Clock::now() < end) tick(true);
        finish();
        check();
    }

private:
    [[noreturn]] void fail(const Connection* at, const std::string& what) const {
        if (at == nullptr) throw std::runtime_error(what);
        constexpr std::array<const char*, 6> ends{"open", "closes", "half-closes", "resets", "vanishes", "violates"};
        throw std::runtime_error("connection " + std::to_string(at->number) + " (" +
                                 ends[static_cast<std::size_t>(at->end)] + ", tick " + std::to_string(tick_) +
                                 ", unsent " + std::to_string(at->out.size() - at->out_at) + ", heard " +
                                 std::to_string(at->heard.size()) + ", pace " + std::to_string(at->pace) +
                                 (at->closed ? ", Close came" : "") + "): " + what + server_says(*at));
    }

    // What the server says of its end of this connection, as far as it says anything.
    std::string server_says(const Connection& at) const {
        if (server_.ended()) return "; the server has ended: " + server_.err();
        const std::string& out = server_.out();
        sockaddr_in address{};
        socklen_t size = sizeof address;
        getsockname(at.fd, reinterpret_cast<sockaddr*>(&address), &size);
        const std::string from = " from 127.0.0.1:" + std::to_string(ntohs(address.sin_port)) + "\n";
        const std::size_t connect = out.rfind(from);
        const std::size_t line = connect == std::string::npos ? connect : out.rfind("connect client ", connect);
        if (line == std::string::npos) return "";
        const std::string name = out.substr(line + 8, connect - line - 8);  // "client 7"
        const std::size_t end = out.find("disconnect " + name + ":", connect);
        return end == std::string::npos ? "; " + name : "; " + out.substr(end, out.find('\n', end) - end);
    }

    std::size_t below(std::size_t bound) { return random_() % bound; }
    bool chance(std::size_t one_in) { return below(one_in) == 0; }

    // --- what clients do ---------------------------------------------------------------------------------------------

    void tick(bool lively) {
        ++tick_;
        for (std::size_t i = 0; i < now_.size() && lively; ++i) {
            if (now_[i] == nullptr && chance(8)) connect(i);
            else if (now_[i] != nullptr && now_[i]->connected && chance(6)) act(*now_[i], i == 0);
        }
        std::vector<pollfd> ends;
        std::vector<Connection*> whose;
        for (auto& one : all_) {
            if (one->fd < 0) continue;
            short events = 0;
            if (one->out_at < one->out.size()) events |= POLLOUT;
            if (one->mute_until < tick_) events |= POLLIN;
            ends.push_back({one->fd, events, 0});
            whose.push_back(one.get());
        }
        poll(ends.data(), static_cast<nfds_t>(ends.size()), 2);
        for (std::size_t i = 0; i < ends.size(); ++i) {
            if (whose[i]->fd >= 0 && (ends[i].revents & (POLLOUT | POLLERR)) != 0) flush(*whose[i]);
            if (whose[i]->fd >= 0 && (ends[i].events & POLLIN) != 0 && ends[i].revents != 0) receive(*whose[i]);
        }
        server_.out();
        if (server_.ended()) fail(nullptr, "the server has ended: " + server_.err());
    }

    void connect(std::size_t client) {
        auto one = std::make_unique<Connection>();
        one->number = all_.size();
        one->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int tiny = 2048;
        const bool small = client != 0 && chance(5);
        if (small) setsockopt(one->fd, SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(server_.port()));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(one->fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fail(one.get(), "connect()");
        one->out = kRequest;
        one->cut = chance(3) ? 1 + below(50) : 0;
        one->pace = client != 0 && chance(4) ? 2000 + below(100'000) : 256 * 1024;
        now_[client] = one.get();
        all_.push_back(std::move(one));
    }

    void act(Connection& me, bool chronicler) {
        if (me.end != End::none) return;  // it only reads now
        const std::size_t what = below(100);
        if (what < 55) say(me);
        else if (what < 70) ping(me);
        else if (what < 75) me.out += masked(Opcode::pong, "nobody asked");
        else if (chronicler) return;
        else if (what < 83) me.mute_until = tick_ + below(200);
        else if (what < 88) me.pace = chance(2) ? 2000 + below(100'000) : 256 * 1024;
        else if (chance(3)) leave(me);
    }

    std::size_t some_size() {
        const std::size_t kind = below(100);
        if (kind < 10) return 0;
        if (kind < 50) return below(126);
        if (kind < 80) return below(5000);
        if (kind < 97 || long_under_way() > kLongVolume) return below(kLongBytes);
        return below(4 * kMiB);
    }

    // Bytes of long messages that have not come back to who says them.
    std::size_t long_under_way() const {
        std::size_t bytes = 0;
        for (const Connection* one : now_) {
            if (one == nullptr) continue;
            for (std::size_t i = one->echoes; i < one->said.size(); ++i) {
                const std::size_t size = messages_[one->said[i]].size;
                if (size >= kLongBytes) bytes += size;
            }
        }
        return bytes;
    }

    void say(Connection& me) {
        if (me.out.size() - me.out_at > kVolume) return;
        const std::size_t drawn = some_size();
        const std::size_t size = drawn < kTagBytes ? drawn : kTagBytes + fitting(drawn - kTagBytes);
        say(me, chance(2) ? Opcode::text : Opcode::binary, size);
    }

    void say(Connection& me, Opcode type, std::size_t size) {
        const std::size_t number = messages_.size();
        messages_.push_back({me.number, type, size, 0});
        if (size >= kTagBytes) me.said.push_back(number);
        const std::string payload = payload_of(number, size);
        me.begins.emplace_back(number, me.out.size());
        const std::size_t fragments = chance(3) ? 2 + below(5) : 1;
        std::size_t at = 0;
        for (std::size_t i = 0; i < fragments; ++i) {
            const bool last = i + 1 == fragments;
            const std::size_t length = last ? size - at : below(size - at + 1);
            const Opcode opcode = i == 0 ? type : Opcode::continuation;
            me.out += masked(opcode, std::string_view(payload).substr(at, length), last);
            if (!last && chance(3)) ping(me);
            at += length;
        }
    }

    void ping(Connection& me) {
        std::string payload = std::to_string(me.pings_sent++);
        if (chance(4)) payload.resize(125, '.');
        me.pings.push_back(payload);
        me.out += masked(Opcode::ping, payload);
    }

    void leave(Connection& me) {
        constexpr std::array ends{End::close, End::half_close, End::reset, End::vanish, End::violation};
        me.end = ends[below(ends.size())];
        me.shut = true;
        read_on(me);
        if (me.end == End::close) {
            constexpr std::array<std::uint16_t, 5> codes{1000, 1001, 3000, 4999, kNoCode};
            me.code = codes[below(codes.size())];
            me.out += masked(Opcode::close, close_payload(me.code));
        } else if (me.end == End::violation) {
            const std::array<std::pair<std::string, std::uint16_t>, 5> broken{{{"\x81\x01", 1002},
                                                                              {"\xC1", 1002},
                                                                              {"\x80\x80", 1002},
                                                                              {masked(Opcode::text, "\xFF"), 1007},
                                                                              {"\x82\xFF\0\0\0\0\x01\0\0\x01"s, 1009}}};
            const auto& [bytes, code] = broken[below(broken.size())];
            me.out += bytes;
            me.code = code;
        }
        if (me.end == End::reset || me.end == End::vanish) end_now(me);
        else flush(me);
    }

    // From now on it takes all that comes. Who is closing has two seconds between two pieces that the server's kernel
    // takes, and with a tiny receive buffer TCP moves a few bytes in 0.2 s.
    void read_on(Connection& me) {
        me.mute_until = 0;
        me.pace = 256 * 1024;
        const int usual = 256 * 1024;
        if (me.fd >= 0) setsockopt(me.fd, SOL_SOCKET, SO_RCVBUF, &usual, sizeof usual);
    }

    // At once, whatever has not been sent or read.
    void end_now(Connection& me) {
        const linger at_once{1, 0};
        if (me.end == End::reset) setsockopt(me.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        forget(me);
    }

    void forget(Connection& me) {
        ::close(me.fd);
        me.fd = -1;
        std::ranges::replace(now_, &me, nullptr);
    }

    // --- what goes over the sockets ----------------------------------------------------------------------------------

    void flush(Connection& me) {
        while (me.out_at < me.out.size()) {
            const std::size_t most = me.cut == 0 ? std::string::npos : me.cut;
            const std::string_view piece = std::string_view(me.out).substr(me.out_at, most);
            const ssize_t sent = ::send(me.fd, piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
            if (sent < 0) return;  // what came in front of the RST is still read
            me.out_at += static_cast<std::size_t>(sent);
            while (!me.begins.empty() && me.begins.front().second < me.out_at) {
                messages_[me.begins.front().first].begun = tick_;
                me.begins.pop_front();
            }
            if (me.cut != 0 && chance(20)) break;
        }
        if (me.out_at < me.out.size()) return;
        me.out.clear();
        me.out_at = 0;
        if (me.connected && chance(3)) me.cut = chance(2) ? 1 + below(3000) : 0;
        if (me.end == End::half_close && me.shut) shutdown(me.fd, SHUT_WR);
        me.shut = false;
    }

    void receive(Connection& me) {
        std::size_t left = me.pace;
        std::array<char, 64 * 1024> buffer;
        while (left > 0 && me.fd >= 0) {
            const ssize_t size = recv(me.fd, buffer.data(), std::min(left, buffer.size()), MSG_DONTWAIT);
            if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
            if (size <= 0) return ended(me, size < 0);
            left -= static_cast<std::size_t>(size);
            std::string_view input(buffer.data(), static_cast<std::size_t>(size));
            if (!me.connected) take_response(me, input);
            if (me.connected) take_frames(me, input);
        }
    }

    void take_response(Connection& me, std::string_view& input) {
        const std::size_t size = std::min(kResponse.size() - me.in.size(), input.size());
        me.in += input.substr(0, size);
        input.remove_prefix(size);
        if (!kResponse.starts_with(me.in)) fail(&me, "not the response: " + escape(me.in));
        if (me.in.size() < kResponse.size()) return;
        me.connected = true;
        me.joined = tick_;
    }

    void take_frames(Connection& me, std::string_view input) {
        for (auto event = me.decoder.feed(input); event != Decoder::Event::need_more; event = me.decoder.feed(input)) {
            if (event == Decoder::Event::violation) fail(&me, "a broken frame: " + std::string(me.decoder.reason()));
            if (event == Decoder::Event::fragment) fail(&me, "a fragment");
            if (me.closed) fail(&me, "something behind the Close");
            const std::string_view payload = me.decoder.payload();
            const Opcode opcode = me.decoder.opcode();
            if (opcode == Opcode::close) take_close(me, close_code(payload));
            else if (opcode == Opcode::pong) take_pong(me, payload);
            else if (opcode == Opcode::ping) me.out += masked(Opcode::pong, payload);
            else take_message(me, opcode, payload);
        }
    }

    void take_close(Connection& me, std::uint16_t code) {
        me.closed = true;
        const bool expected = me.end == End::close || me.end == End::violation;
        if (!expected && !lenient_) fail(&me, "a Close that nobody asked for: " + std::to_string(code));
        if (expected && code != me.code && !lenient_) fail(&me, "another code: " + std::to_string(code));
        if (!lenient_) check_due(me);
    }

    void take_pong(Connection& me, std::string_view payload) {
        if (me.pings.empty() || me.pings.front() != payload) fail(&me, "a Pong that is not due: " + escape(payload));
        me.pings.pop_front();
    }

    void take_message(Connection& me, Opcode opcode, std::string_view payload) {
        if (payload.size() < kTagBytes) {
            me.heard.push_back(kAlike);
            if (!is_payload_of(payload, payload.size())) fail(&me, "nobody said " + escape(payload));
            return;
        }
        const std::size_t number = std::strtoul(std::string(payload.substr(0, kTagBytes)).c_str(), nullptr, 10);
        if (number >= messages_.size()) fail(&me, "nobody said " + escape(payload.substr(0, 100)));
        const Message& message = messages_[number];
        const bool same = message.opcode == opcode && is_payload_of(payload, message.size);
        if (!same || message.begun == 0) fail(&me, "message " + std::to_string(number) + " is not what was said");
        me.heard.push_back(number);
        if (message.speaker == me.number) ++me.echoes;
    }

    void ended(Connection& me, bool reset) {
        me.over = true;
        const bool expected = me.end != End::none;
        if (!expected && !lenient_) fail(&me, reset ? "a RST that nobody asked for" : "dropped");
        const bool answered = me.closed || (me.end != End::close && me.end != End::violation);
        if (!answered && !lenient_) fail(&me, "the end without a Close");
        if (expected && reset && !lenient_) fail(&me, "a RST instead of a TCP FIN");
        const Header& header = me.decoder.header();
        const bool half_way = !header.bytes.empty() && header.length != me.decoder.frame_payload().size();
        if (half_way && !lenient_) fail(&me, "the end inside a frame");
        if (!lenient_) check_due(me);
        forget(me);
    }

    // All that it said and asked in front of its end has come back to it: a Close is answered behind all of that, and
    // a TCP FIN alone does not mean that it has stopped reading.
    void check_due(const Connection& me) const {
        if (!me.pings.empty()) fail(&me, "a Ping without a Pong");
        const std::size_t missing = me.said.size() - me.echoes;
        if (missing > 0) fail(&me, std::to_string(missing) + " of its own messages did not come back");
    }

    // --- the end -----------------------------------------------------------------------------------------------------

    // Everybody reads and what is queued is sent; then all but the chronicler close, then it does.
    void finish() {
        for (auto& one : all_) {
            read_on(*one);
            one->cut = 0;
        }
        settle("a handshake is not answered", [](const Connection& one) { return one.connected; });
        settle("a connection does not end", [](const Connection& one) { return one.end == End::none; });
        settle("a message does not come back", [](const Connection& one) {
            return one.out.empty() && one.echoes == one.said.size();
        });
        say_last();
        for (auto& one : all_) {
            if (one->fd >= 0 && one->number != 0 && one->end == End::none) close(*one);
        }
        settle("a connection does not end", [this](const Connection& one) { return &one == now_[0]; });
        if (now_[0] != nullptr) close(*now_[0]);
        settle("the last connection does not end", [](const Connection&) { return false; });
    }

    // When all that was said has come back, the chronicler says one thing more, and everybody hears it: nobody has
    // been left behind.
    void say_last() {
        if (now_[0] == nullptr) return;
        Connection& chronicler = *now_[0];
        const std::size_t last = messages_.size();
        say(chronicler, Opcode::text, kTagBytes);
        settle("the last message does not come", [last](const Connection& one) {
            return std::ranges::find(one.heard, last) != one.heard.end();
        });
    }

    void close(Connection& me) {
        me.end = End::close;
        me.shut = true;
        me.code = 1000;
        me.out += masked(Opcode::close, close_payload(me.code));
    }

    // Until each connection is over, or `done`.
    template <class Done>
    void settle(const char* what, Done done) {
        auto deadline = Clock::now() + 3 * kPatience;
        for (;;) {
            const Connection* waits = nullptr;
            for (auto& one : all_) {
                if (one->fd >= 0 && !done(*one)) waits = one.get();
            }
            if (waits == nullptr) return;
            if (Clock::now() > deadline) fail(waits, what);
            tick(false);
        }
    }

    // All have heard one piece of one order.
    void check() const {
        std::map<std::size_t, std::size_t> next;
        std::map<std::size_t, std::size_t> previous;
        for (const auto& one : all_) {
            for (std::size_t i = 0; i + 1 < one->heard.size(); ++i) {
                const std::size_t a = one->heard[i];
                const std::size_t b = one->heard[i + 1];
                if (a == kAlike || b == kAlike) continue;
                if (next.emplace(a, b).first->second != b) fail(one.get(), "another order behind " + std::to_string(a));
                if (previous.emplace(b, a).first->second != a) fail(one.get(), "another order before " + std::to_string(b));
            }
        }
        if (lenient_) return;
        const std::vector<std::size_t>& order = all_[0]->heard;  // the chronicler was there from the start to the end
        check_own(order);
        for (const auto& one : all_) check_piece(*one, order);
    }

    // In the order, each speaker's messages stand as it said them; none is missing unless its end was rude.
    void check_own(const std::vector<std::size_t>& order) const {
        std::map<std::size_t, std::vector<std::size_t>> by_speaker;
        for (const std::size_t number : order) {
            if (number != kAlike) by_speaker[messages_[number].speaker].push_back(number);
        }
        for (const auto& one : all_) {
            std::vector<std::size_t> expected = one->said;
            const std::vector<std::size_t>& heard = by_speaker[one->number];
            const bool rude = one->end == End::reset || one->end == End::vanish;
            if (rude) expected.resize(std::min(expected.size(), heard.size()));
            if (heard != expected) fail(one.get(), "what it said is not what was heard, or not in its order");
        }
    }

    // Its messages are one piece of the order: from no later than the first begun after its 101, to the end of it when
    // it stayed so long.
    void check_piece(const Connection& me, const std::vector<std::size_t>& order) const {
        const auto first = std::ranges::find_if(me.heard, [](std::size_t number) { return number != kAlike; });
        if (first == me.heard.end()) return;
        const std::size_t before = static_cast<std::size_t>(first - me.heard.begin());
        const std::size_t found = static_cast<std::size_t>(std::ranges::find(order, *first) - order.begin());
        const bool fits = found >= before && found - before + me.heard.size() <= order.size();
        if (!fits) fail(&me, "it heard what the chronicler did not");
        const std::size_t start = found - before;
        if (!std::ranges::equal(me.heard, std::span(order).subspan(start, me.heard.size()))) {
            fail(&me, "it heard another order, or not all of it");
        }
        for (std::size_t i = 0; i < start; ++i) {
            const bool known = order[i] != kAlike;
            if (known && messages_[order[i]].begun > me.joined) fail(&me, "it missed a message begun after its 101");
        }
    }

    Server& server_;
    Random random_;
    bool lenient_;
    std::size_t tick_ = 1;
    std::vector<Message> messages_;
    std::vector<std::unique_ptr<Connection>> all_;
    std::vector<Connection*> now_;  // by client: its connection of now. The first client is the chronicler.
};

// The library that lets system calls fail; "" where there is none.
std::string faults_library() {
    const char* path = std::getenv("FAULTS");
    if (path == nullptr || server_is_sanitized()) return "";
    // Relative: LD_PRELOAD is cut at blanks, and the name of the folder that we are in may have one.
    return std::filesystem::exists(path) ? "./" + std::filesystem::relative(path).string() : "";
}

void simulate(unsigned long seed, const std::string& faults = "") {
    CAPTURE(seed);
    const bool traced = seed % 2 == 1;
    const std::vector<std::string> options(traced ? 1 : 0, "--trace");
    Server server(options, [&] {
        if (faults.empty()) return;
        setenv("LD_PRELOAD", faults.c_str(), 1);
        setenv("FAULTS_SEED", std::to_string(seed).c_str(), 1);
    });
    const int descriptors = server.descriptors();
    const long when_new = server.resident_bytes();
    {
        Simulation simulation(server, seed, !faults.empty());
        simulation.run(std::chrono::seconds(setting("SECONDS", 2)));
    }
    wait_until("all descriptors are closed", [&] { return server.descriptors() == descriptors; });
    const std::size_t kept = static_cast<std::size_t>(std::max(0L, server.resident_bytes() - when_new)) / kMiB;
    if (!server_is_sanitized()) CHECK(kept < 48 + 8);  // the log's pages, once touched, stay
    server.signal(SIGTERM);
    CHECK(server.wait() == 0);
    CHECK(server.err() == "");
}

}  // namespace

TEST_SUITE("simulation") {
    TEST_CASE("random clients against a model: one order for all, to the byte") {
        const unsigned long seed = setting("SEED", std::random_device{}());
        MESSAGE("SEED=", seed);
        simulate(seed);
        simulate(seed + 1);  // one with --trace, one without
    }

    TEST_CASE("the same while system calls fail") {
        const std::string faults = faults_library();
        if (faults.empty()) {
            MESSAGE("not tested: FAULTS names no library to preload, or the server is sanitized");
            return;
        }
        const unsigned long seed = setting("SEED", std::random_device{}());
        MESSAGE("SEED=", seed);
        simulate(seed, faults);
        simulate(seed + 1, faults);
    }
}
