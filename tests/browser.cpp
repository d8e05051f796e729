#include "browser.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <system_error>

#include "../base64.h"
#include "../ws_handshake.h"

namespace fs = std::filesystem;

namespace {

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// --- JSON ----------------------------------------------------------------------------------------

void append_utf8(std::string& text, unsigned code) {
    if (code < 0x80) {
        text += static_cast<char>(code);
        return;
    }
    int more = 1;  // bytes behind the first
    if (code >= 0x800) more = 2;
    if (code >= 0x10000) more = 3;
    const unsigned marks = 0xFF00u >> (more + 1) & 0xFF;  // as many 1 bits as there are bytes
    text += static_cast<char>(marks | code >> 6 * more);
    for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (code >> 6 * i & 0x3F));
}

// The four hexadecimal digits at `at`.
unsigned unit(const std::string& raw, std::size_t at) {
    return static_cast<unsigned>(std::stoul(raw.substr(at, 4), nullptr, 16));
}

// Of \uXXXX whose u stands at `i`, or of two of these that are a surrogate pair.
// Moves `i` to the last digit.
unsigned code_point(const std::string& raw, std::size_t& i) {
    const unsigned first = unit(raw, i + 1);
    i += 4;
    if (first < 0xD800 || first > 0xDFFF) return first;
    const unsigned second = raw.compare(i + 1, 2, "\\u") == 0 ? unit(raw, i + 3) : 0;
    if (first > 0xDBFF || second < 0xDC00 || second > 0xDFFF) return 0xFFFD;  // half a character
    i += 6;
    return 0x10000 + ((first & 0x3FF) << 10) + (second & 0x3FF);
}

}  // namespace

std::string in_quotes(std::string_view text) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string json = "\"";
    for (const char c : text) {
        if (c >= 0 && c < ' ') {
            json += "\\u00";
            json += digits[static_cast<std::size_t>(c >> 4)];
            json += digits[static_cast<std::size_t>(c & 15)];
        } else {
            if (c == '"' || c == '\\') json += '\\';
            json += c;
        }
    }
    return json + '"';
}

std::vector<Json> Json::items() const {
    std::vector<Json> found;
    std::size_t start = 1;
    int depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < raw.size(); ++i) {
        const char c = raw[i];
        if (in_string && c == '\\') {
            ++i;
        } else if (c == '"') {
            in_string = !in_string;
        }
        if (in_string) continue;
        if (c == '{' || c == '[') ++depth;
        if (c == '}' || c == ']') --depth;
        const bool separates = depth == 0 || (depth == 1 && (c == ',' || c == ':'));
        if (!separates) continue;
        if (i > start) found.push_back({raw.substr(start, i - start)});
        start = i + 1;
    }
    return found;
}

Json Json::operator[](std::string_view key) const {
    const std::string quoted = in_quotes(key);
    const std::vector<Json> all = items();
    for (std::size_t i = 0; i + 1 < all.size(); i += 2) {
        if (all[i].raw == quoted) return all[i + 1];
    }
    return {};
}

std::string Json::text() const {
    constexpr std::string_view escapes = "bfnrt";
    constexpr std::string_view meanings = "\b\f\n\r\t";
    if (!raw.starts_with('"')) return raw;
    std::string plain;
    for (std::size_t i = 1; i + 1 < raw.size(); ++i) {
        if (raw[i] != '\\') {
            plain += raw[i];
            continue;
        }
        ++i;
        const std::size_t escape = escapes.find(raw[i]);
        if (raw[i] == 'u') {
            append_utf8(plain, code_point(raw, i));
        } else if (escape != escapes.npos) {
            plain += meanings[escape];
        } else {
            plain += raw[i];
        }
    }
    return plain;
}

Json object(Members members) {
    std::string json = "{";
    for (const auto& [key, value] : members) {
        if (json.size() > 1) json += ',';
        json += in_quotes(key) + ":" + value.raw;
    }
    return {json + '}'};
}

// --- Chromium ------------------------------------------------------------------------------------

std::string chromium_path() {
    const char* given = std::getenv("CHROMIUM");
    if (given && *given) return given;
    const char* path = std::getenv("PATH");
    std::istringstream folders(path ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
        for (const char* name : {"/chromium", "/chromium-browser", "/google-chrome"}) {
            if (access((folder + name).c_str(), X_OK) == 0) return folder + name;
        }
    }
    return "";
}

