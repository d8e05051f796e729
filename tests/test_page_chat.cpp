// What the chat page looks like and says, in every state: its lines, its advice, its header.
#include <doctest/doctest.h>
#include <signal.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "browser.h"
#include "harness.h"

namespace {

using namespace std::string_literals;

// What is seen of each line: the author's name and the time only once a group.
constexpr char kSeen[] = R"js(
    ((isSeen) => [...chat.querySelectorAll(".line:not(.note)")].map((line) =>
      [".disc", ".who bdi", ".body", "time"].filter((part) => line.querySelector(part) &&
        isSeen(line.querySelector(part))).map((part) => line.querySelector(part).textContent)
        .map((text) => /^\d\d:\d\d$/.test(text) ? "time" : text).join(" ")).join("|"))
    ((e) => e.checkVisibility({ visibilityProperty: true }) &&
      parseFloat(getComputedStyle(e).fontSize) > 0)
)js";

// Hides the tab, or brings it back, as far as the page can tell.
std::string hide(bool yes) {
    return "(Object.defineProperty(document, 'hidden', { configurable: true, get: () => "s +
           (yes ? "true" : "false") +
           " }), document.dispatchEvent(new Event('visibilitychange')))";
}

}  // namespace

TEST_SUITE("browser" * doctest::skip(chromium_path().empty())) {

// --- the lines -----------------------------------------------------------------------------------

TEST_CASE_FIXTURE(Chat, "lines of one author in a row show name, disc and time once") {
    for (const char* line :
         {"红拂: one", "红拂: two", "ana: three", "红拂: four", "nameless"})
        peer.send_frame(Opcode::text, line);
    page.until("lines().length === 5");
    CHECK(page.eval(kSeen) ==
          "红 红拂 one time|two|A ana three time|红 红拂 four time|nameless time");
    // Whoever does not see them is told the name with each line.
    CHECK(page.eval("lines().join('|')") ==
          "红拂: one|红拂: two|ana: three|红拂: four|nameless");
}

TEST_CASE_FIXTURE(Chat, "names have 8 to 10 colours that differ at a glance in both schemes") {
    for (char c = 'a'; c <= 'z'; ++c)
        for (const char* end : {"", "x"})
            peer.send_frame(Opcode::text, std::string(1, c) + end + ": hello");
    page.until("lines().length === 52");
    page.eval(R"js((window.nearest = (() => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        const lab = (colour) => {   // OKLab, where distances are what the eye sees
          canvas.fillStyle = colour;
          canvas.fillRect(0, 0, 1, 1);
          const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
          const [l, m, s] = [0.4122 * r + 0.5363 * g + 0.0514 * b,
            0.2119 * r + 0.6807 * g + 0.1074 * b,
            0.0883 * r + 0.2817 * g + 0.63 * b].map(Math.cbrt);
          return [0.2105 * l + 0.7936 * m - 0.0041 * s, 1.978 * l - 2.4286 * m + 0.4506 * s,
            0.0259 * l + 0.7828 * m - 0.8087 * s];
        };
        return (colours) => Math.min(...colours.map(lab).flatMap((a, i, labs) => labs.slice(0, i)
          .map((b) => Math.hypot(...a.map((x, k) => x - b[k])))));
      })(), 0))js");
    for (const char* scheme : {"light", "dark"}) {
        page.media({{"prefers-color-scheme", scheme}});
        for (const char* look : {"'.disc')).backgroundColor", "'.who')).color"}) {
            page.eval(
                "(window.colours = [...new Set([...chat.querySelectorAll('.line')].map((line) => "
                "getComputedStyle(line.querySelector("s +
                look + "))], 0)");
            INFO(scheme, " ", look, " ", page.eval("colours.length + ' ' + nearest(colours)"));
            CHECK(page.is("colours.length >= 8 && colours.length <= 10"));
            CHECK(page.is("nearest(colours) > 0.045"));
        }
    }
}

TEST_CASE_FIXTURE(Chat, "a short log stands at the bottom") {
    peer.send_frame(Opcode::text, "ana: alone");
    page.until("lines().length === 1");
    CHECK(page.is(
        "chat.getBoundingClientRect().bottom - "
        "chat.querySelector('.line').getBoundingClientRect().bottom < 20"));
}

