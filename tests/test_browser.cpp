// The chat page as somebody uses it: in a real Chromium without a screen, with key presses and clicks that the browser
// takes for a person's. It is driven through its DevTools protocol, which is itself a WebSocket: these tests reach it
// through Peer, so through the project's own handshake and frames, and the page reaches ./server through Chromium's.
#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../base64.h"
#include "../ws_handshake.h"
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

// --- JSON, as much of it as the protocol takes: what Chromium writes is well-formed and has no blanks ----------------

std::string in_quotes(std::string_view text) {
    std::string json = "\"";
    for (const char c : text) {
        if (c >= 0 && c < ' ') json.append("\\u00").append(hex({&c, 1}));
        else json.append(c == '"' || c == '\\' ? "\\" : "") += c;
    }
    return json + '"';
}

void append_utf8(std::string& text, unsigned code) {
    const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes behind the first
    const unsigned first = more == 0 ? code : (0xFF00u >> (more + 1) & 0xFF) | code >> 6 * more;
    text += static_cast<char>(first);
    for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (code >> 6 * i & 0x3F));
}

struct Json {
    std::string raw{};  // one value from its first character to its last; empty: there is none

    // What stands between its brackets: the items of an array; of an object the keys and values in turn.
    std::vector<Json> items() const {
        std::vector<Json> found;
        std::size_t start = 1;
        int depth = 0;
        bool in_string = false;
        for (std::size_t i = 0; i < raw.size(); ++i) {
            const char c = raw[i];
            if (in_string && c == '\\') ++i;
            else if (c == '"') in_string = !in_string;
            if (in_string) continue;
            depth += (c == '{' || c == '[') - (c == '}' || c == ']');
            if (depth > 1 || (depth == 1 && c != ',' && c != ':')) continue;
            if (i > start) found.push_back({raw.substr(start, i - start)});
            start = i + 1;
        }
        return found;
    }

    Json operator[](std::string_view key) const {
        const auto all = items();
        for (std::size_t i = 0; i + 1 < all.size(); i += 2) {
            if (all[i].raw == in_quotes(key)) return all[i + 1];
        }
        return {};
    }

    // A string without its quotes and escapes; anything else as it is.
    std::string text() const {
        if (!raw.starts_with('"')) return raw;
        std::string plain;
        for (std::size_t i = 1; i + 1 < raw.size(); ++i) {
            constexpr std::string_view escapes = "bfnrt", meanings = "\b\f\n\r\t";
            if (raw[i] != '\\') plain += raw[i];
            else if (const char c = raw[++i]; c == 'u') append_utf8(plain, code_point(i));
            else plain += escapes.find(c) == escapes.npos ? c : meanings[escapes.find(c)];
        }
        return plain;
    }

private:
    unsigned unit(std::size_t at) const { return static_cast<unsigned>(std::stoul(raw.substr(at, 4), nullptr, 16)); }

    // Of \uXXXX whose u stands at `i`, or of two of these that are a surrogate pair; moves `i` to the last digit.
    unsigned code_point(std::size_t& i) const {
        const unsigned first = unit(i + 1);
        i += 4;
        if (first < 0xD800 || first > 0xDFFF) return first;
        const unsigned second = raw.compare(i + 1, 2, "\\u") == 0 ? unit(i + 3) : 0;
        if (first > 0xDBFF || second < 0xDC00 || second > 0xDFFF) return 0xFFFD;  // half a character
        i += 6;
        return 0x10000 + ((first & 0x3FF) << 10) + (second & 0x3FF);
    }
};

// A value on its way to Chromium, and an object of such values.
struct Value : Json {
    Value(const std::string& text) : Json{in_quotes(text)} {}
    Value(const char* text) : Json{in_quotes(text)} {}
    Value(bool yes) : Json{yes ? "true" : "false"} {}
    Value(int number) : Json{std::to_string(number)} {}
    Value(const Json& json) : Json(json) {}
};
using Members = std::initializer_list<std::pair<std::string_view, Value>>;

Json object(Members members) {
    std::string json = "{";
    for (const auto& [key, value] : members) {
        json.append(json.size() > 1 ? "," : "").append(in_quotes(key)).append(":").append(value.raw);
    }
    return {json + '}'};
}

// --- Chromium --------------------------------------------------------------------------------------------------------

// CHROMIUM in the environment, or what PATH has; empty when there is none.
std::string chromium_path() {
    const char *given = std::getenv("CHROMIUM"), *path = std::getenv("PATH");
    if (given && *given) return given;
    std::istringstream folders(path ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
        for (const char* name : {"/chromium", "/chromium-browser", "/google-chrome"}) {
            if (access((folder + name).c_str(), X_OK) == 0) return folder + name;
        }
    }
    return "";
}

