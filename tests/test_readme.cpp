// Keeps README.md true. Its commands are run and what they print is compared with what is shown
// there; what it names is looked up where it should be; its figures are calculated again.
//
// A block marked `console` holds commands, each behind "$ ", and what they print. "..." stands for
// any text in a line, alone for any lines, and ^C for Ctrl-C once the lines above it have come. A
// command that starts ./server, which is the last of its block, runs until another one does: the
// commands between the two are its clients, and then what it printed is compared, too. Ports are
// not compared: each server here listens on a free one of 127.0.0.1.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/select.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "harness.h"
#include "symptoms.h"

namespace fs = std::filesystem;

namespace {

// The rule: words of prose and tables, a word being what stands between blanks and has a letter or
// a digit in it. What is marked as a block is not counted, and the rows of what a browser says are
// not: those are for looking up.
constexpr std::size_t kMostWords = 2500;
constexpr std::size_t kMostColumns = 120;  // of a line; a row of a table cannot be broken

struct Exempt {
    std::string what;
    std::string why;
};

// What is in the README and cannot be run here, with the reason. Each must be there.
const std::vector<Exempt> kNotRun{
    {"make", "builds ./server: whoever runs this test has done that"},
    {"ip -brief address", "tells the addresses of this computer"},
    {"openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -keyout chat.key "
     "-out chat.pem",
     "writes files, for nginx and Caddy"},
    {"```nginx", "needs nginx, which is run by hand"},
    {"```caddyfile", "needs Caddy, which is run by hand"},
};

// What stands in code style and is no command, file, option or name in the sources.
const std::vector<Exempt> kNotLookedUp{
    {"name: text", "what the page sends; a case in test_browser.cpp"},
    {"Ada: hello", "an example of it; it is sent here, too"},
    {"81 06", "bytes, compared in the session"},
    {"ws://", "how an address begins"},
    {"wss://", "how an address begins"},
    {"ws://127.0.0.1:4000", "an address"},
    {"ws://192.0.2.2:4000", "an address"},
    {"ws://[fd00::2]:4000", "an address"},
    {"::", "an address"},
    {"https://localhost:8443/", "an address"},
    {"WebSocket connection to '...' failed: ", "Chromium's; test_console.cpp leaves it out"},
    {"new WebSocket", "JavaScript, printed in the article only"},
    {"ws.send()", "JavaScript, printed in the article only"},
    {"//connect($client)", "printed in the article only"},
    {"//doHandShake($socket, $buffer)", "printed in the article only"},
    {"//process($socket, $buffer)", "printed in the article only"},
    {"demo: SWITCH", "a pattern; its cases have a case of their own"},
    {"ulimit -n", "a command of the shell"},
    {"proxy_http_version", "a word of nginx, used in the block"},
};

// Constants of the server's limits that the README does not tell: they are parts of others.
const std::set<std::string> kNotTold{"kAcceptPause",     "kCommonBytes", "kAcceptsPerRound",
                                     "kRefusalSlots", "kStoppingTime", "kKeptBytes"};

// --- the README and the sources ------------------------------------------------------------------

fs::path root() {
    const fs::path folder = fs::path(__FILE__).parent_path().parent_path();
    return folder.empty() ? "." : folder;
}

std::string content(const fs::path& name) {
    std::ifstream file(root() / name, std::ios::binary);
    if (!file) throw std::runtime_error("there is no " + name.string());
    return std::string(std::istreambuf_iterator<char>(file), {});
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

std::string joined(const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines) text += line + '\n';
    return text;
}

std::string replaced(const std::string& text, std::string_view what, std::string_view with) {
    std::string result;
    std::size_t from = 0;
    std::size_t at = text.find(what);
    while (at != text.npos) {
        result.append(text, from, at - from);
        result += with;
        from = at + what.size();
        at = text.find(what, from);
    }
    result.append(text, from);
    return result;
}

std::string without_blanks(const std::string& text) { return replaced(text, " ", ""); }

struct Block {
    std::string heading;   // of the section in which it stands
    std::string language;  // behind its ```
    std::vector<std::string> lines{};
};

struct Row {
    std::string header;  // the first line of its table
    std::vector<std::string> cells;
};

struct Readme {
    std::vector<std::string> all;    // its lines
    std::vector<std::string> prose;  // those outside of blocks
    std::vector<Block> blocks;
    std::vector<Row> rows;  // of all its tables
};

std::vector<std::string> cells_of(const std::string& line) {
    std::vector<std::string> cells;
    std::istringstream stream(line.substr(1));
    for (std::string cell; std::getline(stream, cell, '|');) {
        const std::size_t start = std::min(cell.find_first_not_of(' '), cell.size());
        const std::size_t end = cell.find_last_not_of(' ');
        cells.push_back(end == cell.npos ? "" : cell.substr(start, end + 1 - start));
    }
    return cells;
}

Readme read_readme() {
    Readme readme;
    readme.all = lines_of(content("README.md"));
    std::string heading;
    std::string header;
    bool in_block = false;
    for (const std::string& line : readme.all) {
        if (line.starts_with("```")) {
            in_block = !in_block;
            if (in_block) readme.blocks.push_back({heading, line.substr(3)});
            continue;
        }
        if (in_block) {
            readme.blocks.back().lines.push_back(line);
            continue;
        }
        readme.prose.push_back(line);
        if (line.starts_with("#")) heading = line.substr(line.find(' ') + 1);
        if (!line.starts_with("|")) header.clear();
        else if (header.empty()) header = line;
        else if (!line.starts_with("| ---")) readme.rows.push_back({header, cells_of(line)});
    }
    if (in_block) throw std::runtime_error("README.md ends inside a block");
    return readme;
}

// A table, by the beginning of its first line.
std::vector<Row> table(const Readme& readme, const std::string& header) {
    std::vector<Row> found;
    for (const Row& row : readme.rows) {
        if (row.header.starts_with(header)) found.push_back(row);
    }
    REQUIRE_MESSAGE(!found.empty(), "no table begins with " << header);
    return found;
}

const Block& block_with(const Readme& readme, const std::string& text) {
    for (const Block& block : readme.blocks) {
        if (joined(block.lines).find(text) != std::string::npos) return block;
    }
    throw std::runtime_error("no block has " + text);
}

std::vector<std::smatch> matches_of(const std::string& text, const std::regex& pattern) {
    return {std::sregex_iterator(text.begin(), text.end(), pattern), std::sregex_iterator()};
}

// All that stands in code style in a text.
std::vector<std::string> spans_of(const std::string& text) {
    static const std::regex span("`([^`]+)`");
    std::vector<std::string> spans;
    for (const std::smatch& match : matches_of(text, span)) spans.push_back(match[1]);
    return spans;
}

const std::vector<std::string> kProgram{"server.cpp",       "ws_frame.h",     "ws_frame.cpp",
                                        "ws_handshake.cpp", "ws_handshake.h", "sha1.cpp",
                                        "base64.cpp"};

// All of it, without the comments: what only they speak of is gone.
std::string program() {
    std::string text;
    for (const std::string& name : kProgram) {
        for (const std::string& line : lines_of(content(name))) {
            text += line.substr(0, line.find("//")) + '\n';
        }
    }
    return text;
}

bool has_word(const std::string& text, const std::string& word) {
    return std::regex_search(text, std::regex("\\b" + word + "\\b"));
}

// The definition of a class or struct, to the bracket in the first column that ends it.
std::string definition(const std::string& text, const std::string& name) {
    std::smatch match;
    const std::regex start_of("\\n(class|struct) " + name + " \\{");
    if (!std::regex_search(text, match, start_of)) return "";
    const auto start = static_cast<std::size_t>(match.position());
    return text.substr(start, text.find("\n};", start) - start);
}

// --- running commands ----------------------------------------------------------------------------

// Beside the program that is running: build/peer and others.
fs::path beside(const std::string& name) {
    return fs::read_symlink("/proc/self/exe").parent_path() / name;
}

std::string between(char quote, const std::string& text) {
    std::string quoted(1, quote);
    quoted += text;
    quoted += quote;
    return quoted;
}

std::string in_quotes_of_shell(const std::string& text) {
    return between('\'', replaced(text, "'", "'\\''"));
}

const std::function<void()> kInRoot = [] {
    if (chdir(root().c_str()) != 0) _exit(126);
    unsetenv("MAKEFLAGS");  // of the make that may have started this test
    unsetenv("MAKELEVEL");
};

bool is_installed(const std::string& program) {
    Process asked({"/bin/sh", "-c", "command -v " + program});
    return asked.wait() == 0;
}

// What is not on every computer. A command with one of these is left out without it, and said so.
std::optional<std::string> missing_program(const std::string& command) {
    for (const std::string program : {"curl", "nc", "openssl", "strace"}) {
        if (has_word(command, program) && !is_installed(program)) return program;
    }
    if (!has_word(command, "strace")) return {};
    Process tried({"/bin/sh", "-c", "exec strace -o /dev/null true"});
    if (tried.wait() == 0) return {};
    return "a system that allows strace";
}

struct Command {
    std::string text;
    std::string shown{};       // what it prints, as the README says
    bool interrupted = false;  // ^C stands behind that
};

std::vector<Command> commands_of(const Block& block) {
    std::vector<Command> commands;
    bool goes_on = false;
    for (const std::string& line : block.lines) {
        if (goes_on) commands.back().text += '\n' + line;
        else if (line.starts_with("$ ")) commands.push_back({line.substr(2)});
        else if (commands.empty()) throw std::runtime_error("output of no command: " + line);
        else if (line == "^C") commands.back().interrupted = true;
        else commands.back().shown += line + '\n';
        const bool of_command = goes_on || line.starts_with("$ ");
        goes_on = of_command && (line.ends_with('\\') || line.ends_with('|'));
    }
    return commands;
}

// "..." in a shown line stands for any text.
bool line_matches(std::string_view shown, std::string_view real) {
    const std::size_t gap = shown.find("...");
    if (gap == shown.npos) return shown == real;
    if (!real.starts_with(shown.substr(0, gap))) return false;
    const std::string_view rest = shown.substr(gap + 3);
    for (std::size_t at = gap; at <= real.size(); ++at) {
        if (line_matches(rest, real.substr(at))) return true;
    }
    return false;
}

// "..." alone stands for any lines, or none.
bool lines_match(const std::vector<std::string>& shown, std::size_t i,
                 const std::vector<std::string>& real, std::size_t j) {
    if (i == shown.size()) return j == real.size();
    if (shown[i] == "...") {
        return lines_match(shown, i + 1, real, j) ||
               (j < real.size() && lines_match(shown, i, real, j + 1));
    }
    if (j == real.size() || !line_matches(shown[i], real[j])) return false;
    return lines_match(shown, i + 1, real, j + 1);
}

// What differs from run to run is made the same: ports, the address to listen on, HTTP's CR.
std::string masked_output(const std::string& text) {
    static const std::regex port("(127\\.0\\.0\\.1|0\\.0\\.0\\.0):[0-9]+");
    return std::regex_replace(replaced(text, "\r", ""), port, "127.0.0.1:PORT");
}

bool matches(const std::string& shown, const std::string& real) {
    return lines_match(lines_of(masked_output(shown)), 0, lines_of(masked_output(real)), 0);
}

void check_output(const Command& command, const std::string& real) {
    CHECK_MESSAGE(matches(command.shown, real), command.text, "\n--- README:\n", command.shown,
                  "--- really:\n", real);
}

// Waits until the output is what is shown, at most so long as for anything else.
void await(const Command& command, const std::function<std::string()>& output) {
    try {
        wait_until(command.text.c_str(), [&] { return matches(command.shown, output()); });
    } catch (const std::exception&) {
        check_output(command, output());
    }
}

// A client's command, as it is run here.
std::string for_this_computer(const std::string& text, int port) {
    const std::string number = std::to_string(port);
    const std::string peer = in_quotes_of_shell(beside("peer")) + " 127.0.0.1 " + number + " ";
    const std::string tests = in_quotes_of_shell(fs::read_symlink("/proc/self/exe")) + " ";
    std::string command = replaced(text, "127.0.0.1:4000", "127.0.0.1:" + number);
    command = replaced(command, "127.0.0.1 4000", "127.0.0.1 " + number);
    command = replaced(command, "build/peer ", peer);
    return replaced(command, "build/run_tests ", tests);
}

bool is_in(const std::vector<Exempt>& list, const std::string& text) {
    return std::ranges::any_of(list, [&](const Exempt& one) { return one.what == text; });
}

// A ./server of the README, on a free port.
class Session {
public:
    explicit Session(const Command& command) : command_(command) {
        std::istringstream words(command.text);
        std::vector<std::string> options;
        for (std::string word; words >> word;) {
            if (word.starts_with("--")) options.push_back(word);
        }
        if (!command.text.starts_with("strace ")) {
            server_.emplace(options);
            port_ = server_->port();
            alone_ = server_->descriptors();
            return;
        }
        // -D: then the server itself is the child of this process, and ends with it.
        const std::string server = in_quotes_of_shell(fs::absolute(server_path()));
        std::string text = replaced(command.text, "strace ", "exec strace -D ");
        text = replaced(text, "./server", server) + " 127.0.0.1 0";
        traced_.emplace(std::vector<std::string>{"/bin/sh", "-c", text});
        port_ = listening_port(*traced_);
    }

