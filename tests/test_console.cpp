// What a browser says when a server makes a mistake: each row of symptoms.h is made in earnest, and
// a real Chromium is asked for its console and for the code of its close event.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../ws_handshake.h"
#include "browser.h"
#include "harness.h"
#include "symptoms.h"

namespace {

using namespace std::string_literals;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// A server for one client, which answers with given bytes.
class BrokenServer {
public:
    BrokenServer() : master_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const auto generic = reinterpret_cast<sockaddr*>(&address);
        socklen_t size = sizeof address;
        if (bind(master_, generic, size) != 0 || listen(master_, 5) != 0) fail("cannot listen");
        if (getsockname(master_, generic, &size) != 0) fail("cannot listen");
        port_ = ntohs(address.sin_port);
    }
    ~BrokenServer() {
        close_client();
        ::close(master_);
    }
    BrokenServer(const BrokenServer&) = delete;
    BrokenServer& operator=(const BrokenServer&) = delete;

    int port() const { return port_; }

    // Accepts, reads the request and answers it.
    void serve(const Symptom& symptom) {
        await(master_);
        client_ = accept4(master_, nullptr, nullptr, SOCK_CLOEXEC);
        if (client_ < 0) fail("accept() failed");
        std::string request;
        while (request.find("\r\n\r\n") == request.npos) request += receive();
        send_all(with_proof(symptom.answer, request));
        if (symptom.end == Symptom::End::reset) {
            const linger now{1, 0};
            setsockopt(client_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        }
        if (symptom.end != Symptom::End::keep) close_client();
    }
    void close_client() {
        if (client_ >= 0) ::close(client_);
        client_ = -1;
    }

private:
    static void await(int fd) {
        pollfd ready{fd, POLLIN, 0};
        if (poll(&ready, 1, static_cast<int>(kPatience / 1ms)) != 1) fail("nobody comes");
    }
    std::string receive() {
        await(client_);
        std::string bytes(4096, '\0');
        const ssize_t count = recv(client_, bytes.data(), bytes.size(), 0);
        if (count <= 0) fail("the request ends early");
        bytes.resize(static_cast<std::size_t>(count));
        return bytes;
    }
    void send_all(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t count = send(client_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (count < 0) fail("the browser does not take the answer");
            bytes.remove_prefix(static_cast<std::size_t>(count));
        }
    }
    static std::string with_proof(std::string answer, const std::string& request) {
        const std::string mark = "{accept}";
        const std::string name = "Sec-WebSocket-Key: ";
        const std::size_t key = request.find(name) + name.size();
        const std::string proof = accept_key(request.substr(key, request.find('\r', key) - key));
        std::size_t at = answer.find(mark);
        while (at != answer.npos) {
            answer.replace(at, mark.size(), proof);
            at = answer.find(mark);
        }
        return answer;
    }

    const int master_;
    int client_ = -1;
    int port_ = 0;
};

// Has the page open a connection, about which `socket`, `code` and `heard` tell.
void dial(Tab& tab, const std::string& url) {
    tab.eval("(window.code = 0, window.heard = 0, window.socket = new WebSocket('" + url +
             "'), "
             "socket.onmessage = () => { heard++; }, "
             "socket.onclose = (event) => { code = event.code; })");
}

std::string address(int port) { return "ws://127.0.0.1:" + std::to_string(port); }

// What the console says about the connection to this port, without the words that all have.
std::string console(Tab& tab, int port) {
    const std::string start = "WebSocket connection to 'ws";
    const std::string place = "://127.0.0.1:" + std::to_string(port) + "/' failed: ";
    std::string all;
    for (const Json& params : tab.events("Log.entryAdded")) {
        const std::string text = params["entry"]["text"].text();
        const std::size_t end = text.find(place);
        if (text.starts_with(start) && end != text.npos) all += text.substr(end + place.size());
    }
    return all;
}

// A round trip of the same page through ./server: time enough for Chromium to do what it will do
// with bytes that it had before.
void round_trip(Tab& tab, const Server& server) {
    tab.eval("(window.back = false, window.other = new WebSocket('" + address(server.port()) +
             "'), "
             "other.onopen = () => other.send('x'), "
             "other.onmessage = () => { back = true; })");
    tab.until("back");
    tab.eval("other.close()");
}

// What ./server printed since, with N for the numbers of its clients.
std::string printed(const std::string& out) {
    return std::regex_replace(out, std::regex("client [0-9]+"), "client N");
}

}  // namespace