// Its name says whose it is: a run that was killed leaves its folders, the next removes them.
static const std::string kFolderName = "browser-test-";

static void remove_folders_of_the_dead() {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(fs::temp_directory_path(), ignored)) {
        const std::string name = entry.path().filename().string();
        if (!name.starts_with(kFolderName)) continue;
        const int owner = std::atoi(name.c_str() + kFolderName.size());
        const bool dead = owner > 0 && kill(owner, 0) != 0 && errno == ESRCH;
        if (dead) fs::remove_all(entry.path(), ignored);
    }
}

Folder::Folder() {
    const std::string name = kFolderName + std::to_string(getpid()) + "-XXXXXX";
    path_ = (fs::temp_directory_path() / name).string();
    remove_folders_of_the_dead();
    if (!mkdtemp(path_.data())) fail("mkdtemp " + path_);
}

Folder::~Folder() {
    // A process that is just ending may still write there.
    std::error_code error = std::make_error_code(std::errc::directory_not_empty);
    for (int i = 0; i < 100 && error; ++i) fs::remove_all(path_, error);
}

// What nobody looks at takes a third of Chromium's time: its first window, the lists below each window's
// address bar, which are pages of their own, and a new frame for each document of a tab.
Chromium::Chromium(const std::string& folder)
    : Process({chromium_path(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
               "--no-first-run", "--no-startup-window", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
               "--disable-smooth-scrolling",
               "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup,"
               "RenderDocument",
               "--remote-debugging-port=0", "--user-data-dir=" + folder + "/profile"},
              [&folder] {
                  setpgid(0, 0);
                  setenv("HOME", folder.c_str(), 1);
                  setenv("TMPDIR", folder.c_str(), 1);
              }),
      group_(pid()) {}

Chromium::~Chromium() {
    kill(-group_, SIGKILL);
    try {
        if (pid() > 0) wait();
    } catch (const std::exception&) {
        // It has been waited for already.
    }
    // Those whose parent was another of them come to us, see browser().
    while (waitpid(-group_, nullptr, 0) > 0) {
    }
}

// The protocol's address is what Chromium says on stderr when it has started.
std::string Browser::address() {
    const std::string words = "DevTools listening on ws://";
    const auto deadline = Clock::now() + 3 * kPatience;
    while (true) {
        const bool in_vain = chromium_.ended() || Clock::now() > deadline;
        const std::string& err = chromium_.err();
        const std::size_t at = err.find(words);
        const std::size_t end = err.find('\n', at);
        if (end != std::string::npos) return err.substr(at + words.size(), end - at - words.size());
        if (in_vain) fail("Chromium does not start, or not in time. Its stderr:\n" + err);
        poll(nullptr, 0, 10);
    }
}

Peer Browser::connect(const std::string& address) {
    const std::string host = address.substr(0, address.find('/'));
    const std::string path = address.substr(address.find('/'));
    std::random_device random;
    std::string nonce(16, '\0');
    for (char& c : nonce) c = static_cast<char>(random());
    const std::string key = base64_encode(nonce);
    Peer peer(std::stoi(host.substr(host.find(':') + 1)));
    peer.send("GET " + path + " HTTP/1.1\r\nHost: " + host +
              "\r\nUpgrade: websocket\r\n"
              "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
              "Sec-WebSocket-Key: " +
              key + "\r\n\r\n");
    const std::string response = peer.receive_until("\r\n\r\n");
    const std::string proof = ": " + accept_key(key) + "\r\n";
    const bool accepted =
        response.starts_with("HTTP/1.1 101 ") && response.find(proof) != response.npos;
    if (!accepted) fail("Chromium answers the handshake with " + response);
    return peer;
}

Json Browser::call(std::string_view method, const Json& params, const std::string& session) {
    ++last_id_;
    const std::string id = std::to_string(last_id_);
    std::string command = "{\"id\":" + id + ",\"method\":" + in_quotes(method);
    command += ",\"params\":" + params.raw;
    if (!session.empty()) command += ",\"sessionId\":" + in_quotes(session);
    command += '}';
    devtools_.send_frame(Opcode::text, command);
    while (true) {
        chromium_.err();  // a pipe that nobody empties would stop it one day
        const Json message{devtools_.text()};
        const Json answers = message["id"];
        if (answers.raw.empty()) {
            events.push_back(
                {message["sessionId"].text(), message["method"].text(), message["params"]});
            continue;
        }
        if (answers.raw != id) continue;
        const Json error = message["error"];
        if (error.raw.empty()) return message["result"];
        throw PageError(command.substr(0, 200) + ": " + error["message"].text());
    }
}

std::string Browser::blank_page() const {
    const std::string path = folder() + "/blank.html";
    if (!fs::exists(path)) std::ofstream(path) << "<!DOCTYPE html><title>blank</title>";
    return path;
}

void Browser::close() {
    call("Browser.close", object({}));
    chromium_.wait();
}

Browser& browser() {
    static std::unique_ptr<Browser> the_one;
    static bool tried = false;
    if (!the_one && tried) fail("no browser, see the first failure");
    tried = true;
    if (!the_one) {
#ifdef __linux__
        // Orphans come to us, or where no init cares for them they would stay as zombies.
        prctl(PR_SET_CHILD_SUBREAPER, 1);
#endif
        the_one = std::make_unique<Browser>();
    }
    return *the_one;
}

// --- a tab ---------------------------------------------------------------------------------------

namespace {

std::string new_profile() {
    return browser().call("Target.createBrowserContext", object({}))["browserContextId"].text();
}

// Tabs that tests have left, as clean as new ones. A new one needs a process of its own, which
// takes longer than most tests do.
std::vector<Tab::Place> spares;

Tab::Place new_place(const std::string& profile) {
    const Json blank = object({{"url", "about:blank"}, {"browserContextId", profile}});
    const Json target = browser().call("Target.createTarget", blank)["targetId"];
    const Json flat = object({{"targetId", target}, {"flatten", true}});
    const std::string session = browser().call("Target.attachToTarget", flat)["sessionId"].text();
    return {profile, target.text(), session};
}

Tab::Place take_place(const Tab* neighbour) {
    if (neighbour) return new_place(neighbour->place().profile);
    if (spares.empty()) return new_place(new_profile());
    const Tab::Place place = spares.back();
    spares.pop_back();
    return place;
}

// Finds the middle of an element, which must be in sight and not covered by another.
constexpr char kMiddle[] = R"js(
    const middle = (e) => {
      e.scrollIntoView({ block: "nearest" });
      const r = e.getBoundingClientRect();
      const x = Math.floor(r.x + r.width / 2), y = Math.floor(r.y + r.height / 2);
      return e.contains(document.elementFromPoint(x, y)) ? `${x} ${y}` : "covered";
    };
)js";

}  // namespace

