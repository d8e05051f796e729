#include "harness.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <utility>

const std::string kRequest =
    "GET /chat HTTP/1.1\r\n"
    "Host: server.example.com\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Origin: http://example.com\r\n"
    "Sec-WebSocket-Protocol: chat, superchat\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "\r\n";

const std::string kResponse =
    "HTTP/1.1 101 Switching Protocols\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    "\r\n";

namespace {

constexpr auto kSlice = 5ms;  // between two looks at what gives no event
constexpr MaskingKey kKey{0x37, 0xFA, 0x21, 0x3D};

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }
[[noreturn]] void fail_with_errno(const std::string& what) { fail(what + ": " + std::strerror(errno)); }

void expect(bool success, const char* what) {
    if (!success) fail_with_errno(what);
}

int milliseconds(Clock::duration time) {
    return static_cast<int>(std::max(0ms, std::chrono::ceil<std::chrono::milliseconds>(time)).count());
}

std::string quote(std::string_view bytes) { return '"' + escape(bytes.substr(0, 300)) + '"'; }

// A pipe whose read end does not block; no child inherits either but by dup2().
std::array<int, 2> make_pipe() {
    std::array<int, 2> ends{};
    expect(pipe(ends.data()) == 0, "pipe");
    for (const int end : ends) fcntl(end, F_SETFD, FD_CLOEXEC);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    return ends;
}

void read_all(int fd, std::string& to) {
    std::array<char, 65536> some;
    ssize_t size = 0;
    while ((size = read(fd, some.data(), some.size())) > 0) to.append(some.data(), static_cast<std::size_t>(size));
}

}  // namespace

std::string server_path() {
    const char* path = std::getenv("SERVER");
    return path ? path : "./server";
}

bool server_is_sanitized() {
    static const bool sanitized = [] {
        std::ifstream binary(server_path(), std::ios::binary);
        const std::string bytes(std::istreambuf_iterator<char>(binary), {});
        return bytes.find("__asan_init") != bytes.npos;
    }();
    return sanitized;
}

void raise_descriptor_limit() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

void wait_until(const char* what, const std::function<bool()>& condition) {
    const auto deadline = Clock::now() + kPatience;
    while (!condition()) {
        if (Clock::now() > deadline) fail(std::string("waited in vain: ") + what);
        poll(nullptr, 0, milliseconds(kSlice));
    }
}

// The inodes of the sockets that a process has open: links like "socket:[4711]".
static std::vector<std::string> sockets_of(pid_t pid) {
    std::vector<std::string> inodes;
    std::error_code gone;  // a descriptor may be closed while we look
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone)) {
        const std::string target = std::filesystem::read_symlink(entry, gone).string();
        if (target.starts_with("socket:[")) inodes.push_back(target.substr(8, target.size() - 9));
    }
    return inodes;
}

int listening_port(const Process& process) {
    int port = 0;
    wait_until("the process listens", [&] {
        const std::vector<std::string> inodes = sockets_of(process.pid());
        std::ifstream table("/proc/net/tcp");
        for (std::string line; std::getline(table, line);) {
            std::istringstream fields(line);  // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
            const std::vector<std::string> field{std::istream_iterator<std::string>(fields), {}};
            if (field.size() < 10 || field[0] == "sl") continue;
            // Those that listen come first. Behind them stand thousands that other tests have left in TIME_WAIT, and
            // the kernel takes 0.1 s to list them.
            if (field[3] != "0A") break;
            if (std::ranges::find(inodes, field[9]) == inodes.end()) continue;
            port = std::stoi(field[1].substr(field[1].find(':') + 1), nullptr, 16);
        }
        if (process.ended()) fail("the process has ended");
        return port != 0;
    });
    return port;
}

SilentPort::SilentPort() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    expect(fd_ >= 0 && bind(fd_, reinterpret_cast<sockaddr*>(&address), size) == 0, "bind");
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    number_ = ntohs(address.sin_port);
}

SilentPort::~SilentPort() { ::close(fd_); }

