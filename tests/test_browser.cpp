// The chat page as somebody uses it, in a real Chromium: see browser.h. The page reaches ./server
// through Chromium's WebSocket.
#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
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

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

std::string hex(std::string_view bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes) text += {digits[static_cast<unsigned char>(c) >> 4], digits[c & 15], ' '};
    return text.substr(0, text.size() - !text.empty());
}

// --- the page ---------------------------------------------------------------------------------------

// What expressions in the page are made of. Things are found as a user finds them, by their role and their words.
constexpr char kWords[] = R"js(
    const field = (label) => [...document.querySelectorAll("label")].find((l) => l.textContent === label).control;
    const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
    const button = (words) => seen("button").find((b) => b.textContent.startsWith(words));
    const status = () => document.querySelector("[role=status]").textContent;
    const chat = document.querySelector("[role=log]");
    const toEnd = () => chat.scrollHeight - chat.scrollTop - chat.clientHeight;   // pixels
    const lines = () => [...chat.querySelectorAll(".line:not(.note)")].map((line) =>   // "*" marks one's own
      (line.querySelector(".meta").textContent.startsWith("You") ? "*" : "") + line.querySelector(".text").textContent);
    const isWithin = (width) => [innerWidth, document.scrollingElement.scrollWidth].every((w) => w === width) &&
      seen("input, textarea, button, summary").map((e) => e.getBoundingClientRect())
        .every(({ left, right }) => left >= 0 && right <= width);
    const headers = (way) => seen("details li").reverse().filter((frame) => frame.textContent.includes(way))
      .map((frame) => [...frame.querySelectorAll(".part .hex")].map((part) => part.textContent).join(" ")).join("\n");
    // The lowest contrast of all that can be read, with its text; WCAG 2.2, 1.4.3.
    const contrast = () => {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      const rgba = (colour) => {   // in whatever notation
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255);
      };
      const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) + 0.05;
      const ground = (e) => {
        const colour = rgba(getComputedStyle(e).backgroundColor);
        return colour[3] === 1 ? light(colour) : ground(e.parentElement);
      };
      const ratio = (a, b) => Math.max(a, b) / Math.min(a, b);
      const texts = seen("body *").filter((e) => e.matches("input, textarea") ||
        [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
      const all = texts.flatMap((e) => ["", "::placeholder"].map((part) =>
        [ratio(light(rgba(getComputedStyle(e, part).color)), ground(e)), e.textContent || e.id]));
      return all.sort(([a], [b]) => a - b)[0].join(" ");
    };
)js";

std::string url(const Server& server) {
    return "ws://127.0.0.1:" + std::to_string(server.port());
}

// A tab with the chat page in it.
class Page : public Tab {
public:
    explicit Page(const std::string& server, const Page* neighbour = nullptr) : Tab(neighbour) {
        teach(kWords);
        if (!fs::exists("web/index.html")) fail("no web/index.html here");
        const std::string file = "file://" + fs::absolute("web/index.html").string();
        open(server.empty() ? file : file + "?server=" + server);
    }
    explicit Page(const Server& server) : Page(url(server)) {
        until_status("Connected to " + url(server));
    }

    std::string draft() { return eval("field('Message').value"); }
    void until_lines(const std::string& all) { until("lines().join('|') === " + in_quotes(all)); }
    void until_status(const std::string& words) {
        until("status().includes(" + in_quotes(words) + ")");
    }
    void enter(int modifiers = 0) { press("Enter", kEnter, "\r", modifiers); }
    void say(const std::string& text) {
        type(text);
        enter();
    }
    void click_button(const std::string& words) { click("button('" + words + "')"); }
    void scroll_up() { mouse("chat", {"mouseWheel"}, -500); }
    void fill(const std::string& label, const std::string& text) {
        click("field('" + label + "')");
        eval("field('" + label + "').select()");
        if (text.empty()) press("Delete", kDelete);
        else type(text);
    }
};

// What most tests begin with: 李靖 at the page, about to write, and somebody with a plain client.
struct Chat {
    std::optional<Server> server{std::in_place, std::vector{"--trace"s}};
    Peer peer = newcomer();
    Page page{*server};

    Chat() {
        page.fill("Name", "李靖");
        page.click("field('Message')");
    }
    Peer newcomer() { return std::move(join(*server, 1)[0]); }
    void restart() {  // at the same port
        const std::vector<std::string> place{"127.0.0.1", std::to_string(server->port())};
        server.reset();
        server.emplace(std::vector<std::string>{}, std::function<void()>{}, place);
        peer = newcomer();
    }
};

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

// --- the tests -------------------------------------------------------------------------------------------------------