Tab::Tab(const Tab* neighbour)
    : owns_profile_(!neighbour), place_(take_place(neighbour)), words_(kMiddle) {
    for (const char* method : {"Page.enable", "Runtime.enable", "Log.enable"}) call(method);
    call("Page.bringToFront");  // others are not drawn
    // As if each tab were in front.
    call("Emulation.setFocusEmulationEnabled", {{"enabled", true}});
    resize(1000, 720);
}

Tab::~Tab() {
    const std::string session = place_.session;
    for (const auto& [of, method, params] : browser().events) {
        const bool forbidden =
            params["entry"]["source"].text() == "security";  // by the page's policy
        const bool broken = forbidden || method == "Runtime.exceptionThrown";
        if (of == session && broken) ADD_FAIL_CHECK_AT(__FILE__, __LINE__, params.raw);
    }
    try {
        if (owns_profile_) {
            clean();
            spares.push_back(place_);
        } else {
            browser().call("Target.closeTarget", object({{"targetId", place_.target}}));
        }
    } catch (const std::exception&) {
        // The page hangs, or the browser has gone, as others will tell.
    }
    std::erase_if(browser().events, [&](const auto& event) { return event.session == session; });
}

// Leaves the page, and takes back all that a test may have asked for.
void Tab::clean() {
    for (const std::string& script : scripts_)
        call("Page.removeScriptToEvaluateOnNewDocument", {{"identifier", script}});
    for (const char* method : {"Fetch.disable", "Performance.disable"}) call(method);
    call("Emulation.setTouchEmulationEnabled", {{"enabled", false}});
    media({});
    words_.clear();
    open("file://" + browser().blank_page());
    eval("(localStorage.clear(), sessionStorage.clear())");
    for (const char* method : {"Page.disable", "Runtime.disable", "Log.disable"}) call(method);
}