    int port() const { return port_; }

    // Until those who were there have gone: the next one gets the lowest descriptor again.
    void wait_alone() const {
        if (!server_) return;
        wait_until("all have gone", [&] { return server_->descriptors() == alone_; });
    }

    // When its clients have gone: what it has printed, and nothing comes behind that but the words
    // of a traced server that is ended.
    void end() {
        await(command_, [&] { return output(); });
        Process& process = server_ ? *server_ : *traced_;
        process.signal(SIGINT);
        const int status = process.wait();
        if (server_) CHECK(status == 0);
        std::string all = output();
        const std::string woken = "select(): nothing\n";
        if (all.ends_with(woken)) all.resize(all.size() - woken.size());
        check_output(command_, all);
    }

private:
    // strace prints to the standard error.
    std::string output() { return server_ ? server_->out() : traced_->err(); }

    Command command_;
    std::optional<Server> server_;
    std::optional<Process> traced_;  // a server under strace
    int alone_ = 0;                  // descriptors of server_ without any client
    int port_ = 0;
};

void run_client(const Command& command, const std::optional<Session>& session) {
    if (session) session->wait_alone();
    std::string text = for_this_computer(command.text, session ? session->port() : 0);
    // To a terminal it would print line by line; and the signal is for the command itself.
    if (command.interrupted) text.insert(0, "exec stdbuf -oL ");
    Process process({"/bin/sh", "-c", text}, kInRoot);
    if (command.interrupted) {
        await(command, [&] { return process.out(); });
        process.signal(SIGINT);
        process.wait();
    } else {
        CHECK_MESSAGE(process.wait() == 0, command.text, ": ", process.err());
    }
    check_output(command, process.out());
}

// What the section "Start" tells: two windows, a message, and both are closed.
void open_two_windows(const Session& session) {
    Peer first(session.port());
    first.shake_hands();
    Peer second(session.port());
    second.shake_hands();
    first.send_frame(Opcode::text, "Ada: hello");
    CHECK(first.text() == "Ada: hello");
    CHECK(second.text() == "Ada: hello");
    for (Peer* window : {&first, &second}) {
        window->send_frame(Opcode::close, close_payload(kGoingAway));
        CHECK(window->closed_with() == kGoingAway);
    }
}

// --- looking up ----------------------------------------------------------------------------------

// What a constant is, in bytes or milliseconds or just a number.
class Constants {
public:
    Constants() {
        static const std::regex declared("constexpr [\\w:]+ (k\\w+) = ([^;{]+);");
        const std::string text = program();
        for (const std::smatch& match : matches_of(text, declared)) {
            values_[match[1]] = value(match[2]);
        }
    }

