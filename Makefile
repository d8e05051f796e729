# make            ./server
# make test       the tests, in less than a minute; make test-slow: those that wait for deadlines
# make check      all of them under AddressSanitizer and UndefinedBehaviorSanitizer
# make simulation SECONDS=30 SEED=   random clients against a model, so long for each of four seeds
# make fuzz       FUZZ_SECONDS of coverage-guided fuzzing for each target (clang)
# make exercise N=4   says whether exercise 4 is solved; make exercises: proves all the checks
# make peer       build/peer, a scripted client; make first: build/first, the course's first chat server
# make bug N=3   builds the server with mistake 3 of tests/bugs and says what to try; make bugs: proves all
# make bench      server and bare floor under the same load, side by side
# make deps       installs what the tests need (Debian, Ubuntu)

CXXFLAGS = -std=c++20 -O3 -Wall -Wextra -Wpedantic -Wshadow -Wconversion
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_SECONDS = 30
SECONDS = 30
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

BUILD  = build
SERVER = server
ROOMS  = $(BUILD)/ws_handshake.o $(BUILD)/ws_frame.o $(BUILD)/sha1.o $(BUILD)/base64.o
TESTS  = $(patsubst %.cpp,$(BUILD)/%.o,tests/main.cpp tests/harness.cpp tests/browser.cpp $(sort $(wildcard tests/test_*.cpp)))

$(SERVER): $(BUILD)/server.o $(ROOMS)
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^

$(BUILD)/run_tests: $(TESTS) $(ROOMS)
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^

$(BUILD)/bench: $(BUILD)/tests/bench.o $(BUILD)/tests/harness.o $(ROOMS)
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^

$(BUILD)/peer: $(BUILD)/tests/peer.o $(BUILD)/tests/harness.o $(ROOMS)
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^

$(BUILD)/first: $(BUILD)/tests/first_server.o
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^

$(BUILD)/exercises/check: $(BUILD)/tests/exercises/check.o $(BUILD)/tests/main.o $(BUILD)/tests/harness.o $(ROOMS)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^

$(BUILD)/fuzz_%: tests/fuzz_%.cpp ws_handshake.cpp ws_frame.cpp sha1.cpp base64.cpp
	@mkdir -p $(@D)
	clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o $@ $^

$(BUILD)/faults.so: tests/faults.cpp $(BUILD)/flags
	$(CXX) $(CXXFLAGS) -fPIC -shared -o $@ $<

$(BUILD)/%.o: %.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -MMD -c -o $@ $<

# Changes only when the compiler or its flags do, and then everything is built anew.
$(BUILD)/flags: force
	@mkdir -p $(@D)
	@echo '$(CXX) $(CXXFLAGS) $(LDFLAGS)' | cmp -s - $@ || echo '$(CXX) $(CXXFLAGS) $(LDFLAGS)' > $@

# What they start besides the server.
test test-slow: $(BUILD)/peer $(BUILD)/first

# Three parts side by side, because each waits a lot. What a part prints is shown when it ends. (exec: no shell
# stands between make and the tests, so that who ends make ends them.)
test: $(SERVER) $(BUILD)/run_tests $(BUILD)/faults.so
	@$(MAKE) --no-print-directory --jobs=3 --keep-going --output-sync test-browser test-limits test-others

test-browser:
	SERVER='$(SERVER)' exec $(BUILD)/run_tests --test-suite='browser'

test-limits:
	SERVER='$(SERVER)' exec $(BUILD)/run_tests --test-suite='limits*'

test-others:
	SERVER='$(SERVER)' FAULTS='$(BUILD)/faults.so' exec $(BUILD)/run_tests --test-suite-exclude='browser,limits*,slow'

test-slow: $(SERVER) $(BUILD)/run_tests
	SERVER='$(SERVER)' $(BUILD)/run_tests --test-suite=slow

check:
	$(MAKE) BUILD=build/check SERVER=build/check/server LDFLAGS='$(SANITIZE)' \
	  CXXFLAGS='-std=c++20 -O1 -g -Wall -Wextra -D_GLIBCXX_DEBUG $(SANITIZE)' test

simulation: $(SERVER) $(BUILD)/run_tests $(BUILD)/faults.so
	SERVER='$(SERVER)' FAULTS='$(BUILD)/faults.so' SECONDS='$(SECONDS)' SEED='$(SEED)' \
	  $(BUILD)/run_tests --test-suite=simulation

fuzz: $(BUILD)/fuzz_handshake $(BUILD)/fuzz_frame
	$(BUILD)/fuzz_handshake -max_total_time=$(FUZZ_SECONDS) -max_len=16384
	$(BUILD)/fuzz_frame -max_total_time=$(FUZZ_SECONDS) -max_len=4096

bench: $(SERVER) $(BUILD)/bench
	SERVER='$(SERVER)' $(BUILD)/bench

peer: $(BUILD)/peer
first: $(BUILD)/first
.PHONY: peer first

exercise: $(SERVER) $(BUILD)/peer $(BUILD)/exercises/check
	@tests/exercises/run.sh $(N)

exercises: $(SERVER) $(BUILD)/peer $(BUILD)/exercises/check
	@tests/exercises/run.sh all

bug: $(BUILD)/peer
	@CXX='$(CXX)' LDFLAGS='$(LDFLAGS)' tests/bugs/bug.sh show $(N)

bugs:
	@CXX='$(CXX)' LDFLAGS='$(LDFLAGS)' tests/bugs/bug.sh prove $(N)

.PHONY: bug bugs

deps:
	@command -v apt-get >/dev/null || { echo 'install doctest (its header as doctest/doctest.h) and Chromium'; exit 1; }
	$(SUDO) apt-get update
	$(SUDO) apt-get install -y --no-install-recommends doctest-dev chromium php-cli patch strace curl netcat-openbsd openssl

clean:
	rm -rf server build

force:
.PHONY: test test-browser test-limits test-others test-slow check simulation fuzz bench exercise exercises deps clean force
-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*.d $(BUILD)/tests/exercises/*.d)
