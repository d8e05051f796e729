// The chat page as somebody uses it, in a real Chromium: see browser.h. The page reaches ./server
// through Chromium's WebSocket.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "browser.h"
#include "harness.h"

namespace {

using namespace std::string_literals;
namespace fs = std::filesystem;

// The processes that have this word in their command line. (Linux; elsewhere none is found.)
std::vector<std::string> processes_with(const std::string& word) {
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/proc", error)) {
        std::ifstream file(entry.path() / "cmdline");
        const std::string command{std::istreambuf_iterator<char>(file), {}};
        if (command.find(word) != command.npos) found.push_back(entry.path().filename());
    }
    return found;
}

}  // namespace

// --- the tests -----------------------------------------------------------------------------------

TEST_CASE("there is a Chromium, or the page's tests say that they are skipped" *
          doctest::test_suite("browser")) {
    const char* ci = std::getenv("CI");
    const bool found = !chromium_path().empty();
    if (!found && ci && ci == "true"s)
        FAIL("no Chromium found, and CI=true: `make deps` installs it");
    if (!found)
        MESSAGE(
            "SKIPPED: the page's tests in a real browser, for none is found (`make deps` installs "
            "one)");
}

TEST_SUITE("browser" * doctest::skip(chromium_path().empty())) {

TEST_CASE("strings come through the protocol as they are") {
    CHECK(Json{R"("a\"\\\/\b\n\u0007\u00e9\u674e\ud83d\ude00\ud83d!")"}.text() ==
          "a\"\\/\b\n\aé李😀\xEF\xBF\xBD!");
    CHECK(
        Json{R"({"a":{"b":"x"},"b":[1,{"c":"},\""},[]],"d":""})"}["b"].items().at(1)["c"].text() ==
        "},\"");
    CHECK(Page("").eval(in_quotes("\"\\\x01\n\x7F李靖😀")) == "\"\\\x01\n\x7F李靖😀");
}

TEST_CASE("opened as a file the page connects by itself and says so") {
    const Server server;
    server.signal(SIGSTOP);  // the kernel accepts for it, but nobody answers
    Page page(url(server));
    CHECK(page.eval("status()").starts_with("Connecting to " + url(server)));
    server.signal(SIGCONT);
    page.until_status("Connected to " + url(server));
    CHECK(page.eval("field('Server').value") == url(server));
    CHECK(page.is("document.activeElement === field('Message')"));
    CHECK(page.is("performance.getEntriesByType('resource').length === 0"));  // it loads nothing
}

TEST_CASE_FIXTURE(
    Chat, "each part has its role and its label, once, and the keyboard reaches all of them") {
    for (const char* role : {"status", "log"}) CHECK_MESSAGE(page.count(role) == 1, role);
    for (const char* name : {"Message", "Server", "Name"})
        CHECK_MESSAGE(page.count("textbox", name) == 1, name);
    for (const char* name : {"Send", "Disconnect"})
        CHECK_MESSAGE(page.count("button", name) == 1, name);
    CHECK(page.count("textbox") == 3);

    page.click_button("Got it");
    page.click("field('Server')");
    std::string way;
    for (int i = 0; i < 7; ++i) {
        page.press("Tab", kTab);
        way += page.eval(
            "((e) => e.labels?.[0]?.textContent || e.ariaLabel || "
            "e.textContent)(document.activeElement)");
        way += ", ";
    }
    CHECK(way == "Change, Disconnect, On the wire, Chat, Name, Message, Send, ");
    page.eval("button('On the wire').focus()");
    page.enter();
    page.until("button('125, then 126 bytes') !== undefined");
}