    std::optional<long> operator[](const std::string& name) const {
        const auto found = values_.find(name);
        if (found == values_.end()) return {};
        return found->second;
    }

private:
    // A product, or a number shifted to the left.
    long value(const std::string& expression) const {
        static const std::regex part("(<<|\\*)? *([\\w']+)");
        long result = 1;
        for (const std::smatch& match : matches_of(expression, part)) {
            const long factor = atom(match[2]);
            result = match[1] == "<<" ? result << factor : result * factor;
        }
        return result;
    }

    long atom(const std::string& text) const {
        if (values_.contains(text)) return values_.at(text);
        if (text.empty() || !std::isdigit(static_cast<unsigned char>(text[0]))) return 0;
        const long number = std::stol(replaced(text, "'", ""));
        return text.ends_with("s") && !text.ends_with("ms") ? 1000 * number : number;
    }

    std::map<std::string, long> values_;
};

long quantity(const std::string& number, const std::string& unit) {
    const std::map<std::string, long> units{
        {"s", 1000}, {"ms", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}};
    return std::stol(number) * units.at(unit);
}

std::vector<long> quantities_of(const std::string& text) {
    static const std::regex pattern("([0-9]+) (KiB|MiB|ms|s)\\b");
    std::vector<long> all;
    for (const std::smatch& match : matches_of(text, pattern)) {
        all.push_back(quantity(match[1], match[2]));
    }
    return all;
}

std::string usage_of_server() {
    Process process({server_path(), "--help"});
    CHECK(process.wait() == 0);
    return process.out();
}

bool make_knows(const std::string& command) {
    Process process({"/bin/sh", "-c", "exec " + replaced(command, "make", "make -n")}, kInRoot);
    return process.wait() == 0;
}

// A name of the program: of a class or struct, of a member, of a function or of a variable.
bool is_in_program(const std::string& span) {
    static const std::regex pattern("(class |struct )?(?:(\\w+)::)?(\\w+)(\\(\\))?");
    std::smatch match;
    if (!std::regex_match(span, match, pattern)) return false;
    const std::string text = program();
    const std::string name = match[3];
    if (match[1].matched) return !definition(text, name).empty();
    if (match[2].matched) return has_word(definition(text, match[2]), name);
    return has_word(text, name);
}

bool is_in_demo(const std::string& span) {
    const std::string demo = content("tests/demo.php");
    if (std::regex_match(span, std::regex("\\w+"))) return has_word(demo, span);
    return without_blanks(demo).find(without_blanks(span)) != std::string::npos;
}

bool is_file(const std::string& span) {
    if (span.find_first_of("./") == span.npos) return false;
    const bool built = span.starts_with("build/");
    return built ? fs::exists(beside(span.substr(6))) : fs::exists(root() / span);
}

bool is_known(const std::string& span) {
    static const std::string usage = usage_of_server();
    if (is_in(kNotLookedUp, span) || is_in(kNotRun, span)) return true;
    if (span.starts_with("make ")) return make_knows(span);
    if (span == "./server") return fs::exists(server_path());  // make check builds it elsewhere
    const std::string option = span.starts_with("./server ") ? span.substr(9) : span;
    if (option.starts_with("--")) return usage.find("\n  " + option + " ") != usage.npos;
    if (span.starts_with("php tests/demo.php ")) return true;  // its faults are a case of their own
    if (is_file(span) || is_in_program(span) || is_in_demo(span)) return true;
    const bool of_environment = std::regex_match(span, std::regex("[A-Z]+"));
    return of_environment && has_word(content("tests/browser.cpp"), span);
}

// GitHub's link to a heading.
std::string anchor(const std::string& heading) {
    std::string name = "#";
    for (const char c : heading) {
        if (std::isalnum(static_cast<unsigned char>(c))) {
            name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        }
        if (c == ' ' || c == '-') name += '-';
    }
    return name;
}

std::size_t columns(const std::string& line) {
    std::size_t count = 0;
    for (const char c : line) {
        const auto byte = static_cast<unsigned char>(c);
        if ((byte & 0xC0) != 0x80) ++count;
        if (byte >= 0xE3 && byte < 0xF0) ++count;  // Chinese characters are two columns wide
    }
    return count;
}

unsigned from_hex(const std::string& byte) {
    return static_cast<unsigned>(std::stoul(byte, nullptr, 16));
}

std::string bytes_of(const std::string& hex) {
    std::string bytes;
    std::istringstream stream(hex);
    for (std::string byte; stream >> byte;) bytes += static_cast<char>(from_hex(byte));
    return bytes;
}

}  // namespace

