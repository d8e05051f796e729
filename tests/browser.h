// A real Chromium without a screen, for the tests that need one. It is driven through its DevTools
// protocol, which is itself a WebSocket: the tests reach it through Peer, so through the project's
// own handshake and frames. Key presses and clicks are such that the browser takes them for a
// person's.
#pragma once

#include <sys/types.h>

#include <functional>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness.h"

// JSON, as much of it as the protocol takes. What Chromium writes is well-formed and has no blanks.
struct Json {
    std::string raw{};  // one value from its first character to its last; empty: there is none

    // What stands between its brackets: the items of an array; of an object the keys and values in
    // turn.
    std::vector<Json> items() const;
    Json operator[](std::string_view key) const;
    std::string text() const;  // a string without its quotes and escapes; anything else as it is
};

std::string in_quotes(std::string_view text);  // as a JSON string, which JavaScript reads, too

// A value on its way to Chromium, and an object of such values.
struct Value : Json {
    Value(const std::string& text) : Json{in_quotes(text)} {}
    Value(const char* text) : Json{in_quotes(text)} {}
    Value(bool yes) : Json{yes ? "true" : "false"} {}
    Value(int number) : Json{std::to_string(number)} {}
    Value(const Json& json) : Json(json) {}
};
using Members = std::initializer_list<std::pair<std::string_view, Value>>;
Json object(Members members);

// CHROMIUM in the environment, or what PATH has; empty when there is none.
std::string chromium_path();

// What the page answers to an expression that throws.
struct PageError : std::runtime_error {
    using runtime_error::runtime_error;
};

// An empty folder for the time being. Chromium is to write nowhere else.
class Folder {
public:
    Folder();
    ~Folder();
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    const std::string& path() const { return path_; }

private:
    std::string path_;
};

// Chromium and the dozen processes that it starts: a group of their own, so that none is left
// behind.
class Chromium : public Process {
public:
    explicit Chromium(const std::string& folder);
    ~Chromium();

private:
    const pid_t group_;
};

// Chromium, and the one connection through which all its tabs are driven (flat sessions).
class Browser {
public:
    Browser() = default;
    Browser(const Browser&) = delete;
    Browser& operator=(const Browser&) = delete;

    struct Event {
        std::string session;
        std::string method;
        Json params;
    };
    std::vector<Event> events{};  // that came so far

    // What the command answers.
    Json call(std::string_view method, const Json& params, const std::string& session = "");
    void close();  // by the browser's own way out, not by the kill that would follow
    const std::string& folder() const { return folder_.path(); }
    std::string blank_page() const;  // the path of an empty page, a file

private:
    std::string address();
    static Peer connect(const std::string& address);

    Folder folder_{};
    Chromium chromium_{folder_.path()};
    Peer devtools_{connect(address())};
    int last_id_ = 0;
};

// One for all tests, because starting it takes longer than most of them. It ends with the process.
// After a start that failed there is no second try.
Browser& browser();

// The keyCodes that the tests press; of the modifiers, Shift.
constexpr int kTab = 9;
constexpr int kEnter = 13;
constexpr int kEscape = 27;
constexpr int kSpace = 32;
constexpr int kDelete = 46;
constexpr int kComposing = 229;
constexpr int kShift = 8;

// A tab in a browser profile of its own: what one test leaves behind is not there for another.
class Tab {
public:
    struct Place {
        std::string profile;
        std::string target;
        std::string session;
    };

    explicit Tab(const Tab* neighbour = nullptr);  // whose profile it shares
    ~Tab();
    Tab(const Tab&) = delete;
    Tab& operator=(const Tab&) = delete;

    Json call(std::string_view method, Members parameters = {});
    const Place& place() const { return place_; }

    // JavaScript that stands in front of every expression from now on.
    void teach(const std::string& words) { words_ += words; }
    // JavaScript that runs in each page before the page's own.
    void prepare(const std::string& script);
    void open(const std::string& url);  // and waits until it is loaded
    void reload();

    std::string eval(const std::string& expression);  // what it is in the page, as a string
    bool is(const std::string& condition) { return eval(condition) == "true"; }
    void until(const std::string& condition);

    // `text` is what the key writes: "\r" for Enter. `code` is the keyCode that the page is told.
    void press(const char* key, int code, const char* text = "", int modifiers = 0);
    void type(const std::string& text) { call("Input.insertText", {{"text", text}}); }
    // In the middle of an element, which must be there to be hit.
    void mouse(const std::string& element, std::initializer_list<const char*> events,
               int wheel = 0);
    void click(const std::string& element);

    void resize(int width, int height, bool is_phone = false, int percent = 100);
    void media(Members features);  // e.g. prefers-color-scheme: dark
    void screenshot(const std::string& name);

    // What came for this tab so far, of one kind.
    std::vector<Json> events(std::string_view method);
    bool console_has(const std::string& text);  // by a call of console.log() and its like
    double busy_seconds();  // processor time that the page has taken: a busy machine does not count
    // Elements with this role and these words for whoever cannot see them.
    long count(const std::string& role, const std::string& name = "");

private:
    std::string look(const std::string& expression);
    void clean();

    const bool owns_profile_;
    const Place place_;
    std::vector<std::string> scripts_{};  // of prepare()
    std::string words_{};
};

// --- the chat page -------------------------------------------------------------------------------

std::string url(const Server& server);  // ws://127.0.0.1:PORT

// A tab with the chat page in it.
class Page : public Tab {
public:
    // `server` is the page's ?server=; `script` runs before the page's own.
    explicit Page(const std::string& server, const Page* neighbour = nullptr,
                  const std::string& script = "");
    explicit Page(const Server& server);  // and waits until it is connected

    std::string draft() { return eval("field('Message').value"); }
    void until_lines(const std::string& all) { until("lines().join('|') === " + in_quotes(all)); }
    void until_status(const std::string& words) {
        until("status().includes(" + in_quotes(words) + ")");
    }
    // Lets the time pass that the page wants to wait before its next attempt.
    void skip_to_attempt();
    // However many attempts it takes. Each has all the time that it needs.
    void until_connected();
    void enter(int modifiers = 0) { press("Enter", kEnter, "\r", modifiers); }
    void say(const std::string& text) {
        type(text);
        enter();
    }
    void click_button(const std::string& words) { click("button('" + words + "')"); }
    void scroll_up() { mouse("chat", {"mouseWheel"}, -500); }
    void fill(const std::string& label, const std::string& text);
};

// What most tests of the page begin with: 李靖 at the page, about to write, and somebody with a
// plain client.
struct Chat {
    std::optional<Server> server{std::in_place, std::vector<std::string>{"--trace"}};
    Peer peer = newcomer();
    const int port = server->port();
    Page page{*server};

    Chat();
    Peer newcomer() { return std::move(join(*server, 1)[0]); }
    void restart();  // at the same port
};