// An empty folder for the time being. Chromium is to write nowhere else.
struct Folder {
    std::string path = (fs::temp_directory_path() / "browser-test-XXXXXX").string();
    Folder() { if (!mkdtemp(path.data())) fail("mkdtemp " + path); }
    ~Folder() {
        std::error_code error = std::make_error_code(std::errc::directory_not_empty);
        for (int i = 0; i < 100 && error; ++i) fs::remove_all(path, error);
    }
};

// Chromium and the dozen processes that it starts: a group of their own, so that none is left behind.
class Chromium : public Process {
public:
    explicit Chromium(const std::string& folder)
        : Process({chromium_path(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   "--disable-dev-shm-usage", "--disable-smooth-scrolling", "--remote-debugging-port=0",
                   "--user-data-dir=" + folder + "/profile"},
                  [&] {
                      setpgid(0, 0);
                      for (const char* name : {"HOME", "TMPDIR"}) setenv(name, folder.c_str(), 1);
                  }),
          group_(pid()) {}

    ~Chromium() {
        kill(-group_, SIGKILL);
        try { if (pid() > 0) wait(); } catch (const std::exception&) {}
        while (waitpid(-group_, nullptr, 0) > 0) {}  // those whose parent was another of them, see the_browser()
    }

private:
    const pid_t group_;
};

struct PageError : std::runtime_error { using runtime_error::runtime_error; };

// The one connection through which all pages are driven. (Chrome DevTools Protocol, flat sessions.)
class Browser {
public:
    struct Event { std::string session, method; Json params; };
    std::vector<Event> events{};  // that came so far

    // What the command answers.
    Json call(std::string_view method, const Json& params, const std::string& session = "") {
        const std::string id = std::to_string(++last_id_);
        std::string command = "{\"id\":" + id + ",\"method\":" + in_quotes(method) + ",\"params\":" + params.raw;
        if (!session.empty()) command.append(",\"sessionId\":").append(in_quotes(session));
        devtools_.send_frame(Opcode::text, command + '}');
        while (true) {
            chromium_.err();  // a pipe that nobody empties would stop it one day
            const Json message{devtools_.text()}, error = message["error"];
            if (message["id"].raw.empty()) {
                events.push_back({message["sessionId"].text(), message["method"].text(), message["params"]});
            } else if (message["id"].raw == id) {
                if (error.raw.empty()) return message["result"];
                throw PageError(command.substr(0, 200) + ": " + error["message"].text());
            }
        }
    }

    // By the browser's own way out, not by the kill that would follow.
    void close() {
        call("Browser.close", object({}));
        chromium_.wait();
    }

    const std::string& folder() const { return folder_.path; }

private:
    // The protocol's address is what Chromium says on stderr when it has started.
    std::string address() {
        const std::string words = "DevTools listening on ws://";
        const auto deadline = Clock::now() + 3 * kPatience;
        while (true) {
            const bool ended = chromium_.ended() || Clock::now() > deadline;
            const std::size_t at = chromium_.err().find(words), end = chromium_.err().find('\n', at);
            if (end != std::string::npos) return chromium_.err().substr(at + words.size(), end - at - words.size());
            if (ended) fail("Chromium does not start, or not in time. Its stderr:\n" + chromium_.err());
            poll(nullptr, 0, 10);
        }
    }

    Peer connect(const std::string& address) {
        const std::string host = address.substr(0, address.find('/')), path = address.substr(address.find('/'));
        std::random_device random;
        std::string nonce(16, '\0');
        for (char& c : nonce) c = static_cast<char>(random());
        const std::string key = base64_encode(nonce);
        Peer peer(std::stoi(host.substr(host.find(':') + 1)));
        peer.send("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n\r\n");
        const std::string response = peer.receive_until("\r\n\r\n"), proof = ": " + accept_key(key) + "\r\n";
        const bool accepted = response.starts_with("HTTP/1.1 101 ") && response.find(proof) != response.npos;
        if (!accepted) fail("Chromium answers the handshake with " + response);
        return peer;
    }