TEST_CASE_FIXTURE(Chat,
                  "two pages chat: a line of one's own is marked, and everybody sees it once") {
    Page other(*server);
    other.fill("Name", "红拂");
    for (const char* letter : {"H", "i"}) page.press(letter, *letter & ~0x20, letter);
    page.say(" 红拂, I am 李靖");
    other.until_lines("李靖: Hi 红拂, I am 李靖");
    other.fill("Message", "久仰李靖 😀");
    other.click_button("Send");
    page.until_lines("*李靖: Hi 红拂, I am 李靖|红拂: 久仰李靖 😀");
    other.until_lines("李靖: Hi 红拂, I am 李靖|*红拂: 久仰李靖 😀");
    for (Page* each : {&page, &other}) {
        CHECK(each->draft() == "");
        CHECK(each->is("document.activeElement === field('Message')"));
        CHECK(each->is(
            "Math.abs(Date.now() - new Date(chat.querySelector('time').dateTime)) < 60000"));
    }
}

TEST_CASE_FIXTURE(Chat, "a plain client takes part: the wire says `name: text` and nothing else") {
    page.say("  from the page");
    CHECK(peer.text() == "李靖:   from the page");
    peer.send_frame(Opcode::text, "nc: hello");
    peer.send_frame(Opcode::text, "no name at all");
    peer.send_frame(Opcode::binary, "\x01\xAB\xFF text"s + std::string(20, '\0'));
    page.until_lines(
        "*李靖:   from the page|nc: hello|no name at all|"
        "binary message (28 bytes) 01 ab ff 20 74 65 78 74 00 00 00 00 00 00 00 00 …");
}

TEST_CASE_FIXTURE(Chat, "whatever a message says is shown as text") {
    const std::string evil =
        "<img src=x onerror=\"window.done = 1\">: <b>bold</b> &amp; "
        "<script>window.done = 2</script> &#x674e; ${window.done = 3} \u202E";
    peer.send_frame(Opcode::text, evil);
    page.until_lines(evil);
    page.fill("Name", "<i>i</i>");
    page.fill("Message", "<u onclick=x>");
    page.enter();
    page.until_lines(evil + "|*<i>i</i>: <u onclick=x>");
    CHECK(page.is("chat.querySelectorAll('img, b, i, u, script').length === 0"));
    CHECK(page.is("window.done === undefined"));
    CHECK(page.is("chat.innerText.includes('<b>bold</b> &amp;')"));
}

TEST_CASE_FIXTURE(
    Chat, "Enter belongs to the input method while it composes, and sends once when it is done") {
    page.eval(
        "(window.keys = [], addEventListener('keydown', (e) => keys.push(e.isComposing, "
        "e.keyCode), true))");
    page.call("Input.imeSetComposition",
              {{"text", "nihao"}, {"selectionStart", 5}, {"selectionEnd", 5}});
    page.press("Enter", kComposing);  // what Chromium and Firefox tell
    page.press("Enter", kEnter);      // only isComposing
    CHECK(page.draft() == "nihao");
    page.type("你好");  // takes the composition's place
    page.press(
        "Enter",
        kComposing);  // only keyCode: Safari, where this Enter comes after the composition's end
    CHECK(page.eval("keys.join()") == "true,229,true,13,false,229");
    CHECK(page.draft() == "你好");
    page.enter();
    page.say("next");
    CHECK(peer.text() == "李靖: 你好");  // the first that was ever sent
    CHECK(peer.text() == "李靖: next");  // and it was sent once
    page.until_lines("*李靖: 你好|*李靖: next");
}

TEST_CASE_FIXTURE(Chat, "nothing empty is sent, and Shift+Enter begins a line") {
    page.enter();
    page.say("  ");
    page.enter(kShift);
    page.enter();
    page.click_button("Send");
    page.fill("Message", "one");
    page.enter(kShift);
    page.type("two");
    CHECK(page.draft() == "one\ntwo");
    page.enter();
    CHECK(peer.text() == "李靖: one\ntwo");
    page.until_lines("*李靖: one\ntwo");
    CHECK(page.eval("chat.querySelector('.text').innerText") == "李靖: one\ntwo");
}