Json Tab::call(std::string_view method, Members parameters) {
    return browser().call(method, object(parameters), place_.session);
}

void Tab::prepare(const std::string& script) {
    const Json added = call("Page.addScriptToEvaluateOnNewDocument", {{"source", script}});
    scripts_.push_back(added["identifier"].text());
}

void Tab::open(const std::string& url) {
    call("Page.navigate", {{"url", url}});
    until("location.protocol !== 'about:' && document.readyState === 'complete'");
}

void Tab::reload() {
    eval("window.before = true");
    call("Page.reload");
    until("!window.before && document.readyState === 'complete'");
}

std::string Tab::eval(const std::string& expression) {
    const std::string script = "(() => {" + words_ + "return String(" + expression + "); })()";
    const Json answer = call("Runtime.evaluate", {{"expression", script}});
    const Json error = answer["exceptionDetails"];
    if (!error.raw.empty()) {
        throw PageError(expression + ": " + error["exception"]["description"].text());
    }
    return answer["result"]["value"].text();
}

std::string Tab::look(const std::string& expression) {
    try {
        return eval(expression);
    } catch (const PageError& e) {
        return e.what();  // it may be loading
    }
}

void Tab::until(const std::string& condition) {
    const auto deadline = Clock::now() + kPatience;
    while (true) {
        const bool in_vain = Clock::now() > deadline;
        const std::string now = look(condition);
        if (now == "true") return;
        if (in_vain) {
            fail(condition + " is " + now + " for ever, in the page\n" +
                 look("document.body.innerText"));
        }
        poll(nullptr, 0, 10);
    }
}

void Tab::press(const char* key, int code, const char* text, int modifiers) {
    for (const char* type : {*text ? "keyDown" : "rawKeyDown", "keyUp"}) {
        call("Input.dispatchKeyEvent", {{"type", type},
                                        {"key", key},
                                        {"code", key},
                                        {"text", text},
                                        {"windowsVirtualKeyCode", code},
                                        {"modifiers", modifiers}});
    }
}

void Tab::mouse(const std::string& element, std::initializer_list<const char*> events, int wheel) {
    std::istringstream at(eval("middle(" + element + ")"));
    int x = 0;
    int y = 0;
    if (!(at >> x >> y)) fail(element + " is " + at.str());
    for (const char* event : events) {
        call("Input.dispatchMouseEvent", {{"type", event},
                                          {"x", x},
                                          {"y", y},
                                          {"deltaX", 0},
                                          {"deltaY", wheel},
                                          {"button", "left"},
                                          {"clickCount", 1}});
    }
}

void Tab::click(const std::string& element) { mouse(element, {"mousePressed", "mouseReleased"}); }

void Tab::resize(int width, int height, bool is_phone, int percent) {
    const Json scale{std::to_string(percent / 100) + "." + std::to_string(percent % 100)};
    call(
        "Emulation.setDeviceMetricsOverride",
        {{"width", width}, {"height", height}, {"deviceScaleFactor", scale}, {"mobile", is_phone}});
}

void Tab::media(Members features) {
    std::string list;
    for (const auto& [name, value] : features) {
        if (!list.empty()) list += ',';
        list += object({{"name", std::string(name)}, {"value", value}}).raw;
    }
    call("Emulation.setEmulatedMedia", {{"features", Json{"[" + list + "]"}}});
}

void Tab::screenshot(const std::string& name) {
    const char* given = std::getenv("SCREENSHOTS");
    const fs::path folder = given ? given : "build/screenshots";
    fs::create_directories(folder);
    const auto image = base64_decode(call("Page.captureScreenshot")["data"].text());
    CHECK(image.value().starts_with("\x89PNG\r\n"));
    std::ofstream(folder / (name + ".png"), std::ios::binary) << *image;
}

std::vector<Json> Tab::events(std::string_view method) {
    eval("0");  // what has been said before is here when this is answered
    std::vector<Json> found;
    for (const Browser::Event& event : browser().events) {
        if (event.session == place_.session && event.method == method) found.push_back(event.params);
    }
    return found;
}