// --- Process ---------------------------------------------------------------------------------------------------------

Process::Process(const std::vector<std::string>& command, const std::function<void()>& in_child) {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    const auto out = make_pipe(), err = make_pipe();
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        if (getppid() != parent) _exit(126);
        ::signal(SIGPIPE, SIG_DFL);  // what this process ignores would be ignored there, too
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        for (int fd = STDERR_FILENO + 1; fd < 256; ++fd) ::close(fd);  // what whoever started us has left open
        if (in_child) in_child();
        execv(arguments[0], arguments.data());
        _exit(127);
    }
    ::close(out[1]);
    ::close(err[1]);
    out_fd_ = out[0];
    err_fd_ = err[0];
    expect(pid_ > 0, "fork");
}

Process::~Process() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    ::close(out_fd_);
    ::close(err_fd_);
}

void Process::signal(int number) const {
    if (pid_ <= 0) fail("signal() for a process that has ended");
    kill(pid_, number);
}

void Process::drain(Clock::duration patience) {
    std::array<pollfd, 2> ends{pollfd{err_fd_, POLLIN, 0}, pollfd{out_fd_, POLLIN, 0}};
    const int ready = poll(ends.data(), reading_ ? 2 : 1, milliseconds(patience));
    // At the end of a pipe poll() returns at once, for ever.
    if (ready > 0 && !((ends[0].revents | ends[1].revents) & POLLIN)) poll(nullptr, 0, milliseconds(patience));
    read_all(err_fd_, err_);
    if (reading_) read_all(out_fd_, out_);
}

bool Process::ended() const {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_;
}

int Process::wait() {
    const auto deadline = Clock::now() + kPatience;
    while (!ended()) {
        if (Clock::now() > deadline) fail("the process does not end; " + last_words());
        drain(kSlice);
    }
    drain(0ms);
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::string Process::wait_for(std::string_view text) {
    const auto deadline = Clock::now() + kPatience;
    std::size_t looked_at = 0;
    while (out_.find(text, looked_at) == out_.npos) {
        looked_at = out_.size() - std::min(out_.size(), text.size());
        const bool last_chance = pid_ <= 0 || ended() || Clock::now() > deadline;
        drain(last_chance ? 0ms : kSlice);
        if (last_chance && out_.find(text, looked_at) == out_.npos) fail(quote(text) + " never came; " + last_words());
    }
    return out_;
}

std::string Process::last_words() const {
    const std::string_view end = std::string_view(out_).substr(out_.size() - std::min<std::size_t>(out_.size(), 300));
    return "stdout ends in " + quote(end) + ", stderr begins " + quote(err_);
}

const std::string& Process::out() {
    drain(0ms);
    return out_;
}

const std::string& Process::err() {
    drain(0ms);
    return err_;
}

// --- Server ----------------------------------------------------------------------------------------------------------

static std::vector<std::string> server_command(std::vector<std::string> options,
                                               const std::vector<std::string>& place) {
    options.insert(options.begin(), server_path());
    options.insert(options.end(), place.begin(), place.end());
    return options;
}

Server::Server(std::vector<std::string> options, const std::function<void()>& in_child,
               const std::vector<std::string>& place)
    : Process(server_command(std::move(options), place), in_child) {
    const std::string first = wait_for("\n");
    const std::string line = first.substr(0, first.find('\n'));
    port_ = std::atoi(line.c_str() + line.rfind(':') + 1);
    if (port_ == 0) fail("no port in the first line " + quote(line));
}

long Server::status_bytes(std::string_view field) const {
    std::ifstream status("/proc/" + std::to_string(pid()) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with(field)) return 1024 * std::atol(line.c_str() + field.size());
    }
    fail("no " + std::string(field) + " in /proc");
}