TEST_CASE("readme: each command prints what is shown") {
    const Readme readme = read_readme();
    std::optional<Session> session;
    bool left_out = false;  // the session that is open
    int run = 0;
    const auto end = [&] {
        if (session) session->end();
        session.reset();
        left_out = false;
    };
    const auto take = [&](const Command& command, bool serves) {
        if (serves) end();
        const bool talks = serves || std::regex_search(command.text, std::regex("peer|4000"));
        if (is_in(kNotRun, command.text) || (talks && left_out)) return;
        if (const auto program = missing_program(command.text)) {
            MESSAGE("skipped, there is no " << *program << ": " << command.text);
            left_out = left_out || talks;
            if (left_out) session.reset();
            return;
        }
        ++run;
        if (serves) session.emplace(command);
        else run_client(command, session);
    };
    for (const Block& block : readme.blocks) {
        if (block.language != "console") continue;
        const std::vector<Command> commands = commands_of(block);
        for (const Command& command : commands) {
            const bool last = &command == &commands.back();
            take(command, last && command.text.find("./server") != std::string::npos);
        }
        if (session && block.heading == "Start") open_two_windows(*session);
    }
    end();
    CHECK(run >= 7);
}

TEST_CASE("readme: what is not run, or not looked up, is there") {
    const Readme readme = read_readme();
    const std::vector<std::string> spans = spans_of(joined(readme.prose));
    std::set<std::string> there(spans.begin(), spans.end());
    for (const Block& block : readme.blocks) {
        const std::string fence = "```" + block.language;
        there.insert(fence);
        const bool is_known = block.language == "console" || block.language == "text";
        CHECK_MESSAGE((is_known || is_in(kNotRun, fence)), fence);
        if (block.language != "console") continue;
        for (const Command& command : commands_of(block)) there.insert(command.text);
    }
    for (const Exempt& one : kNotRun) CHECK_MESSAGE(there.contains(one.what), one.what);
    for (const Exempt& one : kNotLookedUp) CHECK_MESSAGE(there.contains(one.what), one.what);
}

