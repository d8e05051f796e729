// What the page did wrong once.
#include <doctest/doctest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../base64.h"
#include "browser.h"
#include "harness.h"

namespace {

using namespace std::string_literals;

// A WebSocket without a network, for what no server on this machine can do: TLS, and a page from a
// web server.
constexpr char kFake[] = R"js(
    window.fakes = [];
    window.WebSocket = class {
      static OPEN = 1;
      readyState = 0;
      extensions = "";
      constructor(url) { this.url = url; fakes.push(this); }
      send() {}
      close() { this.readyState = 3; }
      accept() { this.readyState = 1; this.onopen(); }
      end(code) {
        this.readyState = 3;
        this.onclose({ code, reason: "", wasClean: code !== 1006 && code !== 1015 });
      }
    };
)js";

}  // namespace

TEST_SUITE("browser" * doctest::skip(chromium_path().empty())) {

TEST_CASE_FIXTURE(Chat, "the header is as wide as the page at every size, and nothing overlaps") {
    page.click_button("On the wire");
    for (const auto& size : std::vector<std::pair<int, int>>{
             {1440, 900}, {1024, 768}, {853, 480}, {700, 500},
             {640, 360}, {390, 844}, {390, 420}, {320, 568}}) {
        INFO(size.first, "x", size.second);
        page.resize(size.first, size.second);
        CHECK(page.is("all('header')[0].offsetWidth === innerWidth"));
        CHECK(page.eval("overlaps([...inHeader(), ...seen('#chat, #panel').filter((e) => "
                        "e.checkVisibility({ visibilityProperty: true }))])") == "");
        CHECK(page.is("isWithin(innerWidth)"));
    }
}

TEST_CASE_FIXTURE(Chat, "with text of twice the size by a style sheet nothing overlaps") {
    page.click_button("On the wire");
    for (const auto& size :
         std::vector<std::pair<int, int>>{{1920, 1080}, {1440, 900}, {1280, 720}, {390, 844}}) {
        INFO(size.first, "x", size.second);
        page.resize(size.first, size.second);
        page.eval("(document.documentElement.style.fontSize = '200%')");
        CHECK(page.eval("overlaps([...inHeader(), ...seen('#chat, #panel').filter((e) => "
                        "e.checkVisibility({ visibilityProperty: true }))])") == "");
        CHECK(page.is("isWithin(innerWidth)"));
        CHECK(page.is("document.scrollingElement.scrollHeight === innerHeight"));
        CHECK(page.is("all('#frames')[0].offsetHeight > 80"));
    }
}

TEST_CASE_FIXTURE(Chat,
                  "a text that may have arrived is not offered for sending after a reconnect") {
    server->signal(SIGSTOP);
    page.say("twice?");
    restart();
    page.until("field('Message').value === 'twice?'");
    const std::string words = "document.body.innerText.includes('It may not have arrived')";
    CHECK(page.is(words));
    page.until_connected();
    CHECK(page.is(words));
    CHECK(page.is("!/press Enter to send/.test(document.body.innerText)"));
    page.reload();
    page.until_connected();
    CHECK(page.is(words));
    page.click("field('Message')");
    page.enter();
    CHECK(peer.text() == "李靖: twice?");
    page.until_lines("*李靖: twice?");
    CHECK(!page.is(words));
}

TEST_CASE("opened from a web server the page offers that machine") {
    std::ifstream file("web/index.html");
    const std::string html{std::istreambuf_iterator<char>(file), {}};
    for (const auto& [origin, address] : std::vector<std::pair<std::string, std::string>>{
             {"http://127.0.0.2", "ws://127.0.0.2:4000"},
             {"http://[::1]:8000", "ws://[::1]:4000"},
             {"https://127.0.0.2:8443", "wss://127.0.0.2:8443"}}) {
        Tab tab;
        tab.prepare(kFake);
        tab.call("Fetch.enable");
        tab.eval("(location.href = " + in_quotes(origin + "/chat/") + ")");
        Json request;
        wait_until("the page to be asked for", [&] {
            browser().call("Browser.getVersion", object({}));  // brings what happened
            for (const Browser::Event& event : browser().events)
                if (event.method == "Fetch.requestPaused") request = event.params["requestId"];
            return !request.raw.empty();
        });
        tab.call("Fetch.fulfillRequest", {{"requestId", request},
                                          {"responseCode", 200},
                                          {"body", base64_encode(html)}});
        tab.until("window.fakes && fakes.length === 1");
        CHECK(tab.eval("fakes[0].url") == address);
        CHECK(tab.eval("document.getElementById('server').value") == address);
    }
}

TEST_CASE("the console is named only where it says something, and TLS only where it is the cause") {
    Page page("ws://127.0.0.1:4001", nullptr, kFake);
    const std::string f12 = "status().includes('F12')";
    page.eval("(fakes[0].end(1006), 0)");
    CHECK(page.is(f12));
    page.eval("(skip(2000), fakes.at(-1).accept(), fakes.at(-1).end(1006), 0)");
    CHECK(!page.is(f12));
    page.eval("(skip(2000), fakes.at(-1).end(1006), 0)");
    CHECK(!page.is(f12));  // the advice of the loss stays

    const std::string tls = "status().includes('speaks no TLS')";
    page.fill("Server", "wss://127.0.0.1:4001");
    page.click_button("Connect");
    page.eval("(fakes.at(-1).end(1006), 0)");
    CHECK(page.is(tls));
    page.eval("(skip(2000), fakes.at(-1).end(1015), 0)");
    CHECK(page.is(tls));
    CHECK(page.is("status().includes('Code 1015')"));
    page.eval("(skip(4000), fakes.at(-1).accept(), fakes.at(-1).end(1006), 0)");
    page.eval("(skip(2000), fakes.at(-1).end(1006), 0)");
    CHECK(!page.is(tls));
    page.click_button("Disconnect");
    page.click_button("Connect");
    page.eval("(fakes.at(-1).end(1006), 0)");
    CHECK(!page.is(tls));
    CHECK(page.is("status().includes('behind its TLS proxy')"));
}

TEST_CASE_FIXTURE(Chat, "hints are about what is now") {
    const std::string text = "document.body.innerText";
    page.type("kept");
    page.click_button("Disconnect");
    page.until_status("Disconnected");
    CHECK(page.is("/Not connected: what you write stays here/.test(" + text + ")"));
    CHECK(page.is("!/line is open|Enter sends/.test(" + text + ")"));
    page.click("field('Message')");
    page.enter();
    CHECK(page.is("/Not sent: no connection. Your text stays here/.test(" + text + ")"));
    page.click_button("Connect");
    page.until_status("Connected to");
    CHECK(page.is("!/Not sent|stays here/.test(" + text + ")"));
    CHECK(page.is("/Enter sends/.test(" + text + ")"));
    page.click_button("Disconnect");
    CHECK(page.is("!/line is open|Enter sends|will read it/.test(" + text + ")"));
    // A test has no draft: nothing stays, and the field is left alone.
    page.click_button("On the wire");
    page.click_button("50 × 中");
    CHECK(page.is("/Not sent: no connection/.test(" + text + ")"));
    CHECK(page.is("!/Not sent: no connection\\. .*stays/.test(" + text + ")"));
    CHECK(page.draft() == "kept");
}

TEST_CASE("an address that is nearly one is understood, or asked about") {
    Page page("ws://127.0.0.1:4001", nullptr, kFake);
    const auto dial = [&](const std::string& address) {
        page.eval("(fakes.length = 0)");
        page.fill("Server", address);
        page.enter();
        return page.eval("fakes.map((fake) => fake.url).join()");
    };
    CHECK(dial("ｗｓ：／／127.0.0.1：４００２") == "ws://127.0.0.1:4002");
    CHECK(page.eval("field('Server').value") == "ws://127.0.0.1:4002");
    for (const auto& row : std::vector<std::pair<std::string, std::string>>{
             {"ws:/127.0.0.1:4003", "begins with ws://. Try ws://127.0.0.1:4003"},
             {"ws:127.0.0.1:4003", "begins with ws://. Try ws://127.0.0.1:4003"},
             {"localhost", "begins with ws://. Try ws://localhost:4000"},
             {"localhost:4003", "begins with ws://. Try ws://localhost:4003"},
             {"wss:/localhost:4003", "Try wss://localhost:4003"},
             {"hello world", "blank in this address. Try ws://127.0.0.1:4000"}}) {
        CHECK_MESSAGE(dial(row.first) == "", row.first);
        CHECK_MESSAGE(page.is("status().includes(" + in_quotes(row.second) + ")"),
                      page.eval("status()"));
        CHECK(page.eval("field('Server').ariaInvalid") == "true");
    }
    CHECK(dial("ws://localhost") == "");
    CHECK(page.is("status().includes('port 80. Did you mean ws://localhost:4000?')"));
    page.click_button("Connect");
    CHECK(page.eval("fakes[0].url") == "ws://localhost");
    CHECK(dial("ws://localhost:80") == "ws://localhost:80");
    CHECK(dial("wss://localhost") == "wss://localhost");
}

TEST_CASE("a silence is explained as a firewall's or as an unfinished handshake") {
    Page page("ws://127.0.0.1:4001", nullptr, kFake);
    page.eval("skip(8100)");
    CHECK(page.is("/firewall/.test(status()) && /blank line/.test(status())"));
    page.eval("(skip(4000), fakes.at(-1).end(1006), 0)");
    CHECK(page.is("!/firewall/.test(status())"));  // now somebody refuses
    // The same after a connection that was good.
    page.eval("(skip(4000), fakes.at(-1).accept(), fakes.at(-1).end(1006), skip(2000), 0)");
    page.eval("skip(8100)");
    CHECK(page.is("/firewall/.test(status())"));
    page.eval("(skip(4000), fakes.at(-1).end(1006), 0)");
    CHECK(page.is("!/firewall/.test(status())"));
}

TEST_CASE_FIXTURE(Chat, "a line on which nothing comes back is ended, and the draft is back") {
    server->signal(SIGSTOP);
    page.say("anybody there?");
    page.eval("skip(7000)");
    page.until_status("Connected to");
    page.eval("skip(1500)");
    CHECK(page.is("!status().includes('Connected to')"));
    CHECK(page.draft() == "anybody there?");
    page.until("/Nothing came back for 8 s/.test(chat.textContent)");
    server->signal(SIGCONT);
    page.until_connected();
    CHECK(page.draft() == "anybody there?");
}

TEST_CASE_FIXTURE(Chat, "a line on which something comes is not ended, and an idle one neither") {
    page.eval("skip(60000)");  // nothing of one's own is under way
    CHECK(page.is("status().includes('Connected to') && dials.length === 1"));
    page.eval(
        "(dials[0].socket.send = () => {}, field('Message').value = 'never back', 0)");
    page.enter();
    page.eval("skip(6000)");
    peer.send_frame(Opcode::text, "ana: alive");
    page.until("lines().length === 1");
    page.eval("skip(6000)");
    CHECK(page.is("status().includes('Connected to')"));
    page.eval("skip(2500)");
    CHECK(page.is("!status().includes('Connected to')"));
    CHECK(page.draft() == "never back");
}

TEST_CASE_FIXTURE(Chat, "offline ends the line, the draft is back, and the page comes back") {
    server->signal(SIGSTOP);
    page.say("lost");
    page.eval("dispatchEvent(new Event('offline'))");
    page.until_status("offline");
    CHECK(page.is("status().includes('Retrying')"));
    CHECK(page.draft() == "lost");
    server->signal(SIGCONT);
    page.until_connected();
}

TEST_CASE_FIXTURE(Chat, "who presses new messages writes on, and only messages are counted") {
    for (int i = 0; i < 60; ++i) peer.send_frame(Opcode::text, "bot: " + std::to_string(i));
    page.until("lines().at(-1) === 'bot: 59' && toEnd() < 2");
    page.type("half ");
    page.scroll_up();
    page.until("toEnd() > 400");
    peer.send_frame(Opcode::text, "bot: 60");
    page.until("button('↓ new messages (1)') !== undefined");
    page.click_button("↓ new messages");
    CHECK(page.is("document.activeElement === field('Message') && toEnd() < 2"));
    page.type("a line");
    CHECK(page.draft() == "half a line");
    page.scroll_up();
    page.until("toEnd() > 400");
    server.reset();  // a note, no message
    page.until("chat.lastElementChild.matches('.note')");
    CHECK(page.is("seen('#new').length === 0"));
    CHECK(page.eval("document.title") == "WebSocket chat");
}

TEST_CASE_FIXTURE(Chat, "what a tab that nobody sees keeps of long messages is small") {
    const auto heap = [&] {
        page.call("HeapProfiler.collectGarbage");
        return std::stod(page.call("Runtime.getHeapUsage")["backingStorageSize"].raw);  // strings
    };
    page.eval(
        "(window.setTimeout = () => 1, window.count = 0, console.log = () => { count++; }, 0)");
    const double before = heap();
    for (int i = 0; i < 10; ++i)
        peer.send_frame(Opcode::text, std::string(1 << 20, static_cast<char>('a' + i % 26)));
    page.until("count === 10");
    CHECK(heap() - before < 4e6);  // 1 MB; with all of it 10 MB
}

TEST_CASE_FIXTURE(Chat, "half a million characters are not taken into the field, and it says so") {
    page.call("Performance.enable", {{"timeDomain", "threadTicks"}});
    const double before = page.busy_seconds();
    page.type(std::string(500000, 'x'));
    CHECK(page.is("field('Message').value.length <= 20000"));
    page.until("/20000 characters at most/.test(document.body.innerText)");
    CHECK(page.busy_seconds() - before < 1);
    page.fill("Message", "short");
    page.enter();
    CHECK(peer.text() == "李靖: short");
}

TEST_CASE_FIXTURE(Chat, "scrollbars have the page's colours, not the system's white") {
    peer.send_frame(Opcode::text, "ana: if (x)\n    " + repeat("y ", 300));
    peer.send_frame(Opcode::text, "ana: " + repeat("long ", 1000));
    page.until("lines().length === 2");
    page.click_button("On the wire");
    const std::string scrollers =
        "all('body *').filter((e) => /auto|scroll/.test(getComputedStyle(e).overflow) && "
        "e.checkVisibility())";
    CHECK(page.is(scrollers + ".length >= 4"));
    CHECK(page.eval(scrollers + ".filter((e) => getComputedStyle(e).scrollbarColor === 'auto')"
                                ".map((e) => e.outerHTML).join()") == "");
}

}
