// A library to be preloaded (LD_PRELOAD) into ./server: it lets system calls and allocations fail at random, as they
// may, but seldom do. FAULTS_SEED in the environment decides which. For Linux with glibc.
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" void* __libc_malloc(std::size_t size);  // what malloc() is when nobody has put another in front of it

namespace {

bool armed = false;  // from the first accept() on: a server that cannot start is another test
std::uint64_t state = 0;

// xorshift64. No memory, no locale, no lock.
std::uint64_t draw() {
    if (state == 0) {
        const char* seed = getenv("FAULTS_SEED");
        state = 0x9E3779B97F4A7C15 ^ (seed == nullptr ? 1 : strtoull(seed, nullptr, 10));
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

bool one_in(std::uint64_t n) { return draw() % n == 0; }

int fails(int error) {
    errno = error;
    return -1;
}

std::size_t some_of(std::size_t size) { return one_in(4) ? 1 + draw() % std::max<std::size_t>(size, 1) : size; }

template <class Function>
Function* real(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" ssize_t send(int fd, const void* bytes, std::size_t size, int flags) {
    static const auto call = real<ssize_t(int, const void*, std::size_t, int)>("send");
    if (one_in(20)) return fails(EINTR);
    if (one_in(20)) return fails(EAGAIN);
    if (one_in(50)) return fails(ENOBUFS);
    return call(fd, bytes, std::min(size, some_of(size)), flags);
}

extern "C" ssize_t recv(int fd, void* bytes, std::size_t size, int flags) {
    static const auto call = real<ssize_t(int, void*, std::size_t, int)>("recv");
    if (one_in(20)) return fails(EINTR);
    if (one_in(20)) return fails(EAGAIN);
    return call(fd, bytes, std::min(size, some_of(size)), flags);
}

extern "C" int accept(int fd, sockaddr* address, socklen_t* size) {
    static const auto call = real<int(int, sockaddr*, socklen_t*)>("accept");
    armed = true;
    if (one_in(10)) return fails(ECONNABORTED);
    if (one_in(20)) return fails(EMFILE);
    return call(fd, address, size);
}

extern "C" void* malloc(std::size_t size) {
    if (armed && size > 64 && one_in(2000)) {
        errno = ENOMEM;
        return nullptr;
    }
    return __libc_malloc(size);
}