TEST_CASE("there is a Chromium, or the page's tests say that they are skipped" * doctest::test_suite("browser")) {
    const char* ci = std::getenv("CI");
    const bool found = !chromium_path().empty();
    if (!found && ci && ci == "true"s) FAIL("no Chromium found, and CI=true: `make deps` installs it");
    if (!found) MESSAGE("SKIPPED: the page's tests in a real browser, for none is found (`make deps` installs one)");
}

TEST_SUITE("browser" * doctest::skip(chromium_path().empty())) {

TEST_CASE("strings come through the protocol as they are") {
    CHECK(Json{R"("a\"\\\/\b\n\u0007\u00e9\u674e\ud83d\ude00\ud83d!")"}.text() == "a\"\\/\b\n\aé李😀\xEF\xBF\xBD!");
    CHECK(Json{R"({"a":{"b":"x"},"b":[1,{"c":"},\""},[]],"d":""})"}["b"].items().at(1)["c"].text() == "},\"");
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

TEST_CASE_FIXTURE(Chat, "each part has its role and its label, once, and the keyboard reaches all of them") {
    for (const char* role : {"status", "log"}) CHECK_MESSAGE(page.count(role) == 1, role);
    for (const char* name : {"Message", "Server", "Name"}) CHECK_MESSAGE(page.count("textbox", name) == 1, name);
    for (const char* name : {"Send", "Disconnect"}) CHECK_MESSAGE(page.count("button", name) == 1, name);
    CHECK(page.count("textbox") == 3);

    page.click("field('Server')");
    std::string way;
    for (int i = 0; i < 6; ++i) {
        page.press("Tab", kTab);
        way += page.eval("((e) => e.labels?.[0]?.textContent || e.ariaLabel || e.textContent)(document.activeElement)");
        way += ", ";
    }
    CHECK(way == "Disconnect, Chat, Name, Message, Send, On the wire, ");
    page.enter();
    page.until("button('125, then 126 bytes') !== undefined");
}

TEST_CASE_FIXTURE(Chat, "two pages chat: a line of one's own is marked, and everybody sees it once") {
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
        CHECK(each->is("Math.abs(Date.now() - new Date(chat.querySelector('time').dateTime)) < 60000"));
    }
}

TEST_CASE_FIXTURE(Chat, "a plain client takes part: the wire says `name: text` and nothing else") {
    page.say("  from the page");
    CHECK(peer.text() == "李靖:   from the page");
    peer.send_frame(Opcode::text, "nc: hello");
    peer.send_frame(Opcode::text, "no name at all");
    peer.send_frame(Opcode::binary, "\x01\xAB\xFF text"s + std::string(20, '\0'));
    page.until_lines("*李靖:   from the page|nc: hello|no name at all|"
                     "binary message (28 bytes) 01 ab ff 20 74 65 78 74 00 00 00 00 00 00 00 00 …");
}