TEST_CASE_FIXTURE(Chat, "the draft outlives the server, and what never came back returns to it") {
    page.eval(
        "(window.heard = '', new MutationObserver(() => { heard += status(); })"
        ".observe(document.querySelector('[role=status]'), { subtree: true, childList: true }))");
    page.type("a draft 草稿");
    server->signal(SIGTERM);
    server->wait();
    page.until("heard.includes('Code 1001, the server is going away')");
    page.until_status("Retrying in ");
    page.enter();
    CHECK(page.is("document.body.innerText.includes('Not sent: no connection.')"));
    page.click_button("Send");
    CHECK(page.draft() == "a draft 草稿");
    restart();
    page.until_connected();
    CHECK(page.draft() == "a draft 草稿");
    CHECK(!page.is("document.body.innerText.includes('Not sent')"));
    CHECK(page.is("document.activeElement === field('Message')"));
    page.enter();
    CHECK(peer.text() == "李靖: a draft 草稿");
    page.until_lines("*李靖: a draft 草稿");

    server->signal(SIGSTOP);  // what is sent now is never echoed
    page.say("lost");
    CHECK(page.draft() == "");
    page.type("half a line");
    restart();
    page.until("field('Message').value === 'lost\\nhalf a line'");
    page.reload();
    CHECK(page.draft() == "lost\nhalf a line");
}

TEST_CASE_FIXTURE(Chat, "who disconnects stays disconnected, and Connect comes back") {
    page.click_button("Disconnect");
    page.until_status("Disconnected");
    server->wait_for("disconnect client");
    page.say("kept");
    page.click_button("Send");
    page.eval("['online', 'focus'].forEach((type) => dispatchEvent(new Event(type)))");
    const std::string out = server->out();
    const std::string attempts = page.eval("dials.length");
    page.eval("skip(120000)");  // the first attempt to come back would be made within a second
    CHECK(page.eval("dials.length") == attempts);
    peer.send_frame(Opcode::ping, "");
    CHECK(peer.next_frame().header.opcode == Opcode::pong);
    CHECK(server->out().find("connect client", out.size()) == std::string::npos);
    CHECK(page.eval("status()").starts_with("Disconnected Press Connect"));
    page.click_button("Connect");
    page.until_status("Connected to");
    CHECK(page.draft() == "kept");
}

TEST_CASE_FIXTURE(Chat, "a wrong address is explained in words") {
    const std::string good = url(*server), bare = good.substr(5);
    const SilentPort silent;
    const std::string nobody = "ws://127.0.0.1:"s.append(std::to_string(silent.number()));
    struct Row {
        std::string address, words;
    };
    const std::vector<Row> table{
        {"http://" + bare, "begins with ws://. Try ws://" + bare},
        {bare, "begins with ws://. Try ws://" + bare},
        {"", "begins with ws://"},
        {"ws://127.0.0.1:99999", "a port up to 65535"},
        {good + "/#a", "has no # part"},
        {nobody, "No connection to " + nobody + ". Is ./server running there?"}};
    for (const auto& [address, words] : table) {
        page.fill("Server", address);
        page.click_button("Connect");
        page.until_status(words);
        CHECK(page.eval("field('Server').ariaInvalid") == (address == nobody ? "false" : "true"));
    }
    page.fill("Server", good);
    page.enter();
    page.until_status("Connected to " + good);
}

TEST_CASE_FIXTURE(Chat, "of 3000 messages the last 500 are kept, and the page stays awake") {
    page.call("Performance.enable", {{"timeDomain", "threadTicks"}});
    const double before = page.busy_seconds();
    std::string burst;
    for (int i = 0; i < 3000; ++i)
        burst += masked(Opcode::text, "bot: message " + std::to_string(i));
    peer.send(burst);
    page.type("meanwhile");
    page.until("lines().includes('bot: message 2999')");
    page.enter();
    page.until("lines().at(-1) === '*李靖: meanwhile'");
    CHECK(page.is("lines().length === 500 && chat.childElementCount === 500 && toEnd() < 2"));
    CHECK(page.draft() == "");
    CHECK(page.busy_seconds() - before < 2);  // 0.3; were the log drawn anew for each message: 8
}