TEST_SUITE("browser" * doctest::skip(chromium_path().empty())) {

TEST_CASE("the console names each mistake that a server can make, or says nothing") {
    const Server server;
    std::optional<Tab> tab;
    int rows = 0;
    for (const Symptom& symptom : symptoms()) {
        INFO(symptom.mistake);
        // After many failures a page's connections are held back, so a new page comes in time.
        if (rows % 8 == 0) tab.emplace();
        ++rows;
        BrokenServer broken;
        dial(*tab, address(broken.port()));
        broken.serve(symptom);
        if (symptom.code == 0) round_trip(*tab, server);
        else tab->until("socket.readyState === WebSocket.CLOSED && code !== 0");
        CHECK(tab->eval("code") == std::to_string(symptom.code));
        CHECK(tab->eval("heard") == "0");
        CHECK(console(*tab, broken.port()) == symptom.console);
        tab->eval("(socket.onclose = null, socket.close())");
    }
}

TEST_CASE("the console where ./server is at the other end, and what ./server prints") {
    Tab tab;
    const auto expect = [&](const ServerSymptom& symptom, int port) {
        INFO(symptom.cause);
        tab.until("socket.readyState === WebSocket.CLOSED && code !== 0");
        CHECK(tab.eval("code") == std::to_string(symptom.code));
        CHECK(console(tab, port) == symptom.console);
    };
    const auto expect_line = [&](Server& server, const ServerSymptom& symptom) {
        const std::string line = symptom.printed;
        wait_until(line.c_str(),
                   [&] { return printed(server.out()).find(line + "\n") != line.npos; });
    };

    SUBCASE("nobody") {
        const SilentPort silent;
        dial(tab, address(silent.number()));
        expect(server_symptoms::nobody, silent.number());
    }
    SUBCASE("wss://") {
        Server server;
        dial(tab, "wss" + address(server.port()).substr(2));
        expect(server_symptoms::tls, server.port());
        expect_line(server, server_symptoms::tls);
    }
    SUBCASE("no place left") {
        const auto few = [] {
            const rlimit limit{16, 16};
            setrlimit(RLIMIT_NOFILE, &limit);
        };
        Server server({}, few);
        std::vector<Peer> peers;
        while (printed(server.out()).find(server_symptoms::full.printed) == std::string::npos) {
            REQUIRE(peers.size() < 20);
            peers.emplace_back(server);
            peers.back().send(kRequest);
            peers.back().receive_until("\r\n\r\n");
        }
        dial(tab, address(server.port()));
        expect(server_symptoms::full, server.port());
        expect_line(server, server_symptoms::full);
    }
    SUBCASE("a message that is too long") {
        Server server;
        dial(tab, address(server.port()));
        tab.until("socket.readyState === WebSocket.OPEN");
        tab.eval("socket.send('x'.repeat(2 ** 24 + 1))");
        expect(server_symptoms::too_long, server.port());
        expect_line(server, server_symptoms::too_long);
    }
    SUBCASE("ended") {
        Server server;
        dial(tab, address(server.port()));
        tab.until("socket.readyState === WebSocket.OPEN");
        server.signal(SIGINT);
        expect(server_symptoms::ended, server.port());
    }
    SUBCASE("killed") {
        Server server;
        dial(tab, address(server.port()));
        tab.until("socket.readyState === WebSocket.OPEN");
        server.signal(SIGKILL);
        expect(server_symptoms::killed, server.port());
    }
}

}