TEST_CASE("readme: what stands in code style exists") {
    const Readme readme = read_readme();
    for (const std::string& line : readme.prose) {
        if (line.starts_with("|")) continue;
        for (const std::string& span : spans_of(line)) CHECK_MESSAGE(is_known(span), span);
    }
    for (const Row& row : readme.rows) {
        const std::string& header = row.header;  // these two have cases of their own
        if (header.starts_with("| console ") || header.starts_with("| the demo ")) continue;
        for (const std::string& cell : row.cells) {
            for (const std::string& span : spans_of(cell)) CHECK_MESSAGE(is_known(span), span);
        }
    }
}

TEST_CASE("readme: functions that it speaks of exist, in figures, too") {
    const std::string text = content("README.md");
    const std::string places = program() + content("tests/demo.php") + content("tests/harness.cpp");
    static const std::regex call("\\b(\\w+)\\(\\)");
    for (const std::smatch& match : matches_of(text, call)) {
        const std::string name = match[1];
        if (is_in(kNotLookedUp, "ws." + name + "()")) continue;
        CHECK_MESSAGE(has_word(places, name), name);
    }
}

TEST_CASE("readme: links lead somewhere") {
    const Readme readme = read_readme();
    std::set<std::string> anchors;
    for (const std::string& line : readme.prose) {
        if (line.starts_with("#")) anchors.insert(anchor(line.substr(line.find(' ') + 1)));
    }
    // No network here: these were opened by hand.
    const std::set<std::string> elsewhere{
        "https://www.cnblogs.com/hustskyking/p/websocket-with-php.html",
        "https://www.rfc-editor.org/rfc/rfc6455",
        "https://www.rfc-editor.org/rfc/rfc6455#section-5.2",
        "https://learn.microsoft.com/windows/wsl/networking",
    };
    static const std::regex link("\\]\\(([^)]+)\\)");
    std::set<std::string> seen;
    const std::string prose = joined(readme.prose);
    for (const std::smatch& match : matches_of(prose, link)) {
        const std::string target = match[1];
        seen.insert(target);
        const bool there = elsewhere.contains(target) || anchors.contains(target) ||
                           (!target.starts_with("#") && fs::exists(root() / target));
        CHECK_MESSAGE(there, target);
    }
    for (const std::string& target : elsewhere) CHECK_MESSAGE(seen.contains(target), target);
}