bool Tab::console_has(const std::string& text) {
    const std::vector<Json> calls = events("Runtime.consoleAPICalled");
    return std::ranges::any_of(calls, [&](const Json& params) {
        return params["args"].items().at(0)["value"].text() == text;
    });
}

double Tab::busy_seconds() {
    for (const Json& metric : call("Performance.getMetrics")["metrics"].items()) {
        if (metric["name"].text() == "TaskDuration") return std::stod(metric["value"].raw);
    }
    fail("Chromium does not say how long the page was busy");
}

long Tab::count(const std::string& role, const std::string& name) {
    const std::vector<Json> nodes = call("Accessibility.getFullAXTree")["nodes"].items();
    return std::ranges::count_if(nodes, [&](const Json& node) {
        return node["ignored"].raw == "false" && node["role"]["value"].text() == role &&
               (name.empty() || node["name"]["value"].text() == name);
    });
}

// --- the chat page -------------------------------------------------------------------------------

namespace {

// What expressions in the page are made of. Things are found as a user finds them, by their role
// and their words.
constexpr char kWords[] = R"js(
    const all = (selector) => [...document.querySelectorAll(selector)];
    const field = (label) => all("label").find((l) => l.textContent === label).control;
    const seen = (selector) => all(selector).filter((e) => e.checkVisibility());
    const button = (words) => seen("button").find((b) => b.textContent.startsWith(words));
    const status = () => document.querySelector("[role=status]").textContent;
    const chat = document.querySelector("[role=log]");
    const toEnd = () => chat.scrollHeight - chat.scrollTop - chat.clientHeight;   // pixels
    const isOwn = (line) => line.querySelector(".meta").textContent.startsWith("You");
    const lines = () => [...chat.querySelectorAll(".line:not(.note)")]   // "*" marks one's own
      .map((line) => (isOwn(line) ? "*" : "") + line.querySelector(".text").textContent);
    const isWithin = (width) =>
      innerWidth === width && document.scrollingElement.scrollWidth === width &&
      seen("input, textarea, button, summary").map((e) => e.getBoundingClientRect())
        .every(({ left, right }) => left >= 0 && right <= width);
    // The panel: the bytes of each header that is drawn there, of one direction ("→" or "←").
    const figures = (arrow) => seen("#panel .figure")
      .filter((figure) => figure.previousElementSibling.textContent.startsWith(arrow));
    const header = (figure) =>
      [...figure.querySelectorAll(".hex")].map((part) => part.textContent).join(" ");
    const headers = (arrow) => figures(arrow).map(header).join("\n");
    // Pairs of elements that lie on each other, in words; those that nobody sees do not count.
    const overlaps = (elements) => {
      const boxes = elements.map((e) => [e.textContent || e.id, e.getBoundingClientRect()])
        .filter(([, { width, height }]) => width > 1 && height > 1);
      const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
      return boxes.flatMap(([name, a], i) => boxes.slice(i + 1)
        .filter(([, b]) => meet(a, b)).map(([other]) => `${name} / ${other}`)).join("; ");
    };
    const inHeader = () => seen("header :is(h1, input, button), [role=status]")
      .filter((e) => getComputedStyle(e).clipPath === "none");
    // What live regions were told since, without that which only the eye is told.
    const listen = () => {
      window.told = [];
      const observer = new MutationObserver((records) => told.push(...records
        .filter(({ target }) => !(target.closest ? target : target.parentElement)
          .closest("[aria-hidden=true], [aria-live=off]"))
        .flatMap(({ addedNodes }) => [...addedNodes])
        .filter((node) => !node.matches?.("[aria-live=off]")).map((node) => node.textContent)));
      for (const e of all("[role=status], [role=log], [aria-live=polite]"))
        observer.observe(e, { subtree: true, childList: true, characterData: true });
    };
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
      const light = ([r, g, b]) =>
        0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) + 0.05;
      const ground = (e) => {
        const colour = rgba(getComputedStyle(e).backgroundColor);
        return colour[3] === 1 ? light(colour) : ground(e.parentElement);
      };
      const ratio = (a, b) => Math.max(a, b) / Math.min(a, b);
      const texts = seen("body *").filter((e) => e.matches("input, textarea") ||
        [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
      const found = texts.flatMap((e) => ["", "::placeholder"].map((part) =>
        [ratio(light(rgba(getComputedStyle(e, part).color)), ground(e)), e.textContent || e.id]));
      return found.sort(([a], [b]) => a - b)[0].join(" ");
    };
)js";

