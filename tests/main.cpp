// The test program. `make test` leaves out the suite "slow", which waits for the server's deadlines.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <signal.h>

#include "harness.h"

int main(int argc, char* argv[]) {
    signal(SIGPIPE, SIG_IGN);  // writing to a server that has gone is for a test to notice, not the end of them all
    raise_descriptor_limit();  // some tests hold more than a thousand connections
    return doctest::Context(argc, argv).run();
}