TEST_CASE_FIXTURE(Chat, "a long text is folded, and shown whole when asked for") {
    std::string tall = "ana: 0";
    for (int i = 1; i < 60; ++i) tall.append("\n").append(std::to_string(i));
    peer.send_frame(Opcode::text, tall);
    peer.send_frame(Opcode::text, "bot: " + repeat("long ", 1000) + "end");
    page.until("lines().length === 2");
    const std::string height = "chat.querySelector('.line').offsetHeight";
    CHECK(page.is("[...chat.querySelectorAll('.line')].every((line) => line.offsetHeight < 300)"));
    CHECK(page.eval("lines()[1].slice(-3)") == "end");  // nothing is cut
    page.click_button("Show all (");
    CHECK(page.is(height + " > 1000"));
    CHECK(page.eval("document.activeElement.textContent") == "Show less");
    CHECK(page.eval("document.activeElement.ariaExpanded") == "true");
    // Who unfolds a text reads it: nothing that comes moves it away.
    const std::string top = page.eval("chat.scrollTop");
    peer.send_frame(Opcode::text, "ana: more");
    page.until("lines().length === 3");
    CHECK(page.eval("chat.scrollTop") == top);
    page.click_button("Show less");
    CHECK(page.is(height + " < 300"));
    CHECK(page.is("!seen('button').some((b) => /^Show all/.test(b.textContent) && "
                  "/more$/.test(b.closest('.line').textContent))"));
}

TEST_CASE_FIXTURE(Chat, "code keeps its shape") {
    const std::string code = "while (true) {\n    int n = select(" + repeat("argument, ", 30) +
                             "0);\n}";
    peer.send_frame(Opcode::text, "ana: " + code);
    page.until("lines().length === 1");
    page.eval("window.body = chat.querySelector('.body'), 0");
    CHECK(page.eval("body.innerText") == code);
    CHECK(page.is("getComputedStyle(body).fontFamily.includes('monospace')"));
    CHECK(page.is("body.scrollWidth > body.clientWidth"));  // not wrapped
    CHECK(page.is("body.tabIndex === 0"));                   // and within the keyboard's reach
    CHECK(page.is("chat.scrollWidth <= chat.clientWidth"));
}

TEST_CASE_FIXTURE(Chat, "names and texts of either direction do not mirror each other") {
    const std::string rtl_name = "سارة", rtl_text = "مرحبا";
    peer.send_frame(Opcode::text, rtl_name + ": abc 123");
    peer.send_frame(Opcode::text, "ana: " + rtl_text + " (1)");
    peer.send_frame(Opcode::text, "ev\u202Eil: abc 123");
    page.until("lines().length === 3");
    page.eval(R"js((window.places = (element) => {   // of each character, from the left
        const node = document.createTreeWalker(element, NodeFilter.SHOW_TEXT).nextNode();
        return [...node.data].map((c, i) => {
          const range = new Range();
          range.setStart(node, i);
          range.setEnd(node, i + 1);
          return [range.getBoundingClientRect().left, c];
        }).sort(([a], [b]) => a - b).map(([, c]) => c).join("");
      }, 0))js");
    const auto body = [&](int i) {
        return page.eval("places(chat.querySelectorAll('.body')[" + std::to_string(i) + "])");
    };
    CHECK(body(0) == "abc 123");
    // What opens stands on the right there, and is drawn the other way round.
    CHECK(body(1) == ")1( " + page.eval("[..." + in_quotes(rtl_text) + "].reverse().join('')"));
    CHECK(body(2) == "abc 123");
    CHECK(page.eval("[...chat.querySelectorAll('.body')].map((e) => e.matches(':dir(rtl)'))") ==
          "false,true,false");
    CHECK(page.eval("chat.querySelectorAll('.who > bdi').length") == "3");
    CHECK(page.eval("[...chat.querySelectorAll('.disc')].map((e) => e.textContent).join('')") ==
          "سAE");
}

