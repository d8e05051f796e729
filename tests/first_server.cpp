// A first chat server: the loop of the PHP demo in C++, with just enough mended to chat. There is
// no WebSocket in it: talk to it with `nc 127.0.0.1 4000`, in two terminals. `make first` builds it.
#include <arpa/inet.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>

int main(int argc, char* argv[]) {
    const int port = argc > 1 ? std::atoi(argv[1]) : 4000;
    const int master = socket(AF_INET, SOCK_STREAM, 0);
    const int yes = 1;
    setsockopt(master, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool bound = bind(master, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    if (!bound || listen(master, SOMAXCONN) != 0) {
        std::perror("cannot listen");
        return 1;
    }
    socklen_t size = sizeof address;
    getsockname(master, reinterpret_cast<sockaddr*>(&address), &size);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);  // each line is seen at once, in a pipe, too
    std::printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));

    std::set<int> sockets{master};
    while (true) {
        fd_set readable;  // select() overwrites it, so it is filled anew each time
        FD_ZERO(&readable);
        for (const int fd : sockets) FD_SET(fd, &readable);
        select(*sockets.rbegin() + 1, &readable, nullptr, nullptr, nullptr);

        const std::set<int> before = sockets;  // the loop changes `sockets`, and walks over a copy
        for (const int fd : before) {
            if (!FD_ISSET(fd, &readable)) continue;
            if (fd == master) {
                const int client = accept(master, nullptr, nullptr);
                if (client < 0) continue;
                sockets.insert(client);
                std::printf("connect client %d\n", client);
                continue;
            }
            char buffer[2048];
            const ssize_t bytes = recv(fd, buffer, sizeof buffer, 0);
            if (bytes <= 0) {  // this client leaves, the others stay
                sockets.erase(fd);
                close(fd);
                std::printf("disconnect client %d\n", fd);
                continue;
            }
            for (const int other : sockets) {
                if (other != master) send(other, buffer, static_cast<std::size_t>(bytes), 0);
            }
        }
    }
}

// Six ways to break it, and on the right the functions of server.cpp that prevent it:
// 1. Open web/index.html: it gets its own request back.           WS::do_handshake
// 2. Say half a line: printf 'I say' | nc 127.0.0.1 4000. recv()  WS::receive, Decoder::feed
//    knows no lines: what another says comes right after it.
// 3. Stop one reader with Ctrl-Z, say megabytes in another: the   WS::flush, Client::position
//    send() to the first waits, and the whole server with it.
// 4. End that stopped reader (kill -9) while two others speak: a   main: signal(SIGPIPE, SIG_IGN)
//    send() to it is answered by SIGPIPE, which ends the server.
// 5. Start it under `ulimit -n 8`: when no descriptor is left,    WS::connect, accept_again
//    accept() fails at once, and select() says "ready" for ever.
// 6. After `ulimit -n 4096` connect 1100 clients: FD_SET() past   WS::welcome
//    1024 writes into memory that is not the set's. (This is not
//    tested: anything may happen.)