double Process::cpu_seconds() const {
    clockid_t clock{};
    timespec time{};
    expect(clock_getcpuclockid(pid_, &clock) == 0 && clock_gettime(clock, &time) == 0, "CPU clock");
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

int Server::descriptors() const {
    const std::filesystem::directory_iterator open("/proc/" + std::to_string(pid()) + "/fd");
    return static_cast<int>(std::distance(begin(open), end(open)));
}

// --- Peer ------------------------------------------------------------------------------------------------------------

Peer::Peer(int port, const char* address) {
    sockaddr_in four{};
    sockaddr_in6 six{};
    four.sin_family = AF_INET;
    six.sin6_family = AF_INET6;
    four.sin_port = six.sin6_port = htons(static_cast<std::uint16_t>(port));
    const bool is_six = std::strchr(address, ':') != nullptr;
    inet_pton(AF_INET, address, &four.sin_addr);
    inet_pton(AF_INET6, address, &six.sin6_addr);
    const auto* where = is_six ? reinterpret_cast<sockaddr*>(&six) : reinterpret_cast<sockaddr*>(&four);

    fd_ = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    expect(fd_ >= 0, "socket");
    const int yes = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    int error = ::connect(fd_, where, is_six ? sizeof six : sizeof four) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
        pollfd end{fd_, POLLOUT, 0};
        socklen_t size = sizeof error;
        if (poll(&end, 1, milliseconds(kPatience)) == 0) error = ETIMEDOUT;
        else getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error == 0) return;
    ::close(fd_);
    fail("connect to port " + std::to_string(port) + ": " + std::strerror(error));
}

Peer::~Peer() { close(); }

Peer::Peer(Peer&& other) noexcept { *this = std::move(other); }

Peer& Peer::operator=(Peer&& other) noexcept {
    if (this == &other) return *this;
    close();
    fd_ = std::exchange(other.fd_, -1);
    ended_ = other.ended_;
    reset_ = other.reset_;
    in_ = std::move(other.in_);
    at_ = other.at_;
    decoder_ = std::move(other.decoder_);
    return *this;
}

int Peer::port() const {
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &size);
    return ntohs(reinterpret_cast<const sockaddr_in&>(own).sin_port);  // where an IPv6 address has it, too
}

bool Peer::send_some(std::string_view& bytes) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) bytes.remove_prefix(static_cast<std::size_t>(sent));
    return sent >= 0 || errno == EAGAIN;
}

bool Peer::try_send(std::string_view bytes) {
    const auto deadline = Clock::now() + kPatience;
    while (!bytes.empty()) {
        const std::size_t before = bytes.size();
        if (!send_some(bytes)) return false;
        if (bytes.size() < before) continue;
        pollfd end{fd_, static_cast<short>(ended_ ? POLLOUT : POLLOUT | POLLIN), 0};
        if (poll(&end, 1, milliseconds(deadline - Clock::now())) == 0) fail("the server does not receive");
        if (end.revents & POLLIN) fill(deadline);
    }
    return true;
}

void Peer::send(std::string_view bytes) {
    if (!try_send(bytes)) fail_with_errno("send");
}

void Peer::send_slowly(std::string_view bytes) {
    for (std::size_t i = 0; i < bytes.size(); ++i) send(bytes.substr(i, 1));
}

void Peer::send_frame(Opcode opcode, std::string_view payload, bool fin) { send(masked(opcode, payload, fin)); }

bool Peer::fill(Clock::time_point deadline) {
    if (ended_) return false;
    pollfd end{fd_, POLLIN, 0};
    if (poll(&end, 1, milliseconds(deadline - Clock::now())) == 0) {
        fail("nothing came any more; not yet looked at: " + quote(unread()));
    }
    in_.erase(0, std::exchange(at_, 0));
    static std::array<char, 1 << 18> buffer;
    const ssize_t size = recv(fd_, buffer.data(), buffer.size(), 0);
    if (size > 0) in_.append(buffer.data(), static_cast<std::size_t>(size));
    if (size < 0 && errno == EAGAIN) return true;
    ended_ = size <= 0;
    reset_ = size < 0;
    return !ended_;
}

std::string Peer::take(std::size_t size) {
    const std::string bytes(unread().substr(0, size));
    at_ += bytes.size();
    return bytes;
}

