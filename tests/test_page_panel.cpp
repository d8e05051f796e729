// The page's panel "On the wire": what it draws of each frame, and what it does not claim to know.
#include <doctest/doctest.h>

#include <signal.h>

#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "browser.h"
#include "harness.h"

namespace {

using namespace std::string_literals;

std::string hex(std::string_view bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes)
        text += {digits[static_cast<unsigned char>(c) >> 4], digits[c & 15], ' '};
    return text.substr(0, text.size() - !text.empty());
}

// A chat with its panel open and nothing in it.
struct Panel : Chat {
    Panel() {
        page.click_button("On the wire");
        page.click_button("Clear");
    }
    // How many entries there are.
    void until_entries(int count) {
        page.until("seen('#frames > li').length === " + std::to_string(count));
    }
};

// The name, the bits and the meaning of each field of the first figure.
constexpr char kFields[] =
    "figures('→')[0].innerText.split('\\n').filter((line) => line.trim()).join(' ')";

}  // namespace

TEST_SUITE("browser" * doctest::skip(chromium_path().empty())) {

TEST_CASE_FIXTURE(Chat, "the panel shows the headers that really were on the wire") {
    page.click_button("On the wire");
    for (const char* words : {"125, then", "65535, then", "50 × 中"}) page.click_button(words);
    page.until("headers('←').split('\\n').length === 5");
    std::string received, payload, sent;
    for (int i = 0; i < 5; ++i) {
        const Peer::Frame frame = peer.next_frame();
        received.append(i == 0 ? "" : "\n").append(hex(frame.header.bytes));
        payload = frame.payload;
    }
    CHECK(received ==
          "81 7d\n81 7e 00 7e\n81 7e ff ff\n81 7f 00 00 00 00 00 01 00 00\n81 7e 00 96");
    CHECK(page.eval("headers('←')") == received);
    CHECK(payload == repeat("中", 50));
    // The payload: 16 bytes a row, each row behind its offset, and where the demo cut.
    page.click("seen('#panel summary').at(-2)");  // the last one is about what a page cannot see
    std::string dump;
    for (std::size_t at = 0; at < payload.size(); at += 16) {
        dump += hex(std::string{'\0', static_cast<char>(at)});
        dump.erase(dump.size() - 3, 1);  // an offset is one number
        std::string row = hex(payload.substr(at, 16));
        if (at == 112) row.insert(3 * 13, "┊ ");
        dump += " " + row + "\n";
    }
    CHECK(page.eval("((e) => [...e.querySelectorAll('.offset')].map((o) => (o.textContent + "
                    "o.nextSibling.textContent).trim() + '\\n').join(''))"
                    "(seen('#panel .dump').at(-1))") == dump);
    CHECK(page.is("all('#panel .payload').at(-1).textContent.includes('inside a character')"));

    std::istringstream trace(server->wait_for("150 bytes, key"));
    for (std::string line; std::getline(trace, line);) {
        const std::size_t from = line.find(": ") + 2, to = line.find(" | FIN text");
        if (!line.starts_with("<- ") || to == line.npos) continue;
        sent.append(sent.empty() ? "" : "\n")
            .append(line, from, to - from - 11)
            .append("?? ?? ?? ??");  // the key
    }
    CHECK(page.eval("headers('→')") == sent);
}

TEST_CASE_FIXTURE(Panel, "the article's message goes out alone, and is drawn bit by bit") {
    page.click_button("李靖, 6 bytes");
    CHECK(peer.text() == "李靖");
    page.until("headers('←') === '81 06'");
    CHECK(page.eval("headers('→')") == "81 86 ?? ?? ?? ??");
    CHECK(page.eval(kFields) ==
          "81 1 FIN 000 RSV 0001 opcode 1 86 1 MASK 0000110 length 6 ?? ?? ?? ?? not told "
          "masking key");
    CHECK(page.eval("seen('#panel .dump')[0].innerText.trim().split(/\\s+/).join(' ')") ==
          "0000 e6 9d 8e e9 9d 96");
}

TEST_CASE_FIXTURE(Panel, "each field of a header has its colour, both parts of a length one") {
    page.click_button("50 × 中");
    page.until("headers('←') === '81 7e 00 96'");
    page.eval(
        "window.colour = (e) => getComputedStyle(e).backgroundColor, "
        "window.fields = [...figures('→')[0].querySelectorAll('button')], 0");
    CHECK(page.eval("fields.map((field) => field.querySelector('.label').textContent)") ==
          "FIN,RSV,opcode 1,MASK,length 126 →,length, 16 bit,masking key");
    for (const char* scheme : {"light", "dark"}) {
        page.media({{"prefers-color-scheme", scheme}});
        CHECK(page.is("colour(fields[4]) === colour(fields[5])"));
        CHECK(page.eval("new Set(fields.map(colour)).size") == "6");
    }
    CHECK(page.is("colour(fields[5].closest('.part').firstElementChild) === colour(fields[5])"));
    CHECK(page.is(
        "all('#panel .hex').every((e) => parseFloat(getComputedStyle(e).fontSize) >= 16)"));
    // No byte is torn: neither a header's nor one of the payload.
    page.resize(320, 568, true);
    CHECK(page.is(
        "seen('#panel .hex, #panel .eight').every((e) => e.getClientRects().length === 1 && "
        "e.scrollWidth <= e.clientWidth + 1 && e.offsetHeight < 40)"));
}

TEST_CASE_FIXTURE(Panel, "a field is explained by click, by tap and by key") {
    page.click_button("50 × 中");
    page.until("headers('←') === '81 7e 00 96'");
    const std::string words = "seen('.explain').map((e) => e.textContent).join()";
    CHECK(page.eval(words) == "");
    page.click("figures('→')[0].querySelectorAll('.length button')[0]");
    CHECK(page.eval(words).find("network byte order") != std::string::npos);
    page.click("figures('→')[0].querySelectorAll('.length button')[0]");
    CHECK(page.eval(words) == "");
    page.eval("figures('→')[0].querySelector('button').focus()");
    page.press("ArrowRight", 39);
    page.enter();
    CHECK(page.eval(words).starts_with("Reserved for extensions."));
    page.press("ArrowLeft", 37);
    page.press(" ", kSpace, " ");
    CHECK(page.eval(words).starts_with("FIN is 1"));
    CHECK(page.eval("document.activeElement.ariaExpanded") == "true");

    page.eval("figures('→')[0].querySelector('.mask').scrollIntoView({ block: 'center' })");
    std::istringstream at(page.eval("middle(figures('→')[0].querySelector('.mask'))"));
    int x = 0;
    int y = 0;
    at >> x >> y;
    page.call("Emulation.setTouchEmulationEnabled", {{"enabled", true}});
    const Json point = object({{"x", x}, {"y", y}});
    page.call("Input.dispatchTouchEvent",
              {{"type", "touchStart"}, {"touchPoints", Json{"[" + point.raw + "]"}}});
    page.call("Input.dispatchTouchEvent", {{"type", "touchEnd"}, {"touchPoints", Json{"[]"}}});
    page.until(words + ".startsWith('MASK is 1')");
}

TEST_CASE_FIXTURE(Panel, "a frame that was sent and the same that comes back are a pair") {
    page.click("field('Message')");
    page.say("ping");
    until_entries(1);
    peer.send_frame(Opcode::text, "红拂: pong");
    until_entries(2);
    page.until("figures('←').length === 2");
    const std::string entry = "seen('#frames > li').map((e) => e.innerText)";
    CHECK(page.is("/→ sent, masked[^]*← back, not masked, after \\d+ ms/"
                  ".test(" + entry + "[0])"));
    CHECK(page.is("!/→|back/.test(" + entry + "[1])"));
    CHECK(page.is(entry + "[1].startsWith('← received, not masked: text, 12 bytes')"));
    CHECK(page.is("figures('→')[0].textContent.includes('masking key')"));
    CHECK(page.is("!figures('←')[0].textContent.includes('masking key')"));
}

TEST_CASE_FIXTURE(Panel, "what is read in the panel stays in its place, and selected") {
    for (int i = 0; i < 20; ++i) peer.send_frame(Opcode::text, "bot: " + std::to_string(i));
    until_entries(20);
    page.eval(
        "window.first = seen('#frames > li')[10], first.scrollIntoView(), "
        "getSelection().selectAllChildren(first.querySelector('summary bdi')), 0");
    page.until("first.parentElement.scrollHeight - first.parentElement.scrollTop > 1000");
    const std::string place = page.eval("first.getBoundingClientRect().top");
    for (int i = 20; i < 65; ++i) peer.send_frame(Opcode::text, "bot: " + std::to_string(i));
    page.until("seen('#frames > li').at(-1).textContent.includes('bot: 64')");
    CHECK(page.eval("String(getSelection())") == "bot: 10");
    CHECK(page.is("first.isConnected && Math.abs(first.getBoundingClientRect().top - " + place +
                  ") < 2"));
    // At the end the panel follows.
    page.eval("first.parentElement.scrollTop = 1e6");
    peer.send_frame(Opcode::text, "bot: the last");
    page.until(
        "((list) => list.textContent.includes('bot: the last') && "
        "list.scrollHeight - list.scrollTop - list.clientHeight < 2)(all('#frames')[0])");
}

TEST_CASE_FIXTURE(Panel, "Pause holds the panel, Clear empties it, the chat goes on") {
    page.click_button("Pause");
    CHECK(page.eval("button('Pause').ariaPressed") == "true");
    peer.send_frame(Opcode::text, "bot: unseen");
    page.until_lines("bot: unseen");
    until_entries(0);
    page.click_button("Pause");
    CHECK(page.eval("button('Pause').ariaPressed") == "false");
    peer.send_frame(Opcode::text, "bot: seen");
    until_entries(1);
    CHECK(page.is("seen('#frames > li')[0].textContent.includes('bot: seen')"));
    page.click_button("Clear");
    until_entries(0);
    page.until_lines("bot: unseen|bot: seen");
}

TEST_CASE_FIXTURE(Panel, "handshake and Close are shown as far as a page knows them") {
    page.click_button("Disconnect");
    page.until("headers('←') === '88 00'");  // the server's answer
    CHECK(page.eval("headers('→')") == "88 80 ?? ?? ?? ??");
    page.click_button("Connect");
    page.until_status("Connected to");
    page.until("seen('.handshake').length === 1");
    const std::string handshake = page.eval("seen('.handshake')[0].innerText");
    for (const char* line :
         {"GET / HTTP/1.1", "Host: 127.0.0.1:", "Origin: null", "Upgrade: websocket",
          "Sec-WebSocket-Version: 13", "the key is the browser's own",
          "HTTP/1.1 101 Switching Protocols"}) {
        CHECK_MESSAGE(handshake.find(line) != std::string::npos, line);
    }
    server->signal(SIGTERM);
    page.until("headers('←').endsWith('88 02')");
    CHECK(page.is("seen('#frames > li').at(-1).innerText.includes('code 1001')"));
    CHECK(page.is("seen('#frames > li').at(-1).innerText.includes('03 e9')"));
    CHECK(page.is("all('#panel')[0].textContent.includes('Ping and its Pong never reach a page')"));
}

TEST_CASE("what a page cannot know is not drawn") {
    const Server server;
    Peer peer = std::move(join(server, 1)[0]);
    const std::string compressed =
        "Object.defineProperty(WebSocket.prototype, 'extensions', "
        "{ get: () => 'permessage-deflate' });";
    Page page(url(server), nullptr, compressed);
    page.until_status("Connected to");
    page.click_button("On the wire");
    peer.send_frame(Opcode::text, "bot: hello");
    page.until("all('#panel')[0].innerText.includes('The extension permessage-deflate is in use')");
    CHECK(page.is("figures('←').length === 0"));

    Page other(server);
    other.click_button("On the wire");
    peer.send_frame(Opcode::text, "bot: " + std::string(131100, 'x'));
    other.until("all('#panel')[0].innerText.includes('more than a browser sends in one frame')");
    CHECK(other.is("figures('←').length === 0"));
}

TEST_CASE_FIXTURE(Chat, "the panel is a switch on a small screen and stands beside the chat on a "
                        "large one, its button stays") {
    struct Size {
        int width, height;
        bool beside;
    };
    const std::string chat_is_seen = "chat.checkVisibility({ visibilityProperty: true })";
    const std::string panel_is_seen = "all('#panel')[0].checkVisibility()";
    const std::string place = "JSON.stringify(button('On the wire').getBoundingClientRect())";
    for (const Size& size : std::vector<Size>{
             {1440, 900, true}, {1024, 768, true}, {853, 480, true}, {800, 600, true},
             {780, 600, false}, {390, 844, false}, {320, 568, false}, {390, 420, false}}) {
        INFO(size.width, "x", size.height);
        page.resize(size.width, size.height);
        const std::string before = page.eval(place);
        page.click_button("On the wire");
        CHECK(page.eval(place) == before);
        CHECK(page.eval("button('On the wire').ariaExpanded") == "true");
        CHECK(page.is(panel_is_seen));
        CHECK(page.is(chat_is_seen) == size.beside);
        CHECK(page.is("isWithin(innerWidth)"));
        CHECK(page.is("document.scrollingElement.scrollHeight === innerHeight"));
        // The tests are in sight, each with its line of why.
        CHECK(page.is(
            "seen('#tests button').length === 4 && seen('#tests button').every((e) => "
            "e.getBoundingClientRect().bottom < innerHeight && "
            "document.getElementById(e.getAttribute('aria-describedby')).checkVisibility())"));
        page.click_button("On the wire");
        CHECK(page.eval(place) == before);
        CHECK(!page.is(panel_is_seen));
        CHECK(page.is(chat_is_seen));
    }
}

TEST_CASE_FIXTURE(Chat, "the panel is remembered, and pointed out on the first visit only") {
    CHECK(page.is("seen('#tip').length === 1"));
    page.click_button("On the wire");
    CHECK(page.is("seen('#tip').length === 0"));
    page.reload();
    CHECK(page.is("seen('#panel').length === 1 && seen('#tip').length === 0"));
    page.click_button("On the wire");
    page.reload();
    CHECK(page.is("seen('#panel').length === 0 && seen('#tip').length === 0"));
}

}