// Time in the page passes as it does, and can be skipped: skip(5000) lets everything happen at once
// that the page has put off for up to five seconds. `luck` is what Math.random() returns from now
// on. What the page dials is kept: each socket, when it was made, and when it ended.
constexpr char kClock[] = R"js(
    (() => {
      const { setTimeout: later, clearTimeout: never, Date: RealDate } = window;
      const clock = performance.now.bind(performance), timers = new Map();
      let skipped = 0, lastId = 0;
      const now = () => clock() + skipped;
      const fire = (id) => {
        const timer = timers.get(id);
        if (!timer) return;
        never(timer.real);
        timer.due += timer.every;
        if (timer.every) arm(id); else timers.delete(id);
        timer.work();
      };
      const arm = (id) => {
        const timer = timers.get(id);
        never(timer.real);
        timer.real = later(fire, Math.max(0, timer.due - now()), id);
      };
      const start = (work, delay, every) => {
        timers.set(++lastId, { work, due: now() + Math.max(0, delay || 0), every });
        arm(lastId);
        return lastId;
      };
      window.setTimeout = (work, delay, ...args) => start(() => work(...args), delay, 0);
      window.setInterval = (work, delay, ...args) => start(() => work(...args), delay, delay);
      window.clearTimeout = window.clearInterval = (id) => {
        if (timers.has(id)) never(timers.get(id).real);
        timers.delete(id);
      };
      performance.now = now;
      window.Date = class extends RealDate {
        constructor(...args) { super(...(args.length ? args : [Date.now()])); }
        static now() { return RealDate.now() + skipped; }
      };
      window.skip = (time) => {
        const end = now() + time;
        while (true) {
          const due = [...timers].filter(([, timer]) => timer.due <= end);
          if (!due.length) break;
          const [id, timer] = due.sort(([, a], [, b]) => a.due - b.due)[0];
          skipped += Math.max(0, timer.due - now());
          fire(id);
        }
        skipped += Math.max(0, end - now());
        [...timers.keys()].forEach(arm);
      };
      window.luck = 0.5;
      Math.random = () => luck;
      window.dials = [];
      window.WebSocket = class extends WebSocket {
        constructor(...args) {
          super(...args);
          const dial = { socket: this, at: now(), ended: NaN };
          this.addEventListener("close", () => { dial.ended = now(); });
          dials.push(dial);
        }
      };
    })();
)js";

}  // namespace

std::string url(const Server& server) { return "ws://127.0.0.1:" + std::to_string(server.port()); }

Page::Page(const std::string& server, const Page* neighbour, const std::string& script)
    : Tab(neighbour) {
    teach(kWords);
    prepare(kClock);
    if (!script.empty()) prepare(script);
    if (!fs::exists("web/index.html")) fail("no web/index.html here");
    const std::string file = "file://" + fs::absolute("web/index.html").string();
    open(server.empty() ? file : file + "?server=" + server);
}

Page::Page(const Server& server) : Page(url(server)) {
    until_status("Connected to " + url(server));
}

void Page::skip_to_attempt() {
    eval(
        "(() => { const n = dials.length;"
        "for (let i = 0; i < 4000 && dials.length === n; i++) skip(10); })()");
}

void Page::until_connected() {
    for (int attempts = 0; !is("status().includes('Connected')"); ++attempts) {
        if (attempts == 20) fail("the page does not connect: " + eval("status()"));
        until("!status().includes('Connecting')");
        if (is("status().includes('Retrying')")) skip_to_attempt();
    }
}

void Page::fill(const std::string& label, const std::string& text) {
    click("field('" + label + "')");
    eval("field('" + label + "').select()");
    if (text.empty()) press("Delete", kDelete);
    else type(text);
}

Chat::Chat() {
    page.fill("Name", "李靖");
    page.click("field('Message')");
}

void Chat::restart() {
    const std::vector<std::string> place{"127.0.0.1", std::to_string(port)};
    server.reset();
    server.emplace(std::vector<std::string>{}, std::function<void()>{}, place);
    peer = newcomer();
}