TEST_CASE_FIXTURE(Chat, "the log follows a reader at its end, and leaves others where they are") {
    for (int i = 0; i < 60; ++i) peer.send_frame(Opcode::text, "bot: " + std::to_string(i));
    page.until("lines().at(-1) === 'bot: 59' && toEnd() < 2 && !button('↓ new messages')");
    page.scroll_up();
    page.until("toEnd() > 400");
    const std::string place = page.eval("chat.scrollTop");
    peer.send_frame(Opcode::text, "bot: 60");
    page.until("lines().at(-1) === 'bot: 60' && button('↓ new messages (1)') !== undefined");
    CHECK(page.eval("chat.scrollTop") == place);
    page.click_button("↓ new messages");
    page.until("toEnd() < 2 && !button('↓ new messages')");
    peer.send_frame(Opcode::text, "bot: 61");
    page.until("lines().at(-1) === 'bot: 61' && toEnd() < 2 && !button('↓ new messages')");
    page.scroll_up();
    page.until("toEnd() > 400");
    page.click("field('Message')");
    page.say("mine");
    page.until("lines().at(-1) === '*李靖: mine' && toEnd() < 2");
}

TEST_CASE_FIXTURE(Chat, "two tabs are two people, and a name is remembered for the next visit") {
    page.reload();
    CHECK(page.eval("field('Name').value") == "李靖");
    page.until_status("Connected to");
    {
        Page second("", &page);  // without ?server=: the last one used
        second.until_status("Connected to " + url(*server));
        second.click("field('Message')");
        second.say("who am I?");
        const std::string line = peer.text();
        CHECK(line.starts_with("guest-"));
        CHECK(line.ends_with(": who am I?"));
    }
    page.open("file://" + browser().blank_page());
    Page next("", &page);
    next.until("field('Name').value === '李靖'");
}

TEST_CASE_FIXTURE(Chat, "320 pixels are wide enough for everything") {
    page.resize(320, 568, true);
    peer.send_frame(Opcode::text, "bot: " + repeat("long", 500));
    peer.send_frame(Opcode::text,
                    "bot: http://example.com/" + repeat("path/", 20) + " " + repeat("李", 100));
    page.fill("Name", repeat("W", 24));
    page.fill("Message", repeat("unbroken", 30));
    page.until("lines().length === 2");
    CHECK(page.is("isWithin(320)"));
    CHECK(page.is(
        "((r) => r.top >= 0 && r.bottom <= innerHeight)(button('Send').getBoundingClientRect())"));
    page.enter();
    page.click_button("On the wire");
    page.click_button("50 × 中");
    page.until("headers('←') !== ''");
    CHECK(page.is("isWithin(320)"));
}

TEST_CASE_FIXTURE(Chat, "in light and dark, small and large, all that is said can be read") {
    const auto look = [&](const std::string& name, const char* scheme) {
        page.media({{"prefers-color-scheme", scheme}});
        const std::string lowest = page.eval("contrast()");
        CHECK_MESSAGE(std::stod(lowest) >= 4.5, name, ": ", lowest);
        page.screenshot(name);
        return page.eval(
            "['color', 'backgroundColor'].map((key) => "
            "getComputedStyle(document.documentElement)[key])");
    };
    peer.send_frame(Opcode::text,
                    "红拂: 久仰大名! Is this the select() server that everybody talks about?");
    page.until("lines().length === 1");
    page.type("It is. One thread, one loop,");
    page.enter(kShift);
    page.say("and 红拂 is heard by all 😀");
    page.until("lines().length === 2");
    peer.send_frame(
        Opcode::text,
        "虬髯客: <b>not bold</b> &amp; a line that is long enough to be broken, which is a good "
        "thing for lines to be able to do, https://example.com/" +
            repeat("a-long-path/", 9));
    peer.send_frame(Opcode::binary, "\x00\x01\x02\x03\xFE\xFF"s);
    page.until("lines().length === 4");
    page.type("a draft, not sent yet");
    CHECK(look("light", "light") != look("dark", "dark"));
    page.resize(390, 844, true);
    look("phone", "light");
    look("phone-dark", "dark");
    page.resize(1280, 860);
    page.click_button("On the wire");
    for (const char* words : {"125, then", "50 × 中"}) page.click_button(words);
    page.until("lines().length === 7");
    look("wire", "light");
    look("wire-dark", "dark");
    page.click_button("On the wire");
    page.resize(1000, 720);
    server.reset();
    page.until_status("Retrying in ");
    look("retrying", "dark");
    page.click_button("Disconnect");
    page.until_status("Disconnected");
    look("disconnected", "light");
}