// --- the states ----------------------------------------------------------------------------------

TEST_CASE("an empty log says what to do now, by state") {
    const SilentPort silent;
    Page page("ws://127.0.0.1:" + std::to_string(silent.number()));
    page.until("chat.innerText.includes('This page connects by itself')");
    CHECK(page.is("/make[^]*\\.\\/server[^]*by itself/.test(chat.innerText)"));
    page.click_button("Disconnect");
    page.until("chat.innerText.includes('Press Connect')");
    CHECK(page.is("!chat.innerText.includes('by itself')"));
    const Server server;
    page.fill("Server", url(server));
    page.click_button("Connect");
    page.until("chat.innerText.includes('Open this page a second time')");
    CHECK(page.is("!chat.innerText.includes('./server')"));
    page.click("field('Message')");
    page.say("hello");
    page.until("lines().length === 1");
    CHECK(page.is("!chat.innerText.includes('Open this page')"));
}

TEST_CASE_FIXTURE(Chat, "the title counts the lines that nobody has seen yet") {
    CHECK(page.eval("document.title") == "WebSocket chat");
    page.eval(hide(true));
    peer.send_frame(Opcode::text, "ana: one");
    peer.send_frame(Opcode::text, "ana: two");
    page.until("document.title === '(2) WebSocket chat'");
    page.eval(hide(false));
    page.until("document.title === 'WebSocket chat'");
    peer.send_frame(Opcode::text, "ana: three");
    page.until("lines().length === 3");
    CHECK(page.eval("document.title") == "WebSocket chat");
}

TEST_CASE_FIXTURE(Chat, "lost and back again are lines of the log, with time, code and words") {
    peer.send_frame(Opcode::text, "ana: before");
    page.until_lines("ana: before");
    server->signal(SIGTERM);
    page.until("chat.querySelectorAll('.note').length === 1");
    CHECK(page.is(
        "/^\\d\\d:\\d\\d Connection lost\\. Code 1001, the server is going away\\.$/"
        ".test(chat.lastElementChild.textContent)"));
    CHECK(page.is("!isNaN(Date.parse(chat.lastElementChild.querySelector('time').dateTime))"));
    restart();
    page.until_connected();
    page.until("chat.querySelectorAll('.note').length === 2");
    CHECK(page.is("/^\\d\\d:\\d\\d Connected again\\./.test(chat.lastElementChild.textContent)"));
    server->signal(SIGKILL);
    page.until("chat.querySelectorAll('.note').length === 3");
    CHECK(page.is("/Code 1006, no Close frame came/.test(chat.lastElementChild.textContent)"));
}

TEST_CASE_FIXTURE(Chat, "a screen reader is told once of a loss and once of the return, and one "
                        "sentence of advice stays") {
    page.eval("(listen(), 0)");
    server->signal(SIGTERM);
    page.until("status().includes('Code 1001, the server is going away')");
    page.until_status("Retrying in ");
    const std::string advice = page.eval("all('#why')[0].textContent");
    CHECK(page.is("told.filter((text) => text === 'Retrying').length === 1"));
    CHECK(page.is("told.filter((text) => text.includes('Code 1001')).length === 1"));
    page.eval("(told.length = 0)");
    for (int attempts = 0; attempts < 4; ++attempts) {
        page.skip_to_attempt();
        page.until("!isNaN(dials.at(-1).ended) && status().includes('Retrying in')");
        CHECK(page.eval("all('#why')[0].textContent") == advice);
    }
    CHECK(page.eval("told.join('|')") == "");
    restart();
    page.until_connected();
    page.until("chat.textContent.includes('Connected again')");
    CHECK(page.eval("told.filter((text) => text).join('|')") ==
          "Connected to |" + page.eval("field('Server').value"));
    CHECK(page.eval("all('#why')[0].textContent") == "");
}