    Folder folder_{};
    Chromium chromium_{folder_.path};
    Peer devtools_{connect(address())};
    int last_id_ = 0;
};

// One for all tests: starting it takes longer than most of them. After a start that failed there is no second try.
std::unique_ptr<Browser>& the_browser() {
    static std::unique_ptr<Browser> browser;
    return browser;
}

Browser& browser() {
    static bool tried = false;
    if (!the_browser() && tried) fail("no browser, see the first failure");
    tried = true;
#ifdef __linux__
    prctl(PR_SET_CHILD_SUBREAPER, 1);  // orphans come to us, or where no init cares for them they would stay as zombies
#endif
    if (!the_browser()) the_browser() = std::make_unique<Browser>();
    return *the_browser();
}

// --- a page ----------------------------------------------------------------------------------------------------------

// What expressions in the page are made of. Things are found as a user finds them, by their role and their words.
constexpr char kWords[] = R"js(
    const field = (label) => [...document.querySelectorAll("label")].find((l) => l.textContent === label).control;
    const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
    const button = (words) => seen("button").find((b) => b.textContent.startsWith(words));
    const middle = (e) => {
      e.scrollIntoView({ block: "nearest" });
      const r = e.getBoundingClientRect(), x = Math.floor(r.x + r.width / 2), y = Math.floor(r.y + r.height / 2);
      return e.contains(document.elementFromPoint(x, y)) ? `${x} ${y}` : "covered";
    };
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

constexpr int kTab = 9, kEnter = 13, kDelete = 46, kComposing = 229, kShift = 8;  // keyCodes; of the modifiers one

std::string url(const Server& server) { return "ws://127.0.0.1:"s.append(std::to_string(server.port())); }

// A tab with the chat page in it, in a browser profile of its own: what it remembers is not another test's.
class Page {
public:
    explicit Page(const std::string& server, const Page* neighbour = nullptr)  // whose profile it shares
        : owner_(!neighbour), profile_(neighbour ? neighbour->profile_ : new_profile()) {
        const Json blank = object({{"url", "about:blank"}, {"browserContextId", profile_}});
        const Json target = browser().call("Target.createTarget", blank)["targetId"];
        const Json flat = object({{"targetId", target}, {"flatten", true}});
        session_ = browser().call("Target.attachToTarget", flat)["sessionId"].text();
        for (const char* domain : {"Page", "Runtime", "Log"}) call(domain + ".enable"s);
        call("Emulation.setFocusEmulationEnabled", {{"enabled", true}});  // as if each page were in front
        resize(1000, 720);
        if (!fs::exists("web/index.html")) fail("no web/index.html here");
        const std::string file = "file://" + fs::absolute("web/index.html").string();
        call("Page.navigate", {{"url", server.empty() ? file : file + "?server=" + server}});
        until("location.protocol === 'file:' && document.readyState === 'complete'");
    }
    explicit Page(const Server& server) : Page(url(server)) { until_status("Connected to " + url(server)); }
    ~Page() {
        for (const auto& [session, method, params] : browser().events) {
            const bool forbidden = params["entry"]["source"].text() == "security";  // by the page's own policy
            const bool broken = forbidden || method == "Runtime.exceptionThrown";
            if (session == session_ && broken) ADD_FAIL_CHECK_AT(__FILE__, __LINE__, params.raw);
        }
        std::erase_if(browser().events, [&](const auto& event) { return event.session == session_; });
        try {
            if (owner_) browser().call("Target.disposeBrowserContext", object({{"browserContextId", profile_}}));
        } catch (const std::exception&) {}  // the browser has gone, as others will tell
    }
    Page(const Page&) = delete;
    Page& operator=(const Page&) = delete;

    Json call(std::string_view method, Members parameters = {}) {
        return browser().call(method, object(parameters), session_);
    }

    // What an expression is in the page, as a string.
    std::string eval(const std::string& expression) {
        const std::string script = "(() => {"s + kWords + "return String(" + expression + "); })()";
        const Json answer = call("Runtime.evaluate", {{"expression", script}}), error = answer["exceptionDetails"];
        if (!error.raw.empty()) throw PageError(expression + ": " + error["exception"]["description"].text());
        return answer["result"]["value"].text();
    }
    bool is(const std::string& condition) { return eval(condition) == "true"; }
    std::string draft() { return eval("field('Message').value"); }

    void until(const std::string& condition) {
        const auto deadline = Clock::now() + kPatience;
        for (std::string now = look(condition); now != "true"; now = look(condition)) {
            const bool in_vain = Clock::now() > deadline;
            if (in_vain) fail(condition + " is " + now + " for ever, in the page\n" + look("document.body.innerText"));
            poll(nullptr, 0, 10);
        }
    }
    void until_lines(const std::string& all) { until("lines().join('|') === "s.append(in_quotes(all))); }
    void until_status(const std::string& words) { until("status().includes("s.append(in_quotes(words)) + ")"); }