TEST_CASE_FIXTURE(Chat, "the console has the demo's words") {
    CHECK(page.console_has("握手成功"));
    CHECK(!page.console_has("error"));
    peer.send_frame(Opcode::text, "红拂: \"hello\" 😀");
    page.until("lines().length === 1");
    CHECK(page.console_has("message:红拂: \"hello\" 😀"));
    server.reset();
    page.until_status("Retrying");
    page.skip_to_attempt();
    page.until("!isNaN(dials.at(-1).ended)");  // the next attempt has failed
    CHECK(page.console_has("error"));
}

// --- time ----------------------------------------------------------------------------------------

TEST_CASE_FIXTURE(Chat,
                  "attempts come ever later, up to 30 s, each class at its own time, and soon "
                  "again after success") {
    // How long the page waits after each of seven failures in a row.
    const auto delays = [&](const char* luck) {
        page.eval("luck = "s + luck);
        server.reset();
        std::vector<double> found;
        while (found.size() < 7) {
            page.until("!isNaN(dials.at(-1).ended) && status().includes('Retrying')");
            page.skip_to_attempt();
            found.push_back(std::stod(page.eval("dials.at(-1).at - dials.at(-2).ended")));
        }
        restart();
        page.until_connected();
        return found;
    };
    const std::vector<double> one = delays("0");
    const std::vector<double> other =
        delays("0.999");  // begins again with a second, so after success
    double most = 1000;
    for (std::size_t i = 0; i < one.size(); ++i) {
        INFO(i, ": ", one[i], " and ", other[i], " ms");
        for (const double delay : {one[i], other[i]}) {
            CHECK(delay > most / 2);
            CHECK(delay < most + 900);
        }
        if (most > 8000) CHECK(std::abs(one[i] - other[i]) > most / 10);
        most = std::min(2 * most, 30000.0);
    }
}

TEST_CASE_FIXTURE(Chat, "somebody who comes back, or whose network does, need not wait") {
    page.eval("luck = 0");
    server.reset();
    for (const char* type : {"focus", "online"}) {
        INFO(type);
        // The wait is long enough by now that no attempt is made by itself.
        page.until(
            "(skip(status().includes('Retrying') && !/in [0-9]{2} s/.test(status()) ? 1000 : 0), "
            "/in [0-9]{2} s/.test(status()))");
        const std::string before = page.eval("dials.length");
        CHECK(page.eval("(dispatchEvent(new Event('"s + type + "')), dials.length - " + before +
                        " + status())")
                  .starts_with("1Connecting to "));
    }
}

TEST_CASE("a handshake that does not end is given up after 8 s") {
    const Server server;
    server.signal(SIGSTOP);  // the kernel accepts for it, but nobody answers
    Page page(url(server));
    CHECK(
        page.is("(skip(dials[0].at + 7500 - performance.now()), dials.length === 1 && "
                "dials[0].socket.readyState === 0 && status().startsWith('Connecting to'))"));
    CHECK(page.is("(skip(600), status().includes('Retrying in '))"));
    CHECK(page.is("status().includes('handshake')"));
    CHECK(page.is("dials[0].socket.readyState >= 2"));
    server.signal(SIGCONT);
    page.eval("skip(1000)");
    page.until_status("Connected to");
}