TEST_CASE("while the page retries there is Try now") {
    const SilentPort silent;
    Page page("ws://127.0.0.1:" + std::to_string(silent.number()));
    page.until_status("Retrying in ");
    page.eval("(luck = 0, skip(20000))");
    page.until("/in \\d\\d s/.test(status()) || (skip(1000), false)");
    const std::string dials = page.eval("dials.length");
    page.click_button("Try now");
    CHECK(page.eval("dials.length - " + dials) == "1");
    page.until_status("Retrying in ");
    page.click_button("Disconnect");
    CHECK(page.is("button('Try now') === undefined"));
}

TEST_CASE_FIXTURE(Chat, "connected, the address is one line with Change") {
    CHECK(page.is("getComputedStyle(field('Server')).borderColor === 'rgba(0, 0, 0, 0)'"));
    CHECK(page.is("button('Try now') === undefined"));
    page.click_button("Got it");
    for (const int width : {1000, 390}) {
        page.resize(width, 720);
        CHECK(page.eval("overlaps([...inHeader(), ...seen('#chat')])") == "");
        CHECK(page.is(
            "Math.abs(field('Server').getBoundingClientRect().top - "
            "all('[role=status]')[0].getBoundingClientRect().top) < 24"));
    }
    page.click_button("Change");
    CHECK(page.is("document.activeElement === field('Server')"));
    CHECK(page.is("getComputedStyle(field('Server')).borderColor !== 'rgba(0, 0, 0, 0)'"));
    CHECK(page.is("button('Change') === undefined && button('Disconnect') !== undefined"));
    page.type("ws://127.0.0.1:1");
    CHECK(page.is("button('Connect') !== undefined && button('Disconnect') === undefined"));
    page.until_status("Connected to " + url(*server));  // until Connect is pressed
    page.fill("Server", url(*server));
    page.click("field('Message')");
    CHECK(page.is("button('Change') !== undefined"));
    page.click_button("Change");
    page.click_button("Disconnect");  // it does not move away while it is pressed
    page.until_status("Disconnected");
}

// --- the fields ----------------------------------------------------------------------------------

TEST_CASE_FIXTURE(Chat, "Enter in Name moves on to the message and sends nothing") {
    page.type("a draft");
    page.fill("Name", "红拂");
    page.enter();
    CHECK(page.is("document.activeElement === field('Message')"));
    CHECK(page.draft() == "a draft");
    page.enter();
    CHECK(peer.text() == "红拂: a draft");  // the first that was sent
}

TEST_CASE_FIXTURE(Chat, "a name with a colon and a blank in it is still one name") {
    page.fill("Name", "re: zero");
    page.click("field('Message')");
    page.say("hello");
    const std::string wire = peer.text();
    CHECK(wire == "re:zero: hello");
    page.until_lines("*" + wire);
    CHECK(page.eval("chat.querySelector('.who bdi').textContent") == "re:zero");
    CHECK(page.eval("chat.querySelector('.body').textContent") == "hello");
}

TEST_CASE_FIXTURE(Chat,
                  "blank lines around a text are not sent, blanks before its first word are") {
    page.eval("(field('Message').value = '\\n  \\n    indented\\n\\nend\\n \\n', 0)");
    page.enter();
    CHECK(peer.text() == "李靖:     indented\n\nend");
    page.eval("(field('Message').value = '\\n \\n', 0)");
    page.enter();
    page.eval("(field('Message').value = 'next', 0)");
    page.enter();
    CHECK(peer.text() == "李靖: next");
}

TEST_CASE_FIXTURE(
    Chat, "200 lines in the field of a phone whose keyboard is open leave all in sight") {
    page.resize(390, 420, true);
    std::string text = "0";
    for (int i = 1; i < 200; ++i) text.append("\n").append(std::to_string(i));
    page.type(text);
    CHECK(page.draft() == text);
    CHECK(page.is("field('Message').offsetHeight <= innerHeight * 0.4"));
    CHECK(page.is("chat.offsetHeight >= 60"));
    CHECK(page.is(
        "[button('Send'), field('Message'), field('Name'), button('On the wire')].every((e) => "
        "e.getBoundingClientRect().top >= 0 && e.getBoundingClientRect().bottom <= innerHeight)"));
    page.click_button("Send");
    CHECK(peer.text() == "李靖: " + text);
    page.until("field('Message').offsetHeight < 60");
}

}