    void type(const std::string& text) { call("Input.insertText", {{"text", text}}); }
    // `text` is what the key writes: "\r" for Enter. `code` is the keyCode that the page is told.
    void press(const char* key, int code, const char* text = "", int modifiers = 0) {
        for (const char* type : {*text ? "keyDown" : "rawKeyDown", "keyUp"}) {
            call("Input.dispatchKeyEvent", {{"type", type}, {"key", key}, {"code", key}, {"text", text},
                                            {"windowsVirtualKeyCode", code}, {"modifiers", modifiers}});
        }
    }
    void enter(int modifiers = 0) { press("Enter", kEnter, "\r", modifiers); }
    void say(const std::string& text) { type(text), enter(); }

    // In the middle of an element, which must be there to be hit.
    void mouse(const std::string& element, std::initializer_list<const char*> events, int wheel = 0) {
        std::istringstream at(eval("middle(" + element + ")"));
        int x = 0, y = 0;
        if (!(at >> x >> y)) fail(element + " is " + at.str());
        for (const char* event : events) {
            call("Input.dispatchMouseEvent", {{"type", event}, {"x", x}, {"y", y}, {"deltaX", 0}, {"deltaY", wheel},
                                              {"button", "left"}, {"clickCount", 1}});
        }
    }
    void click(const std::string& element) { mouse(element, {"mousePressed", "mouseReleased"}); }
    void click_button(const std::string& words) { click("button('" + words + "')"); }
    void scroll_up() { mouse("chat", {"mouseWheel"}, -500); }
    void fill(const std::string& label, const std::string& text) {
        click("field('" + label + "')");
        eval("field('" + label + "').select()");
        text.empty() ? press("Delete", kDelete) : type(text);
    }

    void reload() {
        eval("window.before = true");
        call("Page.reload");
        until("!window.before && document.readyState === 'complete'");
    }
    void resize(int width, int height, bool is_phone = false) {
        call("Emulation.setDeviceMetricsOverride",
             {{"width", width}, {"height", height}, {"deviceScaleFactor", 1}, {"mobile", is_phone}});
    }
    void scheme(const char* name) {
        const Json feature = object({{"name", "prefers-color-scheme"}, {"value", name}});
        call("Emulation.setEmulatedMedia", {{"features", Json{"[" + feature.raw + "]"}}});
    }
    void screenshot(const std::string& name) {
        const char* given = std::getenv("SCREENSHOTS");
        const fs::path folder = given ? given : "build/screenshots";
        fs::create_directories(folder);
        const auto image = base64_decode(call("Page.captureScreenshot")["data"].text());
        CHECK(image.value().starts_with("\x89PNG\r\n"));
        std::ofstream(folder / (name + ".png"), std::ios::binary) << *image;
    }

    bool console_has(const std::string& text) {
        eval("0");  // what has been said before is here when this is answered
        return std::ranges::any_of(browser().events, [&](const auto& event) {
            return event.session == session_ && event.method == "Runtime.consoleAPICalled" &&
                   event.params["args"].items().at(0)["value"].text() == text;
        });
    }
    // Processor time that the page has taken, so that a busy machine does not count.
    double busy_seconds() {
        for (const Json& metric : call("Performance.getMetrics")["metrics"].items()) {
            if (metric["name"].text() == "TaskDuration") return std::stod(metric["value"].raw);
        }
        fail("Chromium does not say how long the page was busy");
    }
    // Elements with this role and these words for whoever cannot see them.
    long count(const std::string& role, const std::string& name = "") {
        return std::ranges::count_if(call("Accessibility.getFullAXTree")["nodes"].items(), [&](const Json& node) {
            return node["ignored"].raw == "false" && node["role"]["value"].text() == role &&
                   (name.empty() || node["name"]["value"].text() == name);
        });
    }

private:
    static std::string new_profile() {
        return browser().call("Target.createBrowserContext", object({}))["browserContextId"].text();
    }
    std::string look(const std::string& expression) {
        try { return eval(expression); } catch (const PageError& e) { return e.what(); }  // it may be loading
    }

    const bool owner_;
    const std::string profile_;
    std::string session_{};
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
        page.scheme(scheme);
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

// Last, when nothing else is this process's child.
TEST_CASE("the browser goes, and leaves nothing behind") {
    browser().close();
    const std::string folder = browser().folder();
    CHECK(fs::exists(folder));
    the_browser().reset();
    CHECK(!fs::exists(folder));
    wait_until("all children to end", [] { return waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD; });
}

}