TEST_CASE("what is said while the page is still connecting waits") {
    Server server;
    Peer peer = std::move(join(server, 1)[0]);
    server.signal(SIGSTOP);
    Page page(url(server));
    page.fill("Name", "李靖");
    page.fill("Message", "too early");
    page.enter();
    page.click_button("Send");
    CHECK(page.eval("status()").starts_with("Connecting to "));
    CHECK(page.draft() == "too early");
    server.signal(SIGCONT);
    page.until_status("Connected to");
    CHECK(page.draft() == "too early");
    page.click("field('Message')");
    page.say(" no more");
    CHECK(peer.text() == "李靖: too early no more");
    page.until_lines("*李靖: too early no more");
}

// --- nothing is lost, nothing moves --------------------------------------------------------------

TEST_CASE_FIXTURE(Chat, "the draft is kept at every keystroke") {
    std::string text;
    for (const char* letter : {"d", "r", "a"}) {
        page.press(letter, *letter & ~0x20, letter);
        text += letter;
        CHECK(page.is("Object.values(sessionStorage).includes(" + in_quotes(text) + ")"));
    }
    page.press("Backspace", 8);
    CHECK(page.is("Object.values(sessionStorage).includes('dr')"));
    page.reload();
    CHECK(page.draft() == "dr");
}

TEST_CASE_FIXTURE(Chat, "half a character is sent as U+FFFD, and recognised when it comes back") {
    page.eval("field('Message').value = 'half: \\ud83d'");
    page.enter();
    CHECK(peer.text() == "李靖: half: \uFFFD");
    page.until_lines("*李靖: half: \uFFFD");
    server.reset();
    page.until("chat.querySelector('.note') !== null");
    CHECK(page.draft() == "");
}

TEST_CASE_FIXTURE(Chat, "who reads further up keeps the place while old lines go") {
    for (int i = 0; i < 500; ++i) peer.send_frame(Opcode::text, "bot: " + std::to_string(i));
    page.until("lines().length === 500 && toEnd() < 2");
    page.eval("chat.scrollTop = chat.scrollHeight / 2");
    page.until("toEnd() > 400");
    page.eval(
        "window.place = [...chat.querySelectorAll('.line')]"
        ".find((line) => line.getBoundingClientRect().top > chat.getBoundingClientRect().top)");
    const std::string top = page.eval("place.getBoundingClientRect().top");
    for (int i = 500; i < 600; ++i) peer.send_frame(Opcode::text, "bot: " + std::to_string(i));
    page.until("lines().at(-1) === 'bot: 599' && lines().length === 500");
    CHECK(page.is("Math.abs(place.getBoundingClientRect().top - " + top + ") < 2"));
    // The group has lost its head, and its next line says the name.
    CHECK(page.is(
        "parseFloat(getComputedStyle(chat.querySelector('.line .who')).fontSize) > 0"));
}

TEST_CASE_FIXTURE(Chat,
                  "the log says once that the connection has ended, however many attempts follow") {
    peer.send_frame(Opcode::text, "bot: before");
    page.until_lines("bot: before");
    server.reset();
    page.until("dials.length > 3 || (status().includes('Retrying') && skip(5000), false)");
    CHECK(
        page.is("[...chat.children].map((line) => line.matches('.note')).join() === 'false,true'"));
    CHECK(page.is("/connection/i.test(chat.lastElementChild.textContent)"));
    restart();
    page.until_connected();
    peer.send_frame(Opcode::text, "bot: after");
    page.until_lines("bot: before|bot: after");
}

// With a browser of its own, for the other tests may still need theirs.
TEST_CASE("the browser goes, and leaves nothing behind") {
    browser();  // what it left is known to this process, see there
    std::string folder;
    {
        Browser other;
        folder = other.folder();
        CHECK(fs::exists(folder));
        if (fs::exists("/proc")) CHECK(!processes_with(folder).empty());
        other.close();
    }
    CHECK(!fs::exists(folder));
    wait_until("all its processes to end", [&] { return processes_with(folder).empty(); });
}

}