TEST_CASE_FIXTURE(Chat, "whatever a message says is shown as text") {
    const std::string evil = "<img src=x onerror=\"window.done = 1\">: <b>bold</b> &amp; "
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

TEST_CASE_FIXTURE(Chat, "Enter belongs to the input method while it composes, and sends once when it is done") {
    page.eval("(window.keys = [], addEventListener('keydown', (e) => keys.push(e.isComposing, e.keyCode), true))");
    page.call("Input.imeSetComposition", {{"text", "nihao"}, {"selectionStart", 5}, {"selectionEnd", 5}});
    page.press("Enter", kComposing);  // what Chromium and Firefox tell
    page.press("Enter", kEnter);      // only isComposing
    CHECK(page.draft() == "nihao");
    page.type("你好");                // takes the composition's place
    page.press("Enter", kComposing);  // only keyCode: Safari, where this Enter comes after the composition's end
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
    page.eval("(window.heard = '', new MutationObserver(() => { heard += status(); })"
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
    page.until_status("Connected to");
    CHECK(page.draft() == "a draft 草稿");
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
    poll(nullptr, 0, 1200);  // the first attempt to come back, which must not be, would be here within a second
    CHECK(server->out() == out);
    CHECK(page.eval("status()").starts_with("Disconnected Press Connect"));
    page.click_button("Connect");
    page.until_status("Connected to");
    CHECK(page.draft() == "kept");
}

TEST_CASE_FIXTURE(Chat, "a wrong address is explained in words") {
    const std::string good = url(*server), bare = good.substr(5);
    const SilentPort silent;
    const std::string nobody = "ws://127.0.0.1:"s.append(std::to_string(silent.number()));
    struct Row { std::string address, words; };
    const std::vector<Row> table{{"http://" + bare, "begins with ws://. Try ws://" + bare},
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
    for (int i = 0; i < 3000; ++i) burst += masked(Opcode::text, "bot: message " + std::to_string(i));
    peer.send(burst);
    page.say("meanwhile");
    page.until("['bot: message 2999', '*李靖: meanwhile'].every((line) => lines().includes(line))");
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

TEST_CASE_FIXTURE(Chat, "the name is remembered, over a reload and in the next tab") {
    page.reload();
    CHECK(page.eval("field('Name').value") == "李靖");
    page.until_status("Connected to");
    Page next("", &page);  // without ?server=: the last one used
    CHECK(next.eval("field('Name').value") == "李靖");
    next.until_status("Connected to " + url(*server));
}

TEST_CASE_FIXTURE(Chat, "the panel shows the headers that really were on the wire") {
    page.click("seen('summary')[0]");
    for (const char* words : {"125, then", "65535, then", "50 × 中"}) page.click_button(words);
    page.until("headers('received').split('\\n').length === 5");
    std::string received, payload, sent;
    for (int i = 0; i < 5; ++i) {
        const Peer::Frame frame = peer.next_frame();
        received.append(i == 0 ? "" : "\n").append(hex(frame.header.bytes));
        payload = frame.payload;
    }
    CHECK(received == "81 7d\n81 7e 00 7e\n81 7e ff ff\n81 7f 00 00 00 00 00 01 00 00\n81 7e 00 96");
    CHECK(page.eval("headers('received')") == received);
    CHECK(payload == repeat("中", 50));
    const std::string start = hex(payload.substr(0, 125)) + " ┊ " + hex(payload.substr(125));
    CHECK(page.eval("seen('details li .payload')[0].textContent").starts_with(start));

    std::istringstream trace(server->wait_for("150 bytes, key"));
    for (std::string line; std::getline(trace, line);) {
        const std::size_t from = line.find(": ") + 2, to = line.find(" | FIN text");
        if (!line.starts_with("<- ") || to == line.npos) continue;
        sent.append(sent.empty() ? "" : "\n").append(line, from, to - from - 11).append("?? ?? ?? ??");  // the key
    }
    CHECK(page.eval("headers('sent')") == sent);
    for (const std::string length : {"125 (7 bit)", "126 (7+16 bit)", "65535 (7+16 bit)", "65536 (7+64 bit)"}) {
        const std::string parts = "seen('.part').filter((part) => part.textContent.endsWith('length " + length + "'))";
        CHECK_MESSAGE(page.is(parts + ".length === 2"), length);  // sent and received
    }
}

TEST_CASE_FIXTURE(Chat, "320 pixels are wide enough for everything") {
    page.resize(320, 568, true);
    peer.send_frame(Opcode::text, "bot: " + repeat("long", 500));
    peer.send_frame(Opcode::text, "bot: http://example.com/" + repeat("path/", 20) + " " + repeat("李", 100));
    page.fill("Name", repeat("W", 24));
    page.fill("Message", repeat("unbroken", 30));
    page.until("lines().length === 2");
    CHECK(page.is("isWithin(320)"));
    CHECK(page.is("((r) => r.top >= 0 && r.bottom <= innerHeight)(button('Send').getBoundingClientRect())"));
    page.enter();
    page.click("seen('summary')[0]");
    page.click_button("50 × 中");
    page.until("headers('received') !== ''");
    CHECK(page.is("isWithin(320)"));
}

TEST_CASE_FIXTURE(Chat, "in light and dark, small and large, all that is said can be read") {
    const auto look = [&](const std::string& name, const char* scheme) {
        page.media({{"prefers-color-scheme", scheme}});
        const std::string lowest = page.eval("contrast()");
        CHECK_MESSAGE(std::stod(lowest) >= 4.5, name, ": ", lowest);
        page.screenshot(name);
        return page.eval("['color', 'backgroundColor'].map((key) => getComputedStyle(document.documentElement)[key])");
    };
    peer.send_frame(Opcode::text, "红拂: 久仰大名! Is this the select() server that everybody talks about?");
    page.until("lines().length === 1");
    page.type("It is. One thread, one loop,");
    page.enter(kShift);
    page.say("and 红拂 is heard by all 😀");
    page.until("lines().length === 2");
    peer.send_frame(Opcode::text, "虬髯客: <b>not bold</b> &amp; a line that is long enough to be broken, which is a good "
                                  "thing for lines to be able to do, https://example.com/" + repeat("a-long-path/", 9));
    peer.send_frame(Opcode::binary, "\x00\x01\x02\x03\xFE\xFF"s);
    page.until("lines().length === 4");
    page.type("a draft, not sent yet");
    CHECK(look("light", "light") != look("dark", "dark"));
    page.resize(390, 844, true);
    look("phone", "light");
    look("phone-dark", "dark");
    page.resize(1280, 860);
    page.click("seen('summary')[0]");
    for (const char* words : {"125, then", "50 × 中"}) page.click_button(words);
    page.until("lines().length === 7");
    look("wire", "light");
    look("wire-dark", "dark");
    page.click("seen('summary')[0]");
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
    page.until_status("No connection to");  // the next attempt has failed
    CHECK(page.console_has("error"));
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