TEST_CASE("readme: limits are the constants of the program") {
    const Readme readme = read_readme();
    const Constants constants;
    REQUIRE(constants["kMaxMessageBytes"] == 16 << 20);
    REQUIRE(constants["kHandshakeTime"] == 10000);
    for (const Row& row : table(readme, "| what | constant ")) {
        REQUIRE(row.cells.size() >= 3);
        const std::vector<std::string> names = spans_of(row.cells[1]);
        const std::vector<long> bounds = quantities_of(row.cells[2]);
        if (names == std::vector<std::string>{"slots"}) {
            CHECK(row.cells[2].starts_with("FD_SETSIZE (" + std::to_string(FD_SETSIZE) + ")"));
            continue;
        }
        CHECK_MESSAGE(names.size() == bounds.size(), row.cells[0]);
        for (std::size_t i = 0; i < std::min(names.size(), bounds.size()); ++i) {
            CHECK_MESSAGE(constants[names[i]] == bounds[i], names[i]);
        }
    }
    const std::string text = content("README.md");
    static const std::regex with_value("\\b(k[A-Z]\\w+) ([0-9]+) (KiB|MiB|ms|s)\\b");
    for (const std::smatch& match : matches_of(text, with_value)) {
        CHECK_MESSAGE(constants[match[1]] == quantity(match[2], match[3]), match[1]);
    }
    static const std::regex name("\\bk[A-Z]\\w+");
    for (const std::smatch& match : matches_of(text, name)) {
        CHECK_MESSAGE(constants[match[0]].has_value(), match[0]);
    }
}

TEST_CASE("readme: no limit of the program is left out") {
    const std::string text = content("README.md");
    const std::string server = content("server.cpp");
    const std::size_t start = server.find("// --- limits");
    const std::string section = server.substr(start, server.find("static_assert") - start);
    static const std::regex limit(
        "constexpr [\\w:]+ (k\\w+(?:Time|After|Pause|Bytes|Pace|Round|Slots)) =");
    int limits = 0;
    for (const std::smatch& match : matches_of(section, limit)) {
        const std::string name = match[1];
        ++limits;
        CHECK_MESSAGE(has_word(text, name) != kNotTold.contains(name), name);
    }
    CHECK(limits >= 15);
}

TEST_CASE("readme: the demo's faults are the switches of demo.php, each with its case") {
    std::set<std::string> rows;
    const std::string cases = content("tests/test_demo.cpp");
    for (const Row& row : table(read_readme(), "| the demo ")) {
        REQUIRE(row.cells.size() == 3);
        const std::vector<std::string> switches = spans_of(row.cells[2]);
        REQUIRE(switches.size() == 1);
        rows.insert(switches[0]);
        for (const std::string& seen : spans_of(row.cells[1])) {
            CHECK_MESSAGE(replaced(cases, "\\\"", "\"").find(seen) != cases.npos, seen);
        }
    }
    std::set<std::string> faults;
    const std::string demo = content("tests/demo.php");
    const std::string list = demo.substr(demo.find("const FAULTS"), demo.find("];"));
    static const std::regex fault("\n    '([\\w-]+)' +=>");
    for (const std::smatch& match : matches_of(list, fault)) faults.insert(match[1]);
    std::set<std::string> named;
    static const std::regex named_case("TEST_CASE\\(\"demo: ([\\w-]+),");
    for (const std::smatch& match : matches_of(cases, named_case)) named.insert(match[1]);
    CHECK(rows == faults);
    CHECK(rows == named);
}