std::string Peer::receive(std::size_t size) {
    const auto deadline = Clock::now() + kPatience;
    while (unread().size() < size && fill(deadline)) {}
    return take(size);
}

std::string Peer::receive_some() {
    const auto deadline = Clock::now() + kPatience;
    while (unread().empty()) {
        if (!fill(deadline)) fail("the connection's end");
    }
    return take(unread().size());
}

std::string Peer::receive_until(std::string_view end) {
    const auto deadline = Clock::now() + kPatience;
    while (unread().find(end) == std::string_view::npos && fill(deadline)) {}
    const std::size_t found = unread().find(end);
    return take(found == std::string_view::npos ? unread().size() : found + end.size());
}

std::string Peer::receive_all() {
    const auto deadline = Clock::now() + kPatience;
    while (fill(deadline)) {}
    return take(unread().size());
}

std::string Peer::refusal() {
    const std::string all = receive_all();
    const std::size_t blank = std::min(all.find("\r\n\r\n"), all.size());
    const std::string head = all.substr(0, blank) + "\r\n", body = all.substr(std::min(blank + 4, all.size()));
    const auto has = [&](const std::string& field) { return head.find("\r\n" + field + "\r\n") != head.npos; };
    const bool complete = head.starts_with("HTTP/1.1 ") && has("Content-Length: " + std::to_string(body.size())) &&
                          has(head.starts_with("HTTP/1.1 426 ") ? "Connection: Upgrade, close" : "Connection: close") &&
                          head.find("\r\nContent-Type: text/plain") != head.npos;
    const bool one_line = body.size() > 1 && body.find('\n') == body.size() - 1;
    if (!complete || !one_line) fail("not a complete refusal: " + quote(all));
    return all;
}

bool Peer::silent(std::chrono::milliseconds time) {
    pollfd end{fd_, POLLIN, 0};
    return unread().empty() && !ended_ && poll(&end, 1, milliseconds(time)) == 0;
}

void Peer::shake_hands() {
    send(kRequest);
    const std::string answer = receive_until("\r\n\r\n");
    if (answer != kResponse) fail("the handshake's answer is " + quote(answer));
}

Peer::Frame Peer::next_frame() {
    const auto deadline = Clock::now() + kPatience;
    while (true) {
        std::string_view input = unread();
        const auto event = decoder_.feed(input);
        at_ = in_.size() - input.size();
        if (event == Decoder::Event::violation) fail("the server broke the rules: " + std::string(decoder_.reason()));
        if (event == Decoder::Event::fragment) return {false, decoder_.header(), std::string(decoder_.frame_payload())};
        if (event != Decoder::Event::need_more) return {false, decoder_.header(), std::string(decoder_.payload())};
        if (!fill(deadline)) return {.ended = true};
    }
}

std::string Peer::text() {
    const Frame frame = next_frame();
    if (frame.ended) fail("the connection's end instead of a text message");
    const bool is_text = frame.header.fin && frame.header.opcode == Opcode::text;
    if (!is_text) fail("not a text message: " + describe(frame.header, frame.header.opcode, frame.payload));
    return frame.payload;
}

std::uint16_t Peer::closed_with() {
    while (true) {
        const Frame frame = next_frame();
        if (frame.ended) return 0;
        if (frame.header.opcode == Opcode::close) return close_code(frame.payload);
    }
}

void Peer::shut_down_sending() { shutdown(fd_, SHUT_WR); }

void Peer::reset_now() {
    const linger at_once{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close();
}

void Peer::close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

// --- and the rest ----------------------------------------------------------------------------------------------------

std::vector<Peer> join(const Server& server, std::size_t count) {
    std::vector<Peer> peers;
    for (std::size_t i = 0; i < count; ++i) peers.emplace_back(server).shake_hands();
    return peers;
}

std::string masked(Opcode opcode, std::string_view payload, bool fin) { return encode(opcode, payload, fin, kKey); }

std::string repeat(std::string_view text, std::size_t times) {
    std::string all;
    for (std::size_t i = 0; i < times; ++i) all += text;
    return all;
}