TEST_CASE("readme: what a browser says is what was seen in one") {
    const Readme readme = read_readme();
    const auto console = [](const std::string& text, int code) {
        if (!text.empty()) return between('`', text);
        return std::string(code == 0 ? "nothing; the page waits" : "nothing");
    };
    std::vector<std::vector<std::string>> expected;
    for (const ServerSymptom& one : server_symptoms::all()) {
        const std::string printed = one.printed.empty() ? "" : between('`', one.printed);
        const std::string code = std::to_string(one.code);
        expected.push_back({console(one.console, one.code), code, one.cause, printed});
    }
    for (const Symptom& one : symptoms()) {
        const std::string code = one.code == 0 ? "none" : std::to_string(one.code);
        expected.push_back({console(one.console, one.code), code, one.mistake});
    }
    const std::vector<Row> rows = table(readme, "| console ");
    CHECK(rows.size() == expected.size());
    for (std::size_t i = 0; i < std::min(rows.size(), expected.size()); ++i) {
        const std::string row = joined(rows[i].cells);
        CHECK(row == joined(expected[i]));
    }
}

TEST_CASE("readme: the frame by hand") {
    const Readme readme = read_readme();
    const std::string figure = joined(block_with(readme, "the masking key\n").lines);
    const std::string message = "李靖";
    static const std::regex line("\n((?:[0-9a-f]{2} )+) +the (?:masking key|payload, masked)");
    std::string behind_header;
    for (const std::smatch& match : matches_of(figure, line)) behind_header += bytes_of(match[1]);
    // Each byte and its bits; the last six are three rows of two columns.
    static const std::regex bits("([0-9a-f]{2}) = ([01]+(?: [01]+)*)");
    std::vector<unsigned> bytes;
    for (const std::smatch& match : matches_of(figure, bits)) {
        bytes.push_back(from_hex(match[1]));
        const std::string digits = without_blanks(match[2]);
        CHECK_MESSAGE(digits.size() == 8, match[0]);
        CHECK_MESSAGE(std::stoul(digits, nullptr, 2) == bytes.back(), match[0]);
    }
    REQUIRE(bytes.size() == 8);
    std::string frame;
    frame += static_cast<char>(bytes[0]);
    frame += static_cast<char>(bytes[1]);
    CHECK(escape(frame + behind_header) == escape(masked(Opcode::text, message)));
    REQUIRE(behind_header.size() == 10);
    for (std::size_t i = 0; i < 2; ++i) {
        CHECK(bytes[2 + i] == static_cast<unsigned char>(behind_header[4 + i]));
        CHECK(bytes[4 + i] == static_cast<unsigned char>(behind_header[i]));
        CHECK(bytes[6 + i] == static_cast<unsigned char>(message[i]));
        CHECK((bytes[2 + i] ^ bytes[4 + i]) == bytes[6 + i]);
    }
    static const std::regex start("is (([0-9a-f]{2} ?){3})\n");
    const std::vector<std::smatch> whole = matches_of(figure, start);
    REQUIRE(whole.size() == 1);
    CHECK(escape(bytes_of(whole[0][1])) == escape("李"));
}

TEST_CASE("readme: the timeline is a round of WS::run and the calls of strace") {
    const Readme readme = read_readme();
    const Block& figure = block_with(readme, "WS::run calls");
    const std::string server = content("server.cpp");
    const std::size_t start = server.find("void run() {");
    REQUIRE(start != server.npos);
    const std::string body = server.substr(start, server.find("\n    }\n", start) - start);
    std::size_t at = 0;
    for (std::size_t i = 1; i + 1 < figure.lines.size(); ++i) {
        const std::string name = figure.lines[i].substr(0, figure.lines[i].find(' '));
        const std::size_t called = body.find(name + "(", at);
        CHECK_MESSAGE(called != body.npos, name, " in this place of WS::run");
        at = std::min(called, body.size());
    }
    const auto calls_of = [](const std::string& text, const char* pattern) {
        std::multiset<std::string> calls;
        for (const std::smatch& match : matches_of(text, std::regex(pattern))) {
            calls.insert(match[1].str() + " " + match[2].str());
        }
        return calls;
    };
    const std::string calls = joined(block_with(readme, "strace -e trace=").lines);
    const auto drawn = calls_of(joined(figure.lines), "(recvfrom|sendto) ([0-9]+)");
    CHECK(drawn == calls_of(calls, "(recvfrom|sendto)\\(.* = ([0-9]+)"));
    CHECK(drawn.size() == 3);
}

TEST_CASE("readme: the figure of a client's life has the states of the program") {
    const std::string figure = joined(block_with(read_readme(), "open, no handshake").lines);
    const std::string server = content("server.cpp");
    static const std::regex declared("enum class State \\{([^}]+)\\}");
    std::smatch match;
    REQUIRE(std::regex_search(server, match, declared));
    const std::string states = match[1];
    static const std::regex word("\\w+");
    for (const std::smatch& state : matches_of(states, word)) {
        CHECK_MESSAGE(has_word(figure, state[0]), state[0]);
    }
}

TEST_CASE("readme: the positions in the figure of the log") {
    const std::string figure = joined(block_with(read_readme(), "the log    |").lines);
    static const std::regex numbers("position +([0-9 ]+)\n");
    static const std::regex messages("the log +\\| (\\S+) +\\| (\\S+) +\\| (\\S+) +\\|");
    std::smatch positions;
    std::smatch said;
    REQUIRE(std::regex_search(figure, positions, numbers));
    REQUIRE(std::regex_search(figure, said, messages));
    std::istringstream shown(positions[1]);
    std::size_t position = 0;
    for (std::size_t i = 0; i <= 3; ++i) {
        std::size_t number = 999;
        shown >> number;
        CHECK(number == position);
        if (i < 3) position += encode(Opcode::text, said[i + 1].str()).size();
    }
    CHECK(figure.find("(8a 00)") != figure.npos);
    CHECK(escape(encode(Opcode::pong, "")) == escape(bytes_of("8a 00")));
    for (const std::string name : {"position", "own", "own_at"}) {
        CHECK(has_word(figure, name));
        CHECK(has_word(definition(program(), "Client"), name));
    }
    for (const std::string name : {"oldest", "end"}) {
        CHECK(has_word(figure, name));
        CHECK(has_word(definition(program(), "Log"), name));
    }
}

TEST_CASE("readme: how many exercises and mistakes there are, and what the benchmark said") {
    const std::string text = replaced(joined(read_readme().prose), "\n", " ");
    const auto number_in = [&](const std::string& pattern) {
        std::smatch match;
        if (!std::regex_search(text, match, std::regex(pattern))) return std::string("none");
        return match[1].str();
    };
    int exercises = 0;
    for (const auto& entry : fs::directory_iterator(root() / "tests/exercises")) {
        if (entry.is_directory()) ++exercises;
    }
    int mistakes = 0;
    for (const auto& entry : fs::directory_iterator(root() / "tests/bugs")) {
        if (entry.path().extension() == ".patch") ++mistakes;
    }
    CHECK(number_in("1 of ([0-9]+) is solved") == std::to_string(exercises));
    CHECK(number_in("of the ([0-9]+) in \\[tests/bugs\\]") == std::to_string(mistakes));

    const std::string bench = content("tests/bench.md");
    static const std::regex row("\n\\|.*\\| +([0-9.]+) \\| +[0-9.]+-[0-9.]+ \\|");
    double least = 100;
    double most = 0;
    for (const std::smatch& match : matches_of(bench, row)) {
        least = std::min(least, std::stod(match[1]));
        most = std::max(most, std::stod(match[1]));
    }
    const auto tenths = [](double ratio) { return std::lround(10 * ratio); };
    CHECK(tenths(least) == tenths(std::atof(number_in("took ([0-9.]+) to").c_str())));
    CHECK(tenths(most) == tenths(std::atof(number_in("took [0-9.]+ to ([0-9.]+)").c_str())));
}

TEST_CASE("readme: short enough to be read, and no line too long") {
    const Readme readme = read_readme();
    std::size_t words = 0;
    for (const std::string& line : readme.prose) {
        static const std::regex seen_in_browser("\\| (`[^`]*`|nothing.*) \\| ([0-9]+|none) \\|.*");
        if (std::regex_match(line, seen_in_browser)) continue;
        std::istringstream stream(line);
        for (std::string word; stream >> word;) {
            const bool counts = std::ranges::any_of(word, [](char c) {
                return std::isalnum(static_cast<unsigned char>(c)) || (c & 0x80) != 0;
            });
            if (counts) ++words;
        }
    }
    INFO(words << " words");
    CHECK(words > 1000);
    CHECK(words <= kMostWords);
    for (const std::string& line : readme.all) {
        if (!line.starts_with("|")) CHECK_MESSAGE(columns(line) <= kMostColumns, line);
    }
}
